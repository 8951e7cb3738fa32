"""A model in a folder of the app's switches from one complete commit to another, or not at all.

The new files and their notes are staged in `.cache/start_app` in that folder. Then renames exchange them with the old
ones, and a journal lists the renames: if one fails, the others are undone. The next launch or pull completes the switch
of a killed run if the hashes of all files are the new commit's, and otherwise undoes it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..cache.entries import mount_points
from ..cache.memory import Memory, line_of
from ..cache.names import HASH
from ..system import files, renames, state
from . import JOURNAL, kept, placement, repo_id
from .kept import KEPT
from .local_dir import STAGING, Outdated, own_name, refuse_outside
from .lockfile import LockedModel


class Change(NamedTuple):
    """Hold one file of a switch, by paths in the folder: its own, the kept old file's, the staged new file's.

    `kept` is blank without an old file, `staged` without a new one.
    """

    path: str
    kept: str
    staged: str


class Switch(NamedTuple):
    """Hold one switch of a folder: the changed files, in order, and every file of the commit with its hash.

    `repo` is blank in a journal of version 0.1.
    """

    local_dir: str
    commit: str
    changes: tuple[Change, ...]
    hashes: Mapping[str, str]
    repo: str = ""

    @property
    def journal(self) -> str:
        """Return the name of its journal in the state folder."""
        return JOURNAL + hashlib.sha256(self.local_dir.encode() + self.commit.encode()).hexdigest()[:16]


class Unfinished(NamedTuple):
    """Hold the switch of a killed run, and why it cannot be completed; blank if it can."""

    switch: Switch
    folder: str
    problem: str


class Recovered(NamedTuple):
    """Hold the outcome of a killed run's switch, and why it was not completed; blank if it was.

    `journal` is the path of its journal if it could be neither completed nor undone.
    """

    folder: str
    commit: str
    problem: str
    journal: str = ""


def stage(app_dir: Path, model: LockedModel, incoming: Sequence[str], outdated: Outdated) -> Switch | None:
    """Write everything that a switch needs, its journal last, and rename nothing; return None if nothing changes.

    The caller has verified the staged files. Raises OSError; then there is no journal.
    """
    assert model.local_dir
    folder = str(app_dir / model.local_dir)
    changes = tuple(_changes(folder, model, incoming, outdated))
    if not changes:
        _forget_others(app_dir, Switch(model.local_dir, model.commit, (), {}, model.repo))
        return None
    refuse_outside(folder, [change.path for change in changes])
    hashes = {path: file.hash for path, file in model.files.items()}
    switch = Switch(model.local_dir, model.commit, changes, hashes, model.repo)
    try:
        _write(folder, switch)
        document = {**switch._asdict(), "hashes": hashes}
        state.write(app_dir, switch.journal, json.dumps(document).encode(), durable=True)
    except BaseException:
        _clean(folder, switch)
        raise
    return switch


def rehearse(app_dir: Path, switch: Switch) -> None:
    """Try the renames of a staged switch.

    Raises the OSError that one of them would raise.
    """
    folder = os.path.realpath(app_dir / switch.local_dir)
    with renames.probe(f"{folder}/{STAGING}", mount_points(folder)) as probe:
        for change in switch.changes:
            if change.kept:
                probe.leave(f"{folder}/{change.path}")
        for parent in {os.path.dirname(f"{folder}/{change.path}") for change in switch.changes if change.staged}:
            probe.enter(parent)


def abandon(app_dir: Path, switch: Switch) -> None:
    """Forget a staged switch that was not begun, or was undone; its downloads stay."""
    _clean(str(app_dir / switch.local_dir), switch)
    with suppress(OSError):  # the next run reads it, and finds nothing to do
        state.forget(app_dir, switch.journal)


def apply(app_dir: Path, switch: Switch, memory: Memory) -> None:
    """Move the staged files in and the old ones away.

    Raises OSError if that fails; the folder is unchanged then, or `recover` finds the journal.
    """
    folder = str(app_dir / switch.local_dir)
    try:
        _change(folder, switch, memory)
    except OSError as error:
        try:
            _undo(folder, switch)
        except OSError as second:
            raise OSError(error.errno, f"{_reason(error)}; and it cannot be undone: {_reason(second)}") from error
        abandon(app_dir, switch)
        raise
    state.forget(app_dir, switch.journal)
    _forget_others(app_dir, switch)


def unfinished(app_dir: Path) -> tuple[Unfinished, ...]:
    """Return the switches that killed runs have begun, after reading every file; change nothing.

    Call it under the lock of a pull, like all functions here.
    """
    journals = []
    for name in state.listed(app_dir, JOURNAL):
        # An interrupted write has a dot in its name: no file had been moved.
        switch = None if "." in name else _read(state.read(app_dir, name))
        if switch is None:
            state.forget(app_dir, name)
            continue
        folder = str(app_dir / switch.local_dir)
        journals.append(Unfinished(switch, folder, _problem(folder, switch)))
    return tuple(journals)


def recover(app_dir: Path, begun: Sequence[Unfinished], keep: Collection[str] = ()) -> tuple[Recovered, ...]:
    """Complete the switches of killed runs, or undo them; if neither works, keep the journal.

    `keep` are the folders in which the replaced files stay.
    """
    return tuple(_recover(app_dir, unfinished, keep) for unfinished in begun)


def _recover(app_dir: Path, unfinished: Unfinished, keep: Collection[str]) -> Recovered:
    problem = unfinished.problem
    try:
        if not problem:
            try:
                _change(unfinished.folder, unfinished.switch, Memory())
            except OSError as error:
                problem = _reason(error)
        if problem:
            _undo(unfinished.folder, unfinished.switch)
    except OSError as error:
        journal = next(filter(os.path.lexists, (f / unfinished.switch.journal for f in state.folders(app_dir))), "")
        return Recovered(unfinished.folder, unfinished.switch.commit, problem or _reason(error), os.fspath(journal))
    if not problem:
        drop(unfinished.folder, keep=unfinished.folder in keep)
    abandon(app_dir, unfinished.switch)
    return Recovered(unfinished.folder, unfinished.switch.commit, problem)


def drop(folder: str, *, keep: bool = False) -> None:
    """Remove staged and kept files that nothing uses; their folder belongs to the launcher.

    With `keep`, the files that switches have replaced stay: the new ones have not been used yet.
    """
    staging = f"{folder}/{STAGING}"
    if not keep:
        with suppress(OSError):
            shutil.rmtree(staging)
        return
    with suppress(OSError):
        for name in os.listdir(staging):
            if not name.startswith(KEPT):
                shutil.rmtree(f"{staging}/{name}", ignore_errors=True)


def drop_kept(folder: str) -> None:
    """Remove the files that switches have replaced, and no staged files; call it under the lock of a pull."""
    for path in kept.folders(folder):
        shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        os.rmdir(f"{folder}/{STAGING}")


def _forget_others(app_dir: Path, switch: Switch) -> None:
    """Forget failed switches of a model that is complete in this folder now."""
    for name in state.listed(app_dir, JOURNAL):
        other = None if "." in name else _read(state.read(app_dir, name))
        if other and other.local_dir == switch.local_dir and other.repo in (switch.repo, ""):
            state.forget(app_dir, name)


def _notes(commit: str) -> str:
    return f"{STAGING}/notes-{commit}"


def _write(folder: str, switch: Switch) -> None:
    notes = _notes(switch.commit)
    shutil.rmtree(f"{folder}/{notes}", ignore_errors=True)
    for change in switch.changes:
        for path in filter(None, change):
            os.makedirs(os.path.dirname(f"{folder}/{path}"), exist_ok=True)
        if change.staged.startswith(f"{notes}/"):
            path = change.staged.removeprefix(f"{notes}/").removesuffix(".metadata")
            _note(f"{folder}/{change.staged}", switch.commit, switch.hashes[path])


def _clean(folder: str, switch: Switch) -> None:
    """Remove the staged files of a switch; folders with contents stay."""
    shutil.rmtree(f"{folder}/{_notes(switch.commit)}", ignore_errors=True)
    for change in switch.changes:
        _remove_empty(folder, os.path.dirname(change.kept or change.path))


def _changes(folder: str, model: LockedModel, incoming: Sequence[str], outdated: Outdated) -> Iterator[Change]:
    kept = _free_name(folder, f"{STAGING}/{KEPT}{model.commit}")
    for path in incoming:
        old = f"{kept}/{path}"
        if path in outdated.own:
            old = _free_name(folder, own_name(path, model.commit))
            for mark in placement.MARKS:  # another program needs these to resume
                if os.path.lexists(f"{folder}/{path}{mark}"):
                    yield Change(f"{path}{mark}", f"{old}{mark}", "")
        yield Change(path, old if os.path.lexists(f"{folder}/{path}") else "", f"{STAGING}/{model.commit}/{path}")
    for path in outdated.going:
        for name in (path, f"{placement.METADATA}/{path}.metadata"):
            if os.path.lexists(f"{folder}/{name}"):
                yield Change(name, f"{kept}/{name}", "")
    # Every file is this commit's now, including the unchanged ones.
    for path in model.files:
        noted = placement.noted_of(folder, path)
        if path in incoming or noted is None or noted.commit != model.commit:
            note = f"{placement.METADATA}/{path}.metadata"
            old = f"{kept}/{note}" if os.path.lexists(f"{folder}/{note}") else ""
            yield Change(note, old, f"{_notes(model.commit)}/{path}.metadata")


def _note(target: str, commit: str, digest: str) -> None:
    """Note a file in huggingface_hub's form, so that its own downloads know it: see its `_local_folder.py`."""
    with open(target, "x", encoding="utf-8") as file:
        file.write(f"{commit}\n{digest}\n{time.time()}\n")


