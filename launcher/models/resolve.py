"""Resolve a revision to a commit and its files: from the official Hub, or from the first hub that answers.

Each model is resolved separately, so a deleted, gated or renamed one does not block the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..cache.completeness import Copy, Files, gaps, is_weights, preferred, shards
from ..errors import ExitStatus, LauncherError, quoted
from ..ui.text import some
from . import hub, repo_id
from .endpoints import Endpoint, Endpoints
from .hub import Answer, Question
from .lockfile import LockedFile, LockedModel


class UnlistedError(LauncherError):
    """Signal that every hub answers, and none with a list of files that can be believed: this concerns one model."""


class Requirement(NamedTuple):
    """Hold a requirement to resolve: a repo's revision, its placement, and its wanted files.

    `copy` is the local part of an older commit, and `listed` the known files of that commit: if the local part is
    incomplete, only the same files are wanted again. `held` is the pinned commit.
    """

    repo: str
    revision: str
    local_dir: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    copy: Copy | None = None
    listed: Files | None = None
    held: str | None = None

    @property
    def before(self) -> str | None:
        """Return the local or pinned commit, which a mirror alone must not replace with an older one."""
        return self.copy.commit if self.copy else self.held

    @property
    def name(self) -> str:
        """Return the repo with its revision, in the form that a user types."""
        return f"{self.repo}@{self.revision}"


class Resolved(NamedTuple):
    """Hold a model at its revision's current commit, the hub that confirmed it, and the doubts about it.

    `partial` means that it has only the files of an older local copy.
    """

    model: LockedModel
    endpoint: Endpoint
    warnings: tuple[str, ...]
    partial: bool


class Unresolved(NamedTuple):
    """Hold a requirement that cannot be resolved, and the reason."""

    requirement: Requirement
    error: LauncherError


class _Chosen(NamedTuple):
    """Hold the trusted hub, its answer about the revision, and the asked hubs, the trusted one first."""

    endpoint: Endpoint
    head: Answer
    sources: tuple[Endpoint, ...]

    @property
    def commit(self) -> str:
        """Return the commit of the revision."""
        assert self.head.commit
        return self.head.commit


def requirement_of(model: LockedModel) -> Requirement:
    """Return the requirement of a locked model."""
    return Requirement(model.repo, model.revision, model.local_dir, model.include, model.exclude, held=model.commit)


def resolve(
    requirements: Sequence[Requirement], endpoints: Endpoints, environment: Mapping[str, str], timeout: float
) -> tuple[Resolved | Unresolved, ...]:
    """Ask for the commit of each revision, and for the files of that commit.

    An unresolved requirement has the error 75 if no hub answers, 2 if the repo or revision does not exist, 77 if this
    user has no access.
    """
    asked = tuple(dict.fromkeys((endpoints.official, *endpoints.chain)))
    heads = hub.ask(
        [Question(endpoint, "head", r.repo, r.revision) for r in requirements for endpoint in asked],
        environment,
        timeout,
    )
    answers = [{e: heads[Question(e, "head", r.repo, r.revision)] for e in asked} for r in requirements]
    chosen = [_choose(requirement, answer) for requirement, answer in zip(requirements, answers, strict=True)]
    chosen = _not_back(requirements, chosen, environment, timeout)
    # Do not wait a second time for a hub that answered for no model.
    silent = frozenset(e for e in asked if all(answer[e].trouble == "unreachable" for answer in answers))
    trees = _trees(requirements, chosen, silent, environment, timeout)
    resolved: list[Resolved | Unresolved] = []
    for requirement, choice, answer in zip(requirements, chosen, answers, strict=True):
        if isinstance(choice, Unresolved):
            resolved.append(choice)
            continue
        unasked = {e: answer[e] for e in silent}
        try:
            resolved.append(
                _resolved(requirement, choice, {**trees, **_silent(requirement, choice, unasked)}, endpoints)
            )
        except LauncherError as error:
            resolved.append(Unresolved(requirement, error))
    return tuple(resolved)


def _trees(
    requirements: Sequence[Requirement],
    chosen: Sequence[_Chosen | Unresolved],
    silent: Collection[Endpoint],
    environment: Mapping[str, str],
    timeout: float,
) -> Mapping[Question, Answer]:
    questions = [
        Question(source, "tree", requirement.repo, commit)
        for requirement, choice in zip(requirements, chosen, strict=True)
        if isinstance(choice, _Chosen)
        for source in choice.sources
        if source not in silent
        for commit in _commits(requirement, choice)
    ]
    return hub.ask(
        questions, environment, max(timeout, hub.TREE_SECONDS if timeout >= hub.DEFAULT_SECONDS else timeout)
    )


def _silent(requirement: Requirement, choice: _Chosen, unasked: Mapping[Endpoint, Answer]) -> Mapping[Question, Answer]:
    """Return the earlier answers of the silent hubs in place of file lists, which were not requested from them."""
    commits = _commits(requirement, choice)
    return {Question(e, "tree", requirement.repo, commit): said for e, said in unasked.items() for commit in commits}


def _choose(requirement: Requirement, answers: Mapping[Endpoint, Answer]) -> _Chosen | Unresolved:
    for endpoint, answer in answers.items():
        if answer.commit:
            return _Chosen(endpoint, answer, (endpoint, *(other for other in answers if other != endpoint)))
        if endpoint.official and answer.trouble in ("gone", "no revision", "gated", "denied"):
            return Unresolved(requirement, _refused(requirement, endpoint, answer))
    told = "; ".join(f"{endpoint.url}: {answer.text}" for endpoint, answer in answers.items())
    hint = "try again; HF_ENDPOINT or HF_ENDPOINT_FALLBACK in .env name a mirror"
    error = LauncherError(f"{requirement.name} cannot be resolved: {told}", hint, ExitStatus.RETRY)
    return Unresolved(requirement, error)


def _refused(requirement: Requirement, endpoint: Endpoint, answer: Answer) -> LauncherError:
    """Return the error for a repo that the official Hub does not have, or denies to this user."""
    text = f"{requirement.name}: {answer.text} ({endpoint.url})"
    if answer.trouble in ("gated", "denied"):
        return LauncherError(text, "set HF_TOKEN, and ask for access on its page", ExitStatus.DENIED)
    repo = requirement.repo
    if requirement.held:
        hint = f"start_app.py models lock --remove {quoted(repo)} takes it out of models.lock"
    elif requirement.copy:
        hint = f"the copy here stays in use; start_app.py cache remove {quoted(repo)} removes it"
    elif answer.trouble == "no revision":
        hint = f"start_app.py models lock {quoted(repo)}"
    else:
        hint = f"is it there? {quoted(endpoint.url)}/{quoted(repo)}; a private one needs HF_TOKEN"
    return LauncherError(text, hint, ExitStatus.USAGE)


def _not_back(
    requirements: Sequence[Requirement],
    chosen: Sequence[_Chosen | Unresolved],
    environment: Mapping[str, str],
    timeout: float,
) -> list[_Chosen | Unresolved]:
    """Keep the local commit if only a mirror answers and its commit is older.

    If the age is unknown, the model is unresolved (75).
    """
    doubtful = {
        number: Question(choice.endpoint, "head", requirement.repo, requirement.before)
        for number, (requirement, choice) in enumerate(zip(requirements, chosen, strict=True))
        if isinstance(choice, _Chosen)
        and not choice.endpoint.official
        and requirement.before
        and choice.commit != requirement.before
    }
    answers = hub.ask(tuple(doubtful.values()), environment, timeout)
    kept = list(chosen)
    for number, question in doubtful.items():
        requirement, choice, before = requirements[number], chosen[number], answers[question]
        assert isinstance(choice, _Chosen)
        if before.commit is None or before.date is None or choice.head.date is None:
            text = (
                f"{requirement.name} is {choice.commit[:7]} for {choice.endpoint.url}, which does not know "
                f"{str(requirement.before)[:7]}, and the Hub did not answer: cannot tell which one is behind"
            )
            hint = "start_app.py models check, when the Hub answers"
            kept[number] = Unresolved(requirement, LauncherError(text, hint, ExitStatus.RETRY))
        elif choice.head.date < before.date:
            kept[number] = choice._replace(head=before)
    return kept


def _resolved(
    requirement: Requirement, choice: _Chosen, trees: Mapping[Question, Answer], endpoints: Endpoints
) -> Resolved:
    answers = {source: trees[Question(source, "tree", requirement.repo, choice.commit)] for source in choice.sources}
    tree = _told(answers.values())
    at = f"{requirement.repo}@{choice.commit[:7]}"
    if tree is None:
        told = "; ".join(f"{source.url}: {answer.text}" for source, answer in answers.items())
        silent = any(answer.trouble == "unreachable" for answer in answers.values())
        error = LauncherError if silent else UnlistedError
        raise error(f"no hub tells the files of {at}: {told}", "try again", ExitStatus.RETRY)
    paths = frozenset(repo_id.wanted(tree, requirement.include, requirement.exclude))
    warnings: list[str] = []
    partial = False
    if requirement.copy:
        older = (trees[Question(e, "tree", requirement.repo, requirement.copy.commit)] for e in choice.sources)
        before = requirement.listed or _listed(_told(older))
        meant, notes = meant_files(requirement.copy, before, _listed(tree) or {}, at)
        warnings += notes
        partial = not paths <= meant
        paths &= meant
    if not paths:
        raise LauncherError(f"these globs match no file of {at}", "--include '*'", ExitStatus.USAGE)
    name = f"{requirement.repo} @ {choice.commit[:7]}"
    used = answers[endpoints.used]
    if used.files is None and endpoints.used != choice.endpoint:
        warnings.append(
            f"{endpoints.used.url} {_lacks(used)} {name}: {used.text}; a pull needs HF_ENDPOINT_FALLBACK until it does"
        )
    if not choice.endpoint.official:
        warnings.append(f"{name} is confirmed by {choice.endpoint.url} only; the Hub did not answer")
    if choice.head.repo and choice.head.repo != requirement.repo:
        upstream = choice.head.repo
        warnings.append(f"{requirement.repo} is called {upstream} upstream; it keeps the name that the app's code uses")
    files: dict[str, LockedFile] = {path: tree[path] for path in sorted(paths)}
    model = LockedModel(
        requirement.repo,
        requirement.revision,
        choice.commit,
        requirement.local_dir,
        requirement.include,
        requirement.exclude,
        files,
    )
    return Resolved(model, choice.endpoint, tuple(warnings), partial)


def meant_files(copy: Copy, before: Files | None, now: Files, at: str) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the files of the newest commit that correspond to the local files of an older one, and the notes on them.

    `before` are the files of the older commit; if they are unknown, the wanted files are those on the disk. Raises
    LauncherError (2) if the newest commit has no weights in place of the local ones.
    """
    used = frozenset(copy.files)
    if before:
        used = used.intersection(before).union(gaps(copy, before))
    if not used or (before and used.issuperset(before)):
        return frozenset(now), ()
    gone = sorted(used.difference(now))
    meant = used.intersection(now)
    hashes = {before[path][0] for path in gone if before and path in before}
    meant |= {path for path, (digest, _) in now.items() if digest in hashes}
    meant |= {piece for index in meant if index.endswith(".index.json") for piece in shards(index, now)}
    if any(map(is_weights, gone)) and not any(map(is_weights, meant)):
        weights = frozenset(filter(is_weights, now))
        meant |= preferred(weights.difference(before or ()) or weights, gone)
        if not any(map(is_weights, meant)):
            raise LauncherError(
                f"{at} has no weights, and {copy.commit[:7]}, which is here, has {some(gone, 3)}: it stays",
                f"start_app.py models lock {quoted(at.partition('@')[0])}@{quoted(copy.commit)} keeps it",
                ExitStatus.USAGE,
            )
    if not meant:
        raise LauncherError(
            f"{at} has none of the local files of {copy.commit[:7]}",
            f"start_app.py models lock {quoted(at.partition('@')[0])} pins all of its files",
            ExitStatus.USAGE,
        )
    come = sorted(meant - used)
    if not gone:
        return meant, ()
    instead = f"; {some(come, 3)} replaces it" if come else ""
    return meant, (f"{at} does not have {some(gone, 3)} any more{instead}",)


def _commits(requirement: Requirement, choice: _Chosen) -> tuple[str, ...]:
    """Return the commits whose file lists are needed: those of the wanted and of the local files."""
    copy = requirement.copy
    return (choice.commit, copy.commit) if copy and not requirement.listed else (choice.commit,)


def _lacks(answer: Answer) -> str:
    return "could not be asked for" if answer.trouble == "unreachable" else "does not have"


def _told(answers: Iterable[Answer]) -> Mapping[str, LockedFile] | None:
    return next((answer.files for answer in answers if answer.files is not None), None)


def _listed(files: Mapping[str, LockedFile] | None) -> Files | None:
    return None if files is None else {path: (file.hash, file.size) for path, file in files.items()}


def only_resolved(outcomes: Iterable[Resolved | Unresolved]) -> Iterator[Resolved]:
    """Yield the resolved models, and raise the error of the first unresolved one."""
    for outcome in outcomes:
        if isinstance(outcome, Unresolved):
            raise outcome.error
        yield outcome
