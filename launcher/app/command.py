"""The app gets what `start_app.sh` gave it: its own interpreter, folder, environment and signals, and nothing of ours.

The interpreter is first checked by looking at the file: a wrong one must not be given the chance to act. Only what
passes is run, by the rehearsal and by the exec.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..config.settings import Settings
from .environment import app_environment_of, host_argument
from .interpreter import checked, find_interpreter


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
    setting = find_interpreter(settings, environ, running)
    interpreter = checked(setting, running)
    argv = [interpreter, *settings.entry]
    if settings.port_flag:
        argv += [settings.port_flag, str(settings.port)]
    host = host_argument(settings)
    if host and settings.host_flag:
        argv += [settings.host_flag, host]
    environment = app_environment_of(settings, environ, interpreter)
    return Command(interpreter, setting.origin, (*argv, *settings.app_args), environment, settings.app_dir)
