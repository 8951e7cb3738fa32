"""Whether one commit of a repo can stand in for another: prune never takes the only one that is complete."""

from __future__ import annotations

import os
from collections.abc import Iterable

from .layout import Repo
from .snapshots import Revision, walk_snapshot
from .trees import path_of, tree

_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".gguf", ".onnx", ".msgpack", ".h5", ".tflite", ".model")


def paths(repo: Repo, revision: Revision) -> frozenset[str]:
    """Return the paths of the files of a commit that are here; empty where they cannot be read."""
    absent = frozenset((*revision.dangling, *revision.foreign))
    try:
        return frozenset(p for p, _ in walk_snapshot(f"{repo.path}/snapshots/{revision.commit}")) - absent
    except OSError:
        return frozenset()


def lacking(repo: Repo, revision: Revision) -> tuple[str, ...] | None:
    """Return the paths that the commit's tree has and that are not here; None where the tree is unknown."""
    known = tree(path_of(repo.path, revision.commit))
    return tuple(sorted(known.keys() - paths(repo, revision))) if known else None


def replaces(repo: Repo, revision: Revision, other: Revision) -> bool:
    """Return whether nobody who loads `revision` would miss `other`.

    A commit whose download broke off has links to nothing, lacks files that its own tree names and the other one has,
    or, where its tree is unknown, has no weights of the same names.
    """
    theirs = paths(repo, other)
    if not theirs:
        return True
    if revision.dangling or not revision.files:
        return False
    ours = paths(repo, revision)
    known = tree(path_of(repo.path, revision.commit))
    if known:
        return not theirs & known.keys() - ours
    weights = frozenset(path for path in theirs if os.path.splitext(path)[1].lower() in _WEIGHTS)
    return weights <= ours


def needed(repo: Repo, kept: Iterable[Revision], others: Iterable[Revision]) -> frozenset[str]:
    """Return the commits among `others` that must stay because nothing that stays replaces them.

    Of a repo without any ref, nobody knows which commit an app loads by its hash: all that hold anything stay.
    """
    staying = list(kept)
    if not staying:
        return frozenset(revision.commit for revision in others if paths(repo, revision))
    commits = set()
    for revision in sorted(others, key=lambda revision: revision.modified, reverse=True):
        if not any(replaces(repo, other, revision) for other in staying):
            staying.append(revision)
            commits.add(revision.commit)
    return frozenset(commits)
