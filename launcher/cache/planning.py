"""What a launch flag and its command share: a request becomes one plan for each root, and a plan becomes a result."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..errors import ExitStatus, LauncherError
from ..ui.text import size
from . import entries, layout, remove, store, trash
from . import plan as plans
from . import prune as pruning
from . import targets as select
from .deletion import Failure, Progress
from .dirs import reason
from .entries import Contents
from .layout import Identity, Repo
from .plan import Item, Left, Payload, Plan
from .prune import PruneOptions
from .roots import Root
from .usage import busy, held_lock

if TYPE_CHECKING:
    from .verify import Checked

LIST = "start_app.py cache list"


class Request(NamedTuple):
    """Hold what is asked of the cache; `keep` are names or globs of repos, `force` insists on what is in use.

    `locked` are the commits that stay of each repo folder, where whatever is not among them is to go.
    """

    what: Literal["clear", "remove", "prune"]
    targets: tuple[str, ...] = ()
    unused_seconds: float | None = None
    max_size: int | None = None
    keep: tuple[str, ...] = ()
    force: bool = False
    locked: Mapping[str, frozenset[str]] | None = None


class Result(NamedTuple):
    """Hold what a removal did; `freed` bytes are measured."""

    items: tuple[Item, ...]
    left: tuple[Left, ...]
    failures: tuple[Failure, ...]
    freed: int


def plan(
    request: Request, roots: Sequence[Root], *, spare: Collection[int] = (), sizes: bool = True, again: bool = False
) -> tuple[Plan, ...]:
    """Return what the request takes from each root; pids in `spare` do not count as using anything.

    Without `sizes` a clear looks into no repo, unless it must. Raises LauncherError for a target that means nothing,
    unless this is done `again`: what was there the first time is then gone already.
    """
    present = [(root, entries.contents(root.real)) for root in roots]
    if request.what == "remove":
        return _plan_remove(request, present, spare, again=again)
    if request.what == "clear":
        return tuple(_plan_clear(request, root, contents, spare, sizes) for root, contents in present)
    if not again:
        refuse_unknown(request.keep, roots)
    return tuple(_plan_prune(request, root, contents, spare) for root, contents in present)


def plan_repair(damaged: Sequence[Checked], roots: Sequence[Root], *, force: bool) -> tuple[Plan, ...]:
    """Return what must go for damaged files to be downloaded anew, and nothing that is whole.

    A damaged payload of the shared store goes with every repo's link to it, or a new download would only link to it.
    """
    found = []
    for root in roots:
        contents = entries.contents(root.real)
        bad = [one for one in damaged if one.candidate.path.startswith(f"{root.real}/")]
        if not bad:
            continue
        repos, unreadable = _read(root, contents.entries)
        in_use = busy(root.real, contents.entries, force=force)
        payloads = _payloads(root, contents)
        files = frozenset(one.candidate.path for one in bad)
        one = plans.repair(root, contents, repos, payloads, in_use, files)
        found.append(one._replace(left=(*one.left, *unreadable)))
    return tuple(found)


def refuse_unknown(targets: Sequence[str], roots: Sequence[Root]) -> None:
    """Refuse a repo that is in none of the roots; the nearest are named."""
    present = tuple(dict.fromkeys(folder for root in roots for folder in entries.contents(root.real).entries))
    for target in targets:
        if not select.matching((target,), present):
            if "@" in target:
                raise LauncherError(
                    f"{target} is a revision, and a whole repo is meant here",
                    "start_app.py cache list --revisions",
                    ExitStatus.USAGE,
                )
            raise select.unknown(target, present, LIST)


def restore(roots: Sequence[Root]) -> None:
    """Give back what a killed run has left in the trash of these roots, where repos still need it."""
    for root in roots:
        trash.restore(root.real)


def condemn(found: Sequence[Plan], say: Callable[[Plan, Item], None]) -> Result:
    """Apply plans as far as the cache is concerned: what goes lies in the trash afterwards."""
    items: list[Item] = []
    failures: list[Failure] = []
    freed = 0
    for one in found:
        done = remove.condemn(one, partial(say, one))
        items += done.items
        failures += done.failures
        freed += done.freed
    return Result(tuple(items), tuple(left for one in found for left in one.left), tuple(failures), freed)


def finish(found: Sequence[Plan], result: Result, progress: Progress | None) -> Result:
    """Delete the trash of every root that a plan touched, and return the result with what that freed."""
    for one in found:
        if one.items:
            done = trash.finish(one.root.real, progress, {item.folder for item in one.items})
            result = result._replace(freed=result.freed + done.freed, failures=(*result.failures, *done.failures))
    return result


def _plan_clear(request: Request, root: Root, contents: Contents, spare: Collection[int], sizes: bool) -> Plan:
    in_use = busy(root.real, _with_locks(contents), spare, force=request.force)
    detailed = sizes or (contents.store and (in_use or contents.strange))
    repos = _read(root, contents.entries)[0] if detailed else {}
    payloads = _payloads(root, contents) if detailed else {}
    return plans.clear(root, contents, repos, payloads, in_use, _identities(root, contents.entries))


def _plan_remove(
    request: Request, present: Sequence[tuple[Root, Contents]], spare: Collection[int], *, again: bool
) -> tuple[Plan, ...]:
    places = [select.Place(contents.entries, _reader(root)) for root, contents in present]
    found = []
    chosen = select.select(request.targets, places, LIST, lenient=again)
    for (root, contents), selected in zip(present, chosen, strict=True):
        folders = tuple(one.folder for one in selected)
        repos, unreadable = _read(root, folders)
        in_use = busy(root.real, folders, spare, force=request.force)
        payloads = _payloads(root, contents, frozenset().union(*(repo.shared for repo in repos.values()), frozenset()))
        identities = _identities(root, folders)
        present_ones = [one for one in selected if one.folder in identities]
        one = plans.remove(root, contents, repos, payloads, in_use, present_ones, identities)
        whole = {s.folder for s in selected if not s.commits}
        found.append(one._replace(left=(*one.left, *(u for u in unreadable if os.path.basename(u.path) not in whole))))
    return tuple(found)


def _plan_prune(request: Request, root: Root, contents: Contents, spare: Collection[int]) -> Plan:
    repos, unreadable = _read(root, contents.entries)
    kept = select.matching(request.keep, contents.entries)
    options = PruneOptions(request.unused_seconds, request.max_size, kept, request.locked)
    in_use = busy(root.real, _with_locks(contents), spare, force=request.force)
    locks = {folder: found for folder, repo in repos.items() if (found := tuple(_stale_locks(root, repo)))}
    one = pruning.prune(root, contents, repos, _payloads(root, contents), in_use, options, time.time(), locks)
    return one._replace(left=(*one.left, *unreadable))


def left_lines(left: Sequence[Left]) -> Iterator[str]:
    """Yield what stays, and why."""
    for one in left:
        kept = f", {size(one.size)}" if one.size else ""
        yield f"left: {one.path}{kept}: {one.reason}"


def plan_lines(found: Sequence[Plan]) -> Iterator[str]:
    """Yield a plan as a dry run tells it."""
    for one in found:
        for item in one.items:
            bytes_ = f", {size(item.size)}" if item.size is not None else ""
            yield f"would remove {item.path}{bytes_}: {item.reason}"
        yield from left_lines(one.left)
        if not one.items:
            yield f"nothing to remove in {one.root.path}"
        else:
            yield f"would free {size(one.size)} in {one.root.path}"


def plan_document(one: Plan) -> Mapping[str, Any]:
    """Return a plan for `--json`."""
    return {
        "path": str(one.root.path),
        "owned": one.root.owned,
        "remove": [item_document(item) for item in one.items],
        "left": [left_document(left) for left in one.left],
        "size_bytes": one.size,
    }


def item_document(item: Item) -> Mapping[str, Any]:
    """Return an item for `--json`."""
    return {"kind": item.kind, "path": item.path, "size_bytes": item.size, "reason": item.reason}


def left_document(left: Left) -> Mapping[str, Any]:
    """Return what stays for `--json`."""
    return {"path": left.path, "size_bytes": left.size, "reason": left.reason, "in_use": left.busy}


def _with_locks(contents: Contents) -> tuple[str, ...]:
    """Return every folder that a download may be at, those of repos that have only locks so far among them."""
    return tuple(dict.fromkeys((*contents.entries, *contents.locks)))


def _reader(root: Root) -> Callable[[str], Repo]:
    return lambda folder: layout.read(root.real, folder)


def _read(root: Root, folders: Sequence[str]) -> tuple[Mapping[str, Repo], list[Left]]:
    found: dict[str, Repo] = {}
    unreadable = []
    for folder in folders:
        try:
            found[folder] = layout.read(root.real, folder)
        except FileNotFoundError:
            continue  # removed meanwhile
        except OSError as error:
            unreadable.append(Left(f"{root.real}/{folder}", f"it cannot be read: {reason(error)}"))
    return found, unreadable


def _identities(root: Root, folders: Sequence[str]) -> Mapping[str, Identity]:
    found = {}
    for folder in folders:
        try:
            status = os.lstat(f"{root.real}/{folder}")
        except OSError:
            continue
        found[folder] = (status.st_dev, status.st_ino)
    return found


def _payloads(root: Root, contents: Contents, only: Collection[str] | None = None) -> Mapping[str, Payload]:
    if not contents.store:
        return {}
    links: dict[str, set[str]] = {}
    for folder in contents.entries:
        for path, payload in store.blobs_of(root.real, folder):
            links.setdefault(payload, set()).add(path)
    found = {}
    for payload, count in store.sizes(root.real, only):
        known = store.references(root.real, payload)
        found[payload] = Payload(count, None if known is None else known | links.get(payload, set()))
    return found


def _stale_locks(root: Root, repo: Repo) -> Iterator[str]:
    """Yield the lock files of a repo that guard nothing which is there, and that nobody holds."""
    folder = f"{root.real}/{entries.LOCKS}/{repo.folder}"
    if os.path.islink(folder) or os.path.islink(os.path.dirname(folder)):
        return
    try:
        names = os.listdir(folder)
    except OSError:
        return
    present = {*repo.blobs, *repo.missing_payloads, *(partial.partition(".")[0] for partial in repo.partial)}
    for name in sorted(names):
        if name.endswith(".lock") and name[:-5] not in present and not held_lock(f"{folder}/{name}"):
            yield name
