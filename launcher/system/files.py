"""Handle files: open untrusted ones, write atomically, hash, and wait for a lock.

In a folder that others may write to, a name can become a link, a FIFO or a device at any time. Every function here
works on descriptors and raises OSError.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable
from contextlib import suppress

# The errors of flock on a file system without it: Lustre without `-o flock`, NFS without locks, some FUSE.
NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_PLACE_ONLY = getattr(os, "O_PATH", os.O_RDONLY)
_POLL_SECONDS = 0.005
_BLOCK = 1 << 20
# The end of a temporary name. It names the launcher: a user's own `.env.20261129` is no leftover.
_TEMPORARY = ".start_app-"
_SUFFIX = rf"{re.escape(_TEMPORARY)}[0-9a-f]{{8}}"
Path = str | os.PathLike[str]


def open_regular(
    path: Path, flags: int = os.O_RDONLY, mode: int = 0o666, *, dir_fd: int | None = None, follow: bool = False
) -> int:
    """Open a regular file without waiting, on a descriptor above the standard streams.

    A link as the last component is an error (ELOOP) unless `follow`. Raises OSError (EINVAL) for a FIFO, a socket or a
    device, EISDIR for a folder.
    """
    flags |= os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    descriptor = above_streams(os.open(path, flags, mode, dir_fd=dir_fd))
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise OSError(errno.EINVAL, "not a regular file", path)


def open_folder(path: Path, *, dir_fd: int | None = None, follow: bool = False) -> int:
    """Open a folder; a link as the last component is an error unless `follow`."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    return above_streams(os.open(path, flags, dir_fd=dir_fd))


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder, none if it cannot be read."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def open_place(path: Path, flags: int = 0, *, dir_fd: int | None = None, follow: bool = False) -> int:
    """Open any entry only to identify it, which needs no read permission; open a link itself unless `follow`."""
    flags |= _PLACE_ONLY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    return above_streams(os.open(path, flags, dir_fd=dir_fd))


def read_regular(path: Path, limit: int, *, dir_fd: int | None = None, follow: bool = False) -> bytes:
    """Return the first `limit` bytes of a regular file."""
    descriptor = open_regular(path, dir_fd=dir_fd, follow=follow)
    with open(descriptor, "rb") as file:
        return file.read(limit)


def write_whole(
    name: str,
    data: bytes,
    folder: int,
    *,
    durable: bool = False,
    owner: os.stat_result | None = None,
    mode: int = 0o644,
    prepare: Callable[[int], None] | None = None,
) -> None:
    """Write a file in an open folder atomically, by one rename; a link of this name is replaced.

    `durable` means synced to the disk before the rename. A file that root creates is given to `owner`. `prepare` is
    called with the empty file. Leftovers of killed writers of this name are removed; a flock on the new file shows that
    its writer lives.
    """
    _sweep(name, folder)
    new, descriptor = open_new(f"{name}{_TEMPORARY}", folder, mode)
    try:
        with open(descriptor, "wb") as file:
            if prepare:
                prepare(descriptor)
            if owner:
                give_to_owner(descriptor, owner)
            file.write(data)
            file.flush()
            if durable:
                os.fsync(descriptor)
            # Rename before the close releases the lock, or another writer would remove the file.
            os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(new, dir_fd=folder)
        raise
    if durable:
        with suppress(OSError):  # some file systems cannot sync a folder
            os.fsync(folder)


def open_new(prefix: str, folder: int, mode: int, *, append: bool = False) -> tuple[str, int]:
    """Create a file with a new name in an open folder; return the name and the descriptor.

    Its flock shows that its writer lives, so other writers do not remove it.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | (os.O_APPEND if append else 0)
    while True:
        new = f"{prefix}{os.urandom(4).hex()}"
        descriptor = open_regular(new, flags, mode, dir_fd=folder)
        with suppress(OSError):  # without flock, other writers do not remove it either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return new, descriptor
        os.close(descriptor)  # another writer removed it before it was locked


def _sweep(name: str, folder: int) -> None:
    for left in os.listdir(folder):
        if not (left.startswith(name) and re.fullmatch(_SUFFIX, left.removeprefix(name))):
            continue
        with suppress(OSError):
            descriptor = open_regular(left, dir_fd=folder)
            try:
                if try_lock(descriptor):
                    os.unlink(left, dir_fd=folder)
            finally:
                os.close(descriptor)


def content_hash(
    descriptor: int,
    like: str,
    *,
    buffer: memoryview | None = None,
    proceed: Callable[[int], bool] = lambda _: True,
) -> str | None:
    """Return the hash of an open file's content from its position on, in the form of `like`.

    64 digits are SHA-256, 40 are git's SHA-1 of a blob, as on the Hub. `proceed` receives the number of bytes read and
    returns whether to continue; return None if it stopped.
    """
    import hashlib

    if len(like) == 64:
        hasher = hashlib.sha256()
    else:
        hasher = hashlib.sha1(b"blob %d\0" % os.fstat(descriptor).st_size, usedforsecurity=False)
    block = memoryview(bytearray(_BLOCK)) if buffer is None else buffer
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        while count := file.readinto(block):
            hasher.update(block[:count])
            if not proceed(count):
                return None
    return hasher.hexdigest()


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Take the flock of an open file unless another process holds it; return whether it was taken.

    Raises OSError with an errno of NO_FLOCK on a file system without flock.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_within(descriptor: int, seconds: float, *, pause: float = _POLL_SECONDS) -> bool:
    """Take the flock of an open file, waiting up to `seconds` for it; return whether it was taken.

    Raises OSError with an errno of NO_FLOCK on a file system without flock.
    """
    deadline = time.monotonic() + seconds
    while not try_lock(descriptor):
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
    return True


def above_streams(descriptor: int) -> int:
    """Return a descriptor above the standard streams, which may have been closed."""
    if descriptor > 2:
        return descriptor
    above = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return above


def free_bytes(path: Path) -> int | None:
    """Return how many bytes this user can still write below a path, None if its file system does not tell.

    Some FUSE and network file systems report no blocks at all: statvfs(3). Raises OSError.
    """
    space = os.statvfs(path)
    return space.f_bavail * space.f_frsize if space.f_blocks else None


def existing_folder(path: str) -> str:
    """Return the nearest existing folder at or above an absolute path."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def give_to_owner(descriptor: int, owner: os.stat_result) -> None:
    """Give a file of root's to the owner of the folder, whose own launches must not fail on it.

    It stays root's if that owner is not valid here: a user namespace does not map it (EINVAL), or the server of a
    network file system refuses (EPERM).
    """
    if os.geteuid() == 0 and os.fstat(descriptor).st_uid == 0 and owner.st_uid != 0:
        try:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM):
                raise
