"""The history of an app: the commands, their users and their origins, as one JSON line each.

A line is appended whole, by one write under a lock. A history that grows too long is renamed to `.1`, in place of the
previous one. Recording never fails or delays a command: if the history cannot be written, there is no line.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..config.settings import Settings
from ..errors import LauncherError
from ..system import files, state
from ..ui import text

NAME = "history.jsonl"
OLDER = f"{NAME}.1"
MAX_BYTES = 1 << 20
_LONGEST = 600  # of one value: a hostile command line must not push out other entries
_WIDEST = 40  # of the origin, in the table: --json has a script's whole command line
_LOCK_SECONDS = 1.0
_UNIT = r"/((?!user@)[^/\n]+\.service)"

Action = Literal[
    "start",
    "ready",
    "fail",
    "stop",
    "kill",
    "clear",
    "remove",
    "prune",
    "repair",
    "move",
    "pull",
    "lock",
    "refuse",
    "death",
    "rollback",
]


class Entry(NamedTuple):
    """Hold one line of the history; `time` is UTC in ISO 8601."""

    time: str
    action: str
    port: int | None
    user: str
    sudo_user: str | None
    pid: int | None
    parent: str | None
    tty: str | None
    unit: str | None
    what: str
    result: str

    @property
    def who(self) -> str:
        """Return the user, and the user who called sudo, if any."""
        return f"{self.user} ({self.sudo_user})" if self.sudo_user and self.sudo_user != self.user else self.user

    @property
    def origin(self) -> str:
        """Return the origin: the unit, or the terminal, or the process that called the launcher."""
        return self.unit or self.tty or self.parent or "unknown"


def record(settings: Settings, action: Action, what: str, result: str = "done") -> None:
    """Append a completed or attempted action to the app's history."""
    entry = Entry(
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        action=action,
        port=settings.port,
        user=text.user(os.geteuid()),
        sudo_user=settings.sudo_user,
        pid=os.getpid(),
        parent=_parent(),
        tty=_terminal(),
        unit=_unit(),
        what=what,
        result=result,
    )
    values = {name: _short(value) if isinstance(value, str) else value for name, value in entry._asdict().items()}
    line = json.dumps(values).encode() + b"\n"
    for folder in state.folders(settings.app_dir):
        try:
            _append(folder, settings.app_dir, line)
        except OSError:
            continue  # try the next place, if any
        return


@contextmanager
def refusals(settings: Settings, what: str) -> Iterator[None]:
    """Record the error that stops a command, and raise it again."""
    try:
        yield
    except LauncherError as error:
        record(settings, "refuse", what, f"exit status {int(error.status)}: {error.message}")
        raise


def read(app_dir: Path) -> tuple[Entry, ...]:
    """Return the history, newest last, from every trusted place; skip broken lines."""
    entries: list[Entry] = []
    for folder in state.folders(app_dir):
        if state.is_trusted(folder, app_dir):
            entries += [*_entries(folder / OLDER), *_entries(folder / NAME)]
    return tuple(sorted(entries, key=lambda entry: entry.time))


def rows(entries: Sequence[Entry]) -> list[tuple[str, ...]]:
    """Return the history as a table with a head."""
    table: list[tuple[str, ...]] = [("TIME", "ACTION", "PORT", "WHO", "FROM", "WHAT", "RESULT")]
    for entry in entries:
        port = "" if entry.port is None else str(entry.port)
        origin = _short(entry.origin, _WIDEST)
        table.append((entry.time, entry.action, port, entry.who, origin, entry.what, entry.result))
    return table


def _append(folder: Path, app_dir: Path, line: bytes) -> None:
    while True:
        descriptor = state.open_file(folder, NAME, app_dir)
        try:
            # The lock is held for milliseconds. A suspended holder (SIGSTOP) must not block us.
            with suppress(OSError):  # a file system without flock
                if files.lock_within(descriptor, _LOCK_SECONDS):
                    size = os.fstat(descriptor).st_size
                    if not _is_at(descriptor, folder / NAME):
                        continue  # another process has renamed it meanwhile
                    if size and size + len(line) > MAX_BYTES:
                        os.rename(folder / NAME, folder / OLDER)
                        continue
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line  # a full disk truncated the last line
            fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
            os.write(descriptor, line)  # without the lock this may write into `.1`, which is read as well
            return
        finally:
            os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _entries(path: Path) -> Iterator[Entry]:
    try:
        data = files.read_regular(path, 4 * MAX_BYTES)
    except OSError:
        return
    for line in data.splitlines():
        try:
            yield _entry(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue


def _entry(document: Any) -> Entry:
    if not isinstance(document, dict):
        raise TypeError("an entry is an object")
    values: dict[str, Any] = {name: document.get(name) for name in Entry._fields}
    for name, value in values.items():
        if name in ("port", "pid"):
            values[name] = value if isinstance(value, int) else None
        elif name in ("sudo_user", "parent", "tty", "unit"):
            values[name] = None if value is None else str(value)
        else:
            values[name] = str(document[name])
    return Entry(**values)


def _short(value: str, longest: int = _LONGEST) -> str:
    value = text.clean(value)
    return value if len(value) <= longest else value[:longest] + "…"


def _parent() -> str | None:
    try:
        with open(f"/proc/{os.getppid()}/cmdline", "rb") as file:
            argv = file.read(4096).rstrip(b"\0").split(b"\0")
    except OSError:
        return None
    return text.command_line(os.fsdecode(word) for word in argv) or None


def _terminal() -> str | None:
    for stream in (0, 2, 1):
        with suppress(OSError):
            return os.ttyname(stream)
    return None


def _unit() -> str | None:
    """Return the service that this process runs in; a login session is a scope instead."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
            units = re.findall(_UNIT, file.read())
    except OSError:
        return None
    return units[-1] if units else None
