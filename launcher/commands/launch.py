"""`launch`: restart the app, or show in a dry run what would happen."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from ..context import Answer, Context, Report
from ..errors import ExitStatus, LauncherError
from ..instances.describe import process_document
from ..launch.pipeline import Launch, RunningError
from ..launch.plan import origins
from ..launch.start import FailedStartError, notify
from ..service import history
from ..system.signals import Interrupted, die_of, ignore_hangup


def run(context: Context) -> Report:
    """Launch, or show what a launch would do; in the foreground this does not return: the process becomes the app."""
    arguments, console = context.arguments, context.console
    if os.getpid() == 1 and not (arguments.dry_run or arguments.no_launch or arguments.background):
        from ..app import init

        console.warn("the launcher is pid 1: it stays as the app's init, forwards signals and reaps zombies")
        console.warn(f"hint: better, give the container an init: {init.ADVICE}")
        console.flush()
        status = init.stand_above()
        if status is not None:
            return Answer(status)
    if arguments.dry_run:
        return Launch(context).plan()
    if arguments.background:
        ignore_hangup()
    return go(context, Launch(context))


def go(context: Context, launch: Launch) -> Report:
    """Run a launch; if one in the background fails, launch the last good set."""
    try:
        return _go(launch, choosing=True)
    except RunningError as error:
        if not context.arguments.if_down:
            raise
        context.console.say(f"running: pid {error.process.pid}: --if-down starts nothing")
        return Answer(data={"launched": False, "instance": process_document(error.process)})
    except FailedStartError as error:
        return _roll_back(launch, error)


def _roll_back(launch: Launch, error: FailedStartError) -> Report:
    """Start the last good set in place of the one that has just failed.

    Raises LauncherError (75) if there is none, or if it fails too.
    """
    from ..launch import rollback

    second = rollback.after(launch, error)
    try:
        report = _go(second)
    except RunningError as other:
        raise LauncherError(f"{error.message}; {other.message}", other.hint, ExitStatus.RETRY) from other
    except LauncherError as again:
        message = f"the last good set fails too: {again.message}"
        raise LauncherError(message, again.hint, ExitStatus.RETRY) from again
    return RolledBack(report, error)


def _go(launch: Launch, *, choosing: bool = False) -> Report:
    context = launch.context
    arguments, console = context.arguments, context.console
    pid: int | None = None
    try:
        with _refusals(launch):
            if arguments.no_launch:
                return _clear(launch)
            if console.verbose:
                for line in origins(context.settings):
                    console.detail(line)
            if choosing and launch.good is None:
                from ..launch import rollback

                launch = rollback.choose(launch)
            prepared = launch.prepare()
            output = launch.start.open_log()
            if not arguments.background:
                launch.start.become(prepared, output, launch.guard.end)
            assert output is not None
            from ..app import background

            # An interrupt between the two would leave an unreported app.
            with background.shielded():
                launch.guard.check()
                pid = launch.start.spawn(prepared, output)
        launch.guard.interrupt_at_once()
        return launch.start.see_ready(prepared, pid)
    except KeyboardInterrupt as error:
        if pid is not None:
            console.warn(f"left running: pid {pid}, log {launch.start.log}")
        if isinstance(error, Interrupted) and error.number != signal.SIGINT:
            console.warn(f"interrupted by {error.number.name}")
            console.flush()
            launch.close()
            die_of(error.number)
        raise
    finally:
        launch.close()


class RolledBack(NamedTuple):
    """Report that the upgrade failed, and that the service continues."""

    serving: Report
    error: FailedStartError
    status: int = ExitStatus.RETRY

    @property
    def problem(self) -> LauncherError:
        """Return what failed, and what runs now."""
        return LauncherError(
            f"rolled back: {self.error.message}; the last good set serves again",
            "start_app.py status shows both; start_app.py tries the new set again",
            ExitStatus.RETRY,
        )

    @property
    def hint(self) -> None:
        """Return None: the problem contains a hint."""
        return None

    def lines(self) -> Iterable[str]:
        """Return the lines of the good set's launch."""
        return self.serving.lines()

    def document(self) -> Mapping[str, Any]:
        """Return the launch of the good set for `--json`, with the earlier failure."""
        return {**(self.serving.document() or {}), "rolled_back": True, "error": self.error.message}


def _clear(launch: Launch) -> Report:
    from ..instances.stop import stopped_document

    stopped = launch.clear()
    launch.context.console.say(f"not launched: port {launch.context.settings.port} is free")
    return Answer(
        data={
            "stopped": [stopped_document(process) for process in stopped],
            "launched": False,
            "cache": launch.cache.done if launch.cache else [],
        }
    )


@contextmanager
def _refusals(launch: Launch) -> Iterator[None]:
    """Report the failure, and the stopped instance, to the history and the webhook."""
    context = launch.context
    try:
        yield
    except BaseException as error:
        left = _left_stopped(launch)
        if isinstance(error, LauncherError):
            if isinstance(error, RunningError) or getattr(error, "told", False):
                raise  # cron and systemd retry often: nothing is new
            reason = f"exit status {int(error.status)}: {error.message}"
            notify(context, "refused", error.message)
        elif not left:
            raise
        elif isinstance(error, KeyboardInterrupt):
            reason = f"interrupted by {signal.Signals(getattr(error, 'number', signal.SIGINT)).name}"
        else:
            reason = f"{type(error).__name__}: {error}"
        history.record(context.settings, "refuse", "launch", f"{reason}; {left}" if left else reason)
        if left:
            context.console.warn(left)
        raise


def _left_stopped(launch: Launch) -> str:
    """Return what was stopped without a replacement; blank if nothing was stopped."""
    pids = ", ".join(f"pid {process.pid}" for process in launch.stopped)
    return f"stopped before: {pids}; no new instance was started on port {launch.context.settings.port}" if pids else ""
