"""What a pull has to do for one model, and what it has to do it with."""

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
    """Hold one model that is to be on the disk: what it lacks, and what must go for it to be that commit.

    `damaged` are those of the lacking files that are there and wrong, `switch` is the change of a folder of the app's
    own, once it is staged.
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
        """Return the bytes that are lacking."""
        return sum(max(0, self.model.files[path].size) for path in self.lacking)

    @property
    def base(self) -> str:
        """Return where its files are brought: into their snapshot, or beside the folder's own."""
        if self.place.root is None:
            return local_dir.staging(self.place.path, self.model.commit)
        return self.place.base(self.model.commit)

    @property
    def top(self) -> str:
        """Return the folder below which everything is written for it: its hub cache, or its own folder."""
        return self.place.root.real if self.place.root else self.place.path


class Skipped(NamedTuple):
    """Hold a model that is left as it is, and why; the others go on."""

    name: str
    error: LauncherError


class Survey(NamedTuple):
    """Hold what is to be done for all models, how many bytes had to be read for that, and which models are skipped."""

    tasks: tuple[Task, ...]
    read_bytes: int
    skipped: tuple[Skipped, ...] = ()

    @property
    def size(self) -> int:
        """Return the bytes that are to be downloaded."""
        return sum(task.size for task in self.tasks)


STALL_SECONDS = 60.0


Say = Callable[[str], None]
Spare = Callable[[LauncherError], bool]
"""Return whether an error skips its model only; otherwise it ends everything."""


def spare_all(_: LauncherError) -> bool:
    """Go on with the others, whatever fails."""
    return True


def spare_none(_: LauncherError) -> bool:
    """End with the first model that fails."""
    return False


class Served(NamedTuple):
    """Hold which hub has served a model, and with how many bytes."""

    task: Task
    endpoint: Endpoint
    size: int


class Disk(NamedTuple):
    """Hold where models are kept, and which of their files there are known to be whole."""

    roots: Sequence[Root]
    app_dir: Path
    memories: Memories


class Run(NamedTuple):
    """Hold how a pull of several models goes on: what shows its progress, and which errors skip one model only."""

    say: Say
    progress: Progress | None = None
    spare: Spare = spare_none


class Reach(NamedTuple):
    """Hold how to get what is lacking: the hubs in order, the app's environment, and for how long nothing may come.

    `homes` are the folders besides the caches in which huggingface_hub keeps what it needs itself, `sources` where on
    this machine files may be.
    """

    endpoints: Endpoints
    environment: Mapping[str, str]
    stall: float = STALL_SECONDS
    homes: tuple[str, ...] = ()
    sources: Sources | None = None
