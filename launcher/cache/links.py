"""A link from outside into the cache protects its destination; otherwise a link in the app's folder would break.

Up to huggingface_hub 0.22 a local dir contains links to a cache's blobs, and people link `checkpoints/gpt.pth` to a
snapshot's file. The search covers the app's folder and the app's other caches, also through links to other folders, up
to a limit that no normal app reaches.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping

from ..config.paths import HUB_ENTRY
from .names import TRASH

_MOST_ENTRIES = 200_000
_MOST_ELSEWHERE = 20_000  # behind links out of these places
_MOST_HOPS = 40
_SKIPPED = frozenset((".git", ".start_app", "__pycache__", "node_modules", ".locks"))
# The links within a cache: a snapshot's file to its repo's blob, a blob to a payload of the shared store.
_WITHIN = re.compile(r"(\.\./)+blobs/([0-9a-f]{2}/)?[^/]+")

Links = Mapping[str, str]
"""Paths below a root, each with an outside link to it."""


def into(root: str, places: Iterable[str]) -> Links:
    """Return the destinations in a root of the links in these places; both are paths without links."""
    prefix = root.rstrip("/") + "/"
    links: dict[str, str] = {}
    search = _Search(root)
    for link in (*search.links(places, _MOST_ENTRIES), *search.links(search.elsewhere, _MOST_ELSEWHERE)):
        for path in chain(link):
            if path.startswith(prefix):
                links.setdefault(path[len(prefix) :], link)
    return links


def entering(root: str, places: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield every link in these places that a move of the root breaks, each with its path in the root.

    A link that leads there through another one of these does not count: only that one breaks.
    """
    prefix, within = f"{root.rstrip('/')}/", tuple(f"{place}/" for place in places)
    search = _Search(root)
    for link in (*search.links(places, _MOST_ENTRIES), *search.links(search.elsewhere, _MOST_ELSEWHERE)):
        for path in chain(link):
            if f"{path}/".startswith(prefix):
                yield link, path
                break
            if path.startswith(within):
                break


def below(links: Links, folder: str) -> Links:
    """Return the links to or into a folder of a root, by their path in the folder; blank is the folder itself."""
    prefix = f"{folder}/"
    inner = {path[len(prefix) :]: link for path, link in links.items() if path.startswith(prefix)}
    return {"": links[folder], **inner} if folder in links else inner


def chain(link: str) -> Iterator[str]:
    """Yield every path that a link passes, with the folders above it resolved, down to its final file or folder."""
    for _ in range(_MOST_HOPS):
        try:
            target = os.readlink(link)
        except OSError:
            return  # not a link: the end
        parent, _, name = os.path.join(os.path.dirname(link), target).rstrip("/").rpartition("/")
        if name in ("", ".", ".."):
            yield os.path.realpath(f"{parent}/{name}")
            return
        link = f"{os.path.realpath(parent or '/').rstrip('/')}/{name}"
        yield link


def _stays_within(link: str) -> bool:
    try:
        return _WITHIN.fullmatch(os.readlink(link)) is not None
    except OSError:
        return True  # it was removed meanwhile


class _Search:
    """Walk folders and yield their links, each folder once."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._visited: set[tuple[int, int]] = set()
        self.elsewhere: list[str] = []

    def links(self, places: Iterable[str], most: int) -> Iterator[str]:
        """Yield the links in these places, and stop after a limited number of entries."""
        pending = [(place, False) for place in places]
        while pending and most > 0:
            folder, in_repo = pending.pop()
            entries = self._entries(folder)
            most -= len(entries)
            for entry in entries:
                repo = in_repo or HUB_ENTRY.match(entry.name) is not None
                own = folder == self._root and (repo or entry.name == "blobs")
                if own or entry.name in _SKIPPED or entry.name.startswith(TRASH):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append((entry.path, repo))
                elif entry.is_symlink() and not (in_repo and _stays_within(entry.path)):
                    yield entry.path
                    if entry.is_dir() and not (real := os.path.realpath(entry.path)).startswith(f"{self._root}/"):
                        self.elsewhere.append(real)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            status = os.stat(folder)
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError:
            return []
        first = (status.st_dev, status.st_ino) not in self._visited
        self._visited.add((status.st_dev, status.st_ino))
        return entries if first and not any(entry.name == "pyvenv.cfg" for entry in entries) else []
