"""A cached commit is complete if every file of its list is here; without a list, the answer is unknown.

The list is huggingface_hub's own `trees/<commit>.json`, the pin in `models.lock`, or the hub's answer. A missing file
is not always a gap: many libraries load some files of a repo and never need the rest. A missing file is a gap only with
evidence: a dangling link, a partial download, a replaced commit that has the file, other shards of the same weights, or
files that only a download of the whole repo brings. A folder without any file was skipped on purpose.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from ..system.files import names_in, read_regular
from ..ui.text import count
from .dirs import walk
from .names import HASH, PIN, UNFINISHED, read_ref

Files = Mapping[str, tuple[str, int]]
"""The files of a commit by path: hash and bytes."""

_MOST_BYTES_OF_A_TREE = 1 << 28
_PARTIAL = re.compile(rf"(.+?)(?:\.[0-9a-f]{{8}})?\.(?:incomplete|{UNFINISHED})", re.DOTALL)
# aria2 creates a file with its final name and size, and deletes its control file when the download ends.
_NOTED = ".aria2"
_WEIGHTS = frozenset(
    (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".gguf", ".ggml", ".onnx", ".msgpack", ".h5", ".npz", ".tflite")
)
# A library loads one of these files, never all of them.
_ALTERNATIVES = frozenset((".gguf", ".ggml", ".onnx", ".tflite"))
_OTHER_FRAMEWORKS = re.compile(r"(?:flax|tf|rust|openvino|coreml)[_.-]", re.IGNORECASE)
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")
_CONFIG = (".json", ".yaml", ".yml", ".model", ".txt")
# No library loads these; only a download of the whole repo brings them.
_OF_THE_WHOLE = frozenset((".gitattributes", "README.md"))


class Copy(NamedTuple):
    """Hold the present files of a commit, and the evidence of missing ones.

    `files` maps the files with content to their bytes, `dangling` are the links to nothing, `siblings` the paths of
    commits without a ref, and `partial` the names of partly downloaded blobs. `listed` means that the disk has a list
    of the commit's files: a download of several files began. `replaces_whole` means that one of those other commits is
    complete.
    """

    commit: str
    files: Mapping[str, int]
    dangling: frozenset[str] = frozenset()
    siblings: frozenset[str] = frozenset()
    partial: frozenset[str] = frozenset()
    listed: bool = False
    replaces_whole: bool = False

    @property
    def doubt(self) -> str:
        """Return the evidence that files are missing although no list is known; blank without evidence."""
        if not (self.files or self.dangling):
            return "no files"
        if self.dangling:
            return f"{count(len(self.dangling), 'file')} missing: {min(self.dangling)}"
        if self.partial:
            return f"a download broke off: {count(len(self.partial), 'file')} arrived in part"
        shards = sorted(_lost_shards(self.files))
        if shards:
            return f"{count(len(shards), 'file')} missing: {shards[0]}"
        lost = sorted(path for path in self.siblings if is_weights(path))
        if lost and not any(map(is_weights, self.files)):
            return f"no weights; the previous commit has {lost[0]}"
        return ""


def copy_of(repo: str, commit: str) -> Copy:
    """Return the present files of a commit and the evidence of missing ones; `path` is that of its repo.

    Raises OSError if its snapshot cannot be read.
    """
    base = f"{repo}/snapshots/{commit}"
    os.scandir(base).close()
    files, dangling = _content(base)
    referenced = {_ref(entry.path) for entry in walk(f"{repo}/refs") if not entry.name.startswith(PIN)}
    replaced = set(names_in(f"{repo}/snapshots")) - referenced - {commit}
    others = {other: frozenset(_content(f"{repo}/snapshots/{other}")[0]) for other in replaced}
    siblings = frozenset().union(*others.values())
    whole = any(_is_whole(paths, tree(f"{repo}/trees/{other}.json")) for other, paths in others.items())
    blobs = frozenset(names_in(f"{repo}/blobs"))
    partial = {match[1] for name in blobs if (match := _PARTIAL.fullmatch(name))}
    whole_names = {name for name in blobs if f"{name}{_NOTED}" not in blobs}
    listed = os.path.exists(f"{repo}/trees/{commit}.json")
    return Copy(commit, files, frozenset(dangling), siblings, frozenset(partial - whole_names), listed, whole)


def _is_whole(paths: frozenset[str], listed: Files) -> bool:
    return bool(paths & _OF_THE_WHOLE or (listed and paths.issuperset(listed)))


def gaps(copy: Copy, listed: Files) -> tuple[str, ...]:
    """Return the files of a commit that are expected but missing or truncated; `listed` are all its files."""
    missing = frozenset(listed).difference(copy.files)
    known = [(path, size) for path, size in copy.files.items() if path in listed]
    cut = {path for path, size in known if size != listed[path][1] or listed[path][0] in copy.partial}
    if not missing:
        return tuple(sorted(cut))
    if not copy.files:
        return tuple(sorted((not copy.replaces_whole and copy.siblings.intersection(listed)) or listed))
    arriving = {path for path in missing if listed[path][0] in copy.partial}
    evidence = {*arriving, *copy.dangling.intersection(missing), *copy.siblings.intersection(missing)}
    families = frozenset(map(_family, copy.files)) - {None}
    evidence |= {path for path in missing if _family(path) in families}
    weights = frozenset(filter(is_weights, listed))
    others = frozenset(listed) - weights
    signs = _OF_THE_WHOLE.intersection(listed) or others
    whole = signs and signs.issubset(copy.files)
    broken_off = arriving or copy.replaces_whole
    if whole or broken_off:
        folders = {os.path.dirname(path) for path in {*copy.files, *evidence}} | {""}
        meant = {path for path in missing if broken_off or os.path.dirname(path) in folders}
        evidence |= meant - weights
        here = weights.intersection(copy.files) | (weights & evidence)
        kinds = _kinds(here)
        evidence |= {path for path in meant & weights if not _is_replaced(path, kinds)} if here else preferred(weights)
    elif copy.listed:
        folders = {os.path.dirname(path) for path in weights.intersection(copy.files)}
        evidence |= {p for p in missing - weights if p.endswith(_CONFIG) and os.path.dirname(p) in folders}
    if weights.isdisjoint({*copy.files, *evidence}) and any(map(is_weights, copy.siblings)):
        evidence |= preferred(weights, copy.siblings)
    return tuple(sorted(evidence | cut))


def is_weights(path: str) -> bool:
    """Return whether a file name is that of weights."""
    return os.path.splitext(path)[1].lower() in _WEIGHTS


def preferred(weights: Collection[str], like: Iterable[str] = ()) -> frozenset[str]:
    """Return the weights that an app loads most likely: safetensors, or else the older formats."""
    wanted = {".safetensors", *(os.path.splitext(path)[1] for path in like if is_weights(path))}
    usual = [path for path in weights if not _is_alternative(path)]
    return frozenset(path for path in usual if os.path.splitext(path)[1] in wanted) or frozenset(usual or weights)


def shards(index: str, listed: Iterable[str]) -> Iterator[str]:
    """Yield the shards that an index file of weights (`model.safetensors.index.json`) lists."""
    return (path for path in listed if (family := _family(path)) and index == "{}{}.index.json".format(*family))


def tree(path: str) -> Files:
    """Return huggingface_hub's own list of a commit's files; empty without one."""
    try:
        files = json.loads(read_regular(path, _MOST_BYTES_OF_A_TREE))["files"]
        pairs = {
            name: (entry.get("lfs_sha256") or entry["blob_id"], entry.get("lfs_size") or entry["size"])
            for name, entry in files.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # no list, or an unknown format
    return {name: pair for name, pair in pairs.items() if _is_entry(name, *pair)}


def _is_entry(name: str, digest: object, size: object) -> bool:
    """Return whether an entry of such a list is valid; in a shared cache, any user may have written it."""
    inside = not any(part in ("", ".", "..") for part in name.split("/"))
    return inside and isinstance(digest, str) and bool(HASH.fullmatch(digest)) and type(size) is int and size >= 0


def _content(base: str) -> tuple[dict[str, int], set[str]]:
    """Return the files below a snapshot with their bytes, and the dangling links."""
    files: dict[str, int] = {}
    dangling: set[str] = set()
    for entry in walk(base):
        path = entry.path[len(base) + 1 :]
        try:
            files[path] = os.stat(entry.path).st_size
        except OSError:
            dangling.add(path)
    return files, dangling


def _ref(path: str) -> str:
    try:
        return read_ref(path)
    except OSError:
        return ""


def _family(path: str) -> tuple[str, str] | None:
    """Return the common part of the names of all shards: the text before the number, and the suffix."""
    piece = _SHARD.fullmatch(path)
    return (piece[1], piece[4]) if piece else None


def _lost_shards(files: Iterable[str]) -> Iterator[str]:
    """Yield the missing shards of weights: each name contains the number of shards."""
    here: dict[tuple[str, str, str], set[int]] = {}
    for path in filter(is_weights, files):
        if piece := _SHARD.fullmatch(path):
            here.setdefault((piece[1], piece[3], piece[4]), set()).add(int(piece[2]))
    for (start, total, suffix), numbers in here.items():
        lost = (number for number in range(1, int(total) + 1) if number not in numbers)
        yield from (f"{start}-{number:05}-of-{total}{suffix}" for number in lost)


_Kind = tuple[str, str | None]
"""The suffix of weights, and the start of a name with that suffix; None stands for every name."""


def _kind_of(path: str) -> _Kind:
    name = os.path.basename(path)
    return os.path.splitext(name)[1], name.partition(".")[0]


def _kinds(here: Iterable[str]) -> Mapping[str, Collection[_Kind]]:
    """Return the kinds of weights in each folder, without files of which a library loads one among many."""
    kinds: dict[str, set[_Kind]] = {}
    for path in here:
        if not _is_alternative(path):
            suffix, stem = _kind_of(path)
            kinds.setdefault(os.path.dirname(path), set()).update(((suffix, None), (suffix, stem)))
    return kinds


def _is_replaced(path: str, here: Mapping[str, Collection[_Kind]]) -> bool:
    """Return whether other weights here replace these: another format, precision or framework."""
    beside = here.get(os.path.dirname(path), ())
    suffix, stem = _kind_of(path)
    return _is_alternative(path) or (bool(beside) and ((suffix, None) not in beside or (suffix, stem) in beside))


def _is_alternative(path: str) -> bool:
    name = os.path.basename(path)
    return os.path.splitext(name)[1] in _ALTERNATIVES or bool(_OTHER_FRAMEWORKS.match(name))
