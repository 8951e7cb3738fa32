"""The app gets what `start_app.sh` gave it: its own interpreter, folder, environment and signals, and nothing of ours.

The interpreter is checked by looking at the file, never by running it: what it is must be known before anything is
stopped, and a wrong one must not be given the chance to act.
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
import signal
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import NamedTuple, NoReturn

from ..config.settings import Settings
from ..config.sources import Setting, blank_counts
from ..errors import LauncherError

OWN_INTERPRETER = "the launcher's own: the app has no .venv, and APP_PYTHON is unset"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PROXY_NAMES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_PYTHON_NAME = re.compile(r"(python|pypy|graalpy)[0-9.]*", re.IGNORECASE)
# Every CPython and PyPy executable either defines or imports one of these.
_PYTHON_SYMBOLS = (b"Py_BytesMain", b"Py_RunMain", b"Py_Main", b"pypy_main")
_EXECUTABLE_MAGIC = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")


class Command(NamedTuple):
    """Hold what exec needs: the interpreter (and why that one), the argument list, the environment and the folder."""

    interpreter: str
    origin: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path

    @property
    def shown(self) -> tuple[str, ...]:
        """Return the argument list as a person would type it in the app's folder."""
        prefix = f"{self.folder}{os.sep}"
        return (self.argv[0].removeprefix(prefix), *self.argv[1:])


def build(settings: Settings, environ: Mapping[str, str], running: str) -> Command:
    """Return the command that starts the app; `running` is the launcher's own interpreter, the last choice.

    Raises LauncherError when the chosen interpreter is none.
    """
    setting = _interpreter(settings, environ, running)
    interpreter = _checked(setting, running)
    argv = [interpreter, settings.script_argument]
    if settings.port_flag:
        argv += [settings.port_flag, str(settings.port)]
    if settings.host and settings.host_flag:
        argv += [settings.host_flag, settings.host]
    environment = _environment(settings, environ, interpreter)
    return Command(interpreter, setting.origin, (*argv, *settings.app_args), environment, settings.app_dir)


