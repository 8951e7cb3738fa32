"""The marker in an app's environment: the start of an app from which a process descends.

The exec sets it. All processes that the app starts inherit it, and no older process has it: a shell that execs the app
leaves its background jobs to the app as children, but they have no marker.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import NamedTuple

NAME = "START_APP_INSTANCE"
_SEPARATOR = ":"


class Marker(NamedTuple):
    """Hold one start of an app: a unique token, the app's port and script, and the process, time and place.

    `pid` is the app's in the pid namespace `namespace` (the number in `/proc/self/ns/pid`), `session` its session.
    `ticks` is the time of the exec in clock ticks since boot, the unit of a process's start (proc_pid_stat(5)).
    `command` has the words of the served command, `quoted`.
    """

    token: str
    port: int
    pid: int
    session: int
    namespace: str
    ticks: int
    command: str
    script: str

    def text(self) -> str:
        """Return the marker as the value of its variable."""
        return _SEPARATOR.join(str(field) for field in self)

    def stamped(self) -> Marker:
        """Return the marker of the calling process, which is about to become the app."""
        now = time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else 0.0
        return self._replace(
            pid=os.getpid(),
            session=os.getsid(0),
            namespace=own_pid_namespace(),
            ticks=int(now * os.sysconf("SC_CLK_TCK")),
        )


def new(port: int, script: str, command: Sequence[str] = ()) -> Marker:
    """Return the marker of a start that has not happened yet."""
    return Marker(os.urandom(8).hex(), port, 0, 0, "", 0, quoted(command), script)


def quoted(command: Sequence[str]) -> str:
    """Return words as one field of a marker."""
    return " ".join(word.replace("%", "%25").replace(_SEPARATOR, "%3A").replace(" ", "%20") for word in command)


def parse(text: str | None) -> Marker | None:
    """Return the marker in a variable, or None if its value is not a marker."""
    fields = (text or "").split(_SEPARATOR, len(Marker._fields) - 1)
    try:
        token, port, pid, session, namespace, ticks, command, script = fields
        if max(map(len, (port, pid, session, ticks))) > 20 or not (token and script):
            return None
        return Marker(token, int(port), int(pid), int(session), namespace, int(ticks), command, script)
    except ValueError:
        return None


def own_pid_namespace() -> str:
    """Return the number of our pid namespace; blank if it cannot be read: pid_namespaces(7)."""
    try:
        return os.readlink("/proc/self/ns/pid").removeprefix("pid:[").removesuffix("]")
    except OSError:
        return ""
