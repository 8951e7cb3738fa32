"""Read a hub cache as it is on the disk, each entry once; odd entries are recorded as facts, not raised as errors.

The layout is https://huggingface.co/docs/huggingface_hub/guides/manage-cache: a repo has `blobs` (named by their hash),
`snapshots/<commit>` (links to blobs, or plain files on systems without links), `refs` (files that name a commit), and
from 1.22 on `trees`. With Xet's shared store (1.32 and later) a blob can be a link into the root's own `blobs`. A repo,
each of its parts, a snapshot or a blob can be a link to another disk; it is read through that link.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from . import small_parts, store
from .dirs import opened
from .entries import HELPERS
from .names import HASH, is_new_ref, kind, name, ref_text
from .snapshots import (
    NOT_THERE,
    Blob,
    HardLinked,
    Identity,
    Place,
    Plain,
    Revision,
    count_once,
    is_partial,
    read_snapshot,
    walk_snapshot,
)

REPO_PARTS = frozenset(("blobs", "refs", "snapshots", "trees", ".no_exist"))
# A download writes its ref first, then asks the hub, and only then locks its first file.
_YOUNG_SECONDS = 600.0


class Repo(NamedTuple):
    """Hold one repo folder.

    `link` is the folder's destination if it is a link, `part_links` the same for its parts. `size` counts the bytes of
    its revisions as huggingface_hub does, each blob once. `held` are the bytes that a removal of the folder takes away:
    without the shared store and without the `foreign_bytes` of foreign files. `hard_linked` are its files with several
    names: a name that stays keeps the bytes. `odd_refs` are refs that only we can read, because they contain blanks.
    `young` means that a download has just begun: it writes its ref first. `foreign` are the paths that are not
    huggingface_hub's, `lent` the blobs that foreign folders among the snapshots link to, each with such a link, and
    `leads` all links out of the repo, with their destinations.
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
    foreign: tuple[str, ...]
    size: int
    held: int
    foreign_bytes: int
    hard_linked: Mapping[Identity, HardLinked]
    files: int
    accessed: float
    modified: float
    link: str = ""
    part_links: Mapping[str, str] = {}
    lent: Mapping[str, str] = {}
    leads: Mapping[str, str] = {}

    @property
    def kind(self) -> str:
        """Return `model`, `dataset`, `space` or `kernel`."""
        return kind(self.folder)

    @property
    def name(self) -> str:
        """Return the repo's readable name: `koge/index-tts-v22`, `datasets/koge/voices`."""
        return name(self.folder)

    @property
    def used(self) -> float:
        """Return the time of the last use that the file system recorded; seconds since the epoch."""
        return max(self.accessed, self.modified)

    @property
    def own_foreign(self) -> tuple[str, ...]:
        """Return the foreign paths in the folder itself; paths behind links are never touched."""
        return () if self.link else tuple(p for p in self.foreign if p.partition("/")[0] not in self.part_links)

    @property
    def has_own(self) -> bool:
        """Return whether the folder contains files of huggingface_hub; an empty folder counts as such."""
        strangers = self.own_foreign
        blobs = {f"blobs/{blob}" for blob in self.blobs}.difference(strangers)
        revisions = any(revision.refs or not revision.only_foreign for revision in self.revisions)
        return not strangers or bool(blobs or revisions or self.partial or self.missing_payloads or self.broken_refs)

    @property
    def unlinked(self) -> frozenset[str]:
        """Return the blobs that no revision links to, also those whose names do not identify them."""
        return frozenset(self.blobs).difference(self.lent, *(revision.blobs for revision in self.revisions))

    @property
    def shared(self) -> frozenset[str]:
        """Return the payloads of the shared store that its blobs link to."""
        return frozenset(blob.shared for blob in self.blobs.values() if blob.shared)


