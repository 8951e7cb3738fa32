"""Report the progress of a download by the files that grow: no hub and no library is asked for it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from ..ui.console import Progress
from .task import Task


class Watch:
    """Report the progress of a download: the bytes on the disk, or the received bytes if there are more."""

    def __init__(self, task: Task, lacking: Sequence[str], progress: Progress | None) -> None:
        self._progress = progress
        self._task = task
        self._expected = {path: max(0, task.model.files[path].size) for path in lacking}
        self._hashes = {task.model.files[path].hash: self._expected[path] for path in lacking}
        self._paths: dict[str, str | None] = {}
        # What a folder of the app's own holds already is not part of this download.
        complete = [path for path in task.lacking if path not in self._expected]
        self._before = 0 if task.place.root else sum(max(0, task.model.files[path].size) for path in complete)
        self._told = 0
        self._sizes: dict[str, int] = {}
        self._name = ""

    def look(self, received: int) -> tuple[tuple[str, int, int], ...]:
        """Return a value that changes while bytes arrive, and report their progress."""
        files = tuple(sorted(self._files()))
        arrived = sum(size for _, size, _ in files) - self._before
        count = min(max(arrived, received), sum(self._hashes.values()))
        if self._progress:
            self._progress(max(0, count - self._told), self._growing(files))
            self._told = max(count, self._told)
        return files

    def _growing(self, files: Sequence[tuple[str, int, int]]) -> str:
        """Return the unfinished file that grew last, or else the last file that grew; blank before the first growth."""
        sizes = {path: size for name, size, _ in files if (path := self._path_of(name))}
        grown = [path for path, size in sizes.items() if size > self._sizes.get(path, 0)]
        unfinished = [path for path, size in sizes.items() if size < self._expected[path]]
        self._sizes = sizes
        growing = [path for path in grown if path in unfinished]
        waiting = [self._name] if self._name in unfinished else unfinished
        self._name = next(iter((*growing, *waiting, *grown)), self._name)
        return self._name

    def _path_of(self, name: str) -> str | None:
        """Return the path that a file on the disk will have in the model, None for any other file."""
        if name not in self._paths:
            files = self._task.model.files
            paths = (path for path in self._expected if _is_of(name, path, files[path].hash))
            self._paths[name] = next(paths, None)
        return self._paths[name]

    def _files(self) -> Iterator[tuple[str, int, int]]:
        if self._task.place.root is None:
            for folder, _, listed in os.walk(self._task.base):
                yield from self._sized(folder, (name for name in listed if not name.endswith((".metadata", ".lock"))))
            return
        folder = f"{self._task.place.path}/blobs"
        with suppress(OSError):
            listed = os.listdir(folder)
            yield from self._sized(folder, (name for name in listed if name.partition(".")[0] in self._hashes))

    @staticmethod
    def _sized(folder: str, listed: Iterable[str]) -> Iterator[tuple[str, int, int]]:
        for name in listed:
            with suppress(OSError):
                status = os.stat(f"{folder}/{name}")
                yield name, status.st_size, status.st_mtime_ns


def _is_of(partial: str, path: str, content: str) -> bool:
    """Return whether a file that a download writes will become the file at this path."""
    return content in partial or partial == os.path.basename(path)
