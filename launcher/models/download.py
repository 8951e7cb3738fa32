"""Download the missing files from one hub after the other, and verify everything that a hub says.

The child accepts only files that the hub announces with the locked commit, hash and size; afterwards each file is read
and hashed. A damaged file is removed only after a hub has offered a replacement, and nothing else is removed with it:
no ref, no other snapshot, no blob whose content matches its name.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from ..cache import blobs, entries, store, usage
from ..cache.dirs import below, opened, reason, walk
from ..cache.memory import Memory
from ..cache.names import HASH
from ..cache.verify import Candidate, Checked, Verification
from ..errors import ExitStatus, LauncherError, quoted
from ..ui.console import Progress
from ..ui.text import count, size
from . import endpoints, hub, local_dir, placement, sources
from .endpoints import Endpoint
from .hub import Question
from .lockfile import LockedModel
from .placement import Memories, Place
from .progress import Watch
from .task import Reach, Run, Served

if TYPE_CHECKING:
    from .task import Task

# A second write within one tick of the clock leaves the same ctime, so verify does not remember a file this young.
_SETTLE_SECONDS = 0.15
_ATTEMPTS = 2


class _Arrived(NamedTuple):
    good: frozenset[str]
    bad: Mapping[str, str]


def fetch(task: Task, reach: Reach, memories: Memories, run: Run) -> Served:
    """Download everything that a task lacks, and verify it.

    Raises LauncherError: 74 if the disk fails, 75 if no hub can serve the files, 65 if the files of all hubs are wrong.
    """
    _prepare(task)
    damaged = set(task.damaged)
    lacking = list(task.lacking)
    if task.place.root is None:  # an interrupted pull may have downloaded some of it
        staged = _arrived(task, lacking, memories)
        for path in staged.bad:
            _remove(task, path)
        lacking = [path for path in lacking if path not in staged.good]
    brought = _bring(task, lacking, reach, memories, run)
    damaged -= brought
    lacking = [path for path in lacking if path not in brought]
    if lacking:
        _refuse_offline(task, lacking, reach)
    missing = sum(max(0, task.model.files[path].size) for path in lacking)
    watch = Watch(task, lacking, run.progress)
    failures: list[tuple[Endpoint, str]] = []
    lied = denied = 0
    for endpoint in reach.endpoints.chain if lacking else ():
        why, lying, refused = "", False, False
        if damaged:
            why = _refusal(task, endpoint, sorted(damaged), reach)
            for path in () if why else sorted(damaged):
                _remove(task, path)
                damaged.discard(path)
        for _attempt in range(0 if why else _ATTEMPTS):
            # A leftover partial download may cause the damage, so remove it before the second attempt.
            resumed = _clear_partial(task, lacking)
            ended = _download(task, lacking, endpoint, reach, watch)
            arrived = _arrived(task, lacking, memories)
            for path in arrived.bad:
                _remove(task, path)
            lacking = [path for path in lacking if path not in arrived.good]
            if ended.trouble in ("full", "disk"):
                raise _refused_by_disk(task, ended)
            lying = bool(arrived.bad) or ended.trouble == "wrong"
            refused = ended.trouble == "gated"
            why = _said(task, ended, arrived)
            if not (lacking and arrived.bad and resumed):
                break
        if not lacking:
            return Served(task, endpoint, missing)
        lied += lying
        denied += refused
        failures.append((endpoint, why))
        run.say(f"pull: {task.model.name}: {endpoint.url}: {why}")
    if not lacking:
        return Served(task, reach.endpoints.used, 0)
    raise _unserved(task, failures, damaged=lied == len(failures) > 0, denied=denied == len(failures) > 0)


def _bring(task: Task, lacking: Sequence[str], reach: Reach, memories: Memories, run: Run) -> frozenset[str]:
    """Copy the files that are already on this machine, and return the verified ones; a damaged file is replaced."""
    if reach.sources is None or not lacking:
        return frozenset()
    model, root = task.model, task.place.root
    damaged = {os.path.realpath(f"{task.base}/{path}") for path in task.damaged}
    copies = reach.sources.find((model.files[path] for path in lacking), damaged)
    brought: dict[str, tuple[sources.Source, str]] = {}
    for path in lacking:
        source = copies.get(model.files[path].hash)
        if source is None:
            continue
        if path in task.damaged:
            _remove(task, path)
        with suppress(OSError):  # a file that cannot be copied is downloaded
            if root:
                how = sources.into_cache(source, task.place.path, model.commit, path, model.files[path].hash)
            else:
                how = sources.bring(source, f"{task.base}/{path}", blob=False)
            brought[path] = (source, how)
            if run.progress:
                run.progress(max(0, model.files[path].size), path)
    arrived = _arrived(task, list(brought), memories) if brought else _Arrived(frozenset(), {})
    for path in arrived.bad:
        _remove(task, path)
    for place in sorted({source.place for source, _ in brought.values()}):
        paths = [path for path, (source, _) in brought.items() if source.place == place and path in arrived.good]
        if paths:
            amount = f"{count(len(paths), 'file')}, {size(sum(max(0, model.files[path].size) for path in paths))}"
            run.say(f"pull: {model.name}: {amount} from {place}, verified: {brought[paths[0]][1]}")
    return arrived.good


def _refuse_offline(task: Task, lacking: Sequence[str], reach: Reach) -> None:
    """Refuse to download if the settings forbid requests to hubs.

    Raises LauncherError (75).
    """
    if endpoints.is_offline(reach.environment):
        raise LauncherError(
            f"{task.model.name} @ {task.model.commit[:7]} lacks {len(lacking)} files, and "
            "HF_HUB_OFFLINE forbids asking a hub",
            "HF_HUB_OFFLINE=0 start_app.py models pull",
            ExitStatus.RETRY,
        )


def candidates(place: Place, model: LockedModel, base: str, paths: Iterable[str]) -> list[Candidate]:
    """Return the files of a model, below `base`, to be verified by the hashes of the lock."""
    return [
        Candidate(place.path, f"{base}/{path}", "", (model.commit,), model.files[path].hash, name=path)
        for path in paths
    ]


def verified(files: Sequence[Candidate], memory: Memory, progress: Progress | None = None) -> tuple[list[Checked], int]:
    """Read files and return the damaged ones, with the number of bytes read.

    Raises LauncherError (74) for an unreadable file, because its state is unknown.
    """
    if not files:
        return [], 0
    done = Verification(memory, keep_whole=False)
    done.run(files, progress)
    for checked in done.checked:
        if checked.verdict == "unverifiable":
            raise LauncherError(
                f"cannot verify {checked.candidate.path}: {checked.why}",
                f"ls -l {quoted(checked.candidate.path)}",
                ExitStatus.IO,
            )
    return [checked for checked in done.checked if checked.damaged], done.read_bytes


def is_whole_by_its_own_name(place: Place, blob: str) -> bool:
    """Return whether a repo's blob matches its own name, whatever the hubs say."""
    candidate = Candidate(place.path, f"{place.path}/blobs/{blob}", blob, (), blob if HASH.fullmatch(blob) else None)
    if candidate.expected is None:
        return False
    done = Verification(Memory(), keep_whole=True)
    done.run((candidate,))
    return any(checked.verdict == "ok" for checked in done.checked)


