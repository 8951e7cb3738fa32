"""The disk is made to match the lock: by commit, never by branch, and nothing moves before all is whole and right.

A mirror may lag, lie, hang or break off: what has arrived is verified against the lock, the next hub is tried, and
until the end the old revision stays what it was. The steps are `survey` (what is lacking), `fetch` (get it), `settle`
(let it be what is loaded).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..cache import action, busy, entries, trash
from ..cache.folders import reason
from ..cache.memory import Memory
from ..cache.roots import Root
from ..cache.verify import Candidate, Checked, Verification
from ..errors import ExitStatus, LauncherError
from ..text import size
from . import disk, hub, local_dir, refs
from .disk import Memories, Place
from .endpoints import Endpoint, Endpoints
from .lockfile import LockedModel

STALL_SECONDS = 60.0
# What a folder of staged files and the file system itself want beside the bytes.
_SPARE_BYTES = 16 << 20
# Within one tick of the clock a second write leaves the same ctime; verify remembers nothing that young.
_SETTLE_SECONDS = 0.15

Say = Callable[[str], None]
Progress = Callable[[int], None]


class Task(NamedTuple):
    """Hold one model that is to be on the disk: what it lacks, and what must go for it to be that commit."""

    model: LockedModel
    place: Place
    before: str | None
    lacking: tuple[str, ...]
    outdated: local_dir.Outdated

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


class Survey(NamedTuple):
    """Hold what is to be done for all models, and how many bytes of what is there had to be read for that."""

    tasks: tuple[Task, ...]
    read_bytes: int

    @property
    def size(self) -> int:
        """Return the bytes that are to be downloaded."""
        return sum(task.size for task in self.tasks)

    @property
    def matches(self) -> bool:
        """Tell whether everything is there, right, and what is loaded."""
        return not any(task.lacking or task.outdated.going or task.before != task.model.commit for task in self.tasks)


class Served(NamedTuple):
    """Hold which hub has served a model, and with how many bytes."""

    task: Task
    endpoint: Endpoint
    size: int


class Reach(NamedTuple):
    """Hold how to get what is lacking: the hubs in order, the app's environment, and for how long nothing may come."""

    endpoints: Endpoints
    environment: Mapping[str, str]
    stall: float = STALL_SECONDS


def survey(
    models: Iterable[LockedModel],
    roots: Sequence[Root],
    app_dir: Path,
    memories: Memories,
    progress: Progress | None = None,
) -> Survey:
    """Look at what is there; only files that are not remembered as whole are read."""
    tasks = []
    read = 0
    for model in models:
        place = disk.place_of(model, roots, app_dir)
        base = place.base(model.commit)
        held = disk.held(base, model.files, memories.of(place))
        bad, count = _verify(place, model, held.unread, memories.of(place), progress, base)
        read += count
        lacking = tuple(sorted({*held.lacking, *(checked.candidate.name for checked in bad)}))
        before = disk.commit_of(place, model.revision) if place.root else _before(place, model, lacking)
        outdated = local_dir.Outdated((), ()) if place.root else local_dir.outdated(place.path, model)
        tasks.append(Task(model, place, before, lacking, outdated))
    return Survey(tuple(tasks), read)


def fetch(
    found: Survey, reach: Reach, memories: Memories, say: Say, progress: Progress | None = None
) -> tuple[Served, ...]:
    """Download what is lacking and verify it; afterwards everything is there, and nothing has moved yet.

    Raises LauncherError: 74 when the disk has no room, 75 when no hub could serve it, 65 when what all of them serve is
    not what the lock says.
    """
    _refuse_full(found)
    return tuple(_fetch(task, reach, memories, say, progress) for task in found.tasks if task.lacking)


def settle(found: Survey, app_dir: Path, memories: Memories, *, pin: bool) -> None:
    """Have every model be the commit that was fetched: refs move, and folders change over.

    Raises LauncherError (74).
    """
    for task in found.tasks:
        try:
            if task.place.root is None:
                local_dir.switch(app_dir, task.model, task.lacking, task.outdated.going, memories.local)
            else:
                refs.move(task.model, task.place, pin=pin)
        except OSError as error:
            raise LauncherError(
                f"cannot switch {task.model.name} to {task.model.commit[:7]}: {reason(error)}",
                f"ls -ld {task.place.path}; then start_app.py models pull",
                ExitStatus.IO,
            ) from error


def refuse_offline(reach: Reach, found: Survey) -> None:
    """Refuse to download where the settings say that no hub may be asked.

    Raises LauncherError (75).
    """
    lacking = [task for task in found.tasks if task.lacking]
    if lacking and reach.environment.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise LauncherError(
            f"{lacking[0].model.name} @ {lacking[0].model.commit[:7]} lacks {len(lacking[0].lacking)} files, and "
            "HF_HUB_OFFLINE says that no hub may be asked",
            "HF_HUB_OFFLINE=0 start_app.py models pull",
            ExitStatus.RETRY,
        )


