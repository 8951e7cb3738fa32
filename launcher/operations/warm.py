"""Read the files that the new instance will load into the page cache while the old instance still serves."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence

from ..cache.dirs import open_to_read
from ..config.paths import HUB_ENTRY
from ..context import Context
from ..models import loaded, placement, versions, weights
from ..models.lockfile import Lock
from ..system import page_cache
from ..ui.text import duration, size
from . import weights as inventory

_LONGEST_SECONDS = 60.0
_SPARE_SHARE = 0.1  # of the available memory


def warm(context: Context, lock: Lock, pids: Sequence[int]) -> None:
    """Read the pinned files, or those that these processes have mapped or open, if they fit and are not in memory.

    Unreadable files are left to the app.
    """
    opened: list[int] = []
    try:
        parts: list[tuple[int, int, int]] = []
        for path in dict.fromkeys(_paths(context, lock, pids)):
            try:
                descriptor = open_to_read(path)
            except OSError:
                continue
            opened.append(descriptor)
            count = os.fstat(descriptor).st_size
            parts += [(descriptor, offset, length) for offset, length in page_cache.missing(descriptor, count)]
        amount = sum(length for _, _, length in parts)
        if not amount:
            return
        available = page_cache.available()
        if available is not None and amount > available * (1 - _SPARE_SHARE):
            context.console.say(f"warm: skipped: {size(amount)} do not fit into the {size(available)} of memory left")
            return
        began = time.monotonic()
        with context.console.bar("warming", amount) as progress:
            step = (lambda count: progress(count, "")) if progress else (lambda _: None)
            done = page_cache.read(parts, _LONGEST_SECONDS, step)
        context.console.say(f"warm: {size(done)} read into memory ({duration(time.monotonic() - began)})")
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _paths(context: Context, lock: Lock, pids: Sequence[int]) -> Iterator[str]:
    """Yield the files that the new instance will load, as far as they are known."""
    if lock:
        for model, place in placement.placed(lock, context.roots, context.settings.app_dir):
            yield from (f"{place.base(model.commit)}/{path}" for path in model.files)
        yield from (os.path.join(context.settings.app_dir, path) for path in lock.files)
    roots = tuple(os.path.realpath(root) for root in inventory.roots_of(context, context.environment))
    own = versions.own_folders(context.settings, lock)
    folders = tuple(f"{os.path.realpath(folder)}/" for folder in own)
    for file in loaded.opened(pids):
        below = next((file.path[len(root) + 1 :] for root in roots if file.path.startswith(f"{root}/")), "")
        is_cached = bool(HUB_ENTRY.match(below)) or below.startswith("blobs/")
        if not file.gone and (is_cached or weights.is_weights(file.path) or file.path.startswith(folders)):
            yield file.path
