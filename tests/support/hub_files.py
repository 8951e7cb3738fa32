"""A hub's content is immutable and named by its hashes, the same as on the real one.

A plain file is a git blob: its name is the sha1 of `blob <size>\\0` and the data. A large one is an LFS object: its
name is the sha256 of the data, and git holds a small pointer to it. With Xet it has one more name, by which the cache
shares it between repositories. That one is computed otherwise here than on the real hub (a sha256 and no tree of
keyed BLAKE3 hashes): no client recomputes it, and equal content has equal names, which is all that sharing needs.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

LFS_SUFFIXES = (".safetensors", ".bin", ".pth", ".gguf")
LFS_SIZE = 1 << 20
CHUNK = 64 << 10
CHUNKS_PER_XORB = 512


def git_sha(data: bytes, kind: str = "blob") -> str:
    """Return the name that git gives to an object."""
    digest = hashlib.sha1(f"{kind} {len(data)}\0".encode())
    digest.update(data)
    return digest.hexdigest()


@dataclass(frozen=True)
class File:
    """Hold a file's data and its names; a plain file has no sha256 and no Xet hash."""

    data: bytes = field(repr=False)
    blob: str
    sha256: str | None = None
    xet: str | None = None
    pointer_size: int = 0

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def etag(self) -> str:
        return self.sha256 or self.blob

    @property
    def lfs(self) -> dict[str, Any] | None:
        if self.sha256 is None:
            return None
        return {"oid": self.sha256, "sha256": self.sha256, "size": self.size, "pointerSize": self.pointer_size}


def make_file(path: str, data: bytes, xet: bool = False) -> File:
    """Name a file's content as the hub would; git-lfs leaves an empty file to git."""
    if not data or (not path.endswith(LFS_SUFFIXES) and len(data) < LFS_SIZE):
        return File(data, git_sha(data))
    sha256 = hashlib.sha256(data).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()
    name = hashlib.sha256(b"xet\0" + sha256.encode()).hexdigest() if xet else None
    return File(data, git_sha(pointer), sha256, name, len(pointer))


@dataclass(frozen=True)
class Commit:
    """Hold one state of a repository."""

    sha: str
    parent: str | None
    files: Mapping[str, File]
    date: datetime

    @property
    def when(self) -> str:
        return self.date.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def make_commit(files: Mapping[str, File], parent: str | None, date: datetime | None) -> Commit:
    """Name a commit by its content and its parent, so that a test meets the same hashes every time."""
    listing = "".join(f"{file.blob} {path}\n" for path, file in sorted(files.items()))
    sha = git_sha(f"parent {parent}\n{listing}".encode(), "commit")
    return Commit(sha, parent, dict(sorted(files.items())), date or datetime.now(timezone.utc))


@dataclass
class Repo:
    """Hold a repository: its commits, what names them, and who may have its files."""

    id: str
    type: str
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    granted: bool = True


@dataclass
class Store:
    """Hold what a hub and its mirrors share."""

    token: str
    xet: bool
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    renamed: dict[tuple[str, str], str] = field(default_factory=dict)
    contents: dict[str, File] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def commit(self, key: tuple[str, str], files: Mapping[str, bytes], branch: str, date: datetime | None) -> str:
        named = {path: make_file(path, data, self.xet) for path, data in files.items()}
        with self.lock:
            for file in named.values():
                self.contents.update((name, file) for name in (file.sha256, file.xet) if name)
            repo = self.repos.setdefault(key, Repo(key[1], key[0]))
            parent = repo.branches.get(branch) or repo.branches.get("main")
            commit = make_commit(named, parent, date)
            repo.commits.setdefault(commit.sha, commit)
            repo.branches[branch] = commit.sha
        return commit.sha


def xorb_name(file: File, number: int) -> str:
    return hashlib.sha256(f"xorb {number} of {file.xet}".encode()).hexdigest()


def xorb(file: File, number: int) -> bytes:
    """Pack a part of a file as Xet stores it: 8 bytes of header before each uncompressed chunk.

    https://huggingface.co/docs/xet/xorb
    """
    start = number * CHUNKS_PER_XORB * CHUNK
    parts = []
    for offset in range(start, min(start + CHUNKS_PER_XORB * CHUNK, file.size), CHUNK):
        chunk = file.data[offset : offset + CHUNK]
        size = len(chunk).to_bytes(3, "little")
        parts += [b"\0", size, b"\0", size, chunk]
    return b"".join(parts)


@dataclass(frozen=True)
class Term:
    """Hold a run of a file's chunks in one xorb: the chunks' numbers in it, and the bytes that they take there."""

    xorb: int
    chunks: tuple[int, int]
    packed: tuple[int, int]
    unpacked: int


def terms(file: File, start: int, end: int) -> Iterator[Term]:
    """Yield the runs of chunks that hold the bytes from start to end of a file."""
    first, last = start // CHUNK, -(-end // CHUNK)
    while first < last:
        number = first // CHUNKS_PER_XORB
        stop = min(last, (number + 1) * CHUNKS_PER_XORB)
        base = number * CHUNKS_PER_XORB
        unpacked = min(stop * CHUNK, file.size) - first * CHUNK
        offset = (first - base) * (CHUNK + 8)
        packed = (offset, offset + unpacked + 8 * (stop - first) - 1)
        yield Term(number, (first - base, stop - base), packed, unpacked)
        first = stop
