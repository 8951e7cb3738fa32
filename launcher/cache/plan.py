"""Decide a removal before it begins: every path, its bytes and the reason, as a value.

Planning changes nothing and reads only the given inventory; the removal applies the plan that a dry run shows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from . import store
from .entries import LOCKS
from .inventory import Inventory
from .layout import Repo
from .names import name
from .roots import Root
from .snapshots import HardLinked, Identity, Revision
from .targets import Selection

_Part = Literal["ref", "link", "file", "revision", "snapshot", "blob", "partial", "lock"]
Kind = _Part | Literal["repo", "locks", "payload", "damaged", "trash"]
EVERYTHING = "every repo is removed"
ASKED = "asked for"
PARTS: tuple[_Part, ...] = ("ref", "link", "file", "revision", "snapshot", "blob", "partial", "lock")


class Item(NamedTuple):
    """Hold one path to remove: `size` in bytes, None if unmeasured; `folder` is its repo's, if any.

    `commit` is the commit that a ref names. `foreign` are the paths in it that stay, `targets` the destinations of its
    links, which stay too. A `linked` blob is removed although snapshots link to it: the links wait for a new blob.
    """

    kind: Kind
    path: str
    size: int | None
    reason: str
    folder: str = ""
    identity: Identity | None = None
    commit: str = ""
    foreign: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    linked: bool = False


class Skipped(NamedTuple):
    """Hold one path that stays, and the reason; `size` is its bytes on the disk.

    A path `in use` can be removed later. A `blocked` path was requested and cannot be removed. A `foreign` path is not
    huggingface_hub's, and a `kept` path stays for another good reason; neither is a failure.
    """

    path: str
    reason: str
    size: int = 0
    kind: Literal["in use", "blocked", "foreign", "kept"] = "blocked"


class Plan(NamedTuple):
    """Hold the removals in one root, in order, and the skipped paths; `shares` means that its repos share blobs.

    `elsewhere` are the bytes of removed files with another name that stays.
    """

    root: Root
    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...] = ()
    shares: bool = False
    elsewhere: int = 0

    @property
    def size(self) -> int:
        """Return the measured bytes that the removal frees."""
        return sum(item.size or 0 for item in self.items) - self.elsewhere


class Parts(NamedTuple):
    """Hold the removals in one repo, its removed blobs as the shared store names them, and its skipped paths."""

    items: list[Item]
    blobs: set[str]
    skipped: list[Skipped]


def clear(inventory: Inventory) -> Plan:
    """Plan the removal of every repo; repos that were not read count as entirely huggingface_hub's."""
    contents = inventory.contents
    items, skipped = _whole(inventory, contents.entries, "clear")
    going = {item.folder for item in items}
    busy = {folder for folder in contents.locks if folder in inventory.in_use}
    alone = [folder for folder in contents.locks if folder not in contents.entries and folder not in busy]
    items += lock_items(inventory, [*(item.folder for item in items), *alone], "clear")
    skipped += [
        Skipped(inventory.path(folder), problem, kind="foreign") for folder, problem in contents.lookalikes.items()
    ]
    everything = not any(skip.kind in ("in use", "blocked") for skip in skipped)
    payloads = payload_items(inventory, (), going, everything=everything)
    return new_plan(inventory, [*items, *payloads.items], [*skipped, *payloads.skipped])


def remove(inventory: Inventory, selections: Sequence[Selection]) -> Plan:
    """Plan the removal of the selected repos and revisions; with its last revision, a repo is removed too."""
    items: list[Item] = []
    skipped: list[Skipped] = []
    gone: set[str] = set()
    for folder, commits in selections:
        repo = inventory.repos.get(folder)
        if not commits or (repo and _is_last(repo, commits)):
            whole, stays = _whole(inventory, (folder,), ASKED)
            items += [*whole, *lock_items(inventory, [item.folder for item in whole], ASKED)]
            skipped += stays
        elif repo:
            doomed = [(revision, ASKED) for revision in repo.revisions if revision.commit in commits]
            parts = checked(inventory, repo, revision_items(inventory, repo, doomed))
            items += parts.items
            skipped += parts.skipped
            gone |= parts.blobs
        elif folder in inventory.unreadable:
            skipped.append(Skipped(inventory.path(folder), f"it cannot be read: {inventory.unreadable[folder]}"))
    return with_payloads(inventory, items, skipped, gone)


