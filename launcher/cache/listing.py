"""List the contents of the caches as values: a row for each repo or revision, the largest first."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ..system.files import free_bytes
from ..ui.text import count, duration, size, some
from . import entries, layout, store, targets
from . import prune as pruning
from .deletion import freed_by
from .dirs import reason
from .inventory import Inventory, read_links
from .layout import Repo
from .plan import Skipped
from .prune import PruneOptions
from .roots import Root
from .snapshots import Identity, Revision
from .usage import in_use

HEADINGS = ("REPO", "REFS", "COMMIT", "SIZE", "LAST USED", "PROBLEM")
COMMIT_DIGITS = 7
_NAMED_AT_MOST = 3
_TEMPORARY = re.compile(r"tmp[a-z0-9_]{8}")  # of the module tempfile


class RevisionRow(NamedTuple):
    """Hold the row of a revision; `modified` in seconds since the epoch."""

    commit: str
    refs: tuple[str, ...]
    size: int
    files: int
    modified: float
    problems: tuple[str, ...]


class RepoRow(NamedTuple):
    """Hold the row of a repo; `size` as huggingface_hub counts, `besides` the bytes that no revision links to."""

    name: str
    kind: str
    path: str
    size: int
    besides: int
    files: int
    accessed: float
    modified: float
    revisions: tuple[RevisionRow, ...]
    problems: tuple[str, ...]

    @property
    def refs(self) -> tuple[str, ...]:
        """Return every ref of the repo."""
        return tuple(sorted(ref for revision in self.revisions for ref in revision.refs))


class Listing(NamedTuple):
    """Hold the summary of a root; `size` counts shared blobs once, `reclaimable` is the bytes that prune would free.

    `free` is the free space of its disk. `temporary` are partial downloads in the root itself, where huggingface_hub
    0.22 and older left them.
    """

    root: Root
    exists: bool
    repos: tuple[RepoRow, ...]
    unreadable: tuple[Skipped, ...]
    lookalikes: Mapping[str, str]
    foreign: tuple[str, ...]
    trash: tuple[str, ...]
    size: int
    reclaimable: int
    free: int | None = None
    temporary: Mapping[str, int] = {}


def listing(
    root: Root, patterns: Sequence[str] = (), places: Collection[str] = (), options: PruneOptions | None = None
) -> Listing:
    """Read a root repo by repo, and keep only the sums of each, to save memory.

    These options, and links from these places, decide what prune would free.
    """
    options = options or PruneOptions(time.time())
    contents = entries.contents(root.real)
    wanted = targets.matching(patterns, contents.entries) if patterns else contents.entries
    inventory = Inventory(root, contents)
    inventory = inventory._replace(links=read_links(inventory, places))
    rows, unreadable = [], []
    linked: set[str] = set()
    needed: set[str] = set()
    freed: dict[str, tuple[int, frozenset[str]]] = {}
    total = 0
    hard: set[Identity] = set()
    for folder in contents.entries:
        if folder not in wanted:
            continue
        try:
            repo = layout.read(root.real, folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            unreadable.append(Skipped(f"{root.real}/{folder}", f"it cannot be read: {reason(error)}"))
            continue
        rows.append(_row(repo))
        linked |= repo.shared
        amount, payloads = pruning.reclaimable(inventory._replace(repos={folder: repo}), repo, options)
        needed.update(payloads)
        if amount or len(payloads) < len(repo.shared):
            freed[folder] = amount, repo.shared
        again = sum(repo.hard_linked[identity].size for identity in hard.intersection(repo.hard_linked))
        total += repo.held + repo.foreign_bytes - again
        hard.update(repo.hard_linked)
    for folder in in_use(root.real, freed) if freed else ():
        needed |= freed.pop(folder)[1]
    reclaimable = sum(amount for amount, _ in freed.values())
    for payload, status in store.payloads(root.real) if contents.store else ():
        if payload in linked or not patterns:
            total += status.st_size
        if payload not in needed and not patterns and not unreadable:
            reclaimable += freed_by(status)
    rows.sort(key=lambda row: (-row.size, row.name))
    temporary = {} if patterns else _temporary(root.real, contents.foreign)
    return Listing(
        root,
        bool(rows or contents.foreign or contents.entries) or entries.exists(root.real),
        tuple(rows),
        tuple(unreadable),
        contents.lookalikes,
        tuple(name for name in contents.foreign if name not in temporary),
        contents.trash,
        total + sum(temporary.values()),
        reclaimable,
        _free(root.real),
        temporary,
    )


def lines(shown: Listing, *, revisions: bool, now: float | None = None) -> tuple[Sequence[Sequence[str]], list[str]]:
    """Return the rows of a root's table, headings first, and the lines below it."""
    moment = time.time() if now is None else now
    rows: list[Sequence[str]] = [HEADINGS]
    for repo in shown.repos:
        rows += _revision_rows(repo, moment) if revisions else [_repo_row(repo, moment)]
    if len(rows) > 1 and not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    below = [f"cannot be read: {skip.path}: {skip.reason}" for skip in shown.unreadable]
    below += [f"not a repo: {shown.root.real}/{folder}: {why}" for folder, why in shown.lookalikes.items()]
    if shown.foreign:
        below.append(f"not huggingface_hub's, never touched: {some(shown.foreign, 10)}")
    if shown.temporary:
        names = some(tuple(f"{shown.root.real}/{name}" for name in shown.temporary), _NAMED_AT_MOST)
        amount = f"{count(len(shown.temporary), 'partial download')}, {size(sum(shown.temporary.values()))}"
        below.append(f"{amount}, of huggingface_hub 0.22 or older: {names}")
    if shown.trash:
        below.append("trash of an interrupted removal: the next clear, remove, prune or launch deletes it")
    below.append(f"{count(len(shown.repos), 'repo')}, {size(shown.size)}" if shown.repos else "no repos")
    if shown.reclaimable:
        below[-1] += f", of which start_app.py cache prune would free {size(shown.reclaimable)}"
    if shown.free is not None:
        below[-1] += f"; disk: {size(shown.free)} free"
    return (rows if shown.repos else []), below


