"""A repo that another process reads, maps or downloads into is in use; an unreadable lock counts as held.

Readers are found in /proc: by the paths of open files and mappings in our own mount namespace, and by device and inode
in any other (a container that mounts the cache); only root sees the processes of other users. Downloads are found by
the flock that huggingface_hub holds on `.locks/<repo>/<etag>.lock` while that file arrives; that works across hosts if
flock does.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

from ..system.files import open_regular, try_lock
from ..ui import text
from . import store
from .dirs import walk
from .entries import LOCKS, unescaped
from .layout import is_young
from .snapshots import Identity, is_partial

_SHOWN = 120
_WHOLE = frozenset((40, 64))
_PARTS = ("blobs", "snapshots")
_ETAG = re.compile(r"(.+?)(\.[0-9a-f]{8})?\.incomplete", re.DOTALL)


class _Opened(NamedTuple):
    pid: int
    path: str | None
    identity: Identity | None


class _Watched(NamedTuple):
    """Hold the places of a root's repo files: path prefixes in our own mount namespace, and devices."""

    prefixes: tuple[str, ...]
    devices: frozenset[int]


def in_use(
    root: str, folders: Collection[str], spare: Collection[int] = (), *, force: bool = False
) -> Mapping[str, str]:
    """Return the repos in use and their users; the pids in `spare` do not count, for example our own.

    With `force`, return none.
    """
    if force or not folders:
        return {}
    return {**readers(root, folders, (*spare, os.getpid())), **downloads(root, folders)}


def downloads(root: str, folders: Iterable[str]) -> dict[str, str]:
    """Return the repos that a process downloads into."""
    return {folder: reason for folder in folders if (reason := _downloading(root, folder))}


def held_lock(path: str) -> bool:
    """Return whether a process holds the flock on this file; an unreadable lock counts as held."""
    try:
        descriptor = open_regular(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:
        try:
            descriptor = open_regular(path)
        except FileNotFoundError:
            return False
        except OSError:
            return True
    try:
        return not try_lock(descriptor)
    except OSError:
        return True
    finally:
        os.close(descriptor)


def lock_of(partial: str) -> str | None:
    """Return the lock name of a partial download, from its name in `blobs`; None if it is not a download's."""
    match = _ETAG.fullmatch(partial)
    return f"{match[1]}.lock" if match else None


def _downloading(root: str, folder: str) -> str | None:
    blobs = f"{root}/{folder}/blobs"
    try:
        names = os.listdir(blobs)
    except OSError:
        return _beginning(root, folder)
    for name in names:
        if name.endswith(".incomplete"):
            lock = f"{root}/{LOCKS}/{folder}/{lock_of(name)}"
        elif len(name) not in _WHOLE and is_partial(name):
            # Clients in other languages keep their locks next to the blobs, or have no locks.
            if is_young(f"{blobs}/{name}"):
                return "a partial download in it has just grown"
            lock = f"{blobs}/{name.partition('.')[0]}.lock"
        else:
            continue
        if held_lock(lock):
            return f"it is being downloaded{_holder(lock)}"
    return None


def _beginning(root: str, folder: str) -> str | None:
    """Return why a repo without blobs is in use: a process holds one of its locks."""
    try:
        locks = os.listdir(f"{root}/{LOCKS}/{folder}")
    except OSError:
        return None
    held = any(held_lock(f"{root}/{LOCKS}/{folder}/{lock}") for lock in locks)
    return "a download of it has just begun" if held else None


def _holder(lock: str) -> str:
    """Return the holder of a lock, as far as proc_locks(5) shows it."""
    try:
        inode = os.stat(lock).st_ino
        with open("/proc/locks", encoding="ascii") as file:
            for line in file:
                words = line.split()
                if words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode) and int(words[4]) > 0:
                    return f" by {_described(int(words[4]))}"
    except (OSError, IndexError, ValueError):
        pass  # a holder on another host or in another namespace; the lock is still held
    return ""


def readers(root: str, folders: Collection[str], spare: Collection[int]) -> dict[str, str]:
    """Return the repos whose files any process except those in `spare` has open or mapped, and that process."""
    pids: dict[str, int] = {}
    payloads: dict[str, int] = {}
    identities: dict[Identity, int] = {}
    prefix = root.rstrip("/") + "/"
    names = frozenset(folders)
    elsewhere = _elsewhere(root, names)
    watched = _Watched((prefix, *elsewhere), frozenset(_devices((root, *elsewhere))))
    for opened in _opened(watched, frozenset(spare)):
        if opened.path is None:
            if opened.identity:
                identities.setdefault(opened.identity, opened.pid)
            continue
        for place, repo in elsewhere.items():
            if opened.path.startswith(place):
                pids.setdefault(repo, opened.pid)
        if not opened.path.startswith(prefix):
            continue
        folder, _, rest = opened.path[len(prefix) :].partition("/")
        if folder in names:
            pids.setdefault(folder, opened.pid)
        elif folder == store.FOLDER:
            payloads.setdefault(rest.rpartition("/")[2], opened.pid)
    if payloads or identities:
        for folder in names - pids.keys():
            pid = _reader(root, folder, payloads, identities)
            if pid:
                pids[folder] = pid
    return {folder: f"it is in use by {_described(pid)}" for folder, pid in pids.items()}


