"""What is in the caches, as values to be shown: a row a repo, or a revision, the largest first."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..ui.text import count, duration, size, some
from . import entries, layout, store, targets
from .dirs import reason
from .layout import Repo, Revision
from .plan import Left
from .roots import Root

HEADINGS = ("REPO", "REFS", "COMMIT", "SIZE", "LAST USED", "WRONG")
COMMIT_DIGITS = 7
_NAMED_AT_MOST = 3


class RevisionRow(NamedTuple):
    """Hold what is told of a revision; `modified` in seconds since the epoch."""

    commit: str
    refs: tuple[str, ...]
    size: int
    files: int
    modified: float
    wrong: tuple[str, ...]


class RepoRow(NamedTuple):
    """Hold what is told of a repo; `size` as huggingface_hub counts, `held` all that lies in its folder, in bytes."""

    name: str
    kind: str
    path: str
    size: int
    held: int
    files: int
    accessed: float
    modified: float
    revisions: tuple[RevisionRow, ...]
    wrong: tuple[str, ...]

    @property
    def refs(self) -> tuple[str, ...]:
        """Return every ref of the repo."""
        return tuple(sorted(ref for revision in self.revisions for ref in revision.refs))


class Listing(NamedTuple):
    """Hold what is told of a root; `size` counts what repos share once, `reclaimable` is what prune would free."""

    root: Root
    there: bool
    repos: tuple[RepoRow, ...]
    unreadable: tuple[Left, ...]
    strange: Mapping[str, str]
    foreign: tuple[str, ...]
    trash: tuple[str, ...]
    size: int
    reclaimable: int


def listing(root: Root, patterns: Sequence[str] = ()) -> Listing:
    """Read a root, repo by repo; what is in a repo is not kept longer than it takes to sum it up."""
    contents = entries.contents(root.real)
    wanted = targets.matching(patterns, contents.entries) if patterns else contents.entries
    rows, unreadable = [], []
    linked: set[str] = set()
    needed: set[str] = set()
    total = reclaimable = 0
    hard: set[layout.Identity] = set()
    for folder in contents.entries:
        if folder not in wanted:
            continue
        try:
            repo = layout.read(root.real, folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            unreadable.append(Left(f"{root.real}/{folder}", f"it cannot be read: {reason(error)}"))
            continue
        rows.append(_row(repo))
        linked |= repo.shared
        kept = _kept(repo)
        needed.update(shared for name in kept if (shared := repo.blobs[name].shared))
        total += repo.held - sum(repo.hard_linked[identity] for identity in hard.intersection(repo.hard_linked))
        hard.update(repo.hard_linked)
        reclaimable += _reclaimable(repo, kept)
    for payload, number in store.sizes(root.real) if contents.store else ():
        if payload in linked or not patterns:
            total += number
        if payload not in needed and not patterns:
            reclaimable += number
    rows.sort(key=lambda row: (-row.size, row.name))
    there = bool(rows or contents.foreign or contents.entries) or entries.exists(root.real)
    return Listing(
        root,
        there,
        tuple(rows),
        tuple(unreadable),
        contents.strange,
        contents.foreign,
        contents.trash,
        total,
        reclaimable,
    )


def lines(found: Listing, *, revisions: bool, now: float | None = None) -> tuple[Sequence[Sequence[str]], list[str]]:
    """Return the rows of a root's table, headings first, and what is told below it."""
    moment = time.time() if now is None else now
    rows: list[Sequence[str]] = [HEADINGS]
    for repo in found.repos:
        rows += _revision_rows(repo, moment) if revisions else [_repo_row(repo, moment)]
    if len(rows) > 1 and not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    below = [f"cannot be read: {one.path}: {one.reason}" for one in found.unreadable]
    below += [f"not a repo: {found.root.real}/{folder}: {why}" for folder, why in found.strange.items()]
    if found.foreign:
        below.append(f"not huggingface_hub's, never touched: {some(found.foreign, 10)}")
    if found.trash:
        below.append("trash of an interrupted removal: the next clear, remove, prune or launch deletes it")
    below.append(f"{count(len(found.repos), 'repo')}, {size(found.size)}" if found.repos else "no repos")
    if found.reclaimable:
        below[-1] += f", of which start_app.py cache prune would free {size(found.reclaimable)}"
    return (rows if found.repos else []), below


