"""A model in a folder of the app's own changes from one whole commit to another, or not at all.

The new files are downloaded and verified beside the old ones, in `.cache/start_app` in that folder. Then they change
places by renames, and a journal says which: killed in between, the next launch or pull finishes it before anything
reads the folder. What the new commit no longer has goes, if huggingface_hub noted that it brought it and nobody has
changed it since; whatever else lies there is its owner's.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from .. import state
from ..cache.memory import Memory, line_of
from . import disk, names
from .lockfile import LockedFile, LockedModel

STAGING = ".cache/start_app"
JOURNAL = "switch-"


class Outdated(NamedTuple):
    """Hold files that the new commit does not have: those that go, and those that stay, since somebody changed them."""

    going: tuple[str, ...]
    changed: tuple[str, ...]


class Switch(NamedTuple):
    """Hold one change of a folder: which staged files come in, and which files go."""

    folder: str
    staged: str
    kept: str
    incoming: tuple[str, ...]
    going: tuple[str, ...]


def staging(folder: str, commit: str) -> str:
    """Return where the files of a commit are brought before they come into the folder."""
    return f"{folder}/{STAGING}/{commit}"


def refuse_outside(folder: str, paths: Sequence[str]) -> None:
    """Refuse a folder in which a link leads a file elsewhere.

    Raises OSError.
    """
    real = os.path.realpath(folder)
    for parent in {os.path.dirname(path) for path in (*paths, f"{STAGING}/x", f"{disk.METADATA}/x")}:
        if os.path.realpath(f"{folder}/{parent}") != os.path.normpath(f"{real}/{parent}"):
            raise OSError(f"{folder}/{parent} is reached by a link")


def outdated(folder: str, model: LockedModel) -> Outdated:
    """Return which files in the folder an earlier commit of this model has brought and the new one does not have.

    An earlier commit is one of which a file with a path of this model is noted to be: several repos may share a folder.
    """
    noted = dict(_noted(folder))
    earlier = {noted[path].commit for path in model.files if path in noted} - {model.commit}
    going: list[str] = []
    changed: list[str] = []
    for path, one in sorted(noted.items()):
        if path in model.files or one.commit not in earlier or not os.path.lexists(f"{folder}/{path}"):
            continue
        (going if _is(f"{folder}/{path}", one.etag) else changed).append(path)
    return Outdated(tuple(going), tuple(changed))


def foreign(folder: str, model: LockedModel, besides: Sequence[str]) -> tuple[str, ...]:
    """Return the entries in the folder that no download has brought, by their first name."""
    known = {path.partition("/")[0] for path in (*model.files, *besides, *(path for path, _ in _noted(folder)))}
    try:
        return tuple(sorted(name for name in os.listdir(folder) if name not in known and name != ".cache"))
    except OSError:
        return ()


def switch(app_dir: Path, model: LockedModel, incoming: Sequence[str], going: Sequence[str], memory: Memory) -> None:
    """Bring these staged files in and move the old ones away, all of it noted before; whoever calls has verified them.

    Raises OSError; what was begun is then finished by `recover`.
    """
    assert model.local_dir
    folder = str(app_dir / model.local_dir)
    staged = staging(folder, model.commit)
    one = Switch(folder, staged, f"{folder}/{STAGING}/kept-{model.commit}", tuple(incoming), tuple(going))
    if not incoming and not going:
        _drop(folder)
        return
    name = JOURNAL + hashlib.sha256(model.local_dir.encode()).hexdigest()[:16]
    state.write(app_dir, name, json.dumps(one._asdict()).encode())
    _apply(one, model.files, memory)
    state.forget(app_dir, name)
    _drop(folder)


def recover(app_dir: Path) -> tuple[str, ...]:
    """Finish each change that a killed run has begun, and return the folders that were changed.

    Raises OSError.
    """
    found = []
    for name in state.listed(app_dir, JOURNAL):
        if "." in name:
            continue  # a write that was cut short: nothing had been moved then
        try:
            one = Switch(**json.loads(state.read(app_dir, name)))
        except (ValueError, TypeError):
            state.forget(app_dir, name)  # nobody can tell what it was about
            continue
        if _is_own(one, app_dir):
            _apply(one, {}, Memory())
            found.append(one.folder)
        state.forget(app_dir, name)
        _drop(one.folder)
    return tuple(found)


def _is_own(one: Switch, app_dir: Path) -> bool:
    """Tell whether a journal is about a folder of this app: it may have been copied along with another's."""
    inside = one.folder.startswith(f"{app_dir}{os.sep}")
    below = all(path.startswith(f"{one.folder}/{STAGING}/") for path in (one.staged, one.kept))
    return inside and below and all(map(names.is_path, (*one.incoming, *one.going)))


