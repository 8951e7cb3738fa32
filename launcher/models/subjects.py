"""Collect the models to check: each locked one, or each ref of each cached repo, with its local commit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..cache import completeness, entries, layout
from ..cache import names as naming
from ..cache.completeness import Copy
from ..cache.names import PIN
from ..cache.roots import Root
from . import placement, repo_id
from .lockfile import LockedModel
from .placement import Memories, OnDisk, Place


class Subject(NamedTuple):
    """Hold a model to check: its local commit, its pinned commit, and a file to ask the hub for.

    `problem` is a known problem of the local files. `copy` is the local part of a commit without a known list of files:
    only a hub can say whether it is complete. `doubt` is why a file cannot be identified. Of a folder's files,
    `missing` are those that the hub's commit has and the folder lacks, and `extra` those that only the folder has.
    """

    name: str
    repo: str
    revision: str
    local: str | None
    problem: str = ""
    pinned: str | None = None
    file: str = ""
    copy: Copy | None = None
    doubt: str = ""
    part: str = ""
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    @property
    def held(self) -> str | None:
        """Return the commit to compare: the local one, or else the pinned one."""
        return self.local or self.pinned


def of_lock(
    models: Sequence[LockedModel], roots: Sequence[Root], app_dir: Path, memories: Memories
) -> tuple[tuple[Subject, ...], bool]:
    """Return the locked models to check, and whether any part of them is on this machine."""
    places = [placement.place_of(model, roots, app_dir) for model in models]
    states = [placement.on_disk(m, p, memories.of(p)) for m, p in zip(models, places, strict=True)]
    present = any(state.present for state in states)
    return tuple(_of_lock(m, state, present=present) for m, state in zip(models, states, strict=True)), present


def _of_lock(model: LockedModel, state: OnDisk, *, present: bool) -> Subject:
    file = next(iter(model.files), "")
    problem = state.problem if present else ""
    return Subject(model.name, model.repo, model.revision, state.commit, problem, model.commit, file, doubt=state.doubt)


def of_cache(roots: Sequence[Root]) -> tuple[Subject, ...]:
    """Return every cached repo to check, by each of its refs, or else by its commit; `main` is the first."""
    by_repo: dict[str, tuple[Subject, ...]] = {}
    for root in roots:
        for folder in entries.contents(root.real).entries:
            repo = naming.name(folder)
            # A download to a local folder leaves a ref in the cache, but no snapshot.
            parts = (f"{root.real}/{folder}/{part}" for part in ("snapshots", "blobs"))
            if repo not in by_repo and repo_id.is_name(repo) and any(map(os.path.isdir, parts)):
                by_repo[repo] = of_repo(repo, Place(root, f"{root.real}/{folder}"))
    return tuple(subject for repo in sorted(by_repo) for subject in by_repo[repo])


def of_other_copies(roots: Sequence[Root]) -> tuple[Subject, ...]:
    """Return the copies of cached repos in a further cache that differ from the first one: an app may load those.

    An app whose code names its own cache does not load from the one in its environment.
    """
    seen: dict[str, set[tuple[str, str | None]]] = {}
    copies: list[Subject] = []
    for root in roots:
        present = of_cache((root,))
        for subject in present:
            known = seen.get(subject.repo)
            if known is not None and (subject.problem or (subject.revision, subject.local) not in known):
                copies.append(subject._replace(name=f"{subject.repo} in {root.path}"))
        for subject in present:
            seen.setdefault(subject.repo, set()).add((subject.revision, subject.local))
    return tuple(copies)


def of_repo(repo: str, place: Place, wanted: str | None = None) -> tuple[Subject, ...]:
    """Return a cached repo to check, by the `wanted` revision, or by all of its refs."""
    assert place.root
    try:
        read = layout.read(place.root.real, os.path.basename(place.path))
    except OSError:
        return (Subject(repo, repo, wanted or repo_id.DEFAULT_REVISION, None, "it cannot be read"),)
    revisions = (wanted,) if wanted else tuple(_revisions(read))
    return tuple(_of_revision(repo, place, read, revision) for revision in revisions)


def _revisions(read: layout.Repo) -> Iterator[str]:
    """Yield the revisions that apps load: the refs, and `main` even if it leads to nothing; otherwise a commit."""
    refs = {ref for revision in read.revisions for ref in revision.refs if not ref.startswith(PIN)}
    is_broken = repo_id.DEFAULT_REVISION in read.broken_refs or f"refs/{repo_id.DEFAULT_REVISION}" in read.foreign
    if is_broken or not (refs or read.revisions):
        refs.add(repo_id.DEFAULT_REVISION)
    refs = refs or {ref for ref in read.broken_refs if not ref.startswith(PIN)}
    yield from sorted(refs, key=lambda ref: (ref != repo_id.DEFAULT_REVISION, ref))
    if not refs:
        yield read.revisions[0].commit


def _of_revision(repo: str, place: Place, read: layout.Repo, revision: str) -> Subject:
    pinned = next((cached.commit for cached in read.revisions if cached.pinned), None)
    own = next((cached for cached in read.revisions if revision in (*cached.refs, cached.commit)), None)
    if own is None:
        return Subject(repo, repo, revision, None, "no snapshot of it", pinned)
    try:
        copy = completeness.copy_of(place.path, own.commit)
    except OSError:
        return Subject(repo, repo, revision, own.commit, "it cannot be read", pinned)
    listed = completeness.tree(f"{place.path}/trees/{own.commit}.json")
    problem = missing(copy, listed) if listed else ""
    if not (copy.files or problem):
        problem = "no files"
    elif copy.dangling and not problem:
        problem = placement.lacking(sorted(copy.dangling), len(copy.files) + len(copy.dangling))
    unknown = None if listed else copy
    part = part_of(copy, listed) if listed else ""
    return Subject(repo, repo, revision, own.commit, problem, pinned, min(copy.files, default=""), unknown, part=part)


def missing(copy: Copy, listed: completeness.Files) -> str:
    """Return in words the missing files of a commit with a known list; blank if it is complete."""
    return placement.lacking(completeness.gaps(copy, listed), len(listed))


def part_of(copy: Copy, listed: completeness.Files) -> str:
    """Return in words how many files are present if the app has requested only a part; blank if all are."""
    here = len(copy.files.keys() & listed.keys())
    return "" if here == len(listed) else f"{here} of {len(listed)} files are here"
