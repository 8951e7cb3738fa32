"""Copy the pinned files into a folder, from which `models pull` on another machine takes them by their hashes.

The folder has plain files with readable names: FAT and exFAT have no links.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from ..cache.digests import Wanted
from ..config.paths import current_folder
from ..context import Context
from ..errors import ExitStatus, LauncherError, quoted
from ..models import LOCKFILE, lockfile, placement, repo_id, sources, verified
from ..models.lockfile import LockedFile
from ..models.placement import Memories
from ..models.sources import Source
from ..system import files
from ..ui.text import size, some
from . import weights

_SPARE_BYTES = 1 << 20


class Exported(NamedTuple):
    """Hold the number of written files, the number of existing ones, and the written bytes."""

    folder: str
    written: int
    present: int
    size: int


class _Part(NamedTuple):
    """Hold a file to export: its path, its expected content, and its path in the folder."""

    path: str
    file: LockedFile
    name: str
    cached: bool


def export(context: Context, folder: str) -> Exported:
    """Write the missing pinned files below a folder; with `--dry-run` nothing is written.

    Raises LauncherError: 2 without a lock, 65 for a file that does not match its pin, 74 if there is no room or a file
    cannot be read or written.
    """
    target = os.path.join(current_folder(), os.path.expanduser(folder))
    parts = list(_parts(context))
    memories = verified.load(context.settings.app_dir)
    _refuse_changed(context, parts, memories)
    missing = [part for part in parts if not _is_there(f"{target}/{part.name}", part.file)]
    amount = sum(max(0, part.file.size) for part in missing)
    done = Exported(target, len(missing), len(parts) - len(missing), amount)
    if context.arguments.dry_run:
        return done
    try:
        os.makedirs(target, exist_ok=True)
        _refuse_full(target, amount)
        with context.console.bar("exporting", amount) as progress:
            for part in missing:
                path = f"{target}/{part.name}"
                if os.path.lexists(path):
                    os.unlink(path)
                sources.bring(Source(part.path, False, ""), path, blob=False)
                if progress:
                    progress(max(0, part.file.size), part.name)
        descriptor = files.open_folder(target, follow=True)
        try:
            files.write_whole(LOCKFILE, lockfile.dump(context.lockfile or ()), descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise LauncherError(
            f"cannot write {os.fsdecode(error.filename or target)}: {(error.strerror or str(error)).lower()}",
            f"df -h {quoted(target)}",
            ExitStatus.IO,
        ) from error
    return done


def _parts(context: Context) -> Iterator[_Part]:
    lock, app_dir = context.lockfile, context.settings.app_dir
    if not lock:
        raise LauncherError(
            f"{lockfile.path_of(app_dir)} pins nothing to export",
            "start_app.py models lock --freeze pins what is on the disk",
            ExitStatus.USAGE,
        )
    for model, place in placement.placed(lock, context.roots, app_dir):
        base = place.base(model.commit)
        for path, file in model.files.items():
            name = f"{repo_id.folder(model.repo)}/{model.commit}/{path}"
            yield _Part(f"{base}/{path}", file, name, place.root is not None)
    for path, file in lock.files.items():
        yield _Part(os.path.join(app_dir, path), file, f"files/{path.lstrip('/')}", False)


def _refuse_changed(context: Context, parts: list[_Part], memories: Memories) -> None:
    """Refuse files that do not match their pins, because another machine will rely on them.

    Raises LauncherError (65, 74).
    """
    problems = [f"{part.path} is not there" for part in parts if not os.path.exists(part.path)]
    own, cached = (
        [Wanted(p.path, p.file.hash) for p in parts if p.cached == which and os.path.exists(p.path)]
        for which in (False, True)
    )
    read = weights.read_files(context, memories, own, cached)
    problems += [f"{one.path} has another content" for one, digest in read.items() if digest != one.like]
    if problems:
        raise LauncherError(
            f"nothing was exported: {some(problems, 3)}",
            "start_app.py models pull; start_app.py models check",
            ExitStatus.DAMAGED,
        )


def _is_there(path: str, file: LockedFile) -> bool:
    try:
        descriptor = files.open_regular(path, follow=True)
    except OSError:
        return False
    try:
        return os.fstat(descriptor).st_size == file.size and files.content_hash(descriptor, file.hash) == file.hash
    finally:
        os.close(descriptor)


def _refuse_full(target: str, amount: int) -> None:
    free = files.free_bytes(target)
    if free is not None and amount + _SPARE_BYTES > free:
        raise LauncherError(
            f"{size(amount)} are to be exported, and {target} has room for {size(free)}",
            f"df -h {quoted(target)}",
            ExitStatus.IO,
        )
