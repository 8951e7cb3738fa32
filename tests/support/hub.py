"""A Hugging Face hub on the loopback: the library's real requests meet real answers, and a test can spoil them.

A hub has two addresses, as the real one has: `endpoint` for the API, plain files and redirects, and another origin,
which large files come from and which must never be sent a user's token. The two differ in the name of the host as well
as in the port, since not every version looks at the port. Closing a hub releases whatever it holds.
"""

from __future__ import annotations

import socket
import socketserver
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal

from tests.support.hub_answers import Answers, RefusedError, Request, Response
from tests.support.hub_files import Repo, Store

Kind = int | Literal["reset", "truncate", "hang", "wrong-bytes", "html", "no-length", "endless"]
HOSTS = ("127.0.0.1", "localhost")
PAGE = b"<!DOCTYPE html><html><body>Sign in to the network</body></html>"


@dataclass(frozen=True)
class Asked:
    """Hold a request for the log, with the status that it was answered with; 0 is for no answer at all."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    status: int


@dataclass
class Fault:
    """Spoil the answers to matching requests, at most `times` of them.

    A status, "hang" and "html" replace any answer. The others spoil a body, so they leave a HEAD or a redirect alone.
    """

    pattern: str
    kind: Kind
    times: int | None
    method: str | None
    hits: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def fits(self, request: Request, response: Response) -> bool:
        if self.times is not None and self.hits >= self.times:
            return False
        if self.pattern not in request.path or self.method not in (None, request.method):
            return False
        if isinstance(self.kind, int) or self.kind in ("hang", "html"):
            return True
        return request.method == "GET" and response.status in (200, 206)

    def clear(self) -> None:
        """Spoil nothing any more, and end the connections that hang."""
        self.times = self.hits
        self.over.set()


@dataclass
class Hold:
    """Stop the bodies of matching files after some bytes until released."""

    pattern: str
    after: int
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        self.released.set()


def spoiled(response: Response, kind: Kind) -> Response:
    """Return the answer that a fault puts in the place of the true one."""
    if isinstance(kind, int):
        headers = {"Retry-After": "1"} if kind == 429 else {}
        return RefusedError(kind, "", f"status {kind} on purpose", headers).response
    if kind == "html":
        return Response(200, {"Content-Type": "text/html; charset=utf-8"}, PAGE)
    if kind == "wrong-bytes":
        return replace(response, body=response.body.translate(bytes(reversed(range(256)))))
    return response


class Handler(BaseHTTPRequestHandler):
    """Read requests from one connection and have the hub answer them."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.hub.connections.add(self.connection)

    def finish(self) -> None:
        super().finish()
        self.server.hub.connections.discard(self.connection)

    def do_GET(self) -> None:  # noqa: N802
        self.server.hub.serve(self)

    do_HEAD = do_POST = do_GET  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        pass

    def begin(self, response: Response, length: bool = True) -> None:
        """Send the status and the headers."""
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if "Content-Length" in response.headers:
            self.close_connection = True
        elif length:
            self.send_header("Content-Length", str(len(response.body)))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()

    def reset(self) -> None:
        """End the connection with a RST: the other side gets an error and no end of file."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.server.hub.connections.discard(self.connection)
        socket.close(self.connection.detach())
        self.close_connection = True


class Server(ThreadingHTTPServer):
    """Listen on a free port of the loopback."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def origin(self, host: str) -> str:
        return f"http://{host}:{self.server_address[1]}"

    def server_bind(self) -> None:
        """Bind without the look-up of the host's name, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep a fault of the hub's own for the end of the test; a client that went away is none."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            self.hub.errors.append(error)

    def end(self) -> None:
        self.shutdown()
        self.thread.join(5)
        self.server_close()


class Hub:
    """Serve repositories on the loopback as huggingface.co would; see the module's docstring."""

    def __init__(self, *, xet: bool = False, token: str = "hf_loopback", store: Store | None = None) -> None:
        self.store = store or Store(token, xet)
        self.connections: set[socket.socket] = set()
        self.errors: list[BaseException] = []
        self._log: list[Asked] = []
        self._faults: list[Fault] = []
        self._holds: list[Hold] = []
        self._sent_on: list[tuple[str, str]] = []
        self._slow: list[tuple[str, int]] = []
        self.spoil: Callable[[Request, Response], Response] | None = None
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._servers = (Server(self), Server(self))
        self.endpoint, self.cdn = (server.origin(host) for server, host in zip(self._servers, HOSTS, strict=True))
        self._answers = Answers(self.store, self.endpoint, self.cdn)

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
        if error is None and self.errors:
            raise self.errors[0]

    def close(self) -> None:
        """Stop listening and end every connection, held and hanging ones too; nobody can connect afterwards."""
        if self._closing.is_set():
            return
        self._closing.set()
        for hold in tuple(self._holds):
            hold.release()
        for fault in tuple(self._faults):
            fault.over.set()
        for server in self._servers:
            server.end()
        for connection in tuple(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def token(self) -> str:
        """Return the one token that the hub knows."""
        return self.store.token

    def commit(
        self,
        repo: str,
        files: Mapping[str, bytes],
        *,
        repo_type: str = "model",
        branch: str = "main",
        date: datetime | None = None,
    ) -> str:
        """Add a commit of exactly these files, move the branch to it and return its hash."""
        return self.store.commit((repo_type, repo), files, branch, date)

    def tag(self, repo: str, name: str, sha: str, *, repo_type: str = "model") -> None:
        self.repo(repo, repo_type).tags[name] = sha

    def gate(
        self, repo: str, *, repo_type: str = "model", gated: bool = True, private: bool = False, granted: bool = True
    ) -> None:
        """Give the files only to the bearer of `token`, or not even to that one; private hides the repository too."""
        found = self.repo(repo, repo_type)
        found.gated, found.private, found.granted = gated, private, granted

    def repo(self, repo: str, repo_type: str = "model") -> Repo:
        return self.store.repos[repo_type, repo]

    def head(self, repo: str, branch: str = "main", *, repo_type: str = "model") -> str:
        return self.repo(repo, repo_type).branches[branch]

    def remove(self, repo: str, *, repo_type: str = "model") -> None:
        """Forget a repository, as when its owner deletes it."""
        del self.store.repos[repo_type, repo]

    def rename(self, repo: str, name: str, *, repo_type: str = "model") -> None:
        """Give a repository another name; the old one leads to it, as on the real hub."""
        moved = self.store.repos.pop((repo_type, repo))
        moved.id = name
        self.store.repos[repo_type, name] = moved
        self.store.renamed[repo_type, repo] = name

    def mirror(self) -> Hub:
        """Return another hub over the same repositories, with a log, faults and frozen branches of its own."""
        return Hub(store=self.store)

    def freeze(
        self,
        repo: str,
        branch: str = "main",
        sha: str | None = None,
        *,
        api: str | None = None,
        files: str | None = None,
        repo_type: str = "model",
    ) -> None:
        """Have a branch stay at a commit; the API and the files may stay at different ones, or only one of them stay.

        That is how a mirror with a cache lags: its API tells the old commit when its files are already the new ones.
        """
        for view, at in (("api", api or sha), ("files", files or sha)):
            if at:
                self._answers.frozen[(repo_type, repo), branch, view] = at  # type: ignore[index]

    def thaw(self) -> None:
        """Have every branch move again."""
        self._answers.frozen.clear()

    @property
    def requests(self) -> tuple[Asked, ...]:
        return tuple(self._log)

    def count(self, substring: str, method: str | None = "GET") -> int:
        """Count the requests whose path contains a text; None is for any method."""
        return sum(substring in asked.path and method in (None, asked.method) for asked in self.requests)

    def forget(self) -> None:
        """Begin a new log."""
        self._log.clear()

    @contextmanager
    def held(self, pattern: str, after: int) -> Iterator[Hold]:
        """Stop the body of each file whose path contains `pattern` after some bytes, until released or left."""
        hold = Hold(pattern, after)
        self._holds.append(hold)
        try:
            yield hold
        finally:
            hold.release()
            self._holds.remove(hold)

    def fault(self, pattern: str, kind: Kind, times: int | None = None, *, method: str | None = None) -> Fault:
        """Spoil the answers to requests whose path contains `pattern`; the first fault that fits is taken."""
        fault = Fault(pattern, kind, times, method)
        self._faults.append(fault)
        return fault

    def slow(self, pattern: str, pace: int) -> None:
        """Send the bodies of files whose path contains `pattern` at `pace` bytes a second from now on."""
        self._slow.append((pattern, pace))

    def send_on(self, pattern: str, origin: str) -> None:
        """Redirect requests whose path contains `pattern` to another origin."""
        self._sent_on.append((pattern, origin))

    def serve(self, handler: Handler) -> None:
        """Answer one request."""
        headers = handler.headers
        body = handler.rfile.read(int(headers.get("Content-Length") or 0))
        request = Request(handler.command, handler.path, headers.get("Range"), headers.get("Authorization"), body)
        response = self._redirected(request) or self._answers.answer(request)
        response = self.spoil(request, response) if self.spoil else response
        fault = self._fault(request, response)
        kind = fault.kind if fault else None
        response = response if kind is None else spoiled(response, kind)
        status = 0 if kind == "hang" else response.status
        self._log.append(Asked(request.method, request.path, request.range, request.authorization, status))
        if fault and kind == "hang":
            fault.over.wait()
            handler.close_connection = True
            return
        handler.begin(response, length=kind not in ("no-length", "endless"))
        if request.method == "HEAD":
            return
        while kind == "endless" and not self._closing.is_set():
            handler.wfile.write(b"x" * (1 << 16))
        if kind in ("reset", "truncate"):
            handler.wfile.write(response.body[: len(response.body) // 2])
            handler.close_connection = True
            if kind == "reset":
                handler.reset()
        else:
            self._send(handler, request, response)

    def _redirected(self, request: Request) -> Response | None:
        origin = next((origin for pattern, origin in self._sent_on if pattern in request.path), None)
        return Response(307, {"Location": f"{origin}{request.path}"}) if origin else None

    def _fault(self, request: Request, response: Response) -> Fault | None:
        with self._lock:
            fault = next((fault for fault in self._faults if fault.fits(request, response)), None)
            if fault:
                fault.hits += 1
            return fault

    def _send(self, handler: Handler, request: Request, response: Response) -> None:
        start = 0
        if response.status in (200, 206):
            for hold in tuple(self._holds):
                if hold.pattern in request.path and not hold.released.is_set():
                    start = min(hold.after, len(response.body))
                    handler.wfile.write(response.body[:start])
                    hold.reached.set()
                    hold.released.wait()
                    break
        pace = next((pace for pattern, pace in self._slow if pattern in request.path), None)
        step = max(1, pace // 10) if pace else len(response.body) + 1
        while start < len(response.body) and not self._closing.is_set():
            handler.wfile.write(response.body[start : start + step])
            start += step
            self._closing.wait(0.1 if pace else 0)
