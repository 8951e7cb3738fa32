"""One `flock` per app and port says that an instance lives; no pid file, no clean-up.

The instance lock's descriptor is inherited across exec: the lock is held exactly as long as the app lives, is seen
while the app still loads and has no port yet, and falls with SIGKILL. The launch lock is held by a launcher at work and
closes at its exec. Both are in a folder of the app's own, so that shell, cron and a unit with `PrivateTmp=` agree.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from ..errors import ExitStatus, LauncherError, quoted
from . import files, state

POLL_SECONDS = 0.02


class Lock:
    """Hold the open lock file; closing it, or dying, gives the lock up."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @property
    def descriptor(self) -> int:
        """Return the descriptor that holds the lock."""
        return self._descriptor

    def try_acquire(self) -> bool:
        """Take the lock if nobody holds it."""
        return files.try_lock(self._descriptor)

    def acquire(self, timeout: float) -> bool:
        """Take the lock, waiting up to `timeout` seconds for it."""
        return files.lock_within(self._descriptor, timeout, pause=POLL_SECONDS)

    def write(self, data: bytes) -> None:
        """Write the record, one line; what a crash leaves behind it is cut off by the reader.

        Raises OSError, for instance on a full disk; then there is no record, rather than one of an earlier holder.
        """
        try:
            written = os.pwrite(self._descriptor, data, 0)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(self._descriptor, 0)
            raise
        os.ftruncate(self._descriptor, len(data))

    def replace(self) -> None:
        """Put a new lock file, locked by us, in the place of one that only left-over processes still hold.

        To be called under the launch lock and with proof that the holder of record is dead.
        """
        new = self.path.with_name(f"{self.path.name}.new")
        new.unlink(missing_ok=True)  # of a launcher that was killed at this very point
        descriptor = files.open_regular(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            files.try_lock(descriptor)
            files.give_to_owner(descriptor, os.fstat(self._descriptor))
            new.rename(self.path)
        except BaseException:
            new.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        os.close(self._descriptor)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock up and keep the file open, to try again."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def keep_across_exec(self) -> None:
        """Let the app inherit the descriptor, and with it the lock."""
        os.set_inheritable(self._descriptor, True)

    def close(self) -> None:
        """Give the lock up."""
        os.close(self._descriptor)


def open_lock(app_dir: Path, name: str, passed: Collection[Path] = ()) -> Lock:
    """Open the lock file `name` in the first place that can be written and locked, making it where needed.

    Places are passed over whose file is in `passed`, where there is no flock, and where somebody who may only read the
    file keeps its lock. Raises LauncherError (74), naming each path, when no place is left.
    """
    failures = []
    for folder in state.folders(app_dir):
        path = folder / name
        if path in passed:
            continue
        try:
            descriptor = state.open_file(folder, name, app_dir)
            try:
                if not files.try_lock(descriptor, shared=True) and held_by_reader(path):
                    raise PermissionError(errno.EACCES, "a user who may only read it keeps its lock")
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            if error.errno not in state.ELSEWHERE:
                raise LauncherError(
                    f"cannot lock {path}: {error.strerror}", f"ls -l {quoted(folder)}", ExitStatus.IO
                ) from error
            failures.append(f"{path}: {error.strerror}")
        else:
            return Lock(path, descriptor)
    raise LauncherError(f"no place for a lock file: {'; '.join(failures)}", f"df -h {quoted(app_dir)}", ExitStatus.IO)


def held(app_dir: Path, name: str) -> Iterator[Path]:
    """Yield the lock files of this name that somebody holds, wherever they are; nothing is made or changed."""
    for folder in state.folders(app_dir):
        if state.is_trusted(folder, app_dir) and _is_held(folder / name) and not held_by_reader(folder / name):
            yield folder / name


def held_by_reader(path: Path) -> bool:
    """Return whether the lock of this file was taken by a user who may not write it: no launcher of anybody's.

    flock(2) asks for no right to write. proc_locks(5) names who took a lock; where it does not, it is a launcher.
    """
    try:
        status = os.stat(path, follow_symlinks=False)
        pid = _taken_by(status)
        uid, groups = _user(pid) if pid is not None else (None, frozenset())
    except OSError:
        return False
    if uid is None or uid in (0, os.geteuid(), status.st_uid):
        return False
    writable = status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and status.st_gid in groups)
    return not writable


def _taken_by(status: os.stat_result) -> int | None:
    """Return the process that took the flock of a file, None where that cannot be seen."""
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with open("/proc/locks", encoding="ascii", errors="replace") as file:
        for line in file:
            words = line.split()
            if len(words) > 5 and words[1] == "FLOCK" and words[5] == device:
                return int(words[4])
    return None


def _user(pid: int) -> tuple[int | None, frozenset[int]]:
    """Return the effective user of a process and its groups; None for one that is gone or hidden."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            fields = dict(line.split(":", 1) for line in file if line.startswith(("Uid:", "Gid:", "Groups:")))
    except (FileNotFoundError, ProcessLookupError):
        return None, frozenset()
    groups = {*fields["Groups"].split(), fields["Gid"].split()[1]}
    return int(fields["Uid"].split()[1]), frozenset(int(group) for group in groups)


def preferred(app_dir: Path, first: Path, second: Path) -> bool:
    """Return whether the folder of the lock file `one` comes before that of `other`."""
    folders = state.folders(app_dir)
    return folders.index(first.parent) < folders.index(second.parent)


def holds(pid: int, path: Path) -> bool:
    """Return whether the process holds the lock on this very file through a descriptor of its own.

    proc_pid_fdinfo(5) names the locks of a descriptor. Whatever the app starts through a shell inherits it too: this
    alone makes no instance.
    """
    try:
        identity = os.stat(path)
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    return any(_locks(pid, number, identity) for number in descriptors)


def holders(path: Path) -> tuple[int, ...]:
    """Return the visible processes that hold the lock on this file; looking into foreign processes finds nothing."""
    if not os.path.isdir("/proc/self/fdinfo"):
        return ()
    return tuple(int(name) for name in os.listdir("/proc") if name.isdigit() and holds(int(name), path))


def _locks(pid: int, number: str, identity: os.stat_result) -> bool:
    try:
        if not os.path.samestat(os.stat(f"/proc/{pid}/fd/{number}"), identity):
            return False
        with open(f"/proc/{pid}/fdinfo/{number}", "rb") as file:
            return b"FLOCK" in file.read()
    except OSError:
        return False


def _is_held(path: Path) -> bool:
    try:
        descriptor = files.open_regular(path)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # it may well be held
        return False
    try:
        return not files.try_lock(descriptor, shared=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
