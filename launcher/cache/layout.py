"""A hub cache is read as it lies on the disk, one look at each entry, and whatever is odd in it is a fact, no error.

The layout is https://huggingface.co/docs/huggingface_hub/guides/manage-cache: a repo holds `blobs` (named by their
hash), `snapshots/<commit>` (links to blobs, or plain files where the system has no links), `refs` (files that name a
commit), and from 1.22 on `trees`. With Xet's shared store (1.32 and later) a blob may be a link into the root's own
`blobs`.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

from . import store
from .entries import HELPERS
from .names import PIN, kind, name, ref_text
from .roots import TRASH

REPO_PARTS = frozenset(("blobs", "refs", "snapshots", "trees", ".no_exist"))
HASH = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_PARTIAL = re.compile(r".+\.incomplete|\..+\.[0-9a-f]{8}\.shared", re.DOTALL)
# Between the ref that a download writes first and the first file that it locks, hubs are asked.
_YOUNG_SECONDS = 600.0

Identity = tuple[int, int]


class Blob(NamedTuple):
    """Hold a blob; `held` are the bytes of it that lie in the repo, `shared` its payload's name in the shared store."""

    name: str
    size: int
    accessed: float
    modified: float
    identity: Identity
    shared: str | None
    held: int


class Revision(NamedTuple):
    """Hold a snapshot: `blobs` it links to, and the paths of links that lead to nothing or out of the repo."""

    commit: str
    refs: tuple[str, ...]
    files: int
    size: int
    plain_files: int
    plain_bytes: int
    modified: float
    blobs: frozenset[str]
    dangling: tuple[str, ...]
    outside: tuple[str, ...]

    @property
    def pinned(self) -> bool:
        """Tell whether a ref of ours says that it must stay."""
        return PIN in self.refs


class Repo(NamedTuple):
    """Hold one repo folder.

    `size` is what its revisions take, once a blob, as huggingface_hub counts it; `held` is every byte below the folder
    itself, so without the shared store; `hard_linked` are files in it that have other names too. `odd_refs` are those
    that only we can read, for a blank in them; `young` means that a download has just begun: its ref is written before
    anything else. `condemned` are snapshots of a removal that was interrupted.
    """

    folder: str
    path: str
    identity: Identity
    revisions: tuple[Revision, ...]
    blobs: Mapping[str, Blob]
    orphans: tuple[str, ...]
    partial: Mapping[str, int]
    missing_payloads: tuple[str, ...]
    broken_refs: Mapping[str, str]
    odd_refs: tuple[str, ...]
    young: bool
    condemned: tuple[str, ...]
    foreign: tuple[str, ...]
    size: int
    held: int
    hard_linked: Mapping[Identity, int]
    files: int
    accessed: float
    modified: float

    @property
    def kind(self) -> str:
        """Return `model`, `dataset`, `space` or `kernel`."""
        return kind(self.folder)

    @property
    def name(self) -> str:
        """Return the repo as a person names it: `koge/index-tts-v22`, `datasets/koge/voices`."""
        return name(self.folder)

    @property
    def used(self) -> float:
        """Return when it was last used, as far as the file system records it; seconds since the epoch."""
        return max(self.accessed, self.modified)

    @property
    def unlinked(self) -> frozenset[str]:
        """Return the blobs that no revision links to, also those by whose name nobody can tell whose they are."""
        return frozenset(self.blobs).difference(*(revision.blobs for revision in self.revisions))

    @property
    def shared(self) -> frozenset[str]:
        """Return the payloads of the shared store that its blobs link to."""
        return frozenset(blob.shared for blob in self.blobs.values() if blob.shared)


def condemned_commit(trash: str) -> str:
    """Return the commit whose snapshot lies in a repo's trash under this name."""
    return trash[len(TRASH) :].partition("-")[0]


