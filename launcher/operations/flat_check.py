"""Check models in folders of the app's for `models check`: read their files; compare them with a hub or the lock."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence

from ..cache.completeness import is_weights
from ..cache.digests import Wanted
from ..config.paths import HUB_ENTRY
from ..context import Context
from ..errors import ExitStatus, LauncherError, quoted
from ..models import check, freeze, hub, placement, repo_id, resolve, verified, versions, weights
from ..models.check import Verdict
from ..models.lockfile import Lock, LockedModel
from ..models.placement import Memories
from ..models.subjects import Subject
from ..models.weights import repos_of_commits
from ..ui.text import some
from . import weights as inventory

_NO_PART = frozenset((".cache", ".git", ".start_app"))  # huggingface_hub's notes, and git's


def read_pinned(context: Context, lock: Lock, memories: Memories) -> None:
    """Read the pinned files in folders of the app's that are not remembered as verified.

    Raises LauncherError (74).
    """
    app_dir = context.settings.app_dir
    wanted: list[Wanted] = []
    for base, files in (
        (str(app_dir), lock.files),
        *((str(app_dir / m.local_dir), m.files) for m in lock if m.local_dir),
    ):
        unread = placement.held(base, files, memories.local).unread
        wanted += [Wanted(os.path.join(base, path), files[path].hash) for path in unread]
    inventory.read_files(context, memories, wanted)


def of_files(context: Context, lock: Lock, memories: Memories) -> Iterator[Verdict]:
    """Yield a verdict on each file that is pinned only by its hash, after reading it."""
    held = placement.held(str(context.settings.app_dir), lock.files, memories.local)
    for path, file in lock.files.items():
        name = os.path.join(context.settings.app_dir, path)
        problem = "it is not there" if path in held.missing else ""
        if path in held.resized:
            problem = (
                "it is a Git LFS pointer, not the file" if placement.is_lfs_pointer(name) else "it has another size"
            )
        elif path in held.unread:
            known = memories.local.hash_of(os.stat(name), file.hash)
            problem = "" if known == file.hash else "its content is not what is pinned"
        if not problem and placement.is_lfs_pointer(name):
            problem = "it is a Git LFS pointer, not the file"
        repo, _, commit = file.origin.partition("/")[0].partition("@") if file.origin else ("", "", "")
        subject = Subject(path, repo or path, file.hash[: check.DIGITS], None, problem, commit or None)
        word: check.Word = "incomplete locally" if problem else "as pinned"
        yield Verdict(subject, None, None, word, problem or "by its hash; no hub was asked")


def of_notes(context: Context, lock: Lock) -> tuple[Subject, ...]:
    """Return the unpinned downloads of huggingface_hub in folders of the app's, to be checked."""
    known = inventory.library(context, context.environment)
    pinned = weights.pins(lock, context.settings.app_dir)
    own = freeze.own_files(known)
    noted = {path: note for path, note in own.noted.items() if path in own.sizes and path not in pinned}
    with context.console.bar("reading", None) as progress:
        read = freeze.read_own(own._replace(sizes={p: own.sizes[p] for p in noted}, noted=noted), known, progress)
    verified.save(context.settings.app_dir, known.memories, context.console.detail)
    repos = repos_of_commits(known.roots, known.lock, context.settings.app_dir)
    by_folder: dict[tuple[str, str], list[tuple[str, str, placement.Noted]]] = {}
    for path, (base, inner, note) in noted.items():
        repo = repos.get(note.commit)
        if repo:
            by_folder.setdefault((repo, base), []).append((path, inner, note))
    subjects = []
    for (repo, base), files in sorted(by_folder.items()):
        commit = Counter(note.commit for _, _, note in files).most_common(1)[0][0]
        wrong = [inner for path, inner, note in files if freeze.digest_like(read, path, note.etag) != note.etag]
        problem = _in_words(base, [inner for _, inner, _ in files], wrong, "what was downloaded")
        name = f"{repo} in {weights.name_of(base, context.settings.app_dir)}"
        subjects.append(Subject(name, repo, repo_id.DEFAULT_REVISION, commit, problem, file=files[0][1]))
    return tuple(subjects)


def requirements(context: Context) -> tuple[resolve.Requirement, ...]:
    """Return the newest commit of what huggingface_hub has brought into folders of the app's, with the same files."""
    known = inventory.library(context, context.environment)
    own = freeze.own_files(known)
    if not own.noted:
        return ()
    app_dir = str(context.settings.app_dir)
    repos = repos_of_commits(known.roots, known.lock, context.settings.app_dir)
    by_folder: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for base, inner, note in own.noted.values():
        folder = base.removeprefix(f"{app_dir}/")
        if note.commit in repos and folder != base and repo_id.is_local_dir(folder):
            by_folder.setdefault((repos[note.commit], folder), []).append((inner, note.commit))
    requirements = []
    for (repo, folder), files in sorted(by_folder.items()):
        commit = Counter(commit for _, commit in files).most_common(1)[0][0]
        include = freeze.globs([inner for inner, _ in files], {})
        requirements.append(resolve.Requirement(repo, repo_id.DEFAULT_REVISION, folder, include, held=commit))
    return tuple(requirements)


