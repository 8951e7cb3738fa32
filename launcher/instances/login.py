"""A login session whose end also ends the processes started in it, even those in a session of their own."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

from ..system.child import output_within
from .process import ask, lineage, look

_SECONDS = 3.0
_SESSION = re.compile(r"/session-[^/]+\.scope\b")
_MANAGER = re.compile(r"/user@\d+\.service/")
_MULTIPLEXERS = ("tmux", "screen", "SCREEN", "zellij", "mosh-server")
LINGERING = "/var/lib/systemd/linger"


def ends_at_logout(
    cgroup: str, user: str, kills: Callable[[], bool] | None = None, lingering: str = LINGERING
) -> str | None:
    """Return why a process in this cgroup ends when its user logs out, or None.

    A session's scope does so if logind is configured for it (logind.conf(5), KillUserProcesses=), except root's. The
    processes of the user's own manager end with the manager, which survives the last logout only if the user lingers.
    """
    if _SESSION.search(cgroup):
        if user != "root" and (kills or _kills)():
            return "KillUserProcesses=yes of systemd-logind ends what a login has started"
    elif _MANAGER.search(cgroup) and not os.path.lexists(os.path.join(lingering, user)):
        return f"the systemd of user {user} ends what it has started"
    return None


def _kills() -> bool:
    words = ("busctl", "get-property", "org.freedesktop.login1", "/org/freedesktop/login1")
    answer = output_within((*words, "org.freedesktop.login1.Manager", "KillUserProcesses"), _SECONDS)
    return (answer or b"").strip() == b"b true"


def ends_with_terminal(pid: int) -> str | None:
    """Return the terminal whose end sends SIGHUP to a process, None if it has none or ignores the signal.

    A session inside tmux or screen has a terminal that stays. proc_pid_stat(5), proc_pid_status(5).
    """
    terminal = ask(pid, lambda process: process.terminal())
    if terminal is None or _ignores_hangup(pid):
        return None
    above = (look(ancestor) for ancestor in lineage(pid)[1:])
    return None if any(one and one.name.startswith(_MULTIPLEXERS) for one in above) else terminal


def _ignores_hangup(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")  # a name may have any bytes
    except OSError:
        return True
    ignored = re.search(r"^SigIgn:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return ignored is not None and bool(int(ignored[1], 16) & 1 << (signal.SIGHUP - 1))
