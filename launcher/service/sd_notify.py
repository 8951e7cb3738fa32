"""Report what the launcher does to `systemctl status`; never readiness, never a stop.

`wait` proves readiness. Announcing the stop of the *old* instance would make systemd stop the new one. The protocol
is sd_notify(3): a datagram to the socket that NOTIFY_SOCKET names.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

_MAX_STATUS = 500


def reporter(environ: Mapping[str, str]) -> Callable[[str], None] | None:
    """Return a function that sends a status line to the service manager, or None without one."""
    name = environ.get("NOTIFY_SOCKET", "")
    if not name.startswith(("/", "@")):
        return None
    # A name that begins with @ is abstract: unix(7).
    address = os.fsencode(name) if name[0] == "/" else b"\0" + os.fsencode(name[1:])

    def report(line: str) -> None:
        message = f"STATUS={line[:_MAX_STATUS]}".encode(errors="replace")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as end:
                end.sendto(message, address)
        except OSError:
            pass  # only for convenience: a missing listener or a full queue must not stop a launch

    return report
