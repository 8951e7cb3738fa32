"""`cache list`: list the contents of the hub caches, the largest first."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress

from ..cache import listing, roots, targets
from ..cache.dirs import walk
from ..cache.prune import PruneOptions
from ..cache.roots import Root
from ..config.paths import MOVE
from ..context import Answer, Context, Report
from ..errors import ExitStatus, LauncherError, quoted
from ..operations import needed
from ..ui import text

_RIGHT = frozenset((3,))  # sizes


def run(context: Context) -> Report:
    """List the repos, or the revisions, of each hub cache; with names, only those repos."""
    arguments = context.arguments
    options = PruneOptions(time.time(), locked=_locked(context))
    places = needed.places(context)
    listings = [listing.listing(root, arguments.repos, places, options) for root in context.roots]
    targets.refuse_unknown(arguments.repos, context.roots)
    status = ExitStatus.IO if any(shown.unreadable for shown in listings) else ExitStatus.DONE
    lines: list[str] = []
    for shown in () if context.console.as_json else listings:
        lines += [""] if lines else []
        lines.append(f"cache: {shown.root.path} ({shown.root.origin})")
        if not shown.exists:
            lines.append("does not exist")
            continue
        rows, below = listing.lines(shown, revisions=arguments.revisions)
        lines += context.console.table(rows, right=_RIGHT)
        lines += [context.console.hinted(line) for line in (*_unfinished(shown.root), *below)]
    xet = _xet(context)
    if xet and xet[1] and not arguments.repos:
        lines.append(f"xet: {xet[0]}, {text.size(xet[1])}, chunks for later downloads, not models")
    size = sum(shown.size for shown in listings)
    misplaced = roots.misplaced(context.environment, context.settings.app_dir)
    hint = f"{misplaced[1]}: {misplaced[0]}" if misplaced else None
    document = {
        "roots": [listing.document(shown) for shown in listings],
        "size_bytes": size,
        "xet": {"path": xet[0], "size_bytes": xet[1]} if xet else None,
    }
    return Answer(status, tuple(lines), document, hint)


def _unfinished(root: Root) -> tuple[str, ...]:
    """Return what tells of a move to this cache that has not removed the old one."""
    if not os.path.lexists(f"{root.real}/{MOVE}"):
        return ()
    from ..cache import journal

    begun = journal.unfinished(root)
    again = f"start_app.py cache move {quoted(root.real)}"
    return (f"moved from {begun.source}, which still holds models: {again} removes them",) if begun else ()


def _xet(context: Context) -> tuple[str, int] | None:
    """Return the cache of Xet and its bytes, None where there is none."""
    environment, app_dir = context.environment, context.settings.app_dir
    path = environment.get("HF_XET_CACHE") or str(roots.hf_home(environment, app_dir) / "xet")
    if not os.path.isdir(path):
        return None
    sizes = {}
    for entry in walk(path):
        with suppress(OSError):
            status = entry.stat(follow_symlinks=False)
            sizes[status.st_dev, status.st_ino] = status.st_size
    return path, sum(sizes.values())


def _locked(context: Context) -> Mapping[str, frozenset[str]]:
    try:
        return needed.locked(context)
    except LauncherError:
        return {}  # the list shows the disk even if the lock is invalid
