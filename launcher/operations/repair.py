"""What was removed as damaged is fetched again: the same files of the same commits, and the refs that led to them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ..cache import layout
from ..cache import names as naming
from ..cache.completeness import tree
from ..cache.plan import Plan
from ..cache.roots import Root
from ..cache.snapshots import Revision
from ..context import Context
from ..errors import ExitStatus, LauncherError, quoted
from ..models import hub, local_dir, placement, pull, repo_id, verified
from ..models.lockfile import LockedFile, LockedModel
from ..models.placement import Place
from ..models.task import Survey, Task
from . import pull as pulling


class Broken(NamedTuple):
    """Hold a revision that goes because a file in it is damaged: what it is made of, and the refs that lead to it."""

    model: LockedModel
    place: Place
    refs: tuple[str, ...]


def broken(planned: Sequence[Plan]) -> tuple[Broken, ...]:
    """Return the revisions that a repair takes away, to be asked before it does."""
    taken = []
    for plan in planned:
        going = {item.path for item in plan.items if item.kind == "snapshot"}
        for folder in sorted({item.folder for item in plan.items if item.kind == "snapshot"}):
            repo = layout.read(plan.root.real, folder)
            revisions = [r for r in repo.revisions if f"{repo.path}/snapshots/{r.commit}" in going]
            taken += [_broken(plan.root, repo, revision) for revision in revisions]
    return tuple(taken)


def refuse_unavailable(revisions: Sequence[Broken], context: Context) -> None:
    """Refuse to take away what could not be fetched again: while no hub answers, most of it is still of use.

    Raises LauncherError (75).
    """
    wanted = _fetched(revisions)
    if context.offline or not wanted:
        return
    chain = context.endpoints.chain
    asked = [[hub.Question(e, "head", r.model.repo, r.model.commit) for e in chain] for r in wanted]
    answers = hub.ask([q for questions in asked for q in questions], context.own_environment, hub.DEFAULT_SECONDS)
    for revision, questions in zip(wanted, asked, strict=True):
        if not any(answers[question].commit == revision.model.commit for question in questions):
            said = "; ".join(f"{question.endpoint.url}: {answers[question].text}" for question in questions)
            named = f"{revision.model.repo}@{revision.model.commit[:7]}"
            raise LauncherError(
                f"{named} cannot be fetched now, so nothing was removed: {said}",
                "start_app.py cache verify --repair again when a hub answers; "
                f"start_app.py cache remove {quoted(named)} removes it without one",
                ExitStatus.RETRY,
            )


def fetch(revisions: Sequence[Broken], context: Context) -> Mapping[str, Any]:
    """Download what was removed, give the refs back once all is there and right, and return what was repaired."""
    console = context.console
    wanted = _fetched(revisions)
    if not wanted:
        return {"repaired": []}
    if context.offline:
        console.warn("HF_HUB_OFFLINE is set: what was removed is fetched by the next download, not now")
        return {"repaired": []}
    memories = verified.load(context.settings.app_dir)
    tasks = tuple(
        Task(r.model, r.place, None, tuple(r.model.files), (), local_dir.Outdated((), (), ())) for r in wanted
    )
    try:
        with pulling.pull_lock(context):
            pulling.fetch(Survey(tasks, 0), context, memories)
            for revision, task in zip(wanted, tasks, strict=True):
                for ref in revision.refs:
                    pull.move(task._replace(model=revision.model._replace(revision=ref)), pin=False)
    except LauncherError as error:
        lost = ", ".join(f"{ref} of {r.model.repo} was {r.model.commit}" for r in wanted for ref in r.refs)
        locked = " ".join(f"{r.model.repo}@{r.model.commit}" for r in wanted)
        raise LauncherError(
            f"what was damaged is removed, and could not be fetched: {error.message}; {lost}",
            f"start_app.py models lock {locked}; start_app.py models pull; both when the hub answers again",
            error.status,
        ) from error
    finally:
        verified.save(context.settings.app_dir, memories, console.detail)
    for revision in wanted:
        console.say(f"repaired: {revision.model.repo} @ {revision.model.commit[:7]}")
    return {"repaired": [{"repo": revision.model.repo, "commit": revision.model.commit} for revision in wanted]}


def _fetched(revisions: Sequence[Broken]) -> list[Broken]:
    """Return those that a hub can be asked for."""
    return [revision for revision in revisions if revision.model.files and repo_id.is_name(revision.model.repo)]


def _broken(root: Root, repo: layout.Repo, revision: Revision) -> Broken:
    base = f"{repo.path}/snapshots/{revision.commit}"
    known = tree(f"{repo.path}/trees/{revision.commit}.json")
    files = {
        path: LockedFile(size, digest) for path, (digest, size) in known.items() if os.path.lexists(f"{base}/{path}")
    }
    for folder, _, listed in os.walk(base):
        for name in listed:
            path = os.path.relpath(f"{folder}/{name}", base)
            with suppress(OSError):
                digest = os.path.basename(os.readlink(f"{folder}/{name}"))
                if path not in files and naming.HASH.fullmatch(digest) and repo_id.is_path(path):
                    files[path] = LockedFile(placement.ANY_SIZE, digest)
    name_ = naming.name(repo.folder)
    model = LockedModel(name_, revision.commit, revision.commit, None, (), (), dict(sorted(files.items())))
    return Broken(model, Place(root, repo.path), revision.refs)
