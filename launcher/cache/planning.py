"""Turn a request into one plan for each root, and a plan into a result; launch flags and commands share this code."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..ui.console import Progress
from ..ui.text import count, size
from . import entries, layout, remove, targets, trash
from . import plan as plans
from .deletion import Failure
from .inventory import Inventory, read_identities, read_links, read_payloads, read_repos, read_strangers
from .layout import Repo
from .plan import Item, Plan, Skipped
from .roots import Root
from .targets import Place
from .usage import held_lock, in_use

if TYPE_CHECKING:
    from .verify import Checked

_NAMED_AT_MOST = 10
_HOUR = 3600.0


class Request(NamedTuple):
    """Hold a request to the cache; `keep` are names or globs of repos, `force` includes repos in use.

    `locked` are the commits of each repo folder that stay; with `only_locked` only these stay. Links from the folders
    `places` count as a use of the cache; the pids in `spare` do not. Without `sizes` a clear or remove reads only the
    repos that may contain foreign files.
    """

    kind: Literal["clear", "remove", "prune"]
    targets: tuple[str, ...] = ()
    unused_seconds: float | None = None
    max_size: int | None = None
    keep: tuple[str, ...] = ()
    force: bool = False
    locked: Mapping[str, frozenset[str]] = {}
    only_locked: bool = False
    places: tuple[str, ...] = ()
    spare: frozenset[int] = frozenset()
    sizes: bool = True
    files: tuple[str, ...] = ()


class Result(NamedTuple):
    """Hold the result of a removal; `freed` bytes are measured."""

    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...]
    failures: tuple[Failure, ...]
    freed: int


def plan(request: Request, roots: Sequence[Root], *, again: bool = False) -> tuple[Plan, ...]:
    """Return the plan for each root.

    Raises LauncherError for a target without a match, unless this runs `again`: the first run may have removed it.
    """
    present = [Inventory(root, entries.contents(root.real)) for root in roots]
    if request.kind == "remove":
        places = [Place(listed.contents.entries, _reader(listed.root)) for listed in present]
        chosen = targets.select(request.targets, places, targets.LIST, lenient=again)
        if request.files:
            read = [_read(request, li, _folders(sel), _folders(sel)) for li, sel in zip(present, chosen, strict=True)]
            from . import plan_files

            return plan_files.remove(read, chosen, request.files, lenient=again)
        return tuple(
            plans.remove(_read(request, listed, _folders(selected), _parts(selected)), selected)
            for listed, selected in zip(present, chosen, strict=True)
        )
    if request.kind == "clear":
        return tuple(plans.clear(_read(request, listed, listed.contents.entries)) for listed in present)
    if not again:
        targets.refuse_unknown(request.keep, roots)
    return tuple(_prune(request, _read_whole(request, listed)) for listed in present)


def plan_repair(damaged: Sequence[Checked], roots: Sequence[Root], *, force: bool) -> tuple[Plan, ...]:
    """Return the plan that removes exactly the damaged files, so that they can be downloaded again.

    A damaged payload of the shared store is removed with the links of all repos; otherwise a new download would only
    link to it.
    """
    planned = []
    for root in roots:
        contents = entries.contents(root.real)
        files = frozenset(c.candidate.path for c in damaged if c.candidate.path.startswith(f"{root.real}/"))
        if not files:
            continue
        inventory = _read_whole(Request("remove", force=force), Inventory(root, contents))
        unreadable = [
            Skipped(inventory.path(folder), f"it cannot be read: {why}") for folder, why in inventory.unreadable.items()
        ]
        repair = plans.repair(inventory, files)
        planned.append(repair._replace(skipped=(*repair.skipped, *unreadable)))
    return tuple(planned)


def finish_left_over(roots: Sequence[Root]) -> None:
    """Delete the trash of interrupted removals in these roots."""
    for root in roots:
        trash.finish(root.real)


def condemn(planned: Sequence[Plan], say: Callable[[Plan, Item], None]) -> Result:
    """Apply plans up to the trash: afterwards the removed paths are in the trash."""
    items: list[Item] = []
    failures: list[Failure] = []
    freed = 0
    for part in planned:
        done = remove.condemn(part, partial(say, part))
        items += done.items
        failures += done.failures
        freed += done.freed
    return Result(tuple(items), tuple(s for part in planned for s in part.skipped), tuple(failures), freed)


def finish(planned: Sequence[Plan], result: Result, progress: Progress | None) -> Result:
    """Delete the trash of every root that a plan touched, and return the result with the freed bytes."""
    for part in planned:
        if part.items:
            done = trash.finish(part.root.real, progress)
            result = result._replace(freed=result.freed + done.freed, failures=(*result.failures, *done.failures))
    return result


def skipped_lines(skipped: Sequence[Skipped]) -> Iterator[str]:
    """Yield the skipped paths with their reasons; of the foreign ones, only the first few."""
    strangers = [skip for skip in skipped if skip.kind == "foreign"]
    for skip in (*(skip for skip in skipped if skip.kind != "foreign"), *strangers[:_NAMED_AT_MOST]):
        kept = f", {size(skip.size)}" if skip.size else ""
        verb = "cannot remove" if skip.kind == "blocked" else "skipped:"
        yield f"{verb} {skip.path}{kept}: {skip.reason}"
    if len(strangers) > _NAMED_AT_MOST:
        yield f"skipped: {count(len(strangers) - _NAMED_AT_MOST, 'more path')} that are not huggingface_hub's"


def plan_lines(planned: Sequence[Plan]) -> Iterator[str]:
    """Yield a plan as a dry run shows it."""
    for part in planned:
        for item in part.items:
            bytes_ = f", {size(item.size)}" if item.size is not None else ""
            yield f"would remove {item.path}{bytes_}: {item.reason}"
            yield from (f"would keep {target}: {item.path} links to it" for target in item.targets)
        yield from skipped_lines(part.skipped)
        if not part.items:
            yield f"nothing {'can go now' if is_busy((part,)) else 'to remove'} in {part.root.path}"
        else:
            yield f"would free {size(part.size)} in {part.root.path}"


def is_busy(planned: Sequence[Plan]) -> bool:
    """Return whether plans leave something only because it is in use."""
    return any(skip.kind == "in use" for part in planned for skip in part.skipped)


def plan_document(planned: Plan) -> Mapping[str, Any]:
    """Return a plan for `--json`."""
    return {
        "path": str(planned.root.path),
        "owned": planned.root.owned,
        "remove": [item_document(item) for item in planned.items],
        "left": [skipped_document(skip) for skip in planned.skipped],
        "size_bytes": planned.size,
    }


def item_document(item: Item) -> Mapping[str, Any]:
    """Return an item for `--json`."""
    fields = {"kind": item.kind, "path": item.path, "size_bytes": item.size, "reason": item.reason}
    return {**fields, "kept_targets": list(item.targets)} if item.targets else fields


def skipped_document(skipped: Skipped) -> Mapping[str, Any]:
    """Return the skipped paths for `--json`."""
    return {
        "path": skipped.path,
        "size_bytes": skipped.size,
        "reason": skipped.reason,
        "in_use": skipped.kind == "in use",
        "foreign": skipped.kind == "foreign",
    }


def _read_whole(request: Request, listed: Inventory) -> Inventory:
    return _read(request, listed, listed.contents.entries, listed.contents.entries)


def _read(request: Request, listed: Inventory, folders: Sequence[str], parts: Collection[str] = ()) -> Inventory:
    """Read a listed root for a request that may remove these repos, and only parts of those in `parts`."""
    root, contents = listed.root, listed.contents
    wanted = folders if request.sizes else [folder for folder in folders if folder in parts]
    repos, unreadable = read_repos(root, wanted)
    whole = [folder for folder in folders if folder not in repos]
    strangers, strange = read_strangers(root, contents, whole)
    watched = folders if request.kind == "remove" else tuple(dict.fromkeys((*folders, *contents.locks)))
    users = in_use(root.real, watched, request.spare, force=request.force)
    links = {}
    if request.force:  # links within a repo to its blobs do not count either
        repos, strangers = ({f: repo._replace(lent={}) for f, repo in some.items()} for some in (repos, strangers))
    else:
        near = repos.values() if request.kind == "prune" else ()
        links = dict(read_links(listed, request.places, near, aliases=request.kind != "clear"))
    payloads, linked = read_payloads(root, contents, folders if request.kind == "remove" else None)
    return listed._replace(
        repos={**strangers, **repos},
        payloads=payloads,
        in_use=users,
        links=links,
        identities=read_identities(root, folders),
        linked=linked,
        unreadable={**{f: why for f, why in unreadable.items() if f in parts}, **strange},
    )


def _prune(request: Request, inventory: Inventory) -> Plan:
    from . import prune

    kept = targets.matching(request.keep, inventory.contents.entries)
    options = prune.PruneOptions(
        _now(), request.unused_seconds, request.max_size, kept, request.locked, request.only_locked, request.force
    )
    root = inventory.root
    locks = {folder: names for folder, repo in inventory.repos.items() if (names := tuple(_stale_locks(root, repo)))}
    return prune.prune(inventory, options, locks)


def _now() -> float:
    """Return the time of the clock that stamps files, estimated from our own clock."""
    ours = time.time()
    try:
        kernel = os.stat("/proc/self").st_ctime
    except OSError:
        return ours
    return kernel if abs(kernel - ours) > _HOUR and kernel > 0 else ours


def _folders(selected: Sequence[targets.Selection]) -> tuple[str, ...]:
    return tuple(selection.folder for selection in selected)


def _parts(selected: Sequence[targets.Selection]) -> frozenset[str]:
    return frozenset(selection.folder for selection in selected if selection.commits)


def _reader(root: Root) -> Callable[[str], Repo]:
    return lambda folder: layout.read(root.real, folder)


def _stale_locks(root: Root, repo: Repo) -> Iterator[str]:
    """Yield the lock files of a repo that no process holds and that guard no existing file."""
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
