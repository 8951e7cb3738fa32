"""One look at a repo's folder serves the plan and the removal, as long as nothing in it has changed since.

Whatever comes into a folder gives it another mtime. Where that is so young that the clock may not have moved between
the look and a change, nothing is believed and the folder is looked at again.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from typing import NamedTuple

from . import layout

Stamp = tuple[int, int, int]
_SETTLED_NS = 2_000_000_000  # the coarsest mtimes count in whole seconds, and FAT's in two
_HEX = b"0123456789abcdef"
_LENGTHS = frozenset((40, 64))
_INCOMPLETE = re.compile(r".*\.incomplete", re.DOTALL)


class Glance(NamedTuple):
    """Hold a repo folder's identity, its partial downloads, and the stamp under which nobody else's files are in it.

    `partial` is None where there are no blobs to look at.
    """

    identity: layout.Identity
    partial: tuple[str, ...] | None
    clean: Stamp | None


def glance(path: str) -> Glance:
    """Look at a repo's folder; one that cannot be read is not clean. Raises OSError where it is gone."""
    now = time.time_ns()
    found = os.lstat(path)
    stamp = stamp_of(path, found)
    try:
        blobs: list[bytes] | None = os.listdir(os.fsencode(f"{path}/blobs"))
    except OSError:
        blobs = None
    loose = blobs if blobs and not _all_hashes(blobs) else []
    names = [os.fsdecode(name) for name in loose]
    clean = None
    settled = now - max(stamp) > _SETTLED_NS
    strange = not settled or any(not (layout.HASH.fullmatch(name) or layout.is_partial(name)) for name in names)
    with suppress(OSError):
        strange = strange or _has_strange_parts(path)
        clean = None if strange else stamp
    partial = tuple(filter(_INCOMPLETE.fullmatch, names))
    return Glance((found.st_dev, found.st_ino), None if blobs is None else partial, clean)


def stamp_of(path: str, found: os.stat_result) -> Stamp:
    """Return when anything last came into a repo's folder, which was `found`, its blobs and snapshots, or left them."""
    return found.st_mtime_ns, _changed(f"{path}/blobs"), _changed(f"{path}/snapshots")


def has_strangers(path: str) -> bool:
    """Return whether a repo's folder may hold what is not huggingface_hub's; to be sure, it must be read."""
    if _has_strange_parts(path):
        return True
    with suppress(FileNotFoundError, NotADirectoryError):
        names = os.listdir(os.fsencode(f"{path}/blobs"))
        if not _all_hashes(names):
            return not all(layout.HASH.fullmatch(name) or layout.is_partial(name) for name in map(os.fsdecode, names))
    return False


def _has_strange_parts(path: str) -> bool:
    names = os.listdir(path)
    if not layout.REPO_PARTS.issuperset(names) and any(map(layout.is_foreign, names)):
        return True
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(f"{path}/snapshots") as found:
        return not all(entry.is_dir(follow_symlinks=False) for entry in found)
    return False


def _all_hashes(names: list[bytes]) -> bool:
    # Nearly always all of them are whole blobs, and one look at a great many letters is soon done.
    return set(map(len, names)) <= _LENGTHS and not b"".join(names).translate(None, _HEX)


def _changed(path: str) -> int:
    try:
        return os.lstat(path).st_mtime_ns
    except OSError:
        return -1
