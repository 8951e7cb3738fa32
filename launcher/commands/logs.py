"""What an instance has printed, and what was done to its app: two files are shown, nothing is changed."""

from __future__ import annotations

from pathlib import Path

from ..app import logs
from ..arguments import Arguments
from ..config.settings import Settings
from ..errors import ExitStatus, LauncherError
from ..operations import instance
from ..service import history
from ..ui import text
from ..ui.console import Console

_LINES = 50


def run(arguments: Arguments, settings: Settings, console: Console) -> int:
    """Show the log of the instance on the port, or the history of the app."""
    lines = _LINES if arguments.lines is None else arguments.lines
    if arguments.command == "history":
        return _history(settings, console, lines)
    path = _log_of(settings)
    try:
        descriptor = logs.open_log(path)
    except OSError as error:
        raise LauncherError(
            f"cannot read {path}: {(error.strerror or str(error)).lower()}", f"ls -l {path}", ExitStatus.IO
        ) from error
    logs.seek_tail(descriptor, lines)
    try:
        if console.as_json:
            shown = b"".join(logs.blocks(descriptor)).decode(errors="replace").splitlines()
            console.json({"log": str(path), "lines": shown})
            return ExitStatus.DONE
        console.detail(f"log: {path}")
        up = (lambda: instance.is_up(settings)) if arguments.follow else (lambda: False)
        for block in logs.follow(path, descriptor, up) if arguments.follow else logs.blocks(descriptor):
            console.raw(block)
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED
    return ExitStatus.DONE


def _log_of(settings: Settings) -> Path:
    """Return the log that the lock's record names, else the one in the usual place.

    Raises LauncherError (74) where there is none.
    """
    record = instance.last_record(settings)
    if record and record.log and logs.is_log(Path(record.log)):
        return Path(record.log)
    up = instance.is_up(settings)
    found = None if up and record and not record.log else logs.find(settings.app_dir, settings.script, settings.port)
    if found:
        return found
    if up and record:
        raise LauncherError(
            f"the instance on port {settings.port} has no log: pid {record.pid} prints to where it was started",
            "start_app.py --background restarts it with one; so does start_app.py --log-file FILE",
            ExitStatus.IO,
        )
    raise LauncherError(
        f"there is no log of {settings.script.name} on port {settings.port}",
        "start_app.py --background starts it with one",
        ExitStatus.IO,
    )


def _history(settings: Settings, console: Console, lines: int) -> int:
    entries = history.read(settings.app_dir)
    shown = entries[len(entries) - min(lines, len(entries)) :]
    if console.as_json:
        console.json({"entries": [one._asdict() for one in shown]})
        return ExitStatus.DONE
    if not entries:
        console.say(f"history: nothing was done to {settings.app_dir} yet")
        return ExitStatus.DONE
    for line in text.table(history.rows(shown)):
        console.out(line)
    return ExitStatus.DONE
