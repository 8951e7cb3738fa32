"""`cache list`: list the contents of the hub caches, the largest first."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ..cache import listing, planning, roots
from ..cache.prune import PruneOptions
from ..context import Answer, Context, Report
from ..errors import ExitStatus, LauncherError
from ..operations import removal

_RIGHT = frozenset((3,))  # sizes


def run(context: Context) -> Report:
    """List the repos, or the revisions, of each hub cache; with names, only those repos."""
    arguments = context.arguments
    options = PruneOptions(time.time(), locked=_locked(context))
    places = removal.places(context)
    listings = [listing.listing(root, arguments.repos, places, options) for root in context.roots]
    planning.refuse_unknown(arguments.repos, context.roots)
    status = ExitStatus.IO if any(shown.unreadable for shown in listings) else ExitStatus.DONE
    lines: list[str] = []
    for shown in () if context.console.as_json else listings:
        lines += [""] if lines else []
        lines.append(f"cache: {shown.root.path} ({shown.root.origin})")
        if not shown.exists:
            lines.append("not there")
            continue
        rows, below = listing.lines(shown, revisions=arguments.revisions)
        lines += context.console.table(rows, right=_RIGHT)
        lines += [context.console.hinted(line) for line in below]
    size = sum(shown.size for shown in listings)
    misplaced = roots.misplaced(context.environment, context.settings.app_dir)
    hint = f"{misplaced[1]}: {misplaced[0]}" if misplaced else None
    return Answer(
        status, tuple(lines), {"roots": [listing.document(shown) for shown in listings], "size_bytes": size}, hint
    )


def _locked(context: Context) -> Mapping[str, frozenset[str]]:
    try:
        return removal.locked(context)
    except LauncherError:
        return {}  # the list shows the disk even if the lock is invalid