def _elsewhere(root: str, folders: Iterable[str]) -> Mapping[str, str]:
    """Return the places of linked repos and linked parts of repos: prefixes, each with its repo."""
    places: dict[str, str] = {}
    for folder in folders:
        path = f"{root}/{folder}"
        links = (path,) if os.path.islink(path) else [p for part in _PARTS if os.path.islink(p := f"{path}/{part}")]
        places.update((os.path.realpath(link).rstrip("/") + "/", folder) for link in links)
    return places


def _opened(watched: _Watched, spare: frozenset[int]) -> Iterator[_Opened]:
    """Yield the open files of visible processes below the prefixes, or, in other mount namespaces, on the devices."""
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        own = os.readlink("/proc/self/ns/mnt")
    except OSError:
        return  # without /proc, readers are unknown, and only downloads are found
    raw = tuple(map(os.fsencode, watched.prefixes))
    other_names = _has_other_names(watched.devices)
    for pid in pids:
        if pid in spare:
            continue
        try:
            elsewhere = os.readlink(f"/proc/{pid}/ns/mnt") != own
            with open(f"/proc/{pid}/maps", "rb") as file:
                maps = file.read()
            descriptors = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue  # it has ended, or belongs to another user
        by_path, by_identity = not elsewhere, elsewhere or other_names
        yield from _mapped(pid, maps, raw if by_path else (), watched.devices if by_identity else frozenset())
        for descriptor in descriptors:
            path = f"/proc/{pid}/fd/{descriptor}"
            try:
                target = os.readlink(path)
                if by_path and target.startswith(watched.prefixes):
                    if not os.path.isdir(path):  # an open folder is a listing, not a use
                        yield _Opened(pid, target, None)
                elif by_identity and target.startswith("/"):
                    status = os.stat(path)
                    if status.st_dev in watched.devices and not stat.S_ISDIR(status.st_mode):
                        yield _Opened(pid, None, (status.st_dev, status.st_ino))
            except OSError:
                continue


def _has_other_names(devices: Collection[int]) -> bool:
    """Return whether files have another path too, because a part of their file system is mounted twice."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            mounted = [line.split(None, 5)[2] for line in file]
    except OSError:
        return False
    return any(mounted.count(f"{os.major(device)}:{os.minor(device)}".encode()) > 1 for device in devices)


def _mapped(pid: int, maps: bytes, prefixes: tuple[bytes, ...], devices: Collection[int]) -> Iterator[_Opened]:
    marks = (*prefixes, *(b" %02x:%02x " % (os.major(device), os.minor(device)) for device in devices))
    if b"\\" not in maps and not any(mark in maps for mark in marks):
        return
    for line in maps.splitlines():
        fields = line.split(None, 5)
        if len(fields) < 6 or not fields[5].startswith(b"/"):
            continue
        path = unescaped(fields[5])
        if path.startswith(prefixes):
            yield _Opened(pid, os.fsdecode(path), None)
        elif devices:
            major, _, minor = fields[3].partition(b":")
            device = os.makedev(int(major, 16), int(minor, 16))
            if device in devices:
                yield _Opened(pid, None, (device, int(fields[4])))


def _reader(root: str, folder: str, payloads: Mapping[str, int], identities: Mapping[Identity, int]) -> int | None:
    """Return the process that has a payload of this repo open, or a file of the payload's identity."""
    for path, links in _files(f"{root}/{folder}", frozenset(("blobs", "snapshots") if identities else ("blobs",))):
        try:
            if links:
                shared = store.target(root, os.path.dirname(path), os.readlink(path))
                if shared and shared in payloads:
                    return payloads[shared]
            if identities:
                status = os.stat(path)
                if (status.st_dev, status.st_ino) in identities:
                    return identities[status.st_dev, status.st_ino]
        except OSError:
            continue
    return None


def _files(path: str, parts: Iterable[str]) -> Iterator[tuple[str, bool]]:
    for part in parts:
        yield from ((entry.path, entry.is_symlink()) for entry in walk(f"{path}/{part}"))


def _devices(paths: Iterable[str]) -> Iterator[int]:
    for path in paths:
        with suppress(OSError):
            yield os.stat(path).st_dev


def _described(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            argv = [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    except OSError:
        argv = []
    line = text.command_line(argv)
    return f"pid {pid}, {line[:_SHOWN]}{'…' if len(line) > _SHOWN else ''}" if argv else f"pid {pid}"