def document(found: Listing) -> Mapping[str, Any]:
    """Return a listing for `--json`."""
    return {
        "path": str(found.root.path),
        "origin": found.root.origin,
        "owned": found.root.owned,
        "exists": found.there,
        "size_bytes": found.size,
        "reclaimable_bytes": found.reclaimable,
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
                "wrong": list(repo.wrong),
                "revisions": [
                    {
                        "commit": revision.commit,
                        "refs": list(revision.refs),
                        "size_bytes": revision.size,
                        "files": revision.files,
                        "last_modified": revision.modified,
                        "wrong": list(revision.wrong),
                    }
                    for revision in repo.revisions
                ],
            }
            for repo in found.repos
        ],
        "unreadable": [{"path": one.path, "reason": one.reason} for one in found.unreadable],
        "not_repos": dict(found.strange),
        "foreign": list(found.foreign),
        "trash": list(found.trash),
    }


def _row(repo: Repo) -> RepoRow:
    revisions = tuple(
        RevisionRow(r.commit, r.refs, r.size, r.files, r.modified, tuple(_wrong_in(r))) for r in repo.revisions
    )
    return RepoRow(
        repo.name,
        repo.kind,
        repo.path,
        repo.size,
        repo.held,
        repo.files,
        repo.accessed,
        repo.modified,
        revisions,
        tuple(_wrong(repo)),
    )


def _wrong(repo: Repo) -> Iterator[str]:
    """Yield what is odd about a repo as a whole; what its revisions lack is said of them too."""
    for revision in repo.revisions:
        yield from (f"{revision.commit[:COMMIT_DIGITS]}: {wrong}" for wrong in _wrong_in(revision))
    if repo.partial:
        yield f"{count(len(repo.partial), 'partial download')}, {size(sum(repo.partial.values()))}"
    if repo.orphans:
        yield f"{count(len(repo.orphans), 'blob')} that no revision links to, {size(_orphaned(repo))}"
    if repo.missing_payloads:
        yield f"{count(len(repo.missing_payloads), 'link')} to nothing in the shared store"
    if repo.broken_refs and repo.revisions:
        yield f"refs to a missing commit: {_some(tuple(sorted(repo.broken_refs)))}"
    if repo.odd_refs:
        yield f"refs that huggingface_hub cannot follow, for a blank in them: {_some(repo.odd_refs)}"
    if not repo.revisions:
        yield "no revisions"
    if repo.condemned:
        yield "an interrupted removal"
    if repo.foreign:
        yield f"not huggingface_hub's: {_some(repo.foreign)}"


def _wrong_in(revision: Revision) -> Iterator[str]:
    if revision.dangling:
        yield f"{count(len(revision.dangling), 'file')} missing"
    if revision.outside:
        yield f"{count(len(revision.outside), 'link')} out of the cache"
    if not revision.refs:
        yield "no ref points to it"


def _kept(repo: Repo) -> frozenset[str]:
    """Return the blobs of revisions that a ref points to."""
    return frozenset().union(*(revision.blobs for revision in repo.revisions if revision.refs), frozenset())


def _reclaimable(repo: Repo, kept: Collection[str]) -> int:
    foreign = frozenset(repo.foreign)
    blobs = sum(b.held for name, b in repo.blobs.items() if name not in kept and f"blobs/{name}" not in foreign)
    plain = sum(revision.plain_bytes for revision in repo.revisions if not revision.refs)
    return blobs + plain + sum(repo.partial.values())


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
        "; ".join(repo.wrong),
    )


def _revision_rows(repo: RepoRow, now: float) -> list[Sequence[str]]:
    whole = [
        wrong for wrong in repo.wrong if not any(wrong.startswith(r.commit[:COMMIT_DIGITS]) for r in repo.revisions)
    ]
    rows: list[Sequence[str]] = [
        (
            repo.name,
            ", ".join(revision.refs) or "-",
            revision.commit,
            size(revision.size),
            _ago(max(repo.accessed, repo.modified), now),
            "; ".join(revision.wrong),
        )
        for revision in sorted(repo.revisions, key=lambda revision: (-revision.size, revision.commit))
    ]
    if whole or not rows:
        used = _ago(max(repo.accessed, repo.modified), now)
        rows.append((repo.name, "-", "-", size(repo.held - repo.size if rows else repo.held), used, "; ".join(whole)))
    return rows


def _ago(moment: float, now: float) -> str:
    return f"{duration(max(0, now - moment))} ago"


def _some(names: Sequence[str]) -> str:
    return some(names, _NAMED_AT_MOST)
