"""A snapshot is a folder of links to blobs, or of plain files on systems without links; all else in it is foreign.

A plain file is huggingface_hub's if the commit's tree has it, or if its repo has no blobs, as on a file system without
links. Otherwise a person has put it there: a compiled engine, a voice, an edited config.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..system.files import content_hash
from .dirs import open_to_read, opened
from .names import PIN, UNFINISHED

if TYPE_CHECKING:
    from .completeness import Files

NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
# Names of partial blobs: of huggingface_hub, and of clients in other languages.
_PARTIAL = re.compile(
    rf".+\.incomplete|\..+\.[0-9a-f]{{8}}\.shared|(?:[0-9a-f]{{64}}|[0-9a-f]{{40}})\.(?:lock|{UNFINISHED})", re.DOTALL
)

Identity = tuple[int, int]


class Blob(NamedTuple):
    """Hold a blob; `held` are its bytes in the repo, `shared` is the name of its payload in the shared store."""

    name: str
    size: int
    accessed: float
    modified: float
    identity: Identity
    shared: str | None
    held: int


class HardLinked(NamedTuple):
    """Hold a file with several names: its bytes, how many of its names are in the repo, and how many it has."""

    size: int
    here: int
    names: int


def count_once(status: os.stat_result, hard: dict[Identity, HardLinked]) -> int:
    """Return the bytes of a file, 0 for a further name of it; note files with several names in `hard`."""
    if status.st_nlink < 2:
        return status.st_size
    identity = (status.st_dev, status.st_ino)
    known = hard.get(identity)
    hard[identity] = HardLinked(status.st_size, known.here + 1 if known else 1, status.st_nlink)
    return 0 if known else status.st_size


class Revision(NamedTuple):
    """Hold a snapshot.

    `link` is the snapshot's destination if it is a link itself. `blobs` are the blobs that it links to. Of its paths,
    `dangling` are links to nothing, `outside` links out of the repo, and `foreign` plain files that a person added;
    `plain_files` and `plain_bytes` count all other plain files; `hard_linked` are those with several names.
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
    hard_linked: Mapping[Identity, HardLinked] = {}

    @property
    def pinned(self) -> bool:
        """Return whether a ref of ours pins it."""
        return PIN in self.refs

    @property
    def only_foreign(self) -> bool:
        """Return whether it contains nothing of huggingface_hub's."""
        return bool(self.foreign) and self.files == len(self.foreign)


class Plain:
    """Add up the plain files in snapshots, on systems or for users without links."""

    def __init__(self) -> None:
        self.size = self.files = self.held = self.foreign = 0
        self.accessed = self.modified = 0.0
        self.hard_linked: dict[Identity, HardLinked] = {}

    def add(self, status: os.stat_result, *, held: bool = True, foreign: bool = False) -> None:
        """Add a file; the repo has its `held` bytes if a removal would free them, and none of a `foreign` file."""
        self.size += status.st_size
        self.files += 1
        self.foreign += status.st_size if foreign else 0
        if held and not foreign:
            self.held += count_once(status, self.hard_linked)
        self.accessed = max(self.accessed, status.st_atime)
        self.modified = max(self.modified, status.st_mtime)


