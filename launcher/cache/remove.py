"""Rename first, delete later: if the run is killed at any instant, each repo is complete or removed.

The rename is the removal, and the renamed folder is checked against the plan. A revision is removed in this order: its
refs, its snapshot by one rename, then the unlinked blobs; the refs are restored if the snapshot cannot be removed.
Where nothing can be renamed, the same happens file by file. Foreign files stay.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple

from ..system.files import open_folder
from . import entries, foreign, in_place, layout, small_parts, store
from .blobs import sweep, unlink_blob
from .deletion import Deletion, Failure
from .dirs import below, locked, reason, taking_turns, walk
from .entries import LOCKS
from .in_place import Undo
from .names import read_ref
from .plan import EVERYTHING, Item, Plan
from .trash import NO_RENAME, Trash, revision_name

Say = Callable[[Item], None]


class Condemned(NamedTuple):
    """Hold the removed paths, the failures, and the bytes freed so far; the rest is in the trash."""

    items: tuple[Item, ...]
    failures: tuple[Failure, ...]
    freed: int


def condemn(plan: Plan, say: Say) -> Condemned:
    """Remove every item of a plan from the cache; call `say` before each one.

    A path that no longer matches the plan stays and is a failure; a path that is already removed is not.
    """
    if not plan.items:
        return Condemned((), (), 0)
    run = _Run(plan, say)
    try:
        for items in _by_repo(plan.items).values():
            if items[0].kind == "repo":
                run.attempt(items[0], run.take_repo)
            else:
                run.take_parts([item for item in items if item.kind != "locks"])
        for item in plan.items:
            if item.kind == "locks":
                run.attempt(item, run.take_locks)
            elif item.kind in ("payload", "damaged"):
                run.attempt(item, run.take_payload)
        run.close_store()
    finally:
        run.close()
    return Condemned(tuple(run.done), (*run.failures, *run.deletion.failures), run.deletion.freed)


class _Run:
    def __init__(self, plan: Plan, say: Say) -> None:
        self.root = plan.root.real
        self.say = say
        self.trash = Trash(self.root, _approved(plan))
        self.mounts = entries.mounts(self.root)
        self.deletion = Deletion(None, entries.mount_points(self.root))
        self.done: list[Item] = []
        self.failures: list[Failure] = []
        self._locks: int | None = None
        self._payloads: tuple[frozenset[str] | None] | None = None

    def close(self) -> None:
        if self._locks is not None:
            os.close(self._locks)
        self.trash.close()

    def attempt(self, item: Item, act: Callable[[Item], None]) -> None:
        self.say(item)
        try:
            act(item)
        except FileNotFoundError as error:
            if not os.path.lexists(item.path):
                return  # another process removed it first
            self.failures.append(Failure(item.path, reason(error)))
        except OSError as error:
            self.failures.append(Failure(item.path, reason(error)))
        else:
            self.done.append(item)

    def take_repo(self, item: Item) -> None:
        self._refuse_mount(item.folder)
        root = self.trash.descriptor
        try:
            path = self.trash.take(root, item.folder, identity=item.identity)
        except OSError as error:
            if error.errno not in NO_RENAME:
                raise
            in_place.remove_repo(root, self.root, item, self.deletion)
            return
        if item.foreign:
            self.trash.give_back(path, item.folder, item.foreign)

    def take_locks(self, item: Item) -> None:
        self._refuse_mount(LOCKS)
        if os.path.lexists(f"{self.root}/{item.folder}/snapshots"):
            return  # its repo could not be removed, or exists again
        if self._locks is None:
            self._locks = open_folder(LOCKS, dir_fd=self.trash.descriptor)
        if small_parts.has_foreign_locks(item.path):
            small_parts.drop_locks(self._locks, item.folder)
            return
        with self._or_delete(self._locks, item.folder, item.path):
            self.trash.take(self._locks, item.folder, f".locks-{len(self.done)}")

    def take_payload(self, item: Item) -> None:
        name, linked = item.path.rpartition("/")[2], self._linked()
        if linked is not None and name not in linked:
            sweep(self.root, name, self._take_or_unlink, damaged=item.kind == "damaged")

    def close_store(self) -> None:
        """Remove a shared store that contains only its marker and folders."""
        if _takes_store(self.done):
            with suppress(OSError):
                store.dismantle(self.trash.descriptor)

    def take_parts(self, items: list[Item]) -> None:
        """Remove parts of one repo: revisions with their refs, broken files, then unlinked blobs."""
        refs = [item for item in items if item.kind == "ref"]
        revisions = {item.path.rpartition("/")[2] for item in items if item.kind in ("revision", "snapshot")}
        for item in items:
            if item.kind in ("revision", "snapshot"):
                own = [ref for ref in refs if ref.commit == item.path.rpartition("/")[2]]
                self.attempt(item, lambda item, own=own: self._take_revision(item, own))  # type: ignore[misc]
            elif item.kind == "link":
                self.attempt(item, self._unlink)
            elif item.kind == "file":
                self.attempt(item, self._unlink_plain)
            elif item.kind == "ref" and item.commit not in revisions:
                self.attempt(item, self._unlink_ref)
            elif item.kind == "lock":
                self.attempt(item, self._unlink_lock)
        loose = [item for item in items if item.kind in ("blob", "partial")]
        if not loose:
            return
        try:
            now = layout.read(self.root, loose[0].folder)
        except FileNotFoundError:
            return  # another process removed the whole repo
        except OSError as error:
            self.failures.append(Failure(f"{self.root}/{loose[0].folder}", reason(error)))
            return
        for item in loose:
            name = item.path.rpartition("/")[2]
            if item.kind == "partial" or item.linked or name in now.unlinked:
                self.attempt(item, self._unlink_blob)
            elif name in now.blobs:
                self.failures.append(Failure(item.path, "a revision still links to it"))

    def _take_revision(self, item: Item, refs: list[Item]) -> None:
        commit = item.path.rpartition("/")[2]
        repo_path = f"{self.root}/{item.folder}"
        with (
            below(self.trash.descriptor, f"{item.folder}/snapshots/{commit}") as (parent, name),
            below(self.trash.descriptor, f"{item.folder}/x") as (repo, _),
            taking_turns(repo),
            Undo() as undo,
        ):
            # Remove the refs first: a ref to a missing revision would hide the whole repo from huggingface_hub.
            for ref in refs:
                with suppress(FileNotFoundError):
                    self._refuse_other_ref(ref)
                    with below(repo, os.path.relpath(ref.path, repo_path)) as (folder, entry):
                        undo.unlink_file(folder, entry)
            if any(read_ref(ref.path) == commit for ref in walk(f"{repo_path}/refs")):
                raise OSError(errno.EAGAIN, "a new ref leads to it")
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not (stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode)):
                raise OSError(errno.ESTALE, "it has changed since the removal was planned")
            strangers = foreign.in_snapshot(item.path, repo_path, commit)
            try:
                # By itself it goes elsewhere: what else tells of it stays for the repair to read.
                taken = self.trash.take(parent, name, revision_name(item.folder, commit))
            except OSError as error:
                if error.errno not in NO_RENAME:
                    raise
                in_place.remove_snapshot(parent, item, strangers, undo, self.deletion)
            else:
                if strangers:
                    self.trash.give_back(taken, f"{item.folder}/snapshots/{commit}", strangers)
            undo.forget()
            small_parts.drop_traces(repo, repo_path, commit)
        self.done += refs
        for ref in refs:
            self._drop_empty_folders(ref.path[len(f"{self.root}/") :])

    def _refuse_other_ref(self, item: Item) -> None:
        if read_ref(item.path) != item.commit:
            raise OSError(errno.ESTALE, "it names another commit now")

    def _unlink_ref(self, item: Item) -> None:
        self._refuse_other_ref(item)
        self._unlink(item)

    def _unlink_plain(self, item: Item) -> None:
        with below(self.trash.descriptor, item.path[len(f"{self.root}/") :]) as (parent, name):
            _refuse_other(item, parent, name)
            self.deletion.unlink(parent, name)

    def _unlink(self, item: Item) -> None:
        path = item.path[len(f"{self.root}/") :]
        with below(self.trash.descriptor, path) as (parent, name):
            _refuse_other(item, parent, name)
            os.unlink(name, dir_fd=parent)
        self._drop_empty_folders(path)

    def _drop_empty_folders(self, path: str) -> None:
        """Remove the folders of a ref such as refs/pr/1 once they are empty."""
        folders = path.split("/")[:-1]
        while len(folders) > 2 and folders[1] == "refs":
            with suppress(OSError), below(self.trash.descriptor, "/".join(folders)) as (parent, name):
                os.rmdir(name, dir_fd=parent)
            folders.pop()

    def _unlink_lock(self, item: Item) -> None:
        name = item.path.rpartition("/")[2]
        with below(self.trash.descriptor, f"{LOCKS}/{item.folder}/{name}") as (parent, lock), locked(parent, lock):
            os.unlink(lock, dir_fd=parent)

    def _unlink_blob(self, item: Item) -> None:
        status = os.lstat(item.path)
        unlink_blob(self.root, item.folder, item.path.rpartition("/")[2], item.identity)
        self.deletion.count(status, item.folder)

    def _take_or_unlink(self, parent: int, name: str) -> None:
        try:
            self.trash.take(parent, name)
        except OSError as error:
            if error.errno not in NO_RENAME:
                raise
            self.deletion.unlink(parent, name)

    @contextmanager
    def _or_delete(self, parent: int, name: str, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in NO_RENAME:
                raise
            self.deletion.delete(parent, name, path)

    def _linked(self) -> frozenset[str] | None:
        """Return the payloads that the remaining repos link to, None if unknown; none of these is removed now."""
        if self._payloads is None:
            self._payloads = (store.linked(self.root, entries.contents(self.root).entries),)
        return self._payloads[0]

    def _refuse_mount(self, entry: str) -> None:
        if entry in self.mounts:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _refuse_other(item: Item, parent: int, name: str) -> None:
    """Refuse a file that has replaced the planned one meanwhile, such as an edited one; raise OSError (ESTALE)."""
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    # A new file often has the inode number of a removed one.
    other = item.kind in ("link", "file") and stat.S_ISLNK(status.st_mode) != (item.kind == "link")
    if other or (item.identity and (status.st_dev, status.st_ino) != item.identity):
        raise OSError(errno.ESTALE, "it has changed since the removal was planned")


def _approved(plan: Plan) -> Iterator[str]:
    """Yield the remaining work for a later run, if this one is killed: blobs, payloads and repo locks, one a line."""
    prefix = len(f"{plan.root.real}/")
    for item in plan.items:
        if item.kind == "blob" and not item.linked:  # a later run would take the new blob of the same name
            yield f"blob {item.path[prefix:]}"
        elif item.kind == "payload":
            yield f"payload {item.path.rpartition('/')[2]}"
        elif item.kind == "locks":
            yield f"locks {item.folder}"
    if _takes_store(plan.items):
        yield "store"


def _takes_store(items: Iterable[Item]) -> bool:
    return any(item.kind == "payload" and item.reason == EVERYTHING for item in items)


def _by_repo(items: Iterable[Item]) -> Mapping[str, list[Item]]:
    grouped: dict[str, list[Item]] = {}
    for item in items:
        if item.folder:
            grouped.setdefault(item.folder, []).append(item)
    return grouped
