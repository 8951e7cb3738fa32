"""A revision becomes a commit and its files: by the word of the official Hub, else of the first hub that answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..errors import ExitStatus, LauncherError, quoted
from . import hub, repo_id
from .endpoints import Endpoint, Endpoints
from .hub import Answer, Question
from .lockfile import LockedFile, LockedModel


class Copy(NamedTuple):
    """Hold what is here of an older commit: where that is only some of its files, just these are wanted anew."""

    commit: str
    files: frozenset[str]


class Wish(NamedTuple):
    """Hold what is to be resolved: a repo's revision, where it is kept, and which of its files are wanted."""

    repo: str
    revision: str
    local_dir: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    copy: Copy | None = None
    held: str | None = None

    @property
    def before(self) -> str | None:
        """Return the commit that is here or pinned, which a mirror alone must not take back to an older one."""
        return self.copy.commit if self.copy else self.held


class Resolved(NamedTuple):
    """Hold a model at the commit that its revision is now, whose word that is, and what speaks against it.

    `partial` tells that it has only the files of which an older one is here.
    """

    model: LockedModel
    endpoint: Endpoint
    warnings: tuple[str, ...]
    partial: bool


def wish_of(model: LockedModel) -> Wish:
    """Return what a locked model was asked for."""
    return Wish(model.repo, model.revision, model.local_dir, model.include, model.exclude, held=model.commit)


def resolve(
    wishes: Sequence[Wish], endpoints: Endpoints, environment: Mapping[str, str], timeout: float
) -> tuple[Resolved, ...]:
    """Ask which commit each revision is, and for the files of that commit.

    Raises LauncherError: 75 when no hub answers for one, 2 for a repo or revision that is not there, 77 for one that
    this user may not have.
    """
    asked = tuple(dict.fromkeys((endpoints.official, *endpoints.chain)))
    heads = hub.ask(
        [Question(endpoint, "head", wish.repo, wish.revision) for wish in wishes for endpoint in asked],
        environment,
        timeout,
    )
    chosen = []
    for wish in wishes:
        answers = {endpoint: heads[Question(endpoint, "head", wish.repo, wish.revision)] for endpoint in asked}
        chosen.append((wish, *_head(wish, answers)))
    chosen = _not_back(chosen, environment, timeout)
    # A hub that did not answer is not waited for once more.
    silent = {
        endpoint
        for endpoint in asked
        if all(heads[Question(endpoint, "head", w.repo, w.revision)].trouble == "unreachable" for w in wishes)
    }
    trees = dict(
        hub.ask(
            [
                Question(source, "tree", wish.repo, commit)
                for wish, endpoint, head in chosen
                for source in _sources(endpoint, asked)
                if source not in silent
                for commit in _commits(wish, head)
            ],
            environment,
            max(timeout, hub.TREE_SECONDS if timeout >= hub.DEFAULT_SECONDS else timeout),
        )
    )
    for wish, _, head in chosen:
        for source in silent:
            said = heads[Question(source, "head", wish.repo, wish.revision)]
            for commit in _commits(wish, head):
                trees[Question(source, "tree", wish.repo, commit)] = said
    return tuple(_resolved(wish, endpoint, head, trees, asked, endpoints) for wish, endpoint, head in chosen)


def _head(wish: Wish, answers: Mapping[Endpoint, Answer]) -> tuple[Endpoint, Answer]:
    for endpoint, answer in answers.items():
        if answer.commit:
            if answer.repo and answer.repo != wish.repo and endpoint.official:
                raise LauncherError(
                    f"{wish.repo} is called {answer.repo} by now",
                    f"start_app.py models lock {quoted(answer.repo)}",
                    ExitStatus.USAGE,
                )
            return endpoint, answer
        if endpoint.official and answer.trouble in ("gone", "no revision", "gated", "denied"):
            denied = answer.trouble in ("gated", "denied")
            raise LauncherError(
                f"{wish.repo}@{wish.revision}: {answer.text} ({endpoint.url})",
                "set HF_TOKEN, and ask for access on its page" if denied else "start_app.py models lock REPO@REVISION",
                ExitStatus.DENIED if denied else ExitStatus.USAGE,
            )
    told = "; ".join(f"{endpoint.url}: {answer.text}" for endpoint, answer in answers.items())
    raise LauncherError(
        f"{wish.repo}@{wish.revision} could be resolved by nobody: {told}",
        "try again; HF_ENDPOINT or HF_ENDPOINT_FALLBACK in .env name a mirror",
        ExitStatus.RETRY,
    )


