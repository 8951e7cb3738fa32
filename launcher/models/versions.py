"""Read each model's current commit as the app would load it: from the refs, in microseconds, at every launch."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..cache.dirs import walk
from ..cache.names import name as name_of_folder
from ..config.paths import HUB_ENTRY
from ..system.files import read_regular
from ..ui.text import some

if TYPE_CHECKING:
    from ..config.settings import Settings
    from .lockfile import Lock, LockedModel

VARIABLE = "START_APP_MODELS"
TEXT_VARIABLE = "START_APP_MODELS_TEXT"
# The kernel limits one variable to 128 KiB: execve(2), MAX_ARG_STRLEN.
MOST_BYTES = 100_000
NAMED_AT_MOST = 10
MODEL_FOLDERS = ("checkpoints", "pretrained_models", "models", "weights", "ckpts")
"""Where apps keep weights of their own, by convention."""
_MAIN = "main"
# As `placement.METADATA`, which most launches do not import.
_NOTES, _NOTE = ".cache/huggingface/download", ".metadata"
_DEPTH = 2
_COMMIT_LENGTH = 40


class Current(NamedTuple):
    """Hold a model and its commit; `path` is its folder in a hub cache, or the app's own folder for it."""

    repo: str
    revision: str
    commit: str
    path: str


def current(roots: Sequence[Path], app_dir: Path, lock: Lock | None) -> tuple[Current, ...]:
    """Return the locked models, or every cached one without a lock; skip refs that lead to nothing."""
    if lock is not None:
        return in_order(_locked(roots, app_dir, lock))
    return in_order((*_cached(roots), *_downloaded(roots, app_dir)))


def loadable(roots: Sequence[Path], models: Iterable[Current]) -> tuple[Current, ...]:
    """Return these models of a lock, and every other cached one: an unlocked app can load it too."""
    return tuple(dict.fromkeys((*models, *in_order(_cached(roots)))))


def own_folders(settings: Settings, lock: Iterable[LockedModel]) -> tuple[str, ...]:
    """Return the app's existing model folders: the usual ones, those of the setting, and the pinned ones."""
    app_dir = str(settings.app_dir)
    pinned = (model.local_dir for model in lock if model.local_dir)
    named = (*(f"{app_dir}/{name}" for name in (*MODEL_FOLDERS, *pinned)), *map(str, settings.model_dirs))
    real: dict[str, str] = {}
    for path in named:
        if os.path.isdir(path):
            real.setdefault(os.path.realpath(path), path)
    # A folder inside another one is walked with that one.
    return tuple(p for r, p in real.items() if not any(r.startswith(f"{other}/") for other in real))


def in_order(models: Iterable[Current]) -> tuple[Current, ...]:
    """Return the models by name, the first of each; `main` comes before other revisions of a repo."""
    first: dict[tuple[str, bool, str], Current] = {}
    for one in models:
        first.setdefault((one.repo, one.revision != _MAIN, one.revision), one)
    return tuple(first[key] for key in sorted(first))


def others(roots: Sequence[Path], repos: Collection[str]) -> tuple[str, ...]:
    """Return the other cached repos."""
    return tuple(sorted({model.repo for model in _cached(roots, repos)}))


def variable(models: Sequence[Current]) -> str:
    """Return the value of the app's variable: a JSON object of commits by repo, limited to the size of one variable."""
    told: dict[str, str] = {}
    count = 2
    for name, commit in commits(models).items():
        count += len(os.fsencode(name)) + len(commit) + 8
        if count > MOST_BYTES:
            break
        told[name] = commit
    return json.dumps(told, ensure_ascii=False)


def shown(models: Sequence[Current], *, locked: bool) -> str:
    """Return the models as one line for the app's page: `koge/index-tts-v23 @ 9a8b7c6 (locked)`."""
    how = "locked" if locked else "cached"
    return some([f"{model.repo} @ {model.commit[:7]} ({how})" for model in models], NAMED_AT_MOST)


def lines(models: Sequence[Current], *, locked: bool) -> tuple[str, ...]:
    """Return the lines for the log before the exec: an app that is not locked may load other commits."""
    how = "locked" if locked else "cached"
    told = [f"model: {model.repo} @ {model.commit[:7]} ({how})" for model in models[:NAMED_AT_MOST]]
    more = len(models) - len(told)
    return (*told, f"model: {more} more: start_app.py cache list") if more else tuple(told)


