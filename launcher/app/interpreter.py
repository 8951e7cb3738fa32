"""Find the app's Python, and check that it can be one.

The file is read, never run: this check comes before anything is stopped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..config.settings import Settings
from ..config.sources import Setting
from ..errors import REPEAT, LauncherError, quoted
from ..system.programs import EXECUTABLE_MAGIC, is_python_program

ANOTHER = f"start_app.py --python PATH{REPEAT}"
"""The command that starts the app with another Python."""
OWN_INTERPRETER = "the launcher's own: the app has no .venv, and APP_PYTHON is unset"
_PYTHON_NAME = r"(?i)(python|pypy|graalpy)[0-9.]*"


def find_interpreter(settings: Settings, environ: Mapping[str, str], running: str) -> Setting:
    """Return the app's interpreter by the first rule that names one; `running` is the launcher's own.

    Raises LauncherError (78) if an environment of the app's has none: another project's Python must not replace it.
    """
    if settings.python:
        return settings.python
    for name in (".venv", "venv"):
        _refuse_broken(settings.app_dir / name)
    environment = next(_environments(settings.app_dir, environ), None)
    return environment or Setting(running, OWN_INTERPRETER, "default")


def _environments(app_dir: Path, environ: Mapping[str, str]) -> Iterator[Setting]:
    # Even a dangling link counts: a broken environment must be reported, not skipped.
    for folder, origin in (
        (app_dir / ".venv", "the app's .venv"),
        (app_dir / "venv", "the app's venv"),
        (environ.get("VIRTUAL_ENV", ""), "VIRTUAL_ENV"),
        (environ.get("CONDA_PREFIX", ""), "CONDA_PREFIX"),
    ):
        path = os.path.join(app_dir, folder, "bin", "python")
        if str(folder).strip() and os.path.lexists(path):
            yield Setting(path, origin, "default" if origin.startswith("the app's") else "environment")


def _refuse_broken(folder: Path) -> None:
    """Refuse an environment without `bin/python`: made on Windows, partly moved, or partly deleted."""
    if os.path.lexists(folder / "bin" / "python"):
        return
    if not os.path.isdir(folder):
        if os.path.islink(folder) and not os.path.exists(folder):
            raise LauncherError(f"{folder} is a dangling link to {os.readlink(folder)}", ANOTHER)
        return
    try:
        entries = set(os.listdir(folder))
    except OSError as error:
        raise LauncherError(f"cannot read {folder}: {error.strerror}", f"ls -ld {quoted(folder)}") from error
    # A folder `venv` can be a package of the app's; `.venv` is always an environment.
    if not entries & {"pyvenv.cfg", "bin", "Scripts", "Lib"} and not (entries and folder.name == ".venv"):
        return
    problem = "it was made on Windows" if "Scripts" in entries else "parts of it are missing"
    raise LauncherError(
        f"{folder} has no bin/python: {problem}",
        f"python3 -m venv --clear {quoted(folder)}, then install the app into it; or {ANOTHER}",
    )


def checked(setting: Setting, running: str) -> str:
    """Return the absolute path of an interpreter after checking its file.

    Raises LauncherError (78, or 2 for a flag) with the reason if it cannot be one.
    """
    path = setting.value
    if os.sep not in path:
        import shutil

        program = shutil.which(path)
        path = os.path.abspath(program) if program else path
    if os.path.isdir(path):
        inside = os.path.join(path, "python")
        path = inside if os.path.lexists(inside) else os.path.join(path, "bin", "python")
    reason = _why_no_interpreter(path, running)
    if reason:
        raise LauncherError(
            f"{path} is not a Python interpreter: {reason} (APP_PYTHON, {setting.origin})",
            f"{ANOTHER}, or APP_PYTHON=PATH in .env, with a python that this user may run",
            setting.bad,
        )
    return path


def _why_no_interpreter(path: str, running: str) -> str | None:
    try:
        os.stat(path)
    except PermissionError:
        return f"it leads to {os.path.realpath(path)}, which this user cannot access"
    except OSError:
        dangling = os.path.islink(path)
        return f"a dangling link to {os.readlink(path)}" if dangling else "no such file"
    if not os.path.isfile(path):
        return "not a regular file"
    if not os.access(path, os.X_OK):
        return "not executable"
    try:
        with open(path, "rb") as file:
            head = file.read(256)
            if head.startswith(b"#!"):
                return _why_no_wrapper(path, head)
            if not head.startswith(EXECUTABLE_MAGIC):
                return "neither a program nor a script"
            if head.startswith(b"\x7fELF") and _architecture(head) != _own_architecture(running):
                return "built for another kind of processor"
        return None if is_python_program(path) else "another program"
    except PermissionError:
        return None  # executable without being readable is legal; only its name is known
    except OSError as error:
        return str(error.strerror)


def _why_no_wrapper(path: str, head: bytes) -> str | None:
    # pyenv's shims and some site wrappers are scripts that exec the real interpreter.
    words = head[2:].split(b"\n", 1)[0].split()
    if not words or not os.path.exists(os.fsdecode(words[0])):
        return "a script whose own interpreter is missing"
    return None if re.fullmatch(_PYTHON_NAME, os.path.basename(os.path.realpath(path))) else "a script of another name"


def _architecture(head: bytes) -> bytes:
    return head[4:6] + head[18:20]  # ELF class, byte order and machine: elf(5)


def _own_architecture(running: str) -> bytes:
    with open(running, "rb") as file:
        return _architecture(file.read(20))
