"""What supervisord says of one of its programs: whether somebody has stopped it, and its last exit status.

Its children have the address of its XML-RPC interface in their environment, if it has one:
http://supervisord.org/subprocess.html#subprocess-environment and http://supervisord.org/api.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

_UNIX = "unix://"
_SECONDS = 3.0


class Said(NamedTuple):
    """Hold whether the program was stopped on request, and its exit status, None where that is unknown."""

    stopped: bool
    status: int | None


def ask(environ: Mapping[str, str]) -> Said | None:
    """Return what supervisord says of the program that this process belongs to, None where it says nothing."""
    url, name = environ.get("SUPERVISOR_SERVER_URL", ""), environ.get("SUPERVISOR_PROCESS_NAME")
    if not (url.startswith(_UNIX) and name):
        return None
    group = environ.get("SUPERVISOR_GROUP_NAME", name)
    try:
        info = _info(url.removeprefix(_UNIX), f"{group}:{name}")
        state, status = str(info["statename"]), info["exitstatus"]
    except Exception:  # whatever a server of any version answers, nothing depends on it
        return None
    known = status if state in ("EXITED", "BACKOFF", "FATAL") and isinstance(status, int) and status >= 0 else None
    return Said(state in ("STOPPED", "STOPPING"), known)


def _info(path: str, name: str) -> Mapping[str, object]:
    import http.client
    import socket
    import xmlrpc.client

    class Transport(xmlrpc.client.Transport):
        def make_connection(self, host: object) -> http.client.HTTPConnection:  # noqa: ARG002
            connection = http.client.HTTPConnection("localhost", timeout=_SECONDS)
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(_SECONDS)
            connection.sock.connect(path)
            return connection

    with xmlrpc.client.ServerProxy("http://localhost", transport=Transport()) as server:
        answer = server.supervisor.getProcessInfo(name)
    return answer if isinstance(answer, dict) else {}
