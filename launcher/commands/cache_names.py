"""`cache names`: the repos for shell completion, found by one look into each folder; people use `cache list`."""

from __future__ import annotations

import os

from ..cache.names import name
from ..config.paths import HUB_ENTRY
from ..context import Answer, Context, Report
from ..errors import LauncherError
from ..models import repo_id


def run(context: Context) -> Report:
    """Return the names of the cached or pinned repos; skip unreadable folders."""
    names: set[str] = set()
    for root in context.roots:
        try:
            names.update(name(entry) for entry in os.listdir(root.path) if HUB_ENTRY.match(entry))
        except OSError:
            pass  # an error must not disturb the person who types
    try:
        names.update(model.repo for model in context.lockfile or ())
    except LauncherError:
        pass  # the same
    return Answer(text=tuple(sorted(filter(repo_id.is_name, names))))
