"""Compare the app's weights files with those of its running instance, for `list`, `status` and `--freeze`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..cache import roots as caches
from ..cache.digests import Wanted, digests
from ..context import Context
from ..errors import ExitStatus, LauncherError
from ..instances import process as processes
from ..models import verified, weights
from ..models.locked_view import VIEW
from ..models.lockfile import Lock
from ..models.placement import Memories
from ..models.weights import Library, Origin, WeightsFile

if TYPE_CHECKING:
    from ..models.loaded import Opened
    from .instance import Observed

Digests = Mapping[Wanted, str]
_SETTLE_SECONDS = 2.0  # what is written at the start itself, by clocks that count in two seconds


class Listed(NamedTuple):
    """Hold a weights file, whether the instance has loaded it, and how it has changed on the disk since."""

    file: WeightsFile
    loaded: bool
    change: str

    def document(self) -> Mapping[str, Any]:
        """Return it for `--json`."""
        return {
            **self.file.document(),
            "loaded": "yes" if self.loaded else "unknown",
            "changed": self.change or None,
        }


class Inventory(NamedTuple):
    """Hold the weights files, and the names of those that the instance has or had and that are not on the disk."""

    files: tuple[Listed, ...]
    gone: tuple[str, ...]

    @property
    def flat(self) -> tuple[WeightsFile, ...]:
        """Return the files in folders of the app's own."""
        return tuple(one.file for one in self.files if one.file.flat)

    def changes(self) -> Iterator[str]:
        """Yield the changes on the disk since the instance started, a file a line."""
        for one in self.files:
            if one.change:
                yield f"{one.file.name} was {one.change}"
        for name in self.gone:
            yield f"{name} is gone from the disk since the instance started"


class Instance(NamedTuple):
    """Hold the facts about the running instance: its open files, environment, start and record.

    `started` is in seconds since the epoch; `stamps` are the fingerprints of its weights at the start, None if no
    launcher has recorded them. `commits` are those of the cached models at the start.
    """

    opened: tuple[Opened, ...] = ()
    environment: Mapping[str, str] = {}
    started: float | None = None
    stamps: Mapping[str, str] | None = None
    commits: Mapping[str, str] = {}


def instance_of(observed: Observed) -> Instance:
    """Return the facts about the observed instance; empty without one."""
    from ..models import loaded  # a launch does not need it

    instance, record = observed.instance, observed.record
    if instance is None:
        return Instance()
    own = record if record and record.pid == instance.pid else None
    started = time.time() - instance.process.age + _SETTLE_SECONDS
    if own and observed.lock:
        with suppress(OSError):  # the launcher wrote its record after all pulls, and then became the app
            started = os.stat(observed.lock).st_mtime
    return Instance(
        loaded.opened(instance.tree),
        processes.environment(instance.pid) or {},
        started,
        own.weights if own else None,
        own.models if own else {},
    )


