"""Pull models for a command or a launch: survey the wanted files, fetch them, and only then settle."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..cache import completeness
from ..cache.roots import hf_home
from ..cache.targets import unknown
from ..context import Context
from ..errors import ExitStatus, LauncherError, quoted
from ..models import (
    hub,
    local_dir,
    lockfile,
    placement,
    pull,
    refs,
    repo_id,
    resolve,
    sources,
    subjects,
    switch,
    versions,
)
from ..models.lockfile import Lock, LockedModel
from ..models.sources import Sources
from ..models.subjects import Subject
from ..models.task import STALL_SECONDS, Disk, Reach, Run, Served, Skipped, Spare, Survey, spare_none
from ..service import history, outcomes
from ..system import lock as locks
from ..ui import text
from . import flat_check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..ui.console import Console

PULL_LOCK = "pull.lock"
_LOCK_SECONDS = 1.0
_SEVEREST = (ExitStatus.DAMAGED, ExitStatus.IO, ExitStatus.RETRY, ExitStatus.DENIED, ExitStatus.CONFIG)


def has_commit(context: Context, repo: str, commit: str) -> bool | None:
    """Return whether any hub knows a commit of a repo, None if no hub has answered."""
    if context.offline:
        return None
    asked = tuple(dict.fromkeys((context.endpoints.official, *context.endpoints.chain)))
    questions = [hub.Question(endpoint, "head", repo, commit) for endpoint in asked]
    answers = hub.ask(questions, context.own_environment, hub.DEFAULT_SECONDS)
    if any(answer.commit == commit for answer in answers.values()):
        return True
    return False if any(answer.trouble in ("gone", "no revision") for answer in answers.values()) else None


@contextmanager
def pull_lock(context: Context) -> Iterator[None]:
    """Allow only one pull for an app at a time.

    Raises LauncherError (75) while another one runs.
    """
    lock = locks.open_lock(context.settings.app_dir, PULL_LOCK)
    try:
        if not lock.acquire(_LOCK_SECONDS):
            raise LauncherError(
                f"another pull for {context.settings.app_dir} is at work",
                "try again when it is done; start_app.py cache list shows what has arrived",
                ExitStatus.RETRY,
            )
        yield
    finally:
        lock.close()


def recover(context: Context, begun: Sequence[switch.Unfinished] | None = None) -> None:
    """Complete or undo the switches of killed pulls in folders of the app's, and report them; `begun` was surveyed."""
    console, app_dir = context.console, context.settings.app_dir
    for recovered in switch.recover(
        app_dir, switch.unfinished(app_dir) if begun is None else begun, kept_folders(app_dir)
    ):
        commit = recovered.commit[:7]
        if recovered.journal:
            console.warn(
                f"{recovered.folder} has some files of {commit}, and can be neither completed nor restored: "
                f"{recovered.problem}"
            )
            journal = quoted(recovered.journal)
            console.warn(
                console.hinted(f"hint: start_app.py models pull completes it; rm {journal} leaves it as it is")
            )
        elif recovered.problem:
            console.warn(f"undid in {recovered.folder} what an interrupted pull had begun: {recovered.problem}")
            console.warn(console.hinted(f"hint: start_app.py models pull brings {commit}"))
        else:
            console.warn(f"finished in {recovered.folder} what an interrupted pull had begun")


def kept_folders(app_dir: Path) -> frozenset[str]:
    """Return the folders with a model of a last good set: replaced files there are kept for a rollback."""
    good = (model for ran in outcomes.good_sets(app_dir) for model in lockfile.remembered(ran.folders))
    return frozenset(str(app_dir / model.local_dir) for model in good if model.local_dir)


class Wanted(NamedTuple):
    """Hold the wanted models, whether they come from the lock, and the skipped ones."""

    models: tuple[LockedModel, ...]
    by_lock: bool
    skipped: tuple[Skipped, ...] = ()


