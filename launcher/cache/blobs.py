"""A blob or payload is removed under its own download lock, so that no download links to it or resumes it meanwhile."""

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
    """Pass a payload without links to `take`.

    The caller has checked that no repo links to it. If the payload's own list of links is unreadable, the payload stays
    while any repo exists, unless it is `damaged`. Raises OSError if another process holds its lock for `patience`
    seconds.
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
        with suppress(FileNotFoundError):  # a killed run has left these files behind
            take(parent, name)
        for companion in (f"{name}.refs", f"{name}.lock"):  # we hold the lock, and it guards nothing now
            with suppress(OSError):
                os.unlink(companion, dir_fd=parent)


def unlink_blob(root: str, folder: str, name: str, identity: Identity | None) -> None:
    """Unlink a blob or a partial download under its download lock, so that no process uses it meanwhile.

    Raises OSError: EAGAIN if a downloader holds the lock, ESTALE if the file no longer has this identity.
    """
    lock = lock_of(name) or f"{name}.lock"
    with opened(root) as descriptor:
        try:
            with below(descriptor, f"{LOCKS}/{folder}/{lock}") as (locks, lock), locked(locks, lock):
                _unlink(descriptor, f"{folder}/blobs/{name}", identity)
                with suppress(OSError):
                    os.unlink(lock, dir_fd=locks)  # we hold the lock, and it guards nothing now
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
                raise OSError(errno.ESTALE, "it has changed since the removal was planned")
        os.unlink(name, dir_fd=parent)
