"""A locked app is shown a hub cache in which there is nothing but what is pinned.

Offline alone would leave every other model in the cache to be loaded by its name. The view is a folder of a few links
into the real cache, named by what it shows: a repo, the ref of its requested revision, and the one snapshot.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from .. import state
from . import names
from .disk import Place
from .lockfile import LockedModel

VIEW = "locked-"
"""What the name of a view begins with."""


class Shown(NamedTuple):
    """Hold a cached model and where it lies."""

    model: LockedModel
    place: Place


def make(app_dir: Path, shown: Iterable[Shown]) -> Path:
    """Return the hub cache that shows just these models, made where it is not there yet.

    Raises OSError when no folder of the app's state can be written.
    """
    listed = sorted(shown, key=lambda one: one.model.key)
    content = "\n".join(f"{one.place.path}\0{one.model.revision}\0{one.model.commit}" for one in listed)
    import hashlib

    name = VIEW + hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest()[:16]
    failure: OSError | None = None
    for folder in state.folders(app_dir):
        path = folder / name
        try:
            os.close(state.open_file(folder, f"{VIEW}views", app_dir))  # makes the folder, and proves whose it is
            if _is_whole(path, listed):
                return path
            _build(path, listed)
        except OSError as error:
            failure = error
            if error.errno not in state.ELSEWHERE:
                raise
        else:
            return path
    assert failure
    raise failure


def forget_others(app_dir: Path, used: Iterable[Path]) -> None:
    """Remove the views that no instance uses any more; they hold links and nothing else."""
    kept = frozenset(used)
    for folder in state.folders(app_dir):
        if not state.is_trusted(folder, app_dir):
            continue
        for path in folder.glob(f"{VIEW}*"):
            if path not in kept and path.is_dir() and not path.is_symlink():
                _remove(path)


def environment(path: Path, variables: Mapping[str, str]) -> Mapping[str, str]:
    """Return what makes an app see the view alone, and ask no hub; `variables` is what it would have otherwise."""
    found = {"HF_HUB_CACHE": str(path), "HF_HUB_OFFLINE": "1"}
    # These name a cache too, where they are set: https://huggingface.co/docs/transformers/installation#cache-directory
    for name in ("HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"):
        if name in variables:
            found[name] = str(path)
    return found


def _is_whole(path: Path, shown: Iterable[Shown]) -> bool:
    try:
        return all(
            os.readlink(path / names.folder(one.model.repo) / "snapshots" / one.model.commit)
            == one.place.base(one.model.commit)
            and (path / names.folder(one.model.repo) / "refs" / one.model.revision).read_text() == one.model.commit
            for one in shown
        )
    except OSError:
        return False


def _build(path: Path, shown: Iterable[Shown]) -> None:
    new = path.with_name(f"{path.name}.{os.urandom(4).hex()}")
    new.mkdir()
    try:
        for one in shown:
            repo = new / names.folder(one.model.repo)
            ref = repo / "refs" / one.model.revision
            ref.parent.mkdir(parents=True)
            ref.write_text(one.model.commit)
            (repo / "snapshots").mkdir()
            (repo / "snapshots" / one.model.commit).symlink_to(one.place.base(one.model.commit))
            for part in ("blobs", "trees"):
                if os.path.isdir(f"{one.place.path}/{part}"):
                    (repo / part).symlink_to(f"{one.place.path}/{part}")
        if path.exists():
            _remove(path)
        new.rename(path)
    except BaseException:
        _remove(new)
        raise


def _remove(path: Path) -> None:
    import shutil

    with suppress(OSError):
        shutil.rmtree(path)
