"""Tell huggingface_hub's own small files in a repo from foreign ones, by their form.

| in | a file is huggingface_hub's if |
|---|---|
| `refs` | it names a commit, or is empty or cut off, as after a power failure |
| `trees` | it is called `<commit>.json`, or has the name of a temporary file |
| `.no_exist` | it is empty |
| the root's `.locks` | it is called `<etag>.lock` |
| the repo's folder | it is in a temporary folder, and tries whether links work: a killed download leaves it |

A link in these folders has no content of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping

from .deletion import Deletion
from .dirs import below, walk
from .entries import HELPERS
from .names import REF_BYTES, ref_text

_REF = re.compile(r"[\s\0]*[0-9a-f]{0,64}[\s\0]*")
_TREE = re.compile(r"trees/(?:(?:[0-9a-f]{64}|[0-9a-f]{40})\.json|tmp\w{8}\.tmp)")
_TRIAL = re.compile(r"tmp[a-z0-9_]{8}")
_TRIAL_FILES = frozenset(("dummy_file_src", "dummy_file_dst"))  # huggingface_hub.file_download.are_symlinks_supported


def strangers(repo: str, parts: Collection[str]) -> Iterator[str]:
    """Yield the foreign files in the small parts of a repo's folder, relative to it; `parts` are its entries."""
    for part, is_own in _OWN.items():
        if part not in parts or os.path.islink(f"{repo}/{part}"):
            continue
        for entry in walk(f"{repo}/{part}"):
            path = entry.path[len(repo) + 1 :]
            if entry.is_file(follow_symlinks=False) and entry.name not in HELPERS and not is_own(entry, path):
                yield path


def strange_refs(repo: str, refs: Mapping[str, str]) -> Iterator[str]:
    """Yield the foreign files among refs whose texts were read already, relative to the repo's folder."""
    for ref, text in refs.items():
        if not _names_commit(text) and not os.path.islink(f"{repo}/refs/{ref}"):
            yield f"refs/{ref}"


def is_trial(path: str) -> bool:
    """Return whether this is huggingface_hub's temporary folder that tries whether links work."""
    try:
        return _TRIAL.fullmatch(os.path.basename(path)) is not None and _TRIAL_FILES.issuperset(os.listdir(path))
    except OSError:
        return False


def drop_traces(repo: int, path: str, commit: str) -> None:
    """Delete what else tells of a removed snapshot; `repo` is the open folder of its repo, whose path is `path`.

    Raises OSError.
    """
    kept = frozenset(strangers(path, (".no_exist",)))
    for trace in (f"trees/{commit}.json", f".no_exist/{commit}"):
        try:
            with below(repo, trace) as (folder, name):
                Deletion(kept=kept).delete(folder, name, trace)
        except OSError:
            continue  # it is not there, or stays: without its snapshot it has no effect


def drop_locks(locks: int, folder: str) -> None:
    """Delete the locks of a repo one by one, if its lock folder contains foreign files too; `locks` is open.

    Raises OSError.
    """
    with below(locks, f"{folder}/x") as (inner, _):
        for name in os.listdir(inner):
            if name.endswith(".lock"):
                Deletion().unlink(inner, name)


def has_foreign_locks(path: str) -> bool:
    """Return whether a repo's lock folder contains anything except locks."""
    with os.scandir(path) as listing:
        return any(not (entry.name.endswith(".lock") and entry.is_file(follow_symlinks=False)) for entry in listing)


def _is_ref(entry: os.DirEntry[str], _: str) -> bool:
    return _names_commit(ref_text(entry.path))


def _names_commit(text: str) -> bool:
    return len(text) < REF_BYTES and _REF.fullmatch(text) is not None


def _is_tree(_: os.DirEntry[str], path: str) -> bool:
    return _TREE.fullmatch(path) is not None


def _is_empty(entry: os.DirEntry[str], _: str) -> bool:
    return entry.stat(follow_symlinks=False).st_size == 0


_OWN: Mapping[str, Callable[[os.DirEntry[str], str], bool]] = {
    "refs": _is_ref,
    "trees": _is_tree,
    ".no_exist": _is_empty,
}
