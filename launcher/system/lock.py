"""One `flock` per app and port shows that an instance lives; it needs no pid file and no clean-up.

The instance lock's descriptor is inherited across exec: the lock is held exactly as long as the app lives, also while
the app loads and has no port yet, and SIGKILL releases it. A launcher holds the launch lock while it works; the exec
closes it. Both are in a folder of the app's own, so that shell, cron and a unit with `PrivateTmp=` agree.
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
_PROBE_SECONDS = 0.1  # a look of another command lasts for microseconds


class Lock:
    """Hold the open lock file; closing it, or exiting, releases the lock."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @property
    def descriptor(self) -> int:
        """Return the descriptor that holds the lock."""
        return self._descriptor

    def acquire(self, timeout: float) -> bool:
        """Take the lock, waiting up to `timeout` seconds for it."""
        return files.lock_within(self._descriptor, timeout, pause=POLL_SECONDS)

    def write(self, data: bytes) -> None:
        """Write the record, one line; a reader ignores the rest of a longer old one.

        Raises OSError, for example on a full disk; then there is no record, not even an old one.
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
        """Replace a lock file that only leftover processes still hold with a new one, locked by us.

        Call it under the launch lock and with proof that the recorded holder is dead.
        """
        new = self.path.with_name(f"{self.path.name}.new")
        new.unlink(missing_ok=True)  # from a launcher that was killed at this point
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
        """Release the lock and keep the file open, to try again."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def keep_across_exec(self) -> None:
        """Let the app inherit the descriptor, and with it the lock."""
        os.set_inheritable(self._descriptor, True)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)


def open_lock(app_dir: Path, name: str, passed: Collection[Path] = ()) -> Lock:
    """Open the lock file `name` in the first place that can be written and locked; create it if necessary.

    A place is skipped if its file is in `passed`, if it has no flock, or if a user who may only read the file holds its
    lock. Raises LauncherError (74), naming each path, if no place is left.
    """
    failures = []
    for folder in state.folders(app_dir):
        path = folder / name
        if path in passed:
            continue
        try:
            descriptor = state.open_file(folder, name, app_dir)
            try:
                if _is_blocked(descriptor) and held_by_reader(path):
                    raise PermissionError(errno.EACCES, "a user without write permission holds its lock")
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


def _is_blocked(descriptor: int) -> bool:
    """Return whether other processes keep an open file locked; a reader can share the lock for as long as it likes."""
    return not (files.try_lock(descriptor, shared=True) and files.lock_within(descriptor, _PROBE_SECONDS))


def held(app_dir: Path, name: str) -> Iterator[Path]:
    """Yield the held lock files of this name, in every place; change nothing."""
    for folder in state.folders(app_dir):
        if state.is_trusted(folder, app_dir) and is_held(folder / name) and not held_by_reader(folder / name):
            yield folder / name


def held_by_reader(path: Path) -> bool:
    """Return whether a user without write permission took the lock of this file: no launcher does that.

    flock(2) needs no write permission. proc_locks(5) shows who took a lock; if it does not, assume a launcher.
    """
    if holds(os.getpid(), path):  # cheap, and /proc/locks makes the kernel wait for every CPU
        return False
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
    """Return the process that took the flock of a file, None if it is invisible."""
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with open("/proc/locks", encoding="ascii", errors="replace") as file:
        for line in file:
            words = line.split()
            if len(words) > 5 and words[1] == "FLOCK" and words[5] == device:
                return int(words[4])
    return None


def _user(pid: int) -> tuple[int | None, frozenset[int]]:
    """Return the effective user of a process and its groups; None if it has ended or is hidden."""
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
    """Return whether the process holds the lock on this file through a descriptor of its own.

    proc_pid_fdinfo(5) lists the locks of a descriptor. Children that the app starts through a shell inherit the lock:
    it alone does not prove an instance.
    """
    try:
        identity = os.stat(path)
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    return any(_locks(pid, number, identity) for number in descriptors)


def holders(path: Path) -> tuple[int, ...]:
    """Return the visible processes that hold the lock on this file; other users' descriptors are hidden."""
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


def is_held(path: Path) -> bool:
    """Return whether any process holds the lock of this file."""
    try:
        descriptor = files.open_regular(path)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # it may be held
        return False
    try:
        return not files.try_lock(descriptor, shared=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