def with_payloads(
    inventory: Inventory, items: Sequence[Item], skipped: Sequence[Skipped], gone: Collection[str]
) -> Plan:
    """Return the plan of these items, with the payloads that only the repos among them and the blobs `gone` link to."""
    whole_folders = {item.folder for item in items if item.kind == "repo"}
    only = _shared(inventory, whole_folders, gone)
    payloads = payload_items(inventory, gone, whole_folders, only=only)
    return new_plan(inventory, [*items, *payloads.items], [*skipped, *payloads.skipped])


def is_named(item: Item) -> bool:
    """Return whether an item is what a person asked for: a repo, a revision, or a file of one."""
    return item.kind in ("repo", "revision") or (item.kind in ("link", "file") and item.reason == ASKED)


def repair(inventory: Inventory, files: Collection[str]) -> Plan:
    """Plan the removal of damaged files, by path, with their revisions; intact blobs stay, to be linked again."""
    items: list[Item] = []
    skipped: list[Skipped] = []
    bad = {
        shared
        for repo in inventory.repos.values()
        for blob in repo.blobs.values()
        if f"{repo.path}/blobs/{blob.name}" in files and (shared := blob.shared)
    }
    kept: set[str] = set()
    for repo in inventory.repos.values():
        parts = checked(inventory, repo, _damaged_items(repo, files, bad))
        items += parts.items
        skipped += parts.skipped
        kept |= repo.shared if parts.skipped else frozenset()
    items += [
        Item("damaged", store.path_of(inventory.root.real, payload), inventory.payloads[payload].size, "it is damaged")
        for payload in sorted(bad - kept)
        if payload in inventory.payloads
    ]
    return new_plan(inventory, items, skipped)


def in_place(plan: Plan, files: Mapping[str, int], fetched: Collection[str]) -> Plan:
    """Return a repair in which the snapshots `fetched`, by path, stay and get new files in place of damaged ones.

    `files` maps damaged plain files in snapshots to their bytes. Refs and links stay: if the run is killed, the
    dangling links show which files are missing.
    """
    repos = {path.rpartition("/snapshots/")[0] for path in fetched}
    items: list[Item] = []
    for item in plan.items:
        repo = f"{plan.root.real}/{item.folder}"
        if item.kind == "snapshot" and item.path in fetched:
            plain = {path: size for path, size in sorted(files.items()) if path.startswith(f"{item.path}/")}
            items += [Item("file", path, size, "it is damaged", item.folder) for path, size in plain.items()]
        elif item.kind == "blob" and repo in repos:
            items.append(item._replace(linked=True))
        elif not (item.kind == "ref" and f"{repo}/snapshots/{item.commit}" in fetched):
            items.append(item)
    inside = tuple(f"{path}/" for path in fetched)
    stay = tuple(one for one in plan.skipped if not (one.kind == "foreign" and one.path.startswith(inside)))
    return plan._replace(items=tuple(items), skipped=stay)


def checked(inventory: Inventory, repo: Repo, parts: Parts, *, asked: bool = True) -> Parts:
    """Return the removable parts of a repo; none, with the reason, if it is in use or something blocks them.

    A repo behind a link is a failure only if it was `asked` for by name.
    """
    if not parts.items:
        return parts
    if repo.folder in inventory.in_use:
        return Parts([], set(), [in_use(inventory, repo.folder, inventory.in_use[repo.folder])])
    if repo.link or "snapshots" in repo.part_links:
        target = repo.link or repo.part_links["snapshots"]
        note = f"it is behind a link to {target}, and nothing outside the cache is changed"
        return Parts([], set(), [Skipped(repo.path, note, kind="blocked" if asked else "kept")])
    problem = inventory.parts_obstacle(repo)
    return Parts([], set(), [Skipped(repo.path, problem)]) if problem else parts


def revision_items(inventory: Inventory, repo: Repo, doomed: Sequence[tuple[Revision, str]]) -> Parts:
    """Return the removals for these revisions; destinations of outside links stay."""
    blobs, commits = inventory.wanted(repo)
    going = [(revision, reason) for revision, reason in doomed if revision.commit not in commits]
    skipped = [
        Skipped(f"{repo.path}/snapshots/{revision.commit}", inventory.link_to(repo, revision), kind="in use")
        for revision, _ in doomed
        if revision.commit in commits
    ]
    gone = {revision.commit for revision, _ in going}
    stay = blobs.union(*(r.blobs for r in repo.revisions if r.commit not in gone))
    items: list[Item] = []
    for revision, reason in going:
        items += _refs(repo, revision, reason)
        snapshot = f"{repo.path}/snapshots/{revision.commit}"
        targets = (revision.link,) if revision.link else ()
        if not revision.only_foreign:
            size = revision.plain_bytes
            items.append(
                Item("revision", snapshot, size, reason, repo.folder, foreign=revision.foreign, targets=targets)
            )
        skipped += foreign(f"{snapshot}/{file}" for file in revision.foreign)
    loose = frozenset().union(*(revision.blobs for revision, _ in going)) - stay
    blob_parts = blob_items(repo, sorted(loose), "only removed revisions link to it")
    items += blob_parts.items
    items.sort(key=lambda item: PARTS.index(item.kind))
    return Parts(items, blob_parts.blobs, [*skipped, *blob_parts.skipped])


