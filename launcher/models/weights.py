"""Find every weights file that the app can load, without reading it: in hub caches, and in folders of the app's.

A file is identified by the lock, by the layout of a hub cache, or by huggingface_hub's notes next to it; otherwise it
is unknown. A verified pinned file is remembered with its ctime and inode too, so that a replaced file of the same size
and mtime does not match.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ..cache import store
from ..cache.completeness import is_weights as is_named_weights
from ..cache.dirs import walk
from ..cache.memory import line_of
from ..cache.names import HASH, read_ref
from ..cache.names import name as name_of_folder
from ..config.paths import HUB_ENTRY
from ..config.settings import Settings
from ..system import state
from ..system.files import names_in
from . import placement, repo_id
from .lockfile import Lock, LockedFile
from .placement import Memories
from .versions import own_folders

_COMMITS = "commits"  # in the state folder: whose commits were brought into folders of the app's own
# Formats of other runtimes: pickles, arrays, compiled engines.
_SUFFIXES = frozenset((".pkl", ".npy", ".engine", ".plan", ".trt", ".pt2", ".pdparams", ".keras", ".mnn"))
_COARSE_SECONDS = 2.1  # a note is written after its file, and some file systems have a resolution of two seconds


class Origin(NamedTuple):
    """Hold the identity of a file: a repo at a commit, its pin, and whether its content is verified against the pin.

    `repo` and `commit` are blank if unknown. `note` is any other known fact, as text.
    """

    repo: str = ""
    commit: str = ""
    pinned: LockedFile | None = None
    verified: bool = False
    note: str = ""

    @property
    def known(self) -> bool:
        """Return whether the file is identified: by its repo and commit, or by a pin that it was verified against."""
        return bool(self.repo and self.commit) if self.pinned is None else self.verified

    def text(self) -> str:
        """Return the identity as text."""
        what = f"{self.repo} @ {self.commit[:7]}" if self.repo and self.commit else ""
        if self.pinned is None:
            return f"{what or 'unknown'}{f' ({self.note})' if self.note else ''}"
        what = f"{what}, pinned" if what else f"pinned as {self.pinned.hash[:7]}"
        return what if self.verified else f"{what}, but {self.note}"


class WeightsFile(NamedTuple):
    """Hold a weights file: its path, its readable path, its stat, and its identity."""

    path: str
    name: str
    status: os.stat_result
    origin: Origin
    flat: bool
    """Return whether it is in a folder of the app's, not in a hub cache."""

    @property
    def identity(self) -> tuple[int, int]:
        """Return device and inode."""
        return self.status.st_dev, self.status.st_ino

    def document(self) -> Mapping[str, Any]:
        """Return it for `--json`."""
        origin = self.origin
        what = "pinned" if origin.pinned else "repo" if origin.known else "unknown"
        return {
            "file": self.name,
            "path": self.path,
            "size_bytes": self.status.st_size,
            "what": what,
            "repo": origin.repo or None,
            "commit": origin.commit or None,
            "hash": origin.pinned.hash if origin.pinned else None,
            "verified": origin.verified if origin.pinned else None,
            "note": origin.note or None,
        }


class Library(NamedTuple):
    """Hold the sources for identifying a file: the lock, the verified files, and the hub caches by real path."""

    settings: Settings
    lock: Lock
    memories: Memories
    roots: tuple[str, ...]


def is_weights(path: str) -> bool:
    """Return whether a file name is that of weights."""
    return is_named_weights(path) or os.path.splitext(path)[1].lower() in _SUFFIXES


def name_of(path: str, app_dir: Path) -> str:
    """Return the readable path, also used in a lock: relative to the app's folder, or absolute outside of it."""
    return path.removeprefix(f"{app_dir}/")