class Place(NamedTuple):
    """Hold the repo of the snapshots: its path, whether it is a link, its blobs, and the links out of it.

    `kept` means that a removal has left only foreign files in it.
    """

    path: str
    linked: bool
    blobs: Mapping[str, Blob]
    plain: Plain
    leads: dict[str, str]
    kept: bool


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
    direct, blobs = not (link or place.linked), place.blobs
    inside = usual = ""
    for folder, prefix, entry in walk_snapshot(base):
        if entry.is_symlink():
            files += 1
            text = os.readlink(entry.name, dir_fd=folder)
            if prefix != inside or not usual:
                inside, usual = prefix, f"{'../' * (prefix.count('/') + 2)}blobs/"
            # Nearly every link has this form, and a cache has very many.
            if direct and text.startswith(usual) and (usually := text[len(usual) :]) in blobs:
                linked.add(usually)
                continue
            path = f"{prefix}{entry.name}"
            blob, target = _blob(place, base, path, text)
            if blob:
                linked.add(blob)
            if not target:
                continue
            place.leads[f"snapshots/{commit}/{path}"] = target
            if not leads_somewhere(f"{base}/{path}"):
                dangling.append(path)
            elif not blob:
                outside.append(path)
        elif entry.is_file(follow_symlinks=False):
            files += 1
            own.append((f"{prefix}{entry.name}", entry.stat(follow_symlinks=False)))
    foreign: frozenset[str] = frozenset()
    if own and direct:
        has_links = bool(linked or dangling or outside)
        sizes = {path: status.st_size for path, status in own}
        has_blobs = has_links or bool(place.blobs) or place.kept
        foreign = foreign_files(base, sizes, tree_of(place.path, commit), has_links=has_links, has_blobs=has_blobs)
    plain = Plain()
    for path, status in own:
        place.plain.add(status, held=direct, foreign=path in foreign)
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
        plain_bytes=plain.held if direct else 0,
        modified=max(times) if times else os.stat(base).st_mtime,
        blobs=frozenset(linked),
        dangling=tuple(sorted(dangling)),
        outside=tuple(sorted(outside)),
        foreign=tuple(sorted(foreign)),
        link=link,
        hard_linked=plain.hard_linked if direct else {},
    )


def walk_snapshot(base: str) -> Iterator[tuple[int, str, os.DirEntry[str]]]:
    """Yield every file in a snapshot, with its open folder and the start of its path there: blank, or `name/`.

    Paths relative to an open folder take the system a quarter less time. Raises OSError for an unreadable folder.
    """
    pending = [""]
    while pending:
        prefix = pending.pop()
        with opened(f"{base}/{prefix}") as folder, os.scandir(folder) as listing:
            for entry in listing:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{prefix}{entry.name}/")
                else:
                    yield folder, prefix, entry


def tree_of(repo: str, commit: str) -> Files:
    """Return huggingface_hub's list of the files of a commit of a repo; empty without one."""
    from .completeness import tree  # few snapshots have plain files

    return tree(f"{repo}/trees/{commit}.json")


def foreign_files(
    base: str, sizes: Mapping[str, int], known: Files, *, has_links: bool, has_blobs: bool
) -> frozenset[str]:
    """Return the plain files of the snapshot at `base`, with sizes in bytes, that are not huggingface_hub's.

    If the snapshot has links too, a person may have replaced a link with an edited file, also one of the same size.
    """
    if not known:
        return frozenset(sizes) if has_blobs else frozenset()
    return frozenset(
        path
        for path, size in sizes.items()
        if path not in known or (has_links and (size != known[path][1] or not _is(f"{base}/{path}", known[path][0])))
    )


def _is(path: str, digest: str) -> bool:
    """Return whether a file has the content of this hash; an unreadable one is not proven to have it."""
    try:
        descriptor = open_to_read(path)
    except OSError:
        return False
    try:
        return content_hash(descriptor, digest) == digest
    except OSError:
        return False
    finally:
        os.close(descriptor)


def is_partial(blob: str) -> bool:
    """Return whether a blob name is that of a partial download or of a temporary link."""
    return "." in blob and _PARTIAL.fullmatch(blob) is not None


def leads_somewhere(path: str) -> bool:
    """Return whether a link leads to an existing file, as far as we can access it."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno not in NOT_THERE
    return True


def _blob(place: Place, base: str, path: str, text: str) -> tuple[str, str]:
    """Return the blob of its own repo that a link means, and its destination unless that is the blob itself.

    An absolute link of huggingface_hub 0.13 to 0.22 contains the cache's path at that time. In a moved or copied cache,
    it means the blob that is here now. The same holds for a dangling relative link in a snapshot that was moved alone.
    """
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
