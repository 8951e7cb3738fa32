"""Every setting comes from the highest level that gives it: flag > environment > `.env` > default.

A blank is unset at its level, so the next level counts. A value is checked here, before anything is stopped or
deleted, and an error names the level it came from: a bad flag is a usage error, anything else is configuration.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from . import env_file, redact
from .errors import ExitStatus, LauncherError
from .paths import HUB_ENTRY, absolute, expand

DEFAULT_SCRIPT = "webui.py"
DEFAULT_PORT = "7860"  # Gradio's own
FLAGS = {
    "APP_DIR": "--app-dir",
    "APP_PYTHON": "--python",
    "GRADIO_SERVER_PORT": "--port",
    "GRADIO_SERVER_NAME": "--host",
}
ENDPOINT_NAMES = ("HF_ENDPOINT",)
HUB_CACHE_NAMES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME")
# Variables that hold a folder or a file: a relative one is anchored, because the app's own cwd is another one.
PATH_NAMES = (
    *HUB_CACHE_NAMES,
    "HF_ASSETS_CACHE",
    "HF_DATASETS_CACHE",
    "HF_MODULES_CACHE",
    "HF_TOKEN_PATH",
    "HF_XET_CACHE",
    "TRANSFORMERS_CACHE",
    "TORCH_HOME",
    "TRITON_CACHE_DIR",
    "MODELSCOPE_CACHE",
    "XDG_CACHE_HOME",
    "GRADIO_TEMP_DIR",
    "GRADIO_EXAMPLES_CACHE",
)
_FOLDER_NAMES = (*HUB_CACHE_NAMES, "XDG_CACHE_HOME")
_OTHER_SCRIPTS = ("app.py", "main.py", "gradio_app.py", "launch.py", "demo.py", "run.py")
_ENDPOINT = re.compile(
    r"https?://([^/@\s#?]+@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)(:[0-9]{1,5})?(/[^\s#?]*)?"
)
_HOST = re.compile(r"[A-Za-z0-9._:%\[\]-]+")

Level = Literal["flag", "environment", "file", "default"]


class Setting(NamedTuple):
    """Hold a value and where it came from."""

    value: str
    origin: str
    level: Level

    @property
    def bad(self) -> ExitStatus:
        """Return the exit status that a bad value from this level deserves."""
        return ExitStatus.USAGE if self.level == "flag" else ExitStatus.CONFIG


class Settings(NamedTuple):
    """Hold everything a command needs to know about the app, checked and with origins."""

    app_dir: Path
    script: Path
    script_argument: str
    port: int
    host: str | None
    port_flag: str | None
    host_flag: str | None
    app_args: tuple[str, ...]
    python: Setting | None
    env_file: Path | None
    variables: Mapping[str, Setting]
    origins: Mapping[str, Setting]
    warnings: tuple[str, ...]


class Sources(NamedTuple):
    """Hold the levels that a setting can come from, highest first."""

    flags: Mapping[str, str]
    environ: Mapping[str, str]
    file: env_file.EnvFile | None

    def find(self, name: str, default: str | None = None) -> Setting | None:
        """Return the setting of the highest level that has it."""
        return self._flag(name) or self._environment(name) or self._file(name) or self._default(default)

    def _flag(self, name: str) -> Setting | None:
        value = self.flags.get(name, "")
        return Setting(value, FLAGS[name], "flag") if value.strip() else None

    def _environment(self, name: str) -> Setting | None:
        value = self.environ.get(name)
        if value is None or not (value.strip() or blank_counts(name, value)):
            return None
        return Setting(value, "environment", "environment")

    def _file(self, name: str) -> Setting | None:
        value = self.file.values.get(name, "") if self.file else ""
        if not self.file or not value.strip():
            return None
        return Setting(value, f"{self.file.path.name} line {self.file.lines[name]}", "file")

    @staticmethod
    def _default(value: str | None) -> Setting | None:
        return None if value is None else Setting(value, "default", "default")

    def expand(self, value: str) -> str:
        """Expand `~` and `$NAME` as huggingface_hub would, from these sources and not from our own environment."""
        return expand(value, self._value, self.environ.get("HOME", "").strip())

    def _value(self, name: str) -> str | None:
        found = self.find(name)
        return found.value if found else None


def blank_counts(name: str, value: str | None) -> bool:
    """Tell whether a blank is a value: `CUDA_VISIBLE_DEVICES= python …` is the usual way to hide every GPU."""
    return value is not None and name.endswith("_VISIBLE_DEVICES")


def load(
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    *,
    cwd: Path,
    launcher_folders: tuple[Path, ...] = (),
    env_file_flag: str | None = None,
    app_args: tuple[str, ...] = (),
) -> Settings:
    """Resolve and check every setting.

    `launcher_folders` are where `start_app.py` lies, as called and with links resolved; `app_args` are what follows
    `--`. Raises LauncherError for the first value that cannot be.
    """
    home = _home(flags, environ, cwd, launcher_folders)
    file = _read_env_file(env_file_flag, home, environ, cwd)
    sources = Sources(flags, environ, file)
    file_folder = file.path.parent if file else home

    app_dir_setting = sources.find("APP_DIR") or Setting(str(home), _home_origin(home, launcher_folders), "default")
    app_dir = _anchored(sources, app_dir_setting, file_folder, cwd)
    _check_app_dir(app_dir, app_dir_setting)
    script_setting = sources.find("APP_SCRIPT", DEFAULT_SCRIPT)
    port_setting = sources.find("GRADIO_SERVER_PORT", DEFAULT_PORT)
    port_flag_setting = sources.find("APP_PORT_FLAG", "--port")
    host_flag_setting = sources.find("APP_HOST_FLAG", "--host")
    assert script_setting and port_setting and port_flag_setting and host_flag_setting
    host = sources.find("GRADIO_SERVER_NAME")
    args = sources.find("APP_ARGS")
    python = sources.find("APP_PYTHON")
    if python:
        python = Setting(_python_path(sources, python, app_dir, file_folder, cwd), python.origin, python.level)

    port = _port(port_setting)
    port_flag = _option(port_flag_setting, "APP_PORT_FLAG")
    host_flag = None if port_flag is None else _option(host_flag_setting, "APP_HOST_FLAG")
    split_args = _split(args)
    _refuse_other_port(port, port_flag, args, split_args, app_args)
    if host:
        _check_host(host)
    variables = _variables(sources, app_dir, file_folder)
    for name in ENDPOINT_NAMES:
        if name in variables:
            _check_endpoint(name, variables[name])
    for name in _FOLDER_NAMES:
        if name in variables:
            _check_folder(name, variables[name])
    return Settings(
        app_dir=app_dir,
        script=_script(app_dir, script_setting, launcher_folders),
        script_argument=script_setting.value,
        port=port,
        host=host.value.strip("[]") if host else None,
        port_flag=port_flag,
        host_flag=host_flag,
        app_args=(*split_args, *app_args),
        python=python,
        env_file=file.path if file else None,
        variables=variables,
        origins=_origins(
            APP_DIR=Setting(str(app_dir), app_dir_setting.origin, app_dir_setting.level),
            APP_SCRIPT=script_setting,
            GRADIO_SERVER_PORT=port_setting,
            GRADIO_SERVER_NAME=host,
            APP_PORT_FLAG=port_flag_setting,
            APP_HOST_FLAG=host_flag_setting,
            APP_ARGS=args,
            APP_PYTHON=python,
        ),
        warnings=tuple(f"{file.path} line {line} cannot be parsed and is ignored" for line in file.unparsable)
        if file
        else (),
    )


def _home(flags: Mapping[str, str], environ: Mapping[str, str], cwd: Path, folders: tuple[Path, ...]) -> Path:
    # The folder whose .env is read: the app's when it is named, else where the launcher was put, else the cwd.
    named = flags.get("APP_DIR", "").strip() or environ.get("APP_DIR", "").strip()
    if named:
        return absolute(cwd, Sources(flags, environ, None).expand(named))
    script = environ.get("APP_SCRIPT", "").strip() or DEFAULT_SCRIPT
    for folder in (*folders, cwd):
        if os.path.exists(folder / ".env") or os.path.exists(folder / script):
            return folder
    return folders[0] if folders else cwd


def _home_origin(home: Path, folders: tuple[Path, ...]) -> str:
    return "where start_app.py lies" if home in folders else "current folder"


def _read_env_file(flag: str | None, home: Path, environ: Mapping[str, str], cwd: Path) -> env_file.EnvFile | None:
    if flag and flag.strip():
        return env_file.read(cwd / os.path.expanduser(flag), environ, bad=ExitStatus.USAGE)
    path = home / ".env"
    return env_file.read(path, environ) if os.path.lexists(path) else None


def _anchored(sources: Sources, setting: Setting, file_folder: Path, otherwise: Path) -> Path:
    folder = file_folder if setting.level == "file" else otherwise
    return absolute(folder, sources.expand(setting.value))


def _python_path(sources: Sources, setting: Setting, app_dir: Path, file_folder: Path, cwd: Path) -> str:
    value = sources.expand(setting.value)
    folders: dict[Level, Path] = {"flag": cwd, "environment": app_dir, "file": file_folder, "default": app_dir}
    path = str(absolute(folders[setting.level], value))
    if os.sep not in value and not os.path.isdir(path):
        return value  # a name, to be found on PATH
    return path


def _check_app_dir(app_dir: Path, setting: Setting) -> None:
    try:
        what = "" if stat.S_ISDIR(os.stat(app_dir).st_mode) else "is not a folder"
    except PermissionError:
        what = "may not be entered"
    except OSError:
        what = "does not exist"
    if what:
        raise LauncherError(
            f"the app's folder {app_dir} {what} (APP_DIR, {setting.origin})",
            "start_app.py --app-dir DIR",
            setting.bad,
        )


def _script(app_dir: Path, setting: Setting, launcher_folders: tuple[Path, ...]) -> Path:
    path = absolute(app_dir, setting.value)
    if any(os.path.realpath(path) == os.path.realpath(folder / "start_app.py") for folder in launcher_folders):
        raise LauncherError(
            f"{path} is the launcher itself (APP_SCRIPT, {setting.origin})", f"APP_SCRIPT={DEFAULT_SCRIPT}", setting.bad
        )
    if os.path.isfile(path) and os.access(path, os.R_OK):
        return path
    if os.path.isdir(path):
        what = f"{path} is a folder, not a script (APP_SCRIPT, {setting.origin})"
    elif os.path.isfile(path):
        what = f"{path} is not readable"
    elif os.path.islink(path) and not os.path.exists(path):
        what = f"{path} is a dangling link"
    elif os.path.exists(path):
        what = f"{path} is not a regular file"
    else:
        what = f"no {setting.value} in {app_dir}"
    present = next((name for name in _OTHER_SCRIPTS if os.path.isfile(app_dir / name)), None)
    hint = "start_app.py --app-dir DIR names the app's folder; APP_SCRIPT=app.py in its .env names another script"
    if present:
        hint = f"{present} is there: set APP_SCRIPT={present} in {app_dir / '.env'}, or start_app.py --app-dir DIR"
    raise LauncherError(what, hint)


def _port(setting: Setting) -> int:
    text = setting.value.strip()
    if re.fullmatch("0*[0-9]{1,5}", text) and 0 < int(text) < 65536:
        return int(text)
    raise LauncherError(
        f"{redact.scrub(text)!r} is no port (GRADIO_SERVER_PORT, {setting.origin}): a port is a number from 1 to 65535",
        "start_app.py --port 7860",
        setting.bad,
    )


def _option(setting: Setting, name: str) -> str | None:
    text = setting.value.strip()
    if text.lower() == "none":
        return None
    if re.fullmatch(r"--?[A-Za-z0-9][\w.-]*", text):
        return text
    raise LauncherError(
        f"{text!r} is no option name ({name}, {setting.origin})",
        f"{name}=--port, or {name}=none when the app takes it from the environment only",
        setting.bad,
    )


def _split(args: Setting | None) -> tuple[str, ...]:
    if args is None:
        return ()
    try:
        return tuple(shlex.split(args.value))
    except ValueError as error:
        raise LauncherError(
            f"APP_ARGS cannot be split into arguments: {str(error).lower()} ({args.origin})",
            "quote as a shell would: APP_ARGS=\"--model_dir 'my models'\"",
            args.bad,
        ) from error


def option_value(argv: Sequence[str], flag: str) -> str | None:
    """Return what `--flag VALUE` or `--flag=VALUE` says in a command line; the last one counts, as in argparse."""
    value = None
    for position, argument in enumerate(argv):
        if argument == flag and position + 1 < len(argv):
            value = argv[position + 1]
        elif argument.startswith(flag + "="):
            value = argument[len(flag) + 1 :]
    return value


def _told_port(argv: Sequence[str], flag: str) -> str | None:
    # argparse takes any beginning of a long option for it: --por 9999 is --port 9999.
    for length in range(len(flag), 2, -1):
        value = option_value(argv, flag[:length])
        if value is not None and (length == len(flag) or value.isdecimal()):
            return value
    return None


def _refuse_other_port(
    port: int, flag: str | None, args: Setting | None, split: tuple[str, ...], rest: tuple[str, ...]
) -> None:
    # The app would obey the last port on its command line, while the launcher proves and locks its own.
    for arguments, where, status in (
        (rest, "after --", ExitStatus.USAGE),
        (split, f"APP_ARGS, {args.origin}" if args else "", args.bad if args else ExitStatus.CONFIG),
    ):
        value = _told_port(arguments, flag) if flag else None
        if value is not None and value != str(port):
            raise LauncherError(
                f"the app would be told {flag} {redact.scrub(value)} ({where}), but the launcher's port is {port}",
                f"start_app.py --port {value}, or GRADIO_SERVER_PORT={value} in .env",
                status,
            )


def _check_host(setting: Setting) -> None:
    if not _HOST.fullmatch(setting.value):
        raise LauncherError(
            f"{redact.scrub(setting.value)!r} is no host name or address (GRADIO_SERVER_NAME, {setting.origin})",
            "start_app.py --host 0.0.0.0 for every interface, --host 127.0.0.1 for this machine only",
            setting.bad,
        )


def _check_endpoint(name: str, setting: Setting) -> None:
    match = _ENDPOINT.fullmatch(setting.value)
    if match and (match[4] is None or 0 < int(match[4][1:]) < 65536):
        return
    # Whatever stands before an @ may be a password, however the rest is mistyped.
    before, at, after = setting.value.rpartition("@")
    shown = f"{redact.MASK}@{after}" if at else before + after
    hint = f"{name}=https://hf-mirror.com"
    if re.search(r"\s|#", setting.value):
        hint += " with nothing after it on the line"
        if setting.level == "environment":
            hint += "; systemd's EnvironmentFile= keeps comments: let start_app.py read the file itself with --env-file"
    raise LauncherError(f"{redact.scrub(shown)!r} is no http(s) address ({name}, {setting.origin})", hint, setting.bad)


def _check_folder(name: str, setting: Setting) -> None:
    path = setting.value
    if os.path.isdir(path):
        return
    what = None
    if os.path.lexists(path):
        what = "is a dangling link" if os.path.islink(path) and not os.path.exists(path) else "is not a folder"
    else:
        parent = os.path.dirname(path)
        while not os.path.lexists(parent):
            parent = os.path.dirname(parent)
        if not os.path.isdir(parent):
            what = f"cannot be made: {parent} is not a folder"
    if what:
        raise LauncherError(f"{path} {what} ({name}, {setting.origin})", f"set {name} to a folder, or unset it")


def _variables(sources: Sources, app_dir: Path, file_folder: Path) -> Mapping[str, Setting]:
    # What the app gets beyond the plain environment: everything from .env, and every path made absolute.
    names = dict.fromkeys((*(sources.file.values if sources.file else ()), *PATH_NAMES, *ENDPOINT_NAMES))
    variables: dict[str, Setting] = {}
    for name in names:
        setting = sources.find(name)
        if setting and name in PATH_NAMES:
            setting = Setting(str(_anchored(sources, setting, file_folder, app_dir)), setting.origin, setting.level)
        if setting:
            variables[name] = setting
    if not any(name in variables for name in HUB_CACHE_NAMES):
        variables.update(_conventional_cache(app_dir / "cache_hub"))
    return variables


def _conventional_cache(folder: Path) -> Mapping[str, Setting]:
    """Return the variable that makes a `cache_hub` in the app's folder the cache, in either shape it is found in."""
    try:
        entries = os.listdir(folder)
    except OSError:
        return {}
    flat = "hub" not in entries and any(HUB_ENTRY.match(entry) for entry in entries)
    name = "HF_HUB_CACHE" if flat else "HF_HOME"
    return {name: Setting(str(folder), "default: cache_hub in the app's folder", "default")}


def _origins(**settings: Setting | None) -> Mapping[str, Setting]:
    return {name: setting for name, setting in settings.items() if setting}
