"""Trash lies in the same root, so that what goes is renamed and never copied; deleting it can take its time.

Whoever fills or deletes a trash folder holds the flock on it. What a killed run has left, nobody holds: the next run
deletes it, and what the shared store still needs is given back first.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple

from ..system.detach import beside
from ..ui.text import clean, size
from . import entries, layout, store
from .deletion import Deletion, Failure, Progress
from .dirs import FOLDER, below, locked, opened, reason, walk
from .entries import LOCKS
from .roots import TRASH
from .usage import lock_of

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NICENESS = 10
# The app's first moments are its own: on few cores, deleting beside them would only delay it.
_GRACE_SECONDS = 0.5


class Finished(NamedTuple):
    """Hold the bytes that deleting the trash has really freed, and what of it could not be deleted."""

    freed: int
    failures: tuple[Failure, ...]


class Trash:
    """Hold the trash folder of one run, made when it is first needed and locked while it is in use."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._name = ""
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
        """Give the folder up, and remove it when nothing has come into it."""
        if self._folder is not None:
            with suppress(OSError):
                os.rmdir(self._name, dir_fd=self.descriptor)
            os.close(self._folder)
        os.close(self.descriptor)

    def _make(self) -> None:
        while self._folder is None:
            self._name = f"{TRASH}{os.urandom(8).hex()}"
            try:
                os.mkdir(self._name, 0o700, dir_fd=self.descriptor)
                descriptor = os.open(self._name, FOLDER, dir_fd=self.descriptor)
            except FileNotFoundError:
                continue  # another run has deleted it before it was locked
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                self._full = True
                return
            if _lock(descriptor) and os.fstat(descriptor).st_nlink:
                self._folder = descriptor
            else:
                os.close(descriptor)


def probe(root: str) -> None:
    """Try whether something could be renamed away in this root.

    Raises OSError where it could not, other than for a full disk.
    """
    with opened(root) as descriptor:
        name = f"{TRASH}{os.urandom(8).hex()}"
        try:
            os.mkdir(name, 0o700, dir_fd=descriptor)
        except OSError as error:
            if error.errno not in _FULL:
                raise
        else:
            os.rmdir(name, dir_fd=descriptor)


def finish(root: str, progress: Progress | None = None, folders: Collection[str] | None = None) -> Finished:
    """Delete all trash in a root and its repos, or these of them, also what earlier runs left; tell what that freed.

    Another user's trash stays, and so does what another run is at. `progress` is called with the bytes of each file
    that is gone.
    """
    deletion = Deletion(progress, entries.mount_points(root))
    try:
        present = entries.contents(root)
        with opened(root) as descriptor:
            for name in present.trash:
                with _noted(deletion, f"{root}/{name}"):
                    _finish_folder(root, descriptor, name, present, deletion)
            for folder in present.entries if folders is None else sorted({*folders} & {*present.entries}):
                with _noted(deletion, f"{root}/{folder}"):
                    _finish_repo(root, folder, deletion)
            if store.is_store(root):
                _sweep_all(root, deletion)
    except FileNotFoundError:
        return Finished(deletion.freed, tuple(deletion.failures))
    except OSError as error:
        deletion.failures.append(Failure(root, reason(error)))
    return Finished(deletion.freed, tuple(deletion.failures))


def finish_later(roots: Sequence[str], *, quiet: bool) -> None:
    """Delete the trash of these roots in the background, and tell on stderr what that freed unless `quiet`.

    The process that does it is nobody's child, so that the app neither waits for it nor owns it. Killed at any time,
    it leaves the rest to the next run. Raises OSError when it cannot be started.
    """
    beside(partial(_finish_all, roots, quiet), stderr=True)


def _finish_all(roots: Sequence[str], quiet: bool) -> None:
    os.nice(_NICENESS)
    time.sleep(_GRACE_SECONDS)
    for root in roots:
        try:
            done = finish(root)
        except Exception as error:  # nobody else would tell of it
            _tell(f"cannot delete the trash in {root}: {error}")
            continue
        for failure in done.failures:
            _tell(f"cannot remove {failure.path}: {failure.reason}")
        if not quiet:
            _tell(f"cache: freed {size(done.freed)} in {root}")


