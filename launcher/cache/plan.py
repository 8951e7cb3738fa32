"""What a removal takes away is decided before it begins: every path, its bytes and the reason, as a value.

Planning changes nothing and looks at nothing but the values it is given; a dry run shows the plan that the removal
applies.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from . import store
from .entries import LOCKS, Contents
from .layout import Identity, Repo, Revision
from .names import name
from .roots import Root
from .targets import Selection

_Part = Literal["ref", "link", "revision", "snapshot", "blob", "partial", "lock"]
Kind = _Part | Literal["repo", "locks", "store", "payload", "damaged", "trash"]
PARTS: tuple[_Part, ...] = ("ref", "link", "revision", "snapshot", "blob", "partial", "lock")


class Item(NamedTuple):
    """Hold one path that goes: `size` in bytes, None where it was not measured; `folder` is its repo's, if any.

    `commit` is what a ref names.
    """

    kind: Kind
    path: str
    size: int | None
    reason: str
    folder: str = ""
    identity: Identity | None = None
    commit: str = ""


class Left(NamedTuple):
    """Hold one path that stays, and why; `size` is what it keeps on the disk, in bytes.

    `busy` may go another time, `unknowable` can be told by nobody; of all else the removal asked for has failed.
    """

    path: str
    reason: str
    size: int = 0
    busy: bool = False
    unknowable: bool = False


class Payload(NamedTuple):
    """Hold a payload of the shared store: bytes, and the repo blobs that link to it, None where unknowable.

    The blobs are those of its `.refs` and those that really do.
    """

    size: int
    references: frozenset[str] | None


class Plan(NamedTuple):
    """Hold what goes from one root, in order, and what stays although asked for; `shares`: its repos share blobs."""

    root: Root
    items: tuple[Item, ...]
    left: tuple[Left, ...] = ()
    shares: bool = False

    @property
    def size(self) -> int:
        """Return the bytes that were measured beforehand."""
        return sum(item.size or 0 for item in self.items)


def clear(
    root: Root,
    contents: Contents,
    repos: Mapping[str, Repo],
    payloads: Mapping[str, Payload],
    busy: Mapping[str, str],
    identities: Mapping[str, Identity],
) -> Plan:
    """Plan the removal of every repo; `repos` is empty where nobody asks for sizes."""
    going = [folder for folder in contents.entries if folder not in busy and folder in identities]
    sizes = {folder: repo.held for folder, repo in repos.items()}
    items = [
        Item("repo", f"{root.real}/{folder}", sizes.get(folder), "clear", folder, identities[folder])
        for folder in going
    ]
    present = frozenset(contents.entries)
    alone = [folder for folder in contents.locks if folder not in present and folder not in busy]
    items += lock_items(root, contents, [*going, *alone], "clear")
    left = [*left_busy(root, contents.entries, busy, repos), *_strange(root, contents)]
    if contents.store and not left:
        size = sum(payload.size for payload in payloads.values()) if repos else None
        items.append(Item("store", f"{root.real}/{store.FOLDER}", size, "every repo goes"))
    elif contents.store:
        gone = blob_paths(repos[folder] for folder in going if folder in repos)
        items += payload_items(root, payloads, gone, left)
    return Plan(root, (*items, *trash_items(root, contents)), tuple(left), contents.store)


def remove(
    root: Root,
    contents: Contents,
    repos: Mapping[str, Repo],
    payloads: Mapping[str, Payload],
    busy: Mapping[str, str],
    selections: Sequence[Selection],
    identities: Mapping[str, Identity],
) -> Plan:
    """Plan the removal of the selected repos and revisions; the last revision takes its repo with it.

    Of a repo that goes whole only `identities` must be known, for one that cannot be read must be removable too.
    """
    items: list[Item] = []
    left: list[Left] = []
    gone: set[str] = set()
    for folder, commits in selections:
        repo = repos.get(folder)
        if folder in busy:
            left += left_busy(root, (folder,), busy, repos)
        elif not commits or (repo and repo.revisions and {r.commit for r in repo.revisions} <= set(commits)):
            size = repo.held if repo else None
            items.append(Item("repo", f"{root.real}/{folder}", size, "asked for", folder, identities[folder]))
            items += lock_items(root, contents, (folder,), "asked for")
            gone |= blob_paths((repo,)) if repo else set()
        elif repo:
            revisions = [revision for revision in repo.revisions if revision.commit in commits]
            parts, blobs = revision_items(repo, [(revision, "asked for") for revision in revisions])
            items += parts
            gone |= blobs
            items += condemned_items(repo)
    items += payload_items(root, payloads, gone, left, only=_shared(repos, gone))
    return Plan(root, (*items, *trash_items(root, contents)), tuple(left), contents.store)


def repair(
    root: Root,
    contents: Contents,
    repos: Mapping[str, Repo],
    payloads: Mapping[str, Payload],
    busy: Mapping[str, str],
    files: Collection[str],
) -> Plan:
    """Plan the removal of damaged files, by path, with their revisions; whole blobs stay, to be linked again."""
    items: list[Item] = []
    left: list[Left] = []
    gone: set[str] = set()
    bad = {
        shared
        for repo in repos.values()
        for blob in repo.blobs.values()
        if f"{repo.path}/blobs/{blob.name}" in files and (shared := blob.shared)
    }
    folders = {"/".join(parts) for path in files if (parts := _snapshot(root.real, path))}
    for folder, repo in repos.items():
        blobs = [b for b in repo.blobs.values() if b.shared in bad or f"{repo.path}/blobs/{b.name}" in files]
        names = frozenset(blob.name for blob in blobs)
        revisions = [
            revision
            for revision in repo.revisions
            if revision.blobs & names or f"{repo.path}/snapshots/{revision.commit}" in folders
        ]
        if folder in busy:
            left += left_busy(root, (folder,), busy, {}) if blobs or revisions else []
            continue
        reason = "it is damaged"
        for revision in revisions:
            items += _refs(repo, revision, reason)
        for revision in revisions:
            snapshot = f"{repo.path}/snapshots/{revision.commit}"
            items.append(Item("snapshot", snapshot, revision.plain_bytes, "a file in it is damaged", folder))
        for blob in blobs:
            size = blob.held
            items.append(Item("blob", f"{repo.path}/blobs/{blob.name}", size, reason, folder, blob.identity))
            gone.add(f"{folder}/blobs/{blob.name}")
        if blobs or revisions:
            items += [
                Item("link", f"{repo.path}/blobs/{missing}", 0, "it links to nothing", folder)
                for missing in repo.missing_payloads
            ]
            items += condemned_items(repo)
    kept = frozenset().union(*(repos[folder].shared for folder in busy if folder in repos), frozenset())
    items += [
        Item("damaged", store.path_of(root.real, payload), payloads[payload].size, "it is damaged")
        for payload in sorted(bad - kept)
        if payload in payloads
    ]
    return Plan(root, (*items, *trash_items(root, contents)), tuple(left), contents.store)


def _snapshot(root: str, path: str) -> list[str]:
    """Return the parts of the path of the snapshot that a file lies in, none where it lies in no snapshot."""
    parts = path.removeprefix(f"{root}/").split("/")
    return [root, *parts[:3]] if parts[1] == "snapshots" else []


def revision_items(repo: Repo, doomed: Sequence[tuple[Revision, str]]) -> tuple[list[Item], set[str]]:
    """Return what goes with these revisions, and the blobs among it as the shared store names them."""
    commits = {revision.commit for revision, _ in doomed}
    kept = frozenset().union(*(r.blobs for r in repo.revisions if r.commit not in commits), frozenset())
    items: list[Item] = []
    gone: set[str] = set()
    for revision, reason in doomed:
        items += _refs(repo, revision, reason)
        snapshot = f"{repo.path}/snapshots/{revision.commit}"
        items.append(Item("revision", snapshot, revision.plain_bytes, reason, repo.folder))
    for blob in sorted(frozenset().union(*(revision.blobs for revision, _ in doomed), frozenset()) - kept):
        found = repo.blobs[blob]
        size = found.held
        path = f"{repo.path}/blobs/{blob}"
        items.append(Item("blob", path, size, "only what goes links to it", repo.folder, found.identity))
        gone.add(f"{repo.folder}/blobs/{blob}")
    items.sort(key=lambda item: PARTS.index(item.kind))
    return items, gone


def _refs(repo: Repo, revision: Revision, reason: str) -> list[Item]:
    return [
        Item("ref", f"{repo.path}/refs/{ref}", 0, reason, repo.folder, None, revision.commit) for ref in revision.refs
    ]


def repo_item(repo: Repo, reason: str) -> Item:
    """Return the item that is a whole repo."""
    return Item("repo", repo.path, repo.held, reason, repo.folder, repo.identity)


def lock_items(root: Root, contents: Contents, folders: Iterable[str], reason: str) -> list[Item]:
    """Return the lock folders of these repos, as far as they are there."""
    present = frozenset(contents.locks)
    return [Item("locks", f"{root.real}/{LOCKS}/{f}", 0, reason, f) for f in folders if f in present]


def condemned_items(repo: Repo) -> list[Item]:
    """Return what an interrupted removal has left in a repo."""
    reason = "left by an interrupted removal"
    return [Item("trash", f"{repo.path}/{trash}", 0, reason, repo.folder) for trash in repo.condemned]


def trash_items(root: Root, contents: Contents) -> list[Item]:
    """Return what interrupted removals have left in a root."""
    return [Item("trash", f"{root.real}/{trash}", None, "left by an interrupted removal") for trash in contents.trash]


def _strange(root: Root, contents: Contents) -> list[Left]:
    return [Left(f"{root.real}/{folder}", reason) for folder, reason in sorted(contents.strange.items())]


def left_busy(root: Root, folders: Iterable[str], busy: Mapping[str, str], repos: Mapping[str, Repo]) -> list[Left]:
    """Return what stays because it is in use."""
    return [
        Left(f"{root.real}/{folder}", busy[folder], repos[folder].held if folder in repos else 0, busy=True)
        for folder in folders
        if folder in busy
    ]


def blob_paths(repos: Iterable[Repo]) -> set[str]:
    """Return every blob of these repos, as the shared store names them."""
    return {f"{repo.folder}/blobs/{blob}" for repo in repos for blob in repo.blobs}


def _shared(repos: Mapping[str, Repo], gone: Collection[str]) -> frozenset[str]:
    found = (path.split("/", 2) for path in gone)
    return frozenset(s for folder, _, blob in found if (s := repos[folder].blobs[blob].shared))


def payload_items(
    root: Root,
    payloads: Mapping[str, Payload],
    gone: Collection[str],
    left: list[Left],
    only: Collection[str] | None = None,
) -> list[Item]:
    """Return the payloads that nothing links to once the blobs `gone` are; what is unknowable goes to `left`."""
    items = []
    paths = frozenset(gone)
    for payload, found in sorted(payloads.items()):
        if only is not None and payload not in only:
            continue
        path = store.path_of(root.real, payload)
        if found.references is None:
            left.append(Left(path, "which repos link to it cannot be read from its .refs", found.size, unknowable=True))
        elif found.references <= paths:
            items.append(Item("payload", path, found.size, "no repo links to it any more"))
    return items


def label(item: Item) -> str:
    """Return what a person calls an item: the repo, the revision, or the path."""
    if item.kind in ("repo", "locks"):
        return name(item.folder) if item.kind == "repo" else f"locks of {name(item.folder)}"
    if item.kind in ("revision", "snapshot"):
        return f"{name(item.folder)}@{item.path.rpartition('/')[2][:7]}"
    return item.path
