"""Copy a cache entry by entry to another folder, and read each file back before it counts.

Every file gets its name by one rename, with the times of the old one: a file with the old size and time was copied
before, perhaps by a killed run. On the same file system, files get a second name instead. Folders are opened one below
the other and links are never followed, because root copies caches of other users.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from ..config.paths import MOVE
from ..system import files
from ..ui.console import Progress
from . import store
from .deletion import Deletion
from .dirs import below, opened
from .entries import Contents
from .names import is_new_ref
from .snapshots import Identity

PART = f"{MOVE}.part"
TAG = "CACHEDIR.TAG"
_DEEPEST = 60
_BLOCK = 1 << 20
# Smaller files are copied again: after a power cut they may have the right size and no content.
_TRUSTED_BYTES = 1 << 20
_COARSE_NS = 2_000_000_000  # FAT has a resolution of two seconds
_NO_SECOND_NAME = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EACCES)


class ChangedError(Exception):
    """Signal that a file has changed since the survey."""


class Measured(NamedTuple):
    """Hold what to copy: files and their bytes, each inode once, and special files."""

    files: int
    size: int
    odd: tuple[str, ...]


class Copier:
    """Copy entries of one root into another folder; `copied` counts the bytes, without those of second names."""

    def __init__(self, source: str, target: str, *, link: bool, progress: Progress | None = None) -> None:
        self.source, self.target, self.link = source, target, link
        self.copied = 0
        self._progress = progress
        self._names: dict[Identity, str] = {}
        self._buffer = memoryview(bytearray(_BLOCK))

    def copy(self, name: str) -> None:
        """Make an entry of the target equal to the source's; remove additional files.

        Raises OSError, and ChangedError if the source changes meanwhile.
        """
        with opened(self.source) as source, opened(self.target) as target:
            self._entry(source, target, name, name)

    def _entry(self, source: int, target: int, name: str, path: str) -> None:
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            if not _is(target, name, stat.S_ISDIR):
                _drop(target, name, path)
                os.mkdir(name, 0o700, dir_fd=target)
            self._folder(source, target, name, path)
            return  # including its mode and times
        elif stat.S_ISLNK(status.st_mode):
            self._link(source, target, name, path)
        elif stat.S_ISREG(status.st_mode):
            self._file(source, target, name, path)

    def _folder(self, source: int, target: int, name: str, path: str) -> None:
        if path.count("/") > _DEEPEST:
            raise OSError(errno.ELOOP, "it is nested too deeply", path)
        inner, copy = files.open_folder(name, dir_fd=source), -1
        try:
            copy = files.open_folder(name, dir_fd=target)
            status = os.fstat(inner)
            os.fchmod(copy, 0o700)
            names = [child for child in sorted(os.listdir(inner)) if is_copied(path, child)]
            for child in {*os.listdir(copy)}.difference(names):
                _drop(copy, child, f"{path}/{child}")
            for child in names:
                self._entry(inner, copy, child, f"{path}/{child}")
            _be_like(copy, status)
        finally:
            os.close(inner)
            if copy >= 0:
                os.close(copy)

    def _link(self, source: int, target: int, name: str, path: str) -> None:
        text = retargeted(self.source, path, os.readlink(name, dir_fd=source))
        with suppress(OSError):
            if os.readlink(name, dir_fd=target) == text:
                return
        _drop(target, name, path)
        os.symlink(text, name, dir_fd=target)
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        with suppress(OSError):
            os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)
        if os.geteuid() == 0:
            with suppress(OSError):
                os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)

    def _file(self, source: int, target: int, name: str, path: str) -> None:
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        identity = (status.st_dev, status.st_ino)
        first = self._names.setdefault(identity, path) if status.st_nlink > 1 else path
        if first != path:
            self._second_name(first, target, name, path)
            return
        if self._is_there(target, name, status):
            self._step(status.st_size, path)
            return
        _drop(target, name, path)
        if self.link and self._linked(source, target, name, status):
            self._step(status.st_size, path)
            return
        self._copied(source, target, name, path)

    def _is_there(self, target: int, name: str, status: os.stat_result) -> bool:
        try:
            copy = os.stat(name, dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if os.path.samestat(copy, status):
            return True
        near = abs(copy.st_mtime_ns - status.st_mtime_ns) < _COARSE_NS
        same = stat.S_ISREG(copy.st_mode) and copy.st_size == status.st_size and near
        return same and status.st_size >= _TRUSTED_BYTES

    def _second_name(self, first: str, target: int, name: str, path: str) -> None:
        """Give a file of the target another name, as in the source."""
        with opened(self.target) as root, below(root, first) as (parent, old):
            with suppress(FileNotFoundError):
                now = os.stat(name, dir_fd=target, follow_symlinks=False)
                if os.path.samestat(now, os.stat(old, dir_fd=parent, follow_symlinks=False)):
                    return
            _drop(target, name, path)
            os.link(old, name, src_dir_fd=parent, dst_dir_fd=target, follow_symlinks=False)

    def _linked(self, source: int, target: int, name: str, status: os.stat_result) -> bool:
        try:
            os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_SECOND_NAME:
                raise
            return False
        if not os.path.samestat(os.stat(name, dir_fd=target, follow_symlinks=False), status):
            raise ChangedError(name)
        return True

    def _copied(self, source: int, target: int, name: str, path: str) -> None:
        original = files.open_regular(name, dir_fd=source)
        try:
            status = os.fstat(original)
            with opened(self.target) as root:
                with suppress(FileNotFoundError):
                    os.unlink(PART, dir_fd=root)
                copy = files.open_regular(PART, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=root)
                try:
                    self._content(original, copy, path)
                    if not _unchanged(status, os.fstat(original)):
                        raise ChangedError(path)
                    _be_like(copy, status)
                    os.rename(PART, name, src_dir_fd=root, dst_dir_fd=target)
                finally:
                    os.close(copy)
        finally:
            os.close(original)
        self.copied += status.st_size

    def _content(self, original: int, copy: int, path: str) -> None:
        """Copy the content of an open file, sync it to the disk, and compare the copy.

        Raises OSError (EIO) if the copy differs.
        """
        read, number = hashlib.sha256(), 0
        with open(original, "rb", buffering=0, closefd=False) as file:
            while count := file.readinto(self._buffer):
                block = self._buffer[:count]
                read.update(block)
                while block:
                    block = block[os.write(copy, block) :]
                number += count
                self._step(count, path)
        if number >= _TRUSTED_BYTES:
            os.fsync(copy)
            if hasattr(os, "posix_fadvise"):  # read the disk, not the page cache
                os.posix_fadvise(copy, 0, 0, os.POSIX_FADV_DONTNEED)
        os.lseek(copy, 0, os.SEEK_SET)
        if files.content_hash(copy, "0" * 64, buffer=self._buffer) != read.hexdigest():
            raise OSError(errno.EIO, "the copy differs from its source", f"{self.target}/{path}")

    def _step(self, count: int, path: str) -> None:
        if self._progress:
            self._progress(count, path)


def copied_names(root: str, contents: Contents) -> tuple[str, ...]:
    """Return the entries of a root that are huggingface_hub's and worth copying: no locks, no trash."""
    tag = (TAG,) if os.path.isfile(f"{root}/{TAG}") else ()
    return (*contents.entries, *((store.FOLDER,) if contents.store else ()), *tag)


