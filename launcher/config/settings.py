"""Read and check everything that a command needs to know about the app, before anything is stopped or deleted.

It is longer than other modules because every launch imports it, and each further module would make a launch slower.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import ExitStatus
from ..ui.text import whole_number
from . import entries, env_file, validation
from . import form as forms
from .env_file import Stamp
from .form import Form
from .paths import HUB_ENTRY, MOVE, absolute
from .sources import Level, Setting, Sources

DEFAULT_SCRIPT = "webui.py"
DEFAULT_PORT = "7860"  # Gradio's own
LAUNCHER_NAMES = (
    "APP_DIR",
    "APP_SCRIPT",
    "APP_PYTHON",
    "APP_ARGS",
    "APP_PORT_FLAG",
    "APP_HOST_FLAG",
    *forms.NAMES,
    "GRADIO_SERVER_PORT",
    "GRADIO_SERVER_NAME",
    "APP_LOCKED",
    "APP_MODEL_DIRS",
    "APP_UNPINNED",
    "APP_NOTIFY_URL",
)
ENDPOINT_NAMES = ("HF_ENDPOINT", "HF_OFFICIAL_ENDPOINT")
HUB_CACHE_NAMES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME")
# Variables that contain a folder or a file: a relative one is made absolute, because the app has another current
# folder.
PATH_NAMES = (
    *HUB_CACHE_NAMES,
    "HF_ASSETS_CACHE",
    "HF_DATASETS_CACHE",
    "HF_MODULES_CACHE",
    "HF_TOKEN_PATH",
    "HF_XET_CACHE",
    "TRANSFORMERS_CACHE",
    "PYTORCH_TRANSFORMERS_CACHE",
    "PYTORCH_PRETRAINED_BERT_CACHE",
    "TORCH_HOME",
    "TRITON_CACHE_DIR",
    "MODELSCOPE_CACHE",
    "XDG_CACHE_HOME",
    "GRADIO_TEMP_DIR",
    "GRADIO_EXAMPLES_CACHE",
)
CHECKED_NAMES = (*LAUNCHER_NAMES, *PATH_NAMES, *ENDPOINT_NAMES)
# The app's instance is found by these.
INSTANCE_NAMES = LAUNCHER_NAMES[: LAUNCHER_NAMES.index("GRADIO_SERVER_PORT") + 1]
# Lists of folders. A line of `.env` that extends one (`PATH=/opt/tools:$PATH`) counts, although the environment has it
# too; for PATH, which every environment has, any line counts.
_LIST_NAMES = ("PATH", "LD_LIBRARY_PATH", "LIBRARY_PATH", "CPATH", "PYTHONPATH", "PKG_CONFIG_PATH")
_QUOTED_PREFIXES = ("HF_", "HUGGING", "APP_", "GRADIO_", "MODELSCOPE_", "TRANSFORMERS_", "CUDA_", "TORCH_")
_FOLDER_NAMES = (*HUB_CACHE_NAMES, "XDG_CACHE_HOME")


class Settings(NamedTuple):
    """Hold everything a command needs to know about the app, checked and with origins."""

    app_dir: Path
    script: Path
    entry: tuple[str, ...]
    port: int
    host: str | None
    form: Form
    app_args: tuple[str, ...]
    python: Setting | None
    locked: bool
    variables: Mapping[str, Setting]
    origins: Mapping[str, Setting]
    warnings: tuple[str, ...]
    notify_url: Setting | None = None
    sudo_user: str | None = None
    env_file: Path | None = None
    env_stamp: Stamp | None = None
    other_entries: tuple[Path, ...] = ()
    foreign: int | None = None
    """The owner of another user's `.env`."""
    model_dirs: tuple[Path, ...] = ()
    """Folders with the app's weights besides the usual ones."""
    unpinned: tuple[str, ...] = ()
    """Globs of weights that `models.lock` need not pin."""

    @property
    def port_flag(self) -> str | None:
        """Return the app's option for its port, None without one."""
        return self.form.port_flags[0] if self.form.port_flags else None

    @property
    def host_flag(self) -> str | None:
        """Return the app's option for its address, None without one."""
        return self.form.host_flags[0] if self.form.host_flags else None


class Call(NamedTuple):
    """Hold the launcher's call: the current folder, `--env-file`, and the arguments after `--`.

    `folders` contain `start_app.py`: the folder of the called one, and the one its links lead to. With `no_file`, no
    `.env` is read; the names in `ignored` do not count in it. `text` is the content of `env_file` before it is written.
    """

    cwd: Path
    folders: tuple[Path, ...] = ()
    env_file: str | None = None
    app_args: tuple[str, ...] = ()
    no_file: bool = False
    ignored: frozenset[str] = frozenset()
    text: str | None = None


