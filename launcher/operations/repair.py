"""Fetch damaged or missing files again: the same files of the same commits, in the same places.

First ask a hub for its files. Refs and links stay meanwhile: if the launcher is killed, the dangling links show every
later command which files are missing, and another repair continues.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ..cache import layout, planning
from ..cache import names as naming
from ..cache import plan as plans
from ..cache.completeness import copy_of, gaps, tree
from ..cache.dirs import walk
from ..cache.plan import Plan
from ..cache.roots import Root
from ..cache.snapshots import Revision
from ..cache.verify import Checked
from ..context import Context
from ..errors import ExitStatus, LauncherError, quoted
from ..models import hub, local_dir, placement, repo_id, verified
from ..models.lockfile import LockedFile, LockedModel
from ..models.placement import Place
from ..models.task import Survey, Task, spare_all
from . import pull as pulling

_UNKNOWN = LockedFile(placement.ANY_SIZE, "")


class Broken(NamedTuple):
    """Hold a revision and its damaged or missing files; those of an `incomplete` one are unknown yet."""

    model: LockedModel
    place: Place
    incomplete: bool = False

    @property
    def name(self) -> str:
        """Return its readable name."""
        return f"{self.model.repo}@{self.model.commit[:7]}"

    @property
    def snapshot(self) -> str:
        """Return the path of its snapshot."""
        return self.place.base(self.model.commit)


class Repair(NamedTuple):
    """Hold what a repair removes, the revisions whose missing files a hub has, and the ones that stay for now."""

    planned: tuple[Plan, ...]
    fetched: tuple[Broken, ...] = ()
    skipped: tuple[Broken, ...] = ()


def prepare(failing: Sequence[Checked], context: Context) -> Repair:
    """Ask the hubs for damaged or missing files, and plan to remove only files that can be fetched again.

    Offline, damaged files are removed with their revisions, and the next download fetches them. Raises LauncherError
    (75) if no hub has any of the files: most of a damaged revision is still usable.
    """
    planned = _planned(failing, context)
    if context.offline:
        return Repair(planned)
    revisions = _broken(planned, failing, context.roots)
    fetched, refused = _available(revisions, context)
    if refused:
        gone = {one.place.path for one, _ in refused}
        failing = [checked for checked in failing if checked.candidate.repo not in gone]
        planned = _planned(failing, context)
        fetched = tuple(one for one in fetched if one.place.path not in gone)
        # If another revision shares a damaged file, repairing these would remove it there too.
        shared = any(item.folder and f"{one.root.real}/{item.folder}" in gone for one in planned for item in one.items)
        if shared or not (planned or fetched):
            raise _unavailable(*refused[0])
        for one, said in refused:
            context.console.warn(f"skipped: {_unavailable(one, said).message}")
    files = {c.candidate.path: c.size for c in failing if c.damaged and not (c.candidate.blob or c.candidate.missing)}
    snapshots = frozenset(one.snapshot for one in fetched)
    planned = tuple(plans.in_place(one, files, snapshots) for one in planned)
    return Repair(planned, fetched, tuple(one for one, _ in refused))


def fetch(repair: Repair, context: Context) -> Mapping[str, Any]:
    """Download the missing files now, and return the repaired ones; the caller holds the lock of a pull.

    Raises LauncherError (65, 74, 75, 77) if some files could not be fetched; the others are repaired.
    """
    console = context.console
    if context.offline:
        console.warn("HF_HUB_OFFLINE is set: what was removed is fetched by the next download, not now")
        return {"repaired": []}
    memories = verified.load(context.settings.app_dir)
    tasks = []
    for one in repair.fetched:
        lacking = tuple(path for path in one.model.files if not os.path.exists(f"{one.snapshot}/{path}"))
        if lacking:
            tasks.append(Task(one.model, one.place, None, lacking, (), local_dir.Outdated((), (), ())))
    try:
        survey, _ = pulling.fetch(Survey(tuple(tasks), 0), context, memories, spare=spare_all)
    finally:
        verified.save(context.settings.app_dir, memories, console.detail)
    for task in survey.tasks:
        console.say(f"repaired: {task.model.repo} @ {task.model.commit[:7]}")
    if survey.skipped:
        errors = "; ".join(f"{one.name} could not be fetched: {one.error.message}" for one in survey.skipped)
        status = pulling.status_of(survey.skipped)
        raise LauncherError(errors, "start_app.py cache verify --repair goes on once the hub answers again", status)
    return {"repaired": [{"repo": task.model.repo, "commit": task.model.commit} for task in survey.tasks]}


def _planned(failing: Sequence[Checked], context: Context) -> tuple[Plan, ...]:
    damaged = [checked for checked in failing if checked.damaged]
    return planning.plan_repair(damaged, context.roots, force=context.arguments.force)


def _unavailable(revision: Broken, said: str) -> LauncherError:
    return LauncherError(
        f"{revision.name} cannot be fetched now, so nothing was removed: {said}",
        "start_app.py cache verify --repair again when a hub answers; "
        f"start_app.py cache remove {quoted(revision.name)} removes it without one",
        ExitStatus.RETRY,
    )


def _available(
    revisions: Sequence[Broken], context: Context
) -> tuple[tuple[Broken, ...], tuple[tuple[Broken, str], ...]]:
    """Return the revisions that a hub has, with its list of their files, and the others with its answer."""
    chain = context.endpoints.chain
    asked = [
        [tuple(hub.Question(url, what, one.model.repo, one.model.commit) for what in ("head", "tree")) for url in chain]
        for one in revisions
    ]
    questions = [question for pairs in asked for pair in pairs for question in pair]
    answers = hub.ask(questions, context.own_environment, context.timeout(hub.DEFAULT_SECONDS))
    ready, refused = [], []
    for one, pairs in zip(revisions, asked, strict=True):
        has = [listing for head, listing in pairs if answers[head].commit == one.model.commit]
        lists = [files for listing in has if (files := answers[listing].files)]
        lost = [path for path in one.model.files if lists and not any(path in files for files in lists)]
        if has and not lost and (lists or not one.incomplete):
            ready.append(_listed(one, lists))
        else:
            reasons = {head: answers[head].text or answers[listing].text for head, listing in pairs}
            reasons.update((head, f"it does not have {lost[0]}") for head, listing in pairs if lost and listing in has)
            refused.append((one, "; ".join(f"{head.endpoint.url}: {why}" for head, why in reasons.items())))
    return tuple(ready), tuple(refused)


def _listed(revision: Broken, lists: Sequence[Mapping[str, LockedFile]]) -> Broken:
    """Return a revision with the hubs' list of its files; a hash that is known here overrides the hub's."""
    files = dict(revision.model.files)
    if revision.incomplete:
        copy = copy_of(revision.place.path, revision.model.commit)
        missing = gaps(copy, {path: (file.hash, file.size) for path, file in lists[0].items()})
        files = {path: lists[0][path] for path in missing}
    for path, file in files.items():
        known = (listed[path] for listed in lists if path in listed and file.hash in ("", listed[path].hash))
        if file.size == placement.ANY_SIZE:
            files[path] = next(known, file)
    return revision._replace(model=revision.model._replace(files={path: f for path, f in files.items() if f.hash}))


def _broken(planned: Sequence[Plan], failing: Sequence[Checked], roots: Sequence[Root]) -> tuple[Broken, ...]:
    """Return the revisions whose files a plan removes, and the incomplete ones, if a hub can be asked for them."""
    wanted: dict[tuple[Root, str], set[str]] = {}
    for one in planned:
        for item in one.items:
            if item.kind == "snapshot":
                wanted.setdefault((one.root, item.folder), set()).add(item.path)
    for checked in failing:
        root = next(
            (root for root in roots if checked.candidate.repo == f"{root.real}/{checked.candidate.folder}"), None
        )
        if checked.verdict == "incomplete" and root:
            wanted.setdefault((root, checked.candidate.folder), set()).add(checked.candidate.path)
    gone = {item.path for one in planned for item in one.items if item.kind == "blob"}
    broken = []
    for (root, folder), snapshots in wanted.items():
        repo = layout.read(root.real, folder)
        for revision in repo.revisions:
            if f"{repo.path}/snapshots/{revision.commit}" in snapshots:
                files = _files(repo, revision, gone, failing)
                model = LockedModel(naming.name(folder), revision.commit, revision.commit, None, (), (), files)
                broken.append(Broken(model, Place(root, repo.path), not files))
    return tuple(one for one in broken if repo_id.is_name(one.model.repo))


def _files(
    repo: layout.Repo, revision: Revision, gone: Collection[str], failing: Sequence[Checked]
) -> Mapping[str, LockedFile]:
    """Return the damaged and missing files of a revision, with their known expected content."""
    base = f"{repo.path}/snapshots/{revision.commit}"
    own = [checked.candidate for checked in failing if checked.damaged and checked.candidate.repo == repo.path]
    expected = {candidate.blob: candidate.expected for candidate in own}
    files = {
        candidate.name: _UNKNOWN._replace(hash=candidate.expected or "")
        for candidate in own
        if candidate.path == f"{base}/{candidate.name}"
    }
    for entry in walk(base):
        with suppress(OSError):
            blob = os.path.basename(os.readlink(entry.path))
            if f"{repo.path}/blobs/{blob}" in gone or not os.path.exists(entry.path):
                digest = expected.get(blob) or (blob if naming.HASH.fullmatch(blob) else "")
                files[entry.path[len(base) + 1 :]] = _UNKNOWN._replace(hash=digest)
    listed = tree(f"{repo.path}/trees/{revision.commit}.json")
    known = {path: LockedFile(listed[path][1], listed[path][0]) if path in listed else files[path] for path in files}
    return {path: known[path] for path in sorted(known) if repo_id.is_path(path)}
