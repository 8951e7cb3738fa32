"""What the launcher keeps of an app lies in a folder of the app's own, which nobody else can have put there.

Shell, cron and a unit with `PrivateTmp=` find the same folder. Everything in it goes by descriptor: where others may
write, a name can become a link at any time.
"""

from __future__ import annotations

import errno
import os
import pwd
import urllib.parse
from contextlib import suppress
from pathlib import Path

from . import files
from .files import give_to_owner

FOLDER = ".start_app"
_MAX_NAME = 200
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
    *files.NO_FLOCK,
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
    for folder in folders(app_dir):
        if not is_trusted(folder, app_dir):
            continue
        try:
            names.update((name, None) for name in os.listdir(folder) if name.startswith(prefix))
        except OSError:
            continue
    return tuple(names)


def forget(app_dir: Path, name: str) -> None:
    """Remove what was written under this name."""
    for folder in folders(app_dir):
        if is_trusted(folder, app_dir):
            with suppress(FileNotFoundError):
                os.unlink(folder / name)


def write(app_dir: Path, name: str, data: bytes, *, durable: bool = False) -> None:
    """Write a whole file or nothing, in the first place that takes it; `durable` before anything that comes after it.

    Raises OSError when no place takes it.
    """
    failure: OSError | None = None
    for folder in folders(app_dir):
        try:
            descriptor = open_folder(folder, app_dir)
            try:
                files.write_whole(name, data, descriptor, durable=durable, owner=os.fstat(descriptor))
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
    parent = files.open_folder(folder)
    try:
        if not is_trusted(folder, app_dir):
            raise PermissionError(errno.EACCES, "its folder belongs to another user")
        if folder.name == FOLDER:
            _complete(parent, app_dir)
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
        while True:
            descriptor = files.open_regular(name, os.O_RDWR | os.O_CREAT, 0o644, dir_fd=parent)
            names = os.fstat(descriptor).st_nlink
            if names:
                break
            os.close(descriptor)  # a new one was put in its place since it was opened
        if names > 1:
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it has another name as well")
        give_to_owner(descriptor, os.fstat(parent))
        return descriptor
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