def of_unknown(context: Context, lock: Lock) -> Iterator[Verdict]:
    """Yield a verdict on the weights in each folder of the app's whose repo is unknown here."""
    known = inventory.library(context, context.environment)
    by_folder: dict[str, list[weights.WeightsFile]] = {}
    folders = [weights.name_of(f, context.settings.app_dir) for f in versions.own_folders(context.settings, lock)]
    for file in weights.flat(known):
        if file.origin.pinned is None and not file.origin.known:
            top = next((folder for folder in folders if file.name.startswith(f"{folder}/")), os.path.dirname(file.name))
            by_folder.setdefault(top, []).append(file)
    for folder, files in by_folder.items():
        pointers = [f.name for f in files if placement.is_lfs_pointer(f.path)]
        partial = [f.name for f in files if placement.unfinished_mark(f.path)]
        names = [file.name for file in files]
        subject = Subject(folder, folder, "-", None)
        if pointers or partial:
            what = f"Git LFS pointers, not the files: {some(pointers, 3)}" if pointers else ""
            what = what or f"a download broke off: {some(partial, 3)}"
            yield Verdict(subject, None, None, "incomplete locally", what)
            continue
        told = f"no repo is known to have {some(names, 3)}"
        yield Verdict(subject, None, None, "unknown", f"{told}: start_app.py models check REPO --local-dir {folder}")


def of_folder(context: Context, repo: str, folder: str) -> Subject:
    """Return a repo to check by the files of a folder: each is compared with the newest commit's.

    Raises LauncherError: 2 for an invalid folder or repo, 74 for an unreadable file.
    """
    target = repo_id.target(repo)
    plain = folder.removeprefix("./").rstrip("/")
    path = os.path.join(context.settings.app_dir, plain)
    if target is None or not os.path.isdir(path):
        raise LauncherError(
            f"{repo!r} is not a valid repo" if target is None else f"{path} is not a folder",
            f"start_app.py models check REPO --local-dir {quoted(plain)}",
            ExitStatus.USAGE,
        )
    revision = target.revision or repo_id.DEFAULT_REVISION
    name = f"{target.repo} in {plain}"
    requirement = resolve.Requirement(target.repo, revision, plain)
    outcome = None
    if not context.offline:
        timeout = context.timeout(hub.DEFAULT_SECONDS)
        (outcome,) = resolve.resolve([requirement], context.endpoints, context.own_environment, timeout)
    if not isinstance(outcome, resolve.Resolved):
        return Subject(name, target.repo, revision, None, doubt="no hub tells which files it has")
    return _compared(context, outcome.model, path, name)


def _compared(context: Context, model: LockedModel, path: str, name: str) -> Subject:
    memories = verified.load(context.settings.app_dir)
    held = placement.held(path, model.files, memories.local)
    wanted = {inner: Wanted(f"{path}/{inner}", model.files[inner].hash) for inner in held.unread}
    read = inventory.read_files(context, memories, tuple(wanted.values()))
    wrong = [*(inner for inner, one in wanted.items() if read[one] != one.like), *held.resized]
    present = [inner for inner in model.files if inner not in held.missing]
    noted = {inner: note for inner in present if (note := placement.noted_of(path, inner))}
    stale = {noted[inner].commit for inner in wrong if inner in noted} - {model.commit}
    lost = [inner for inner in held.missing if is_weights(inner)]
    extra = tuple(path for path in _others(path) if path not in model.files)
    subject = Subject(
        name,
        model.repo,
        model.revision,
        None,
        file=next(iter(model.files), ""),
        part="; ".join(_besides(held.missing, extra, len(model.files))),
        missing=held.missing,
        extra=extra,
    )
    if not present:
        return subject._replace(problem="no files of it are there")
    if wrong and len(stale) == 1 and all(inner in noted for inner in wrong) and not _pointers(path, wrong):
        return subject._replace(local=stale.pop())
    problem = _in_words(path, present, wrong, f"what {model.commit[:7]} has")
    if problem and subject.part:
        problem = f"{problem}; {subject.part}"
    elif lost:
        problem = "; ".join((placement.lacking(lost, len(model.files)), *_besides((), extra, len(model.files))))
    return subject._replace(local=model.commit, problem=problem)


def _besides(missing: Sequence[str], extra: Sequence[str], of: int) -> Iterator[str]:
    """Yield in words which of so many files of a commit are missing, and which other files are there."""
    if missing:
        yield f"{of - len(missing)} of {of} files are here, without {some(missing, 3)}"
    if extra:
        yield f"not in the repo: {some(extra, 3)}"


def _others(folder: str) -> Iterator[str]:
    """Yield every file of a folder by its path there, sorted, without hub caches and other downloads inside it."""
    pending = [""]
    while pending:
        prefix = pending.pop()
        try:
            with os.scandir(f"{folder}/{prefix}") as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            continue
        if prefix and any(HUB_ENTRY.match(entry.name) or entry.name == ".cache" for entry in entries):
            continue
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                yield f"{prefix}{entry.name}"
            elif entry.name not in _NO_PART:
                pending.append(f"{prefix}{entry.name}/")


def _pointers(folder: str, paths: Sequence[str]) -> list[str]:
    return [path for path in paths if placement.is_lfs_pointer(f"{folder}/{path}")]


def _in_words(folder: str, present: Sequence[str], wrong: Sequence[str], than: str) -> str:
    """Return in words the problems of files of a folder; blank without any."""
    pointers = _pointers(folder, wrong)
    if pointers:
        return f"{len(pointers)} of {len(present)} files are Git LFS pointers, not the files: {some(pointers, 3)}"
    partial = [f"{path}{mark}" for path in wrong if (mark := placement.unfinished_mark(f"{folder}/{path}"))]
    if partial:
        return f"a download broke off: {some(partial, 3)}"
    return placement.differing(wrong, len(present), than) if wrong else ""