def load(flags: Mapping[str, str], environ: Mapping[str, str], call: Call, *, needs_script: bool = True) -> Settings:
    """Resolve and check every setting.

    Without `needs_script` the app's script may be missing. Raises LauncherError for the first invalid value.
    """
    cwd = call.cwd
    home = _home(flags, environ, call)
    file = _read_env_file(home, environ, call)
    if file:
        checked = [name for name in CHECKED_NAMES if name not in call.ignored]
        validation.refuse_broken_lines(file.path, {**file.unparsable, **file.odd}, checked)
    sources = Sources(flags, environ, file)
    for name in CHECKED_NAMES:
        setting = sources.find(name)
        if setting:
            validation.check_spelling(name, setting)
    file_folder = file.path.parent if file else home

    app_dir_setting = sources.find("APP_DIR") or Setting(str(home), _home_origin(home, call.folders), "default")
    app_dir = _anchored(sources, app_dir_setting, file_folder, cwd)
    validation.check_app_dir(app_dir, app_dir_setting)
    form = forms.read(sources)
    script_setting = form.script or sources.find("APP_SCRIPT", DEFAULT_SCRIPT)
    port_setting = _port(sources, form)
    assert script_setting and port_setting
    host = sources.find("GRADIO_SERVER_NAME")
    args = sources.find("APP_ARGS")
    python = sources.find("APP_PYTHON")
    locked = sources.find("APP_LOCKED")
    if python:
        python = Setting(_python_path(sources, python, app_dir, file_folder, cwd), python.origin, python.level)

    first, *others = _entries(sources, script_setting, app_dir, _prefixes(app_dir, python, environ))
    if needs_script:
        for entry in (first, *others):
            named = Setting(str(entry.path) if entry.words[0] == "-m" else entry.words[0], *script_setting[1:])
            validation.script(app_dir, named, call.folders)
    port = validation.port(port_setting)
    split_args = validation.split(args)
    validation.refuse_other_port(port, form.port_flags, args, split_args, call.app_args)
    if host:
        validation.check_host(host)
    variables = _variables(sources, app_dir, file_folder)
    for name in ENDPOINT_NAMES:
        if name in variables:
            validation.check_endpoint(name, variables[name])
    fallback = sources.find("HF_ENDPOINT_FALLBACK")
    if fallback:
        validation.check_endpoints("HF_ENDPOINT_FALLBACK", fallback)
    model_dirs, unpinned = sources.find("APP_MODEL_DIRS"), sources.find("APP_UNPINNED")
    notify_url = sources.find("APP_NOTIFY_URL")
    if notify_url:
        validation.check_notify_url(notify_url)
    for name in PATH_NAMES:
        if name in variables:
            validation.refuse_unset_variable(name, variables[name])
    for name in _FOLDER_NAMES:
        if name in variables:
            validation.check_folder(name, variables[name])
    return Settings(
        app_dir=app_dir,
        script=first.path,
        entry=first.words,
        port=port,
        host=host.value.strip("[]") if host else None,
        form=form,
        app_args=(*split_args, *call.app_args),
        python=python,
        locked=locked is not None and validation.yes_or_no("APP_LOCKED", locked),
        variables=variables,
        origins=_origins(
            APP_DIR=Setting(str(app_dir), app_dir_setting.origin, app_dir_setting.level),
            APP_SCRIPT=script_setting,
            GRADIO_SERVER_PORT=port_setting,
            GRADIO_SERVER_NAME=host,
            APP_PORT_FLAG=sources.find("APP_PORT_FLAG", " ".join(form.port_flags) or "none"),
            APP_HOST_FLAG=sources.find("APP_HOST_FLAG", " ".join(form.host_flags) or "none"),
            **{name: sources.find(name) for name in forms.NAMES},
            APP_ARGS=args,
            APP_PYTHON=python,
            APP_LOCKED=locked,
            APP_MODEL_DIRS=model_dirs,
            APP_UNPINNED=unpinned,
            APP_NOTIFY_URL=notify_url,
        ),
        warnings=(*(_warnings(file, environ) if file else ()), *_quoted_values(environ)),
        notify_url=notify_url,
        # Anyone can set the variable; root's comes from sudo, or from root.
        sudo_user=(environ.get("SUDO_USER", "").strip() or None) if os.geteuid() == 0 else None,
        env_file=file.path if file else None,
        env_stamp=file.stamp if file else env_file.stamp(app_dir / ".env"),
        foreign=file.owner if file else None,
        other_entries=tuple(entry.path for entry in others),
        model_dirs=tuple(
            _anchored(sources, model_dirs._replace(value=folder), file_folder, app_dir)
            for folder in validation.listed(model_dirs, "APP_MODEL_DIRS")
            if model_dirs
        ),
        unpinned=validation.listed(unpinned, "APP_UNPINNED"),
    )


