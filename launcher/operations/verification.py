"""Verify the cache, for `cache verify` and the launch flag `--verify`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..cache import entries, layout, store, targets
from ..cache import verify as verification
from ..cache.completeness import Files
from ..cache.dirs import reason
from ..cache.memory import Memory
from ..cache.names import name
from ..cache.roots import Root
from ..cache.targets import refuse_unknown
from ..cache.verify import Candidate, Checked, Names, Verification
from ..context import Context
from ..errors import ExitStatus, LauncherError
from ..models import repo_id, verified
from ..system import state
from ..ui import text

if TYPE_CHECKING:
    from ..ui.console import Console

_NAMED_AT_MOST = 20


def check(
    context: Context,
    repos: Sequence[str] = (),
    *,
    full: bool = False,
    keep_whole: bool = False,
    besides: Collection[str] = (),
) -> Verification:
    """Verify the files of these repos, or of all except some, and remember intact files, even if interrupted."""
    settings, console = context.settings, context.console
    memory = Memory(state.read(settings.app_dir, verified.CACHED))
    done = Verification(memory, full=full, keep_whole=keep_whole)
    chosen = [
        (root, tuple(folder for folder in folders if folder not in besides))
        for root, folders in _chosen(context.roots, repos)
    ]
    finished = False
    try:
        with console.bar("verifying", _bytes(chosen) if console.interactive else None) as progress:
            done.run(_candidates(chosen, _pinned(context)), progress)
        finished = True
    finally:
        try:
            state.write(settings.app_dir, verified.CACHED, memory.data(everything=finished and not (repos or besides)))
        except OSError as error:
            console.detail(f"cannot save which files are whole: {error.strerror}")
    return done


def refuse_damaged(done: Verification, console: Console) -> None:
    """Refuse to continue with a damaged cache.

    Raises LauncherError with status DAMAGED.
    """
    failing = [checked for checked in done.checked if checked.fails]
    names = Names()
    for checked in failing[:_NAMED_AT_MOST]:
        console.warn(line(checked, names))
    if failing:
        damaged = sum(checked.damaged for checked in failing)
        what = (
            f"{text.count(damaged, 'file')} in the cache damaged" if damaged else "a download into the cache broke off"
        )
        raise LauncherError(
            f"{what}; nothing was stopped",
            "start_app.py cache verify --repair",
            ExitStatus.DAMAGED,
        )
    console.say(summary(done))


def _chosen(roots: Sequence[Root], repos: Sequence[str]) -> list[tuple[Root, tuple[str, ...]]]:
    present = [(root, entries.contents(root.real).entries) for root in roots]
    refuse_unknown(repos, roots)
    if not repos:
        return present
    return [(root, tuple(sorted(targets.matching(repos, folders)))) for root, folders in present]


def _pinned(context: Context) -> Mapping[str, Mapping[str, Files]]:
    """Return the files of cached commits in `models.lock`; none for an invalid lock."""
    try:
        lock = context.lockfile or ()
    except LauncherError:
        return {}
    pinned: dict[str, dict[str, Files]] = {}
    for model in lock:
        if not model.local_dir:
            files = {path: (file.hash, file.size) for path, file in model.files.items()}
            pinned.setdefault(repo_id.folder(model.repo), {})[model.commit] = files
    return pinned


def _candidates(
    chosen: Sequence[tuple[Root, tuple[str, ...]]], pinned: Mapping[str, Mapping[str, Files]]
) -> Iterator[Candidate]:
    for root, folders in chosen:
        unreadable: list[Candidate] = []
        yield from verification.candidates(_read(root, folders, unreadable), pinned)
        yield from unreadable


def _read(root: Root, folders: Sequence[str], unreadable: list[Candidate]) -> Iterator[layout.Repo]:
    for folder in folders:
        try:
            yield layout.read(root.real, folder)
        except FileNotFoundError:
            continue  # removed meanwhile
        except OSError as error:
            unreadable.append(verification.unreadable(f"{root.real}/{folder}", reason(error)))


def _bytes(chosen: Sequence[tuple[Root, tuple[str, ...]]]) -> int:
    shared = {payload: status.st_size for root, _ in chosen for payload, status in store.payloads(root.real)}
    own = 0
    linked: set[str] = set()
    for root, folders in chosen:
        for repo in _read(root, folders, []):
            own += repo.held
            linked |= repo.shared
    return own + sum(shared.get(payload, 0) for payload in linked)


def line(checked: Checked, names: Names) -> str:
    """Return the verdict on one file as a line."""
    candidate = checked.candidate
    where = f"{name(candidate.folder)} {', '.join(names.of(candidate))}".rstrip()
    why = f": {checked.why}" if checked.why else " (remembered)" if checked.remembered else ""
    return f"{checked.verdict}: {where}, {candidate.path}{why}"


def summary(done: Verification) -> str:
    """Return the results in one line."""
    again = f", {done.remembered} of them unchanged since the last read" if done.remembered else ""
    damaged = sum(1 for checked in done.checked if checked.damaged)
    unknown = sum(1 for checked in done.checked if checked.verdict == "unverifiable")
    partial = sum(1 for checked in done.checked if checked.verdict == "incomplete")
    told = f"verified: {text.count(done.whole, 'file')} whole{again}; {text.size(done.bytes)}"
    told += f"; {damaged} damaged" if damaged else ""
    told += f"; {text.count(partial, 'revision')} incomplete" if partial else ""
    return told + (f"; {unknown} unverifiable" if unknown else "")


def document(done: Verification) -> dict[str, Any]:
    """Return the results for `--json`."""
    return {
        "files": [
            {
                "repo": name(checked.candidate.folder),
                "path": checked.candidate.path,
                "revisions": list(checked.candidate.commits),
                "verdict": checked.verdict,
                "reason": checked.why or None,
                "size_bytes": checked.size,
                "remembered": checked.remembered,
            }
            for checked in done.checked
        ],
        "whole": done.whole,
        "remembered": done.remembered,
        "damaged": sum(1 for checked in done.checked if checked.damaged),
        "incomplete": sum(1 for checked in done.checked if checked.verdict == "incomplete"),
        "size_bytes": done.bytes,
    }
