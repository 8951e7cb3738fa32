"""Define the launcher's errors and exit statuses.

Exit statuses follow BSD's sysexits(3) if it has one for the case, so that they can be used in a unit's
`RestartPreventExitStatus=`.
"""

from __future__ import annotations

import shlex
from enum import IntEnum


class ExitStatus(IntEnum):
    """Name every exit status; scripts and units rely on the numbers."""

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
    """Hold the error message, the hint, and the exit status, in that order."""

    def __init__(self, message: str, hint: str | None = None, status: ExitStatus = ExitStatus.CONFIG) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.status = status


REPEAT = " …"
"""Ends a command in a hint that repeats the user's own: the rest of what was typed goes there (ui.invocation)."""


def quoted(word: object) -> str:
    """Return a path or a word in shell syntax: hints are pasted, and a name may contain `$(…)`."""
    return shlex.quote(str(word))
