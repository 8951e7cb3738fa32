"""A locked app is shown a hub cache in which there is nothing but what is pinned.

Offline alone would leave every other model in the cache to be loaded by its name. The view is a folder of links into
the real cache: of each pinned repo the ref of the requested revision, and the one snapshot, made anew for each launch.
It belongs to a port, since instances on other ports have their own.
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


def make(app_dir: Path, port: int, shown: Iterable[Shown]) -> Path:
    """Make a hub cache that shows just these models, and return it.

    Raises OSError when no folder of the app's state can be written.
    """
    listed = tuple(shown)
    name = f"{_prefix(port)}{os.urandom(8).hex()}"
    failure: OSError | None = None
    for folder in state.folders(app_dir):
        try:
            os.close(state.open_file(folder, f"{VIEW}views", app_dir))  # makes the folder, and proves whose it is
            _build(folder / name, listed)
        except OSError as error:
            failure = error
            if error.errno not in state.ELSEWHERE:
                raise
        else:
            return folder / name
    assert failure
    raise failure


def forget_others(app_dir: Path, port: int, used: Path | None) -> None:
    """Remove the views of this port that no instance uses any more; they hold links and nothing else."""
    for folder in state.folders(app_dir):
        if not state.is_trusted(folder, app_dir):
            continue
        for path in folder.glob(f"{_prefix(port)}*"):
            if path != used and path.is_dir() and not path.is_symlink():
                _remove(path)


def environment(path: Path, variables: Mapping[str, str]) -> Mapping[str, str]:
    """Return what makes an app see the view alone, and ask no hub; `variables` is what it would have otherwise."""
    found = {"HF_HUB_CACHE": str(path), "HF_HUB_OFFLINE": "1"}
    # These name a cache too, where they are set: https://huggingface.co/docs/transformers/installation#cache-directory
    for name in ("HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"):
        if name in variables:
            found[name] = str(path)
    return found


def _prefix(port: int) -> str:
    return f"{VIEW}{port}-"


def _build(path: Path, shown: Iterable[Shown]) -> None:
    path.mkdir()
    try:
        for model, place in shown:
            repo = path / names.folder(model.repo)
            base = place.base(model.commit)
            ref = repo / "refs" / model.revision
            ref.parent.mkdir(parents=True)
            ref.write_text(model.commit)
            (repo / "snapshots").mkdir()
            snapshot = repo / "snapshots" / model.commit
            if _is_exact(base, model):
                snapshot.symlink_to(base)
                continue
            # Something lies in the snapshot that the lock does not name: the app gets the named files one by one.
            for file in model.files:
                link = snapshot / file
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(f"{base}/{file}")
    except BaseException:
        _remove(path)
        raise


def _is_exact(base: str, model: LockedModel) -> bool:
    """Tell whether a snapshot holds the files that the lock names and no others."""
    found = 0
    for folder, _, listed in os.walk(base):
        prefix = folder[len(base) + 1 :]
        for name in listed:
            if (f"{prefix}/{name}" if prefix else name) not in model.files:
                return False
            found += 1
    return found == len(model.files)


def _remove(path: Path) -> None:
    import shutil

    with suppress(OSError):
        shutil.rmtree(path)
