"""Read systemd's facts about a unit's main process: its end from the environment, its last line from the journal."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping

from ..system.child import output_within
from ..ui.text import whole_number

_SECONDS = 3.0
_LATE_SECONDS = 1.0
_PAUSE = 0.1
# The unit was stopped, or took too long to stop: nothing else has a time-out in a unit of ours.
_ASKED = ("success", "timeout")
_PLAIN = ("success", "exit-code", "signal", "core-dump")


def status_of(environ: Mapping[str, str]) -> int | None:
    """Return the exit status of the main process, or the negative number of the signal that ended it.

    systemd.exec(5): EXIT_CODE is `exited`, `killed` or `dumped`, EXIT_STATUS a number or the name of a signal.
    """
    code, status = environ.get("EXIT_CODE"), environ.get("EXIT_STATUS", "")
    if code == "exited":
        return whole_number(status)
    if code in ("killed", "dumped"):
        number = whole_number(status) or int(getattr(signal, f"SIG{status}", 0))
        return -number or None
    return None


def was_asked(environ: Mapping[str, str]) -> bool:
    """Return whether the unit was stopped on request, according to SERVICE_RESULT."""
    return environ.get("SERVICE_RESULT") in _ASKED


def more(environ: Mapping[str, str]) -> str:
    """Return the detail of SERVICE_RESULT in addition to the status, such as ` (oom-kill)`."""
    result = environ.get("SERVICE_RESULT", "")
    return f" ({result})" if result and result not in _PLAIN else ""


def last_line(pid: int, invocation: str, ours: str) -> str:
    """Return the last line that a process of a unit has written to the journal; blank if it cannot be read.

    The journal may get the lines of an ended process a moment later. A line that begins with `ours` was written before
    the process became the app, so wait a little for another one.
    """
    # It processes everything that it has received first; only root may ask for that.
    output_within(("journalctl", "--sync"), _SECONDS)
    deadline = time.monotonic() + _LATE_SECONDS
    while True:
        line = _last_line(pid, invocation)
        if (line and not line.startswith(ours)) or time.monotonic() > deadline:
            return line
        time.sleep(_PAUSE)


def _last_line(pid: int, invocation: str) -> str:
    words = ("journalctl", "--quiet", "--no-pager", "--output=cat", "--lines=5")
    matches = (f"_PID={pid}", f"_SYSTEMD_INVOCATION_ID={invocation}")
    data = output_within((*words, *matches), _SECONDS) or b""
    lines = [line.strip() for line in data.decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")
