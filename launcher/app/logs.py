"""Each start creates a new log of this user: never through a link, never in place of a file of the user's.

The last logs are kept as `.1` (the newest) to `.5` next to it. In the launcher's own folder, every log is the
launcher's. A log with a name from the user starts with a title line; a file without it is never replaced. Reading never
follows a link either.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..config.settings import Settings
from ..errors import REPEAT, ExitStatus, LauncherError, quoted
from ..system import files, renames, state

FOLDER = "logs"
KEPT = 5
_MARK = b"# start_app.py: "
_BLOCK = 1 << 16
# Read at most this much for the last lines: a progress bar can be a line of hundreds of megabytes.
_TAIL_BYTES = 1 << 20
_LINE_BYTES = 1 << 12
_FIRST_BYTES = 1 << 12
_POLL_SECONDS = 0.2
_FREE_NAME = f"with a new name: start_app.py --log-file FILE{REPEAT}"


class Target(NamedTuple):
    """Hold the place of a log: the candidates, best first, and whether the user chose it.

    `title` is the first line of a log that the user named; `last` is the log of the previous instance, of any version.
    """

    app_dir: Path
    places: tuple[Path, ...]
    named: bool
    title: str = ""
    last: Path | None = None

    def check(self) -> Path:
        """Return the place of the log, and refuse an unsuitable one.

        Raises LauncherError before anything is stopped: a usage error for a named log, else 74.
        """
        path = self.places[0]
        if self.named and not path.parent.is_dir():
            raise self._refused(f"there is no folder {path.parent}", f"mkdir -p {quoted(path.parent)}")
        if self.named and not os.access(path.parent, os.W_OK | os.X_OK):
            raise self._refused(f"{path.parent} may not be written", f"ls -ld {quoted(path.parent)}")
        for place in self.places:
            self._refuse_odd(place, "is not a regular file", lambda mode: not stat.S_ISREG(mode))
            for number in () if self.named else range(1, KEPT + 1):
                older = place.with_name(f"{place.name}.{number}")
                self._refuse_odd(older, "is a folder", stat.S_ISDIR)
        if self.named and path != self.last and os.path.lexists(path) and not _is_own(path):
            raise self._refused(f"{path} was not written by the launcher, and stays as it is", _FREE_NAME)
        return path

    def stage(self) -> Staged:
        """Create a new log in the first suitable place, with a temporary name: the previous log keeps its name.

        Afterwards `commit` needs only renames that were tried. Raises LauncherError (74).
        """
        failures = []
        for place in self.places:
            try:
                return self._stage(place)
            except OSError as error:
                failures.append(f"{place}: {(error.strerror or str(error)).lower()}")
                if error.errno not in state.ELSEWHERE:
                    break
        raise LauncherError(
            f"cannot make a log: {'; '.join(failures)}", f"ls -ld {quoted(self.places[0].parent)}", ExitStatus.IO
        )

    def _stage(self, place: Path) -> Staged:
        folder = files.open_folder(place.parent, follow=True) if self.named else self._own(place)
        try:
            slots = self._slots(place)
            with renames.probe("", dir_fd=folder) as probe:
                for name in slots:
                    with suppress(FileNotFoundError):
                        probe.leave(name)
            _sweep(folder, place.name)
            name, descriptor = files.open_new(f".{place.name}.start_app-", folder, 0o600, append=True)
        except BaseException:
            os.close(folder)
            raise
        staged = Staged(place, tuple(slots), folder, name, descriptor)
        try:
            os.set_blocking(descriptor, True)
            # A full disk has room for an empty file, and sometimes for a part of a block.
            if os.write(descriptor, b"\0" * _FIRST_BYTES) < _FIRST_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.ftruncate(descriptor, 0)
            if self.named:
                os.write(descriptor, _MARK + f"{self.title}\n".encode(errors="backslashreplace"))
            else:
                files.give_to_owner(descriptor, os.fstat(folder))
        except BaseException:
            staged.discard()
            raise
        return staged

    def _own(self, place: Path) -> int:
        parent = state.open_folder(place.parent.parent, self.app_dir)
        try:
            with suppress(FileExistsError):
                os.mkdir(FOLDER, 0o700, dir_fd=parent)
            folder = files.open_folder(FOLDER, dir_fd=parent)
            files.give_to_owner(folder, os.fstat(parent))
            return folder
        finally:
            os.close(parent)

    def _slots(self, place: Path) -> list[str]:
        """Return the possible names of the log and the older ones, newest first."""
        names = [place.name, *(f"{place.name}.{number}" for number in range(1, KEPT + 1))]
        if not self.named:
            return names
        return [names[0], *(name for name in names[1:] if _is_own(place.with_name(name)))]

    def _refuse_odd(self, path: Path, problem: str, odd: Callable[[int], bool]) -> None:
        try:
            mode = os.lstat(path).st_mode
        except OSError:
            return
        if odd(mode):
            problem = "is a link, and the log is never written through a link" if stat.S_ISLNK(mode) else problem
            raise self._refused(f"{path} {problem}", _FREE_NAME)

    def _refused(self, message: str, hint: str) -> LauncherError:
        where = " (--log-file)" if self.named else ""
        return LauncherError(f"{message}{where}", hint, ExitStatus.USAGE if self.named else ExitStatus.IO)


class Staged(NamedTuple):
    """Hold a new log with a temporary name: the open folder, the names of the older logs, its own name and descriptor.

    Its flock shows that its launcher lives.
    """

    place: Path
    slots: Sequence[str]
    folder: int
    name: str
    descriptor: int

    def commit(self) -> tuple[Path, int]:
        """Move it to the place of the previous log, which is kept, and return its path and descriptor.

        Raises LauncherError (74).
        """
        try:
            _rotate(self.folder, self.place.name, self.slots)
            os.rename(self.name, self.place.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        except OSError as error:
            self.discard()
            reason = (error.strerror or str(error)).lower()
            raise LauncherError(
                f"cannot make a log: {self.place}: {reason}", f"ls -ld {quoted(self.place.parent)}", ExitStatus.IO
            ) from error
        os.close(self.folder)
        with suppress(OSError):
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        return self.place, self.descriptor

    def discard(self) -> None:
        """Remove the new log."""
        with suppress(OSError):
            os.unlink(self.name, dir_fd=self.folder)
        os.close(self.descriptor)
        os.close(self.folder)


def target(settings: Settings, named: str | None, cwd: Path, last: str | None = None) -> Target:
    """Return where to write an instance's log: where the user says, otherwise in the app's state folder."""
    app_dir, script, port = settings.app_dir, settings.script, settings.port
    if named is not None:
        path = cwd / os.path.expanduser(named)
        title = f"{script} on port {port}, started {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}"
        place = Path(os.path.realpath(path.parent), path.name)
        return Target(app_dir, (place,), named=True, title=title, last=Path(last) if last else None)
    return Target(app_dir, defaults(app_dir, script, port), named=False)


def defaults(app_dir: Path, script: Path, port: int) -> tuple[Path, ...]:
    """Return the possible default places of the log, best first."""
    return tuple(folder / FOLDER / f"{script.stem}-{port}.log" for folder in state.folders(app_dir))


def find(app_dir: Path, script: Path, port: int) -> Path | None:
    """Return the newest log in the default places."""
    trusted = [path for path in defaults(app_dir, script, port) if state.is_trusted(path.parent.parent, app_dir)]
    logs = [(os.lstat(path).st_mtime, path) for path in trusted if is_log(path)]
    return max(logs)[1] if logs else None


def is_log(path: Path) -> bool:
    """Return whether a regular file exists."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def open_log(path: Path) -> int:
    """Open a log for reading.

    Raises OSError, also for a link; LauncherError (74) if it is not a regular file.
    """
    try:
        return files.open_regular(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EISDIR):
            raise
        raise LauncherError(f"{path} is not a regular file", f"ls -l {quoted(path)}", ExitStatus.IO) from error


