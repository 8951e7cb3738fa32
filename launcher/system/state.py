"""The launcher's state of an app is in a folder that no other user can have made.

Shell, cron and a unit with `PrivateTmp=` find the same folder. Whatever is written or removed in it goes by descriptor:
where others may write, a name can become a link at any time.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
import urllib.parse
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from . import files
from .files import give_to_owner

FOLDER = ".start_app"
_SHARED = ("/var/tmp", "/tmp", "/dev/shm")
_MAX_NAME = 200
# The folder cannot be written or locked there: the next place is tried.
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
    """Return where an app's state may be, best first.

    The app's folder, the user's state folder by the password database (not `HOME`, which cron, sudo and units set
    differently), and what is writable in a container whose root is not: /var/tmp, /tmp, and /dev/shm.
    """
    name = urllib.parse.quote(os.path.realpath(app_dir), safe="", errors="surrogateescape")
    if len(name) > _MAX_NAME:
        import hashlib

        name = hashlib.sha256(name.encode()).hexdigest()
    places = [Path(os.path.realpath(app_dir), FOLDER)]
    try:
        places.append(Path(pwd.getpwuid(os.geteuid()).pw_dir, ".local", "state", "start_app", name))
    except KeyError:
        pass  # a container's user without a name has no home either
    places += [Path(shared, f"start_app-{os.geteuid()}", name) for shared in _SHARED]
    return tuple(places)


def read(app_dir: Path, name: str) -> bytes:
    """Return what was last written under this name; empty where there is nothing that can be trusted."""
    written: list[tuple[float, bytes]] = []
    for folder in folders(app_dir):
        if not is_trusted(folder, app_dir):
            continue
        try:
            with open(files.open_regular(folder / name), "rb") as file:
                written.append((os.fstat(file.fileno()).st_mtime, file.read()))
        except OSError:
            continue
    return max(written, key=lambda pair: pair[0])[1] if written else b""


def listed(app_dir: Path, prefix: str) -> tuple[str, ...]:
    """Return the names that begin like this, of files that can be trusted."""
    names: dict[str, None] = {}
    for folder in _present(app_dir):
        with suppress(OSError):
            names.update((name, None) for name in os.listdir(folder) if name.startswith(prefix))
    return tuple(names)


def forget(app_dir: Path, name: str) -> None:
    """Remove what was written under this name.

    Raises OSError where it cannot be removed.
    """
    for folder in _present(app_dir):
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def _present(app_dir: Path) -> Iterator[int]:
    """Yield a descriptor of each state folder that is there and can be trusted, open until the next one."""
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
    """Write a whole file or nothing, in the first place that takes it; `durable` before anything that comes after it.

    Raises OSError when no place takes it.
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
    """Open a state folder, made where needed.

    Raises OSError, also for a folder of another user.
    """
    _make(folder)
    # From here on by descriptor: in a folder that others may write to, a name can become a link at any time.
    descriptor = _open(folder, app_dir)
    try:
        if folder.name == FOLDER:
            _complete(descriptor, app_dir)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_file(folder: Path, name: str, app_dir: Path) -> int:
    """Open a file in a state folder, both made where needed, for reading and writing.

    Raises OSError, also for a folder of another user and for anything but a plain file.
    """
    parent = open_folder(folder, app_dir)
    try:
        while True:
            descriptor = files.open_regular(name, os.O_RDWR | os.O_CREAT, 0o644, dir_fd=parent)
            names = os.fstat(descriptor).st_nlink
            if names:
                break
            os.close(descriptor)  # a new one was put in its place since it was opened
        status, folder_status = os.fstat(descriptor), os.fstat(parent)
        problem = None
        if names > 1:
            problem = OSError(errno.EINVAL, "it has another name as well")
        elif status.st_size and status.st_uid not in (os.geteuid() or folder_status.st_uid, folder_status.st_uid):
            # What root makes here is given away while it is empty: this is a file of root's that was moved here.
            problem = PermissionError(errno.EACCES, "the owner of the folder can have moved it there")
        if problem:
            os.close(descriptor)
            raise problem
        if not status.st_size:
            give_to_owner(descriptor, folder_status)
        return descriptor
    finally:
        os.close(parent)


def is_trusted(folder: Path, app_dir: Path) -> bool:
    """Return whether this is a folder into which nobody but this user, root and the app's owner can have put a file."""
    users = {os.geteuid(), 0}
    try:
        status = os.lstat(folder)
        if folder.name == FOLDER:
            users.add(os.stat(app_dir).st_uid)
        elif os.lstat(folder.parent).st_uid not in users:
            return False  # in a folder for everybody, whose the one in between is matters as well
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
    """Give a new state folder to the app's owner and have git ignore it, also after a launcher that was killed at it.

    Only an empty folder is given away: one with something in it may be root's own, moved here by that owner.
    """
    try:
        os.stat(".gitignore", dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        if not os.listdir(folder):
            give_to_owner(folder, os.stat(app_dir))
        with suppress(OSError):  # without it everything works, and git shows the folder
            files.write_whole(".gitignore", b"*\n", folder, owner=os.fstat(folder))
