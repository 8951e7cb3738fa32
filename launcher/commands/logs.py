"""`logs`: print the output of the instance."""

from __future__ import annotations

from pathlib import Path

from ..app import logs
from ..config.settings import Settings
from ..context import Answer, Context, Report
from ..errors import ExitStatus, LauncherError, quoted
from ..operations import held, outcome

DEFAULT_LINES = 50


def run(context: Context) -> Report:
    """Print the log of the instance on the port, or of the last one."""
    arguments, settings, console = context.arguments, context.settings, context.console
    outcome.look_back(context)
    path = _log_of(settings)
    try:
        descriptor = logs.open_log(path)
    except OSError as error:
        raise LauncherError(
            f"cannot read {path}: {(error.strerror or str(error)).lower()}", f"ls -l {quoted(path)}", ExitStatus.IO
        ) from error
    logs.seek_tail(descriptor, DEFAULT_LINES if arguments.lines is None else arguments.lines)
    try:
        if console.as_json:
            shown = b"".join(logs.blocks(descriptor)).decode(errors="replace").splitlines()
            return Answer(data={"log": str(path), "lines": shown})
        console.detail(f"log: {path}")
        up = (lambda: held.is_up(settings)) if arguments.follow else (lambda: False)
        for block in logs.follow(path, descriptor, up) if arguments.follow else logs.blocks(descriptor):
            console.raw(block)
    except KeyboardInterrupt:
        return Answer(ExitStatus.INTERRUPTED)
    return Answer()


def _log_of(settings: Settings) -> Path:
    """Return the log in the lock's record, or else the one in the usual place.

    Raises LauncherError (74) without one.
    """
    record = held.last_record(settings)
    if record and record.log and logs.is_log(Path(record.log)):
        return Path(record.log)
    up = held.is_up(settings)
    log = None if up and record and not record.log else logs.find(settings.app_dir, settings.script, settings.port)
    if log:
        return log
    if up and record:
        raise LauncherError(
            f"the instance on port {settings.port} has no log: "
            f"pid {record.pid} prints to the terminal or service that started it",
            "start_app.py --background restarts it with a log; start_app.py --log-file FILE does too",
            ExitStatus.IO,
        )
    raise LauncherError(
        f"there is no log of {settings.script.name} on port {settings.port}",
        "start_app.py --background starts the app with a log",
        ExitStatus.IO,
    )
