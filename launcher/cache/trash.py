"""Trash lies in the same root, so that what goes is renamed and never copied; deleting it can take its time.

Every step goes by descriptor and never through a link. Whatever a killed run leaves is deleted by the next one, and
what the shared store still needs is given back first.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from ..paths import HUB_ENTRY
from . import layout, store
from .busy import lock_of
from .layout import LOCKS, Blob
from .roots import TRASH

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = (errno.ENOSPC, errno.EDQUOT)

Progress = Callable[[int], None]


class Failure(NamedTuple):
    """Hold a path that could not be removed, and why."""

    path: str
    reason: str


class Finished(NamedTuple):
    """Hold the bytes that deleting the trash has really freed, and what of it could not be deleted."""

    freed: int
    failures: tuple[Failure, ...]


class Trash:
    """Hold the trash folder of one run, made when it is first needed."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._name = f"{TRASH}{os.urandom(8).hex()}"
        self._folder: int | None = None
        self._full = False

    def take(self, parent: int, name: str, new_name: str | None = None) -> None:
        """Rename the entry `name` of the folder `parent` into the trash.

        On a disk too full for a new folder, the entry becomes a piece of trash of its own. Raises OSError.
        """
        if self._folder is None and not self._full:
            self._make()
        if self._folder is None:
            os.rename(name, f"{TRASH}{os.urandom(8).hex()}", src_dir_fd=parent, dst_dir_fd=self.descriptor)
        else:
            os.rename(name, new_name or name, src_dir_fd=parent, dst_dir_fd=self._folder)

    def close(self) -> None:
        """Give the descriptors back, and the folder when nothing has come into it."""
        if self._folder is not None:
            os.close(self._folder)
            with suppress(OSError):
                os.rmdir(self._name, dir_fd=self.descriptor)
        os.close(self.descriptor)

    def _make(self) -> None:
        try:
            os.mkdir(self._name, 0o700, dir_fd=self.descriptor)
            self._folder = os.open(self._name, FOLDER, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._full = True


def finish(root: str, progress: Progress | None = None) -> Finished:
    """Delete all trash in a root and its repos, also what earlier runs left, and tell what that freed.

    Another user's trash stays. `progress` is called with the bytes of each file that is gone.
    """
    deletion = _Deletion(progress)
    try:
        present = layout.contents(root)
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return Finished(0, ())
    except OSError as error:
        return Finished(0, (Failure(root, reason(error)),))
    try:
        for name in present.trash:
            path = f"{root}/{name}"
            if _is_ours(path):
                give_back(root, path, present.entries)
                _keep_foreign(root, path)
                _sweep_linked(root, path, deletion)
                deletion.delete(descriptor, name, path)
    finally:
        os.close(descriptor)
    for folder in present.entries:
        with suppress(FileNotFoundError):
            for name in os.listdir(f"{root}/{folder}"):
                if name.startswith(TRASH):
                    _finish_revision(root, folder, name, deletion)
    return Finished(deletion.freed, tuple(deletion.failures))


def give_back(root: str, trash: str, entries: tuple[str, ...]) -> None:
    """Give repos that came while the store went into the trash back the payloads that they link to."""
    for place in (f"{trash}/{store.FOLDER}", trash):
        if not store.is_marked(place):
            continue
        wanted = {payload for folder in entries for payload in store.links_of(root, folder)}
        for payload in wanted:
            lost, path = store.within(place, payload), store.path_of(root, payload)
            with suppress(OSError):  # it is not there, or was published anew meanwhile
                if not os.path.lexists(path):
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    os.rename(lost, path)
                    os.rename(f"{lost}.refs", f"{path}.refs")


def sweep(root: str, payload: str, take: Callable[[int, str], None]) -> int | None:
    """Hand a payload that nothing links to any more to `take`, and return its bytes; None when it stays.

    What is unknowable stays. Raises OSError when its lock cannot be had.
    """
    path = store.path_of(root, payload)
    with store.locked(root, payload):
        if store.references(root, payload):
            return None
        if store.references(root, payload) is None and layout.contents(root).entries:
            return None
        parent = os.open(os.path.dirname(path), FOLDER)
        try:
            size = os.stat(payload, dir_fd=parent, follow_symlinks=False).st_size
            take(parent, payload)
            with suppress(FileNotFoundError):
                os.unlink(f"{payload}.refs", dir_fd=parent)
        finally:
            os.close(parent)
    return size


def unlink_blob(root: str, folder: str, name: str, identity: layout.Identity | None) -> None:
    """Unlink a blob or a partial download under its download lock, so that nobody is just linking or continuing it.

    Raises OSError: EAGAIN when a downloader has the lock, ESTALE when it is not the file of this identity any more.
    """
    lock = lock_of(root, folder, name) or f"{root}/{LOCKS}/{folder}/{name}.lock"
    with locked(lock), opened(f"{root}/{folder}") as repo, below(repo, f"blobs/{name}") as (parent, entry):
        if identity:
            found = os.stat(entry, dir_fd=parent)
            if (found.st_dev, found.st_ino) != identity:
                raise OSError(errno.ESTALE, "it is not what it was when the removal was planned")
        os.unlink(entry, dir_fd=parent)
        with suppress(OSError):
            os.unlink(lock)  # it guards nothing any more, and is ours just now


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold a download's lock meanwhile, where there is one.

    Raises OSError (EAGAIN) when a downloader has it.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(errno.EAGAIN, "it is being downloaded") from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def opened(path: str) -> Iterator[int]:
    """Open a folder that is no link."""
    descriptor = os.open(path, FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def below(descriptor: int, path: str) -> Iterator[tuple[int, str]]:
    """Open the folder of `path` below `descriptor`, no part of it being a link; yield it with the last name."""
    *folders, name = path.split("/")
    current = os.dup(descriptor)
    try:
        for folder in folders:
            inner = os.open(folder, FOLDER, dir_fd=current)
            os.close(current)
            current = inner
        yield current, name
    finally:
        os.close(current)


def reason(error: OSError) -> str:
    """Return in words why something could not be removed."""
    if error.errno == errno.EBUSY:
        return "something is mounted there"
    return (error.strerror or str(error)).lower()


def delete(parent: int, name: str, path: str) -> Finished:
    """Delete a tree at once."""
    deletion = _Deletion(None)
    deletion.delete(parent, name, path)
    return Finished(deletion.freed, tuple(deletion.failures))


class _Deletion:
    """Delete trees and count what that frees: the bytes of files that had no other name."""

    def __init__(self, progress: Progress | None) -> None:
        self.freed = 0
        self.failures: list[Failure] = []
        self._progress = progress
        self._first: str | None = None

    def delete(self, parent: int, name: str, path: str) -> None:
        """Delete what is called `name` in the folder `parent`; what cannot go is noted once, and the rest goes."""
        self._first = None
        self._delete(parent, name)
        if self._first is not None:
            self.failures.append(Failure(path, self._first))

    def unlink(self, parent: int, name: str) -> None:
        """Unlink one file and count it."""
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        os.unlink(name, dir_fd=parent)
        self.count(found)

    def count(self, found: os.stat_result) -> None:
        """Count a file that is gone."""
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            self.freed += found.st_size
            if self._progress:
                self._progress(found.st_size)

    def _delete(self, parent: int, name: str) -> None:
        # No recursion: how deep a folder goes is for whoever made it to decide.
        stack: list[tuple[int, str, int, list[str]]] = []
        self._enter(stack, parent, name)
        while stack:
            above, own_name, descriptor, names = stack[-1]
            if names:
                self._enter(stack, descriptor, names.pop())
                continue
            stack.pop()
            os.close(descriptor)
            try:
                os.rmdir(own_name, dir_fd=above)
            except FileNotFoundError:
                pass  # another run works on the same trash
            except OSError as error:
                self._note(error)

    def _enter(self, stack: list[tuple[int, str, int, list[str]]], parent: int, name: str) -> None:
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                os.unlink(name, dir_fd=parent)
                self.count(found)
                return
            if found.st_uid == os.geteuid() and found.st_mode & stat.S_IRWXU != stat.S_IRWXU:
                os.chmod(name, stat.S_IRWXU, dir_fd=parent)
            descriptor = os.open(name, FOLDER, dir_fd=parent)
        except FileNotFoundError:
            return
        except OSError as error:
            self._note(error)
            return
        try:
            names = os.listdir(descriptor)
        except OSError as error:
            self._note(error)
            names = []
        stack.append((parent, name, descriptor, names))

    def _note(self, error: OSError) -> None:
        if self._first is None or error.errno != errno.ENOTEMPTY:
            self._first = self._first if self._first and error.errno == errno.ENOTEMPTY else reason(error)


def _keep_foreign(root: str, trash: str) -> None:
    """Put back what somebody else has laid into the folder of a repo that goes."""
    with suppress(OSError):
        for folder in os.listdir(trash):
            if not HUB_ENTRY.match(folder):
                continue
            for name in filter(layout.is_foreign, os.listdir(f"{trash}/{folder}")):
                os.makedirs(f"{root}/{folder}", exist_ok=True)
                if not os.path.lexists(f"{root}/{folder}/{name}"):
                    os.rename(f"{trash}/{folder}/{name}", f"{root}/{folder}/{name}")


def _sweep_linked(root: str, trash: str, deletion: _Deletion) -> None:
    """Delete the payloads that only condemned repos linked to, before the links that name them go."""
    if not store.is_store(root):
        return
    for folder, _, names in os.walk(trash):
        if os.path.basename(folder) != "blobs":
            continue
        for name in names:
            with suppress(OSError):
                payload = os.path.basename(os.readlink(f"{folder}/{name}"))
                if store.is_payload(payload):
                    sweep(root, payload, deletion.unlink)


def _finish_revision(root: str, folder: str, name: str, deletion: _Deletion) -> None:
    """Delete a condemned snapshot, and before it the blobs that only it linked to: its links name them."""
    trash = f"{root}/{folder}/{name}"
    wanted = set()
    for place, _, names in os.walk(trash):
        for entry in names:
            with suppress(OSError):
                wanted.add(os.path.basename(os.readlink(f"{place}/{entry}")))
    now = layout.read(root, folder)
    for orphan in wanted.intersection(now.orphans):
        with suppress(OSError):
            _delete_blob(root, folder, now.blobs[orphan], deletion)
    with opened(f"{root}/{folder}") as descriptor:
        deletion.delete(descriptor, name, trash)


def _delete_blob(root: str, folder: str, blob: Blob, deletion: _Deletion) -> None:
    path = f"{root}/{folder}/blobs/{blob.name}"
    found = os.lstat(path)
    unlink_blob(root, folder, blob.name, blob.identity)
    deletion.count(found)
    if blob.shared:
        sweep(root, blob.shared, deletion.unlink)


def _is_ours(path: str) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return not stat.S_ISLNK(found.st_mode) and os.geteuid() in (0, found.st_uid)