def _change(folder: str, switch: Switch, memory: Memory) -> None:
    refuse_outside(folder, [change.path for change in switch.changes])
    for change in switch.changes:
        _bring(folder, switch, change, memory)
    for change in switch.changes:
        if not change.staged:
            _remove_empty(folder, os.path.dirname(change.path))


def _bring(folder: str, switch: Switch, change: Change, memory: Memory) -> None:
    path, kept, staged = (f"{folder}/{part}" for part in change)
    if change.staged and not os.path.lexists(staged):
        if os.path.lexists(path):
            return  # it has been moved in already
        raise FileNotFoundError(errno.ENOENT, "its staged file has disappeared", staged)
    if os.path.lexists(path):
        if change.kept and not os.path.lexists(kept):
            os.rename(path, kept)
        elif change.staged:  # another process created it since
            os.rename(path, f"{folder}/{_free_name(folder, own_name(change.path, switch.commit))}")
    if change.staged:
        digest = switch.hashes.get(change.path, "")
        known = memory.knows(line_of(os.lstat(staged), digest))
        os.rename(staged, path)
        if known:
            memory.remember(line_of(os.lstat(path), digest))  # a rename changes the ctime, not the content


def _undo(folder: str, switch: Switch) -> None:
    """Restore every file.

    Raises OSError if that fails.
    """
    refuse_outside(folder, [change.path for change in switch.changes])
    for change in reversed(switch.changes):
        path, kept, staged = (f"{folder}/{part}" for part in change)
        is_kept = bool(change.kept) and os.path.lexists(kept)
        came = bool(change.staged) and not os.path.lexists(staged) and os.path.lexists(path)
        if change.kept and not is_kept:
            if came or not os.path.lexists(path):
                raise FileNotFoundError(errno.ENOENT, "its kept file has disappeared", kept)
            continue  # it was not moved yet
        if came:
            os.makedirs(os.path.dirname(staged), exist_ok=True)
            os.rename(path, staged)
        if is_kept:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if os.path.lexists(path):  # another process created it since
                os.rename(path, f"{folder}/{_free_name(folder, own_name(change.path, switch.commit))}")
            os.rename(kept, path)


