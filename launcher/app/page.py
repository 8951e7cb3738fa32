"""Ready means that the app's own page answers repeatedly: an open port alone may be about to close again.

The request never goes through a proxy, because it checks what this machine serves. No request leaves a connection in
TIME_WAIT on the app's port, where it would prevent a restart of an app that binds without SO_REUSEADDR (Gradio 3): the
connection is kept alive, the answer is read to its end, and the client closes first. If the server closes first
(HTTP/1.0), the client resets its end, which removes the server's state: RFC 9293, section 3.10.7.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import ssl

REQUEST_SECONDS = 10.0
_BODY_SECONDS = 2.0
_MOST_HEAD = 1 << 16
_MOST_BODY = 4 << 20
_SLICE_SECONDS = 0.2
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)[ \r]")
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection:[^\r]*close", re.IGNORECASE)
_KIND = re.compile(rb"\r\ncontent-type:\s*([\w.+-]+/[\w.+-]+)", re.IGNORECASE)


class Page(NamedTuple):
    """Hold a page's answer; `kind` is its media type, blank without one."""

    url: str
    status: int
    kind: str = ""
    gradio: bool = False

    @property
    def ready(self) -> bool:
        """Return whether the page is usable; a log-in (401) or a redirect (307) is an answer too."""
        return self.status < 500

    @property
    def for_people(self) -> bool:
        """Return whether it looks like the page of an app, not like an API or metrics."""
        return (self.status < 400 or self.status == 401) and self.kind in ("", "text/html")


def address_of(host: str | None) -> str:
    """Return the address at which this machine reaches an app that listens on `host`."""
    return {None: "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host or "127.0.0.1")


def host_to_ask(asked: str | None, addresses: Collection[str]) -> str | None:
    """Return where to request the page of an app that should use `asked` and listens on these addresses."""
    if asked in addresses or not addresses:
        return asked
    local = next((address for address in ("127.0.0.1", "0.0.0.0", "::1", "::") if address in addresses), None)
    return local or next(iter(addresses))


def url_of(host: str | None, port: int, scheme: str = "http") -> str:
    """Return the URL to open on this machine."""
    address = address_of(host)
    return f"{scheme}://{f'[{address}]' if ':' in address else address}:{port}"


def page(
    host: str | None, port: int, timeout: float = REQUEST_SECONDS, tick: Callable[[], None] = lambda: None
) -> Page | None:
    """Return the page's answer, by HTTP or else by HTTPS; None without one within `timeout` seconds in total.

    `tick` is called regularly meanwhile.
    """
    deadline = time.monotonic() + timeout
    addresses = ("127.0.0.1", "::1") if host is None else (address_of(host),)
    for address in addresses:
        for scheme in ("http", "https"):
            question = _Question(address, port, scheme, deadline, tick)
            try:
                answer = question.ask()
            except ConnectionRefusedError:
                break  # try the other address, if any
            except OSError:
                continue  # a TLS port resets a plain HTTP connection
            if answer is not None:
                return answer
            if time.monotonic() >= deadline:
                return None
    return None


class _Question:
    """Hold one request for `/`."""

    def __init__(self, address: str, port: int, scheme: str, deadline: float, tick: Callable[[], None]) -> None:
        self._place = (address, port)
        self._scheme = scheme
        self._deadline = deadline
        self._tick = tick
        self._data = b""
        self._ended = False

    def ask(self) -> Page | None:
        """Return the answer, None without one or if it is not HTTP. Raises OSError."""
        connection = socket.create_connection(self._place, max(0.01, self._left()))
        try:
            stream = self._secured(connection) if self._scheme == "https" else connection
            with stream:
                stream.settimeout(max(0.01, self._left()))
                stream.sendall(self._request())
                return self._answer(stream)
        finally:
            connection.close()

    def _request(self) -> bytes:
        address, port = self._place
        name = f"[{address}]" if ":" in address else address
        return f"GET / HTTP/1.1\r\nHost: {name}:{port}\r\nUser-Agent: start_app\r\nAccept: */*\r\n\r\n".encode()

    def _answer(self, stream: socket.socket) -> Page | None:
        match = None
        try:
            while not match and len(self._data) < _MOST_HEAD and self._receive(stream, self._deadline):
                match = _STATUS.match(self._data)
                if not match and len(self._data) > 16:
                    return None  # it is not HTTP
            if match:
                self._read_rest(stream)
        finally:
            if not match or self._server_closes():
                _reset_when_closed(stream)
        if not match:
            return None
        head, _, body = self._data.partition(b"\r\n\r\n")
        kind = _KIND.search(head)
        text = kind[1].decode("ascii").lower() if kind else ""
        status = int(match[1])
        return Page(url_of(*self._place, self._scheme), status, text, b"gradio" in body.lower())

    def _read_rest(self, stream: socket.socket) -> None:
        """Read the rest of the answer; only the connection needs it, because the status is known."""
        deadline = min(self._deadline, time.monotonic() + _BODY_SECONDS)
        with suppress(OSError):
            while not self._is_whole() and len(self._data) < _MOST_BODY and self._receive(stream, deadline):
                pass
            if self._server_closes():
                while not self._ended and self._receive(stream, deadline):
                    pass

    def _is_whole(self) -> bool:
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end:
            return False
        length = _LENGTH.search(head)
        if _CHUNKED.search(head):
            return body.endswith(b"0\r\n\r\n")
        return len(body) >= int(length[1]) if length else False

    def _server_closes(self) -> bool:
        head = self._data.partition(b"\r\n\r\n")[0]
        return self._ended or head.startswith(b"HTTP/1.0") or bool(_CLOSES.search(head)) or not self._is_whole()

    def _receive(self, stream: socket.socket, deadline: float) -> bool:
        """Receive more, and return whether more data came before the end or the deadline."""
        while (left := deadline - time.monotonic()) > 0:
            stream.settimeout(min(_SLICE_SECONDS, left))
            try:
                block = stream.recv(1 << 16)
            except TimeoutError:
                self._tick()
                continue
            self._data += block
            self._ended = not block
            return bool(block)
        return False

    def _secured(self, connection: socket.socket) -> ssl.SSLSocket:
        import ssl

        context = ssl.create_default_context()
        context.check_hostname = False  # apps often use a self-signed certificate, and the request contains no secrets
        context.verify_mode = ssl.CERT_NONE
        connection.settimeout(max(0.01, self._left()))
        return context.wrap_socket(connection)

    def _left(self) -> float:
        return self._deadline - time.monotonic()


def _reset_when_closed(connection: socket.socket) -> None:
    """Make the close send a reset, so that neither side keeps state of the connection: socket(7), SO_LINGER."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
