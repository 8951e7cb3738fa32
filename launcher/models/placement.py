"""Find the files of a model on the disk: the commit that the app would load, and which of its files are present.

A file is correct if it is remembered as verified under its expected hash; otherwise it must be read.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..cache.memory import Memory, line_of
from ..cache.names import read_ref
from ..cache.roots import Root
from ..system.files import open_place
from ..ui.text import some
from . import repo_id
from .lockfile import LockedFile, LockedModel

ANY_SIZE = -1
"""The size of a file if only its hash is known."""
METADATA = ".cache/huggingface/download"
"""The folder of huggingface_hub's notes in a local folder, one for each file: commit, etag, time."""
MARKS = (".aria2", ".part", ".crdownload", ".incomplete", ".tmp", ".download")
"""Marks of unfinished files of other programs: extra files or suffixes."""
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_MOST_BYTES_OF_A_POINTER = 1024


class Place(NamedTuple):
    """Hold the place of a model's files: its hub cache and folder in it, or a folder of the app's (`root` is None)."""

    root: Root | None
    path: str

    def base(self, commit: str) -> str:
        """Return the folder that the paths of a commit's files are relative to."""
        return f"{self.path}/snapshots/{commit}" if self.root else self.path


class Placed(NamedTuple):
    """Hold a locked model and its placement."""

    model: LockedModel
    place: Place


class Memories(NamedTuple):
    """Hold the verified files: those of caches, and those in folders of the app's."""

    cached: Memory
    local: Memory

    def of(self, place: Place) -> Memory:
        """Return the memory for the files of a place."""
        return self.cached if place.root else self.local


class Held(NamedTuple):
    """Hold the state of a commit's files: missing ones, those of a wrong size, and those that must be read."""

    missing: tuple[str, ...]
    resized: tuple[str, ...]
    unread: tuple[str, ...]

    @property
    def lacking(self) -> tuple[str, ...]:
        """Return the files that are wrong without being read."""
        return (*self.missing, *self.resized)


class Noted(NamedTuple):
    """Hold huggingface_hub's note about a file in a local folder: its commit and hash, and the time in seconds."""

    commit: str
    etag: str
    time: float


class OnDisk(NamedTuple):
    """Hold what an app would load of a model: its commit, None without one, and the problem with it.

    `present` means that any part of it is on the disk, and `doubt` is why its files cannot be identified.
    """

    commit: str | None
    problem: str = ""
    present: bool = True
    doubt: str = ""


def placed(models: Iterable[LockedModel], roots: Sequence[Root], app_dir: Path) -> tuple[Placed, ...]:
    """Return the models with their placements."""
    return tuple(Placed(model, place_of(model, roots, app_dir)) for model in models)


def place_of(model: LockedModel, roots: Sequence[Root], app_dir: Path) -> Place:
    """Return the placement of a model: its own folder, or the cache that has it, or the app's first cache."""
    if model.local_dir:
        return Place(None, str(app_dir / model.local_dir))
    return cached_place(model.repo, roots)


def cached_place(repo: str, roots: Sequence[Root]) -> Place:
    """Return the place where a repo is cached, or would be."""
    folder = repo_id.folder(repo)
    root = next((root for root in roots if os.path.isdir(f"{root.real}/{folder}")), roots[0])
    return Place(root, f"{root.real}/{folder}")


def commit_of(place: Place, revision: str) -> str | None:
    """Return the commit of a revision in the cache, None if it leads to no snapshot."""
    commit = named_by(place, revision)
    return commit if commit and os.path.isdir(f"{place.path}/snapshots/{commit}") else None


def named_by(place: Place, revision: str) -> str | None:
    """Return the commit that a revision names in the cache, even without a snapshot."""
    if repo_id.COMMIT.fullmatch(revision):
        return revision
    try:
        return read_ref(f"{place.path}/refs/{revision}")
    except OSError:
        return None  # unreadable for every program


def held(base: str, files: Mapping[str, LockedFile], memory: Memory) -> Held:
    """Return the state of these files below a folder, without reading them."""
    missing, resized = [], []
    lines: dict[str, bytes] = {}
    try:
        folder = open_place(base, os.O_DIRECTORY, follow=True)
    except OSError:
        return Held(tuple(files), (), ())
    try:
        for path, file in files.items():
            try:
                status = os.stat(path, dir_fd=folder)
            except OSError:
                missing.append(path)
                continue
            if status.st_size != file.size != ANY_SIZE or not stat.S_ISREG(status.st_mode):
                resized.append(path)
            else:
                lines[path] = line_of(status, file.hash)
    finally:
        os.close(folder)
    known = memory.knows_all(lines.values())
    unread = () if known else tuple(path for path, line in lines.items() if not memory.knows(line))
    return Held(tuple(missing), tuple(resized), unread)


def leads_astray(path: str) -> bool:
    """Return whether a repo or a part of it is a link that another user may have planted to redirect our writes.

    A link to a bigger disk is accepted if it is ours, or if the owner of its destination made it.
    """
    try:
        link = os.lstat(path)
        if not stat.S_ISLNK(link.st_mode):
            return False
        return link.st_uid not in (os.geteuid(), os.stat(path).st_uid)
    except OSError:
        return os.path.islink(path)