def read(root: str, folder: str) -> Repo:
    """Read a repo folder.

    Raises OSError if it cannot be read: an unreadable folder does not count as empty.
    """
    path = f"{root}/{folder}"
    status = os.lstat(path)
    link = os.readlink(path) if stat.S_ISLNK(status.st_mode) else ""
    if link and not os.path.isdir(path):
        raise OSError(errno.ENOLINK, f"it is a link to {link}, which is not there")
    with os.scandir(path) as listing:
        names = {entry.name: entry.is_symlink() for entry in listing}
    part_links = {part: os.readlink(f"{path}/{part}") for part in REPO_PARTS if names.get(part)}
    for part, target in part_links.items():
        if not os.path.isdir(f"{path}/{part}"):
            raise OSError(errno.ENOLINK, f"its {part} is a link to {target}, which is not there")
    leads: dict[str, str] = {}
    plain = Plain()
    hard = {} if "blobs" in part_links else plain.hard_linked
    found_blobs = _read_blobs(root, path, leads, hard) if "blobs" in names else _Blobs({}, {}, (), (), 0)
    elsewhere = bool(link)
    blobs = found_blobs.blobs
    refs = dict(_read_refs(f"{path}/refs")) if "refs" in names else {}
    strange_refs = () if "refs" in part_links else small_parts.strange_refs(path, refs)
    notes = (*small_parts.strangers(path, names.keys() - {"refs"}), *strange_refs)
    refs = {ref: text for ref, text in refs.items() if f"refs/{ref}" not in notes}
    by_commit: dict[str, list[str]] = {}
    for ref, text in refs.items():
        by_commit.setdefault(text.strip(), []).append(ref)
    # Every download creates `refs` or an empty `blobs`, also without links: if both are missing, a removal has kept the
    # plain files in the snapshots.
    kept = not refs and ("blobs" not in names or bool(found_blobs.strange))
    place = Place(path, elsewhere or "snapshots" in part_links, blobs, plain, leads, kept)
    revisions, stray = [], []
    lent: dict[str, str] = {}
    for snapshot in _snapshots(path) if "snapshots" in names else ():
        if HASH.fullmatch(snapshot.name) and _is_folder(snapshot):
            revisions.append(read_snapshot(place, snapshot.name, tuple(sorted(by_commit.pop(snapshot.name, ())))))
        else:
            stray.append(f"snapshots/{snapshot.name}")
            lent.update(_lent(place, snapshot))
    linked = frozenset().union(*(revision.blobs for revision in revisions)) if revisions else frozenset()
    unlinked = blobs.keys() - linked - lent.keys()
    strange = {blob for blob in blobs.keys() - linked if not HASH.fullmatch(blob)}
    used = [blobs[blob] for blob in linked]
    fallback = status if not (used or plain.files) else None
    own_strange = sum(blobs[blob].held for blob in strange)
    held = 0 if elsewhere else plain.held + (0 if "blobs" in part_links else found_blobs.held)
    return Repo(
        folder=folder,
        path=path,
        identity=(status.st_dev, status.st_ino),
        revisions=tuple(sorted(revisions, key=lambda revision: revision.commit)),
        blobs=blobs,
        orphans=tuple(sorted(unlinked - strange)),
        partial=found_blobs.partial,
        missing_payloads=found_blobs.missing,
        broken_refs={ref: commit for commit, rest in by_commit.items() for ref in rest},
        odd_refs=tuple(sorted(ref for ref, text in refs.items() if text != text.strip())),
        young=any(is_young(f"{path}/refs/{ref}") for rest in by_commit.values() for ref in rest),
        foreign=(
            *sorted(name for name in names if _is_foreign(path, name)),
            *sorted(stray),
            *sorted(notes),
            *(f"blobs/{blob}" for blob in sorted(strange.union(found_blobs.strange))),
            *(f"snapshots/{revision.commit}/{file}" for revision in revisions for file in revision.foreign),
        ),
        size=sum(blob.size for blob in used) + plain.size,
        held=held - (0 if "blobs" in part_links or elsewhere else own_strange),
        foreign_bytes=plain.foreign + own_strange,
        hard_linked={} if elsewhere else plain.hard_linked,
        files=len(used) + plain.files,
        accessed=fallback.st_atime if fallback else max([*(b.accessed for b in used), plain.accessed]),
        modified=fallback.st_mtime if fallback else max([*(b.modified for b in used), plain.modified]),
        link=link,
        part_links=part_links,
        lent=lent,
        leads=leads,
    )


def _is_foreign(repo: str, name: str) -> bool:
    """Return whether this name in a repo's folder is foreign: not huggingface_hub's, the system's or ours."""
    own = name in REPO_PARTS or name in HELPERS or is_new_ref(name)
    return not (own or small_parts.is_trial(f"{repo}/{name}"))


