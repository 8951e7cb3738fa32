"""The trash is in the same root, so that removed paths are renamed and never copied, and deleted later.

A run holds the flock on its trash folder while it fills or deletes it. Nothing holds the trash of a killed run, so the
next run deletes it. Foreign files in it are given back.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple

from ..config.paths import HUB_ENTRY
from ..system.files import NO_FLOCK, open_folder, open_place, open_regular, read_regular, try_lock
from ..ui.console import Progress
from ..ui.text import clean, size
from . import entries, foreign, layout, small_parts, store
from .blobs import sweep, unlink_blob
from .deletion import Deletion, Failure
from .dirs import below, opened, reason, taking_turns
from .entries import LOCKS, MARK
from .names import is_new_ref, new_scrap, new_trash
from .snapshots import Identity
from .usage import held_lock

# The disk is too full for a new folder, or the file system cannot rename this one: remove it in place.
NO_RENAME = (errno.EXDEV, errno.ENOSPC, errno.EDQUOT)
_JOURNAL = ".approved"
_MOST_BYTES = 1 << 28
_NICENESS = 10
# With few cores, deleting would delay the app's start, so wait for its first moments.
_GRACE_SECONDS = 0.5


class Finished(NamedTuple):
    """Hold the bytes that deleting the trash has freed, and the paths that could not be deleted."""

    freed: int
    failures: tuple[Failure, ...]


class Trash:
    """Hold the trash folder of one run, created at the first use and locked while it is in use.

    `approved` lists the run's other deletions, so that a later run can finish them.
    """

    def __init__(self, root: str, approved: Iterable[str] = ()) -> None:
        self.root = root
        self.descriptor = open_folder(root, follow=True)
        self._approved = "".join(f"{line}\n" for line in approved if "\n" not in line)
        self._name = ""
        self._folder: int | None = None

    @property
    def path(self) -> str:
        """Return the path of the trash folder."""
        return f"{self.root}/{self._name}"

    def take(self, parent: int, name: str, new_name: str | None = None, identity: Identity | None = None) -> str:
        """Rename the entry `name` of the folder `parent` into the trash, and return its path there.

        The entry must have this identity, also at the instant of the rename: anything else is put back. Raises OSError,
        with one of NO_RENAME if nothing can be renamed.
        """
        folder = self._made()
        before = open_place(name, dir_fd=parent)
        try:
            status = os.fstat(before)
            if identity and (status.st_dev, status.st_ino) != identity:
                raise OSError(errno.ESTALE, "it has changed since the removal was planned")
            new = new_name or name
            os.rename(name, new, src_dir_fd=parent, dst_dir_fd=folder)
            if not os.path.samestat(os.fstat(before), os.stat(new, dir_fd=folder, follow_symlinks=False)):
                raise OSError(
                    errno.ESTALE,
                    f"something else replaced it meanwhile, and is now {self._put_back(new, parent, name)}",
                )
        finally:
            os.close(before)
        return f"{self.path}/{new}"

    def give_back(self, path: str, place: str, strangers: Collection[str]) -> None:
        """Give back the foreign files of a repo or snapshot at `path` in the trash; `place` was its path in the root.

        Raises OSError if that fails; then they stay in the trash.
        """
        folder = self._made()
        foreign.give_back(self.descriptor, folder, os.path.relpath(path, self.path), place, strangers)

    def close(self) -> None:
        """Release the folder, and remove it if it is empty."""
        if self._folder is not None:
            with suppress(OSError):
                _drop(self.descriptor, self._name, self._folder)
            os.close(self._folder)
        os.close(self.descriptor)

    def _made(self) -> int:
        while self._folder is None:
            self._name = new_trash()
            os.mkdir(self._name, 0o700, dir_fd=self.descriptor)
            try:
                folder = open_folder(self._name, dir_fd=self.descriptor)
            except FileNotFoundError:
                continue  # another run deleted it before we locked it
            try:
                if _lock(folder) and os.fstat(folder).st_nlink:
                    self._begin(folder)
                    self._folder = folder
            finally:
                if self._folder is None:
                    os.close(folder)
        return self._folder

    def _begin(self, folder: int) -> None:
        try:
            entries.mark(folder, os.fstat(self.descriptor))
            if self._approved:
                journal = open_regular(_JOURNAL, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
                with open(journal, "wb") as file:
                    file.write(os.fsencode(self._approved))
        except OSError:
            with suppress(OSError):
                _drop(self.descriptor, self._name, folder)
            raise

    def _put_back(self, new: str, parent: int, name: str) -> str:
        """Put back a path that was not planned, and return its current path in words."""
        assert self._folder is not None
        try:
            os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            with suppress(OSError):
                os.rename(new, name, src_dir_fd=self._folder, dst_dir_fd=parent)
                return "back in its place"
        kept = f"start_app-kept-{os.urandom(4).hex()}-{name}"
        os.rename(new, kept, src_dir_fd=self._folder, dst_dir_fd=self.descriptor)
        return f"at {self.root}/{kept}"


def probe(root: str) -> None:
    """Check whether a rename works in this root.

    Raises OSError if it does not, except for a full disk.
    """
    with opened(root) as descriptor:
        name = new_trash()
        try:
            os.mkdir(name, 0o700, dir_fd=descriptor)
        except OSError as error:
            if error.errno not in NO_RENAME:
                raise
        else:
            os.rmdir(name, dir_fd=descriptor)


def finish(root: str, progress: Progress | None = None) -> Finished:
    """Delete all trash in a root, also that of earlier runs; return the freed bytes.

    The trash of other users and of running processes stays. `progress` is called with the bytes of each deleted file.
    """
    deletion = Deletion(progress, entries.mount_points(root))
    try:
        with opened(root) as descriptor:
            contents = entries.contents(root)
            for name in contents.trash:
                with _noted(deletion, f"{root}/{name}"):
                    _finish_folder(root, descriptor, name, deletion)
            for name in contents.entries:
                with _noted(deletion, f"{root}/{name}"):
                    _drop_new_refs(root, descriptor, name)
    except FileNotFoundError:
        pass
    except OSError as error:
        deletion.failures.append(Failure(root, reason(error)))
    return Finished(deletion.freed, tuple(deletion.failures))


def finish_later(roots: Sequence[str], *, quiet: bool, more: bool = False) -> None:
    """Delete the trash of these roots in the background, and report the freed bytes on stderr unless `quiet`.

    `more` tells that other bytes were freed and reported before. The process that does this is not the app's child, so
    the app neither waits for it nor owns it. If it is killed, the next run deletes the rest. Raises OSError if it
    cannot be started.
    """
    from ..system.detach import beside

    beside(partial(_finish_all, roots, quiet, more), stderr=True)


@contextmanager
def _noted(deletion: Deletion, path: str) -> Iterator[None]:
    """Note the problem of one path, and continue with the next."""
    try:
        yield
    except FileNotFoundError:
        pass  # another run deleted it first
    except OSError as error:
        deletion.failures.append(Failure(path, reason(error)))


@contextmanager
def _unless_full() -> Iterator[None]:
    """Go on without a rename if the disk has no room for a name: a deletion must work there too."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_RENAME:
            raise