def seek_tail(descriptor: int, lines: int) -> None:
    """Seek to the start of a log's last `lines` lines, or less far back if they are very long."""
    end = position = os.lseek(descriptor, 0, os.SEEK_END)
    lowest = max(0, end - _TAIL_BYTES - lines * _LINE_BYTES)
    count = 0
    while position > lowest and lines > 0:
        start = max(lowest, position - _BLOCK)
        # The newline at the very end closes the last line and starts no new one.
        block = os.pread(descriptor, min(position, end - 1) - start, start)
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            count += 1
            if count == lines:
                os.lseek(descriptor, start + at + 1, os.SEEK_SET)
                return
        position = start
    if lines > 0:
        os.lseek(descriptor, lowest, os.SEEK_SET)


def blocks(descriptor: int) -> Iterator[bytes]:
    """Yield the unread rest."""
    while block := os.read(descriptor, _BLOCK):
        yield block


def tail(path: Path, lines: int) -> tuple[str, ...]:
    """Return the last lines with text, and of a progress bar only its last state; empty without a log."""
    try:
        descriptor = open_log(path)
    except (OSError, LauncherError):
        return ()
    try:
        # Blank lines are skipped, so read a few more.
        seek_tail(descriptor, 2 * lines + 10)
        data = b"".join(blocks(descriptor))
    finally:
        os.close(descriptor)
    shown = [line.rstrip(b"\r").rpartition(b"\r")[2].rstrip() for line in data.split(b"\n")]
    return tuple(line.decode(errors="replace") for line in [line for line in shown if line][-lines:])


