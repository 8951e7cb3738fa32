"""Models are pulled for a command as for a launch: what is wanted is surveyed, fetched, and only then settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from ..cache.targets import unknown
from ..context import Context
from ..errors import ExitStatus, LauncherError
from ..models import check, hub, local_dir, placement, pull, refs, repo_id, resolve
from ..models.lockfile import LockedModel
from ..models.task import STALL_SECONDS, Reach, Served, Survey
from ..service import history
from ..system import lock as locks
from ..ui import text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..ui.console import Console

PULL_LOCK = "pull.lock"
_LOCK_SECONDS = 1.0


def has_commit(context: Context, repo: str, commit: str) -> bool | None:
    """Return whether any hub knows a commit as one of a repo, None where no hub has answered that."""
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
    """Keep two pulls for one app apart.

    Raises LauncherError (75) while another one is at it.
    """
    lock = locks.open_lock(context.settings.app_dir, PULL_LOCK)
    try:
        if not lock.acquire(_LOCK_SECONDS):
            raise LauncherError(
                f"another pull for {context.settings.app_dir} is at work",
                "try again when it is done; start_app.py cache list shows what has come",
                ExitStatus.RETRY,
            )
        yield
    finally:
        lock.close()


def recover(context: Context) -> None:
    """Finish what a killed pull has begun in a folder of the app's own."""
    for folder in local_dir.recover(context.settings.app_dir):
        context.console.warn(f"finished in {folder} what an interrupted pull had begun")


def wanted(
    context: Context, repos: Sequence[str] = (), *, newest: bool = False, what: str = "models pull"
) -> tuple[tuple[LockedModel, ...], bool]:
    """Return the models that are to be on the disk, and whether that is by the lock.

    Without a lock, or for the `newest`, hubs are asked: of a cached repo of which only some files are here, just those
    are wanted.
    """
    console = context.console
    if context.lockfile is not None:
        chosen = context.lockfile
        if repos:
            targets = [repo_id.target(repo) for repo in repos]
            for repo, target in zip(repos, targets, strict=True):
                if not any(target and one.repo == target.repo for one in chosen):
                    raise unknown(repo, [repo_id.folder(o.repo) for o in chosen], "start_app.py models lock REPO")
            chosen = tuple(one for one in chosen if any(target and one.repo == target.repo for target in targets))
        if not newest:
            return chosen, True
        wishes = [resolve.wish_of(one) for one in chosen]
    else:
        subjects = chosen_subjects(repos, check.cached_subjects(context.roots), context)
        wishes = [_cached_wish(one, context) for one in subjects]
    if not wishes:
        console.warn(f"no models: neither a models.lock nor anything in {context.roots[0].path}")
    refuse_offline(context, what)
    resolved = resolve.resolve(wishes, context.endpoints, context.own_environment, context.timeout(hub.DEFAULT_SECONDS))
    for one, wish in zip(resolved, wishes, strict=True):
        for warning in one.warnings:
            console.warn(warning)
        if one.partial:
            console.say(f"pull: {wish.repo}: only the {len(one.model.files)} files of which an older one is here")
    return tuple(one.model for one in resolved), False


def _cached_wish(subject: check.Subject, context: Context) -> resolve.Wish:
    place = placement.cached_place(subject.repo, context.roots)
    copy = resolve.Copy(subject.local, placement.files_here(place, subject.local)) if subject.local else None
    return resolve.Wish(subject.repo, subject.revision, copy=copy)


def refuse_offline(context: Context, what: str) -> None:
    """Refuse what asks a hub where none may be asked.

    Raises LauncherError (78).
    """
    if context.offline:
        raise LauncherError(
            f"{what} asks a hub, and HF_HUB_OFFLINE says that none may be asked",
            f"HF_HUB_OFFLINE=0 start_app.py {what}",
            ExitStatus.CONFIG,
        )