def read(root: str, folder: str) -> Repo:
    """Read a repo folder.

    Raises OSError when it cannot be: what cannot be read is not taken for empty.
    """
    path = f"{root}/{folder}"
    found = os.lstat(path)
    names = os.listdir(path)
    for part in REPO_PARTS.intersection(names):
        if os.path.islink(f"{path}/{part}") and not os.path.isdir(f"{path}/{part}"):
            raise OSError(errno.ENOLINK, f"its {part} is a link to what is not there")
    found_blobs = _read_blobs(root, f"{path}/blobs") if "blobs" in names else _Blobs({}, {}, (), (), 0, {})
    blobs = found_blobs.blobs
    refs = dict(_read_refs(f"{path}/refs")) if "refs" in names else {}
    by_commit: dict[str, list[str]] = {}
    for ref, text in refs.items():
        by_commit.setdefault(text.strip(), []).append(ref)
    revisions, stray, plain = [], [], _Plain()
    if "snapshots" in names:
        with os.scandir(f"{path}/snapshots") as snapshots:
            for snapshot in snapshots:
                if snapshot.name in HELPERS:
                    continue
                if not snapshot.is_dir(follow_symlinks=False):
                    stray.append(f"snapshots/{snapshot.name}")
                    continue
                own_refs = tuple(sorted(by_commit.pop(snapshot.name, ())))
                revisions.append(_read_snapshot(snapshot, own_refs, blobs, plain))
    linked = frozenset().union(*(revision.blobs for revision in revisions)) if revisions else frozenset()
    unlinked = blobs.keys() - linked
    strange = {blob for blob in unlinked if not HASH.fullmatch(blob)}
    folders = frozenset(found_blobs.strange)
    used = [blobs[blob] for blob in linked]
    fallback = found if not (used or plain.files) else None
    return Repo(
        folder=folder,
        path=path,
        identity=(found.st_dev, found.st_ino),
        revisions=tuple(sorted(revisions, key=lambda revision: revision.commit)),
        blobs=blobs,
        orphans=tuple(sorted(unlinked - strange)),
        partial=found_blobs.partial,
        missing_payloads=found_blobs.missing,
        broken_refs={ref: commit for commit, rest in by_commit.items() for ref in rest},
        odd_refs=tuple(sorted(ref for ref, text in refs.items() if text != text.strip())),
        young=any(_is_young(f"{path}/refs/{ref}") for rest in by_commit.values() for ref in rest),
        condemned=tuple(sorted(name for name in names if name.startswith(TRASH))),
        foreign=(
            *sorted(filter(is_foreign, names)),
            *sorted(stray),
            *(f"blobs/{one}" for one in sorted(strange | folders)),
        ),
        size=sum(blob.size for blob in used) + plain.size,
        held=found_blobs.held + plain.held,
        hard_linked={**found_blobs.hard_linked, **plain.hard_linked},
        files=len(used) + plain.files,
        accessed=fallback.st_atime if fallback else max([*(b.accessed for b in used), plain.accessed]),
        modified=fallback.st_mtime if fallback else max([*(b.modified for b in used), plain.modified]),
    )


def is_partial(blob: str) -> bool:
    """Tell whether a blob of this name is one that has not arrived in full, or a link that is just being made."""
    return _PARTIAL.fullmatch(blob) is not None


def is_foreign(name: str) -> bool:
    """Tell whether what has this name in a repo's folder is neither huggingface_hub's nor the system's nor ours."""
    return name not in REPO_PARTS and name not in HELPERS and not name.startswith(TRASH)


def has_strangers(path: str) -> bool:
    """Return whether a repo's folder may hold what is not huggingface_hub's; to be sure, it must be read."""
    names = os.listdir(path)
    if not REPO_PARTS.issuperset(names) and any(map(is_foreign, names)):
        return True
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(f"{path}/snapshots") as snapshots:
        if not all(entry.is_dir(follow_symlinks=False) for entry in snapshots):
            return True
    with suppress(FileNotFoundError, NotADirectoryError):
        return not all(HASH.fullmatch(name) or is_partial(name) for name in os.listdir(f"{path}/blobs"))
    return False


class _Plain:
    """Add up the files that lie in snapshots themselves, where the system or the user has no links."""

    def __init__(self) -> None:
        self.size = self.files = self.held = 0
        self.accessed = self.modified = 0.0
        self.hard_linked: dict[Identity, int] = {}

    def add(self, found: os.stat_result) -> None:
        self.size += found.st_size
        self.files += 1
        identity = (found.st_dev, found.st_ino)
        if identity not in self.hard_linked:
            self.held += found.st_size
            if found.st_nlink > 1:
                self.hard_linked[identity] = found.st_size
        self.accessed = max(self.accessed, found.st_atime)
        self.modified = max(self.modified, found.st_mtime)