def _tell(line: str) -> None:
    try:
        os.write(2, f"{clean(line)}\n".encode(errors="backslashreplace"))
    except OSError:
        pass  # whoever read it has gone


def restore(root: str) -> None:
    """Give back what the trash of a run that was killed still owes to repos, before they are taken for damaged."""
    present = entries.contents(root)
    for name in present.trash:
        with suppress(OSError):
            give_back(root, name, present.entries)


def give_back(root: str, trash: str, folders: Iterable[str]) -> None:
    """Give repos that came while the store went into the trash back the payloads that they link to."""
    with opened(root) as descriptor:
        for inside in (f"{trash}/{store.FOLDER}", trash):
            if not store.is_marked(f"{root}/{inside}"):
                continue
            wanted = {payload for folder in folders for payload in store.links_of(root, folder)}
            lost = [payload for payload in wanted if os.path.lexists(store.within(f"{root}/{inside}", payload))]
            if lost and not os.path.lexists(f"{root}/{store.FOLDER}"):
                with below(descriptor, inside) as (parent, name):
                    os.rename(name, store.FOLDER, src_dir_fd=parent, dst_dir_fd=descriptor)
                return
            for payload in lost if store.is_store(root) else ():
                with suppress(OSError):  # it was published anew meanwhile
                    _give_back(descriptor, inside, payload)


def sweep(
    root: str,
    payload: str,
    linked: Collection[str],
    take: Callable[[int, str], None],
    *,
    damaged: bool = False,
    patience: float = store.LOCK_SECONDS,
) -> int | None:
    """Hand a payload that nothing links to any more to `take`, and return its bytes; None when it stays.

    `linked` are those that a repo really links to. What is unknowable stays as long as any repo is there, unless it is
    `damaged`: then only those links count. Raises OSError when its lock cannot be had within `patience` seconds.
    """
    if payload in linked or not store.is_store(root):
        return None
    with opened(root) as descriptor, below(descriptor, store.path_below(payload)) as (parent, name):
        count = os.stat(name, dir_fd=parent, follow_symlinks=False).st_size
        with store.locked(parent, payload, patience):
            known = store.references(root, payload)
            if known or (known is None and not damaged and entries.contents(root).entries):
                return None
            take(parent, name)
            with suppress(FileNotFoundError):
                os.unlink(f"{name}.refs", dir_fd=parent)
    return count


def unlink_blob(root: str, folder: str, name: str, identity: layout.Identity | None) -> None:
    """Unlink a blob or a partial download under its download lock, so that nobody is just linking or continuing it.

    Raises OSError: EAGAIN when a downloader has the lock, ESTALE when it is not the file of this identity any more.
    """
    lock = lock_of(name) or f"{name}.lock"
    with opened(root) as descriptor:
        try:
            with below(descriptor, f"{LOCKS}/{folder}/{lock}") as (locks, lock), locked(locks, lock):
                _unlink(descriptor, f"{folder}/blobs/{name}", identity)
                with suppress(OSError):
                    os.unlink(lock, dir_fd=locks)  # it guards nothing any more, and is ours just now
                return
        except (FileNotFoundError, NotADirectoryError):
            if os.path.isdir(f"{root}/{LOCKS}/{folder}"):
                raise
        _unlink(descriptor, f"{folder}/blobs/{name}", identity)


@contextmanager
def _noted(deletion: Deletion, path: str) -> Iterator[None]:
    """Note what cannot be done about one path, and go on with the next."""
    try:
        yield
    except FileNotFoundError:
        pass  # another run was faster
    except OSError as error:
        deletion.failures.append(Failure(path, reason(error)))


