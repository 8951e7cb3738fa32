"""A ref moves after its commit is complete and verified: by one rename, and never through a link."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from ..cache.dirs import below, opened, taking_turns
from ..cache.names import PIN, new_ref
from ..system.files import open_regular, read_regular
from . import repo_id
from .lockfile import LockedModel
from .placement import Place, leads_astray

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def move(model: LockedModel, place: Place, *, pin: bool) -> None:
    """Point the requested revision to the model's commit, and pin it, which protects it from every prune.

    Raises OSError; FileNotFoundError if another process has removed the commit meanwhile.
    """
    assert place.root
    wanted = [] if repo_id.COMMIT.fullmatch(model.revision) else [model.revision]
    if pin:
        wanted.append(PIN)
    with _opened(place) as repo, taking_turns(repo):
        for path in model.files:
            os.stat(f"{place.base(model.commit)}/{path}")
        for ref in () if _needs_none(repo, wanted, model.commit) else wanted:
            _write(repo, ref, model.commit)


def probe(model: LockedModel, place: Place) -> None:
    """Check that the refs can be moved.

    Raises OSError if they cannot.
    """
    assert place.root
    name = new_ref()
    with _opened(place) as repo:
        if _needs_none(repo, [ref for ref in (model.revision, PIN) if not repo_id.COMMIT.fullmatch(ref)], model.commit):
            return
        os.close(open_regular(name, _NEW, dir_fd=repo))
        os.unlink(name, dir_fd=repo)
        for ref in (*(() if repo_id.COMMIT.fullmatch(model.revision) else (model.revision,)), PIN):
            with suppress(FileNotFoundError), below(repo, f"refs/{ref}") as (parent, entry):
                if stat.S_ISDIR(os.stat(entry, dir_fd=parent, follow_symlinks=False).st_mode):
                    raise IsADirectoryError(errno.EISDIR, f"refs/{ref} is a folder")


def _needs_none(repo: int, refs: Sequence[str], commit: str) -> bool:
    """Return whether nothing has to be written: every ref is correct, or on a read-only disk all except the pin.

    Nothing can be pruned from a read-only disk, so it needs no pin.
    """
    other = [ref for ref in refs if _named(repo, ref) != commit]
    return not other or (other == [PIN] and bool(os.fstatvfs(repo).f_flag & os.ST_RDONLY))


def _named(repo: int, ref: str) -> str | None:
    try:
        with below(repo, f"refs/{ref}") as (parent, name):
            return _read(parent, name)
    except OSError:
        return None


def unpin(root: str, folder: str) -> None:
    """Remove the pin from a repo; its revision is pruned like any other then.

    Raises OSError.
    """
    with opened(root) as descriptor, below(descriptor, f"{folder}/refs/{PIN}") as (parent, name):
        os.unlink(name, dir_fd=parent)


@contextmanager
def _opened(place: Place) -> Iterator[int]:
    """Open a repo; refuse another user's link, or a folder that was replaced meanwhile."""
    with opened(place.path) as repo:
        entry, inside = os.lstat(place.path), os.fstat(repo)
        is_link = stat.S_ISLNK(entry.st_mode)
        if leads_astray(place.path) or not (is_link or (entry.st_dev, entry.st_ino) == (inside.st_dev, inside.st_ino)):
            raise OSError(errno.ELOOP, "it is a link of another user's", place.path)
        yield repo


def _write(repo: int, ref: str, commit: str) -> None:
    path = f"refs/{ref}"
    parts = path.split("/")
    for number in range(1, len(parts)):
        with below(repo, "/".join(parts[:number])) as (parent, name), suppress(FileExistsError):
            os.mkdir(name, dir_fd=parent)
    with below(repo, path) as (parent, name):
        with suppress(OSError):
            if _read(parent, name) == commit:
                return
        # A killed run would leave an empty ref in `refs`, which hides the whole repo; outside of it, the file is trash.
        new = new_ref()
        file = open_regular(new, _NEW, dir_fd=repo)  # the umask decides which other users may move it
        try:
            os.write(file, commit.encode())
            os.rename(new, name, src_dir_fd=repo, dst_dir_fd=parent)
        except BaseException:
            os.unlink(new, dir_fd=repo)
            raise
        finally:
            os.close(file)


def _read(parent: int, name: str) -> str:
    return read_regular(name, 64, dir_fd=parent).decode("ascii", "replace")
