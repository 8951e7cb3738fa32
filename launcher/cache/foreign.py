"""Foreign files in a repo stay: if one rename moves the whole repo away, they are moved back at once."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection
from contextlib import suppress

from . import layout
from .dirs import below
from .names import HASH, new_scrap
from .snapshots import foreign_files, is_partial, tree_of, walk_snapshot


def in_repo(root: str, folder: str) -> tuple[str, ...]:
    """Return the foreign paths in a repo's folder; none for a link.

    Raises OSError if the folder cannot be read.
    """
    path = f"{root}/{folder}"
    if os.path.islink(path) or not layout.has_strangers(path):
        return ()
    return layout.read(root, folder).own_foreign


def in_snapshot(path: str, repo: str, commit: str) -> tuple[str, ...]:
    """Return the foreign paths in a snapshot of a repo, wherever that snapshot is now."""
    if os.path.islink(path):
        return ()
    sizes = {}
    has_blobs = False
    for _, prefix, entry in walk_snapshot(path):
        if entry.is_symlink():
            has_blobs = True
        elif entry.is_file(follow_symlinks=False):
            sizes[f"{prefix}{entry.name}"] = entry.stat(follow_symlinks=False).st_size
    if not sizes:
        return ()
    with suppress(FileNotFoundError, NotADirectoryError):
        blobs = os.listdir(f"{repo}/blobs")
        has_blobs = has_blobs or any(HASH.fullmatch(name) and not is_partial(name) for name in blobs)
    # A killed run may have moved the links away already, so the blobs stand for them.
    return tuple(foreign_files(path, sizes, tree_of(repo, commit), has_links=has_blobs, has_blobs=has_blobs))


def give_back(root: int, trash: int, child: str, place: str, strangers: Collection[str]) -> None:
    """Give back these paths of a folder in the trash: move the rest out, then rename the folder to its old place.

    Raises OSError if that fails; the foreign files are in the trash then.
    """
    kept = frozenset(strangers)
    above = frozenset("/".join(path.split("/")[:number]) for path in kept for number in range(path.count("/") + 1))
    pending = [""]
    while pending:
        prefix = pending.pop()
        with below(trash, f"{child}/{prefix}x") as (folder, _):
            for name in os.listdir(folder):
                path = f"{prefix}{name}"
                if path in kept:
                    continue
                if path in above:
                    pending.append(f"{path}/")
                else:
                    os.rename(name, new_scrap(), src_dir_fd=folder, dst_dir_fd=trash)
    _make_above(root, place)
    with below(root, place) as (parent, name):
        try:
            os.rename(child, name, src_dir_fd=trash, dst_dir_fd=parent)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            _merge(trash, child, root, place, sorted(kept))


def _make_above(root: int, path: str) -> None:
    parts = path.split("/")
    for number in range(1, len(parts)):
        with below(root, "/".join(parts[:number])) as (parent, name), suppress(FileExistsError):
            os.mkdir(name, dir_fd=parent)


def _merge(trash: int, child: str, root: int, place: str, strangers: list[str]) -> None:
    """Move foreign paths into a new folder at the old place; rename a file if its name is already taken there."""
    for path in strangers:
        _make_above(root, f"{place}/{path}")
        with below(trash, f"{child}/{path}") as (source, old), below(root, f"{place}/{path}") as (target, name):
            new = f"{name}.kept-{os.urandom(4).hex()}" if name in os.listdir(target) else name
            os.rename(old, new, src_dir_fd=source, dst_dir_fd=target)