def blob_items(repo: Repo, blobs: Iterable[str], reason: str) -> Parts:
    """Return the blobs to remove; those behind a link stay."""
    names = tuple(blobs)
    if "blobs" in repo.part_links:
        target = repo.part_links["blobs"]
        size = sum(repo.blobs[blob].size for blob in names)
        note = f"its blobs are a link to {target}, and nothing outside the cache is changed"
        return Parts([], set(), [Skipped(f"{repo.path}/blobs", note, size, "kept")] if names else [])
    items = []
    for blob in names:
        path, link = f"{repo.path}/blobs/{blob}", repo.leads.get(f"blobs/{blob}")
        known = repo.blobs[blob]
        targets = (link,) if link else ()
        items.append(Item("blob", path, known.held, reason, repo.folder, known.identity, targets=targets))
    return Parts(items, {f"{repo.folder}/blobs/{blob}" for blob in names}, [])


def repo_parts(inventory: Inventory, folder: str, reason: str) -> Parts:
    """Return the item for a whole repo, and its foreign paths."""
    repo = inventory.repos.get(folder)
    path = inventory.path(folder)
    if repo is None:
        link = inventory.contents.links.get(folder)
        identity = inventory.identities.get(folder)
        item = Item("repo", path, 0 if link else None, reason, folder, identity, targets=(link,) if link else ())
        return Parts([item] if identity else [], set(), [])
    strangers = repo.own_foreign
    targets = (repo.link,) if repo.link else tuple(repo.part_links.values())
    item = Item("repo", path, repo.held, reason, folder, repo.identity, foreign=strangers, targets=targets)
    items = [item] if repo.has_own else []
    return Parts(items, set(), foreign(f"{path}/{stranger}" for stranger in strangers))


def foreign(paths: Iterable[str]) -> list[Skipped]:
    """Return the skipped foreign paths."""
    return [Skipped(path, "it is not huggingface_hub's", kind="foreign") for path in paths]


def in_use(inventory: Inventory, folder: str, user: str) -> Skipped:
    """Return the skipped paths in use."""
    repo = inventory.repos.get(folder)
    return Skipped(inventory.path(folder), user, repo.held if repo else 0, "in use")


def lock_items(inventory: Inventory, folders: Iterable[str], reason: str) -> list[Item]:
    """Return the existing lock folders of these repos."""
    present = frozenset(inventory.contents.locks)
    base = f"{inventory.root.real}/{LOCKS}"
    return [Item("locks", f"{base}/{folder}", 0, reason, folder) for folder in folders if folder in present]


def payload_items(
    inventory: Inventory,
    gone: Collection[str],
    folders: Collection[str],
    only: Collection[str] | None = None,
    *,
    everything: bool = False,
) -> Parts:
    """Return the payloads without links after the removal of the blobs `gone` and the repos `folders`.

    If `everything` is removed, the remaining links do not matter.
    """
    items: list[Item] = []
    skipped: list[Skipped] = []
    paths, base = frozenset(gone), inventory.root.real
    for payload, (size, references, _) in sorted(inventory.payloads.items()):
        if only is not None and payload not in only:
            continue
        path = store.path_of(base, payload)
        link = inventory.links.get(store.path_below(payload))
        if link:
            skipped.append(Skipped(path, f"{link} links to it", size, "in use"))
        elif everything:
            items.append(Item("payload", path, size, EVERYTHING))
        elif references is None:
            skipped.append(Skipped(path, "which repos link to it cannot be read", size, "kept"))
        elif all(blob in paths or blob.partition("/")[0] in folders for blob in references):
            items.append(Item("payload", path, size, "no repo links to it"))
    return Parts(items, set(), skipped)


def label(item: Item) -> str:
    """Return the readable name of an item: the repo, the revision, or the path."""
    if item.kind in ("repo", "locks"):
        return name(item.folder) if item.kind == "repo" else f"locks of {name(item.folder)}"
    if item.kind in ("revision", "snapshot"):
        return f"{name(item.folder)}@{item.path.rpartition('/')[2][:7]}"
    return item.path