def commits(models: Sequence[Current]) -> Mapping[str, str]:
    """Return the commits by repo; a second revision of a repo has its name after an @."""
    named: dict[str, str] = {}
    for one in models:
        named[f"{one.repo}@{one.revision}" if one.repo in named else one.repo] = one.commit
    return named


def _locked(roots: Sequence[Path], app_dir: Path, lock: Lock) -> Iterator[Current]:
    from . import repo_id

    for model in lock:
        if model.local_dir:
            path = app_dir / model.local_dir
            if path.is_dir():
                yield Current(model.repo, model.revision, _noted(path, model.files) or model.commit, str(path))
            continue
        folder = repo_id.folder(model.repo)
        if repo_id.COMMIT.fullmatch(model.revision):
            paths = (f"{root}/{folder}" for root in roots)
            present = (p for p in paths if os.path.isdir(f"{p}/snapshots/{model.commit}"))
            yield from (Current(model.repo, model.revision, model.commit, path) for path in present)
        else:
            yield from _by_ref(roots, folder, model.revision)


def _cached(roots: Sequence[Path], besides: Collection[str] = ()) -> Iterator[Current]:
    for root in roots:
        try:
            folders = [folder for folder in os.listdir(root) if HUB_ENTRY.match(folder)]
        except OSError:
            continue
        for folder in folders:
            if not besides or name_of_folder(folder) not in besides:
                yield from _by_ref((root,), folder, None)


def _downloaded(roots: Sequence[Path], app_dir: Path) -> Iterator[Current]:
    """Yield what huggingface_hub has downloaded into the app's own model folders, as far as its repo is known here."""
    bases = [path for path in _folders(app_dir) if os.path.isdir(f"{path}/{_NOTES}")]
    if not bases:
        return
    from .lockfile import Lock
    from .placement import noted_of
    from .weights import repos_of_commits

    repos = repos_of_commits([os.path.realpath(root) for root in roots], Lock(), app_dir)
    for base in bases:
        notes = f"{base}/{_NOTES}/"
        files = (entry.path[len(notes) :] for entry in walk(notes.rstrip("/")) if entry.name.endswith(_NOTE))
        present = (file.removesuffix(_NOTE) for file in files)
        noted = (noted_of(base, file) for file in present if os.path.exists(f"{base}/{file}"))
        for commit, _ in Counter(note.commit for note in noted if note).most_common(1):
            if commit in repos:
                yield Current(repos[commit], _MAIN, commit, base)


def _folders(app_dir: Path) -> Iterator[str]:
    """Yield the usual model folders of an app, and the folders in them as deep as apps keep whole repos there."""
    pending = [(f"{app_dir}/{name}", 0) for name in MODEL_FOLDERS]
    while pending:
        folder, depth = pending.pop()
        yield folder
        if depth < _DEPTH:
            with suppress(OSError), os.scandir(folder) as listing:
                pending += [(e.path, depth + 1) for e in listing if not e.name.startswith(".") and e.is_dir()]


def _by_ref(roots: Sequence[Path], folder: str, revision: str | None) -> Iterator[Current]:
    for root in roots:
        path = f"{root}/{folder}"
        commit = _commit(path, revision or _MAIN)
        if commit is None and revision is None:
            revision, commit = _other_ref(path)
        if commit:
            yield Current(name_of_folder(folder), revision or _MAIN, commit, path)


def _commit(path: str, ref: str) -> str | None:
    try:
        commit = read_regular(f"{path}/refs/{ref}", _COMMIT_LENGTH + 1, follow=True).decode("ascii", "replace")
    except OSError:
        return None
    return commit if len(commit) == _COMMIT_LENGTH and os.path.isdir(f"{path}/snapshots/{commit}") else None


def _other_ref(path: str) -> tuple[str | None, str | None]:
    """Return the first ref of a repo without `main` that leads to a snapshot."""
    try:
        refs = sorted(os.listdir(f"{path}/refs"))
    except OSError:
        return None, None
    return next(((ref, commit) for ref in refs if (commit := _commit(path, ref))), (None, None))


def _noted(path: Path, files: Mapping[str, object]) -> str | None:
    from .placement import noted_of

    return next((noted.commit for file in files if (noted := noted_of(str(path), file))), None)
