"""`launch`: restart the app, or show in a dry run what that would do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ..context import Answer, Context, Report
from ..errors import LauncherError
from ..instances.stop import stopped_document
from ..launch.pipeline import Launch
from ..launch.plan import origins
from ..launch.start import notify
from ..service import history


def run(context: Context) -> Report:
    """Launch, or show what a launch would do; in the foreground it does not return, it becomes the app."""
    arguments, console = context.arguments, context.console
    if os.getpid() == 1 and not (arguments.dry_run or arguments.no_launch or arguments.background):
        from ..app import init

        console.warn("the launcher is pid 1: it stays as the app's init, forwards signals and reaps zombies")
        console.warn(f"hint: better, give the container an init: {init.ADVICE}")
        console.flush()
        status = init.stand_above()
        if status is not None:
            return Answer(status)
    launch = Launch(context)
    if arguments.dry_run:
        return launch.plan()
    pid: int | None = None
    try:
        with _refusals(context):
            if arguments.no_launch:
                return _clear(launch)
            if console.verbose:
                for line in origins(context.settings):
                    console.detail(line)
            prepared = launch.prepare()
            output = launch.start.open_log()
            if not arguments.background:
                launch.start.become(prepared, output)
            assert output is not None
            from ..app import background

            # An interruption between the two would leave an app of which nobody was told.
            with background.shielded():
                pid = launch.start.spawn(prepared, output)
        return launch.start.see_ready(prepared, pid)
    except KeyboardInterrupt:
        if pid is not None:
            console.warn(f"left running: pid {pid}, log {launch.start.log}")
        raise


def _clear(launch: Launch) -> Report:
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
def _refusals(context: Context) -> Iterator[None]:
    """Report what keeps the app from being started to the history and the webhook."""
    try:
        with history.refusals(context.settings, "launch"):
            yield
    except LauncherError as error:
        notify(context, "refused", error.message)
        raise
