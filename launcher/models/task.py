"""The work of a pull for one model, and the means for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..cache.roots import Root
from ..errors import LauncherError
from ..ui.console import Progress
from . import local_dir
from .endpoints import Endpoint, Endpoints
from .lockfile import LockedModel
from .placement import Memories, Place
from .sources import Sources
from .switch import Switch


class Task(NamedTuple):
    """Hold one model to bring to the disk: its missing files, and the files to remove for it.

    `damaged` are present but wrong files among the missing ones; `switch` is the staged change of a folder of the
    app's.
    """

    model: LockedModel
    place: Place
    before: str | None
    lacking: tuple[str, ...]
    damaged: tuple[str, ...]
    outdated: local_dir.Outdated
    switch: Switch | None = None

    @property
    def size(self) -> int:
        """Return the missing bytes."""
        return sum(max(0, self.model.files[path].size) for path in self.lacking)

    @property
    def base(self) -> str:
        """Return the folder for its downloads: its snapshot, or the staging folder of its own folder."""
        if self.place.root is None:
            return local_dir.staging(self.place.path, self.model.commit)
        return self.place.base(self.model.commit)

    @property
    def top(self) -> str:
        """Return the folder that contains all writes for it: its hub cache, or its own folder."""
        return self.place.root.real if self.place.root else self.place.path


class Skipped(NamedTuple):
    """Hold a skipped model, and the reason; the others continue."""

    name: str
    error: LauncherError


class Survey(NamedTuple):
    """Hold the work for all models, the bytes that were read to find it, and the skipped models."""

    tasks: tuple[Task, ...]
    read_bytes: int
    skipped: tuple[Skipped, ...] = ()

    @property
    def size(self) -> int:
        """Return the bytes to download."""
        return sum(task.size for task in self.tasks)


STALL_SECONDS = 60.0


Say = Callable[[str], None]
Spare = Callable[[LauncherError], bool]
"""Return whether an error skips only its model; otherwise it ends the pull."""


def spare_all(_: LauncherError) -> bool:
    """Continue with the other models, whatever fails."""
    return True


def spare_none(_: LauncherError) -> bool:
    """Stop at the first model that fails."""
    return False


class Served(NamedTuple):
    """Hold the hub that has served a model, and the bytes."""

    task: Task
    endpoint: Endpoint
    size: int


class Disk(NamedTuple):
    """Hold the placements of models, and their verified files."""

    roots: Sequence[Root]
    app_dir: Path
    memories: Memories


class Run(NamedTuple):
    """Hold how a pull of several models runs: its progress display, and which errors skip only one model."""

    say: Say
    progress: Progress | None = None
    spare: Spare = spare_none


class Reach(NamedTuple):
    """Hold how to download missing files: the hubs in order, the app's environment, and the stall limit in seconds.

    `homes` are the folders besides the caches in which huggingface_hub keeps its own files, `sources` the places on
    this machine to search for files.
    """

    endpoints: Endpoints
    environment: Mapping[str, str]
    stall: float = STALL_SECONDS
    homes: tuple[str, ...] = ()
    sources: Sources | None = None
