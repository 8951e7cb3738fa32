"""Remember verified files by device, inode, size, mtime, ctime and hash, so that they are not read again.

Every write changes the ctime, except through a mapping that was open before.
"""

from __future__ import annotations

import os
from collections.abc import Collection

# A second write within one tick of the clock leaves the same ctime, so a file this young is read again next time.
_SETTLED_SECONDS = 0.1
# FAT has a resolution of two seconds, ext4 with 128-byte inodes and old NFS of one.
_SETTLED_COARSE_SECONDS = 2.1
_SECOND = 1_000_000_000
_HEXADECIMAL = b"0123456789abcdef"


class Memory:
    """Hold the verified files, one line each with everything that identifies the file."""

    def __init__(self, data: bytes = b"") -> None:
        self._known = frozenset(data.split(b"\n"))
        self._seen: set[bytes] = set()
        self._fresh: set[bytes] = set()
        self._hashes: dict[tuple[bytes, int], str] | None = None
        self.grown = False

    def knows(self, line: bytes) -> bool:
        """Return whether exactly this file was verified, earlier or just now."""
        if line not in self._known and line not in self._seen:
            return False
        self._seen.add(line)
        return True

    def knows_all(self, lines: Collection[bytes]) -> bool:
        """Return whether each of these files was verified earlier."""
        known = self._known.issuperset(lines)
        if known:
            self._seen.update(lines)
        return known

    def remember(self, line: bytes) -> None:
        """Note a verified file."""
        self._seen.add(line)
        self._index(line)
        self.grown = True

    def notice(self, line: bytes) -> None:
        """Note a file that was read so soon after a write that only this run may rely on it, and only by `hash_of`."""
        self._fresh.add(line)
        self._index(line)

    def hash_of(self, status: os.stat_result, like: str) -> str | None:
        """Return the known hash of exactly this file, in the form of `like`; None if unknown."""
        if self._hashes is None:
            self._hashes = {}
            for line in self._known | self._seen | self._fresh:
                self._index(line)
        return self._hashes.get((line_of(status, "")[:-1], len(like)))

    def forget(self, line: bytes) -> None:
        """Forget a damaged file."""
        self._known -= {line}
        self._seen -= {line}
        self._hashes = None

    def _index(self, line: bytes) -> None:
        """Add one line to the index of `hash_of`, if it exists: with thousands of files, none is built for each."""
        if self._hashes is not None:
            look, _, digest = line.rpartition(b" ")
            if not digest.strip(_HEXADECIMAL):  # a spoiled line has other bytes
                self._hashes[look, len(digest)] = digest.decode()

    def data(self, *, everything: bool) -> bytes:
        """Return the lines to save; after a full scan, drop the files that were not seen again."""
        return b"\n".join(sorted((self._seen if everything else self._seen | self._known) - {b""}))


def line_of(status: os.stat_result, expected: str) -> bytes:
    """Return everything that identifies a file with this hash."""
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    return f"{status.st_dev} {status.st_ino} {status.st_size} {times} {expected}".encode()


def settled(status: os.stat_result, moment: float) -> bool:
    """Return whether a write after `moment`, seconds since the epoch, would change the file's ctime.

    Times in whole seconds mean that the file system has no finer resolution.
    """
    coarse = status.st_ctime_ns % _SECOND == 0 and status.st_mtime_ns % _SECOND == 0
    return moment - status.st_ctime > (_SETTLED_COARSE_SECONDS if coarse else _SETTLED_SECONDS)
