"""What nothing can load any more goes, then what was not used for long or does not fit; a pin keeps what it names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..ui.text import size as amount
from .entries import LOCKS, Contents
from .layout import Repo, Revision
from .plan import (
    Item,
    Left,
    Payload,
    Plan,
    blob_paths,
    condemned_items,
    left_busy,
    lock_items,
    payload_items,
    repo_item,
    revision_items,
    trash_items,
)
from .roots import Root


class PruneOptions(NamedTuple):
    """Hold what prune takes beyond the unreachable: seconds unused, bytes to get below, and repo folders to keep.

    `locked` are the commits of each repo folder that stay, where whatever else there is goes too; None where not.
    """

    unused_seconds: float | None = None
    max_size: int | None = None
    keep: frozenset[str] = frozenset()
    locked: Mapping[str, frozenset[str]] | None = None


def prune(
    root: Root,
    contents: Contents,
    repos: Mapping[str, Repo],
    payloads: Mapping[str, Payload],
    busy: Mapping[str, str],
    options: PruneOptions,
    now: float,
    stale_locks: Mapping[str, Sequence[str]],
) -> Plan:
    """Plan the removal of what nothing can load any more, then of what was not used for long or does not fit.

    A pinned revision stays, and so does a repo that is to be kept. `now` is in seconds since the epoch.
    """
    items: list[Item] = []
    left: list[Left] = []
    gone: set[str] = set()
    by_repo = {
        folder: _pruned(
            repo, None, stale_locks.get(folder, ()), f"{root.real}/{LOCKS}/{folder}", _only(options.locked, folder)
        )
        for folder, repo in repos.items()
        if folder not in options.keep
    }
    outdated, note = _outdated(repos, by_repo, payloads, options, now, busy)
    for folder, why in outdated.items():
        by_repo[folder] = _pruned(repos[folder], why, (), "", _only(options.locked, folder))
    for folder, (parts, blobs) in by_repo.items():
        if parts and folder in busy:
            left += left_busy(root, (folder,), busy, {})
        elif parts and repos[folder].young:
            left.append(Left(f"{root.real}/{folder}", "a download of it has just begun", busy=True))
        else:
            items += parts
            gone |= blobs
            if parts and parts[0].kind == "repo":
                items += lock_items(root, contents, (folder,), parts[0].reason)
    known = {*contents.entries, *contents.strange, *busy}
    abandoned = [folder for folder in contents.locks if folder not in known]
    items += lock_items(root, contents, abandoned, "its repo is not there")
    items += payload_items(root, payloads, gone, left)
    if note:
        left.append(Left(root.real, note, unknowable=True))
        named = {one.path for one in left}
        left += [b for b in left_busy(root, repos, busy, repos) if b.path not in named]
    return Plan(root, (*items, *trash_items(root, contents)), tuple(left), contents.store)


def _outdated(
    repos: Mapping[str, Repo],
    pruned: Mapping[str, tuple[list[Item], set[str]]],
    payloads: Mapping[str, Payload],
    options: PruneOptions,
    now: float,
    busy: Mapping[str, str],
) -> tuple[Mapping[str, str], str]:
    """Return the repos that go but for their pinned revisions, and why: unused, or least recently used.

    What they are measured by is what `pruned` leaves of each. The second is a note where the size cannot be met.
    """
    found: dict[str, str] = {}
    by_age = sorted((repos[folder] for folder in pruned), key=lambda repo: repo.used)
    if options.unused_seconds is not None:
        for repo in by_age:
            if repo.used < now - options.unused_seconds:
                found[repo.folder] = f"not used for {int((now - repo.used) // 86400)} days"
    if options.max_size is None:
        return found, ""
    sizes: dict[str, int] = {}
    shared: dict[str, frozenset[str]] = {}
    for folder, repo in repos.items():
        if folder in found and folder not in busy:
            continue
        parts, gone = pruned.get(folder, ([], set()))
        stays = folder in busy or not parts
        sizes[folder] = repo.held if stays else repo.held - sum(item.size or 0 for item in parts)
        blobs = (blob for blob in repo.blobs.values() if stays or f"{folder}/blobs/{blob.name}" not in gone)
        shared[folder] = frozenset(blob.shared for blob in blobs if blob.shared in payloads and blob.shared)
    users = Counter(payload for used in shared.values() for payload in used)
    total = sum(sizes.values()) + sum(payloads[payload].size for payload in users)
    for repo in by_age:
        if total <= options.max_size:
            break
        only = _only(options.locked, repo.folder) or frozenset()
        pinned = any(revision.pinned or revision.commit in only for revision in repo.revisions)
        if repo.folder not in sizes or repo.folder in busy or repo.young or pinned:
            continue
        found[repo.folder] = "least recently used, over the size that may stay"
        total -= sizes[repo.folder]
        for payload in shared[repo.folder]:
            users[payload] -= 1
            total -= 0 if users[payload] else payloads[payload].size
    over = total > options.max_size
    return found, f"{amount(total)} stay: what is kept, pinned or in use is more than that" if over else ""


def _only(locked: Mapping[str, frozenset[str]] | None, folder: str) -> frozenset[str] | None:
    return None if locked is None else locked.get(folder, frozenset())


def _pruned(
    repo: Repo, outdated: str | None, locks: Sequence[str], lock_folder: str, only: frozenset[str] | None = None
) -> tuple[list[Item], set[str]]:
    doomed: list[tuple[Revision, str]] = []
    broken: list[Item] = []
    for revision in repo.revisions:
        if revision.pinned or (only and revision.commit in only):
            continue
        if only is not None:
            doomed.append((revision, "models.lock does not name it"))
        elif outdated:
            doomed.append((revision, outdated))
        elif not revision.refs:
            doomed.append((revision, "no ref points to it"))
        elif revision.dangling and len(revision.dangling) == revision.files:
            doomed.append((revision, "every blob it links to is missing"))
        else:
            snapshot = f"{repo.path}/snapshots/{revision.commit}"
            broken += [
                Item("link", f"{snapshot}/{path}", 0, "the blob it links to is missing", repo.folder)
                for path in revision.dangling
            ]
    if repo.revisions and len(doomed) == len(repo.revisions):
        return [repo_item(repo, doomed[0][1])], blob_paths((repo,))
    items, gone = revision_items(repo, doomed)
    if repo.revisions:
        items += [
            Item("ref", f"{repo.path}/refs/{ref}", 0, "it names no cached revision", repo.folder, None, commit)
            for ref, commit in repo.broken_refs.items()
        ]
    items += broken
    for orphan in repo.orphans:
        blob = repo.blobs[orphan]
        size = blob.held
        items.append(
            Item("blob", f"{repo.path}/blobs/{orphan}", size, "no revision links to it", repo.folder, blob.identity)
        )
        gone.add(f"{repo.folder}/blobs/{orphan}")
    items += [
        Item("partial", f"{repo.path}/blobs/{partial}", size, "nobody downloads it any more", repo.folder)
        for partial, size in repo.partial.items()
    ]
    items += [
        Item("link", f"{repo.path}/blobs/{missing}", 0, "the payload it links to is missing", repo.folder)
        for missing in repo.missing_payloads
    ]
    items += [Item("lock", f"{lock_folder}/{lock}", 0, "what it locked is not there", repo.folder) for lock in locks]
    return items + condemned_items(repo), gone
