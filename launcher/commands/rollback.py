"""`rollback`: return to the last good set of models and arguments, or show what would happen."""

from __future__ import annotations

from ..context import Context, Report
from ..launch import rollback
from ..service import history
from ..system.signals import ignore_hangup
from .launch import go


def run(context: Context) -> Report:
    """Start the last good set that differs from the last start; in the foreground the process becomes the app.

    Raises LauncherError (78) without such a set.
    """
    if context.arguments.dry_run:
        return rollback.by_hand(context).plan()
    with history.refusals(context.settings, "rollback"):
        launch = rollback.by_hand(context)
    if context.arguments.background:
        ignore_hangup()
    return go(context, launch)
