"""What goes is renamed away first and deleted afterwards: killed at any instant, each repo is whole or gone.

The rename is the removal, and it checks that the path still is what was planned. Of a revision the refs go first, so
that no ref ever names a commit that is not there, then its snapshot by one rename, then the blobs that nothing links
to any more.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

from . import layout, store
from .layout import LOCKS
from .plan import Item, Plan
from .roots import TRASH
from .trash import Failure, Trash, below, delete, give_back, locked, opened, reason, sweep, unlink_blob

Say = Callable[[Item], None]


class Condemned(NamedTuple):
    """Hold what is gone from the cache, what could not go, and the bytes freed so far; the rest lies in the trash."""

    items: tuple[Item, ...]
    failures: tuple[Failure, ...]
    freed: int


def condemn(plan: Plan, say: Say) -> Condemned:
    """Take every item of a plan out of the cache; `say` is told each one before.

    A path that is not what was planned any more stays and is a failure; one that is gone already is none.
    """
    if not plan.items:
        return Condemned((), (), 0)
    run = _Run(plan.root.real, say)
    try:
        for items in _by_repo(plan.items).values():
            if items[0].kind == "repo":
                run.attempt(items[0], run.take_repo)
            else:
                run.take_parts([item for item in items if item.kind != "locks"])
        for item in plan.items:
            if item.kind == "locks":
                run.attempt(item, run.take_locks)
            elif item.kind == "payload":
                run.attempt(item, run.take_payload)
            elif item.kind == "store":
                run.attempt(item, run.take_store)
    finally:
        run.trash.close()
    return Condemned(tuple(run.done), tuple(run.failures), run.freed)


class _Run:
    def __init__(self, root: str, say: Say) -> None:
        self.root = root
        self.say = say
        self.trash = Trash(root)
        self.mounts = layout.mounts(root)
        self.done: list[Item] = []
        self.failures: list[Failure] = []
        self.freed = 0

    def attempt(self, item: Item, act: Callable[[Item], None]) -> None:
        self.say(item)
        try:
            act(item)
        except FileNotFoundError:
            return  # somebody else was faster
        except OSError as error:
            self.failures.append(Failure(item.path, reason(error)))
            return
        self.done.append(item)

    def take_repo(self, item: Item) -> None:
        found = os.stat(item.folder, dir_fd=self.trash.descriptor, follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode) or (found.st_dev, found.st_ino) != item.identity:
            raise OSError(errno.ESTALE, "it is not what it was when the removal was planned")
        if item.folder in self.mounts:
            raise OSError(errno.EBUSY, "")
        self.trash.take(self.trash.descriptor, item.folder)

    def take_locks(self, item: Item) -> None:
        if os.path.lexists(f"{self.root}/{item.folder}"):
            return  # its repo could not go, or has come again
        with below(self.trash.descriptor, f"{LOCKS}/{item.folder}") as (parent, name):
            self.trash.take(parent, name, f"{LOCKS}-{os.urandom(4).hex()}")

    def take_payload(self, item: Item) -> None:
        sweep(self.root, item.path.rpartition("/")[2], self.trash.take)

    def take_store(self, _item: Item) -> None:
        if layout.contents(self.root).entries:
            # A repo could not go or has come meanwhile: only what it does not link to may leave.
            for payload, _ in tuple(store.sizes(self.root)):
                sweep(self.root, payload, self.trash.take)
            return
        self.trash.take(self.trash.descriptor, store.FOLDER)
        present = layout.contents(self.root)
        if present.entries:
            for trash in present.trash:
                give_back(self.root, f"{self.root}/{trash}", present.entries)

    def take_parts(self, items: list[Item]) -> None:
        """Remove parts of one repo, in the order in which they stand."""
        for item in items:
            if item.kind in ("ref", "link"):
                self.attempt(item, self._unlink)
            elif item.kind in ("revision", "snapshot"):
                self.attempt(item, self._take_revision)
            elif item.kind == "lock":
                self.attempt(item, self._unlink_lock)
        loose = [item for item in items if item.kind in ("blob", "partial")]
        if not loose:
            return
        try:
            now = layout.read(self.root, loose[0].folder)
        except OSError as error:
            self.failures.append(Failure(f"{self.root}/{loose[0].folder}", reason(error)))
            return
        for item in loose:
            name = item.path.rpartition("/")[2]
            if item.kind == "partial" or name in now.orphans:
                self.attempt(item, self._unlink_blob)
            elif name in now.blobs:
                self.failures.append(Failure(item.path, "a revision links to it again"))

    def _unlink(self, item: Item) -> None:
        path = _inside(item)
        with opened(f"{self.root}/{item.folder}") as repo:
            with below(repo, path) as (parent, name):
                os.unlink(name, dir_fd=parent)
            # A ref such as refs/pr/1 has folders of its own; empty ones say nothing.
            folders = path.split("/")[:-1]
            while len(folders) > 1 and folders[0] == "refs":
                with suppress(OSError), below(repo, "/".join(folders)) as (parent, name):
                    os.rmdir(name, dir_fd=parent)
                folders.pop()

    def _take_revision(self, item: Item) -> None:
        commit = item.path.rpartition("/")[2]
        with opened(f"{self.root}/{item.folder}") as repo:
            with below(repo, f"snapshots/{commit}") as (parent, name):
                if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                    raise OSError(errno.ESTALE, "it is not what it was when the removal was planned")
                if item.kind == "snapshot":
                    self.trash.take(parent, name)  # there, nobody takes its blobs to go with it
                    return
                os.rename(name, f"{TRASH}{commit}-{os.urandom(4).hex()}", src_dir_fd=parent, dst_dir_fd=repo)
            for part, name in (("trees", f"{commit}.json"), (".no_exist", commit)):
                with suppress(OSError), below(repo, f"{part}/{name}") as (parent, entry):
                    delete(parent, entry, item.path)

    def _unlink_lock(self, item: Item) -> None:
        with locked(item.path):
            os.unlink(item.path)

    def _unlink_blob(self, item: Item) -> None:
        found = os.lstat(item.path)
        unlink_blob(self.root, item.folder, item.path.rpartition("/")[2], item.identity)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            self.freed += found.st_size


def _inside(item: Item) -> str:
    """Return an item's path below its repo's folder."""
    return item.path.partition(f"/{item.folder}/")[2]


def _by_repo(items: Iterable[Item]) -> Mapping[str, list[Item]]:
    grouped: dict[str, list[Item]] = {}
    for item in items:
        if item.folder:
            grouped.setdefault(item.folder, []).append(item)
    return grouped
