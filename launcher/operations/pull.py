"""Models are pulled for a command as for a launch: what is wanted is surveyed, fetched, and only then settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..cache import entries
from ..cache import names as naming
from ..cache.roots import Root, roots
from ..cache.targets import unknown
from ..config.settings import Settings, app_environment
from ..errors import ExitStatus, LauncherError
from ..models import check, endpoints, hub, local_dir, lockfile, placement, pull, refs, repo_id, resolve, verified
from ..models.lockfile import LockedModel
from ..models.task import STALL_SECONDS, Reach, Served, Survey
from ..service import history
from ..system import lock as locks
from ..ui import text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..arguments import Arguments
    from ..models.endpoints import Endpoints
    from ..ui.console import Console

PULL_LOCK = "pull.lock"
_LOCK_SECONDS = 1.0


class Context:
    """Hold what every `models` command needs: the app's caches, its environment, its lock, and the hubs."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], lock: lockfile.Lock | None = None) -> None:
        self.settings = settings
        self.environment = app_environment(settings, environ)
        self.roots: tuple[Root, ...] = roots(settings, self.environment)
        self.endpoints: Endpoints = endpoints.of(self.environment)
        self.lock = lockfile.read(settings.app_dir) if lock is None else lock

    def read_lock(self) -> None:
        """Read `models.lock` once more."""
        self.lock = lockfile.read(self.settings.app_dir)

    def has_commit(self, repo: str, commit: str) -> bool | None:
        """Tell whether any hub knows a commit as one of a repo, None where nobody has said so or otherwise."""
        if self.offline:
            return None
        asked = tuple(dict.fromkeys((self.endpoints.official, *self.endpoints.chain)))
        questions = [hub.Question(endpoint, "head", repo, commit) for endpoint in asked]
        answers = hub.ask(questions, self.environment, hub.DEFAULT_SECONDS)
        if any(answer.commit == commit for answer in answers.values()):
            return True
        return False if any(answer.trouble in ("gone", "no revision") for answer in answers.values()) else None

    @property
    def offline(self) -> bool:
        """Tell whether the settings say that no hub may be asked."""
        return endpoints.is_offline(self.environment)


def run(arguments: Arguments, context: Context, console: Console) -> int:
    """Make the disk match the lock, or what is newest where there is none."""
    memories = verified.load(context.settings.app_dir)
    if arguments.dry_run:
        models, _ = wanted(context, console, arguments.repos, arguments.timeout)
        return _show_pull(survey(models, context, memories, console), console)
    with pull_lock(context):
        context.read_lock()
        recover(context, console)
        models, pin = wanted(context, console, arguments.repos, arguments.timeout)
        try:
            found = survey(models, context, memories, console)
            served = fetch(found, context, memories, console, arguments.timeout)
            pull.settle(found, context.settings.app_dir, memories, pin=pin)
        finally:
            verified.save(context.settings.app_dir, memories, console.detail)
        if pin and not arguments.repos:
            unpin(context, _unlocked_repos(context))
        tell(found, console)
        if console.as_json:
            console.json({**_survey_document(found), "dry_run": False, "served": [_served_document(o) for o in served]})
    return ExitStatus.DONE


def _unlocked_repos(context: Context) -> list[str]:
    named = {one.repo for one in context.lock or () if not one.local_dir}
    present = (naming.name(e) for root in context.roots for e in entries.contents(root.real).entries)
    return [repo for repo in present if repo not in named]


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


def recover(context: Context, console: Console) -> None:
    """Finish what a killed pull has begun in a folder of the app's own."""
    for folder in local_dir.recover(context.settings.app_dir):
        console.warn(f"finished in {folder} what an interrupted pull had begun")


def wanted(
    context: Context,
    console: Console,
    repos: Sequence[str] = (),
    timeout: float | None = None,
    *,
    newest: bool = False,
    what: str = "models pull",
) -> tuple[tuple[LockedModel, ...], bool]:
    """Return the models that are to be on the disk, and whether that is by the lock.

    Without a lock, or for the `newest`, hubs are asked: of a cached repo of which only some files are here, just those
    are wanted.
    """
    seconds = hub.DEFAULT_SECONDS if timeout is None else timeout
    if context.lock is not None:
        chosen = context.lock
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
    resolved = resolve.resolve(wishes, context.endpoints, context.environment, seconds)
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


def survey(models: Sequence[LockedModel], context: Context, memories: placement.Memories, console: Console) -> Survey:
    """Look at what is on the disk, with a bar while files must be read."""
    total = sum(model.size for model in models) if console.interactive else None
    with console.bar("verifying", total) as progress:
        found = pull.survey(
            models,
            context.roots,
            context.settings.app_dir,
            memories,
            progress,
            lock=context.lock or (),
            is_of=context.has_commit,
        )
    for task in found.tasks:
        for path in task.outdated.unknown:
            console.warn(
                f"left: {task.place.path}/{path}: no hub says whether an older {task.model.repo} has brought it"
            )
    return found


def fetch(
    found: Survey, context: Context, memories: placement.Memories, console: Console, timeout: float | None = None
) -> tuple[Served, ...]:
    """Download what is lacking, with one bar for all bytes."""
    reach = Reach(context.endpoints, context.environment, STALL_SECONDS if timeout is None else timeout)
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


def _show_pull(found: Survey, console: Console) -> int:
    if console.as_json:
        console.json({**_survey_document(found), "dry_run": True, "served": []})
        return ExitStatus.DONE
    for task in found.tasks:
        name = f"{task.model.name} @ {task.model.commit[:7]}"
        if task.lacking:
            console.out(f"would pull {name}: {len(task.lacking)} files, {text.size(task.size)}")
        elif task.before == task.model.commit and not task.outdated.going:
            console.out(f"in place: {name}")
        if task.before != task.model.commit:
            console.out(
                f"would move {task.model.revision} of {name} from {task.before[:7] if task.before else 'nothing'}"
            )
        for path in task.outdated.going:
            console.out(f"would remove {task.place.path}/{path}: {task.model.commit[:7]} does not have it")
    return ExitStatus.DONE


def _survey_document(found: Survey) -> Mapping[str, Any]:
    return {
        "models": [
            {
                **model_document(task.model),
                "before": task.before,
                "pulled": list(task.lacking),
                "pulled_bytes": task.size,
                "removed": list(task.outdated.going),
                "left": list(task.outdated.changed),
            }
            for task in found.tasks
        ],
        "size_bytes": found.size,
        "read_bytes": found.read_bytes,
    }


def _served_document(one: Served) -> Mapping[str, Any]:
    return {"repo": one.task.model.repo, "endpoint": one.endpoint.url, "size_bytes": one.size}


def chosen_subjects(
    repos: Sequence[str], subjects: Sequence[check.Subject], context: Context
) -> tuple[check.Subject, ...]:
    """Return the subjects that are asked for, all where none is; a cached repo may be asked for beside the lock."""
    if not repos:
        return tuple(subjects)
    everything = (*subjects, *(check.cached_subjects(context.roots) if context.lock is not None else ()))
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