class _Blobs(NamedTuple):
    blobs: dict[str, Blob]
    partial: dict[str, int]
    missing: tuple[str, ...]
    strange: tuple[str, ...]
    held: int
    hard_linked: dict[Identity, int]


def _read_blobs(root: str, path: str) -> _Blobs:
    blobs: dict[str, Blob] = {}
    partial: dict[str, int] = {}
    missing: list[str] = []
    strange: list[str] = []
    hard_linked: dict[Identity, int] = {}
    held = 0
    with os.scandir(path) as found:
        for entry in found:
            shared = None
            try:
                if entry.is_symlink():
                    shared = store.target(root, path, os.readlink(entry.path))
                    status = os.stat(entry.path)
                else:
                    status = entry.stat(follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NOT_THERE:
                    raise  # what may not be looked at is not missing
                missing.append(entry.name)
                continue
            if not stat.S_ISREG(status.st_mode):
                if not HASH.fullmatch(entry.name) and not is_partial(entry.name):
                    strange.append(entry.name)
                continue
            identity = (status.st_dev, status.st_ino)
            own = 0 if entry.is_symlink() else status.st_size
            if own and identity not in hard_linked:
                held += own
                if status.st_nlink > 1:
                    hard_linked[identity] = own
            if is_partial(entry.name):
                partial[entry.name] = 0 if entry.is_symlink() else status.st_size
            else:
                times = (status.st_atime, status.st_mtime)
                blobs[entry.name] = Blob(entry.name, status.st_size, *times, identity, shared, own)
    return _Blobs(blobs, partial, tuple(sorted(missing)), tuple(strange), held, hard_linked)


def _read_snapshot(
    snapshot: os.DirEntry[str], refs: tuple[str, ...], blobs: Mapping[str, Blob], plain: _Plain
) -> Revision:
    linked: set[str] = set()
    dangling, outside = [], []
    files = 0
    own = _Plain()
    base = len(snapshot.path) + 1
    blob_folder = os.path.normpath(f"{snapshot.path}/../../blobs")
    pending = [(snapshot.path, "../../blobs/")]
    while pending:
        folder, prefix = pending.pop()
        with os.scandir(folder) as found:
            for entry in found:
                if entry.is_symlink():
                    files += 1
                    target = os.readlink(entry.path)
                    usual = target.startswith(prefix)
                    blob = blobs.get(target[len(prefix) :] if usual else _resolved(folder, target, blob_folder))
                    if blob:
                        linked.add(blob.name)
                    elif _leads_somewhere(entry.path):
                        outside.append(entry.path[base:])
                    else:
                        dangling.append(entry.path[base:])
                elif entry.is_dir(follow_symlinks=False):
                    pending.append((entry.path, f"../{prefix}"))
                elif entry.is_file(follow_symlinks=False):
                    files += 1
                    status = entry.stat(follow_symlinks=False)
                    own.add(status)
                    plain.add(status)
    times = [blobs[name].modified for name in linked]
    return Revision(
        commit=snapshot.name,
        refs=refs,
        files=files,
        size=sum(blobs[name].size for name in linked) + own.size,
        plain_files=own.files,
        plain_bytes=own.size,
        modified=max([*times, own.modified]) if linked or own.files else os.stat(snapshot.path).st_mtime,
        blobs=frozenset(linked),
        dangling=tuple(sorted(dangling)),
        outside=tuple(sorted(outside)),
    )


def _leads_somewhere(path: str) -> bool:
    try:
        os.stat(path)
    except OSError as error:
        return error.errno not in _NOT_THERE
    return True


def _resolved(folder: str, target: str, blob_folder: str) -> str:
    """Return the blob's name that an unusual link stands for, blank where it leads out of the repo's blobs."""
    parent, _, name = os.path.join(folder, target).rpartition(os.sep)
    return name if os.path.realpath(parent) == blob_folder else ""


def _read_refs(path: str) -> Iterator[tuple[str, str]]:
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(f"{path}/{prefix}") as found:
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{prefix}{entry.name}/")
                elif entry.name not in HELPERS:
                    yield f"{prefix}{entry.name}", ref_text(entry.path)


def _is_young(path: str) -> bool:
    try:
        return time.time() - os.lstat(path).st_mtime < _YOUNG_SECONDS
    except OSError:
        return False