def follow(path: Path, descriptor: int, running: Callable[[], bool]) -> Iterator[bytes]:
    """Yield the unread rest, then new output, also from a new log of this name, until the instance has ended."""
    try:
        while True:
            more = running()  # checked first, so that the last output of the instance is read too
            yield from blocks(descriptor)
            later = _successor(path, descriptor)
            if later is not None:
                yield from blocks(descriptor)  # written between the last read and the rotation
                os.close(descriptor)
                descriptor = later
            elif not more:
                return
            else:
                if os.fstat(descriptor).st_size < os.lseek(descriptor, 0, os.SEEK_CUR):
                    os.lseek(descriptor, 0, os.SEEK_SET)  # a person or program has truncated it
                time.sleep(_POLL_SECONDS)
    finally:
        os.close(descriptor)


def _successor(path: Path, descriptor: int) -> int | None:
    """Return the file that has replaced an open log, or None if the open one is current."""
    try:
        if os.path.samestat(os.lstat(path), os.fstat(descriptor)):
            return None
        return open_log(path)
    except (OSError, LauncherError):
        return None  # during a rotation


def _sweep(folder: int, log: str) -> None:
    """Remove the unfinished new logs of killed launchers."""
    names = re.compile(rf"\.{re.escape(log)}\.start_app-[0-9a-f]{{8}}")
    for name in filter(names.fullmatch, os.listdir(folder)):
        with suppress(OSError):
            descriptor = files.open_regular(name, dir_fd=folder)
            try:
                if files.try_lock(descriptor) and os.read(descriptor, len(_MARK)) in (_MARK, b""):
                    os.unlink(name, dir_fd=folder)
            finally:
                os.close(descriptor)


def _rotate(folder: int, name: str, slots: Sequence[str]) -> None:
    """Shift the logs: give each of these names to the file before it, and remove the oldest."""
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=folder, follow_symlinks=False)
        for older, newer in zip(slots[:0:-1], slots[-2::-1], strict=True):
            with suppress(FileNotFoundError):
                os.rename(newer, older, src_dir_fd=folder, dst_dir_fd=folder)
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)  # if files of the user's take every other name


def _is_own(path: Path) -> bool:
    """Return whether a file is a log of the launcher's, or is empty or missing."""
    try:
        start = files.read_regular(path, len(_MARK))
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return start in (_MARK, b"")