def new_plan(inventory: Inventory, items: Sequence[Item], skipped: Sequence[Skipped]) -> Plan:
    """Return the plan for a root, followed by the trash of interrupted removals."""
    reason = "left by an interrupted removal"
    trash = [Item("trash", inventory.path(folder), None, reason) for folder in inventory.contents.trash]
    stay = elsewhere(inventory, items)
    return Plan(inventory.root, (*items, *trash), tuple(skipped), inventory.contents.store, stay)


def elsewhere(inventory: Inventory, items: Iterable[Item]) -> int:
    """Return the bytes that these removals count but do not free, because a hard link to a file stays.

    Such a file counts as often as an item has it, and its bytes are free once if all of its names go.
    """
    going: dict[Identity, list[HardLinked]] = {}
    stay = 0
    for item in items:
        repo, name = inventory.repos.get(item.folder), item.path.rpartition("/")[2]
        files: Mapping[Identity, HardLinked] = {}
        if item.kind == "payload":
            payload = inventory.payloads[name]
            stay += payload.size - payload.freed
        elif repo and item.kind == "repo":
            files = repo.hard_linked
        elif repo and item.kind in ("revision", "snapshot"):
            files = next((r.hard_linked for r in repo.revisions if r.commit == name), {})
        elif repo and item.kind == "blob" and item.identity and item.identity in repo.hard_linked:
            files = {item.identity: repo.hard_linked[item.identity]._replace(here=1)}
        for identity, file in files.items():
            going.setdefault(identity, []).append(file)
    for names in going.values():
        all_go = sum(file.here for file in names) == names[0].names
        stay += names[0].size * (len(names) - all_go)
    return stay


def _whole(inventory: Inventory, folders: Iterable[str], reason: str) -> tuple[list[Item], list[Skipped]]:
    items: list[Item] = []
    skipped: list[Skipped] = []
    for folder in folders:
        user = inventory.user(folder)
        problem = "" if user else inventory.obstacle(folder)
        if user:
            skipped.append(in_use(inventory, folder, user))
        elif problem:
            skipped.append(Skipped(inventory.path(folder), problem))
        else:
            parts = repo_parts(inventory, folder, reason)
            items += parts.items
            skipped += parts.skipped
    return items, skipped


def _is_last(repo: Repo, commits: Collection[str]) -> bool:
    own = {revision.commit for revision in repo.revisions if not revision.only_foreign}
    return bool(own) and own <= set(commits)


def _refs(repo: Repo, revision: Revision, reason: str) -> list[Item]:
    return [
        Item("ref", f"{repo.path}/refs/{ref}", 0, reason, repo.folder, commit=revision.commit) for ref in revision.refs
    ]


def _damaged_items(repo: Repo, files: Collection[str], bad: Collection[str]) -> Parts:
    blobs = [b.name for b in repo.blobs.values() if b.shared in bad or f"{repo.path}/blobs/{b.name}" in files]
    names = frozenset(blobs)
    snapshots = f"{repo.path}/snapshots/"
    commits = {path[len(snapshots) :].partition("/")[0] for path in files if path.startswith(snapshots)}
    revisions = [r for r in repo.revisions if r.blobs & names or r.commit in commits]
    items = [item for revision in revisions for item in _refs(repo, revision, "it is damaged")]
    skipped: list[Skipped] = []
    for revision in revisions:
        path, reason = f"{snapshots}{revision.commit}", "a file in it is damaged"
        own, targets = revision.foreign, (revision.link,) if revision.link else ()
        items.append(Item("snapshot", path, revision.plain_bytes, reason, repo.folder, foreign=own, targets=targets))
        skipped += foreign(f"{path}/{file}" for file in own)
    going = blob_items(repo, blobs, "it is damaged")
    items += going.items
    if items:
        items += [
            Item("link", f"{repo.path}/blobs/{missing}", 0, "it links to nothing", repo.folder)
            for missing in repo.missing_payloads
        ]
    return Parts(items, going.blobs, [*skipped, *going.skipped])


def _shared(inventory: Inventory, folders: Collection[str], gone: Collection[str]) -> frozenset[str]:
    """Return the payloads that the repos `folders`, and the blobs `gone` of other repos, link to."""
    whole = (inventory.linked.get(folder, frozenset()) for folder in folders)
    parts = (path.split("/", 2) for path in gone)
    loose = (inventory.repos[folder].blobs[blob].shared for folder, _, blob in parts)
    return frozenset(shared for shared in loose if shared).union(*whole)
