"""Caches in the hub's own layout, made by hand: a library that downloads forty thousand files takes too long.

Where the content is read, a blob's name is its hash, as the hub has it; where it is not, it only looks like one.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from .measure import BenchmarkError

OWNER = "bench"
REFS = ("main", "v1")
BIG = "big"
_CONTENT = b"what is in such a file is of no interest to whoever lists or removes it\n"
_BLOCK = 1 << 20
_FILE_BYTES = 8192  # what a small file takes in memory at most: its page, its inode, its name, the link to it
_SPARE = 1.3


class Shape(NamedTuple):
    """Hold how many repos, revisions in each, and files in each of those; a file is a blob of its own and a link."""

    repos: int
    revisions: int
    files: int

    @property
    def entries(self) -> int:
        """Return the number of blobs and links."""
        return 2 * self.repos * self.revisions * self.files

    def make(self, root: Path) -> None:
        """Make a cache of this shape."""
        for number in range(self.repos):
            self.make_repo(root, number)

    def make_repo(self, root: Path, number: int) -> None:
        """Make one of its repos."""
        path = f"{root}/{folder(number)}"
        for part in ("blobs", "refs", "snapshots"):
            os.makedirs(f"{path}/{part}")
        os.makedirs(f"{root}/.locks/{folder(number)}", exist_ok=True)
        for revision, ref in zip(range(self.revisions), REFS, strict=False):
            commit = hashlib.sha1(f"{number} {revision}".encode()).hexdigest()
            snapshot = f"{path}/snapshots/{commit}"
            os.mkdir(snapshot)
            _write(f"{path}/refs/{ref}", commit.encode())
            for file in range(self.files):
                blob = hashlib.sha256(f"{number} {revision} {file}".encode()).hexdigest()
                _write(f"{path}/blobs/{blob}", _CONTENT)
                _link(f"../../blobs/{blob}", f"{snapshot}/file-{file:05}.safetensors")


def name(number: int) -> str:
    """Return the id of a repo."""
    return f"{OWNER}/model-{number:05}"


def folder(number: int) -> str:
    """Return the folder of a repo."""
    return f"models--{name(number).replace('/', '--')}"


class Big(NamedTuple):
    """Hold a repo of a few large files: where it is, and what a hub would tell of its one commit."""

    repo: str
    root: Path
    files: int
    size: int
    commit: str
    tree: tuple[Mapping[str, Any], ...]


def make_big(root: Path, files: int, size: int) -> Big:
    """Make a repo of large files whose names are the hashes of what is in them."""
    path = f"{root}/models--{OWNER}--{BIG}"
    commit = hashlib.sha1(BIG.encode()).hexdigest()
    snapshot = f"{path}/snapshots/{commit}"
    for place in (f"{path}/blobs", f"{path}/refs", snapshot):
        os.makedirs(place)
    _write(f"{path}/refs/main", commit.encode())
    block = random.Random(BIG).randbytes(_BLOCK - 8)
    tree = []
    for number in range(files):
        hasher = hashlib.sha256()
        with open(f"{path}/blobs/new", "wb") as file:
            for position in range(size // _BLOCK):
                for piece in ((number << 32 | position).to_bytes(8, "big"), block):
                    file.write(piece)
                    hasher.update(piece)
        blob, called = hasher.hexdigest(), f"model-{number + 1:05}-of-{files:05}.safetensors"
        os.rename(f"{path}/blobs/new", f"{path}/blobs/{blob}")
        _link(f"../../blobs/{blob}", f"{snapshot}/{called}")
        lfs = {"oid": blob, "size": size, "pointerSize": 135}
        tree.append({"type": "file", "oid": blob[:40], "size": size, "path": called, "lfs": lfs})
    return Big(f"{OWNER}/{BIG}", root, files, size, commit, tuple(tree))


@contextmanager
def hub(big: Big) -> Iterator[str]:
    """Answer the one question that `hf cache verify` asks of a hub, which hashes a commit has; yield the endpoint."""
    answers = {f"/api/models/{big.repo}/tree/{big.commit}": json.dumps(big.tree).encode()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = answers.get(self.path.partition("?")[0])
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def big_size(place: Path, files: int, size: int) -> int:
    """Return the size, at most `size`, of which so many files leave this machine some memory."""
    while size > _BLOCK and files * size * _SPARE > _free(place):
        size //= 2
    return size


def refuse_too_many(place: Path, entries: int) -> None:
    """Refuse a cache of more files than there is memory for.

    Raises BenchmarkError.
    """
    inodes = os.statvfs(place).f_favail or entries * 2
    if entries // 2 * _FILE_BYTES * _SPARE > _free(place) or entries * _SPARE > inodes:
        raise BenchmarkError(f"a cache of {entries} files is more than {place} has room for")


def _free(place: Path) -> int:
    found = os.statvfs(place)
    free = found.f_bavail * found.f_frsize
    with open("/proc/meminfo", encoding="ascii") as file:
        memory = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    return min(free, memory)


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(descriptor, data)
    os.close(descriptor)


def _link(target: str, path: str) -> None:
    os.symlink(target, path)  # noqa: PTH211 - a Path for each of a million costs more than the link
