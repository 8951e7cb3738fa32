"""Ready means that the app's own page answers, and keeps answering: an open port alone may be about to close again.

The page is asked directly, never through a proxy: what counts is what this machine serves. No question leaves a
connection in TIME_WAIT on the app's port, where it would keep an app that binds plainly (Gradio 3) from starting again:
the connection is kept alive, the answer read to its end, and the asker closes first. Where the server closes first
(HTTP/1.0), the asker ends its side with a reset, which removes what the server has left: RFC 9293, section 3.10.7.
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
    """Hold how a page answered; `kind` is its media type, blank where it says none."""

    url: str
    status: int
    kind: str = ""
    gradio: bool = False

    @property
    def ready(self) -> bool:
        """Return whether the page can be used; a log-in (401) or a redirect (307) is an answer too."""
        return self.status < 500

    @property
    def for_people(self) -> bool:
        """Return whether it looks like the page of an app, and not like an API or the numbers of a monitor."""
        return (self.status < 400 or self.status == 401) and self.kind in ("", "text/html")


def address_of(host: str | None) -> str:
    """Return the address under which this machine reaches an app that listens on `host`."""
    return {None: "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host or "127.0.0.1")


def host_to_ask(asked: str | None, addresses: Collection[str]) -> str | None:
    """Return where to ask for the page of an app that was told `asked` and listens on these addresses."""
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
    """Return how the page answers, by HTTP or else by HTTPS; None when it does not within `timeout` seconds in all.

    `tick` is called every now and then meanwhile.
    """
    deadline = time.monotonic() + timeout
    addresses = ("127.0.0.1", "::1") if host is None else (address_of(host),)
    for address in addresses:
        for scheme in ("http", "https"):
            question = _Question(address, port, scheme, deadline, tick)
            try:
                answer = question.ask()
            except ConnectionRefusedError:
                break  # the other address, if there is one
            except OSError:
                continue  # a TLS port resets what speaks plain HTTP
            if answer is not None:
                return answer
            if time.monotonic() >= deadline:
                return None
    return None


class _Question:
    """One request for `/`."""

    def __init__(self, address: str, port: int, scheme: str, deadline: float, tick: Callable[[], None]) -> None:
        self._place = (address, port)
        self._scheme = scheme
        self._deadline = deadline
        self._tick = tick
        self._data = b""
        self._ended = False

    def ask(self) -> Page | None:
        """Return the answer, None for none or one that is not HTTP. Raises OSError."""
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
                    return None  # it does not speak HTTP
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
        """Read the answer to its end, which is for courtesy only: how it began is known."""
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
        """Receive more, and return whether there was more before the end or the deadline."""
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
        context.check_hostname = False  # a self-signed certificate of the app's own is usual, and nothing is sent to it
        context.verify_mode = ssl.CERT_NONE
        connection.settimeout(max(0.01, self._left()))
        return context.wrap_socket(connection)

    def _left(self) -> float:
        return self._deadline - time.monotonic()


def _reset_when_closed(connection: socket.socket) -> None:
    """Have the close send a reset, so that nothing is left of the connection on either side: socket(7), SO_LINGER."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
