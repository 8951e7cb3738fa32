"""Make the disk match the lock: by commit, never by branch; no ref moves before every file is verified.

A mirror may lag, send wrong files, hang or break off: each file is verified against the lock, then the next hub is
tried, and the old revision stays in use until the end. The steps are `survey` (find the missing files), `fetch`
(download them), `settle` (switch to them).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from ..cache import entries
from ..cache.dirs import reason
from ..cache.memory import Memory
from ..cache.roots import Root
from ..errors import ExitStatus, LauncherError, quoted
from ..system.files import existing_folder, free_bytes
from ..ui.console import Progress
from ..ui.text import size
from . import download as fetching
from . import local_dir, ownership, placement, refs, switch, weights
from .lockfile import LockedModel
from .placement import Memories, Place
from .task import Disk, Reach, Run, Served, Skipped, Spare, Survey, Task, spare_none

# The additional bytes that a staging folder and the file system need.
_SPARE_BYTES = 16 << 20


def survey(models: Iterable[LockedModel], disk: Disk, run: Run, origins: local_dir.Origins) -> Survey:
    """Survey the disk; read only files that are not remembered as verified.

    Raises LauncherError: 74 for unreadable files or links of other users, 65 if the lock contradicts an intact file; a
    model with an error that `run` spares is skipped instead.
    """
    tasks = []
    skipped = []
    read = 0
    for model in models:
        try:
            task, count = _survey(model, disk, run.progress)
        except LauncherError as error:
            if not run.spare(error):
                raise
            skipped.append(Skipped(model.name, error))
            continue
        read += count
        if task.place.root is None:
            task = task._replace(outdated=local_dir.outdated(task.place.path, model, task.lacking, origins))
        tasks.append(task)
    return Survey(tuple(tasks), read, tuple(skipped))


def _survey(model: LockedModel, disk: Disk, progress: Progress | None) -> tuple[Task, int]:
    place = placement.place_of(model, disk.roots, disk.app_dir)
    _refuse_astray(model, place, disk.roots)
    base, memory = place.base(model.commit), disk.memories.of(place)
    held = placement.held(base, model.files, memory)
    bad, count = fetching.verified(fetching.candidates(place, model, base, held.unread), memory, progress)
    wrong = {checked.candidate.name for checked in bad}
    if place.root:
        wrong.update(path for path in held.resized if os.path.lexists(f"{base}/{path}"))
        wrong.update(path for path in held.missing if os.path.lexists(f"{base}/{path}"))
        for path in sorted(wrong):
            _refuse_contradiction(model, place, base, path)
    lacking = tuple(sorted({*held.lacking, *wrong}))
    damaged = tuple(sorted(wrong)) if place.root else ()
    before = placement.commit_of(place, model.revision) if place.root else _before(place, model, lacking)
    return Task(model, place, before, lacking, damaged, local_dir.Outdated((), (), ())), count


def fetch(survey: Survey, reach: Reach, memories: Memories, run: Run) -> tuple[Survey, tuple[Served, ...]]:
    """Download the missing files and verify them; afterwards all are on the disk, and no ref has moved.

    Returns the survey without the models whose error `run` spares, and the hubs that served them. Raises LauncherError:
    74 if the disk has no room or could not be switched afterwards, 75 if no hub can serve the files, 65 if the files of
    all hubs are wrong.
    """
    _refuse_full(survey)
    tasks = []
    served = []
    skipped = list(survey.skipped)
    for task in survey.tasks:
        try:
            with ownership.handed_over((task.top, *reach.homes)):
                if task.lacking:
                    served.append(fetching.fetch(task, reach, memories, run))
                _probe(task)
        except LauncherError as error:
            if not run.spare(error):
                raise
            skipped.append(Skipped(task.model.name, error))
        else:
            tasks.append(task)
    return survey._replace(tasks=tuple(tasks), skipped=tuple(skipped)), tuple(served)


def _probe(task: Task) -> None:
    """Check that the refs of a cached model can be moved.

    Raises LauncherError (74).
    """
    if task.place.root and os.path.isdir(task.place.path):
        try:
            refs.probe(task.model, task.place)
        except OSError as error:
            raise _unswitchable(task, error) from error


def settle(
    survey: Survey,
    app_dir: Path,
    memories: Memories,
    *,
    pin: bool,
    spare: Spare = spare_none,
    keep: Collection[str] = (),
) -> Survey:
    """Switch every model to the fetched commit: move its refs, or switch its folder.

    In the folders `keep`, the replaced files stay next to the new ones. Returns the survey without the models whose
    error `spare` accepts. Raises LauncherError: 74, or 75 if another process has removed the files meanwhile.
    """
    tasks = []
    skipped = list(survey.skipped)
    failed: set[str] = set()
    for number, task in enumerate(survey.tasks):
        try:
            with ownership.handed_over((task.top,)):
                _settle(task, app_dir, memories, pin=pin)
        except LauncherError as error:
            if not spare(error):
                abandon(Survey(survey.tasks[number + 1 :], 0), app_dir)
                raise
            skipped.append(Skipped(task.model.name, error))
            failed.add(task.place.path)
        else:
            tasks.append(task)
    # Several models may share a folder; a failed one needs its staged and kept files.
    for folder in {task.place.path for task in tasks if task.place.root is None} - failed:
        switch.drop(folder, keep=folder in keep)
    return survey._replace(tasks=tuple(tasks), skipped=tuple(skipped))


def _settle(task: Task, app_dir: Path, memories: Memories, *, pin: bool) -> None:
    if task.place.root:
        move(task, pin=pin)
        return
    try:
        staged = task.switch or switch.stage(app_dir, task.model, task.lacking, task.outdated)
        if staged:
            switch.apply(app_dir, staged, memories.local)
        weights.remember(app_dir, task.model.repo, task.model.commit)
    except OSError as error:
        raise _unswitchable(task, error) from error


def rehearse(survey: Survey, app_dir: Path) -> Survey:
    """Try what `settle` will do, and return the survey with everything that it writes beforehand.

    Raises LauncherError (74) if it would fail; then nothing is left of the attempt.
    """
    tasks: list[Task] = []
    for task in survey.tasks:
        try:
            if task.place.root:
                refs.probe(task.model, task.place)
                tasks.append(task)
                continue
            with ownership.handed_over((task.top,)):
                staged = switch.stage(app_dir, task.model, task.lacking, task.outdated)
                tasks.append(task._replace(switch=staged))
                if staged:
                    switch.rehearse(app_dir, staged)
        except OSError as error:
            abandon(Survey(tuple(tasks), 0), app_dir)
            raise _unswitchable(task, error) from error
    return survey._replace(tasks=tuple(tasks))


def abandon(survey: Survey, app_dir: Path) -> None:
    """Remove what was rehearsed but not settled."""
    for task in survey.tasks:
        if task.switch:
            switch.abandon(app_dir, task.switch)


def move(task: Task, *, pin: bool) -> None:
    """Move the refs of a cached model to the fetched commit.

    Raises LauncherError: 74, or 75 if another process has removed the files meanwhile.
    """
    try:
        refs.move(task.model, task.place, pin=pin)
    except OSError as error:
        raise _unswitchable(task, error) from error


def _refuse_full(survey: Survey) -> None:
    """Refuse models that do not fit on the disk, before the download begins.

    Raises LauncherError (74).
    """
    wanted: dict[int, tuple[int, str]] = {}
    for task in survey.tasks:
        place = existing_folder(task.place.root.real if task.place.root else task.place.path)
        device = os.stat(place).st_dev
        wanted[device] = (wanted.get(device, (0, ""))[0] + task.size, place)
    for count, place in wanted.values():
        free = free_bytes(place)
        if count and free is not None and count + _SPARE_BYTES > free:
            raise LauncherError(
                f"{size(count)} are to be pulled, and {place} has room for {size(free)}",
                "start_app.py cache prune; start_app.py cache list",
                ExitStatus.IO,
            )


def _before(place: Place, model: LockedModel, lacking: Sequence[str]) -> str | None:
    return model.commit if not lacking else placement.on_disk(model, place, Memory()).commit


def _unswitchable(task: Task, error: OSError) -> LauncherError:
    if isinstance(error, FileNotFoundError):
        return LauncherError(
            f"{task.model.name} @ {task.model.commit[:7]} was removed by another process before the switch to it",
            "start_app.py models pull downloads it again",
            ExitStatus.RETRY,
        )
    where = os.path.join(task.place.path, os.fsdecode(error.filename)) if error.filename else task.place.path
    return LauncherError(
        f"cannot switch {task.model.name} to {task.model.commit[:7]}: {reason(error)}: {where}",
        f"ls -ld {quoted(os.path.dirname(where))} {quoted(where)}; lsattr -d {quoted(where)}; "
        "start_app.py models pull goes on",
        ExitStatus.IO,
    )


def _refuse_astray(model: LockedModel, place: Place, roots: Sequence[Root]) -> None:
    """Refuse a repo that is another user's link, and a folder of the app's whose files would be in a cache.

    A folder may contain a cache, and a cache such a folder: `checkpoints` of IndexTTS2 has both. Raises LauncherError
    (74, 78).
    """
    if place.root:
        if placement.leads_astray(place.path):
            raise LauncherError(
                f"{place.path} is another user's link to a folder that is not theirs, so nothing is written to it",
                f"ls -ld {quoted(place.path)}; or set HF_HOME to the folder that it leads to",
                ExitStatus.IO,
            )
        return
    for root in roots:
        if _is_in_cache(os.path.realpath(place.path), model, root.real):
            raise LauncherError(
                f"{place.path} is not a folder for {model.repo}: its files would mix with the cache {root.path}",
                f"start_app.py models lock --remove {quoted(model.repo)}; "
                f"start_app.py models lock {quoted(model.repo)} pins it in the cache",
                ExitStatus.CONFIG,
            )


def _is_in_cache(folder: str, model: LockedModel, root: str) -> bool:
    """Return whether a file of the model would be in a cache, or have a name there that the library uses."""
    for path in model.files:
        file = f"{folder}/{path}"
        if f"{root}/".startswith(f"{file}/"):
            return True
        if file.startswith(f"{root}/") and entries.is_reserved(file[len(root) + 1 :]):
            return True
    return False


def _refuse_contradiction(model: LockedModel, place: Place, base: str, path: str) -> None:
    """Refuse a lock that contradicts an intact blob of a cached commit: one of them is wrong.

    Raises LauncherError (65); an intact blob never counts as damaged.
    """
    blob = placement.own_blob(place, f"{base}/{path}")
    if blob and blob != model.files[path].hash and fetching.is_whole_by_its_own_name(place, blob):
        raise LauncherError(
            f"models.lock says {model.files[path].hash[:12]} of {path} in {model.repo} @ {model.commit[:7]}, and the "
            f"cache has {blob[:12]}, which is whole",
            f"start_app.py models lock {quoted(model.repo)} asks the Hub which of them is right",
            ExitStatus.DAMAGED,
        )