def execute(command: Command) -> NoReturn:
    """Become the app: same pid, same standard streams, the signal handling that an app started by a shell has.

    Raises LauncherError when the kernel refuses; by then the folder and SIGPIPE are already the app's.
    """
    # Python ignores these two for itself, and an ignored signal stays ignored across exec.
    for name in ("SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        os.chdir(command.folder)
        os.execve(command.interpreter, command.argv, dict(command.environment))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise LauncherError(
            f"cannot start {command.interpreter} in {command.folder}: {reason}", "start_app.py --python PATH"
        ) from error


def _interpreter(settings: Settings, environ: Mapping[str, str], running: str) -> Setting:
    if settings.python:
        return settings.python
    found = next(_environments(settings.app_dir, environ), None)
    return found or Setting(running, OWN_INTERPRETER, "default")


def _environments(app_dir: Path, environ: Mapping[str, str]) -> Iterator[Setting]:
    # A link counts even if it dangles: a broken environment must be named, not passed over for another one.
    for folder, origin in (
        (app_dir / ".venv", "the app's .venv"),
        (app_dir / "venv", "the app's venv"),
        (environ.get("VIRTUAL_ENV", ""), "VIRTUAL_ENV"),
        (environ.get("CONDA_PREFIX", ""), "CONDA_PREFIX"),
    ):
        path = os.path.join(app_dir, folder, "bin", "python")
        if str(folder).strip() and os.path.lexists(path):
            yield Setting(path, origin, "default" if origin.startswith("the app's") else "environment")


def _checked(setting: Setting, running: str) -> str:
    path = setting.value
    if os.sep not in path:
        found = shutil.which(path)
        path = os.path.abspath(found) if found else path
    if os.path.isdir(path):
        inside = os.path.join(path, "python")
        path = inside if os.path.lexists(inside) else os.path.join(path, "bin", "python")
    reason = _why_no_interpreter(path, running)
    if reason:
        raise LauncherError(
            f"{path} is no Python interpreter: {reason} (APP_PYTHON, {setting.origin})",
            "start_app.py --python PATH, or APP_PYTHON=PATH in .env, with a python that this user may run",
            setting.bad,
        )
    return path


def _why_no_interpreter(path: str, running: str) -> str | None:
    try:
        os.stat(path)
    except PermissionError:
        return f"it leads to {os.path.realpath(path)}, where this user may not go"
    except OSError:
        dangling = os.path.islink(path)
        return f"a dangling link to {os.readlink(path)}" if dangling else "there is no such file"
    if not os.path.isfile(path):
        return "not a regular file"
    if not os.access(path, os.X_OK):
        return "not executable"
    try:
        with open(path, "rb") as file:
            head = file.read(256)
            if head.startswith(b"#!"):
                return _why_no_wrapper(path, head)
            if not head.startswith(_EXECUTABLE_MAGIC):
                return "neither a program nor a script"
            if head.startswith(b"\x7fELF") and _architecture(head) != _own_architecture(running):
                return "built for another kind of processor"
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
                return None if any(image.find(name) >= 0 for name in _PYTHON_SYMBOLS) else "another program"
    except PermissionError:
        return None  # executable but not readable is legal; the name is all there is to see
    except OSError as error:
        return str(error.strerror)


def _why_no_wrapper(path: str, head: bytes) -> str | None:
    # pyenv's shims and some site wrappers are scripts that end in an exec of the real interpreter.
    words = head[2:].split(b"\n", 1)[0].split()
    if not words or not os.path.exists(os.fsdecode(words[0])):
        return "a script whose own interpreter is missing"
    return None if _PYTHON_NAME.fullmatch(os.path.basename(os.path.realpath(path))) else "a script of another name"


def _architecture(head: bytes) -> bytes:
    return head[4:6] + head[18:20]  # ELF class, byte order and machine: elf(5)


def _own_architecture(running: str) -> bytes:
    with open(running, "rb") as file:
        return _architecture(file.read(20))


def _environment(settings: Settings, environ: Mapping[str, str], interpreter: str) -> Mapping[str, str]:
    environment = {name: value for name, value in environ.items() if value.strip() or blank_counts(name, value)}
    environment.update((name, setting.value) for name, setting in settings.variables.items())
    environment["GRADIO_SERVER_PORT"] = str(settings.port)
    if settings.host:
        environment["GRADIO_SERVER_NAME"] = settings.host
    environment["PWD"] = str(settings.app_dir)
    environment.setdefault("PYTHONUNBUFFERED", "1")
    _activate(environment, interpreter)
    _spare_loopback_the_proxy(environment)
    return environment


def _activate(environment: MutableMapping[str, str], interpreter: str) -> None:
    """Do what sourcing `bin/activate` does, so that tools of the environment (ninja, ffmpeg) are on PATH.

    Another environment that was active is left first, as its `deactivate` would: its tools would run the wrong Python.
    """
    bin_folder = os.path.dirname(interpreter)
    prefix = os.path.dirname(bin_folder)
    path = environment.get("PATH", os.defpath).split(os.pathsep)
    active = environment.get("VIRTUAL_ENV")
    if active and os.path.realpath(active) != os.path.realpath(prefix):
        del environment["VIRTUAL_ENV"]
        path = [folder for folder in path if folder != os.path.join(active, "bin")]
    is_venv = os.path.isfile(os.path.join(prefix, "pyvenv.cfg"))
    is_conda = os.path.isdir(os.path.join(prefix, "conda-meta"))
    if is_venv or is_conda:
        environment["VIRTUAL_ENV" if is_venv else "CONDA_PREFIX"] = prefix
        environment.pop("PYTHONHOME", None)
        path = [bin_folder, *(folder for folder in path if folder != bin_folder)]
    environment["PATH"] = os.pathsep.join(path)


def _spare_loopback_the_proxy(environment: MutableMapping[str, str]) -> None:
    """Keep Gradio's own check of its page off the proxy: it dies with "When localhost is not accessible" otherwise."""
    if not any(name in environment for name in _PROXY_NAMES):
        return
    lower, upper = environment.get("no_proxy"), environment.get("NO_PROXY")
    for name, value in (("no_proxy", lower or upper or ""), ("NO_PROXY", upper or lower or "")):
        present = [host.strip() for host in value.split(",") if host.strip()]
        if "*" not in present:
            environment[name] = ",".join((*present, *(host for host in LOOPBACK if host not in present)))
        else:
            environment[name] = value
