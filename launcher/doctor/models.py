"""Check the models: the lock, the caches, the hubs, and where a token would go."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Sequence

from ..cache import listing, roots
from ..cache.prune import PruneOptions
from ..context import Context
from ..errors import ExitStatus, LauncherError, quoted
from ..models import check, endpoints, hub, placement, subjects, verified
from ..models.check import Said, Verdict
from ..models.endpoints import Endpoint
from ..models.hub import Question
from ..models.lockfile import Lock
from ..models.subjects import Subject
from ..operations import flat_check, needed
from ..ui import text
from .finding import SECONDS, Finding, fact, odd, problem, refused

_NAMED_AT_MOST = 3
# Of the time for all checks, what one answer of a hub may take: the rest is for the import of huggingface_hub.
_SHARE = 0.7
# A model that is on every hub, to ask whether one answers at all; a 404 is an answer too.
_KNOWN = "openai-community/gpt2"
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_OTHERS_READ = stat.S_IRGRP | stat.S_IROTH
# Normal states of a cache that `cache list` names too.
_HARMLESS = ("no ref points to it",)
_LINKS = ("a link to ", "its ")


def cache(context: Context) -> Iterator[Finding]:
    """Yield what is wrong in the hub caches, repo by repo."""
    misplaced = roots.misplaced(context.environment, context.settings.app_dir)
    if misplaced:
        yield odd("cache", *misplaced)
    options = PruneOptions(time.time())
    for root in context.roots:
        if not os.path.lexists(root.real):
            yield fact("cache", f"{root.path} does not exist ({root.origin})")
            continue
        os.listdir(root.real)
        shown = listing.listing(root, (), needed.places(context), options)
        yield fact(
            "cache", f"{root.path} ({root.origin}): {text.count(len(shown.repos), 'repo')}, {text.size(shown.size)}"
        )
        for skipped in shown.unreadable:
            yield _unreadable(skipped.path, skipped.reason)
        for repo in shown.repos:
            told = [one for one in repo.problems if not (one.endswith(_HARMLESS) or one.startswith(_LINKS))]
            if told:
                name = quoted(repo.name)
                helps = f"start_app.py cache list --revisions {name}; start_app.py models check {name}"
                yield odd("cache", f"{repo.name}: {'; '.join(told)}", helps)
        if shown.trash:
            yield odd("cache", f"{root.path} has the trash of an interrupted removal", "start_app.py cache prune")


def _unreadable(path: str, reason: str) -> Finding:
    status = ExitStatus.IO if os.access(path, os.R_OK | os.X_OK) else ExitStatus.DENIED
    return problem("cache", f"{path}: {reason}", f"ls -ld {quoted(path)}", status)


def models(context: Context) -> Iterator[Finding]:
    """Yield what differs between `models.lock` and the disk, without reading a file."""
    try:
        lock = context.lockfile
    except LauncherError as error:
        yield refused("models", error)
        return
    if lock is None:
        yield fact("models", "nothing is pinned: there is no models.lock")
        return
    yield fact(
        "models", f"models.lock pins {text.count(len(lock), 'model')} and {text.count(len(lock.files), 'single file')}"
    )
    app_dir = context.settings.app_dir
    memories = verified.load(app_dir)
    for model in lock:
        place = placement.place_of(model, context.roots, app_dir)
        held = placement.held(place.base(model.commit), model.files, memories.of(place))
        yield from _differing(model.name, held, "start_app.py models pull")
    held = placement.held(str(app_dir), lock.files, memories.local)
    yield from _differing("single files", held, "start_app.py models check")


def _differing(name: str, held: placement.Held, hint: str) -> Iterator[Finding]:
    if held.resized:
        told = f"{name}: another size than models.lock pins: {text.some(held.resized, _NAMED_AT_MOST)}"
        yield problem("models", told, hint, ExitStatus.DAMAGED)
    if held.missing:
        told = f"{name}: pinned, but not on the disk: {text.some(held.missing, _NAMED_AT_MOST)}"
        yield problem("models", told, hint, ExitStatus.STALE)


def hubs(context: Context) -> Iterator[Finding]:
    """Yield which hub does not answer, and which models are behind."""
    named = context.endpoints
    yield fact("hub", f"the app uses {named.used.url}")
    if context.offline:
        yield fact("hub", "HF_HUB_OFFLINE is set: no hub was asked")
        for verdict in check.offline(_subjects(context)):
            yield from _judged(context, verdict)
        return
    chosen = _subjects(context)
    timeout = context.timeout(SECONDS) * _SHARE
    asked = (named.used, *((named.official,) if named.mirrored else ()))
    if not chosen:
        questions = [Question(endpoint, "head", _KNOWN, "main") for endpoint in asked]
        answers = hub.ask(questions, context.own_environment, timeout)
        for question in questions:
            yield from _reached(context, question.endpoint, [Said(answers[question])])
        return
    verdicts = check.run(chosen, named, context.own_environment, timeout)
    for endpoint in asked:
        said = [verdict.official if endpoint.official else verdict.mirror for verdict in verdicts]
        yield from _reached(context, endpoint, [one for one in said if one])
    for verdict in verdicts:
        yield from _judged(context, verdict)


def _subjects(context: Context) -> tuple[Subject, ...]:
    lock = _lock(context)
    if lock is None:
        copies = subjects.of_other_copies(context.roots)
        return (*subjects.of_cache(context.roots), *copies, *flat_check.of_notes(context, Lock()))
    memories = verified.load(context.settings.app_dir)
    return subjects.of_lock(lock, context.roots, context.settings.app_dir, memories)[0]


def _reached(context: Context, endpoint: Endpoint, said: Sequence[Said]) -> Iterator[Finding]:
    """Yield whether a hub answers; only the one that the app uses has to."""
    reasons = [one.head.text for one in said if one.head.trouble == "unreachable"]
    if len(reasons) < len(said) or not said:
        yield fact("hub", f"{endpoint.url} answers")
        return
    told = f"{endpoint.url} does not answer: {reasons[0]}"
    if endpoint == context.endpoints.used:
        test = f"curl -sSI --max-time 10 {quoted(endpoint.url)}"
        helps = f"{test}; HTTPS_PROXY=http://proxy:3128 in .env for a proxy; HF_HUB_OFFLINE=1 in .env asks no hub"
        yield problem("hub", told, helps, ExitStatus.RETRY)
    else:
        yield odd("hub", f"{told}; whether the mirror lags is not known", "start_app.py models check --timeout 30")


def _judged(context: Context, verdict: Verdict) -> Iterator[Finding]:
    name = verdict.subject.name
    told = f"{name}: {verdict.word}{f': {verdict.detail}' if verdict.detail else ''}"
    if verdict.word == "gated, no access":
        yield problem("models", told, "HF_TOKEN=TOKEN in .env; start_app.py models check", ExitStatus.STALE)
    elif verdict.stale:
        newest = "start_app.py models lock; start_app.py" if context.settings.locked else "start_app.py --force-refresh"
        yield problem("models", told, f"start_app.py models check; {newest}", ExitStatus.STALE)
    elif verdict.word == "pinned elsewhere":
        repo = quoted(verdict.subject.repo)
        helps = f"start_app.py models pull brings what is pinned; start_app.py models lock {repo} pins what is here"
        yield odd("models", told, helps)
    elif verdict.word in ("mirror behind the Hub", "mirror inconsistent") and not context.settings.locked:
        yield odd("models", told, _pinning(context, verdict.subject))
    elif verdict.word == "unknown":
        yield odd("models", told, "start_app.py models check")
    else:
        yield fact("models", told)


def _pinning(context: Context, subject: Subject) -> str:
    """Return the hint that keeps the app from loading what a mirror serves instead of what is here."""
    if _lock(context):
        return "start_app.py --locked loads only what models.lock pins"
    return f"start_app.py models lock {quoted(subject.repo)}; start_app.py --locked"


def _lock(context: Context) -> Lock | None:
    try:
        return context.lockfile
    except LauncherError:
        return None  # another check reports it


def token(context: Context) -> Iterator[Finding]:
    """Yield where the user's token would go, and who can read it; never the token."""
    environment, app_dir = context.environment, context.settings.app_dir
    home = str(roots.hf_home(environment, app_dir))
    path = environment.get("HF_TOKEN_PATH", f"{home}/token")
    source = next((name for name in _TOKENS if environment.get(name, "").strip()), None)
    try:
        status = os.stat(path)
    except OSError:
        status = None
    if source is None and not (status and status.st_size):
        yield fact("token", "none is set")
        return
    yield fact("token", f"from {source or path}; the launcher sends it to {context.endpoints.official.url} only")
    third = endpoints.sends_token(environment, home)
    if third:
        told = f"the app itself will send the token of {source or path} to {third}, which is not the official Hub"
        yield odd("token", told, "HF_HUB_DISABLE_IMPLICIT_TOKEN=1 in .env")
    if status and status.st_mode & _OTHERS_READ:
        yield odd("token", f"other users can read {path}", f"chmod 600 {quoted(path)}")


def proxy(context: Context) -> Iterator[Finding]:
    """Yield the proxy that requests to hubs and the app's own would use."""
    names = ("https_proxy", "http_proxy", "all_proxy")
    for name in (*names, *(name.upper() for name in names)):
        value = context.environment.get(name)
        if value:
            yield fact("proxy", f"{name}={value}")
            if "://" not in value:
                yield odd(
                    "proxy",
                    f"{name} has no scheme, and not every library accepts that",
                    f"{name}=http://HOST:PORT in .env",
                )