def own_blob(place: Place, path: str) -> str | None:
    """Return the blob of its own repo that a snapshot's file links to; None for any other link, or a plain file."""
    try:
        target = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    except OSError:
        return None
    folder, _, blob = target.rpartition("/")
    return blob if folder == f"{place.path}/blobs" else None


def leads_to_own_blob(place: Place, path: str) -> bool:
    """Return whether a snapshot's file is a plain one, or links to a blob of its own repo."""
    return not os.path.islink(path) or own_blob(place, path) is not None


def on_disk(model: LockedModel, place: Place, memory: Memory) -> OnDisk:
    """Return what the app would load of a locked model; compare the sizes of files, but do not read them."""
    if place.root is None:
        return _in_folder(model, place, memory)
    commit = commit_of(place, model.revision)
    if commit is None:
        return OnDisk(None, "not downloaded", present=False)
    if commit == model.commit:
        return OnDisk(commit, lacking(held(place.base(commit), model.files, Memory()).lacking, len(model.files)))
    return OnDisk(commit, dangling(place, commit))


def dangling(place: Place, commit: str) -> str:
    """Return in words what a cached commit lacks, as far as its snapshot shows; blank if nothing is known."""
    from ..cache import completeness

    try:
        copy = completeness.copy_of(place.path, commit)
    except OSError:
        return "it cannot be read"
    if not (copy.files or copy.dangling):
        return "no files"
    return lacking(sorted(copy.dangling), len(copy.files) + len(copy.dangling))


def _in_folder(model: LockedModel, place: Place, memory: Memory) -> OnDisk:
    noted = {path: note for path in model.files if (note := noted_of(place.path, path))}
    present = [path for path in model.files if os.path.lexists(f"{place.path}/{path}")]
    if not present:
        return OnDisk(None, "not downloaded", present=False)
    commits = Counter(note.commit for path, note in noted.items() if path in present)
    commit = commits.most_common(1)[0][0] if commits else None
    state = held(place.path, model.files, memory)
    read = {path: _hash_of(f"{place.path}/{path}", model.files[path].hash, memory) for path in state.unread}
    different = [path for path, digest in read.items() if digest not in (None, model.files[path].hash)]
    unread = [p for p, digest in read.items() if digest is None and (p not in noted or noted[p].commit != model.commit)]
    if commit in (None, model.commit) or len(commits) > 1:
        stand = model.commit if commits.get(model.commit) or not (commits or state.lacking) else commit
        doubt = "its files have never been verified; start_app.py models pull does that" if unread else ""
        problem = _unfinished(place.path, [p for p in state.unread if p in different or read[p] is None])
        problem = problem or _in_words(place.path, state, len(model.files))
        if different and not problem:
            problem = differing(different, len(model.files), f"what {model.commit[:7]} has")
        return OnDisk(stand, problem, doubt="" if problem else doubt)
    return OnDisk(commit)


def _hash_of(path: str, like: str, memory: Memory) -> str | None:
    """Return the hash that a file was read with, None if that is unknown."""
    try:
        return memory.hash_of(os.stat(path), like)
    except OSError:
        return None


def differing(paths: Sequence[str], of: int, than: str) -> str:
    """Return in words which of so many files have the wrong content."""
    return f"{len(paths)} of {of} files are not {than}: {some(paths, 3)}"


def unfinished_mark(path: str) -> str:
    """Return the mark of another program next to its unfinished file; blank without one."""
    return next((mark for mark in MARKS if os.path.lexists(f"{path}{mark}")), "")


def _in_words(folder: str, state: Held, of: int) -> str:
    pointers = [path for path in state.resized if is_lfs_pointer(f"{folder}/{path}")]
    if pointers:
        return f"{len(pointers)} of {of} files are Git LFS pointers, not the files: {some(pointers, 3)}"
    if state.resized and not state.missing:
        return f"{len(state.resized)} of {of} files of another size: {some(state.resized, 3)}"
    return lacking(state.lacking, of)


def _unfinished(folder: str, unread: Sequence[str]) -> str:
    """Return in words which files another program has not finished; a verified file counts as finished."""
    partial = [f"{path}{mark}" for path in unread for mark in MARKS if os.path.lexists(f"{folder}/{path}{mark}")]
    return f"a download broke off: {some(partial, 3)}" if partial else ""


def is_lfs_pointer(path: str) -> bool:
    """Return whether a file is a git-lfs pointer: `git clone` leaves it if git-lfs is not installed.

    https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
    """
    try:
        if os.stat(path).st_size > _MOST_BYTES_OF_A_POINTER:
            return False
        with open(path, "rb") as file:
            return file.read(len(_LFS_POINTER)) == _LFS_POINTER
    except OSError:
        return False


def noted_of(folder: str, path: str) -> Noted | None:
    """Return huggingface_hub's note about a file, None without one."""
    try:
        with open(f"{folder}/{METADATA}/{path}.metadata", encoding="utf-8") as file:
            commit, etag, moment = (file.readline().strip() for _ in range(3))
            noted = Noted(commit, etag, float(moment))
    except (OSError, ValueError):
        return None
    is_hash = repo_id.SHA256.fullmatch(etag) or repo_id.COMMIT.fullmatch(etag)
    return noted if is_hash and repo_id.COMMIT.fullmatch(commit) else None


def lacking(paths: Sequence[str], of: int) -> str:
    """Return in words which of so many files are missing; blank if none."""
    return f"{len(paths)} of {of} files missing: {some(paths, 3)}" if paths else ""
