"""Which repo or revision is meant by what a person types; where that is not certain, nothing is."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ..errors import ExitStatus, LauncherError
from ..paths import HUB_ENTRY
from .layout import Repo, name
from .roots import TRASH

_COMMIT_PREFIX = re.compile(r"[0-9a-f]{6,40}")
_GLOB = re.compile(r"[*?\[]")
_TYPES = {"model": "models", "dataset": "datasets", "space": "spaces", "kernel": "kernels"}
_NEAREST = 3


class Selection(NamedTuple):
    """Hold a repo folder, and the commits that are meant in it; none means the whole repo."""

    folder: str
    commits: tuple[str, ...]


class Place(NamedTuple):
    """Hold the repo folders of one root; `read` is asked only where revisions matter."""

    folders: tuple[str, ...]
    read: Callable[[str], Repo]


def matching(patterns: Iterable[str], folders: Iterable[str]) -> frozenset[str]:
    """Return the folders that any of the patterns names, whole repos only."""
    present = tuple(folders)
    return frozenset(folder for pattern in patterns for folder in _folders(pattern, present))


def select(targets: Sequence[str], places: Sequence[Place], hint: str) -> tuple[tuple[Selection, ...], ...]:
    """Return what the targets mean, for each place.

    A target is a repo's name, its folder's, either with `@revision` behind it, a glob, or a commit's first digits.
    Raises LauncherError, a usage error, for one that means nothing anywhere or more than one thing; it names the
    nearest.
    """
    chosen: list[dict[str, set[str] | None]] = [{} for _ in places]
    for target in targets:
        known = False
        for place, into in zip(places, chosen, strict=True):
            for folder, commits in _one(target, place).items():
                known = True
                before = into.get(folder, set())
                into[folder] = None if commits is None or before is None else before | commits
        if not known:
            raise unknown(target, tuple(dict.fromkeys(folder for place in places for folder in place.folders)), hint)
    return tuple(
        tuple(Selection(folder, tuple(sorted(commits or ()))) for folder, commits in sorted(one.items()))
        for one in chosen
    )


def _one(target: str, place: Place) -> Mapping[str, set[str] | None]:
    folders, read = place
    whole = _folders(target, folders)
    if whole:
        return dict.fromkeys(whole)
    repo, at, revision = target.rpartition("@")
    if at and repo:
        return {folder: commits for folder in _folders(repo, folders) if (commits := _commits(read(folder), revision))}
    if not _COMMIT_PREFIX.fullmatch(target):
        return {}
    found: dict[str, set[str] | None] = {}
    for folder in folders:
        commits = {commit for commit in _known(read(folder)) if commit.startswith(target)}
        if commits:
            found[folder] = commits
    many = [f"{name(folder)}@{commit}" for folder, commits in found.items() for commit in sorted(commits or ())]
    if len(many) > 1:
        raise LauncherError(
            f"{target} is the beginning of {len(many)} commits: {', '.join(many[:_NEAREST])}",
            "name one of them in full",
            ExitStatus.USAGE,
        )
    return found


def _commits(repo: Repo, revision: str) -> set[str]:
    by_ref = {revision_.commit for revision_ in repo.revisions if revision in revision_.refs}
    if by_ref or not _COMMIT_PREFIX.fullmatch(revision):
        return by_ref
    found = {commit for commit in _known(repo) if commit.startswith(revision)}
    if len(found) > 1:
        raise LauncherError(
            f"{repo.name}@{revision} is the beginning of {len(found)} commits: {', '.join(sorted(found)[:_NEAREST])}",
            "name one of them in full",
            ExitStatus.USAGE,
        )
    return found


def _known(repo: Repo) -> set[str]:
    """Return every commit in a repo, those of an interrupted removal among them."""
    condemned = (name.removeprefix(TRASH).partition("-")[0] for name in repo.condemned)
    return {*(revision.commit for revision in repo.revisions), *condemned}


def _folders(target: str, folders: Sequence[str]) -> tuple[str, ...]:
    if HUB_ENTRY.match(target):
        patterns = [target]
    else:
        prefix, _, rest = target.partition("/")
        patterns = [f"models--{target.replace('/', '--')}"]
        if rest and (prefix in _TYPES or prefix in _TYPES.values()):
            patterns.insert(0, f"{_TYPES.get(prefix, prefix)}--{rest.replace('/', '--')}")
    for pattern in patterns:
        if pattern in folders:
            return (pattern,)
    if not _GLOB.search(target):
        return ()
    # A star stays within its part of the name: `koge/*` is no `koge--x/y`, which no repo is called anyway.
    for pattern in patterns:
        found = tuple(folder for folder in folders if fnmatch.fnmatchcase(folder, pattern))
        if found:
            return found
    return ()


def unknown(target: str, folders: Sequence[str], hint: str) -> LauncherError:
    """Return the error for a target that means nothing here, the nearest names in it."""
    import difflib

    by_name = {name(folder): folder for folder in folders}
    plain = target.partition("@")[0].lower()
    close = difflib.get_close_matches(plain, [known.lower() for known in by_name], _NEAREST, 0.5)
    nearest = [known for known in by_name if known.lower() in close]
    if not nearest:
        last = plain.rpartition("/")[2]
        nearest = [known for known in by_name if last and last in known.lower()][:_NEAREST]
    whole = plain if plain in (known.lower() for known in by_name) else ""
    what = f"no revision {target.rpartition('@')[2]} of {whole} is cached" if whole and "@" in target else None
    near = f"; the nearest: {', '.join(nearest)}" if nearest and not whole else ""
    return LauncherError(
        f"{what or f'{target} is not in the cache'}{near}; nothing was removed", hint, ExitStatus.USAGE
    )