def roots_of(context: Context, environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the caches of models: those of the instance with this environment, and those of the app.

    A locked instance uses a view, and its models are in the app's caches.
    """
    app_dir = context.settings.app_dir
    paths = (*caches.folders(environment, app_dir), *caches.folders(context.environment, app_dir))
    return tuple(path for path in dict.fromkeys(paths) if not path.name.startswith(VIEW))


def lock_of(context: Context) -> Lock:
    """Return the lock, or an empty one if it is missing or unreadable: that must not hide the files on the disk."""
    try:
        return context.lockfile or Lock()
    except LauncherError:
        return Lock()


def library(context: Context, environment: Mapping[str, str]) -> Library:
    """Return the sources for identifying a weights file."""
    real = tuple(dict.fromkeys(os.path.realpath(path) for path in roots_of(context, environment)))
    return Library(context.settings, lock_of(context), verified.load(context.settings.app_dir), real)


def inventory(context: Context, instance: Instance, *, cached: bool = True) -> Inventory:
    """Return every weights file that the app can load; without `cached`, only the changed ones in hub caches."""
    known = library(context, instance.environment or context.environment)
    files = (*weights.flat(known), *(weights.cached(known) if cached or instance.opened else ()))
    compare = _Comparison(context, instance)
    listed = [compare.listed(file) for file in files]
    own = tuple(one for one in listed if cached or one.file.flat or one.change)
    besides = tuple(compare.besides(files))
    return Inventory((*own, *besides), tuple(compare.gone(files)))


def read_files(context: Context, memories: Memories, own: Sequence[Wanted], cached: Sequence[Wanted] = ()) -> Digests:
    """Return the digests of files in folders of the app's own and in hub caches, and keep them unless in a dry run.

    Raises LauncherError (74) for a file that cannot be read.
    """
    try:
        if not (own or cached):
            return {}
        with context.console.bar("reading", None) as progress:
            return {**digests(own, memories.local, progress), **digests(cached, memories.cached, progress)}
    except OSError as error:
        where = os.fsdecode(error.filename or "")
        raise LauncherError(
            f"cannot read {where}: {(error.strerror or str(error)).lower()}", "start_app.py models list", ExitStatus.IO
        ) from error
    finally:
        if not context.arguments.dry_run:
            verified.save(context.settings.app_dir, memories, context.console.detail)


class _Comparison:
    """Compare the files on the disk with the open files of the instance, and with those at its start."""

    def __init__(self, context: Context, instance: Instance) -> None:
        self._app_dir = context.settings.app_dir
        self._instance = instance
        self._paths = {one.path for one in instance.opened if not one.gone}
        self._lost = {one.path for one in instance.opened if one.gone}
        self._identities = {one.identity for one in instance.opened}

    def listed(self, file: WeightsFile) -> Listed:
        real = os.path.realpath(file.path) if self._instance.opened else file.path
        is_open = file.identity in self._identities or real in self._paths
        if real in self._lost and not is_open:
            return Listed(file, True, "replaced on the disk since the instance loaded it")
        return Listed(file, is_open, self._change(file))

    def _change(self, file: WeightsFile) -> str:
        stamps, started = self._instance.stamps, self._instance.started
        late = started is not None and file.status.st_ctime > started
        if not file.flat:
            was = file.origin.commit in self._instance.commits.values()
            return "written or replaced since the instance started" if late and was else ""
        if stamps is None:
            return "written or replaced since the instance started" if late else ""
        before = stamps.get(weights.name_of(file.path, self._app_dir))
        if before is None or before == weights.stamp(file.status):
            return ""
        same = before.split(" ")[:2] == weights.stamp(file.status).split(" ")[:2]
        return f"{'written to' if same else 'replaced'} since the instance started"

    def besides(self, files: Sequence[WeightsFile]) -> Iterator[Listed]:
        """Yield weights that the instance has open and that are in no known folder."""
        known = {file.identity for file in files} | {(0, 0)}
        for one in self._instance.opened:
            if one.gone or one.identity in known or not weights.is_weights(one.path):
                continue
            try:
                status = os.stat(one.path)
            except OSError:
                continue
            if (status.st_dev, status.st_ino) not in known:
                known.add((status.st_dev, status.st_ino))
                name = weights.name_of(one.path, self._app_dir)
                yield Listed(WeightsFile(one.path, name, status, Origin(), True), True, "")

    def gone(self, files: Sequence[WeightsFile]) -> Iterator[str]:
        """Yield the names of weights that the instance has open, and that the disk no longer has under this name."""
        real = {os.path.realpath(file.path) for file in files} if self._lost else set()
        for path in sorted(self._lost - real):
            if weights.is_weights(path) and not os.path.lexists(path):
                yield weights.name_of(path, self._app_dir)
        for name in sorted(self._instance.stamps or ()):
            if not os.path.lexists(os.path.join(self._app_dir, name)) and weights.is_weights(name):
                yield name
