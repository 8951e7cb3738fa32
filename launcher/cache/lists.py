"""Find the expected files of a cached commit: in huggingface_hub's own list, or in the pin."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping

from .completeness import Files, copy_of, gaps, tree
from .dirs import walk
from .layout import Repo
from .names import HASH
from .snapshots import Revision


class Lists:
    """Hold the expected files of a repo's commits, from `trees/<commit>.json` or from the pin."""

    def __init__(self, repo: Repo, pinned: Mapping[str, Files]) -> None:
        self._repo = repo
        self._pinned = pinned
        self._noted: dict[str, Files] = {}
        self._digests: dict[str, frozenset[str]] = {}
        self._links: dict[str, Mapping[str, list[str]]] = {}

    def of(self, commit: str) -> Files:
        """Return the known hash and bytes of each file of a commit."""
        pinned = self._pinned.get(commit)
        return {**self._noted_of(commit), **pinned} if pinned else self._noted_of(commit)

    def expected(self, blob: str, commits: Iterable[str]) -> tuple[str | None, bool]:
        """Return the expected hash of a blob, and whether only its name says so, which may not be a hash."""
        listed = [commit for commit in commits if self._digests_of(commit)]
        if any(blob in self._digests_of(commit) for commit in listed):
            return blob, False
        for commit in listed:
            for name in self._linked(commit).get(blob, ()):
                if name in self.of(commit):
                    return self.of(commit)[name][0], False
        return (blob, len(blob) == 40) if HASH.fullmatch(blob) else (None, False)

    def missing(self, revision: Revision) -> Iterator[str]:
        """Yield the expected files of a commit that have not even a link."""
        path = f"{self._repo.path}/snapshots/{revision.commit}"
        meant = set(self._pinned.get(revision.commit, {}))
        noted = self._noted_of(revision.commit)
        if revision.files < len(noted):
            meant.update(gaps(copy_of(self._repo.path, revision.commit), noted))
        yield from sorted(name for name in meant if not os.path.lexists(f"{path}/{name}"))

    def doubt(self, revision: Revision) -> str:
        """Return the evidence of missing files in a commit that is loaded and has no list; otherwise blank."""
        named = revision.refs or len(self._repo.revisions) == 1
        if not named or revision.dangling or self.of(revision.commit):
            return ""
        return copy_of(self._repo.path, revision.commit).doubt

    def _noted_of(self, commit: str) -> Files:
        if commit not in self._noted:
            self._noted[commit] = tree(f"{self._repo.path}/trees/{commit}.json")
        return self._noted[commit]

    def _digests_of(self, commit: str) -> frozenset[str]:
        if commit not in self._digests:
            self._digests[commit] = frozenset(digest for digest, _ in self.of(commit).values())
        return self._digests[commit]

    def _linked(self, commit: str) -> Mapping[str, list[str]]:
        if commit not in self._links:
            self._links[commit] = links_of(f"{self._repo.path}/snapshots/{commit}")
        return self._links[commit]


def links_of(snapshot: str) -> Mapping[str, list[str]]:
    """Return the names of a snapshot's links, by the blobs that they lead to."""
    links: dict[str, list[str]] = {}
    for entry in walk(snapshot):
        if entry.is_symlink():
            name = entry.path[len(snapshot) + 1 :]
            links.setdefault(os.path.basename(os.readlink(entry.path)), []).append(name)
    return links
