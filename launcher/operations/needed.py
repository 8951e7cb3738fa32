"""What a removal must keep: pinned commits, and what links from an app's folders lead to."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..context import Context


def locked(context: Context) -> Mapping[str, frozenset[str]]:
    """Return the commits of each repo folder in `models.lock`, and those of the last good sets.

    Raises LauncherError (78) for an unreadable lock: prune must not remove what it may pin.
    """
    from ..models import repo_id
    from ..service import outcomes

    pinned = [(model.repo, model.commit) for model in context.lockfile or () if not model.local_dir]
    good = [(model.repo, model.commit) for ran in outcomes.good_sets(context.settings.app_dir) for model in ran.models]
    commits: dict[str, frozenset[str]] = {}
    for repo, commit in pinned if context.arguments.unlocked else (*pinned, *good):
        folder = repo_id.folder(repo)
        commits[folder] = commits.get(folder, frozenset()) | {commit}
    return commits


def places(context: Context) -> tuple[str, ...]:
    """Return the folders whose links into a cache count as uses: the app's own, and its other caches."""
    return tuple(dict.fromkeys((os.path.realpath(context.settings.app_dir), *(root.real for root in context.roots))))