def wanted(context: Context, repos: Sequence[str] = (), *, newest: bool = False, spare: Spare = spare_none) -> Wanted:
    """Return the wanted models.

    Without a lock, or for the `newest`, ask hubs: of a cached repo with only some files, only these files are wanted.
    Raises LauncherError for a model that cannot be resolved, unless `spare` accepts it and others can be resolved.
    """
    console = context.console
    if context.lockfile is not None:
        chosen = _chosen(context.lockfile, repos)
        if not newest:
            return Wanted(chosen, by_lock=True)
        requirements = [resolve.requirement_of(model) for model in chosen]
    else:
        named = [target.repo for repo in repos if (target := repo_id.target(repo))]
        flat = [one for one in flat_check.requirements(context) if not repos or one.repo in named]
        others = [repo for repo in repos if (t := repo_id.target(repo)) is None or t.repo not in {f.repo for f in flat}]
        cached = () if repos and not others else chosen_subjects(others, subjects.of_cache(context.roots), context)
        requirements = [*(_requirement(subject, context) for subject in cached), *flat]
    if not requirements:
        console.warn(f"no models: no models.lock, and nothing in {context.roots[0].path}")
    refuse_offline(context, "--force-refresh" if newest else "models pull")
    timeout = context.timeout(hub.DEFAULT_SECONDS)
    models, skipped = [], []
    for outcome in resolve.resolve(requirements, context.endpoints, context.own_environment, timeout):
        if isinstance(outcome, resolve.Unresolved):
            if not spare(outcome.error):
                raise outcome.error
            skipped.append(Skipped(outcome.requirement.name, outcome.error))
            continue
        for warning in outcome.warnings:
            console.warn(warning)
        model = outcome.model
        if outcome.partial:
            console.say(f"pull: {model.repo}: only the {len(model.files)} files that an older copy here has")
        models.append(model)
    if skipped and not models:
        raise skipped[0].error
    return Wanted(tuple(models), by_lock=False, skipped=tuple(skipped))


def _chosen(lock: Sequence[LockedModel], repos: Sequence[str]) -> tuple[LockedModel, ...]:
    targets = [repo_id.target(repo) for repo in repos]
    for repo, target in zip(repos, targets, strict=True):
        if not any(target and model.repo == target.repo for model in lock):
            raise unknown(repo, [repo_id.folder(model.repo) for model in lock], "start_app.py models lock REPO")
    names = {target.repo for target in targets if target}
    return tuple(model for model in lock if not repos or model.repo in names)


def _requirement(subject: Subject, context: Context) -> resolve.Requirement:
    """Return the wanted replacements of cached repos."""
    if subject.local is None:
        return resolve.Requirement(subject.repo, subject.revision)
    place = placement.cached_place(subject.repo, context.roots)
    try:
        copy = completeness.copy_of(place.path, subject.local)
    except OSError:
        return resolve.Requirement(subject.repo, subject.revision)
    listed = completeness.tree(f"{place.path}/trees/{subject.local}.json") or None
    return resolve.Requirement(subject.repo, subject.revision, copy=copy, listed=listed)


def tell_skipped(skipped: Sequence[Skipped], console: Console) -> None:
    """Report the skipped models, with hints."""
    for skip in skipped:
        console.warn(f"skipped: {skip.error.message}")
        if skip.error.hint:
            console.warn(console.hinted(f"hint: {skip.error.hint}"))


def spare_refused(error: LauncherError) -> bool:
    """Skip a model if the problem is its own: a deleted, denied or empty model does not stop the refresh of others."""
    return error.status in (ExitStatus.USAGE, ExitStatus.DENIED) or isinstance(error, resolve.UnlistedError)


def status_of(skipped: Sequence[Skipped]) -> ExitStatus:
    """Return the exit status for the skipped models: temporary problems first, deleted models last."""
    statuses = {skip.error.status for skip in skipped}
    severest = next((status for status in _SEVEREST if status in statuses), None)
    return severest or (ExitStatus.STALE if statuses else ExitStatus.DONE)


def refuse_offline(context: Context, command: str) -> None:
    """Refuse a request to a hub if the settings forbid it.

    Raises LauncherError (78).
    """
    if context.offline and context.arguments.demo:
        raise LauncherError(
            f"{command} needs a hub, and no hub has the demo's models: they are fake",
            f"rm -r {quoted(context.settings.app_dir)}, then start_app.py --demo restores what was removed",
            ExitStatus.CONFIG,
        )
    if context.offline:
        raise LauncherError(
            f"{command} needs a hub, and HF_HUB_OFFLINE is set",
            f"HF_HUB_OFFLINE=0 start_app.py {command}",
            ExitStatus.CONFIG,
        )


def survey(
    models: Sequence[LockedModel], context: Context, memories: placement.Memories, spare: Spare = spare_none
) -> Survey:
    """Survey the disk, with a progress bar while files must be read."""
    console = context.console
    total = sum(model.size for model in models) if console.interactive else None
    with console.bar("verifying", total) as progress:
        origins = local_dir.Origins(context.lockfile or (), partial(has_commit, context))
        disk = Disk(context.roots, context.settings.app_dir, memories)
        surveyed = pull.survey(models, disk, Run(console.say, progress, spare), origins)
    for task in surveyed.tasks:
        for path in task.outdated.unknown:
            console.warn(
                f"left: {task.place.path}/{path}: no hub says whether an older {task.model.repo} has brought it"
            )
    return surveyed


