"""What a root holds, by name: repos, their locks, our trash, and what is none of these and never touched."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from typing import NamedTuple

from ..config.paths import HUB_ENTRY
from . import store
from .roots import TRASH

LOCKS = ".locks"
HELPERS = frozenset((".DS_Store", "Thumbs.db", "desktop.ini"))  # as huggingface_hub: the system's, of no account
_ROOT_PARTS = frozenset((LOCKS, "CACHEDIR.TAG"))
_OCTAL = re.compile(rb"\\([0-7]{3})")


class Contents(NamedTuple):
    """Hold the names in a root: repo folders, what only looks like one and why, lock folders, trash, and the rest."""

    entries: tuple[str, ...]
    strange: Mapping[str, str]
    locks: tuple[str, ...]
    trash: tuple[str, ...]
    foreign: tuple[str, ...]
    store: bool


def contents(root: str) -> Contents:
    """Look at a root without looking into its repos; a root that is not there is empty.

    Raises OSError when it is there and cannot be read.
    """
    entries, trash, foreign = [], [], []
    strange: dict[str, str] = {}
    try:
        found = os.scandir(root)
    except FileNotFoundError:
        return Contents((), {}, (), (), (), False)
    has_store = store.is_store(root)
    mounted = mounts(root)
    owner = os.stat(root).st_uid
    with found:
        for entry in found:
            if entry.name.startswith(TRASH):
                if _is_ours(entry, owner):
                    trash.append(entry.name)
            elif HUB_ENTRY.match(entry.name):
                if entry.is_symlink():
                    strange[entry.name] = f"it is a link to {_link(entry.path)}"
                elif not entry.is_dir(follow_symlinks=False):
                    strange[entry.name] = "it is no folder"
                elif entry.name in mounted:
                    strange[entry.name] = f"something is mounted on {mounted[entry.name]}"
                else:
                    entries.append(entry.name)
            elif entry.name not in _ROOT_PARTS | HELPERS and not (entry.name == store.FOLDER and has_store):
                foreign.append(entry.name)
    return Contents(
        tuple(sorted(entries)), strange, _lock_folders(root), tuple(trash), tuple(sorted(foreign)), has_store
    )


def exists(root: str) -> bool:
    """Return whether a root is there at all."""
    return os.path.isdir(root)


def mounts(root: str) -> Mapping[str, str]:
    """Return the entries of a root that are or hold a mount point, with that path."""
    prefix = root.rstrip("/") + "/"
    return {point[len(prefix) :].partition("/")[0]: point for point in mount_points(root)}


def mount_points(root: str) -> frozenset[str]:
    """Return every mount point below a root, by proc_pid_mountinfo(5)."""
    prefix = root.rstrip("/") + "/"
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            points = [os.fsdecode(unescaped(line.split(None, 5)[4])) for line in file]
    except (OSError, IndexError):
        return frozenset()
    return frozenset(point for point in points if point.startswith(prefix))


def unescaped(path: bytes) -> bytes:
    """Return a path of a file in /proc, where blanks, newlines and backslashes are written in octal."""
    return _OCTAL.sub(lambda match: bytes((int(match[1], 8),)), path)


def _is_ours(entry: os.DirEntry[str], owner: int) -> bool:
    """Return whether trash is of this user's making; root takes the cache's owner's for its own, nobody else's."""
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    users = (os.geteuid(), owner) if os.geteuid() == 0 else (os.geteuid(),)
    return not stat.S_ISLNK(found.st_mode) and found.st_uid in users


def _lock_folders(root: str) -> tuple[str, ...]:
    try:
        with os.scandir(f"{root}/{LOCKS}") as found:
            return tuple(sorted(e.name for e in found if HUB_ENTRY.match(e.name) and e.is_dir(follow_symlinks=False)))
    except OSError:
        return ()


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return "nowhere"
