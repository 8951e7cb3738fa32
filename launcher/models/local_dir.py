"""A model in a folder of the app's own changes from one whole commit to another, or not at all.

The new files are downloaded and verified beside the old ones, in `.cache/start_app` in that folder. Then they change
places by renames, and a journal says which: killed in between, the next launch or pull finishes it before anything
reads the folder. What the new commit no longer has goes, if huggingface_hub noted that it brought it and nobody has
changed it since; whatever else lies there is its owner's.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..cache.memory import Memory, line_of
from ..cache.names import HASH
from ..system import state
from . import placement, repo_id
from .lockfile import LockedModel

STAGING = ".cache/start_app"
JOURNAL = "switch-"


class Outdated(NamedTuple):
    """Hold what a change would take away: files that go, those that stay since somebody changed them, and own ones.

    `own` are files in the way of new ones that no download has brought, or that were changed since: they are kept.
    `unknown` may be an earlier commit's or another repo's, and stay.
    """

    going: tuple[str, ...]
    changed: tuple[str, ...]
    own: tuple[str, ...]
    unknown: tuple[str, ...] = ()


class Switch(NamedTuple):
    """Hold one change of a folder: which staged files come in, which go, which are kept, and every file's hash."""

    local_dir: str
    commit: str
    incoming: tuple[str, ...]
    going: tuple[str, ...]
    own: tuple[str, ...]
    hashes: Mapping[str, str]


def staging(folder: str, commit: str) -> str:
    """Return where the files of a commit are brought before they come into the folder."""
    return f"{folder}/{STAGING}/{commit}"


def refuse_outside(folder: str, paths: Sequence[str]) -> None:
    """Refuse a folder in which a link leads a file elsewhere.

    Raises OSError.
    """
    real = os.path.realpath(folder)
    for parent in {os.path.dirname(path) for path in (*paths, f"{STAGING}/x", f"{placement.METADATA}/x")}:
        if os.path.realpath(f"{folder}/{parent}") != os.path.normpath(f"{real}/{parent}"):
            raise OSError(f"{folder}/{parent} is reached by a link")


def outdated(
    folder: str,
    model: LockedModel,
    lacking: Sequence[str],
    others: Sequence[LockedModel],
    is_of: Callable[[str, str], bool | None],
) -> Outdated:
    """Return which files in the folder an earlier commit of this model has brought and the new one does not have.

    `others` are the models that share the folder, and `is_of` tells whether a commit is one of a repo, or None: a
    path that several repos have, such as `.gitattributes`, says nothing of the others' files.
    """
    noted = dict(_noted(folder))
    taken = {path for other in others for path in other.files}
    candidates = {one.commit for path, one in noted.items() if path not in model.files and path not in taken}
    near = {noted[path].commit for path in model.files if path in noted}
    doubtful = sorted((candidates & near) - {model.commit} - {other.commit for other in others})
    is_earlier = {commit: is_of(model.repo, commit) for commit in doubtful}
    going: list[str] = []
    changed: list[str] = []
    unknown: list[str] = []
    for path, one in sorted(noted.items()):
        known = is_earlier.get(one.commit, False)
        if path in model.files or path in taken or known is False or not os.path.lexists(f"{folder}/{path}"):
            continue
        if known is None:
            unknown.append(path)
        else:
            (going if _is(f"{folder}/{path}", one.etag) else changed).append(path)
    own = [path for path in lacking if os.path.lexists(f"{folder}/{path}") and not _is_as_brought(folder, path)]
    return Outdated(tuple(going), tuple(changed), tuple(own), tuple(unknown))


def own_name(path: str, commit: str) -> str:
    """Return what a file of the user's own is called when the commit's takes its place."""
    return f"{path}.before-{commit[:7]}"


def foreign(folder: str, model: LockedModel, besides: Sequence[str]) -> tuple[str, ...]:
    """Return the entries in the folder that no download has brought, by their first name."""
    known = {path.partition("/")[0] for path in (*model.files, *besides, *(path for path, _ in _noted(folder)))}
    try:
        return tuple(sorted(name for name in os.listdir(folder) if name not in known and name != ".cache"))
    except OSError:
        return ()


def switch(app_dir: Path, model: LockedModel, incoming: Sequence[str], going: Outdated, memory: Memory) -> None:
    """Bring these staged files in and move the old ones away, all of it noted before; whoever calls has verified them.

    Raises OSError; what was begun is then finished by `recover`.
    """
    assert model.local_dir
    hashes = {path: file.hash for path, file in model.files.items()}
    one = Switch(model.local_dir, model.commit, tuple(incoming), going.going, going.own, hashes)
    folder = str(app_dir / model.local_dir)
    if not (incoming or going.going or _is_unnoted(folder, one)):
        return
    name = JOURNAL + hashlib.sha256(model.local_dir.encode() + model.commit.encode()).hexdigest()[:16]
    state.write(app_dir, name, json.dumps({**one._asdict(), "hashes": hashes}).encode(), durable=True)
    _apply(folder, one, memory)
    state.forget(app_dir, name)


