"""A revision becomes a commit and its files: by the word of the official Hub, else of the first hub that answers.

Each model is resolved by itself: one that is gone, gated or renamed keeps no other from being resolved.
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


class Requirement(NamedTuple):
    """Hold what is to be resolved: a repo's revision, where it is kept, and which of its files are wanted.

    `copy` is what is here of an older commit, and `listed` the files that this one has, as far as that is known here:
    where only a part of them is here, just the same are wanted anew. `held` is the commit that is pinned.
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
        """Return the commit that is here or pinned, which a mirror alone must not take back to an older one."""
        return self.copy.commit if self.copy else self.held

    @property
    def name(self) -> str:
        """Return the repo with its revision, as a person writes it."""
        return f"{self.repo}@{self.revision}"


class Resolved(NamedTuple):
    """Hold a model at the commit that its revision is now, whose word that is, and what speaks against it.

    `partial` tells that it has only the files that an older copy here has.
    """

    model: LockedModel
    endpoint: Endpoint
    warnings: tuple[str, ...]
    partial: bool


class Unresolved(NamedTuple):
    """Hold a requirement that cannot be resolved, and why."""

    requirement: Requirement
    error: LauncherError


class _Chosen(NamedTuple):
    """Hold which hub is believed, what it says of the revision, and which hubs were asked, that one first."""

    endpoint: Endpoint
    head: Answer
    sources: tuple[Endpoint, ...]

    @property
    def commit(self) -> str:
        """Return the commit that the revision is."""
        assert self.head.commit
        return self.head.commit


def requirement_of(model: LockedModel) -> Requirement:
    """Return what a locked model was asked for."""
    return Requirement(model.repo, model.revision, model.local_dir, model.include, model.exclude, held=model.commit)


def resolve(
    requirements: Sequence[Requirement], endpoints: Endpoints, environment: Mapping[str, str], timeout: float
) -> tuple[Resolved | Unresolved, ...]:
    """Ask which commit each revision is, and for the files of that commit.

    The error of what cannot be resolved is 75 when no hub answers for it, 2 for a repo or revision that is not there,
    77 for one that this user may not have.
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
    # A hub that answered for no model is not waited for once more.
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
    """Return the answers of hubs that were not asked for files, since they had not answered before."""
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
    """Return the error of what the official Hub does not have, or not for this user."""
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
    """Keep the commit that is here where only a mirror answers, and names an older one.

    Where that cannot be told, the model is unresolved (75).
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
        raise LauncherError(f"no hub tells the files of {at}: {told}", "try again", ExitStatus.RETRY)
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
        raise LauncherError(f"no file of {at} is wanted by these globs", "--include '*'", ExitStatus.USAGE)
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
    """Return which files of the newest commit are meant by what is here of an older one, and what is to be told.

    `before` are the files of the older commit; where nobody knows them, what is here is all that is known to be used.
    Raises LauncherError (2) where the newest commit has no weights in the place of those that are here.
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
            f"{at} has none of the files that are here of {copy.commit[:7]}",
            f"start_app.py models lock {quoted(at.partition('@')[0])} pins all of its files",
            ExitStatus.USAGE,
        )
    come = sorted(meant - used)
    if not gone:
        return meant, ()
    instead = f"; in its place comes {some(come, 3)}" if come else ""
    return meant, (f"{at} does not have {some(gone, 3)} any more{instead}",)


def _commits(requirement: Requirement, choice: _Chosen) -> tuple[str, ...]:
    """Return the commits whose files are to be known: the wanted one's, and those of what is here."""
    copy = requirement.copy
    return (choice.commit, copy.commit) if copy and not requirement.listed else (choice.commit,)


def _lacks(answer: Answer) -> str:
    return "could not be asked for" if answer.trouble == "unreachable" else "does not have"


def _told(answers: Iterable[Answer]) -> Mapping[str, LockedFile] | None:
    return next((answer.files for answer in answers if answer.files is not None), None)


def _listed(files: Mapping[str, LockedFile] | None) -> Files | None:
    return None if files is None else {path: (file.hash, file.size) for path, file in files.items()}


def only_resolved(outcomes: Iterable[Resolved | Unresolved]) -> Iterator[Resolved]:
    """Yield what was resolved, and raise the error of the first that was not."""
    for outcome in outcomes:
        if isinstance(outcome, Unresolved):
            raise outcome.error
        yield outcome
