"""`history`: show the commands that changed this app, with time and user."""

from __future__ import annotations

from ..context import Answer, Context, Report
from ..operations import outcome
from ..service import history
from .logs import DEFAULT_LINES


def run(context: Context) -> Report:
    """Show the last entries of the app's history."""
    lines = DEFAULT_LINES if context.arguments.lines is None else context.arguments.lines
    outcome.look_back(context)
    entries = history.read(context.settings.app_dir)
    shown = entries[len(entries) - min(lines, len(entries)) :]
    if not entries and not context.console.as_json:
        context.console.say(f"history: nothing was done to {context.settings.app_dir} yet")
    return Answer(
        text=context.console.table(history.rows(shown)) if entries else (),
        data={"entries": [entry._asdict() for entry in shown]},
    )