def _apply(one: Switch, files: object, memory: Memory) -> None:
    refuse_outside(one.folder, (*one.incoming, *one.going))
    known = files if isinstance(files, dict) else {}
    for path in one.incoming:
        if not os.path.lexists(f"{one.staged}/{path}"):
            continue  # it has come in already
        _keep(one, path)
        _move(f"{one.staged}/{path}", f"{one.folder}/{path}", known.get(path), memory)
        metadata = f"{disk.METADATA}/{path}.metadata"
        if os.path.lexists(f"{one.staged}/{metadata}"):
            os.makedirs(os.path.dirname(f"{one.folder}/{metadata}"), exist_ok=True)
            os.rename(f"{one.staged}/{metadata}", f"{one.folder}/{metadata}")
    for path in one.going:
        _keep(one, path)
        with suppress(FileNotFoundError):
            os.unlink(f"{one.folder}/{disk.METADATA}/{path}.metadata")
        _remove_empty(one.folder, os.path.dirname(path))
        _remove_empty(one.folder, os.path.dirname(f"{disk.METADATA}/{path}"))


def _keep(one: Switch, path: str) -> None:
    """Move the old file away; it is dropped when all the others have changed places too."""
    if not os.path.lexists(f"{one.folder}/{path}"):
        return
    kept = f"{one.kept}/{path}"
    os.makedirs(os.path.dirname(kept), exist_ok=True)
    os.rename(f"{one.folder}/{path}", kept)


def _move(source: str, target: str, file: LockedFile | None, memory: Memory) -> None:
    known = bool(file) and memory.knows(line_of(os.lstat(source), file.hash)) if file else False
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.rename(source, target)
    if known and file:
        memory.remember(line_of(os.lstat(target), file.hash))  # a rename gives it another ctime, and no other content


def _drop(folder: str) -> None:
    """Remove what is staged and kept; it is ours alone, and nothing uses it any more."""
    with suppress(OSError):
        shutil.rmtree(f"{folder}/{STAGING}")


def _remove_empty(folder: str, path: str) -> None:
    while path:
        try:
            os.rmdir(f"{folder}/{path}")
        except OSError:
            return
        path = os.path.dirname(path)


def _noted(folder: str) -> Iterator[tuple[str, disk.Noted]]:
    base = f"{folder}/{disk.METADATA}"
    for parent, _, listed in os.walk(base):
        for name in listed:
            if name.endswith(".metadata"):
                path = os.path.relpath(f"{parent}/{name}", base).removesuffix(".metadata")
                noted = disk.noted_of(folder, path)
                if noted and names.is_path(path):
                    yield path, noted


def _is(path: str, digest: str) -> bool:
    """Tell whether a file still has the content that this hash names."""
    try:
        size = os.lstat(path).st_size
        with open(path, "rb") as file:
            head = b"" if len(digest) == 64 else b"blob %d\0" % size
            hasher = hashlib.sha256() if len(digest) == 64 else hashlib.sha1(head, usedforsecurity=False)
            while block := file.read(1 << 20):
                hasher.update(block)
    except OSError:
        return False
    return hasher.hexdigest() == digest
