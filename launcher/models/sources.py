"""Bytes that are already on this machine are not downloaded again: a file with the right hash is copied.

The search covers every hub cache and model folder of the app, and the folders in HF_ENDPOINT_FALLBACK. A file is read
before it is copied, and verified again afterwards, as a download is.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..cache.digests import GIT_SHA1, SHA256, Wanted, digests
from ..cache.dirs import walk
from ..config.paths import HUB_ENTRY
from .lockfile import LockedFile
from .placement import Memories
from .weights import flat_files

# _IOW(0x94, 9, int): ioctl_ficlone(2).
_FICLONE = 0x40049409
_WRITABLE = 0o222


class Source(NamedTuple):
    """Hold a file with wanted content: its path, whether it is a blob of a hub cache, and its readable name."""

    path: str
    blob: bool
    place: str


class Sources(NamedTuple):
    """Hold the places to search: hub caches by their real paths, the app's model folders, and named folders."""

    roots: tuple[str, ...]
    folders: tuple[str, ...]
    named: tuple[str, ...]
    memories: Memories

    def find(self, files: Iterable[LockedFile], besides: Collection[str] = ()) -> Mapping[str, Source]:
        """Return the paths of files with these hashes, by hash; each was read, and the paths `besides` are excluded."""
        wanted = {file.hash: file.size for file in files}
        left: dict[tuple[int, int], set[str]] = {}
        for digest, size in wanted.items():
            left.setdefault((size, len(digest)), set()).add(digest)
        sources: dict[str, Source] = {}
        for source, size in self._candidates(wanted):
            if source.path in besides or os.path.realpath(source.path) in besides:
                continue
            memory = self.memories.cached if source.blob else self.memories.local
            for file in (Wanted(source.path, SHA256), Wanted(source.path, GIT_SHA1)):
                expected = left.get((size, len(file.like)))
                if not expected:
                    continue
                with suppress(OSError):
                    digest = digests((file,), memory)[file]
                    if digest in expected:
                        expected.remove(digest)
                        sources[digest] = source
            if len(sources) == len(wanted):
                break
        return sources

    def _candidates(self, wanted: Mapping[str, int]) -> Iterator[tuple[Source, int]]:
        """Yield files that may have wanted content, by the name of a blob or by their size, and that content's size."""
        sizes = frozenset(wanted.values())
        for root in self.roots:
            for path in _blobs(root, wanted):
                yield Source(path, True, root), wanted[os.path.basename(path)]
        for path, status in flat_files(self.folders, self.roots):
            if status.st_size in sizes:
                yield Source(path, False, os.path.dirname(path)), status.st_size
        for folder in self.named:
            for entry in walk(folder):
                with suppress(OSError):
                    status = os.stat(entry.path)
                    if status.st_size in sizes and stat.S_ISREG(status.st_mode):
                        yield Source(entry.path, False, folder), status.st_size


def _blobs(root: str, wanted: Collection[str]) -> Iterator[str]:
    with suppress(OSError):
        for folder in filter(HUB_ENTRY.match, os.listdir(root)):
            with suppress(OSError):
                present = set(os.listdir(f"{root}/{folder}/blobs")).intersection(wanted)
                yield from (f"{root}/{folder}/blobs/{name}" for name in sorted(present))


def bring(source: Source, path: str, *, blob: bool) -> str:
    """Copy a file to a free path; return the method: a `reflink`, a `hard link` or a `copy`.

    A hard link is made only between blobs that no other user can write to. Raises OSError; then the path is still free.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    status = os.stat(source.path)
    if blob and source.blob and not status.st_mode & _WRITABLE:
        with suppress(OSError):
            os.link(os.path.realpath(source.path), path)
            return "hard link"
    new = f"{path}.{os.urandom(4).hex()}.incomplete"
    try:
        with open(source.path, "rb") as origin, open(new, "xb") as target:
            how = _copied(origin.fileno(), target.fileno())
            if how == "copy":
                shutil.copyfileobj(origin, target, 1 << 20)
        os.rename(new, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(new)
        raise
    return how


def _copied(origin: int, target: int) -> str:
    """Share the bytes if the file system can; otherwise let the kernel copy them, as far as it can."""
    with suppress(OSError):
        fcntl.ioctl(target, _FICLONE, origin)
        return "reflink"
    return "copy"


def into_cache(source: Source, repo: str, commit: str, name: str, digest: str) -> str:
    """Copy a file into a snapshot of a cached repo, as a blob with a link; return the method.

    Raises OSError.
    """
    blob = f"{repo}/blobs/{digest}"
    how = "link" if os.path.lexists(blob) else bring(source, blob, blob=True)
    link = f"{repo}/snapshots/{commit}/{name}"
    os.makedirs(os.path.dirname(link), exist_ok=True)
    Path(link).symlink_to(os.path.relpath(blob, os.path.dirname(link)))
    return how


def of_entries(entries: Sequence[str], base: str, home: str) -> tuple[str, ...]:
    """Return the folders in HF_ENDPOINT_FALLBACK; a relative one is in the app's folder."""
    plain = (entry.removeprefix("file://") for entry in entries)
    return tuple(os.path.normpath(os.path.join(base, home + e[1:] if e.startswith("~/") else e)) for e in plain)
