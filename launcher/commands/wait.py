"""`wait`: return when the instance's page answers."""

from __future__ import annotations

from ..context import Answer, Context, Report
from ..instances.describe import process_document
from ..operations import outcome, readiness, watch
from ..service.sd_notify import reporter


def run(context: Context) -> Report:
    """Wait for the page of the instance on the port, or of the given process."""
    arguments = context.arguments
    seconds = context.timeout(readiness.DEFAULT_SECONDS)
    pid = readiness.main_pid(arguments.pid, context.environ)
    outcome.look_back(context)
    ready = readiness.wait(context, seconds) if pid is None else readiness.wait_for(pid, context, seconds)
    watch.note_ready(context, ready)
    # Send only the end to systemd: the launcher itself reports why a launch has failed.
    context.console._replace(report=reporter(context.environ)).say(ready.line())
    if ready.warning:
        context.console.warn(f"note: {ready.warning}")
    if arguments.open:
        readiness.open_page(ready.page.url, context)
    document = {
        "instance": process_document(ready.process),
        "url": ready.page.url,
        "status": ready.page.status,
        "seconds": round(ready.seconds, 3),
    }
    return Answer(data=document)
