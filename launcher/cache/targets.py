"""Resolve what a person types to repos and revisions; an ambiguous target resolves to nothing."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ..config.paths import HUB_ENTRY
from ..errors import ExitStatus, LauncherError
from . import entries
from .layout import Repo
from .names import name
from .roots import Root

LIST = "start_app.py cache list"
"""The command that shows what there is."""
_COMMIT_PREFIX = re.compile(r"[0-9a-f]{6,40}")
_GLOB = re.compile(r"[*?\[]")
_TYPES = {"model": "models", "dataset": "datasets", "space": "spaces", "kernel": "kernels"}
_NEAREST = 3
_WHOLE_COMMIT = 40


class Selection(NamedTuple):
    """Hold a repo folder and its selected commits; none means the whole repo."""

    folder: str
    commits: tuple[str, ...]


class Place(NamedTuple):
    """Hold the repo folders of one root; `read` is called only if revisions matter."""

    folders: tuple[str, ...]
    read: Callable[[str], Repo]


def matching(patterns: Iterable[str], folders: Iterable[str]) -> frozenset[str]:
    """Return the folders that match any of the patterns, as whole repos."""
    present = tuple(folders)
    return frozenset(
        folder
        for pattern in patterns
        for folder in _folders(pattern, present) or _folders(_recased(pattern, present), present)
    )


def select(
    targets: Sequence[str], places: Sequence[Place], hint: str, *, lenient: bool = False
) -> tuple[tuple[Selection, ...], ...]:
    """Return the matches of the targets in each place.

    A target is the name of a repo or of its folder, either with `@revision` appended, a glob, or the first digits of a
    commit. Raises LauncherError, a usage error, for an ambiguous target, or, unless `lenient`, for one without a match
    anywhere; it names the nearest matches.
    """
    chosen: list[dict[str, set[str] | None]] = [{} for _ in places]
    for target in targets:
        meanings = [_meaning(target, place) for place in places]
        if not any(meanings):
            spelled = _recased(target, tuple(folder for place in places for folder in place.folders))
            meanings = [_meaning(spelled, place) for place in places] if spelled != target else meanings
        _refuse_ambiguous(target, meanings)
        for meaning, selected in zip(meanings, chosen, strict=True):
            for folder, commits in meaning.items():
                before = selected.get(folder, set())
                selected[folder] = None if commits is None or before is None else before | commits
        if not any(meanings) and not lenient:
            everything = tuple(dict.fromkeys(folder for place in places for folder in place.folders))
            raise unknown(target, everything, hint, "; nothing was removed")
    return tuple(
        tuple(Selection(folder, tuple(sorted(commits or ()))) for folder, commits in sorted(selected.items()))
        for selected in chosen
    )


def refuse_unknown(wanted: Sequence[str], roots: Sequence[Root]) -> None:
    """Refuse a repo that is in none of the roots, and name the nearest ones."""
    present = tuple(dict.fromkeys(folder for root in roots for folder in entries.contents(root.real).entries))
    for target in wanted:
        if not matching((target,), present):
            if "@" in target:
                raise LauncherError(
                    f"{target} is a revision, and --keep takes whole repos",
                    "start_app.py cache list --revisions",
                    ExitStatus.USAGE,
                )
            raise unknown(target, present, LIST)


def _meaning(target: str, place: Place) -> Mapping[str, set[str] | None]:
    folders, read = place
    whole = _folders(target, folders)
    if whole:
        return dict.fromkeys(whole)
    repo, at, revision = target.rpartition("@")
    if at and repo:
        return {folder: commits for folder in _folders(repo, folders) if (commits := _commits(read(folder), revision))}
    if not _COMMIT_PREFIX.fullmatch(target):
        return {}
    meaning: dict[str, set[str] | None] = {}
    for folder in folders:
        try:
            commits = {commit for commit in _known(read(folder)) if commit.startswith(target)}
        except OSError:
            if len(target) < _WHOLE_COMMIT:
                raise  # the unreadable repo may have a commit with these digits
            continue
        if commits:
            meaning[folder] = commits
    return meaning


def _refuse_ambiguous(target: str, meanings: Sequence[Mapping[str, set[str] | None]]) -> None:
    """Refuse first digits that match several commits in any of the roots; one repo's commits may match in each root."""
    pairs = {
        (folder, commit) for meaning in meanings for folder, commits in meaning.items() for commit in commits or ()
    }
    digits = target.rpartition("@")[2]
    if len({commit for _, commit in pairs if commit.startswith(digits)}) < 2 and (
        "@" in target or len({folder for folder, _ in pairs}) < 2
    ):
        return
    if not all(commit.startswith(digits) for _, commit in pairs):
        return  # the same ref of several repos, or in several roots
    shown = sorted(commit if "@" in target else f"{name(folder)}@{commit}" for folder, commit in pairs)
    raise LauncherError(
        f"{target} is the beginning of {len(shown)} commits: {', '.join(shown[:_NEAREST])}",
        "name one of them in full",
        ExitStatus.USAGE,
    )