def recover(app_dir: Path) -> tuple[str, ...]:
    """Finish each change that a killed run has begun, and return the folders that were changed.

    To be called under the lock of a pull. Raises OSError.
    """
    found = []
    for name in state.listed(app_dir, JOURNAL):
        # A write that was cut short has a dot in its name: nothing had been moved then.
        one = None if "." in name else _read(state.read(app_dir, name))
        if one:
            _apply(str(app_dir / one.local_dir), one, Memory())
            drop(str(app_dir / one.local_dir))
            found.append(str(app_dir / one.local_dir))
        state.forget(app_dir, name)
    return tuple(found)


def _read(data: bytes) -> Switch | None:
    """Return what a journal says, None where nobody can have meant it."""
    try:
        one = Switch(**json.loads(data))
        texts = (one.local_dir, one.commit, *one.incoming, *one.going, *one.own, *one.hashes, *one.hashes.values())
        sound = all(isinstance(text, str) for text in texts) and repo_id.is_local_dir(one.local_dir)
        paths = (*one.incoming, *one.going, *one.own, *one.hashes)
        sound = sound and bool(repo_id.COMMIT.fullmatch(one.commit)) and all(map(repo_id.is_path, paths))
        return one if sound and all(map(HASH.fullmatch, one.hashes.values())) else None
    except (ValueError, TypeError, AttributeError):
        return None


def _apply(folder: str, one: Switch, memory: Memory) -> None:
    refuse_outside(folder, (*one.incoming, *one.going))
    staged = staging(folder, one.commit)
    for path in one.incoming:
        if not os.path.lexists(f"{staged}/{path}"):
            if os.path.lexists(f"{folder}/{path}"):
                continue  # it has come in already
            raise FileNotFoundError(errno.ENOENT, "it was staged, and is not any more", f"{staged}/{path}")
        if path in one.own:
            os.rename(f"{folder}/{path}", f"{folder}/{_free_name(folder, own_name(path, one.commit))}")
        _keep(folder, one.commit, path)
        _move(f"{staged}/{path}", f"{folder}/{path}", one.hashes.get(path, ""), memory)
    for path in one.going:
        _keep(folder, one.commit, path)
        with suppress(FileNotFoundError):
            os.unlink(f"{folder}/{placement.METADATA}/{path}.metadata")
        _remove_empty(folder, os.path.dirname(path))
        _remove_empty(folder, os.path.dirname(f"{placement.METADATA}/{path}"))
    # Every file is of this commit now, those too that it did not change.
    for path, digest in one.hashes.items():
        _note(folder, path, one.commit, digest)


def _is_unnoted(folder: str, one: Switch) -> bool:
    noted = (placement.noted_of(folder, path) for path in one.hashes)
    return any(found is None or found.commit != one.commit for found in noted)


def _note(folder: str, path: str, commit: str, digest: str) -> None:
    """Note a file as huggingface_hub does, so that its own downloads know it too: `_local_folder.py` in it."""
    target = f"{folder}/{placement.METADATA}/{path}.metadata"
    os.makedirs(os.path.dirname(target), exist_ok=True)
    new = f"{target}.new"
    with suppress(FileNotFoundError):
        os.unlink(new)  # of one that was killed at this very point, and left a journal: it is noted once more
    try:
        with open(new, "x", encoding="utf-8") as file:
            file.write(f"{commit}\n{digest}\n{time.time()}\n")
        os.rename(new, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(new)
        raise


def _keep(folder: str, commit: str, path: str) -> None:
    """Move an old file away; it is dropped when all the others have changed places too."""
    if not os.path.lexists(f"{folder}/{path}"):
        return
    base = f"{folder}/{STAGING}"
    kept = f"{base}/{_free_name(base, f'kept-{commit}/{path}')}"
    os.makedirs(os.path.dirname(kept), exist_ok=True)
    os.rename(f"{folder}/{path}", kept)


def _free_name(folder: str, path: str) -> str:
    """Return the path, or with a number behind it where something has that name already."""
    found, number = path, 1
    while os.path.lexists(f"{folder}/{found}"):
        found, number = f"{path}-{number}", number + 1
    return found


def _move(source: str, target: str, digest: str, memory: Memory) -> None:
    known = memory.knows(line_of(os.lstat(source), digest))
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.rename(source, target)
    if known:
        memory.remember(line_of(os.lstat(target), digest))  # a rename gives it another ctime, and no other content


def drop(folder: str) -> None:
    """Remove what is staged and kept, once nothing uses it any more; the folder for it is ours alone."""
    with suppress(OSError):
        shutil.rmtree(f"{folder}/{STAGING}")


def _remove_empty(folder: str, path: str) -> None:
    while path:
        try:
            os.rmdir(f"{folder}/{path}")
        except OSError:
            return
        path = os.path.dirname(path)


def _noted(folder: str) -> Iterator[tuple[str, placement.Noted]]:
    base = f"{folder}/{placement.METADATA}"
    for parent, _, listed in os.walk(base):
        for name in listed:
            if name.endswith(".metadata"):
                path = os.path.relpath(f"{parent}/{name}", base).removesuffix(".metadata")
                noted = placement.noted_of(folder, path)
                if noted and repo_id.is_path(path):
                    yield path, noted


def _is_as_brought(folder: str, path: str) -> bool:
    """Tell whether a file was brought by a download and not written to since, as huggingface_hub itself tells it."""
    noted = placement.noted_of(folder, path)
    try:
        return noted is not None and os.stat(f"{folder}/{path}").st_mtime - 1 <= noted.time
    except OSError:
        return False


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
