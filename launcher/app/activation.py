"""Apply the additional effects of activating an environment: conda's variables, and scripts of packages.

A shell runs only if there is such a script: conda's `etc/conda/activate.d/*.sh`, the same folder of a venv, and lines
that a person has added to `bin/activate`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence

from ..errors import ExitStatus, LauncherError, quoted
from ..system.files import names_in, read_regular

SECONDS = 30.0
_FOLDERS = ("etc/conda/activate.d", "etc/activate.d", "bin/activate.d")
_MOST_BYTES = 1 << 20
# The lines that `python -m venv`, virtualenv and uv write into `bin/activate`.
_USUAL = frozenset(
    "VIRTUAL_ENV VIRTUAL_ENV_PROMPT PATH PS1 PYTHONHOME PKG_CONFIG_PATH TCL_LIBRARY TK_LIBRARY SCRIPT_PATH".split()
)
_EXPORT = r"(?m)^[ \t]*export[ \t]+([A-Za-z_]\w*)"
# Variables of the shell that runs the scripts, and those that a launch sets itself.
_OWN = frozenset("_ SHLVL PWD OLDPWD PS1 PS2 IFS BASH_ENV ENV PROMPT_COMMAND VIRTUAL_ENV CONDA_PREFIX".split())


def scripts(prefix: str) -> tuple[str, ...]:
    """Return the scripts that activating an environment runs; most environments have none."""
    folders = [os.path.join(prefix, folder) for folder in _FOLDERS]
    paths = [f"{folder}/{name}" for folder in folders for name in sorted(names_in(folder)) if name.endswith(".sh")]
    activate = os.path.join(prefix, "bin", "activate")
    if any(not name.startswith("_OLD_") and name not in _USUAL for name in re.findall(_EXPORT, _read(activate))):
        paths.append(activate)
    return tuple(paths)


def variables(prefix: str) -> Mapping[str, str]:
    """Return the variables that `conda env config vars set` has written for an environment."""
    try:
        document = json.loads(_read(os.path.join(prefix, "conda-meta", "state")))
        given = document["env_vars"]
        return {name: value for name, value in given.items() if isinstance(value, str) and value != "***unset***"}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def activated(
    environment: Mapping[str, str], prefix: str, settled: Collection[str], seconds: float = SECONDS
) -> Mapping[str, str]:
    """Return these variables with the additions and changes of an environment's own variables and scripts.

    Variables in `settled`, which come from `.env`, change only if a script extends them. Raises LauncherError (75) if
    the scripts fail or do not end in time.
    """
    added = {name: value for name, value in variables(prefix).items() if name not in _OWN}
    before = {**environment, **{name: value for name, value in added.items() if name not in settled}}
    paths = scripts(prefix)
    after = _run(paths, before, prefix, seconds) if paths else before
    changed = {name: value for name, value in after.items() if name not in _OWN and before.get(name) != value}
    kept = [name for name in changed if name in settled and before.get(name, "") not in changed[name]]
    return {**before, **{name: value for name, value in changed.items() if name not in kept}}


def _run(paths: Sequence[str], environment: Mapping[str, str], prefix: str, seconds: float) -> Mapping[str, str]:
    # Most environments have no such scripts, and a launch is short.
    import shutil

    from ..system.child import output_within

    shell, env = shutil.which("bash") or shutil.which("sh"), shutil.which("env")
    # The output of a script is discarded, and a failed script does not stop the others, as with conda.
    code = (
        f'for script in {" ".join(map(quoted, paths))}; do . "$script"; done >/dev/null 2>&1 </dev/null; exec {env} -0'
    )
    printed = output_within((shell or "sh", "-c", code), seconds, environment=environment, folder=prefix)
    if printed is None:
        raise LauncherError(
            f"the scripts that activate {prefix} fail, or are not done after {seconds:g} s: {paths[0]}",
            f"time bash -c {quoted(f'. {quoted(paths[0])}')}",
            ExitStatus.RETRY,
        )
    pairs = (os.fsdecode(word).partition("=") for word in printed.split(b"\0") if b"=" in word)
    return {name: value for name, _, value in pairs if not name.startswith("BASH_FUNC")}


def _read(path: str) -> str:
    try:
        return read_regular(path, _MOST_BYTES, follow=True).decode(errors="replace")
    except OSError:
        return ""
