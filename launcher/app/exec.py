"""The one exec of the launcher."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import NoReturn

from ..errors import LauncherError
from ..system import marker
from .command import Command
from .interpreter import ANOTHER


def execute(command: Command) -> NoReturn:
    """Become the app: same pid, same standard streams, the signal handling that an app started by a shell has.

    Raises LauncherError if the kernel refuses; the folder and SIGPIPE have already changed then.
    """
    # Python ignores these two signals, and an ignored signal stays ignored across exec.
    for name in ("SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        os.chdir(command.folder)
        os.execve(command.program, command.argv, _marked(command.environment))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise LauncherError(f"cannot start {command.program} in {command.folder}: {reason}", ANOTHER) from error


def _marked(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with this process in its marker."""
    mark = marker.parse(environment.get(marker.NAME))
    return {**environment, marker.NAME: mark.stamped().text()} if mark else dict(environment)