def _prepare(task: Task) -> None:
    """Refuse to write through a link that another user has put into a repo or a folder of the app's.

    Raises LauncherError (74).
    """
    try:
        if task.place.root is None:
            local_dir.refuse_outside(task.place.path, tuple(task.model.files))
            os.makedirs(task.base, exist_ok=True)
            return
        for path in (
            task.place.path,
            *(f"{task.place.path}/{part}" for part in ("blobs", "snapshots", "refs")),
            task.base,
        ):
            if placement.leads_astray(path):
                raise OSError(f"{path} is a link of another user's")
    except OSError as error:
        raise LauncherError(
            f"cannot pull {task.model.name}: {reason(error)}", f"ls -ld {quoted(task.place.path)}", ExitStatus.IO
        ) from error


def _refusal(task: Task, endpoint: Endpoint, paths: Sequence[str], reach: Reach) -> str:
    """Return why a hub does not serve these files, blank if it does: only then may damaged files be removed."""
    model = task.model
    questions = [Question(endpoint, "file", model.repo, model.commit, path) for path in paths]
    answers = hub.ask(questions, reach.environment, min(reach.stall, hub.DEFAULT_SECONDS))
    for question in questions:
        if answers[question].commit != model.commit:
            return answers[question].text or f"it does not serve {question.file} of {model.commit[:7]}"
    return ""


def _download(task: Task, lacking: Sequence[str], endpoint: Endpoint, reach: Reach, watch: Watch) -> hub.Downloaded:
    model, root = task.model, task.place.root
    files = {path: model.files[path] for path in lacking}
    place = (root.real, None) if root else (None, task.base)
    return hub.download(
        hub.Transfer(endpoint, model.repo, model.commit, files, *place),
        reach.environment,
        stall=reach.stall,
        watch=watch.look,
        last=endpoint == reach.endpoints.chain[-1],
    )


def _arrived(task: Task, paths: Sequence[str], memories: Memories) -> _Arrived:
    """Return which of these files are correct, and which are damaged."""
    model, memory = task.model, memories.of(task.place)
    files = {path: model.files[path] for path in paths}
    held = placement.held(task.base, files, memory)
    bad: dict[str, str] = {}
    for path in held.resized:
        with suppress(OSError):
            bad[path] = f"{os.stat(f'{task.base}/{path}').st_size} bytes instead of {files[path].size}"
    if held.unread:
        time.sleep(_SETTLE_SECONDS)  # otherwise the new files could not be remembered
    for checked in verified(candidates(task.place, model, task.base, held.unread), memory)[0]:
        bad[checked.candidate.name] = checked.why
    good = frozenset(path for path in files if path not in bad and path not in held.missing)
    if task.place.root:
        astray = [path for path in good if not placement.leads_to_own_blob(task.place, f"{task.base}/{path}")]
        bad.update((path, "its link leads out of its repo") for path in astray)
        good -= frozenset(astray)
    return _Arrived(good, bad)