def survey(models: Sequence[LockedModel], context: Context, memories: placement.Memories) -> Survey:
    """Look at what is on the disk, with a bar while files must be read."""
    console = context.console
    total = sum(model.size for model in models) if console.interactive else None
    with console.bar("verifying", total) as progress:
        found = pull.survey(
            models,
            context.roots,
            context.settings.app_dir,
            memories,
            progress,
            lock=context.lockfile or (),
            is_of=partial(has_commit, context),
        )
    for task in found.tasks:
        for path in task.outdated.unknown:
            console.warn(
                f"left: {task.place.path}/{path}: no hub says whether an older {task.model.repo} has brought it"
            )
    return found


def fetch(found: Survey, context: Context, memories: placement.Memories) -> tuple[Served, ...]:
    """Download what is lacking, with one bar for all bytes."""
    console = context.console
    reach = Reach(context.endpoints, context.own_environment, context.timeout(STALL_SECONDS))
    pull.refuse_offline(reach, found)
    for task in found.tasks:
        if task.lacking:
            count = text.count(len(task.lacking), "file")
            console.say(f"pull: {task.model.name} @ {task.model.commit[:7]}: {count}, {text.size(task.size)}")
    with console.bar("pulling", found.size) as progress:
        served = pull.fetch(found, reach, memories, console.say, progress)
    for one in served:
        name = f"{one.task.model.name} @ {one.task.model.commit[:7]}"
        history.record(context.settings, "pull", name, f"{text.size(one.size)} from {one.endpoint.url}, verified")
        console.say(f"pull: {one.task.model.name}: {text.size(one.size)} from {one.endpoint.url}, verified")
    return served


def tell(found: Survey, console: Console) -> None:
    """Tell what every model is now, and what was left in its folder."""
    for task in found.tasks:
        model = task.model
        before = f" (was {task.before[:7]})" if task.before and task.before != model.commit else ""
        console.say(f"model: {model.name} @ {model.commit[:7]}{before}")
        for path in task.outdated.going:
            console.say(f"pull: removed {task.place.path}/{path}: {model.commit[:7]} does not have it")
        for path in task.outdated.changed:
            console.warn(
                f"left: {task.place.path}/{path}: {model.commit[:7]} does not have it, but it was changed here"
            )
        if task.place.root is None and (task.lacking or task.outdated.going):
            foreign = local_dir.foreign(task.place.path, model, task.outdated.changed)
            if foreign:
                console.say(f"left: {task.place.path}: what never came from the Hub: {text.some(foreign, 5)}")


def chosen_subjects(
    repos: Sequence[str], subjects: Sequence[check.Subject], context: Context
) -> tuple[check.Subject, ...]:
    """Return the subjects that are asked for, all where none is; a cached repo may be asked for beside the lock."""
    if not repos:
        return tuple(subjects)
    everything = (*subjects, *(check.cached_subjects(context.roots) if context.lockfile is not None else ()))
    found_ones: dict[str, check.Subject] = {}
    for repo in repos:
        target = repo_id.target(repo)
        found = [one for one in everything if target and one.repo == target.repo]
        if not (found and target):
            raise unknown(repo, [repo_id.folder(one.repo) for one in everything], "start_app.py cache list")
        same = [one for one in found if target.revision in (None, one.revision)]
        if not same and target.revision:
            place = placement.cached_place(target.repo, context.roots)
            same = [check.cached_subject(target.repo, place, target.revision)]
        for one in same:
            found_ones.setdefault(f"{one.name}@{one.revision}" if target.revision else one.name, one)
    return tuple(found_ones.values())


def unpin(context: Context, repos: Sequence[str]) -> None:
    """Take the pins from models that are locked no more; in a cache that others share, they may be another app's."""
    for repo in repos:
        for root in context.roots:
            if root.owned:
                try:
                    refs.unpin(root.real, repo_id.folder(repo))
                except OSError:
                    continue  # it was not pinned there


def model_document(one: LockedModel) -> Mapping[str, Any]:
    """Return a locked model for `--json`."""
    return {
        "repo": one.repo,
        "revision": one.revision,
        "commit": one.commit,
        "local_dir": one.local_dir,
        "files": len(one.files),
        "size_bytes": one.size,
    }
