"""Refuse a locked launch before the stop if the disk differs from `models.lock`.

Missing files can be pulled. A changed file is refused if the lock was made from the disk, and so are unpinned weights
in the app's folders, because the app may load them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..cache.digests import Wanted
from ..context import Context
from ..errors import REPEAT, ExitStatus, LauncherError, quoted
from ..models import placement, verified, versions, weights
from ..models.lockfile import Lock
from ..models.placement import Memories, Placed
from ..models.weights import Library, WeightsFile
from ..ui import text
from . import weights as inventory

_NAMED_AT_MOST = 5


def refuse_changed(context: Context, lock: Lock, placed: Sequence[Placed]) -> bool:
    """Refuse files that do not match their pin by hash alone, and every changed file of a frozen lock.

    A file that is not remembered as verified is read. Returns whether all files of all models are present and verified.
    Raises LauncherError: 65, or 74 for an unreadable file.
    """
    memories = verified.load(context.settings.app_dir)
    problems, unread, missing = _looked_at(context, lock, placed, memories)
    read = inventory.read_files(context, memories, unread.own, unread.cached)
    problems += [f"{_name(context, one.path)} has another content" for one, d in read.items() if d != one.like]
    if problems:
        raise LauncherError(
            f"not what models.lock pins: {text.some(problems, _NAMED_AT_MOST)}; nothing was stopped",
            "start_app.py models pull brings what a hub has; start_app.py models lock --freeze pins the disk as it is",
            ExitStatus.DAMAGED,
        )
    return lock.frozen and not missing


class _Unread(NamedTuple):
    """Hold the files to be read, with their expected digests: in the app's own folders, and in hub caches."""

    own: list[Wanted]
    cached: list[Wanted]


def _looked_at(
    context: Context, lock: Lock, placed: Sequence[Placed], memories: Memories
) -> tuple[list[str], _Unread, bool]:
    """Return the problems that are visible without reading, the files to read, and whether a model's file is missing.

    Missing files of models are pulled later.
    """
    problems: list[str] = []
    missing = False
    unread = _Unread([], [])
    single = placement.held(str(context.settings.app_dir), lock.files, memories.local)
    problems += [f"{path} is gone" for path in single.missing]
    problems += [f"{path} has another size" for path in single.resized]
    unread.own.extend(Wanted(os.path.join(context.settings.app_dir, p), lock.files[p].hash) for p in single.unread)
    for model, place in placed if lock.frozen else ():
        base, into = place.base(model.commit), unread.cached if place.root else unread.own
        held = placement.held(base, model.files, memories.of(place))
        missing = missing or bool(held.missing)
        problems += [f"{_name(context, f'{base}/{path}')} has another size" for path in held.resized]
        into.extend(Wanted(f"{base}/{path}", model.files[path].hash) for path in held.unread)
    return problems, unread, missing


def _name(context: Context, path: str) -> str:
    return weights.name_of(path, context.settings.app_dir)


def refuse_unpinned(context: Context, lock: Lock) -> None:
    """Refuse unpinned weights in the app's own folders if the lock was made from the disk; otherwise name them.

    Raises LauncherError (65).
    """
    known = inventory.library(context, context.environment)
    files = {_name(context, one.path): one for one in (*weights.flat(known), *_inside(known))}
    unpinned = context.settings.unpinned
    names = sorted(n for n, one in files.items() if one.origin.pinned is None and not weights.is_exempt(n, unpinned))
    if not names:
        return
    told = f"not pinned by models.lock: {text.some(names, _NAMED_AT_MOST)}"
    if not lock.frozen:
        context.console.warn(f"{told}; the app can load it")
        return
    cached = sorted({f"{one.origin.repo}@{one.origin.commit}" for n in names if not (one := files[n]).flat})
    hint = "start_app.py models lock --freeze pins it"
    if cached:
        # A lock has one commit of each ref, so it cannot pin an older one that is still in the cache.
        shown = " ".join(map(quoted, cached[:_NAMED_AT_MOST]))
        hint = f"{hint} if it is the commit of a ref; start_app.py cache remove {shown} removes it"
    raise LauncherError(
        f"{told}; nothing was stopped", f"{hint}; APP_UNPINNED in .env exempts files by globs", ExitStatus.DAMAGED
    )


def _inside(known: Library) -> Iterator[WeightsFile]:
    """Yield the weights of hub caches in the app's own model folders: the app sees everything in such a folder."""
    own = tuple(os.path.realpath(folder) + os.sep for folder in versions.own_folders(known.settings, known.lock))
    inner = tuple(root for root in known.roots if root.startswith(own))
    yield from weights.cached(known._replace(roots=inner))


def refuse_hidden(context: Context, lock: Lock, pids: Sequence[int]) -> None:
    """Refuse files that the running instance has loaded from a hub cache and that the locked one would not see.

    With `--force`, only warn. Raises LauncherError (65).
    """
    from ..instances import process as processes
    from ..models import loaded

    environment = processes.environment(pids[0]) or {} if pids else {}
    hidden = loaded.hidden(loaded.opened(pids), inventory.roots_of(context, environment), lock)
    if not hidden:
        return
    told = f"the running instance has loaded what models.lock does not pin: {text.some(hidden, _NAMED_AT_MOST)}"
    if context.arguments.force:
        context.console.warn(f"{told}; the locked one cannot load it")
        return
    raise LauncherError(
        f"{told}; the locked one could not load it, and nothing was stopped",
        "start_app.py models lock --freeze pins what is here; "
        f"to start without it: start_app.py --locked --force{REPEAT}",
        ExitStatus.DAMAGED,
    )