def _fetch(task: Task, reach: Reach, memories: Memories, say: Say, progress: Progress | None) -> Served:
    failures: list[tuple[Endpoint, str]] = []
    wrong = 0
    watch = _Watch(task, progress)
    _prepare(task, memories)
    lacking = _not_there(task, memories)
    for endpoint in reach.endpoints.chain if lacking else ():
        # What an interrupted download has left may be what makes it wrong: it is gone by the second time.
        for _attempt in range(2):
            resumed = _clear_partial(task, lacking)
            ended = _download(task, lacking, endpoint, reach, watch)
            bad = _bad(task, lacking, memories)
            for checked in bad:
                _remove_wrong(task, checked)
            lacking = _not_there(task, memories)
            if not lacking:
                break
            if ended.trouble in ("full", "disk"):
                raise LauncherError(
                    f"cannot pull {task.model.name}: {ended.text}", f"df -h {task.place.path}", ExitStatus.IO
                )
            if not (bad and resumed):
                break
        if not lacking:
            return Served(task, endpoint, task.size)
        wrong += len(bad)
        why = f"{bad[0].candidate.name} is not what it must be: {bad[0].why}" if bad else _said(ended, task)
        failures.append((endpoint, why))
        say(f"pull: {task.model.name}: {endpoint.url}: {why}")
    if not lacking:
        return Served(task, reach.endpoints.used, 0)
    raise _unserved(task, failures, wrong)


def _download(task: Task, lacking: Sequence[str], endpoint: Endpoint, reach: Reach, watch: _Watch) -> hub.Downloaded:
    model, root = task.model, task.place.root
    return hub.download(
        endpoint,
        model.repo,
        model.commit,
        lacking,
        reach.environment,
        cache=root.real if root else None,
        local_dir=None if root else task.base,
        stall=reach.stall,
        watch=watch.look,
    )


class _Watch:
    """Tell how far a download is by what it has on the disk: no version tells it in another way."""

    def __init__(self, task: Task, progress: Progress | None) -> None:
        self._progress = progress
        self._hashes = {task.model.files[path].hash: task.model.files[path].size for path in task.lacking}
        self._task = task
        self._told = 0

    def look(self) -> tuple[tuple[str, int, int], ...]:
        """Return what changes while bytes arrive, and tell the progress of them."""
        seen = tuple(sorted(self._files()))
        count = min(sum(size for _, size, _ in seen), sum(self._hashes.values()))
        if self._progress and count > self._told:
            self._progress(count - self._told)
            self._told = count
        return seen

    def _files(self) -> Iterable[tuple[str, int, int]]:
        if self._task.place.root is None:
            for folder, _, listed in os.walk(self._task.base):
                yield from self._sized(folder, (name for name in listed if not name.endswith((".metadata", ".lock"))))
            return
        folder = f"{self._task.place.path}/blobs"
        with suppress(OSError):
            listed = os.listdir(folder)
            yield from self._sized(folder, (name for name in listed if name.partition(".")[0] in self._hashes))

    @staticmethod
    def _sized(folder: str, listed: Iterable[str]) -> Iterable[tuple[str, int, int]]:
        for name in listed:
            with suppress(OSError):
                found = os.stat(f"{folder}/{name}")
                yield name, found.st_size, found.st_mtime_ns


def _prepare(task: Task, memories: Memories) -> None:
    """Get out of the way what is there and wrong: a download would take it for the file."""
    if task.place.root:
        wrong = [path for path in task.lacking if os.path.lexists(f"{task.base}/{path}")]
        for path in wrong:
            candidate = next(disk.candidates(task.place, task.model.commit, task.model.files, [path]))
            _remove_wrong(task, Checked(candidate, "corrupt", "", 0))
        return
    try:
        local_dir.refuse_outside(task.place.path, tuple(task.model.files))
        os.makedirs(task.base, exist_ok=True)
    except OSError as error:
        raise LauncherError(
            f"cannot pull {task.model.name}: {reason(error)}", f"ls -ld {task.place.path}", ExitStatus.IO
        ) from error
    held = disk.held(task.base, {path: task.model.files[path] for path in task.lacking}, memories.local)
    for path in held.resized:
        with suppress(OSError):
            os.unlink(f"{task.base}/{path}")
    for checked in _verify(task.place, task.model, held.unread, memories.local, None, task.base)[0]:
        _remove_wrong(task, checked)


def _not_there(task: Task, memories: Memories) -> tuple[str, ...]:
    wanted = {path: task.model.files[path] for path in task.lacking}
    held = disk.held(task.base, wanted, memories.of(task.place))
    return (*held.lacking, *held.unread)