def _port(sources: Sources, form: Form) -> Setting | None:
    """Return the port: from Gradio's own variable, or else from the app's."""
    named = (sources.find(name) for name in ("GRADIO_SERVER_PORT", *form.port_variables))
    return next((setting for setting in named if setting), None) or sources.find("GRADIO_SERVER_PORT", DEFAULT_PORT)


def _entries(
    sources: Sources, script: Setting, app_dir: Path, prefixes: tuple[str, ...]
) -> tuple[entries.AppEntry, ...]:
    """Return the entries of the app: a script in a command has precedence over `APP_SCRIPT`."""
    named = sources.find("APP_SCRIPT")
    first = entries.read(script, app_dir, prefixes)
    return (*first, *entries.read(named, app_dir, prefixes)) if named and named != script else first


def _prefixes(app_dir: Path, python: Setting | None, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the environments that the app may run in, in order of preference."""
    named = python.value if python and os.sep in python.value else ""
    chosen = named if os.path.isdir(named) else os.path.dirname(os.path.dirname(named))
    active = (environ.get("VIRTUAL_ENV", ""), environ.get("CONDA_PREFIX", ""))
    return tuple(prefix for prefix in (chosen, str(app_dir / ".venv"), str(app_dir / "venv"), *active) if prefix)


def app_environment(settings: Settings, environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return the variables that the app with these settings uses: blanks are unset, `.env` included."""
    environment = {name: value for name, value in environ.items() if value.strip()}
    environment.update((name, setting.value) for name, setting in settings.variables.items())
    return {name: value for name, value in environment.items() if name not in settings.form.unset}


# Variables that another user's `.env` may set for the launcher: which hub to ask, and how long.
_FOREIGN_NAMES = frozenset(
    (
        "HF_ENDPOINT",
        "HF_ENDPOINT_FALLBACK",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_HUB_DISABLE_XET",
        "HF_HUB_DOWNLOAD_TIMEOUT",
        "HF_HUB_ETAG_TIMEOUT",
    )
)


def own_environment(settings: Settings, environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return the environment of the launcher's own children.

    It is the app's, but another user's `.env` decides neither what code runs in them (PYTHONPATH, LD_PRELOAD) nor which
    token is sent to which hub.
    """
    environment = {name: value for name, value in environ.items() if value.strip()}
    for name, setting in settings.variables.items():
        if setting.level != "foreign" or name in _FOREIGN_NAMES:
            environment[name] = setting.value
    return environment


def _quoted_values(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each variable with quotes around its value, which container engines pass unchanged."""
    for name, value in environ.items():
        if name.startswith(_QUOTED_PREFIXES) and name not in CHECKED_NAMES and validation.is_quoted(value):
            yield f"{name} (environment) has quotes around its value, and the app reads them as part of the value"


def _warnings(file: env_file.EnvFile, environ: Mapping[str, str]) -> tuple[str, ...]:
    broken = [f"{file.path} line {line} cannot be parsed and is ignored" for line in file.unparsable]
    broken += [f"{file.path} line {line} is not NAME=VALUE" for line in file.odd]
    for name in _LIST_NAMES:
        if name in file.values and name in environ and not _extended(name, file.values[name], environ):
            line = file.lines[name]
            broken.append(
                f"{file.path} line {line}: {name} has no effect because the environment has it; "
                f"{name}=…:${name} adds to it"
            )
    for name in (name for name in file.values if name not in CHECKED_NAMES):
        meant = [known for known in CHECKED_NAMES if _is_misspelled(name, known)]
        if meant:
            broken.append(_not_ours(file, name, meant[0]))
    strange = [name for name in file.values if name.startswith("APP_") and name not in LAUNCHER_NAMES]
    if not strange:
        return tuple(broken)
    import difflib

    for name in strange:
        meant = difflib.get_close_matches(name, LAUNCHER_NAMES, 1, 0.8)
        if meant:
            broken.append(_not_ours(file, name, meant[0]))
    return tuple(dict.fromkeys(broken))


def _not_ours(file: env_file.EnvFile, name: str, meant: str) -> str:
    return f"{file.path} line {file.lines[name]}: {name} is not a setting of the launcher; {meant} is"


def _is_misspelled(name: str, known: str) -> bool:
    """Return whether a name has the letters of a known one in another order, or one letter more or less."""
    more = len(name) - len(known)
    if more == 0:
        return sorted(name) == sorted(known)
    short, long = (known, name) if more > 0 else (name, known)
    return abs(more) == 1 and any(short == long[:i] + long[i + 1 :] for i in range(len(long)))


def _home(flags: Mapping[str, str], environ: Mapping[str, str], call: Call) -> Path:
    # The folder of the .env: the app's if it is set, or else the launcher's, or else the current folder.
    named = flags.get("APP_DIR", "").strip() or environ.get("APP_DIR", "").strip()
    if named:
        return absolute(call.cwd, Sources(flags, environ, None).expand(named))
    script = environ.get("APP_SCRIPT", "").strip() or DEFAULT_SCRIPT
    for folder in (*call.folders, call.cwd):
        if os.path.exists(folder / ".env") or os.path.exists(folder / script):
            return folder
    return call.folders[0] if call.folders else call.cwd


def _home_origin(home: Path, folders: tuple[Path, ...]) -> str:
    return "where start_app.py is" if home in folders else "current folder"


def _read_env_file(home: Path, environ: Mapping[str, str], call: Call) -> env_file.EnvFile | None:
    file = None if call.no_file else _env_file(home, environ, call)
    if file is None or not call.ignored:
        return file
    return file._replace(values={name: value for name, value in file.values.items() if name not in call.ignored})


def _env_file(home: Path, environ: Mapping[str, str], call: Call) -> env_file.EnvFile | None:
    if call.env_file and call.text is not None:
        return env_file.parse(Path(call.env_file), call.text, environ)
    if call.env_file and call.env_file.strip():
        return env_file.read(call.cwd / os.path.expanduser(call.env_file), environ, bad=ExitStatus.USAGE)
    path = home / ".env"
    return env_file.read(path, environ, trusted=_trusted(environ)) if os.path.lexists(path) else None


def _trusted(environ: Mapping[str, str]) -> frozenset[int]:
    """Return the users whose `.env` is trusted: this one and root, and under sudo the user who called it.

    git has the same rule (safe.directory in git-config(1)). SUDO_UID counts only for root: any user can set it.
    """
    uid = os.geteuid()
    caller = whole_number(environ.get("SUDO_UID", "")) if uid == 0 else None
    return frozenset((0, uid, *(() if caller is None else (caller,))))


def _anchored(sources: Sources, setting: Setting, file_folder: Path, otherwise: Path) -> Path:
    folder = file_folder if setting.level in ("file", "foreign") else otherwise
    return absolute(folder, sources.expand(setting.value))


def _python_path(sources: Sources, setting: Setting, app_dir: Path, file_folder: Path, cwd: Path) -> str:
    value = sources.expand(setting.value)
    folders: dict[Level, Path] = {"flag": cwd, "file": file_folder, "foreign": file_folder}
    path = str(absolute(folders.get(setting.level, app_dir), value))
    if os.sep not in value and not os.path.isdir(path):
        return value  # a name, to be searched on PATH
    return path


def _variables(sources: Sources, app_dir: Path, file_folder: Path) -> Mapping[str, Setting]:
    # The app gets these in addition to the environment: everything from .env, and every path made absolute.
    names = dict.fromkeys((*(sources.file.values if sources.file else ()), *PATH_NAMES, *ENDPOINT_NAMES))
    variables: dict[str, Setting] = {}
    for name in names:
        setting = sources.find(name)
        if sources.file and name in _LIST_NAMES and name in sources.environ:
            extended = _extended(name, sources.file.values[name], sources.environ)
            if extended is not None:
                setting = sources.of_file(name, extended)
        if setting and name in PATH_NAMES:
            setting = Setting(str(_anchored(sources, setting, file_folder, app_dir)), setting.origin, setting.level)
        if setting:
            variables[name] = setting
    if not any(name in variables for name in HUB_CACHE_NAMES):
        variables.update(_conventional_cache(app_dir / "cache_hub"))
    return variables


def _extended(name: str, value: str, environ: Mapping[str, str]) -> str | None:
    """Return the value of a list of folders according to a `.env`, None if the environment's own counts."""
    present = environ[name]
    text = re.sub(rf"\$({name}\b|{{{name}}})", lambda _: present, value)
    if not text.strip():
        return None
    return text if name == "PATH" or (present and present in text) else None


def _conventional_cache(folder: Path) -> Mapping[str, Setting]:
    """Return the variable that makes a `cache_hub` in the app's folder the cache, in either layout."""
    try:
        entries = os.listdir(folder)
    except OSError:
        return {}
    if MOVE in entries:
        return {}
    # A cleared cache still has these, and must keep its layout.
    kept = ("CACHEDIR.TAG", ".locks")
    flat = "hub" not in entries and any(entry in kept or HUB_ENTRY.match(entry) for entry in entries)
    name = "HF_HUB_CACHE" if flat else "HF_HOME"
    return {name: Setting(str(folder), "default: cache_hub in the app's folder", "default")}


def _origins(**settings: Setting | None) -> Mapping[str, Setting]:
    return {name: setting for name, setting in settings.items() if setting}