def _not_back(
    chosen: Sequence[tuple[Wish, Endpoint, Answer]], environment: Mapping[str, str], timeout: float
) -> list[tuple[Wish, Endpoint, Answer]]:
    """Keep the commit that is here where only a mirror answers, and names an older one.

    Raises LauncherError (75) where that cannot be told.
    """
    doubtful = {
        wish: Question(endpoint, "head", wish.repo, wish.before)
        for wish, endpoint, head in chosen
        if not endpoint.official and wish.before and head.commit != wish.before
    }
    answers = hub.ask(tuple(doubtful.values()), environment, timeout)
    found = []
    for wish, endpoint, head in chosen:
        before = answers[doubtful[wish]] if wish in doubtful else None
        if before is None:
            found.append((wish, endpoint, head))
        elif before.commit is None or before.date is None or head.date is None:
            raise LauncherError(
                f"{wish.repo}@{wish.revision} is {str(head.commit)[:7]} for {endpoint.url}, which does not know "
                f"{str(wish.before)[:7]}, and the Hub did not answer: who of them is behind?",
                "start_app.py models check, when the Hub answers",
                ExitStatus.RETRY,
            )
        else:
            found.append((wish, endpoint, head if head.date >= before.date else before))
    return found


def _sources(endpoint: Endpoint, asked: Sequence[Endpoint]) -> Iterator[Endpoint]:
    yield endpoint
    yield from (one for one in asked if one != endpoint)


def _resolved(
    wish: Wish,
    endpoint: Endpoint,
    head: Answer,
    trees: Mapping[Question, Answer],
    asked: Sequence[Endpoint],
    endpoints: Endpoints,
) -> Resolved:
    assert head.commit
    sources = tuple(_sources(endpoint, asked))
    answers = {source: trees[Question(source, "tree", wish.repo, head.commit)] for source in sources}
    tree = _told(answers.values())
    if tree is None:
        told = "; ".join(f"{source.url}: {answer.text}" for source, answer in answers.items())
        raise LauncherError(
            f"the files of {wish.repo}@{head.commit[:7]} were told by nobody: {told}", "try again", ExitStatus.RETRY
        )
    paths = tuple(repo_id.wanted(tree, wish.include, wish.exclude))
    partial = False
    if wish.copy:
        before = _told(trees[Question(source, "tree", wish.repo, wish.copy.commit)] for source in sources)
        # Where nobody knows the old commit any more, what is here is all that is known to be used.
        partial = before is None or not wish.copy.files.issuperset(before)
        paths = tuple(path for path in paths if path in wish.copy.files) if partial else paths
    if not paths:
        raise LauncherError(
            f"no file of {wish.repo}@{head.commit[:7]} is wanted by these globs"
            if not wish.copy
            else f"{wish.repo}@{head.commit[:7]} has none of the files that are here of {wish.copy.commit[:7]}",
            "--include '*'" if not wish.copy else f"start_app.py models lock {quoted(wish.repo)} pins all of its files",
            ExitStatus.USAGE,
        )
    warnings = []
    lacking = answers[endpoints.used]
    if lacking.files is None and endpoints.used != endpoint:
        warnings.append(
            f"{endpoints.used.url} {_lacks(lacking)} {wish.repo} @ {head.commit[:7]}: {lacking.text}; "
            "a pull needs HF_ENDPOINT_FALLBACK until it does"
        )
    if not endpoint.official:
        told = "the Hub did not answer"
        warnings.append(f"{wish.repo} @ {head.commit[:7]} is the word of {endpoint.url} alone: {told}")
    files: dict[str, LockedFile] = {path: tree[path] for path in sorted(paths)}
    return Resolved(
        LockedModel(wish.repo, wish.revision, head.commit, wish.local_dir, wish.include, wish.exclude, files),
        endpoint,
        tuple(warnings),
        partial,
    )


def _commits(wish: Wish, head: Answer) -> tuple[str, ...]:
    """Return the commits whose files are to be known: the wanted one's, and those of what is here."""
    return (str(head.commit), *((wish.copy.commit,) if wish.copy else ()))


def _lacks(answer: Answer) -> str:
    return "could not be asked for" if answer.trouble == "unreachable" else "does not have"


def _told(answers: Iterable[Answer]) -> Mapping[str, LockedFile] | None:
    return next((answer.files for answer in answers if answer.files is not None), None)
