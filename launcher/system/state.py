"""The launcher's state of an app is in a folder that no other user can have created.

Shell, cron and a unit with `PrivateTmp=` find the same folder. Files in it are written and removed by descriptor: where
others may write, a name can become a link at any time.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from . import files
from .files import give_to_owner

FOLDER = ".start_app"
_SHARED = ("/var/tmp", "/tmp", "/dev/shm")
_MAX_NAME = 200
# Errors of a folder that cannot be written or locked: try the next place.
ELSEWHERE = (
    errno.EROFS,
    errno.EEXIST,
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENOSPC,
    errno.EDQUOT,
    *files.NO_FLOCK,
)


def folders(app_dir: Path) -> tuple[Path, ...]:
    """Return the possible places of an app's state, best first.

    They are the app's folder, the user's state folder by the password database (not `HOME`, which cron, sudo and units
    set differently), and the writable folders in a container with a read-only root: /var/tmp, /tmp, and /dev/shm.
    """
    return _folders(app_dir, os.geteuid(), _SHARED)


@lru_cache(maxsize=8)
def _folders(app_dir: Path, uid: int, shared: Sequence[str]) -> tuple[Path, ...]:
    """Return the places; a launch asks for them twenty times."""
    name = urllib.parse.quote(os.path.realpath(app_dir), safe="", errors="surrogateescape")
    if len(name) > _MAX_NAME:
        import hashlib

        name = hashlib.sha256(name.encode()).hexdigest()
    places = [Path(os.path.realpath(app_dir), FOLDER)]
    try:
        places.append(Path(pwd.getpwuid(uid).pw_dir, ".local", "state", "start_app", name))
    except KeyError:
        pass  # a container's user without a name has no home either
    places += [Path(folder, f"start_app-{uid}", name) for folder in shared]
    return tuple(places)


def read(app_dir: Path, name: str) -> bytes:
    """Return the last content written under this name; empty if no trusted file has it."""
    written: list[tuple[float, bytes]] = []
    for folder in _present(app_dir):
        with suppress(OSError), open(files.open_regular(name, dir_fd=folder), "rb") as file:
            written.append((os.fstat(file.fileno()).st_mtime, file.read()))
    return max(written, key=lambda pair: pair[0])[1] if written else b""


def listed(app_dir: Path, prefix: str) -> tuple[str, ...]:
    """Return the names of trusted files that begin like this."""
    names: dict[str, None] = {}
    for folder in _present(app_dir):
        with suppress(OSError):
            names.update((name, None) for name in os.listdir(folder) if name.startswith(prefix))
    return tuple(names)


def forget(app_dir: Path, name: str) -> None:
    """Remove the files of this name.

    Raises OSError if one cannot be removed.
    """
    for folder in _present(app_dir):
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def _present(app_dir: Path) -> Iterator[int]:
    """Yield a descriptor of each existing, trusted state folder, open until the next one."""
    for path in folders(app_dir):
        try:
            folder = _open(path, app_dir)
        except OSError:
            continue
        try:
            yield folder
        finally:
            os.close(folder)


def _open(path: Path, app_dir: Path) -> int:
    folder = files.open_folder(path)
    if not is_trusted(path, app_dir) or not os.path.samestat(os.fstat(folder), os.lstat(path)):
        os.close(folder)
        raise PermissionError(errno.EACCES, "its folder belongs to another user")
    return folder


def write(app_dir: Path, name: str, data: bytes, *, durable: bool = False, mode: int = 0o644) -> None:
    """Write a file atomically in the first possible place; `durable` means before all later writes.

    Raises OSError if no place accepts it.
    """
    failure: OSError | None = None
    for folder in folders(app_dir):
        try:
            descriptor = open_folder(folder, app_dir)
            try:
                files.write_whole(name, data, descriptor, mode=mode, durable=durable, owner=os.fstat(descriptor))
            finally:
                os.close(descriptor)
        except OSError as error:
            failure = error
            if error.errno not in ELSEWHERE:
                raise
        else:
            return
    assert failure
    raise failure


def open_folder(folder: Path, app_dir: Path) -> int:
    """Open a state folder, created if necessary.

    Raises OSError, also for another user's folder.
    """
    _make(folder)
    # Work by descriptor from here on: in a folder that others may write to, a name can become a link at any time.
    descriptor = _open(folder, app_dir)
    try:
        if folder.name == FOLDER:
            _complete(descriptor, app_dir)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_file(folder: Path, name: str, app_dir: Path) -> int:
    """Open a file in a state folder, both created if necessary, for reading and writing.

    Raises OSError, also for another user's folder and for anything except a regular file.
    """
    parent = open_folder(folder, app_dir)
    try:
        while True:
            descriptor = files.open_regular(name, os.O_RDWR | os.O_CREAT, 0o644, dir_fd=parent)
            names = os.fstat(descriptor).st_nlink
            if names:
                break
            os.close(descriptor)  # another process has replaced it since it was opened
        status, folder_status = os.fstat(descriptor), os.fstat(parent)
        problem = None
        if names > 1:
            problem = OSError(errno.EINVAL, "it has another name as well")
        elif status.st_size and status.st_uid not in (os.geteuid() or folder_status.st_uid, folder_status.st_uid):
            # New files of root's are given away while they are empty, so this is a file of root's that was moved here.
            problem = PermissionError(errno.EACCES, "the owner of the folder may have moved it there")
        if problem:
            os.close(descriptor)
            raise problem
        if not status.st_size:
            give_to_owner(descriptor, folder_status)
        return descriptor
    finally:
        os.close(parent)


def is_trusted(folder: Path, app_dir: Path) -> bool:
    """Return whether only this user, root and the app's owner can have put a file into this folder."""
    users = {os.geteuid(), 0}
    try:
        status = os.lstat(folder)
        if folder.name == FOLDER:
            users.add(os.stat(app_dir).st_uid)
        elif os.lstat(folder.parent).st_uid not in users:
            return False  # in a shared folder such as /tmp, the owner of the parent folder matters too
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid in users


def _make(folder: Path) -> None:
    if folder.name != FOLDER:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        return
    with suppress(FileExistsError):
        os.mkdir(folder, 0o755)


def _complete(folder: int, app_dir: Path) -> None:
    """Give a new state folder to the app's owner and make git ignore it, also after a launcher was killed here.

    Only an empty folder is given away: one with contents may be root's own, moved here by that owner.
    """
    try:
        os.stat(".gitignore", dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        if not os.listdir(folder):
            give_to_owner(folder, os.stat(app_dir))
        with suppress(OSError):  # without this file git shows the folder, and nothing else changes
            files.write_whole(".gitignore", b"*\n", folder, owner=os.fstat(folder))
