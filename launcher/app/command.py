"""The app gets the same interpreter, folder, environment and signals as from `start_app.sh`, and nothing of ours.

The interpreter's file is checked first, because a wrong program must not run at all. Only a checked interpreter is run,
by the rehearsal and by the exec.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..config.settings import Settings
from ..errors import LauncherError, quoted
from ..ui import text
from . import activation
from .environment import app_environment_of, environment_of, host_argument
from .interpreter import checked, find_interpreter


class Command(NamedTuple):
    """Hold the input of the exec: the interpreter and its origin, the argument list, the environment and the folder.

    `program` is the executed file: the interpreter or the first word before it. `script` are the words that the
    interpreter runs first.
    """

    interpreter: str
    origin: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    program: str
    script: tuple[str, ...]

    @property
    def shown(self) -> tuple[str, ...]:
        """Return the argument list in the form that a person would type in the app's folder."""
        prefix = f"{self.folder}{os.sep}"
        return tuple(word.removeprefix(prefix) if word == self.interpreter else word for word in self.argv)


def build(settings: Settings, environ: Mapping[str, str], running: str) -> Command:
    """Return the command that starts the app; `running` is the launcher's own interpreter, the last choice.

    Raises LauncherError if the chosen file is not an interpreter.
    """
    setting = find_interpreter(settings, environ, running)
    interpreter = checked(setting, running)
    environment = app_environment_of(settings, environ, interpreter)
    host = host_argument(settings)
    argv = (*settings.form.argv(interpreter, settings.entry, settings.port, host), *settings.app_args)
    program = _program(argv[0], environment, settings)
    return Command(interpreter, setting.origin, argv, environment, settings.app_dir, program, settings.entry)


def activated(command: Command, settings: Settings, environ: Mapping[str, str]) -> Command:
    """Return the command with the variables that the environment's scripts set, unless it is already active.

    Raises LauncherError (75) if they fail.
    """
    prefix = to_activate(command, environ)
    if prefix is None:
        return command
    settled = (*settings.variables, "GRADIO_SERVER_PORT", "GRADIO_SERVER_NAME", *settings.form.port_variables)
    environment = activation.activated(command.environment, prefix, settled)
    kept = {name: value for name, value in environment.items() if name not in settings.form.unset}
    return command._replace(environment=kept)


def to_activate(command: Command, environ: Mapping[str, str]) -> str | None:
    """Return the inactive environment that has its own variables or scripts, None without one."""
    prefix = environment_of(command.interpreter)
    active = [os.path.realpath(environ[name]) for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if environ.get(name)]
    if prefix is None or os.path.realpath(prefix) in active:
        return None
    return prefix if activation.scripts(prefix) or activation.variables(prefix) else None


def _program(name: str, environment: Mapping[str, str], settings: Settings) -> str:
    """Return the program at the start of a command line, as a shell in the app's environment would find it.

    Raises LauncherError (78) without one.
    """
    if os.path.isabs(name):
        path: str | None = name
    elif os.sep in name:
        path = os.path.join(settings.app_dir, name)
    else:
        import shutil

        path = shutil.which(name, path=environment.get("PATH"))
    if path and os.path.isfile(path) and os.access(path, os.X_OK):
        return path
    setting = settings.origins.get("APP_PREFIX") or settings.origins.get("APP_COMMAND")
    where = f" ({setting.origin})" if setting else ""
    raise LauncherError(
        f"{text.clean(name)} is not a program that can be run{where}",
        f"command -v {quoted(name)}; write its path in full",
    )
