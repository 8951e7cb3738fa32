"""Serve the demo's models on the loopback, in the protocol of the Hugging Face Hub; below `/mirror`, branches lag.

    python hub.py FOLDER PORT IDLE_SECONDS

FOLDER has `index.json` and, for each repo and commit, the files. The process returns as soon as the port is open, and
leaves a server that ends when nobody has asked for IDLE_SECONDS or when FOLDER is gone. Exit status 3: the port is
taken. Protocol: https://huggingface.co/docs/hub/api
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

MIRROR = "/mirror"
TAKEN = 3
_API = re.compile(r"/api/models/([\w.-]+/[\w.-]+)(?:/(revision|tree)/([^/]+))?")
_RESOLVE = re.compile(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_LFS = ".safetensors"
_TICK_SECONDS = 0.5


class _Reply(NamedTuple):
    """Hold an answer of the hub."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""


class _RefusedError(Exception):
    """Carry an error of the protocol: its status and its code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.reply = _json({"error": code}, {"X-Error-Code": code, "X-Error-Message": code}, 404)


def _json(content: Any, headers: Mapping[str, str], status: int = 200) -> _Reply:
    return _Reply(status, {"Content-Type": "application/json", **headers}, json.dumps(content).encode())


class Hub:
    """Answer requests from a folder with commits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._repos: Mapping[str, Any] = json.loads((folder / "index.json").read_text())

    def answer(self, target: str, span: str) -> _Reply:
        """Return the answer to a GET of this target and this range of bytes."""
        path = unquote(urlsplit(target).path)
        view = "mirror" if path.startswith(f"{MIRROR}/") else "hub"
        path = path.removeprefix(MIRROR) if view == "mirror" else path
        try:
            if match := _API.fullmatch(path):
                return self._api(match[1], match[2] or "revision", match[3] or "main", view)
            if match := _RESOLVE.fullmatch(path):
                return self._file(match[1], self._commit(match[1], match[2], view), match[3], span)
        except _RefusedError as refused:
            return refused.reply
        return _Reply(404, {})

    def _commit(self, repo: str, revision: str, view: str) -> str:
        known = self._repos.get(repo)
        if known is None:
            raise _RefusedError("RepoNotFound")
        commit = str(known[view]) if revision == "main" else revision
        if commit not in known["commits"]:
            raise _RefusedError("RevisionNotFound")
        return commit

    def _api(self, repo: str, part: str, revision: str, view: str) -> _Reply:
        commit = self._commit(repo, revision, view)
        headers = {"X-Repo-Commit": commit}
        files = sorted(path for path in (self.folder / repo / commit).iterdir() if path.is_file())
        if part == "tree":
            return _json([_described(path) for path in files], headers)
        when = self._repos[repo]["commits"][commit]
        listed = [{"rfilename": path.name} for path in files]
        info = {"_id": commit[:24], "id": repo, "modelId": repo, "sha": commit, "lastModified": when}
        return _json({**info, "private": False, "gated": False, "tags": [], "siblings": listed}, headers)

    def _file(self, repo: str, commit: str, name: str, span: str) -> _Reply:
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        path = self.folder / repo / commit / name
        if "/" in name or not path.is_file():
            raise _RefusedError("EntryNotFound")
        data = path.read_bytes()
        headers["ETag"] = f'"{hash_of(name, data)}"'
        wanted = _RANGE.fullmatch(span)
        if wanted is None:
            return _Reply(200, headers, data)
        start, end = int(wanted[1]), min(int(wanted[2] or len(data)) + 1, len(data))
        if start >= len(data):
            return _Reply(416, {"Content-Range": f"bytes */{len(data)}"})
        return _Reply(206, {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}, data[start:end])


def hash_of(name: str, data: bytes) -> str:
    """Return the name of a file's content on the Hub: sha256 for LFS, otherwise git's own."""
    return hashlib.sha256(data).hexdigest() if name.endswith(_LFS) else _git(data)


def _git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _described(path: Path) -> Mapping[str, Any]:
    data = path.read_bytes()
    entry = {"type": "file", "path": path.name, "size": len(data), "oid": _git(data)}
    lfs = {"oid": hash_of(path.name, data), "size": len(data), "pointerSize": 134}
    return {**entry, "lfs": lfs} if path.name.endswith(_LFS) else entry


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: Hub, port: int) -> None:
        self.hub = hub
        self.asked = time.monotonic()
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: a client may leave before its answer is complete."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self.server.asked = time.monotonic()
        reply = self.server.hub.answer(self.path, self.headers.get("Range", ""))
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(reply.body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        pass


def _end_when_idle(server: _Server, seconds: float) -> None:
    while time.monotonic() - server.asked < seconds and server.hub.folder.is_dir():
        time.sleep(_TICK_SECONDS)
    os._exit(0)


def _wake(port: int) -> bool:
    """Return whether a server listens on the port; a Hub that waits for its end waits anew."""
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as connection:
            connection.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            return bool(connection.recv(1))
    except OSError:
        return False


def _open(folder: str, port: int) -> _Server | None:
    """Return the server of a folder, None if the port is taken and answers.

    Raises OSError for a port that is taken and does not answer.
    """
    for last in (False, True):
        try:
            return _Server(Hub(Path(folder)), port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and _wake(port):
                return None
            if last or error.errno != errno.EADDRINUSE:
                raise
            time.sleep(_TICK_SECONDS)  # it is about to end
    return None


def main(folder: str, port: str, idle: str) -> int:
    """Open the port and leave a server behind; return the exit status of this process."""
    server = _open(folder, int(port))
    if server is None:
        return TAKEN
    if os.fork():
        return 0
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    server.asked = time.monotonic()
    threading.Thread(target=_end_when_idle, args=(server, float(idle)), daemon=True).start()
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
