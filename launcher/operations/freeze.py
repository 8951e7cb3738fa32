"""`models lock --freeze`: read and pin the files on the disk, and ask hubs for their repos."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..cache import entries
from ..cache.completeness import Files
from ..cache.names import name as name_of_folder
from ..context import Context
from ..errors import ExitStatus, LauncherError, quoted
from ..models import freeze, hub, placement, repo_id, subjects, verified
from ..models.freeze import Commit, Own
from ..models.hub import Question
from ..models.lockfile import Lock, LockedFile, LockedModel
from ..models.weights import Library, repos_of_commits
from ..ui.console import Progress
from . import weights
from .weights import Instance

_ASKED_AT_MOST = 50  # repos for which a hub is asked for all files


def frozen(context: Context, instance: Instance) -> Lock:
    """Return a lock of all local files; check the named repos as possible sources of unknown files.

    Raises LauncherError: 2 without any file, 65 for a damaged file, 74 for an unreadable one.
    """
    known = weights.library(context, instance.environment or context.environment)
    console = context.console
    own = freeze.own_files(known)
    try:
        with console.bar("reading", None) as progress:
            cached = tuple(_cached(context, known, progress))
            read = freeze.read_own(own, known, progress)
    finally:
        if not context.arguments.dry_run:
            verified.save(context.settings.app_dir, known.memories, console.detail)
    origins = _origins(context, known, own)
    models, files = freeze.own_models(own, known, origins.repos, origins.trees, read)
    if not (cached or models or files):
        raise LauncherError(
            "nothing to freeze: there are no weights files",
            "start_app.py models list; start_app.py models lock REPO pins what a hub has",
            ExitStatus.USAGE,
        )
    _refuse_unfinished(context, files)
    told = freeze.told(files)
    if told:
        console.warn(told)
    return Lock((*cached, *models), files, frozen=True)


def _refuse_unfinished(context: Context, files: Mapping[str, LockedFile]) -> None:
    """Refuse to pin what is not a model: a Git LFS pointer, or a file that another program has not finished.

    Raises LauncherError (65).
    """
    for path in sorted(path for path, file in files.items() if not file.origin):
        whole = os.path.join(context.settings.app_dir, path)
        mark = placement.unfinished_mark(whole)
        if mark or placement.is_lfs_pointer(whole):
            what = f"not complete, because {path}{mark} is there" if mark else "a Git LFS pointer, not the file"
            raise LauncherError(
                f"{path} is {what}; nothing was pinned",
                f"start_app.py models lock REPO --local-dir {quoted(os.path.dirname(path))}; start_app.py models pull; "
                "APP_UNPINNED in .env exempts files by globs",
                ExitStatus.DAMAGED,
            )


def _cached(context: Context, known: Library, progress: Progress | None) -> Sequence[LockedModel]:
    models = []
    for subject in subjects.of_cache(context.roots):
        place = placement.cached_place(subject.repo, context.roots)
        model = freeze.cached_model(subject, place, known, progress)
        if model is None:
            context.console.warn(
                f"skipped: {subject.repo}@{subject.revision}: {subject.problem or 'none of its files are here'}"
            )
            continue
        problem = subject.problem or (subject.copy.doubt if subject.copy else "")
        if problem:
            context.console.warn(f"{model.repo} @ {model.commit[:7]} is pinned as it is: {problem}")
        models.append(model)
    return models


class _Origins(NamedTuple):
    """Hold the repos of commits, and the files of commits."""

    repos: Mapping[str, str]
    trees: Mapping[Commit, Files]


def _origins(context: Context, known: Library, own: Own) -> _Origins:
    """Return what tells whose a file is; hubs are asked only where something is not known here."""
    repos = dict(repos_of_commits(known.roots, known.lock, context.settings.app_dir))
    trees = dict(freeze.known_trees(known))
    unknown = sorted(own.commits - repos.keys())
    hashless = any(path not in own.noted for path in own.sizes)
    if context.offline or not (unknown or hashless):
        return _Origins(repos, trees)
    named = [_named(text) for text in context.arguments.repos]
    cached = (name_of_folder(e) for root in context.roots for e in entries.contents(root.real).entries)
    candidates = tuple(dict.fromkeys((*named, *(model.repo for model in known.lock), *cached)))[:_ASKED_AT_MOST]
    if not candidates:
        return _Origins(repos, trees)
    timeout = context.timeout(hub.DEFAULT_SECONDS)
    hubs = tuple(dict.fromkeys((context.endpoints.official, *context.endpoints.chain)))
    revisions = (*unknown, repo_id.DEFAULT_REVISION)
    heads = hub.ask(
        [Question(e, "head", repo, revision) for e in hubs for repo in candidates for revision in revisions],
        context.own_environment,
        timeout,
    )
    commits: dict[Commit, Question] = {}
    for question, answer in heads.items():
        if answer.commit is None:
            continue
        if answer.commit == question.revision:
            repos.setdefault(answer.commit, question.repo)
        if (question.repo, answer.commit) not in trees:
            tree = Question(question.endpoint, "tree", question.repo, answer.commit)
            commits.setdefault((question.repo, answer.commit), tree)
    answers = hub.ask(tuple(commits.values()), context.own_environment, max(timeout, hub.TREE_SECONDS))
    for commit, question in commits.items():
        files = answers[question].files
        if files is not None:
            trees[commit] = {path: (file.hash, file.size) for path, file in files.items()}
    if not any(answer.commit for answer in heads.values()):
        context.console.say("no hub answered: files whose repo is not known here are pinned by their hashes")
    return _Origins(repos, trees)


def _named(text: str) -> str:
    target = repo_id.target(text)
    if target is None:
        raise LauncherError(f"{text!r} is not a valid repo", "start_app.py models lock --freeze", ExitStatus.USAGE)
    return target.repo