def _remove(task: Task, path: str) -> None:
    """Remove a damaged file; in a cache, a blob that does not match its name, or otherwise the link.

    A link to a removed blob stays: it shows that a file is missing until the blob is downloaded again.
    """
    root = task.place.root
    if root is None:
        with suppress(OSError):
            os.unlink(f"{task.base}/{path}")
        return
    folder = os.path.basename(task.place.path)
    blob = placement.own_blob(task.place, f"{task.base}/{path}")
    bad = blob is not None and not is_whole_by_its_own_name(task.place, blob)
    if blob is None or not bad or blob != task.model.files[path].hash:
        with suppress(OSError), opened(root.real) as descriptor:
            inside = f"{folder}/snapshots/{task.model.commit}/{path}"
            with below(descriptor, inside) as (parent, name):
                os.unlink(name, dir_fd=parent)
    if blob is None or not bad:
        return
    payload = None
    with suppress(OSError):
        payload = store.target(root.real, f"{task.place.path}/blobs", os.readlink(f"{task.place.path}/blobs/{blob}"))
    with suppress(OSError):  # a running downloader creates a new one
        blobs.unlink_blob(root.real, folder, blob, None)
    if payload:
        # If another repo links to it, it stays: cache verify --repair removes it from all of them.
        with suppress(OSError):
            blobs.sweep(root.real, payload, _unlink, damaged=True)


def _unlink(parent: int, name: str) -> None:
    os.unlink(name, dir_fd=parent)


def _clear_partial(task: Task, lacking: Sequence[str]) -> bool:
    """Remove abandoned partial downloads that no version can resume; return whether a resumable one is left.

    Up to 1.17 a partial download is resumed, and one that is too long fails on every attempt (416); later versions
    start again.
    """
    root = task.place.root
    sizes = {task.model.files[path].hash: task.model.files[path].size for path in lacking}
    if root is None:
        return _clear_staged(task.base, sizes)
    folder = os.path.basename(task.place.path)
    try:
        listed = os.listdir(f"{task.place.path}/blobs")
    except OSError:
        return False
    resumed = False
    for name in listed:
        lock = usage.lock_of(name)
        digest = name.partition(".")[0]
        if lock is None or digest not in sizes or usage.held_lock(f"{root.real}/{entries.LOCKS}/{folder}/{lock}"):
            continue
        with suppress(OSError):
            if name == f"{digest}.incomplete" and _is_shorter(f"{task.place.path}/blobs/{name}", sizes[digest]):
                resumed = True
            else:
                blobs.unlink_blob(root.real, folder, name, None)
    return resumed


def _clear_staged(base: str, sizes: Mapping[str, int]) -> bool:
    """Remove them in the staging folder of a folder of the app's; no other process uses it."""
    resumed = False
    for entry in walk(f"{base}/{placement.METADATA}"):
        digest = next((digest for digest in sizes if f".{digest}." in entry.name), None)
        if digest is None or not entry.name.endswith(".incomplete"):
            continue
        with suppress(OSError):
            if entry.name.endswith(f".{digest}.incomplete") and _is_shorter(entry.path, sizes[digest]):
                resumed = True
            else:
                os.unlink(entry.path)
    return resumed


def _is_shorter(path: str, size: int) -> bool:
    status = os.lstat(path)
    return stat.S_ISREG(status.st_mode) and status.st_size < size


def _said(task: Task, ended: hub.Downloaded, arrived: _Arrived) -> str:
    if arrived.bad:
        path, why = next(iter(arrived.bad.items()))
        return f"{path} is damaged: {why}"
    if ended.trouble == "no revision":
        return f"it does not have the commit {task.model.commit[:7]}"
    return ended.text or "not everything has arrived"


def _refused_by_disk(task: Task, ended: hub.Downloaded) -> LauncherError:
    hint = f"df -h {quoted(task.top)}" if ended.trouble == "full" else f"ls -ld {quoted(task.top)}"
    return LauncherError(f"cannot pull {task.model.name}: {ended.text}", hint, ExitStatus.IO)


def _unserved(task: Task, failures: Sequence[tuple[Endpoint, str]], *, damaged: bool, denied: bool) -> LauncherError:
    model = task.model
    tried = "; ".join(f"{endpoint.url}: {why}" for endpoint, why in failures)
    more = "HF_ENDPOINT_FALLBACK=https://huggingface.co in .env asks another one"
    hint = f"start_app.py models check compares the hubs; {more}"
    if denied:
        hint = "set HF_TOKEN in .env, and ask for access on the model's page"
    status = ExitStatus.DAMAGED if damaged else ExitStatus.DENIED if denied else ExitStatus.RETRY
    lacking = size(task.size) if task.size else count(len(task.lacking), "file")
    return LauncherError(f"cannot pull {model.name} @ {model.commit[:7]} ({lacking} missing): {tried}", hint, status)
