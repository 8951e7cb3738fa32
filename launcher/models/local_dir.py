"""A folder of the app's has files of a model and files of the user's, and only files of the model are replaced.

The new files are downloaded and verified in `.cache/start_app` in that folder. A file that the new commit lacks is
removed if huggingface_hub noted that it downloaded it and the file is unchanged; everything else is the user's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ..system import files
from . import placement, repo_id
from .lockfile import Lock, LockedModel

STAGING = ".cache/start_app"


class Outdated(NamedTuple):
    """Hold the effects of a change: removed files, files that stay because a person changed them, and own files.

    `own` files are in the way of new ones, and no download brought them, or they were changed since: they are kept.
    `unknown` files may be an earlier commit's or another repo's, and stay.
    """

    going: tuple[str, ...]
    changed: tuple[str, ...]
    own: tuple[str, ...]
    unknown: tuple[str, ...] = ()


def staging(folder: str, commit: str) -> str:
    """Return the staging folder for the files of a commit."""
    return f"{folder}/{STAGING}/{commit}"


def refuse_outside(folder: str, paths: Sequence[str]) -> None:
    """Refuse a folder in which a link leads a file elsewhere.

    Raises OSError.
    """
    real = os.path.realpath(folder)
    for parent in {os.path.dirname(path) for path in (*paths, f"{STAGING}/x", f"{placement.METADATA}/x")}:
        if os.path.realpath(f"{folder}/{parent}") != os.path.normpath(f"{real}/{parent}"):
            raise OSError(f"{folder}/{parent} is reached by a link")


class Origins(NamedTuple):
    """Hold the evidence for the origin of a file in a folder of the app's: the locked models, and the repo of a commit.

    `has_commit` returns whether a repo has a commit; None if no hub answers.
    """

    lock: Sequence[LockedModel] = ()
    has_commit: Callable[[str, str], bool | None] = lambda _repo, _commit: False


def outdated(folder: str, model: LockedModel, lacking: Sequence[str], origins: Origins) -> Outdated:
    """Return the files in the folder that an earlier commit of this model brought and that the new one lacks.

    A path that several repos have, such as `.gitattributes`, is no evidence if models share the folder.
    """
    others = [other for other in origins.lock if other.local_dir == model.local_dir and other.repo != model.repo]
    noted = dict(_noted(folder))
    taken = {path for other in others for path in other.files}
    if isinstance(origins.lock, Lock):
        taken.update(path.removeprefix(f"{model.local_dir}/") for path in origins.lock.files)
    candidates = {note.commit for path, note in noted.items() if path not in model.files and path not in taken}
    near = {noted[path].commit for path in model.files if path in noted}
    doubtful = sorted((candidates & near) - {model.commit} - {other.commit for other in others})
    is_earlier = {commit: origins.has_commit(model.repo, commit) for commit in doubtful}
    going: list[str] = []
    changed: list[str] = []
    unknown: list[str] = []
    for path, note in sorted(noted.items()):
        known = is_earlier.get(note.commit, False)
        if path in model.files or path in taken or known is False or not os.path.lexists(f"{folder}/{path}"):
            continue
        if known is None:
            unknown.append(path)
        else:
            (going if _is(f"{folder}/{path}", note.etag) else changed).append(path)
    own = [path for path in lacking if os.path.lexists(f"{folder}/{path}") and not _is_known(folder, path)]
    return Outdated(tuple(going), tuple(changed), tuple(own), tuple(unknown))


def own_name(path: str, commit: str) -> str:
    """Return the new name of a user's own file when the commit's file replaces it."""
    return f"{path}.before-{commit[:7]}"


def foreign(folder: str, model: LockedModel, besides: Sequence[str]) -> tuple[str, ...]:
    """Return the entries in the folder that no download has brought, by their first path component."""
    known = {path.partition("/")[0] for path in (*model.files, *besides, *(path for path, _ in _noted(folder)))}
    try:
        return tuple(sorted(name for name in os.listdir(folder) if name not in known and name != ".cache"))
    except OSError:
        return ()


def _noted(folder: str) -> Iterator[tuple[str, placement.Noted]]:
    base = f"{folder}/{placement.METADATA}"
    for parent, _, listed in os.walk(base):
        for name in listed:
            if name.endswith(".metadata"):
                path = os.path.relpath(f"{parent}/{name}", base).removesuffix(".metadata")
                noted = placement.noted_of(folder, path)
                if noted and repo_id.is_path(path):
                    yield path, noted


def _is_known(folder: str, path: str) -> bool:
    """Return whether a file can be downloaded again: a download brought it, or it is a git-lfs pointer.

    huggingface_hub compares its mtime with the note. A copied folder has other mtimes: then the content decides.
    """
    if placement.is_lfs_pointer(f"{folder}/{path}"):
        return True
    noted = placement.noted_of(folder, path)
    try:
        if noted and os.stat(f"{folder}/{path}").st_mtime - 1 <= noted.time:
            return True
    except OSError:
        return False
    return noted is not None and _is(f"{folder}/{path}", noted.etag)


def _is(path: str, digest: str) -> bool:
    """Return whether a file still has the content of this hash."""
    try:
        descriptor = files.open_regular(path)
        try:
            return files.content_hash(descriptor, digest) == digest
        finally:
            os.close(descriptor)
    except OSError:
        return False
