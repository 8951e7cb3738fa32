"""Restore files that are pinned only by their hash: from this machine, or from their repo."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from ..cache.digests import Wanted, digests
from ..context import Context
from ..errors import ExitStatus, LauncherError
from ..models import hub, local_dir, placement, switch
from ..models import sources as sourcing
from ..models.lockfile import Lock, LockedFile
from ..models.placement import Memories
from ..models.sources import Source, Sources
from ..models.task import STALL_SECONDS, Skipped
from ..service import history
from ..system.files import content_hash
from ..ui.text import size


def restore(context: Context, lock: Lock, sources: Sources, memories: Memories) -> Iterator[Skipped]:
    """Restore every missing or changed pinned file; yield those that have no source, or cannot be written.

    A file in its place is kept next to it under another name.
    """
    app_dir = str(context.settings.app_dir)
    lacking = {path: lock.files[path] for path in _lacking(app_dir, lock, memories)}
    copies = sources.find(lacking.values(), {os.path.join(app_dir, path) for path in lacking})
    for path, file in lacking.items():
        name = os.path.join(app_dir, path)
        try:
            if path.startswith("/"):
                raise LauncherError(f"{path} is outside the app's folder, and is not written", None, ExitStatus.DAMAGED)
            source = copies.get(file.hash)
            place = source.place if source else _download(context, name, file)
            if source:
                _put(source, name, file)
        except LauncherError as error:
            yield Skipped(path, error)
            continue
        except OSError as error:
            reason = f"cannot write {name}: {(error.strerror or str(error)).lower()}"
            yield Skipped(path, LauncherError(reason, "df -h; ls -ld", ExitStatus.IO))
            continue
        told = f"{size(max(0, file.size))} from {place}, verified"
        history.record(context.settings, "pull", path, told)
        context.console.say(f"pull: {path}: {told}")


def _lacking(app_dir: str, lock: Lock, memories: Memories) -> Iterator[str]:
    held = placement.held(app_dir, lock.files, memories.local)
    yield from held.lacking
    for path in held.unread:
        one = Wanted(os.path.join(app_dir, path), lock.files[path].hash)
        if digests((one,), memories.local)[one] != one.like:
            yield path


def _put(source: Source, name: str, file: LockedFile) -> None:
    """Stage a file next to its place, and rename it into place after verifying it."""
    staged = f"{name}.{file.hash[:7]}.incomplete"
    with suppress(FileNotFoundError):
        os.unlink(staged)
    sourcing.bring(source, staged, blob=False)
    _take_place(staged, name, file)


def _take_place(staged: str, name: str, file: LockedFile) -> None:
    with open(staged, "rb") as arrived:
        right = content_hash(arrived.fileno(), file.hash) == file.hash
    if not right:
        os.unlink(staged)
        raise LauncherError(
            f"{name}: the download does not match the pin", "start_app.py models pull", ExitStatus.DAMAGED
        )
    if os.path.lexists(name):
        os.rename(name, local_dir.own_name(name, file.hash))
    os.makedirs(os.path.dirname(name), exist_ok=True)
    os.rename(staged, name)


def _download(context: Context, name: str, file: LockedFile) -> str:
    """Download a file under its name in the repo; return the source.

    Raises LauncherError (75).
    """
    lost = LauncherError(
        f"no cache or folder here has {name}",
        "HF_ENDPOINT_FALLBACK=DIR in .env names a folder that has it; start_app.py models lock --freeze unpins it",
        ExitStatus.RETRY,
    )
    if context.offline or not file.origin:
        raise lost
    repo, _, rest = file.origin.partition("@")
    commit, _, inner = rest.partition("/")
    folder = f"{os.path.dirname(name)}/{local_dir.STAGING}/single-{file.hash[:16]}"
    os.makedirs(folder, exist_ok=True)
    try:
        for endpoint in context.endpoints.chain:
            transfer = hub.Transfer(endpoint, repo, commit, {inner: file._replace(origin="")}, None, folder)
            hub.download(
                transfer,
                context.own_environment,
                stall=context.timeout(STALL_SECONDS),
                watch=lambda received: received,
                last=endpoint == context.endpoints.chain[-1],
            )
            if os.path.isfile(f"{folder}/{inner}"):
                _take_place(f"{folder}/{inner}", name, file)
                return endpoint.url
    finally:
        switch.drop(os.path.dirname(name))
    raise lost
