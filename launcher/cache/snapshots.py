"""A snapshot is a folder of links to blobs, or of plain files where there are no links; anything else is foreign.

A plain file is huggingface_hub's where the commit's tree has it, or where its repo has no blobs at all, as on a file
system without links. In all other cases a person has put it there: a compiled engine, a voice, an edited config.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from .completeness import tree
from .names import PIN, UNFINISHED

NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
# Names of blobs that have not arrived in full: of huggingface_hub, and of clients in other languages.
_PARTIAL = re.compile(
    rf".+\.incomplete|\..+\.[0-9a-f]{{8}}\.shared|(?:[0-9a-f]{{64}}|[0-9a-f]{{40}})\.(?:lock|{UNFINISHED})", re.DOTALL
)

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
    """Hold a snapshot.

    `link` is what the snapshot leads to where it is a link itself. `blobs` are what it links to. Of its paths,
    `dangling` lead to nothing, `outside` lead out of the repo, `foreign` are somebody's own plain files; all others
    that are plain files count in `plain_files` and `plain_bytes`.
    """

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
    foreign: tuple[str, ...] = ()
    link: str = ""

    @property
    def pinned(self) -> bool:
        """Return whether a ref of ours says that it must stay."""
        return PIN in self.refs

    @property
    def only_foreign(self) -> bool:
        """Return whether nothing in it is huggingface_hub's."""
        return bool(self.foreign) and self.files == len(self.foreign)


class Plain:
    """Add up the files that lie in snapshots themselves, where the system or the user has no links."""

    def __init__(self) -> None:
        self.size = self.files = self.held = self.foreign = 0
        self.accessed = self.modified = 0.0
        self.hard_linked: dict[Identity, int] = {}

    def add(self, status: os.stat_result, *, held: bool = True, foreign: bool = False) -> None:
        """Add a file; its bytes are `held` by the repo where a removal would free them, and `foreign` ones are not."""
        self.size += status.st_size
        self.files += 1
        identity = (status.st_dev, status.st_ino)
        self.foreign += status.st_size if foreign else 0
        if held and not foreign and identity not in self.hard_linked:
            self.held += status.st_size
            if status.st_nlink > 1:
                self.hard_linked[identity] = status.st_size
        self.accessed = max(self.accessed, status.st_atime)
        self.modified = max(self.modified, status.st_mtime)


class Place(NamedTuple):
    """Hold the repo that snapshots are read of: its path, whether it is a link, its blobs, and what it links to."""

    path: str
    linked: bool
    blobs: Mapping[str, Blob]
    plain: Plain
    leads: dict[str, str]


def read_snapshot(place: Place, commit: str, refs: tuple[str, ...]) -> Revision:
    """Read a snapshot.

    Raises OSError when it cannot be read.
    """
    base = f"{place.path}/snapshots/{commit}"
    link = os.readlink(base) if os.path.islink(base) else ""
    if link and not os.path.isdir(base):
        return Revision(commit, refs, 0, 0, 0, 0, os.lstat(base).st_mtime, frozenset(), (".",), (), link=link)
    linked: set[str] = set()
    dangling, outside = [], []
    files = 0
    own: list[tuple[str, os.stat_result]] = []
    for path, entry in walk_snapshot(base):
        if entry.is_symlink():
            files += 1
            blob, target = _blob(place, base, path, os.readlink(entry.path), direct=not (link or place.linked))
            if blob:
                linked.add(blob)
            if not target:
                continue
            place.leads[f"snapshots/{commit}/{path}"] = target
            if not leads_somewhere(entry.path):
                dangling.append(path)
            elif not blob:
                outside.append(path)
        elif entry.is_file(follow_symlinks=False):
            files += 1
            own.append((path, entry.stat(follow_symlinks=False)))
    foreign: frozenset[str] = frozenset()
    if own and not (link or place.linked):
        has_links = bool(linked or dangling or outside)
        sizes = {path: status.st_size for path, status in own}
        # Every download makes `blobs`, also where there are no links: without it, a removal has kept these files.
        kept = not any(os.path.lexists(f"{place.path}/{part}") for part in ("blobs", "refs"))
        has_blobs = has_links or bool(place.blobs) or kept
        foreign = foreign_files(sizes, f"{place.path}/trees/{commit}.json", has_links=has_links, has_blobs=has_blobs)
    plain = Plain()
    for path, status in own:
        place.plain.add(status, held=not (link or place.linked), foreign=path in foreign)
        if path not in foreign:
            plain.add(status)
    sizes_of_all = sum(status.st_size for _, status in own)
    times = [*(place.blobs[name].modified for name in linked), *(status.st_mtime for _, status in own)]
    return Revision(
        commit=commit,
        refs=refs,
        files=files,
        size=sum(place.blobs[name].size for name in linked) + sizes_of_all,
        plain_files=plain.files,
        plain_bytes=0 if link or place.linked else plain.size,
        modified=max(times) if times else os.stat(base).st_mtime,
        blobs=frozenset(linked),
        dangling=tuple(sorted(dangling)),
        outside=tuple(sorted(outside)),
        foreign=tuple(sorted(foreign)),
        link=link,
    )


def walk_snapshot(base: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield everything in a snapshot that is not a folder, with its path there.

    Raises OSError for a folder that cannot be read.
    """
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(f"{base}/{prefix}") as listing:
            for entry in listing:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{prefix}{entry.name}/")
                else:
                    yield f"{prefix}{entry.name}", entry


def foreign_files(sizes: Mapping[str, int], tree_path: str, *, has_links: bool, has_blobs: bool) -> frozenset[str]:
    """Return which plain files of a snapshot, of these sizes in bytes, are not huggingface_hub's.

    Beside links, a file that the tree has is still foreign if its size differs: somebody put it in a link's place.
    """
    known = tree(tree_path)
    if not known:
        return frozenset(sizes) if has_blobs else frozenset()
    return frozenset(p for p, size in sizes.items() if p not in known or (has_links and size != known[p][1]))


def is_partial(blob: str) -> bool:
    """Return whether a blob of this name has not arrived in full, or is a link that is just being made."""
    return _PARTIAL.fullmatch(blob) is not None


def leads_somewhere(path: str) -> bool:
    """Return whether a link leads to something, as far as that can be looked at."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno not in NOT_THERE
    return True


def _blob(place: Place, base: str, path: str, text: str, *, direct: bool) -> tuple[str, str]:
    """Return the blob of its own repo that a link stands for, and where it leads unless that is just this blob.

    An absolute link of huggingface_hub 0.13 to 0.22 names the place where the cache was when it was made. In a cache
    that was moved or copied, it stands for the blob that is here. So does a relative one of a snapshot that was moved
    alone, as long as it leads to nothing.
    """
    if direct:
        usual = f"{'../' * (path.count('/') + 2)}blobs/"
        if text.startswith(usual) and text[len(usual) :] in place.blobs:
            return text[len(usual) :], ""
    parent, _, name = os.path.join(os.path.realpath(os.path.dirname(f"{base}/{path}")), text).rpartition("/")
    real = os.path.realpath(parent)
    if name in place.blobs:
        if real == os.path.realpath(f"{place.path}/blobs"):
            return name, ""
        if os.path.isabs(text) and parent.endswith(f"/{os.path.basename(place.path)}/blobs"):
            return name, f"{real}/{name}"
        if parent.endswith("/blobs") and not os.path.lexists(f"{real}/{name}"):
            return name, f"{real}/{name}"
    return "", f"{real}/{name}"