def _commits(repo: Repo, revision: str) -> set[str]:
    by_ref = {r.commit for r in repo.revisions if revision in r.refs}
    if by_ref or not _COMMIT_PREFIX.fullmatch(revision):
        return by_ref
    return {commit for commit in _known(repo) if commit.startswith(revision)}


def _known(repo: Repo) -> set[str]:
    """Return every commit in a repo."""
    return {revision.commit for revision in repo.revisions}


def _folders(target: str, folders: Sequence[str]) -> tuple[str, ...]:
    patterns = _patterns(target)
    for pattern in patterns:
        if pattern in folders:
            return (pattern,)
    if not _GLOB.search(target):
        return ()
    if HUB_ENTRY.match(target):
        return tuple(folder for folder in folders if fnmatch.fnmatchcase(folder, target))
    # A star stays within its part of the name: `bert*` matches neither `bert-org/model` nor a dataset.
    for pattern in patterns:
        matches = tuple(folder for folder in folders if _fits(folder.split("--"), pattern.split("--")))
        if matches:
            return matches
    return ()


def _patterns(target: str) -> list[str]:
    """Return the names of folders that a target may mean, the likelier first."""
    if HUB_ENTRY.match(target):
        return [target]
    prefix, _, rest = target.partition("/")
    patterns = [f"models--{target.replace('/', '--')}"]
    if rest and (prefix in _TYPES or prefix in _TYPES.values()):
        patterns.insert(0, f"{_TYPES.get(prefix, prefix)}--{rest.replace('/', '--')}")
    return patterns


def _recased(target: str, folders: Iterable[str]) -> str:
    """Return a target as the only repo spells it that differs in upper and lower case alone; any other as it is."""
    plain, at, revision = target.partition("@")
    spelled = {folder for folder in folders for pattern in _patterns(plain) if folder.lower() == pattern.lower()}
    return f"{spelled.pop()}{at}{revision}" if len(spelled) == 1 else target


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    return len(parts) == len(pattern) and all(map(fnmatch.fnmatchcase, parts, pattern))


def unknown(
    target: str, folders: Sequence[str], hint: str, so: str = "", *, where: str = "in the cache"
) -> LauncherError:
    """Return the error for a target without a match here, with the nearest names; `so` is the consequence."""
    import difflib

    names = [name(folder) for folder in folders]
    plain, at, revision = target.rpartition("@") if "@" in target else (target, "", "")
    if at and plain in names:
        return LauncherError(f"no revision {revision} of {plain} is cached{so}", hint, ExitStatus.USAGE)
    close = difflib.get_close_matches(plain.lower(), [known.lower() for known in names], _NEAREST, 0.5)
    nearest = [known for known in names if known.lower() in close]
    if not nearest:
        last = plain.lower().rpartition("/")[2]
        nearest = [known for known in names if last and last in known.lower()][:_NEAREST]
    near = f"; the nearest: {', '.join(nearest)}" if nearest else ""
    return LauncherError(f"{target} is not {where}{near}{so}", hint, ExitStatus.USAGE)
