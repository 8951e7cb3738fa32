"""Read a root once for every planner: its contents, and which process uses which part."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from . import layout, links, obstacles, store
from .deletion import freed_by
from .dirs import reason
from .entries import Contents
from .layout import Repo
from .links import Links
from .roots import Root
from .snapshots import Identity, Revision


class Payload(NamedTuple):
    """Hold a payload of the shared store: its bytes, and the repo blobs that link to it, None if unknown.

    The blobs come from its `.refs` and from the links on the disk. `freed` are the bytes that its removal frees.
    """

    size: int
    references: frozenset[str] | None
    freed: int


class Inventory(NamedTuple):
    """Hold a root for the planners.

    `repos` were read, `identities` are those of all removable repos, `payloads` the removable ones of the shared store,
    and `linked` the payloads that each repo links to. `in_use` maps repos to the processes that read or download them,
    `links` are the destinations of outside links, `unreadable` maps repos to the reason.
    """

    root: Root
    contents: Contents
    repos: Mapping[str, Repo] = {}
    payloads: Mapping[str, Payload] = {}
    in_use: Mapping[str, str] = {}
    links: Mapping[str, str] = {}
    identities: Mapping[str, Identity] = {}
    linked: Mapping[str, frozenset[str]] = {}
    unreadable: Mapping[str, str] = {}

    def path(self, folder: str) -> str:
        """Return the path of a repo's folder."""
        return f"{self.root.real}/{folder}"

    def user(self, folder: str) -> str:
        """Return why a repo is in use as a whole; blank if it is not."""
        if folder in self.in_use:
            return self.in_use[folder]
        lent = self.repos[folder].lent if folder in self.repos else {}
        link = next(iter((*links.below(self.links, folder).values(), *lent.values())), "")
        return f"{link} links to it" if link else ""

    def link_to(self, repo: Repo, revision: Revision) -> str:
        """Return why a revision is in use: an outside link leads to it or into it."""
        whole, inner = f"snapshots/{revision.commit}", f"snapshots/{revision.commit}/"
        paths = links.below(self.links, repo.folder).items()
        return next((f"{link} links to it" for path, link in paths if path == whole or path.startswith(inner)), "")

    def wanted(self, repo: Repo) -> tuple[frozenset[str], frozenset[str]]:
        """Return the blobs and commits of a repo that outside links lead to."""
        paths = links.below(self.links, repo.folder)
        if {"", "blobs", "snapshots"} & paths.keys():
            return frozenset(repo.blobs), frozenset(revision.commit for revision in repo.revisions)
        parts = [path.split("/") for path in paths]
        commits = frozenset(part[1] for part in parts if part[0] == "snapshots")
        blobs = {part[1] for part in parts if part[0] == "blobs"} | {*repo.lent}
        kept = (revision.blobs for revision in repo.revisions if revision.commit in commits)
        return frozenset(blobs).union(*kept), commits

    def obstacle(self, folder: str) -> str:
        """Return why a repo cannot be removed as a whole; blank without a known reason."""
        if folder in self.contents.mounted:
            return f"something is mounted on {self.contents.mounted[folder]}"
        if folder in self.unreadable:
            return f"it cannot be read: {self.unreadable[folder]}"
        return obstacles.of_repo(self.root.real, folder)

    def parts_obstacle(self, repo: Repo) -> str:
        """Return why parts of a repo cannot be removed; blank without a known reason."""
        if repo.folder in self.contents.mounted:
            return f"something is mounted on {self.contents.mounted[repo.folder]}"
        return obstacles.of_parts(self.root.real, repo.folder)


def read_repos(root: Root, folders: Iterable[str]) -> tuple[dict[str, Repo], dict[str, str]]:
    """Read repos, and return the reason for each unreadable one; skip repos that were removed meanwhile."""
    repos: dict[str, Repo] = {}
    unreadable: dict[str, str] = {}
    for folder in folders:
        try:
            repos[folder] = layout.read(root.real, folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            unreadable[folder] = reason(error)
    return repos, unreadable


def read_strangers(root: Root, present: Contents, folders: Iterable[str]) -> tuple[dict[str, Repo], dict[str, str]]:
    """Read the repos of a whole removal that may contain foreign files."""
    strange: list[str] = []
    unreadable: dict[str, str] = {}
    for folder in folders:
        try:
            if folder not in present.links and layout.has_strangers(f"{root.real}/{folder}"):
                strange.append(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            unreadable[folder] = reason(error)
    repos, more = read_repos(root, strange)
    return repos, {**unreadable, **more}


def read_identities(root: Root, folders: Iterable[str]) -> dict[str, Identity]:
    """Return the identities of repo folders, or of the links in their places; skip missing ones."""
    identities = {}
    for folder in folders:
        try:
            status = os.lstat(f"{root.real}/{folder}")
        except OSError:
            continue
        identities[folder] = (status.st_dev, status.st_ino)
    return identities


def read_payloads(
    root: Root, present: Contents, folders: Collection[str] | None = None
) -> tuple[dict[str, Payload], dict[str, frozenset[str]]]:
    """Return the payloads of the shared store, or of some repos, and the payloads that each repo links to.

    If the links of any repo are unreadable, the payloads that it needs are unknown.
    """
    if not present.store:
        return {}, {}
    blobs: dict[str, set[str]] = {}
    linked: dict[str, frozenset[str]] = {}
    complete = True
    for folder in present.entries:
        try:
            pairs = dict(store.blobs_of(root.real, folder))
        except OSError:
            complete = False
            continue
        linked[folder] = frozenset(pairs.values())
        for path, payload in pairs.items():
            blobs.setdefault(payload, set()).add(path)
    only = None if folders is None else frozenset().union(*(linked.get(folder, ()) for folder in folders))
    payloads = {}
    for payload, status in store.payloads(root.real, only):
        known = store.references(root.real, payload) if complete else None
        references = None if known is None else known | blobs.get(payload, set())
        payloads[payload] = Payload(status.st_size, references, freed_by(status))
    return payloads, linked


def read_links(
    listed: Inventory, places: Collection[str], repos: Iterable[Repo] = (), *, aliases: bool = True
) -> Links:
    """Return the links from these places into a root, and from one of these places into another's repo.

    `aliases` are repos of the root that are links to another repo.
    """
    links_in = dict(links.into(listed.root.real, places))
    prefix = f"{listed.root.real}/"
    within = [(listed.path(folder), "") for folder in (listed.contents.links if aliases else ())]
    within += [(f"{repo.path}/{path}", repo.folder) for repo in repos for path in repo.leads]
    for link, folder in within:
        for path in links.chain(link):
            inner = path.removeprefix(prefix)
            if inner != path and inner.partition("/")[0] != folder:
                links_in.setdefault(inner, link)
    return links_in
