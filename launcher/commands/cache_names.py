"""`cache names`: the repos that a shell completes, found by one look into each folder; a person uses `cache list`."""

from __future__ import annotations

import os

from ..cache.names import name
from ..config.paths import HUB_ENTRY
from ..context import Answer, Context, Report
from ..errors import LauncherError
from ..models import repo_id


def run(context: Context) -> Report:
    """Return the names of the repos that are cached or pinned; what cannot be read has none."""
    names: set[str] = set()
    for root in context.roots:
        try:
            names.update(name(entry) for entry in os.listdir(root.path) if HUB_ENTRY.match(entry))
        except OSError:
            pass  # nothing to complete is no reason to disturb who types
    try:
        names.update(model.repo for model in context.lockfile or ())
    except LauncherError:
        pass  # the same
    return Answer(text=tuple(sorted(filter(repo_id.is_name, names))))
