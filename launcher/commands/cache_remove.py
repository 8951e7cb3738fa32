"""`cache remove`, `cache clear` and `cache prune`: one plan for each hub cache, shown or applied."""

from __future__ import annotations

from ..cache import planning, roots
from ..context import Context, Report
from ..errors import LauncherError
from ..operations import removal


def run(context: Context) -> Report:
    """Plan a removal, ask if the cache is shared with other programs, apply it, and report the freed bytes."""
    arguments = context.arguments
    request = removal.request_of(arguments.command.partition(" ")[2], context, arguments.repos)
    roots.refuse_unsafe(context.roots, context.settings.app_dir, context.home)
    try:
        planned = planning.plan(request, context.roots)
    except LauncherError:
        if not arguments.dry_run:
            planning.finish_left_over(context.roots)  # a killed run may have removed the missing target
        raise
    return removal.apply(planned, request.kind, context)
