"""`models check`: compare the local commits with the newest ones of the mirror and the Hub."""

from __future__ import annotations

from collections.abc import Iterator

from ..context import Answer, Context, Report
from ..errors import ExitStatus, quoted
from ..models import check, hub, subjects, verified
from ..models.lockfile import Lock
from ..models.subjects import Subject
from ..operations import flat_check, pull


def run(context: Context) -> Report:
    """Compare the local models with those of the mirror and the Hub."""
    arguments, console = context.arguments, context.console
    lock = context.lockfile or Lock()
    besides: tuple[check.Verdict, ...] = ()
    copies: tuple[Subject, ...] = ()
    if arguments.local_dir:
        chosen = tuple(flat_check.of_folder(context, repo, arguments.local_dir) for repo in arguments.repos)
    elif context.lockfile is not None:
        memories = verified.load(context.settings.app_dir)
        flat_check.read_pinned(context, lock, memories)
        besides = tuple(flat_check.of_files(context, lock, memories))
        chosen, present = subjects.of_lock(context.lockfile, context.roots, context.settings.app_dir, memories)
        if chosen and not present:
            console.warn("none of the locked models is on this machine: comparing models.lock itself")
    else:
        copies = subjects.of_other_copies(context.roots)
        chosen = (*subjects.of_cache(context.roots), *copies, *flat_check.of_notes(context, lock))
    if not arguments.local_dir:
        chosen = pull.chosen_subjects(arguments.repos, chosen, context)
    if not (arguments.repos or arguments.local_dir or context.lockfile):
        besides = tuple(flat_check.of_unknown(context, lock))
    besides = () if arguments.repos else besides
    if besides:
        pass
    elif not chosen and context.lockfile is not None:
        console.warn("no models: models.lock pins nothing; start_app.py models lock REPO pins a model")
    elif not chosen:
        console.warn(f"no models: no models.lock, and nothing in {context.roots[0].path}")
    if context.offline:
        console.warn("HF_HUB_OFFLINE is set: no hub was asked; this shows only this machine")
        verdicts = (*check.offline(chosen), *besides)
    else:
        timeout = context.timeout(hub.DEFAULT_SECONDS)
        verdicts = (*check.run(chosen, context.endpoints, context.own_environment, timeout), *besides)
    status = ExitStatus.DONE
    if any(verdict.stale for verdict in verdicts):
        status = ExitStatus.STALE
    elif any(verdict.unknown for verdict in verdicts):
        status = ExitStatus.RETRY
    mirrored = context.endpoints.mirrored
    for line in () if console.as_json else _asked(context):
        console.say(line)
    document = {
        "offline": context.offline,
        "locked": context.lockfile is not None,
        "mirror": context.endpoints.used.url if mirrored else None,
        "hub": context.endpoints.official.url,
        "models": [check.document(verdict) for verdict in verdicts],
        "exit_status": int(status),
    }
    stale = status == ExitStatus.STALE and not context.offline
    table = console.table(check.rows(verdicts, mirrored=mirrored)) if verdicts else ()
    behind = {verdict.subject.name: verdict.subject for verdict in verdicts if verdict.stale}
    others = {copy.name: _of_copy(copy) for copy in copies}
    if arguments.local_dir or not context.lockfile:
        unpinned = verdicts if arguments.local_dir else besides
        others.update((verdict.subject.name, _of_folder(context, verdict.subject)) for verdict in unpinned)
    usual = [_usual(context)] if behind.keys() - others.keys() else []
    ways = dict.fromkeys((*usual, *(others[name] for name in behind if name in others)))
    return Answer(status, table, document, "; ".join(ways) if stale else None)


def _usual(context: Context) -> str:
    ways = "start_app.py models lock; start_app.py models pull" if context.lockfile else "start_app.py models pull"
    again = "start_app.py --force-refresh pulls and restarts in one step"
    return f"{ways}; {'start_app.py restarts the app' if context.settings.locked else again}"


def _of_copy(subject: Subject) -> str:
    """Return the command for a stale copy in a further cache, which a pull does not touch."""
    if subject.problem or not subject.local:
        return f"start_app.py cache verify {quoted(subject.repo)} --repair completes {subject.name}"
    return f"start_app.py cache remove {quoted(f'{subject.repo}@{subject.local}')} removes {subject.name}"


def _of_folder(context: Context, subject: Subject) -> str:
    """Return the commands for a stale folder of the app's, which a pull knows only by the lock."""
    folder = context.arguments.local_dir
    repo = quoted(subject.repo) if folder else "REPO"
    return f"start_app.py models lock {repo} --local-dir {quoted(folder or subject.name)}; start_app.py models pull"


def _asked(context: Context) -> Iterator[str]:
    if context.endpoints.mirrored:
        yield f"mirror: {context.endpoints.used.url}"
    yield f"hub: {context.endpoints.official.url}"