def document(shown: Listing) -> Mapping[str, Any]:
    """Return a listing for `--json`."""
    return {
        "path": str(shown.root.path),
        "origin": shown.root.origin,
        "owned": shown.root.owned,
        "exists": shown.exists,
        "size_bytes": shown.size,
        "reclaimable_bytes": shown.reclaimable,
        "repos": [
            {
                "repo": repo.name,
                "type": repo.kind,
                "path": repo.path,
                "size_bytes": repo.size,
                "files": repo.files,
                "refs": list(repo.refs),
                "last_accessed": repo.accessed,
                "last_modified": repo.modified,
                "wrong": list(repo.problems),
                "revisions": [
                    {
                        "commit": revision.commit,
                        "refs": list(revision.refs),
                        "size_bytes": revision.size,
                        "files": revision.files,
                        "last_modified": revision.modified,
                        "wrong": list(revision.problems),
                    }
                    for revision in repo.revisions
                ],
            }
            for repo in shown.repos
        ],
        "unreadable": [{"path": skip.path, "reason": skip.reason} for skip in shown.unreadable],
        "not_repos": dict(shown.lookalikes),
        "foreign": list(shown.foreign),
        "trash": list(shown.trash),
        "free_bytes": shown.free,
        "temporary": [{"path": f"{shown.root.real}/{name}", "size_bytes": n} for name, n in shown.temporary.items()],
    }


def _free(root: str) -> int | None:
    try:
        return free_bytes(root)
    except OSError:
        return None


def _temporary(root: str, names: Sequence[str]) -> Mapping[str, int]:
    """Return the files of the root that have the name and mode of Python's temporary files, with their bytes."""
    sizes = {}
    for name in filter(_TEMPORARY.fullmatch, names):
        with suppress(OSError):
            status = os.lstat(f"{root}/{name}")
            if stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o600 and status.st_nlink == 1:
                sizes[name] = status.st_size
    return sizes


