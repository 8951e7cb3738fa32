"""Limit a hub's responses to their announced size, count the bytes that arrive, and keep the token from other hosts.

A hub is a stranger: it can send an endless body, or a few megabytes that unpack to gigabytes. So the transports of the
HTTP libraries are wrapped, because every request of every version of huggingface_hub passes them: requests before 1.0,
httpx before 2.0, httpx2 since. hf_xet and hf_transfer have clients of their own; RLIMIT_FSIZE limits the files that
they write.

The worker loads this module by path, so it imports nothing of the launcher.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

_PIECE = 1 << 20
_HTTPX = ("httpx", "httpx2")
_BOUNDED = "_start_app_bounded"
# struct tcp_info in <linux/tcp.h>: eight bytes, 24 numbers of four, two rates of eight, tcpi_bytes_acked.
_BYTES_RECEIVED = slice(128, 136)
_allowed = threading.local()
_trusted: set[tuple[str, str, int | None]] = set()


class TooMuchError(Exception):
    """Signal that a body is too long."""


class UnknownCodingError(Exception):
    """Signal a content coding that was not requested."""


def allow(most: int | None) -> None:
    """Limit the bodies of this thread's further requests: bytes after unpacking, None for no limit."""
    _allowed.most = most


def trust(endpoints: Iterable[str]) -> None:
    """Let the user's token go to these hubs only: a list of files may continue at any address that a hub names."""
    _trusted.update(map(_origin, endpoints))


def _is_bearer(request: Any) -> bool:
    """Return whether a request has a token; the password of an address is another kind of authorization."""
    return str(request.headers.get("Authorization", "")).lower().startswith("bearer ")


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def bound_bodies() -> None:
    """Wrap the transports of the imported HTTP libraries."""
    for name in _HTTPX:
        library = sys.modules.get(name)
        if library is not None:
            _wrap(library.HTTPTransport, "handle_request", _bound_httpx)
    requests = sys.modules.get("requests")
    if requests is not None:
        _wrap(requests.adapters.HTTPAdapter, "send", _bound_requests)


def _wrap(owner: Any, method: str, bound: Any) -> None:
    original = getattr(owner, method)
    if hasattr(original, _BOUNDED):
        return

    def wrapped(self: Any, request: Any, *arguments: Any, **keywords: Any) -> Any:
        if _is_bearer(request) and _origin(str(request.url)) not in _trusted:
            del request.headers["Authorization"]
        if request.headers.get("Accept-Encoding") != "identity":
            request.headers["Accept-Encoding"] = "gzip, deflate"
        response = original(self, request, *arguments, **keywords)
        most = getattr(_allowed, "most", None)
        if most is None or request.method == "HEAD":
            return response
        try:
            coding = _coding(response, most)
        except Exception:
            response.close()
            raise
        return bound(response, coding, most)

    setattr(wrapped, _BOUNDED, True)
    setattr(owner, method, wrapped)


def _coding(response: Any, most: int) -> str:
    """Return the content coding of a body, and remove it and the length from the headers, so that we alone unpack it.

    Raises TooMuchError for a length over the limit, and UnknownCodingError.
    """
    coding = str(response.headers.get("Content-Encoding", "")).strip().lower()
    if coding in ("", "identity"):
        length = str(response.headers.get("Content-Length", ""))
        if length.isascii() and length.isdigit() and int(length) > most:
            raise TooMuchError(f"it sends {int(length)} bytes, and at most {most} were announced")
        return ""
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise UnknownCodingError(f"its answer is packed as {coding[:40]!r}, which was not asked for")
    raw_headers = getattr(getattr(response, "raw", None), "headers", {})  # of urllib3, which requests uses
    for headers in (response.headers, raw_headers):
        for name in ("Content-Encoding", "Content-Length"):
            if name in headers:
                del headers[name]
    return coding


def _bound_httpx(response: Any, coding: str, most: int) -> Any:
    library = sys.modules[type(response).__module__.partition(".")[0]]
    inner = response.stream

    def iterate(_: Any) -> Iterator[bytes]:
        return bounded(inner, coding, most)

    def close(_: Any) -> None:
        inner.close()

    kind = type("Bounded", (library.SyncByteStream,), {"__iter__": iterate, "close": close})
    response.stream = kind()
    return response


def _bound_requests(response: Any, coding: str, most: int) -> Any:
    original = response.iter_content

    def iter_content(chunk_size: int | None = 1, decode_unicode: bool = False) -> Iterator[bytes]:  # noqa: ARG001
        return bounded(original(chunk_size if chunk_size and chunk_size > 1 else 1 << 16), coding, most)

    response.iter_content = iter_content
    return response


def bounded(chunks: Iterable[bytes], coding: str, most: int) -> Iterator[bytes]:
    """Yield a body, unpacked piece by piece, and raise TooMuchError at the first byte over `most`."""
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 32) if coding else None  # zlib.h: 32 detects gzip and zlib
    count = 0
    for chunk in chunks:
        for piece in _unpacked(decoder, chunk) if decoder else (chunk,):
            count += len(piece)
            if count > most:
                raise TooMuchError(f"it sends more than the {most} bytes that were announced")
            yield piece


def _unpacked(decoder: Any, chunk: bytes) -> Iterator[bytes]:
    while True:
        piece = decoder.decompress(chunk, _PIECE)
        if piece:
            yield piece
        chunk = decoder.unconsumed_tail
        if not chunk and len(piece) < _PIECE:
            return


class Arrivals:
    """Count the bytes that the TCP connections of this process have received, including closed ones.

    No version of huggingface_hub reports the progress of a Xet file: hf_xet writes it in large steps, minutes apart on
    a slow line. The kernel counts for each socket: tcp(7), TCP_INFO.
    """

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def count(self) -> int:
        """Return the bytes so far; 0 on a system that does not report them."""
        with suppress(OSError):
            for name in os.listdir("/proc/self/fd"):
                with suppress(OSError, ValueError):
                    self._look(int(name))
        return sum(self._seen.values())

    def _look(self, descriptor: int) -> None:
        target = os.readlink(f"/proc/self/fd/{descriptor}")
        if not target.startswith("socket:"):
            return
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        received = int.from_bytes(info[_BYTES_RECEIVED], sys.byteorder)
        self._seen[target] = max(received, self._seen.get(target, 0))
