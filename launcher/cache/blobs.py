"""A blob or a payload goes under its own download lock, so that no download links to it or continues it meanwhile."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress

from . import entries, store
from .dirs import below, locked, opened
from .entries import LOCKS
from .snapshots import Identity
from .usage import lock_of


def sweep(
    root: str,
    payload: str,
    take: Callable[[int, str], object],
    *,
    damaged: bool = False,
    patience: float = store.LOCK_SECONDS,
) -> None:
    """Hand a payload that nothing links to any more to `take`.

    The caller has seen that no repo links to it. Where its own list of links cannot be read, it stays as long as any
    repo is there, unless it is `damaged`. Raises OSError when another process holds its lock for `patience` seconds.
    """
    if not store.is_store(root):
        return
    with (
        opened(root) as descriptor,
        below(descriptor, store.path_below(payload)) as (parent, name),
        store.locked(parent, payload, patience),
    ):
        known = store.references(root, payload)
        if known or (known is None and not damaged and entries.contents(root).entries):
            return
        with suppress(FileNotFoundError):  # a run was killed before it had removed what belongs to it
            take(parent, name)
        for companion in (f"{name}.refs", f"{name}.lock"):  # the lock is ours just now, and guards nothing any more
            with suppress(OSError):
                os.unlink(companion, dir_fd=parent)


def unlink_blob(root: str, folder: str, name: str, identity: Identity | None) -> None:
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


def _unlink(descriptor: int, path: str, identity: Identity | None) -> None:
    with below(descriptor, path) as (parent, name):
        if identity:
            status = os.stat(name, dir_fd=parent)
            if (status.st_dev, status.st_ino) != identity:
                raise OSError(errno.ESTALE, "it is not what it was when the removal was planned")
        os.unlink(name, dir_fd=parent)
