"""What the launcher says when it cannot go on, and the number it says it with.

Exit statuses follow BSD's sysexits(3) where it has a word for the case, so that they can stand in a unit's
`RestartPreventExitStatus=`.
"""

from __future__ import annotations

import shlex
from enum import IntEnum


class ExitStatus(IntEnum):
    """Name every exit status; the numbers are a promise to scripts and units."""

    DONE = 0
    BUG = 1
    USAGE = 2
    DAMAGED = 65
    TAKEN = 69
    IO = 74
    RETRY = 75
    DENIED = 77
    CONFIG = 78
    STALE = 80
    INTERRUPTED = 130


class LauncherError(Exception):
    """Tell what happened, the command that helps, and the exit status, in that order."""

    def __init__(self, message: str, hint: str | None = None, status: ExitStatus = ExitStatus.CONFIG) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.status = status


def quoted(word: object) -> str:
    """Return a path or a word as a shell takes it: a hint is made to be pasted, and a name may hold `$(…)`."""
    return shlex.quote(str(word))
