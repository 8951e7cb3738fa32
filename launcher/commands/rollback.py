"""`rollback`: go back to the last set of models and arguments that ran well, or show what that would do."""

from __future__ import annotations

from ..context import Context, Report
from ..launch import rollback
from ..system.signals import ignore_hangup
from .launch import go


def run(context: Context) -> Report:
    """Start the last good set that is another than what ran last; in the foreground it becomes the app.

    Raises LauncherError (78) where there is nothing to go back to.
    """
    launch = rollback.by_hand(context)
    if context.arguments.dry_run:
        return launch.plan()
    if context.arguments.background:
        ignore_hangup()
    return go(context, launch)