def fetch(
    survey: Survey, context: Context, memories: placement.Memories, spare: Spare = spare_none
) -> tuple[Survey, tuple[Served, ...]]:
    """Download the missing files, with one bar for all bytes; return the files and their hubs."""
    console = context.console
    home = str(hf_home(context.environment, context.settings.app_dir))
    reach = Reach(
        context.endpoints,
        context.own_environment,
        context.timeout(STALL_SECONDS),
        (home,),
        sources_of(context, memories),
    )
    for task in survey.tasks:
        if task.lacking:
            count = text.count(len(task.lacking), "file")
            console.say(f"pull: {task.model.name} @ {task.model.commit[:7]}: {count}, {text.size(task.size)}")
    with console.bar("pulling", survey.size) as progress:
        come, served = pull.fetch(survey, reach, memories, Run(console.say, progress, spare))
    for download in served:
        if not download.size:
            continue
        model, result = download.task.model, f"{text.size(download.size)} from {download.endpoint.url}, verified"
        history.record(context.settings, "pull", f"{model.name} @ {model.commit[:7]}", result)
        console.say(f"pull: {model.name}: {result}")
    return come, served


def sources_of(context: Context, memories: placement.Memories) -> Sources:
    """Return the places on this machine that may have files, so that they need not be downloaded."""
    settings = context.settings
    named = sources.of_entries(context.endpoints.folders, str(settings.app_dir), context.home or "")
    for folder in named:
        if not os.path.isdir(folder):
            context.console.warn(f"{folder} is not there (HF_ENDPOINT_FALLBACK)")
    own = versions.own_folders(settings, context.lockfile or Lock())
    return Sources(tuple(root.real for root in context.roots), own, named, memories)


def tell(survey: Survey, console: Console) -> None:
    """Report the current commit of every model, and the skipped files in its folder."""
    for task in survey.tasks:
        model = task.model
        before = f" (was {task.before[:7]})" if task.before and task.before != model.commit else ""
        console.say(f"model: {model.name} @ {model.commit[:7]}{before}")
        for path in task.outdated.going:
            console.say(f"pull: removed {task.place.path}/{path}: {model.commit[:7]} does not have it")
        for path in task.outdated.changed:
            console.warn(
                f"left: {task.place.path}/{path}: {model.commit[:7]} does not have it, but the local file was changed"
            )
        if task.place.root is None and (task.lacking or task.outdated.going):
            foreign = local_dir.foreign(task.place.path, model, task.outdated.changed)
            if foreign:
                console.say(f"left: {task.place.path}: files that did not come from the Hub: {text.some(foreign, 5)}")


def chosen_subjects(repos: Sequence[str], known: Sequence[Subject], context: Context) -> tuple[Subject, ...]:
    """Return the requested subjects, or all without a request; a cached repo may be requested besides the lock."""
    if not repos:
        return tuple(known)
    cached = subjects.of_cache(context.roots) if context.lockfile is not None else ()
    chosen: dict[tuple[str, str], Subject] = {}
    for repo in repos:
        target = repo_id.target(repo)
        named = [subject for subject in known if target and subject.repo == target.repo]
        named = named or [subject for subject in cached if target and subject.repo == target.repo]
        if not (named and target):
            hint = "start_app.py cache list; start_app.py models lock REPO pins a new one"
            raise unknown(repo, [repo_id.folder(s.repo) for s in (*known, *cached)], hint)
        same = [subject for subject in named if target.revision in (None, subject.revision)]
        if not same:
            place = placement.cached_place(target.repo, context.roots)
            same = list(subjects.of_repo(target.repo, place, target.revision))
        for subject in same:
            chosen.setdefault((subject.name, subject.revision), subject)
    return tuple(chosen.values())


def unpin(context: Context, repos: Sequence[str]) -> None:
    """Remove the pins of models that the lock no longer has; in a shared cache, they may be another app's."""
    for repo in repos:
        for root in context.roots:
            if root.owned:
                try:
                    refs.unpin(root.real, repo_id.folder(repo))
                except OSError:
                    continue  # it was not pinned there


def model_document(model: LockedModel) -> Mapping[str, Any]:
    """Return a locked model for `--json`."""
    return {
        "repo": model.repo,
        "revision": model.revision,
        "commit": model.commit,
        "local_dir": model.local_dir,
        "files": len(model.files),
        "size_bytes": model.size,
    }