def _problem(folder: str, switch: Switch) -> str:
    """Return why a switch cannot be completed: the first file that is not the commit's; blank if all are."""
    staged = {change.path: change.staged for change in switch.changes if change.staged}
    for path, digest in switch.hashes.items():
        place = f"{folder}/{staged.get(path, path)}"
        try:
            descriptor = files.open_regular(place if os.path.lexists(place) else f"{folder}/{path}", follow=True)
        except OSError as error:
            return f"{path}: {_reason(error)}"
        try:
            if files.content_hash(descriptor, digest) != digest:
                return f"{path} is not what {switch.commit[:7]} has"
        except OSError as error:
            return f"{path}: {_reason(error)}"
        finally:
            os.close(descriptor)
    return ""


def _read(data: bytes) -> Switch | None:
    """Return the switch in a journal, None if it is invalid."""
    try:
        document = json.loads(data)
        switch = Switch(**{**document, "changes": _read_changes(document)}) if "changes" in document else _old(document)
        texts = (switch.local_dir, switch.commit, *switch.hashes, *switch.hashes.values())
        sound = all(isinstance(text, str) for text in texts) and repo_id.is_local_dir(switch.local_dir)
        paths = (path for change in switch.changes for path in change if path)
        sound = sound and bool(repo_id.COMMIT.fullmatch(switch.commit))
        sound = sound and all(change.path for change in switch.changes)
        sound = sound and all(map(repo_id.is_path, (*paths, *switch.hashes)))
        return switch if sound and all(map(HASH.fullmatch, switch.hashes.values())) else None
    except (ValueError, TypeError, AttributeError, KeyError):
        return None


def _read_changes(document: Any) -> tuple[Change, ...]:
    changes = tuple(Change(*change) for change in document["changes"])
    if not all(isinstance(path, str) for change in changes for path in change):
        raise TypeError("a change is of paths")
    return changes


def _old(document: Any) -> Switch:
    """Return a journal of version 0.1, whose changes omit the notes: the next pull writes them."""
    commit = document["commit"]
    kept, staged = f"{STAGING}/kept-{commit}", f"{STAGING}/{commit}"
    incoming = (
        Change(path, own_name(path, commit) if path in document["own"] else f"{kept}/{path}", f"{staged}/{path}")
        for path in document["incoming"]
    )
    going = (Change(path, f"{kept}/{path}", "") for path in document["going"])
    return Switch(document["local_dir"], commit, (*incoming, *going), document["hashes"])


def _reason(error: OSError) -> str:
    where = f": {os.fsdecode(error.filename)}" if error.filename else ""
    return f"{(error.strerror or str(error)).lower()}{where}"


def _free_name(folder: str, path: str) -> str:
    """Return the path, with a number appended if it exists."""
    name, number = path, 1
    while os.path.lexists(f"{folder}/{name}"):
        name, number = f"{path}-{number}", number + 1
    return name


def _remove_empty(folder: str, path: str) -> None:
    while path:
        try:
            os.rmdir(f"{folder}/{path}")
        except OSError:
            return
        path = os.path.dirname(path)
