"""A locked app sees a hub cache that contains only the pinned models.

With offline mode alone, the app could still load any other cached model by its name. The view is a folder of links into
the real cache: for each pinned repo, the ref of the requested revision and its snapshot. It belongs to a port, because
instances on other ports have their own views; a view with other contents is built again.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from ..cache.names import ref_text
from ..system import state
from . import repo_id
from .lockfile import LockedModel
from .placement import Placed

# transformers before 5 prefers these over HF_HUB_CACHE (transformers/utils/hub.py).
LEGACY_CACHE_NAMES = (
    "HUGGINGFACE_HUB_CACHE",
    "TRANSFORMERS_CACHE",
    "PYTORCH_TRANSFORMERS_CACHE",
    "PYTORCH_PRETRAINED_BERT_CACHE",
)
VIEW = "locked-"
"""The prefix of a view's name."""


def make(app_dir: Path, port: int, shown: Collection[Placed]) -> Path:
    """Return a hub cache that shows only these models; create it if it does not exist.

    Raises OSError if no folder of the app's state is writable.
    """
    content = "\n".join(f"{place.path}\0{model.revision}\0{model.commit}" for model, place in shown)
    # The hash only has to separate different contents; the content itself is compared anyway.
    name = f"{_prefix(port)}{zlib.crc32(content.encode(errors='surrogateescape')):08x}"
    failure: OSError | None = None
    for folder in state.folders(app_dir):
        try:
            os.close(state.open_file(folder, f"{VIEW}views", app_dir))  # creates the folder, and checks its owner
            if not _is_whole(str(folder / name), shown):
                _remove(folder / name)
                _build(str(folder / name), shown)
        except OSError as error:
            failure = error
            if error.errno not in state.ELSEWHERE:
                raise
        else:
            return folder / name
    assert failure
    raise failure


def lost(path: Path, model: LockedModel) -> str | None:
    """Return the missing parts of a model in a view; one file stands for all that its links lead to."""
    snapshot = f"{path}/{repo_id.folder(model.repo)}/snapshots/{model.commit}"
    file = next(iter(model.files), ".")
    return None if os.path.exists(f"{snapshot}/{file}") else file


def forget_others(app_dir: Path, port: int, used: Path | None) -> None:
    """Remove the views of this port that no instance uses; they contain only links."""
    for folder in state.folders(app_dir):
        if not state.is_trusted(folder, app_dir):
            continue
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                view = entry.name.startswith(_prefix(port)) and entry.is_dir(follow_symlinks=False)
                if view and Path(entry.path) != used:
                    _remove(Path(entry.path))


def environment(path: Path, variables: Mapping[str, str]) -> Mapping[str, str]:
    """Return the variables that make an app use only the view and ask no hub; `variables` are those without it."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "USE_MODELSCOPE": "false"}
    shown = {"HF_HUB_CACHE": str(path), **offline}
    return {**shown, **{name: str(path) for name in LEGACY_CACHE_NAMES if name in variables}}


def _prefix(port: int) -> str:
    return f"{VIEW}{port}-"


def _build(path: str, shown: Iterable[Placed]) -> None:
    _make(path)
    try:
        for model, place in shown:
            repo = f"{path}/{repo_id.folder(model.repo)}"
            base = place.base(model.commit)
            ref = f"{repo}/refs/{model.revision}"
            _make(os.path.dirname(ref))
            with open(ref, "x", encoding="ascii") as file:
                file.write(model.commit)
            _make(f"{repo}/snapshots")
            snapshot = f"{repo}/snapshots/{model.commit}"
            if os.path.lexists(snapshot):
                continue  # another revision of the repo has the same commit
            if _is_exact(base, model):
                Path(snapshot).symlink_to(base)
                continue
            # The snapshot has files that the lock does not name: link only the named files, one by one.
            for name in model.files:
                _make(os.path.dirname(f"{snapshot}/{name}"))
                Path(f"{snapshot}/{name}").symlink_to(f"{base}/{name}")
    except BaseException:
        _remove(Path(path))
        raise


def _make(folder: str) -> None:
    """Create a folder and its parents, writable only for their owner: a group must not replace pinned files."""
    if not os.path.isdir(folder):
        _make(os.path.dirname(folder))
        os.mkdir(folder, 0o755)


def _is_whole(path: str, shown: Collection[Placed]) -> bool:
    """Return whether a view shows these models and nothing else."""
    try:
        if set(os.listdir(path)) != {repo_id.folder(model.repo) for model, _ in shown}:
            return False
        for model, place in shown:
            repo, base = f"{path}/{repo_id.folder(model.repo)}", place.base(model.commit)
            if any(os.stat(folder).st_mode & 0o022 for folder in (path, repo, f"{repo}/refs", f"{repo}/snapshots")):
                return False
            same = [one for one, _ in shown if one.repo == model.repo]
            if set(os.listdir(repo)) != {"refs", "snapshots"}:
                return False
            if set(os.listdir(f"{repo}/snapshots")) != {one.commit for one in same}:
                return False
            if os.readlink(f"{repo}/snapshots/{model.commit}") != base or not _is_exact(base, model):
                return False
            folder, revisions = f"{repo}/refs", {f"{one.revision}/" for one in same}
            for part in model.revision.split("/"):
                if set(os.listdir(folder)) != {revision.partition("/")[0] for revision in revisions}:
                    return False
                revisions = {r.removeprefix(f"{part}/") for r in revisions if r.startswith(f"{part}/")}
                folder = f"{folder}/{part}"
            if ref_text(folder) != model.commit:
                return False
    except OSError:
        return False
    return True


def _is_exact(base: str, model: LockedModel) -> bool:
    """Return whether a snapshot contains exactly the files that the lock names."""
    count = 0
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(f"{base}/{prefix}") as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{prefix}{entry.name}/")
                elif f"{prefix}{entry.name}" in model.files:
                    count += 1
                else:
                    return False
    return count == len(model.files)


def _remove(path: Path) -> None:
    import shutil

    with suppress(OSError):
        shutil.rmtree(path)
