"""Remove a folder that cannot be renamed file by file, and never half of it.

overlayfs refuses to rename a folder of a lower layer (EXDEV), so this concerns every model baked into a container
image; a full disk has no room for a trash folder. Refs and links can be recreated, so they are removed first, and
restored in reverse order if one of them cannot be removed. Only then are the files with content removed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from types import TracebackType

from ..system.files import open_regular, read_regular
from .deletion import Deletion
from .dirs import below
from .plan import Item

_REF_BYTES = 1 << 20


class Undo:
    """Remove small files and links, and restore them, the last one first, unless everything succeeded."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], None]] = []
        self._folders: list[int] = []

    def __enter__(self) -> Undo:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for step in reversed(self._steps if kind else ()):
            with suppress(OSError):
                step()
        for folder in self._folders:
            os.close(folder)

    def forget(self) -> None:
        """Keep the removals so far."""
        self._steps.clear()

    def unlink_file(self, parent: int, name: str) -> None:
        """Unlink a small file, such as a ref."""
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            self.unlink_link(parent, name)
            return
        data = read_regular(name, _REF_BYTES, dir_fd=parent)
        folder = self._keep(parent)
        os.unlink(name, dir_fd=parent)
        self._steps.append(partial(_write, folder, name, data, status))

    def unlink_link(self, parent: int, name: str) -> None:
        """Unlink a symbolic link."""
        target = os.readlink(name, dir_fd=parent)
        folder = self._keep(parent)
        os.unlink(name, dir_fd=parent)
        self._steps.append(partial(os.symlink, target, name, dir_fd=folder))

    def unlink_all(self, base: int, path: str, kept: Collection[str], *, files: bool) -> None:
        """Unlink the links below a folder, and with `files` its small files too; `path` and `kept` are below `base`."""
        pending = [path]
        while pending:
            inner = pending.pop()
            try:
                with below(base, f"{inner}/x") as (folder, _):
                    for name in os.listdir(folder):
                        if f"{inner}/{name}" in kept:
                            continue
                        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
                        if stat.S_ISDIR(mode):
                            pending.append(f"{inner}/{name}")
                        elif stat.S_ISLNK(mode):
                            self.unlink_link(folder, name)
                        elif files and stat.S_ISREG(mode):
                            self.unlink_file(folder, name)
            except (FileNotFoundError, NotADirectoryError):
                continue

    def _keep(self, parent: int) -> int:
        if not self._folders or not os.path.samestat(os.fstat(self._folders[-1]), os.fstat(parent)):
            self._folders.append(os.dup(parent))
        return self._folders[-1]


def remove_repo(root: int, root_path: str, item: Item, deletion: Deletion) -> None:
    """Remove a repo's folder file by file, except for foreign files; remove only the link if it is one.

    Raises OSError if the removal could not begin; then nothing has changed.
    """
    status = os.stat(item.folder, dir_fd=root, follow_symlinks=False)
    if item.identity and (status.st_dev, status.st_ino) != item.identity:
        raise OSError(errno.ESTALE, "it has changed since the removal was planned")
    if stat.S_ISLNK(status.st_mode):
        os.unlink(item.folder, dir_fd=root)
        return
    kept = frozenset(f"{root_path}/{item.folder}/{path}" for path in item.foreign)
    with Undo() as undo:
        foreign = frozenset(f"{item.folder}/{path}" for path in item.foreign)
        for part in ("refs", "snapshots"):
            undo.unlink_all(root, f"{item.folder}/{part}", foreign, files=part == "refs")
        undo.forget()
    inner = Deletion(mounts=deletion.mounts, kept=kept)
    inner.delete(root, item.folder, item.path)
    deletion.take_over(inner)


def remove_snapshot(parent: int, item: Item, strangers: Collection[str], undo: Undo, deletion: Deletion) -> None:
    """Remove a snapshot file by file, except for foreign files; `parent` is its open parent folder.

    Raises OSError if the removal could not begin; `undo` then has its links.
    """
    name = os.path.basename(item.path)
    if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        undo.unlink_link(parent, name)
        return
    undo.unlink_all(parent, name, frozenset(f"{name}/{path}" for path in strangers), files=False)
    inner = Deletion(mounts=deletion.mounts, kept=frozenset(f"{item.path}/{path}" for path in strangers))
    inner.delete(parent, name, item.path)
    deletion.take_over(inner)


def _write(folder: int, name: str, data: bytes, status: os.stat_result) -> None:
    descriptor = open_regular(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IMODE(status.st_mode), dir_fd=folder)
    with open(descriptor, "wb") as file:
        file.write(data)
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
        with suppress(OSError):
            os.fchown(descriptor, status.st_uid, status.st_gid)
