"""What goes is renamed away first and deleted afterwards: killed at any instant, each repo is whole or gone.

The rename is the removal, and it checks that the path still is what was planned. Of a revision the refs go first, then
its snapshot by one rename, then the blobs that nothing links to any more. What was put into a repo's folder by somebody
else stays there.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

from . import entries, layout, store
from .deletion import Failure
from .dirs import FOLDER, below, locked, reason, taking_turns, walk
from .entries import LOCKS
from .names import read_ref
from .plan import Item, Plan
from .roots import TRASH
from .trash import Trash, give_back, sweep, unlink_blob

Say = Callable[[Item], None]
_MOVED = "it is not what it was when the removal was planned"


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
            elif item.kind in ("payload", "damaged"):
                run.attempt(item, run.take_payload)
            elif item.kind == "store":
                run.attempt(item, run.take_store)
    finally:
        run.close()
    return Condemned(tuple(run.done), tuple(run.failures), run.freed)


class _Run:
    def __init__(self, root: str, say: Say) -> None:
        self.root = root
        self.say = say
        self.trash = Trash(root)
        self.mounts = entries.mounts(root)
        self.done: list[Item] = []
        self.failures: list[Failure] = []
        self.freed = 0
        self._locks: int | None = None
        self._payloads: frozenset[str] | None = None

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
                return  # somebody else was faster
            self.failures.append(Failure(item.path, reason(error)))
        except OSError as error:
            self.failures.append(Failure(item.path, reason(error)))
        else:
            self.done.append(item)

    def take_repo(self, item: Item) -> None:
        found = os.stat(item.folder, dir_fd=self.trash.descriptor, follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode) or (found.st_dev, found.st_ino) != item.identity:
            raise OSError(errno.ESTALE, _MOVED)
        self._refuse_mount(item.folder)
        if not layout.has_strangers(item.path):
            self.trash.take(self.trash.descriptor, item.folder)
            return
        foreign = layout.read(self.root, item.folder).foreign
        # With the snapshots the repo is gone; only what huggingface_hub has made goes, piece by piece.
        for part in ("snapshots", "refs", "blobs", "trees", ".no_exist"):
            if not any(name.startswith(f"{part}/") for name in foreign):
                with below(self.trash.descriptor, f"{item.folder}/{part}") as (repo, name):
                    self._take_if_there(repo, name)
                continue
            with below(self.trash.descriptor, f"{item.folder}/{part}/x") as (inside, _):
                for name in os.listdir(inside):
                    if f"{part}/{name}" not in foreign:
                        self._take_if_there(inside, name)
        with below(self.trash.descriptor, f"{item.folder}/x") as (repo, _):
            for name in os.listdir(repo):
                if name.startswith(TRASH):
                    self._take_if_there(repo, name)
        with suppress(OSError):
            os.rmdir(item.folder, dir_fd=self.trash.descriptor)  # what looked strange was not

    def take_locks(self, item: Item) -> None:
        self._refuse_mount(LOCKS)
        if os.path.lexists(f"{self.root}/{item.folder}/snapshots"):
            return  # its repo could not go, or has come again
        if self._locks is None:
            self._locks = os.open(LOCKS, FOLDER, dir_fd=self.trash.descriptor)
        self.trash.take(self._locks, item.folder, f"{LOCKS}-{len(self.done)}")

    def take_payload(self, item: Item) -> None:
        name = item.path.rpartition("/")[2]
        sweep(self.root, name, self._linked(), self.trash.take, damaged=item.kind == "damaged")

    def take_store(self, _item: Item) -> None:
        self._refuse_mount(store.FOLDER)
        if self._repos() or store.has_strangers(self.root):
            # A repo could not go or has come meanwhile, or somebody else keeps something in there: only payloads that
            # nothing links to may leave.
            for payload, _ in tuple(store.sizes(self.root)):
                with suppress(FileNotFoundError):
                    sweep(self.root, payload, self._linked(), self.trash.take)
            return
        self.trash.take(self.trash.descriptor, store.FOLDER)
        came = self._repos()
        for trash in entries.contents(self.root).trash if came else ():
            give_back(self.root, trash, came)

    def take_parts(self, items: list[Item]) -> None:
        """Remove parts of one repo: revisions with their refs, what is broken, then blobs that nothing links to."""
        refs = [item for item in items if item.kind == "ref"]
        revisions = {item.path.rpartition("/")[2] for item in items if item.kind in ("revision", "snapshot")}
        for item in items:
            if item.kind in ("revision", "snapshot"):
                own = [ref for ref in refs if ref.commit == item.path.rpartition("/")[2]]
                self.attempt(item, lambda item, own=own: self._take_revision(item, own))  # type: ignore[misc]
            elif item.kind == "link":
                self.attempt(item, self._unlink)
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
            return  # somebody else has taken the whole repo
        except OSError as error:
            self.failures.append(Failure(f"{self.root}/{loose[0].folder}", reason(error)))
            return
        for item in loose:
            name = item.path.rpartition("/")[2]
            if item.kind == "partial" or name in now.unlinked:
                self.attempt(item, self._unlink_blob)
            elif name in now.blobs:
                self.failures.append(Failure(item.path, "a revision still links to it"))

    def _take_revision(self, item: Item, refs: list[Item]) -> None:
        commit = item.path.rpartition("/")[2]
        with below(self.trash.descriptor, f"{item.folder}/snapshots/{commit}") as (parent, name):
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise OSError(errno.ESTALE, _MOVED)
            with below(self.trash.descriptor, f"{item.folder}/x") as (repo, _), taking_turns(repo):
                # The refs go first: one that names what is not there would hide the whole repo from huggingface_hub.
                for ref in refs:
                    with suppress(FileNotFoundError):
                        self._unlink_ref(ref)
                    self.done.append(ref)
                if any(read_ref(ref.path) == commit for ref in walk(f"{self.root}/{item.folder}/refs")):
                    raise OSError(errno.EAGAIN, "a ref has come that leads to it")
                if item.kind == "snapshot":
                    # By itself it goes elsewhere: with what lies in its repo's trash, the blobs go too.
                    self.trash.take(parent, name, f"{os.urandom(8).hex()}-{commit[:40]}")
                else:
                    trash = f"{TRASH}{commit[:40]}-{os.urandom(8).hex()}"
                    os.rename(name, trash, src_dir_fd=parent, dst_dir_fd=repo)
                with suppress(OSError), below(repo, f"trees/{commit}.json") as (folder, entry):
                    os.unlink(entry, dir_fd=folder)
                with suppress(OSError), below(repo, f".no_exist/{commit}") as (folder, entry):
                    self.trash.take(folder, entry, f"no_exist-{os.urandom(8).hex()}")

    def _unlink_ref(self, item: Item) -> None:
        if read_ref(item.path) != item.commit:
            raise OSError(errno.ESTALE, "it names another commit by now")
        self._unlink(item)

    def _unlink(self, item: Item) -> None:
        path = item.path[len(f"{self.root}/") :]
        with below(self.trash.descriptor, path) as (parent, name):
            os.unlink(name, dir_fd=parent)
        # A ref such as refs/pr/1 has folders of its own; empty ones say nothing.
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
        found = os.lstat(item.path)
        unlink_blob(self.root, item.folder, item.path.rpartition("/")[2], item.identity)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            self.freed += found.st_size

    def _repos(self) -> tuple[str, ...]:
        """Return the repos that may link to something; a folder that only a stranger's file keeps there is none."""
        present = entries.contents(self.root).entries
        return tuple(e for e in present if any(os.path.lexists(f"{self.root}/{e}/{p}") for p in ("blobs", "snapshots")))

    def _linked(self) -> frozenset[str]:
        """Return what the repos that are left link to; by the time it is asked, none of them goes any more."""
        if self._payloads is None:
            self._payloads = store.linked(self.root, entries.contents(self.root).entries)
        return self._payloads

    def _take_if_there(self, parent: int, name: str) -> None:
        with suppress(FileNotFoundError):
            self.trash.take(parent, name, f"{name[:40]}-{os.urandom(8).hex()}")

    def _refuse_mount(self, entry: str) -> None:
        if entry in self.mounts:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _by_repo(items: Iterable[Item]) -> Mapping[str, list[Item]]:
    grouped: dict[str, list[Item]] = {}
    for item in items:
        if item.folder:
            grouped.setdefault(item.folder, []).append(item)
    return grouped