def is_copied(path: str, child: str) -> bool:
    """Return whether this name in the folder `path` of a root is copied: temporary files are not."""
    return not is_new_ref(child) and not (path.partition("/")[0] == store.FOLDER and child.endswith(".lock"))


def measure(root: str, names: tuple[str, ...]) -> Measured:
    """Return the size of these entries of a root.

    Raises OSError if they cannot be read.
    """
    sizes: dict[Identity, int] = {}
    odd = []
    for path, status in _walk(root, names):
        if stat.S_ISREG(status.st_mode):
            sizes[status.st_dev, status.st_ino] = status.st_size
        elif not (stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            odd.append(path)
    return Measured(len(sizes), sum(sizes.values()), tuple(odd))


def fingerprint(root: str, name: str) -> str:
    """Return a short fingerprint of an entry of a root: names, sizes, times and links.

    Raises OSError if it cannot be read.
    """
    digest = hashlib.sha256()
    for path, status in _walk(root, (name,)):
        text = os.readlink(f"{root}/{path}") if stat.S_ISLNK(status.st_mode) else ""
        content = (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else ()
        line = "\0".join((path, str(stat.S_IFMT(status.st_mode)), text, *map(str, content)))
        digest.update(os.fsencode(f"{line}\n"))
    return digest.hexdigest()


def retargeted(source: str, path: str, text: str) -> str:
    """Return the new text of a link at `path` below the root `source` after a move of that root.

    An absolute link into the root becomes relative, a relative link out of it absolute.
    """
    folder = os.path.dirname(path)
    lexical = os.path.normpath(os.path.join(source, folder, text))
    inside = lexical == source or lexical.startswith(f"{source}/")
    if inside and not os.path.isabs(text):
        return text
    if not inside:
        parent, _, name = os.path.join(source, folder, text).rstrip("/").rpartition("/")
        real = f"{os.path.realpath(parent or '/').rstrip('/')}/{name}"
        if not real.startswith(f"{source}/"):
            return lexical if not os.path.isabs(text) else text
        lexical = os.path.normpath(real)
    return os.path.relpath(lexical, os.path.join(source, folder))


def _walk(root: str, names: tuple[str, ...]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything in these entries of a root, folders before their contents, sorted by name."""
    pending = list(reversed(names))
    while pending:
        path = pending.pop()
        status = os.lstat(f"{root}/{path}")
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            inner = sorted(os.listdir(f"{root}/{path}"), reverse=True)
            pending += [f"{path}/{child}" for child in inner if is_copied(path, child)]


def _unchanged(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)


def _is(folder: int, name: str, kind: Callable[[int], bool]) -> bool:
    try:
        return kind(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _drop(folder: int, name: str, path: str) -> None:
    Deletion().delete(folder, name, path)


def _be_like(descriptor: int, status: os.stat_result) -> None:
    """Give an open file or folder the owner, mode and times of another one."""
    now = os.fstat(descriptor)
    if (now.st_uid, now.st_gid) != (status.st_uid, status.st_gid):
        with suppress(OSError):  # only root gives files away
            os.fchown(descriptor, status.st_uid, status.st_gid)
    with suppress(OSError):  # FAT has no modes
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
    os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))