def _finish_folder(root: str, parent: int, name: str, present: entries.Contents, deletion: Deletion) -> None:
    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode):
        deletion.unlink(parent, name)
        return
    descriptor = os.open(name, FOLDER, dir_fd=parent)
    try:
        if not _lock(descriptor):
            return  # another run is at it, and deletes it itself
        give_back(root, name, present.entries)
        deletion.delete(parent, name, f"{root}/{name}")
    finally:
        os.close(descriptor)


def _finish_repo(root: str, folder: str, deletion: Deletion) -> None:
    """Delete the condemned snapshots of a repo, and before them the blobs that only they linked to."""
    condemned = [name for name in os.listdir(f"{root}/{folder}") if name.startswith(TRASH)]
    if not condemned:
        return
    now = layout.read(root, folder)
    wanted = {
        os.path.basename(os.readlink(entry.path))
        for name in condemned
        for entry in walk(f"{root}/{folder}/{name}")
        if entry.is_symlink()
    }
    for orphan in wanted & now.unlinked:
        blob = now.blobs[orphan]
        with suppress(OSError):
            found = os.lstat(f"{now.path}/blobs/{orphan}")
            unlink_blob(root, folder, orphan, blob.identity)
            deletion.count(found)
    with opened(root) as descriptor:
        for name in condemned:
            _drop_traces(descriptor, folder, layout.condemned_commit(name), now)
            with below(descriptor, f"{folder}/{name}") as (parent, entry):
                deletion.delete(parent, entry, f"{root}/{folder}/{name}")


def _drop_traces(descriptor: int, folder: str, commit: str, now: layout.Repo) -> None:
    """Remove what else names a condemned commit, unless it has come again: refs, its list of files, its known gaps."""
    if any(revision.commit == commit for revision in now.revisions):
        return
    for ref in (ref for ref, named in now.broken_refs.items() if named == commit):
        with suppress(OSError), below(descriptor, f"{folder}/refs/{ref}") as (parent, name):
            os.unlink(name, dir_fd=parent)
    for trace in (f"trees/{commit}.json", f".no_exist/{commit}"):
        with suppress(OSError), below(descriptor, f"{folder}/{trace}") as (parent, name):
            Deletion().delete(parent, name, trace)


def _sweep_all(root: str, deletion: Deletion) -> None:
    """Delete every payload that no repo links to; a run that was killed may have left any."""
    linked = store.linked(root, entries.contents(root).entries)
    for payload, _ in tuple(store.sizes(root)):
        if payload not in linked and store.references(root, payload) == frozenset():
            with suppress(OSError):
                sweep(root, payload, linked, deletion.unlink, patience=0)
    for payload in tuple(store.widowed(root)):
        with (
            suppress(OSError),
            opened(root) as descriptor,
            below(descriptor, store.path_below(payload)) as (parent, name),
            store.locked(parent, name, 0),
        ):
            if store.references(root, payload) == frozenset() and not os.path.lexists(store.path_of(root, payload)):
                os.unlink(f"{name}.refs", dir_fd=parent)


def _give_back(descriptor: int, inside: str, payload: str) -> None:
    with below(descriptor, f"{inside}/{payload[:2]}/{payload}") as (lost, name):
        with below(descriptor, f"{store.FOLDER}/{payload[:2]}") as (folder, prefix), suppress(FileExistsError):
            os.mkdir(prefix, dir_fd=folder)
        with below(descriptor, store.path_below(payload)) as (parent, _):
            for part in (f"{name}.refs", name):  # a payload that nothing is known of would stay for ever
                os.link(part, part, src_dir_fd=lost, dst_dir_fd=parent, follow_symlinks=False)


def _unlink(descriptor: int, path: str, identity: layout.Identity | None) -> None:
    with below(descriptor, path) as (parent, name):
        if identity:
            found = os.stat(name, dir_fd=parent)
            if (found.st_dev, found.st_ino) != identity:
                raise OSError(errno.ESTALE, "it is not what it was when the removal was planned")
        os.unlink(name, dir_fd=parent)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # this file system knows no flock: two runs may meet, and each takes what is there
    return True