def _bad(task: Task, lacking: Sequence[str], memories: Memories) -> list[Checked]:
    """Return which of the files that have arrived are not what they must be; the others are remembered."""
    memory = memories.of(task.place)
    held = disk.held(task.base, {path: task.model.files[path] for path in lacking}, memory)
    bad, _ = _verify(task.place, task.model, held.unread, memory, None, task.base, young=True)
    listed = [*bad]
    for path in held.resized:
        file = task.model.files[path]
        candidate = Candidate(task.place.path, f"{task.base}/{path}", "", (task.model.commit,), file.hash, name=path)
        found = os.stat(candidate.path).st_size
        listed.append(Checked(candidate, "size differs", f"{found} bytes instead of {file.size}", found))
    return listed


def _verify(
    place: Place,
    model: LockedModel,
    paths: Sequence[str],
    memory: Memory,
    progress: Progress | None,
    base: str,
    *,
    young: bool = False,
) -> tuple[list[Checked], int]:
    """Read files and return those that are not what the lock says, with the bytes that were read.

    With `young`, files that were written a moment ago are waited for until they can be remembered.
    """
    if not paths:
        return [], 0
    if young:
        time.sleep(_SETTLE_SECONDS)
    done = Verification(memory, keep_whole=False)
    done.run(
        (
            Candidate(place.path, f"{base}/{path}", "", (model.commit,), model.files[path].hash, name=path)
            for path in paths
        ),
        progress,
    )
    return [checked for checked in done.found if checked.verdict != "ok"], done.read_bytes


def _remove_wrong(task: Task, checked: Checked) -> None:
    """Remove a file that is not what it must be: of a cache its blob too, and of the shared store its payload."""
    path = f"{task.base}/{checked.candidate.name}"
    root = task.place.root
    if root is None:
        with suppress(OSError):
            os.unlink(path)
        return
    blob = disk.blob_path(path)
    bad = checked._replace(candidate=checked.candidate._replace(path=blob))
    planned = action.plan_repair([bad], [root], force=True)
    result = action.condemn(planned, lambda _plan, _item: None)
    action.finish(planned, result, None)
    with suppress(OSError):
        os.unlink(path)  # a link to what is gone


def _clear_partial(task: Task, lacking: Sequence[str]) -> bool:
    """Remove abandoned partial downloads that no version can go on with; tell whether there is one that it will."""
    root = task.place.root
    if root is None:
        return False
    sizes = {task.model.files[path].hash: task.model.files[path].size for path in lacking}
    folder = os.path.basename(task.place.path)
    try:
        listed = os.listdir(f"{task.place.path}/blobs")
    except OSError:
        return False
    resumed = False
    for name in listed:
        lock = busy.lock_of(name)
        digest = name.partition(".")[0]
        if lock is None or digest not in sizes or busy.held_lock(f"{root.real}/{entries.LOCKS}/{folder}/{lock}"):
            continue
        with suppress(OSError):
            # Up to 1.17 it is continued, and one that is too big fails for ever; later versions begin another one.
            found = os.stat(f"{task.place.path}/blobs/{name}").st_size
            if name == f"{digest}.incomplete" and found < sizes[digest]:
                resumed = True
            else:
                trash.unlink_blob(root.real, folder, name, None)
    return resumed


def _refuse_full(found: Survey) -> None:
    """Refuse what has no room, before anything comes.

    Raises LauncherError (74).
    """
    wanted: dict[int, tuple[int, str]] = {}
    for task in found.tasks:
        place = task.place.root.real if task.place.root else task.place.path
        while not os.path.isdir(place):
            place = os.path.dirname(place)
        device = os.stat(place).st_dev
        wanted[device] = (wanted.get(device, (0, ""))[0] + task.size, place)
    for count, place in wanted.values():
        space = os.statvfs(place)
        free = space.f_bavail * space.f_frsize
        if count and count + _SPARE_BYTES > free:
            raise LauncherError(
                f"{size(count)} are to be pulled, and {place} has room for {size(free)}",
                "start_app.py cache prune; start_app.py cache list",
                ExitStatus.IO,
            )


def _before(place: Place, model: LockedModel, lacking: Sequence[str]) -> str | None:
    return model.commit if not lacking else disk.on_disk(model, place).commit


def _said(ended: hub.Downloaded, task: Task) -> str:
    if ended.trouble == "no revision":
        return f"it does not have the commit {task.model.commit[:7]}"
    return ended.text or "not everything has arrived"


def _unserved(task: Task, failures: Sequence[tuple[Endpoint, str]], wrong: int) -> LauncherError:
    model = task.model
    tried = "; ".join(f"{endpoint.url}: {why}" for endpoint, why in failures)
    damaged = bool(wrong) and wrong >= len(failures)
    return LauncherError(
        f"cannot pull {model.name} @ {model.commit[:7]} ({size(task.size)} lacking): {tried}",
        "start_app.py models check compares the hubs; HF_ENDPOINT_FALLBACK=https://huggingface.co in .env asks another"
        " one",
        ExitStatus.DAMAGED if damaged else ExitStatus.RETRY,
    )
