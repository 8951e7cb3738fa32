"""Watch a start that its starter does not check: its set is good once its page answers."""

from __future__ import annotations

from ..context import Context
from ..errors import LauncherError
from ..service import history, outcomes
from . import outcome, readiness

# A first start may download tens of gigabytes before the page answers.
SECONDS = 6 * 3600


def until_ready(context: Context, pid: int) -> None:
    """Wait until the page of this process answers, or the process has ended, and record which happened."""
    try:
        ready = readiness.wait_for(pid, context, SECONDS)
    except LauncherError:
        _note_end(context, pid)
        return
    note_ready(context, ready)


def _note_end(context: Context, pid: int) -> None:
    """Note that it has ended; supervisord knows whether somebody has stopped it, and may know its status."""
    from ..app.background import told_end
    from ..service import supervisor_state

    said = supervisor_state.ask(context.environ)
    if said is None:
        outcome.look_back(context)
    elif said.stopped:
        outcome.note_end_of(context, pid, outcomes.End("was stopped by supervisord", asked=True))
    elif said.status is None:
        outcome.look_back(context)
    else:
        outcome.note_end_of(context, pid, outcomes.End(told_end(said.status), said.status))


def note_ready(context: Context, ready: readiness.Ready) -> None:
    """Record that a page answers, and add it to the history, unless that was done before."""
    if outcome.note_ready(context, ready.process):
        told = f"{ready.page.url} answers after {ready.seconds:.1f} s"
        history.record(context.settings, "ready", f"pid {ready.process.pid}", told)
