"""Of a repo, single files are removed: the link in each snapshot, and the blob that no other file of it needs.

A glob matches the whole path in the repo, as huggingface_hub's `allow_patterns` do.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from ..errors import ExitStatus, LauncherError
from ..ui.text import some
from . import links
from . import plan as plans
from .deletion import freed_by
from .inventory import Inventory
from .layout import Repo
from .names import name
from .plan import ASKED, Item, Parts, Plan, Skipped
from .snapshots import walk_snapshot
from .targets import Selection

_NAMED_AT_MOST = 5


class Files(NamedTuple):
    """Hold the files of a snapshot: the blob that each links to, by path, blank for none, and the matching ones."""

    blobs: Mapping[str, str]
    chosen: frozenset[str]


def remove(
    inventories: Sequence[Inventory], selections: Sequence[Sequence[Selection]], globs: Sequence[str], *, lenient: bool
) -> tuple[Plan, ...]:
    """Plan the removal of the files of the selected revisions that match any of the globs.

    Raises LauncherError, a usage error, where none does, unless `lenient`.
    """
    read = [_read(inventory, selected, globs) for inventory, selected in zip(inventories, selections, strict=True)]
    snapshots = [files for repos in read for commits in repos.values() for files in commits.values()]
    if not lenient and not any(files.chosen for files in snapshots):
        present = sorted({path for files in snapshots for path in files.blobs})
        repos = some([name(selection.folder) for selected in selections for selection in selected], 3)
        raise LauncherError(
            f"no file of {repos} matches {some(globs, 3)}; the files: {some(present, _NAMED_AT_MOST) or 'none'}",
            "start_app.py cache list --revisions",
            ExitStatus.USAGE,
        )
    return tuple(_plan(inventory, repos) for inventory, repos in zip(inventories, read, strict=True))


def _read(
    inventory: Inventory, selections: Sequence[Selection], globs: Sequence[str]
) -> Mapping[str, Mapping[str, Files]]:
    """Return the files of every snapshot of the selected repos, by folder and commit."""
    files: dict[str, dict[str, Files]] = {}
    for folder, commits in selections:
        repo = inventory.repos.get(folder)
        for revision in repo.revisions if repo else ():
            assert repo
            blobs = {}
            snapshot = f"{repo.path}/snapshots/{revision.commit}"
            for inner, prefix, entry in walk_snapshot(snapshot) if not revision.link else ():
                text = os.readlink(entry.name, dir_fd=inner) if entry.is_symlink() else ""
                target = text.rpartition("/")[2]
                blobs[f"{prefix}{entry.name}"] = target if target in revision.blobs else ""
            selected = not commits or revision.commit in commits
            chosen = frozenset(p for p in blobs if selected and any(fnmatch.fnmatchcase(p, glob) for glob in globs))
            files.setdefault(folder, {})[revision.commit] = Files(blobs, chosen)
    return files


def _plan(inventory: Inventory, repos: Mapping[str, Mapping[str, Files]]) -> Plan:
    items: list[Item] = []
    skipped: list[Skipped] = []
    gone: set[str] = set()
    for folder, snapshots in repos.items():
        repo = inventory.repos[folder]
        parts = plans.checked(inventory, repo, _parts(inventory, repo, snapshots))
        items += parts.items
        skipped += parts.skipped
        gone |= parts.blobs
    for folder, problem in inventory.unreadable.items():
        skipped.append(Skipped(inventory.path(folder), f"it cannot be read: {problem}"))
    return plans.with_payloads(inventory, items, skipped, gone)


def _parts(inventory: Inventory, repo: Repo, snapshots: Mapping[str, Files]) -> Parts:
    """Return the matching files, but for foreign ones and those that a link from outside leads to, and their blobs."""
    used = links.below(inventory.links, repo.folder)
    items: list[Item] = []
    skipped: list[Skipped] = []
    stay: set[str] = {*repo.lent}
    for revision in repo.revisions:
        files = snapshots[revision.commit]
        for path, blob in files.blobs.items():
            inner = f"snapshots/{revision.commit}/{path}"
            whole = f"{repo.path}/{inner}"
            user = _user(used, inner) or (_user(used, f"blobs/{blob}") if blob else "")
            if path not in files.chosen or path in revision.foreign or user:
                stay.add(blob)
                if user and path in files.chosen:
                    skipped.append(Skipped(whole, f"{user} links to it", kind="in use"))
                elif path in files.chosen:
                    skipped += plans.foreign([whole])
                continue
            status = os.lstat(whole)
            lead = repo.leads.get(inner) if not blob else None
            targets = (lead,) if lead else ()
            identity = (status.st_dev, status.st_ino)
            items.append(
                Item(
                    "link" if stat.S_ISLNK(status.st_mode) else "file",
                    whole,
                    freed_by(status),
                    ASKED,
                    repo.folder,
                    identity,
                    targets=targets,
                )
            )
    loose = {blob for files in snapshots.values() for path, blob in files.blobs.items() if path in files.chosen}
    blobs = plans.blob_items(repo, sorted(loose - stay - {""}), "only removed files link to it")
    return Parts([*items, *blobs.items], blobs.blobs, [*skipped, *blobs.skipped])


def _user(used: Mapping[str, str], inner: str) -> str:
    """Return a link from outside that leads to a file, or to a folder above it; blank where there is none."""
    above: Collection[str] = ("", inner, *(inner[:at] for at, letter in enumerate(inner) if letter == "/"))
    return next((used[path] for path in above if path in used), "")