def _drop_new_refs(root: str, parent: int, repo: str) -> None:
    """Remove the temporary refs of killed runs; a live run writes its ref under the lock that is held here."""
    try:
        if not any(map(is_new_ref, os.listdir(f"{root}/{repo}"))):
            return
        folder = open_folder(repo, dir_fd=parent)
    except OSError:
        return  # a repo behind a link, or a removed one
    try:
        with taking_turns(folder):
            for name in filter(is_new_ref, os.listdir(folder)):
                os.unlink(name, dir_fd=folder)
    finally:
        os.close(folder)


def _finish_folder(root: str, parent: int, name: str, deletion: Deletion) -> None:
    folder = open_folder(name, dir_fd=parent)
    try:
        if not _lock(folder):
            return  # another run uses it, and deletes it itself
        path = f"{root}/{name}"
        if not entries.is_own_trash(root, folder):
            return  # another user's folder replaced it
        _finish_work(root, folder, deletion)
        judged = set()
        for child in filter(_place_of, os.listdir(folder)):
            with _noted(deletion, f"{path}/{child}"):
                _give_back(root, parent, folder, f"{name}/{child}", _place_of(child))
                judged.add(child)
                with _unless_full():
                    # If this run is killed, the next one must not judge by what is left of it.
                    os.rename(child, new_scrap(), src_dir_fd=folder, dst_dir_fd=folder)
        for child in os.listdir(folder):  # what could not be given back stays
            if child not in (MARK, _JOURNAL) and (child in judged or not _place_of(child)):
                deletion.delete(folder, child, f"{path}/{child}")
        _drop(parent, name, folder)
    finally:
        os.close(folder)


