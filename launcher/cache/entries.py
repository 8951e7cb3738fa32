"""Sort the entries of a root by name: repos, their locks, our trash, and foreign entries, which are never touched."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from ..config.paths import HUB_ENTRY, MOVE
from ..system.files import give_to_owner, names_in, open_folder, open_regular, read_regular
from . import store
from .names import TRASH, is_new_ref, is_trash

LOCKS = ".locks"
HELPERS = frozenset((".DS_Store", "Thumbs.db", "desktop.ini"))  # made by the system; huggingface_hub ignores them too
MARK = ".start_app"
_ROOT_PARTS = frozenset((LOCKS, "CACHEDIR.TAG"))
_OCTAL = rb"\\([0-7]{3})"
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Contents(NamedTuple):
    """Hold the names in a root.

    `entries` are the repo folders, `links` the destinations of those that are links, `mounted` the mount points at or
    in some of them. `lookalikes` have the name of a repo but are none, each with the reason.
    """

    entries: tuple[str, ...] = ()
    links: Mapping[str, str] = {}
    mounted: Mapping[str, str] = {}
    lookalikes: Mapping[str, str] = {}
    locks: tuple[str, ...] = ()
    trash: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    store: bool = False


def is_reserved(path: str) -> bool:
    """Return whether huggingface_hub or the launcher uses the first part of this path in a root."""
    first = path.partition("/")[0]
    return (
        first in {*_ROOT_PARTS, store.FOLDER, MARK} or first.startswith((TRASH, MOVE)) or bool(HUB_ENTRY.match(first))
    )


def contents(root: str) -> Contents:
    """List a root without reading its repos; a missing root is empty.

    Raises OSError if it exists but cannot be read.
    """
    repos: list[str] = []
    trash: list[str] = []
    foreign: list[str] = []
    links: dict[str, str] = {}
    lookalikes: dict[str, str] = {}
    try:
        listing = os.scandir(root)
    except FileNotFoundError:
        return Contents()
    has_store = store.is_store(root)
    mounted = mounts(root)
    with listing:
        for entry in listing:
            if entry.name.startswith(TRASH):
                (trash if _is_ours(root, entry.name) else foreign).append(entry.name)
            elif HUB_ENTRY.match(entry.name):
                problem = "" if entry.is_dir(follow_symlinks=False) else _problem(entry, links)
                if problem:
                    lookalikes[entry.name] = problem
                else:
                    repos.append(entry.name)
            elif entry.name.startswith(MOVE):
                continue
            elif entry.name not in _ROOT_PARTS | HELPERS and not (entry.name == store.FOLDER and has_store):
                foreign.append(entry.name)
    return Contents(
        entries=tuple(sorted(repos)),
        links=links,
        mounted={repo: mounted[repo] for repo in repos if repo in mounted},
        lookalikes=lookalikes,
        locks=_lock_folders(root),
        trash=tuple(sorted(trash)),
        foreign=tuple(sorted(foreign)),
        store=has_store,
    )


def exists(root: str) -> bool:
    """Return whether a root exists."""
    return os.path.isdir(root)


def trashed(paths: Iterable[Path]) -> tuple[str, ...]:
    """Return the roots, links resolved, that contain our trash from interrupted removals."""
    return tuple(root for path in paths if _holds_trash(root := os.path.realpath(path)))


def mark(folder: int, owner: os.stat_result) -> None:
    """Mark an open trash folder as this user's, with a file that no other user can create there.

    Every user who can write to the root can rename any folder to a trash name. The mark names the folder's inode and
    has the same owner, so it cannot be a moved or linked file. A mark that root makes is given to `owner`.
    """
    descriptor = open_regular(MARK, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
    with open(descriptor, "wb") as file:
        file.write(b"%d\n" % os.fstat(folder).st_ino)
        give_to_owner(descriptor, owner)
    give_to_owner(folder, owner)


def mounts(root: str) -> Mapping[str, str]:
    """Return the entries of a root that are or contain a mount point, with that path."""
    prefix = root.rstrip("/") + "/"
    return {point[len(prefix) :].partition("/")[0]: point for point in mount_points(root)}


def mount_points(root: str) -> frozenset[str]:
    """Return every mount point below a root, see proc_pid_mountinfo(5)."""
    prefix = root.rstrip("/") + "/"
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            points = [os.fsdecode(unescaped(line.split(None, 5)[4])) for line in file]
    except (OSError, IndexError):
        return frozenset()
    return frozenset(point for point in points if point.startswith(prefix))


def unescaped(path: bytes) -> bytes:
    """Decode a path from /proc, where blanks, newlines and backslashes are octal."""
    return re.sub(_OCTAL, lambda match: bytes((int(match[1], 8),)), path)


def _problem(entry: os.DirEntry[str], links: dict[str, str]) -> str:
    """Return why this entry is not a repo; if it is a link to a folder, note its destination."""
    if not entry.is_symlink():
        return "it is not a folder"
    target = ""
    try:
        target = os.readlink(entry.path)
        if not stat.S_ISDIR(os.stat(entry.path).st_mode):
            return f"it is a link to {target}, which is not a folder"
    except OSError as error:
        problem = "is not there" if error.errno in _NOT_THERE else "cannot be looked at"
        return f"it is a link to {target}, which {problem}"
    links[entry.name] = target
    return ""


def _holds_trash(root: str) -> bool:
    try:
        names = os.listdir(root)
    except OSError:
        return False
    repos = (name for name in names if HUB_ENTRY.match(name))
    return any(_is_ours(root, name) for name in names if is_trash(name)) or any(
        is_new_ref(name) for repo in repos for name in names_in(f"{root}/{repo}")
    )


def is_own_trash(root: str, folder: int) -> bool:
    """Return whether an open folder is this user's trash: marked as such, or empty.

    Root also accepts the trash of the cache's owner, and no other user's.
    """
    try:
        users = (os.geteuid(), os.stat(root).st_uid) if os.geteuid() == 0 else (os.geteuid(),)
        status = os.fstat(folder)
        return status.st_uid in users and (_is_marked(folder, status) or _is_new(folder))
    except OSError:
        return False


def _is_ours(root: str, name: str) -> bool:
    if not is_trash(name):
        return False
    try:
        folder = open_folder(f"{root}/{name}")
    except OSError:
        return False
    try:
        return is_own_trash(root, folder)
    finally:
        os.close(folder)


def _is_new(folder: int) -> bool:
    """Return whether a folder is empty; an empty mark of a killed run does not count."""
    names = os.listdir(folder)
    return not names or (names == [MARK] and os.stat(MARK, dir_fd=folder, follow_symlinks=False).st_size == 0)


def _is_marked(folder: int, status: os.stat_result) -> bool:
    try:
        owner = os.stat(MARK, dir_fd=folder, follow_symlinks=False).st_uid
        return owner == status.st_uid and read_regular(MARK, 32, dir_fd=folder) == b"%d\n" % status.st_ino
    except OSError:
        return False


def _lock_folders(root: str) -> tuple[str, ...]:
    try:
        with os.scandir(f"{root}/{LOCKS}") as listing:
            return tuple(sorted(e.name for e in listing if HUB_ENTRY.match(e.name) and e.is_dir(follow_symlinks=False)))
    except OSError:
        return ()