def flat_files(paths: Iterable[str], roots: Sequence[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield every plain file below these folders that is not part of a hub cache, with its stat.

    Links are followed, and each folder is visited once. Hidden folders are skipped: they have huggingface_hub's notes,
    our own and git's.
    """
    seen: set[tuple[int, int]] = set()
    stores = {f"{root}/{store.FOLDER}" for root in roots if store.is_store(root)}
    pending = list(reversed(tuple(paths)))
    while pending:
        folder = pending.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            try:
                if entry.name.startswith(".") or HUB_ENTRY.match(entry.name):
                    continue
                if entry.is_dir():
                    if os.path.realpath(entry.path) not in stores:
                        pending.append(entry.path)
                elif entry.is_file():
                    yield entry.path, entry.stat()
            except OSError:
                continue


def flat(library: Library) -> Iterator[WeightsFile]:
    """Yield the weights in the app's own model folders, and every other pinned file there."""
    settings, lock = library.settings, library.lock
    pinned = pins(lock, settings.app_dir)
    noted = _Notes(library)
    seen = set()
    for path, status in flat_files(own_folders(settings, lock), library.roots):
        pin = pinned.get(path)
        if pin or is_weights(path):
            seen.add(path)
            origin = _of_pin(pin, status, library.memories) if pin else noted.origin(path, status)
            yield WeightsFile(path, name_of(path, settings.app_dir), status, origin, flat=True)
    for path, pin in pinned.items():
        if path in seen:
            continue
        try:
            status = os.stat(path)
        except OSError:
            continue
        yield WeightsFile(path, name_of(path, settings.app_dir), status, _of_pin(pin, status, library.memories), True)


class Pin(NamedTuple):
    """Hold a lock's entry for a file in a folder of the app's, with its repo and commit, blank without them."""

    file: LockedFile
    repo: str = ""
    commit: str = ""


def pins(lock: Lock, app_dir: Path) -> Mapping[str, Pin]:
    """Return the lock's pins in the app's own folders, by path."""
    pinned = {}
    for path, file in lock.files.items():
        repo, _, rest = file.origin.partition("@")
        pinned[os.path.join(app_dir, path)] = Pin(file, repo, rest.partition("/")[0])
    for model in lock:
        if model.local_dir:
            base = f"{app_dir}/{model.local_dir}"
            pinned.update((f"{base}/{path}", Pin(file, model.repo, model.commit)) for path, file in model.files.items())
    return pinned


def _of_pin(pin: Pin, status: os.stat_result, memories: Memories) -> Origin:
    verified = memories.local.knows(line_of(status, pin.file.hash))
    note = "" if verified else "not verified since it was written last"
    if status.st_size != pin.file.size != placement.ANY_SIZE:
        verified, note = False, f"it has {status.st_size} bytes instead of {pin.file.size}"
    return Origin(pin.repo, pin.commit, pin.file, verified, note)


class _Notes:
    """Identify files in folders of the app's by huggingface_hub's notes, as long as the files match them."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._repos: Mapping[str, str] | None = None
        self._noted: dict[str, bool] = {}

    def origin(self, path: str, status: os.stat_result) -> Origin:
        base, noted = self._note(path)
        if noted is None or base is None:
            return Origin()
        read = self._library.memories.local.hash_of(status, noted.etag)
        if read != noted.etag if read else status.st_ctime > noted.time + _COARSE_SECONDS:
            return Origin(note=f"changed since {noted.commit[:7]} was downloaded")
        repo = self._repo(noted.commit)
        return (
            Origin(repo, noted.commit) if repo else Origin(note=f"{noted.commit[:7]} of a repo that is not known here")
        )

    def _note(self, path: str) -> tuple[str | None, placement.Noted | None]:
        """Return the nearest folder above a file that has notes, and its note about the file."""
        base = os.path.dirname(path)
        while len(base) > 1:
            if base not in self._noted:
                self._noted[base] = os.path.isdir(f"{base}/{placement.METADATA}")
            if self._noted[base]:
                return base, placement.noted_of(base, path[len(base) + 1 :])
            base = os.path.dirname(base)
        return None, None

    def _repo(self, commit: str) -> str:
        if self._repos is None:
            self._repos = repos_of_commits(self._library.roots, self._library.lock, self._library.settings.app_dir)
        return self._repos.get(commit, "")


def remember(app_dir: Path, repo: str, commit: str) -> None:
    """Note the repo of a commit that was pulled into a folder of the app's own: the notes beside the files lack it."""
    known = state.read(app_dir, _COMMITS)
    line = f"{commit} {repo}\n".encode()
    if line not in known:
        with suppress(OSError):  # the files are then of an unknown repo
            state.write(app_dir, _COMMITS, known + line)


def repos_of_commits(roots: Sequence[str], lock: Lock, app_dir: Path) -> Mapping[str, str]:
    """Return the repos of known commits: from the lock, from earlier pulls, and from the caches.

    A download to a folder leaves a ref and a list in the cache, although its files are elsewhere.
    """
    lines = (line.partition(" ") for line in state.read(app_dir, _COMMITS).decode(errors="replace").splitlines())
    repos = {commit: repo for commit, _, repo in lines if repo_id.COMMIT.fullmatch(commit) and repo_id.is_name(repo)}
    for root in roots:
        for folder in names_in(root):
            if HUB_ENTRY.match(folder):
                path, repo = f"{root}/{folder}", name_of_folder(folder)
                named = {*names_in(f"{path}/snapshots"), *(n.removesuffix(".json") for n in names_in(f"{path}/trees"))}
                for ref in walk(f"{path}/refs"):
                    try:
                        named.add(read_ref(ref.path))
                    except OSError:
                        continue
                repos.update((commit, repo) for commit in named if repo_id.COMMIT.fullmatch(commit))
    repos.update((model.commit, model.repo) for model in lock)
    return repos


def stamps(app_dir: Path, folders: Iterable[str], most: int) -> Mapping[str, str]:
    """Return the fingerprints of up to `most` weights in these folders of the app's own, by name.

    A commit identifies the files in a hub cache.
    """
    looks = (look for look in flat_files(folders, ()) if is_weights(look[0]))
    return {name_of(path, app_dir): stamp(status) for path, status in islice(looks, most)}


def stamp(status: os.stat_result) -> str:
    """Return everything that identifies a file with exactly this content."""
    return line_of(status, "").decode().rstrip()


def cached(library: Library) -> Iterator[WeightsFile]:
    """Yield the weights of every commit in the hub caches."""
    pinned = {(repo_id.folder(m.repo), m.commit): m for m in library.lock if not m.local_dir}
    for root in library.roots:
        for folder in sorted(filter(HUB_ENTRY.match, names_in(root))):
            repo = name_of_folder(folder)
            for commit in sorted(filter(HASH.fullmatch, names_in(f"{root}/{folder}/snapshots"))):
                base = f"{root}/{folder}/snapshots/{commit}"
                model = pinned.get((folder, commit))
                for path in _weights_below(base):
                    try:
                        status = os.stat(path)
                    except OSError:
                        continue  # a dangling link
                    name = path[len(base) + 1 :]
                    file = model.files.get(name) if model else None
                    origin = Origin(repo, commit)
                    if file:
                        knows = library.memories.cached.knows(line_of(status, file.hash))
                        note = "" if knows else "not verified since it was written last"
                        origin = Origin(repo, commit, file, knows, note)
                    yield WeightsFile(path, name, status, origin, flat=False)


def _weights_below(base: str) -> Iterator[str]:
    # A snapshot that was moved to another disk is a link itself.
    if os.path.islink(base):
        base = os.path.join(base, "")
    yield from sorted(os.path.normpath(entry.path) for entry in walk(base) if is_weights(entry.name))


def is_exempt(name: str, globs: Sequence[str]) -> bool:
    """Return whether a glob of APP_UNPINNED matches a file's path from the app's folder, or its name."""
    return any(fnmatchcase(name, glob) or fnmatchcase(os.path.basename(name), glob) for glob in globs)


def summary(files: Sequence[WeightsFile]) -> str:
    """Return the numbers of all and of unknown files: `5 weights files, 2 unknown`."""
    unknown = sum(not one.origin.known for one in files)
    count = f"{len(files)} weights file{'' if len(files) == 1 else 's'}"
    return f"{count}, {unknown} unknown" if unknown else count