def has_strangers(path: str) -> bool:
    """Return whether a repo's folder may contain foreign files; only reading all of it gives certainty.

    Raises OSError if it cannot be read.
    """
    with os.scandir(path) as listing:
        parts = {entry.name: entry for entry in listing}
    if not REPO_PARTS.issuperset(parts) and any(_is_foreign(path, name) for name in parts):
        return True
    if "blobs" in parts and parts["blobs"].is_dir(follow_symlinks=False):
        with os.scandir(f"{path}/blobs") as listing:
            for blob in listing:
                if blob.is_dir(follow_symlinks=False) or not (HASH.fullmatch(blob.name) or is_partial(blob.name)):
                    return True
    if any(small_parts.strangers(path, parts)):
        return True
    if "snapshots" in parts and parts["snapshots"].is_dir(follow_symlinks=False):
        for snapshot in _snapshots(path):
            if not HASH.fullmatch(snapshot.name) or not _is_folder(snapshot):
                return True
            if not snapshot.is_symlink() and not all(file.is_symlink() for *_, file in walk_snapshot(snapshot.path)):
                return True
    return not REPO_PARTS.intersection(parts) and bool(parts)


class _Blobs(NamedTuple):
    blobs: dict[str, Blob]
    partial: dict[str, int]
    missing: tuple[str, ...]
    strange: tuple[str, ...]
    held: int


def _read_blobs(root: str, repo: str, leads: dict[str, str], hard: dict[Identity, HardLinked]) -> _Blobs:
    path = f"{repo}/blobs"
    blobs: dict[str, Blob] = {}
    partial: dict[str, int] = {}
    missing: list[str] = []
    strange: list[str] = []
    held = 0
    with opened(path) as folder, os.scandir(folder) as listing:
        for entry in listing:
            blob, is_link, shared = entry.name, entry.is_symlink(), None
            try:
                if is_link:
                    target = os.readlink(blob, dir_fd=folder)
                    shared = store.target(root, path, target)
                    if shared is None:
                        leads[f"blobs/{blob}"] = os.path.normpath(os.path.join(os.path.realpath(path), target))
                status = entry.stat()
            except OSError as error:
                if error.errno not in NOT_THERE:
                    raise  # an inaccessible file is not a missing file
                missing.append(blob)
                continue
            if not stat.S_ISREG(status.st_mode):
                if entry.is_dir(follow_symlinks=False) or not (HASH.fullmatch(blob) or is_partial(blob)):
                    strange.append(blob)
                continue
            identity = (status.st_dev, status.st_ino)
            own = 0 if is_link else status.st_size
            held += 0 if is_link else count_once(status, hard)
            if is_partial(blob):
                partial[blob] = own
            else:
                times = (status.st_atime, status.st_mtime)
                blobs[blob] = Blob(blob, status.st_size, *times, identity, shared, own)
    return _Blobs(blobs, partial, tuple(sorted(missing)), tuple(strange), held)


def _snapshots(path: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(f"{path}/snapshots") as listing:
        yield from (entry for entry in listing if entry.name not in HELPERS)


def _is_folder(snapshot: os.DirEntry[str]) -> bool:
    """Return whether a snapshot is a folder or a link to one, also if the link's disk is not mounted."""
    if snapshot.is_dir(follow_symlinks=False):
        return True
    return snapshot.is_symlink() and (snapshot.is_dir() or not os.path.lexists(os.path.realpath(snapshot.path)))


def _lent(place: Place, snapshot: os.DirEntry[str]) -> Iterator[tuple[str, str]]:
    """Yield the blobs that a foreign folder among the snapshots links to, each with its link."""
    if not snapshot.is_dir(follow_symlinks=False):
        return
    for folder, prefix, entry in walk_snapshot(snapshot.path):
        if entry.is_symlink():
            path = f"{snapshot.path}/{prefix}"
            parent, _, blob = os.path.join(path, os.readlink(entry.name, dir_fd=folder)).rpartition("/")
            if blob in place.blobs and os.path.realpath(parent) == os.path.realpath(f"{place.path}/blobs"):
                yield blob, f"{path}{entry.name}"


def _read_refs(path: str) -> Iterator[tuple[str, str]]:
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(f"{path}/{prefix}") as listing:
            for entry in listing:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{prefix}{entry.name}/")
                elif entry.name not in HELPERS:
                    yield f"{prefix}{entry.name}", ref_text(entry.path)


def is_young(path: str) -> bool:
    """Return whether the file is so new that a download may still be writing it, although it holds no lock."""
    try:
        return time.time() - os.lstat(path).st_mtime < _YOUNG_SECONDS
    except OSError:
        return False
