"""Remove unreferenced revisions, then repos that are unused for long or exceed the size limit.

A revision without a ref is removed unless it is locked, something links to it, or it is the only complete one of its
repo. A dangling link stays: it is the only evidence of a missing file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from ..ui.text import size as amount
from .completeness import copy_of, gaps, is_weights, tree
from .entries import LOCKS
from .inventory import Inventory
from .layout import Repo
from .plan import (
    Item,
    Parts,
    Plan,
    Skipped,
    blob_items,
    checked,
    elsewhere,
    in_use,
    lock_items,
    new_plan,
    payload_items,
    repo_parts,
    revision_items,
)
from .snapshots import Revision

_DAY = 86400
_IMPLAUSIBLE = 300  # days without use: more likely the clock jumped ahead, as after a boot with a bad RTC


class PruneOptions(NamedTuple):
    """Hold the additional targets of a prune, and its exceptions.

    Targets: repos unused for this many seconds before `now`, seconds since the epoch, and the bytes over `max_size`.
    Exceptions: repo folders to `keep`, and the commits `locked` of each; with `only_locked` everything else is removed.
    """

    now: float
    unused_seconds: float | None = None
    max_size: int | None = None
    keep: frozenset[str] = frozenset()
    locked: Mapping[str, frozenset[str]] = {}
    only_locked: bool = False
    force: bool = False

    def is_locked(self, repo: Repo, revision: Revision) -> bool:
        """Return whether a revision is pinned or in `models.lock`."""
        return revision.pinned or revision.commit in self.locked.get(repo.folder, ())


def prune(inventory: Inventory, options: PruneOptions, stale_locks: Mapping[str, Sequence[str]]) -> Plan:
    """Plan the removal of unreferenced revisions, then of repos that are unused for long or exceed the size limit."""
    contents = inventory.contents
    items: list[Item] = []
    skipped: list[Skipped] = []
    gone: set[str] = set()
    candidates = {folder: repo for folder, repo in inventory.repos.items() if folder not in options.keep}
    by_repo = {folder: unneeded(inventory, repo, options) for folder, repo in candidates.items()}
    outdated, notes = _outdated(inventory, by_repo, options)
    for folder, reason in outdated.items():
        by_repo[folder] = unneeded(inventory, inventory.repos[folder], options, reason)
    for folder, parts in by_repo.items():
        locks = [] if folder in outdated else _stale(inventory, folder, stale_locks.get(folder, ()))
        going = _going(inventory, inventory.repos[folder], parts, locks)
        items += going.items
        skipped += going.skipped
        gone |= going.blobs
    whole = {item.folder for item in items if item.kind == "repo"}
    items += lock_items(inventory, sorted(whole), "its repo is removed")
    known = {*contents.entries, *contents.lookalikes, *inventory.in_use}
    abandoned = [folder for folder in contents.locks if folder not in known]
    items += lock_items(inventory, abandoned, "its repo is missing")
    payloads = payload_items(inventory, gone, whole)
    skipped += [skip._replace(kind="kept") for skip in payloads.skipped]
    skipped += [Skipped(inventory.path(f), f"it cannot be read: {why}") for f, why in inventory.unreadable.items()]
    if notes:
        skipped += [Skipped(inventory.root.real, note, kind="kept") for note in notes]
        named = {skip.path for skip in skipped}
        busy = [f for f in inventory.repos if f in inventory.in_use and inventory.path(f) not in named]
        skipped += [in_use(inventory, folder, inventory.in_use[folder]) for folder in busy]
    return new_plan(inventory, [*items, *payloads.items], skipped)


def unneeded(inventory: Inventory, repo: Repo, options: PruneOptions, outdated: str = "") -> Parts:
    """Return the unreferenced parts of a repo; everything except locked revisions if the repo is `outdated`."""
    doomed = _doomed(inventory, repo, options, outdated)
    alive = len(doomed) < len(repo.revisions)
    if repo.revisions and not alive and not inventory.user(repo.folder) and not inventory.obstacle(repo.folder):
        return repo_parts(inventory, repo.folder, doomed[0][1])
    parts = revision_items(inventory, repo, doomed)
    items = parts.items
    if repo.revisions:
        items += [
            Item("ref", f"{repo.path}/refs/{ref}", 0, "it names no cached revision", repo.folder, commit=commit)
            for ref, commit in repo.broken_refs.items()
        ]
    wanted, _ = inventory.wanted(repo)
    loose = blob_items(repo, (orphan for orphan in repo.orphans if orphan not in wanted), "no revision links to it")
    items += loose.items
    if "blobs" not in repo.part_links:
        items += [
            Item("partial", f"{repo.path}/blobs/{partial}", size, "its download has stopped", repo.folder)
            for partial, size in repo.partial.items()
        ]
    # The user did not ask for these paths by name, so a link that keeps them is not a failure.
    stays = [skip._replace(kind="kept") if skip.kind == "in use" else skip for skip in (*parts.skipped, *loose.skipped)]
    return Parts(items, parts.blobs | loose.blobs, stays)


def _doomed(inventory: Inventory, repo: Repo, options: PruneOptions, outdated: str) -> list[tuple[Revision, str]]:
    others = [revision for revision in repo.revisions if not options.is_locked(repo, revision)]
    if options.only_locked:
        return [(revision, "models.lock does not name it") for revision in others]
    if outdated:
        return [(revision, outdated) for revision in others]
    _, linked = inventory.wanted(repo)
    loose = [r for r in others if not r.refs and r.commit not in linked and not r.only_foreign]
    if not loose:
        return []
    commits = {revision.commit for revision in loose}
    kept = [revision for revision in repo.revisions if revision.commit not in commits]
    needed = _needed(repo, kept, loose)
    return [(revision, "no ref points to it") for revision in loose if revision.commit not in needed]


def _needed(repo: Repo, kept: Sequence[Revision], others: Sequence[Revision]) -> frozenset[str]:
    """Return the commits among `others` that must stay because no remaining commit replaces them.

    In a repo without any ref, an app may load any commit by its hash, so all commits with content stay.
    """
    if not kept:
        return frozenset(revision.commit for revision in others if len(revision.dangling) < revision.files)
    staying = list(kept)
    commits = set()
    for revision in sorted(others, key=lambda revision: revision.modified, reverse=True):
        if len(revision.dangling) < revision.files and not any(_replaces(repo, r, revision) for r in staying):
            staying.append(revision)
            commits.add(revision.commit)
    return frozenset(commits)


def _replaces(repo: Repo, revision: Revision, other: Revision) -> bool:
    """Return whether `revision` replaces `other`, as far as their present files show."""
    try:
        copy, theirs = copy_of(repo.path, revision.commit), copy_of(repo.path, other.commit)
    except OSError:
        return False
    if not copy.files or copy.dangling:
        return False
    listed = tree(f"{repo.path}/trees/{revision.commit}.json")
    if listed:
        return not gaps(copy, listed)
    weights = [path for path in theirs.files if is_weights(path)]
    return copy.files.keys() >= set(weights or theirs.files)


def _going(inventory: Inventory, repo: Repo, parts: Parts, locks: list[Item]) -> Parts:
    if parts.items and parts.items[0].kind == "repo":
        if repo.folder in inventory.in_use:
            return Parts([], set(), [in_use(inventory, repo.folder, inventory.in_use[repo.folder])])
    elif parts.items:
        parts = checked(inventory, repo, parts, asked=False)
    if parts.items and repo.young:
        return Parts([], set(), [Skipped(repo.path, "a download of it has just begun", kind="in use")])
    if repo.folder not in inventory.in_use:
        parts.items.extend(locks)
    return parts


def _stale(inventory: Inventory, folder: str, locks: Sequence[str]) -> list[Item]:
    base = f"{inventory.root.real}/{LOCKS}/{folder}"
    return [Item("lock", f"{base}/{lock}", 0, "the locked file does not exist", folder) for lock in locks]


def _outdated(
    inventory: Inventory, pruned: Mapping[str, Parts], options: PruneOptions
) -> tuple[Mapping[str, str], list[str]]:
    """Return the repos to remove except for their locked revisions, with the reason: unused, or least recently used.

    Their size is measured after `pruned` is removed. The rest of the result are notes on unmet limits.
    """
    reasons: dict[str, str] = {}
    notes: list[str] = []
    by_age = sorted((inventory.repos[folder] for folder in pruned), key=lambda repo: repo.used)
    if options.unused_seconds is not None:
        limit = options.now - options.unused_seconds
        old = [repo for repo in by_age if repo.used < limit]
        newest = max((repo.used for repo in inventory.repos.values()), default=limit)
        if old and newest < min(limit, options.now - _IMPLAUSIBLE * _DAY) and not options.force:
            days = int((options.now - newest) // _DAY)
            notes.append(
                f"nothing in it was used for {days} days, or the clock is wrong; --force removes it because of its age"
            )
        else:
            reasons = {repo.folder: f"not used for {int((options.now - repo.used) // _DAY)} days" for repo in old}
    if options.max_size is not None:
        over = _over(inventory, pruned, options, by_age, reasons)
        notes += [f"{amount(over)} stay: kept, pinned or used repos exceed the limit"] if over else []
    return reasons, notes


def _over(
    inventory: Inventory,
    pruned: Mapping[str, Parts],
    options: PruneOptions,
    by_age: Sequence[Repo],
    reasons: dict[str, str],
) -> int:
    """Add the least recently used repos to `reasons` until the rest fits; return the remaining bytes if it cannot."""
    assert options.max_size is not None
    payloads, busy = inventory.payloads, inventory.in_use
    sizes: dict[str, int] = {}
    shared: dict[str, frozenset[str]] = {}
    for folder, repo in inventory.repos.items():
        if folder in reasons and folder not in busy:
            continue
        parts = pruned.get(folder, Parts([], set(), []))
        whole = folder in busy or not parts.items
        sizes[folder] = repo.held if whole else repo.held - sum(item.size or 0 for item in parts.items)
        blobs = (blob for blob in repo.blobs.values() if whole or f"{folder}/blobs/{blob.name}" not in parts.blobs)
        gone = not whole and parts.items[0].kind == "repo"
        shared[folder] = (
            frozenset() if gone else frozenset(b.shared for b in blobs if b.shared and b.shared in payloads)
        )
    users = Counter(payload for used in shared.values() for payload in used)
    total = sum(sizes.values()) + sum(payloads[payload].size for payload in users)
    for repo in by_age:
        if total <= options.max_size:
            break
        locked = any(options.is_locked(repo, revision) for revision in repo.revisions)
        if repo.folder not in sizes or inventory.user(repo.folder) or repo.young or locked or repo.link:
            continue
        reasons[repo.folder] = "least recently used, over the size limit"
        total -= sizes[repo.folder]
        for payload in shared[repo.folder]:
            users[payload] -= 1
            total -= 0 if users[payload] else payloads[payload].size
    return total if total > options.max_size else 0


def reclaimable(inventory: Inventory, repo: Repo, options: PruneOptions) -> tuple[int, Collection[str]]:
    """Return the bytes that a prune would free in a repo's own folder, and the payloads that the repo still needs."""
    if repo.young:
        return 0, repo.shared
    parts = unneeded(inventory, repo, options)
    if parts.items and parts.items[0].kind == "repo":
        return repo.held - elsewhere(inventory, parts.items), ()
    stay = (blob for blob in repo.blobs.values() if f"{repo.folder}/blobs/{blob.name}" not in parts.blobs)
    freed = sum(item.size or 0 for item in parts.items) - elsewhere(inventory, parts.items)
    return freed, frozenset(blob.shared for blob in stay if blob.shared)