def _finish_work(root: str, folder: int, deletion: Deletion) -> None:
    """Delete the other approved paths of a killed run: blobs and payloads that nothing needs."""
    try:
        lines = os.fsdecode(read_regular(_JOURNAL, _MOST_BYTES, dir_fd=folder)).splitlines()
    except FileNotFoundError:
        return
    blobs: dict[str, list[str]] = {}
    payloads = []
    for line in lines:
        kind, _, rest = line.partition(" ")
        repo, _, blob = rest.rpartition("/blobs/")
        if kind == "payload":
            payloads.append(rest)
        elif kind == "locks":
            with suppress(OSError):
                _drop_locks(root, rest, deletion)
        elif HUB_ENTRY.match(repo) and "/" not in repo + blob:
            blobs.setdefault(repo, []).append(blob)
    for repo, names in blobs.items():
        with suppress(OSError):
            now = layout.read(root, repo)
            for blob in now.unlinked.intersection(names):
                with suppress(OSError):
                    status = os.lstat(f"{now.path}/blobs/{blob}")
                    unlink_blob(root, repo, blob, now.blobs[blob].identity)
                    deletion.count(status, repo)
    linked = store.linked(root, entries.contents(root).entries) if payloads else None
    for payload in payloads:
        with suppress(OSError):
            if linked is not None and payload not in linked:
                sweep(root, payload, deletion.unlink, patience=0)
    if "store" in lines:
        with suppress(OSError), opened(root) as descriptor:
            store.dismantle(descriptor)


def _drop_locks(root: str, folder: str, deletion: Deletion) -> None:
    """Delete the locks of a removed repo, unless a new download of it has just begun."""
    path = f"{root}/{LOCKS}/{folder}"
    if "/" in folder or not HUB_ENTRY.match(folder) or os.path.lexists(f"{root}/{folder}/snapshots"):
        return
    if not any(held_lock(f"{path}/{lock}") for lock in os.listdir(path)):
        with opened(root) as descriptor, below(descriptor, f"{LOCKS}/{folder}") as (parent, name):
            if small_parts.has_foreign_locks(path):
                small_parts.drop_locks(parent, name)
            else:
                deletion.delete(parent, name, path)


def _drop(parent: int, name: str, folder: int) -> None:
    """Remove a trash folder that contains only its own files."""
    if not {*os.listdir(folder)} <= {MARK, _JOURNAL}:
        return
    for child in (_JOURNAL, MARK):
        with suppress(FileNotFoundError):
            os.unlink(child, dir_fd=folder)
    os.rmdir(name, dir_fd=parent)


def revision_name(folder: str, commit: str) -> str:
    """Return the name of a snapshot of a repo in the trash."""
    return f"@{commit}@{folder}"


def _place_of(child: str) -> str:
    """Return the old place of a repo or snapshot in the trash, relative to the root; blank for anything else."""
    if HUB_ENTRY.match(child):
        return child
    empty, _, rest = child.partition("@")
    commit, _, folder = rest.partition("@")
    return f"{folder}/snapshots/{commit}" if not empty and HUB_ENTRY.match(folder) else ""


def _give_back(root: str, parent: int, folder: int, path: str, place: str) -> None:
    """Give back the foreign files of a repo or snapshot in the trash, and remove the other traces of the snapshot."""
    repo, _, commit = place.partition("/snapshots/")
    if commit:
        strangers = foreign.in_snapshot(f"{root}/{path}", f"{root}/{repo}", commit)
        if not os.path.lexists(f"{root}/{place}"):
            with suppress(OSError), below(parent, f"{repo}/x") as (above, _):
                small_parts.drop_traces(above, f"{root}/{repo}", commit)
    else:
        strangers = foreign.in_repo(*f"{root}/{path}".rsplit("/", 1))
    if strangers:
        foreign.give_back(parent, folder, path.partition("/")[2], place, strangers)


def _finish_all(roots: Sequence[str], quiet: bool, more: bool) -> None:
    os.nice(_NICENESS)
    time.sleep(_GRACE_SECONDS)
    for root in roots:
        try:
            done = finish(root)
        except Exception as error:  # this process has no caller that could report it
            _say(f"cannot delete the trash in {root}: {error}")
            continue
        for failure in done.failures:
            _say(f"cannot remove {failure.path}: {failure.reason}")
        if not quiet and (done.freed or not more):
            _say(f"cache: freed {size(done.freed)}{' more' if more else ''} in {root}")


def _say(line: str) -> None:
    try:
        os.write(2, f"{clean(line)}\n".encode(errors="backslashreplace"))
    except OSError:
        pass  # the reader of stderr has closed it


def _lock(descriptor: int) -> bool:
    try:
        return try_lock(descriptor)
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
        return True  # without flock, two runs may work on it at once, and each deletes what it finds
