"""`cache remove`, `cache clear` and `cache prune`: one plan for each hub cache, shown or applied."""

from __future__ import annotations

from ..cache import planning, roots
from ..context import Context, Report
from ..operations import removal


def run(context: Context) -> Report:
    """Plan a removal, ask where the cache is shared with other programs, apply it, and say what it freed."""
    arguments = context.arguments
    request = removal.request_of(arguments.command.partition(" ")[2], context, arguments.repos)
    roots.refuse_unsafe(context.roots, context.settings.app_dir, context.home)
    if not arguments.dry_run:
        planning.restore(context.roots)
    return removal.apply(planning.plan(request, context.roots), request.what, context)