def _row(repo: Repo) -> RepoRow:
    revisions = tuple(
        RevisionRow(r.commit, r.refs, r.size, r.files, r.modified, tuple(_problems_in(r))) for r in repo.revisions
    )
    return RepoRow(
        repo.name,
        repo.kind,
        repo.path,
        repo.size,
        _orphaned(repo) + sum(repo.partial.values()),
        repo.files,
        repo.accessed,
        repo.modified,
        revisions,
        tuple(_problems(repo)),
    )


def _problems(repo: Repo) -> Iterator[str]:
    """Yield the problems of a repo as a whole; the problems of its revisions are added to it."""
    if repo.link:
        yield f"a link to {repo.link}"
    for part, target in sorted(repo.part_links.items()):
        yield f"its {part} are a link to {target}"
    for revision in repo.revisions:
        yield from (f"{revision.commit[:COMMIT_DIGITS]}: {problem}" for problem in _problems_in(revision))
    if repo.partial:
        yield f"{count(len(repo.partial), 'partial download')}, {size(sum(repo.partial.values()))}"
    if repo.orphans:
        yield f"{count(len(repo.orphans), 'blob')} that no revision links to, {size(_orphaned(repo))}"
    if repo.missing_payloads:
        yield f"{count(len(repo.missing_payloads), 'link')} to nothing in the shared store"
    if repo.broken_refs and repo.revisions:
        yield f"refs to a missing commit: {_some(tuple(sorted(repo.broken_refs)))}"
    if repo.odd_refs:
        yield f"refs that huggingface_hub cannot follow, because they contain a blank: {_some(repo.odd_refs)}"
    if not repo.revisions:
        yield "no revisions"
    if repo.foreign:
        yield f"not huggingface_hub's: {_some(repo.foreign)}"


def _problems_in(revision: Revision) -> Iterator[str]:
    if revision.link:
        yield f"a link to {revision.link}"
    if revision.dangling:
        yield f"{count(len(revision.dangling), 'file')} missing"
    if revision.outside:
        yield f"{count(len(revision.outside), 'link')} out of the cache"
    if not revision.refs:
        yield "no ref points to it"


def _orphaned(repo: Repo) -> int:
    return sum(repo.blobs[orphan].size for orphan in repo.orphans)


def _repo_row(repo: RepoRow, now: float) -> Sequence[str]:
    main = next((revision for revision in repo.revisions if "main" in revision.refs), None)
    shown = main or (repo.revisions[0] if repo.revisions else None)
    commit = shown.commit[:COMMIT_DIGITS] if shown else "-"
    more = len(repo.revisions) - 1
    return (
        repo.name,
        ", ".join(repo.refs) or "-",
        f"{commit} +{more}" if more > 0 else commit,
        size(repo.size),
        _ago(max(repo.accessed, repo.modified), now),
        "; ".join(repo.problems),
    )


def _revision_rows(repo: RepoRow, now: float) -> list[Sequence[str]]:
    whole = [
        problem
        for problem in repo.problems
        if not any(problem.startswith(r.commit[:COMMIT_DIGITS]) for r in repo.revisions)
    ]
    rows: list[Sequence[str]] = [
        (
            repo.name,
            ", ".join(revision.refs) or "-",
            revision.commit,
            size(revision.size),
            _ago(max(repo.accessed, repo.modified), now),
            "; ".join(revision.problems),
        )
        for revision in sorted(repo.revisions, key=lambda revision: (-revision.size, revision.commit))
    ]
    if whole or not rows:
        used = _ago(max(repo.accessed, repo.modified), now)
        rows.append((repo.name, "-", "-", size(repo.besides), used, "; ".join(whole)))
    return rows


def _ago(moment: float, now: float) -> str:
    return f"{duration(max(0, now - moment))} ago"


def _some(names: Sequence[str]) -> str:
    return some(names, _NAMED_AT_MOST)
