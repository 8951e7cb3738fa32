"""Ready means that the app's own page answers, and keeps answering: an open port alone may be about to close again.

The page is asked directly, never through a proxy: what counts is what this machine serves.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

REQUEST_SECONDS = 5.0


class Page(NamedTuple):
    """Hold how a page answered."""

    url: str
    status: int

    @property
    def ready(self) -> bool:
        """Return whether the page can be used; a log-in (401) or a redirect (307) is an answer too."""
        return self.status < 500


def address_of(host: str | None) -> str:
    """Return the address under which this machine reaches an app that listens on `host`."""
    return {None: "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host or "127.0.0.1")


def url_of(host: str | None, port: int, scheme: str = "http") -> str:
    """Return the URL to open on this machine."""
    address = address_of(host)
    return f"{scheme}://{f'[{address}]' if ':' in address else address}:{port}"


def page(host: str | None, port: int, timeout: float = REQUEST_SECONDS) -> Page | None:
    """Return how the page answers within `timeout` seconds, by HTTP or else by HTTPS; None when it does not."""
    import http.client
    import socket

    address = address_of(host)
    if host is None and not _listens(address, port, timeout):
        address = "::1"
    for scheme in ("http", "https"):
        connection = _connection(scheme, address, port, timeout)
        try:
            with contextlib.closing(connection):
                connection.request("GET", "/", headers={"User-Agent": "start_app", "Connection": "close"})
                return Page(url_of(address, port, scheme), connection.getresponse().status)
        except (http.client.BadStatusLine, ConnectionResetError):
            continue  # how a TLS port answers plain HTTP
        except (http.client.HTTPException, OSError, socket.gaierror):
            return None
    return None


def _listens(address: str, port: int, timeout: float) -> bool:
    import socket

    try:
        socket.create_connection((address, port), timeout).close()
    except OSError:
        return False
    return True


def _connection(scheme: str, address: str, port: int, timeout: float):  # type: ignore[no-untyped-def]
    import http.client

    if scheme == "http":
        return http.client.HTTPConnection(address, port, timeout=timeout)
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False  # a self-signed certificate of the app's own is usual, and nothing is sent to it
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(address, port, timeout=timeout, context=context)
