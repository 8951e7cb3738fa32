"""What the launcher keeps of an app lies in a folder of the app's own, which nobody else can have put there.

Shell, cron and a unit with `PrivateTmp=` find the same folder. Everything in it goes by descriptor: where others may
write, a name can become a link at any time.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import re
import stat
import urllib.parse
from contextlib import suppress
from pathlib import Path

from .files import above_streams, give_to_owner

FOLDER = ".start_app"
_MAX_NAME = 200
_NEW = re.compile(r"\.[0-9a-f]{8}")
# The folder cannot be written or locked there: the next place is tried.
ELSEWHERE = (
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOLCK,
    errno.EOPNOTSUPP,
)


def folders(app_dir: Path) -> tuple[Path, ...]:
    """Return where an app's state may lie, best first."""
    name = urllib.parse.quote(os.path.realpath(app_dir), safe="", errors="surrogateescape")
    if len(name) > _MAX_NAME:
        import hashlib

        name = hashlib.sha256(name.encode()).hexdigest()
    places = [Path(os.path.realpath(app_dir), FOLDER)]
    try:
        places.append(Path(pwd.getpwuid(os.geteuid()).pw_dir, ".local", "state", "start_app", name))
    except KeyError:
        pass  # a container's user without a name has no home either
    places.append(Path("/var/tmp", f"start_app-{os.geteuid()}", name))
    return tuple(places)


def read(app_dir: Path, name: str) -> bytes:
    """Return what was last written under this name; empty where there is nothing that can be trusted."""
    found: list[tuple[float, bytes]] = []
    for folder in folders(app_dir):
        if not is_trusted(folder, app_dir):
            continue
        try:
            descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode):
                with open(descriptor, "rb", closefd=False) as file:
                    found.append((status.st_mtime, file.read()))
        finally:
            os.close(descriptor)
    return max(found, key=lambda one: one[0])[1] if found else b""


def listed(app_dir: Path, prefix: str) -> tuple[str, ...]:
    """Return the names that begin like this, of files that can be trusted."""
    found: dict[str, None] = {}
    for folder in folders(app_dir):
        if not is_trusted(folder, app_dir):
            continue
        try:
            found.update((name, None) for name in os.listdir(folder) if name.startswith(prefix))
        except OSError:
            continue
    return tuple(found)


def forget(app_dir: Path, name: str) -> None:
    """Remove what was written under this name."""
    for folder in folders(app_dir):
        if is_trusted(folder, app_dir):
            with suppress(FileNotFoundError):
                os.unlink(folder / name)


def write(app_dir: Path, name: str, data: bytes, *, durable: bool = False) -> None:
    """Write a whole file or nothing, in the first place that takes it; `durable` before anything that comes after it.

    What writers of this name have left that were killed is removed. Raises OSError when no place takes it.
    """
    failure: OSError | None = None
    for folder in folders(app_dir):
        try:
            _sweep(folder, name, app_dir)
            new, descriptor = _open_new(folder, name, app_dir)
            try:
                with open(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    if durable:
                        os.fsync(file.fileno())
                    os.rename(folder / new, folder / name)  # before its lock falls, or it would be swept
            except BaseException:
                with suppress(OSError):
                    os.unlink(folder / new)
                raise
        except OSError as error:
            failure = error
            if error.errno not in ELSEWHERE:
                raise
        else:
            return
    assert failure
    raise failure


def _open_new(folder: Path, name: str, app_dir: Path) -> tuple[str, int]:
    """Open a file that is to take the place of another one; its lock says that the writer lives."""
    while True:
        new = f"{name}.{os.urandom(4).hex()}"
        descriptor = open_file(folder, new, app_dir)
        with suppress(OSError):  # a file system without flock: then nobody sweeps either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return new, descriptor
        os.close(descriptor)  # it was swept before it was locked


def _sweep(folder: Path, name: str, app_dir: Path) -> None:
    """Remove new files of this name that never took its place, and whose writer holds them no more."""
    try:
        listed = os.listdir(folder) if is_trusted(folder, app_dir) else ()
    except OSError:
        return
    for left in listed:
        if not left.startswith(name) or not _NEW.fullmatch(left.removeprefix(name)):
            continue
        with suppress(OSError):
            descriptor = os.open(folder / left, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(folder / left)
            finally:
                os.close(descriptor)


def open_folder(folder: Path, app_dir: Path) -> int:
    """Open a state folder, made where needed.

    Raises OSError, also for a folder of another user.
    """
    made = _make(folder)
    # From here on by descriptor: in a folder that others may write to, a name can become a link at any time.
    parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not is_trusted(folder, app_dir):
            raise PermissionError(errno.EACCES, "its folder belongs to another user")
        if made:
            give_to_owner(parent, os.stat(app_dir))
            ignore = os.open(".gitignore", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=parent)
            os.write(ignore, b"*\n")
            give_to_owner(ignore, os.stat(app_dir))
            os.close(ignore)
    except BaseException:
        os.close(parent)
        raise
    return parent


def open_file(folder: Path, name: str, app_dir: Path) -> int:
    """Open a file in a state folder, both made where needed, for reading and writing.

    Raises OSError, also for a folder of another user and for anything but a plain file.
    """
    parent = open_folder(folder, app_dir)
    try:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        while True:
            descriptor = os.open(name, flags | os.O_CREAT, 0o644, dir_fd=parent)
            found = os.fstat(descriptor)
            if found.st_nlink:
                break
            os.close(descriptor)  # a new one was put in its place since it was opened
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is not a plain file of its own")
        give_to_owner(descriptor, os.fstat(parent))
        # A closed standard stream: the app would inherit the lock file in its place, and print into it.
        return above_streams(descriptor)
    finally:
        os.close(parent)


def is_trusted(folder: Path, app_dir: Path) -> bool:
    """Tell whether nobody but this user, root and the app's owner can have put a lock file into this folder."""
    trusted = {os.geteuid(), 0, os.stat(app_dir).st_uid}
    # In a folder for everybody, whose the one in between is matters as well.
    folders = (folder,) if folder.name == FOLDER else (folder, folder.parent)
    try:
        return all(os.lstat(path).st_uid in trusted for path in folders)
    except OSError:
        return False


def _make(folder: Path) -> bool:
    """Make a state folder, and tell whether it is a new one of an app, which git is to ignore."""
    if folder.name != FOLDER:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        return False
    try:
        os.mkdir(folder, 0o755)
    except FileExistsError:
        return False
    return True
