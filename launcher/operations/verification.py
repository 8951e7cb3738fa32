"""`cache verify` and the launch flag `--verify`: what is damaged is told before anything is stopped or removed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..cache import entries, layout, roots, store, targets
from ..cache import verify as verification
from ..cache.dirs import reason
from ..cache.memory import Memory
from ..cache.names import name
from ..cache.planning import plan_repair, refuse_unknown, restore
from ..cache.roots import Root
from ..cache.verify import Candidate, Checked, Names, Verification
from ..config.settings import Settings
from ..errors import ExitStatus, LauncherError
from ..models import verified
from ..system import state
from ..ui import text
from . import pull, removal, repair

if TYPE_CHECKING:
    from ..arguments import Arguments
    from ..ui.console import Console

_NAMED_AT_MOST = 20


def verify(
    arguments: Arguments, settings: Settings, found: tuple[Root, ...], console: Console, environ: Mapping[str, str]
) -> int:
    """Verify the caches, tell each file that is not as the hub had it, and with `--repair` fetch it anew."""
    if arguments.repair:
        roots.refuse_unsafe(found, settings.app_dir, environ.get("HOME"))
    whole = console.as_json or console.verbose
    done = check(settings, found, arguments.repos, console, full=arguments.full, keep_whole=whole)
    names = Names()
    if not console.as_json:
        for checked in sorted(done.found, key=lambda one: (not one.damaged, one.candidate.path)):
            console.out(_line(checked, names))
        console.out(_summary(done))
    damaged = [checked for checked in done.found if checked.damaged]
    status = ExitStatus.DONE
    if damaged and arguments.repair:
        planned = plan_repair(damaged, found, force=arguments.force)
        going = repair.broken(planned)
        context = pull.Context(settings, environ)
        repair.refuse_unavailable(going, context)
        status = ExitStatus(
            removal.apply(
                planned,
                "repair",
                settings,
                console,
                dry_run=arguments.dry_run,
                yes=arguments.yes,
                document=_document(done),
                afterwards=lambda: repair.fetch(going, context, console),
            )
        )
        if status:
            return status
        if arguments.dry_run:
            return ExitStatus.DAMAGED
        return ExitStatus.IO if any(checked.denied for checked in done.found) else ExitStatus.DONE
    if damaged:
        status = ExitStatus.DAMAGED
        console.warn(console.hinted("hint: start_app.py cache verify --repair removes it and fetches it anew"))
    elif any(checked.denied for checked in done.found):
        status = ExitStatus.IO
    if console.as_json:
        console.json({**_document(done), "exit_status": int(status)})
    return status


def check(
    settings: Settings,
    found: Sequence[Root],
    repos: Sequence[str],
    console: Console,
    *,
    full: bool = False,
    keep_whole: bool = False,
    besides: Collection[str] = (),
) -> Verification:
    """Verify the files of these repos, or of all `besides` some, and remember what is whole, when interrupted too."""
    memory = Memory(state.read(settings.app_dir, verified.CACHED))
    done = Verification(memory, full=full, keep_whole=keep_whole)
    restore(found)
    chosen = [
        (root, tuple(folder for folder in folders if folder not in besides)) for root, folders in _chosen(found, repos)
    ]
    finished = False
    try:
        with console.bar("verifying", _bytes(chosen) if console.interactive else None) as progress:
            done.run(_candidates(chosen), progress)
        finished = True
    finally:
        try:
            state.write(settings.app_dir, verified.CACHED, memory.data(everything=finished and not (repos or besides)))
        except OSError as error:
            console.detail(f"cannot remember what is whole: {error.strerror}")
    return done


def refuse_damaged(done: Verification, console: Console) -> None:
    """Refuse to go on with a damaged cache.

    Raises LauncherError with status DAMAGED.
    """
    damaged = [checked for checked in done.found if checked.damaged]
    names = Names()
    for checked in damaged[:_NAMED_AT_MOST]:
        console.warn(_line(checked, names))
    if damaged:
        raise LauncherError(
            f"{text.count(len(damaged), 'file')} of the cache damaged; nothing was stopped",
            "start_app.py cache verify --repair",
            ExitStatus.DAMAGED,
        )
    console.say(_summary(done))


def _chosen(found: Sequence[Root], repos: Sequence[str]) -> list[tuple[Root, tuple[str, ...]]]:
    present = [(root, entries.contents(root.real).entries) for root in found]
    refuse_unknown(repos, found)
    if not repos:
        return present
    return [(root, tuple(sorted(targets.matching(repos, folders)))) for root, folders in present]


def _candidates(chosen: Sequence[tuple[Root, tuple[str, ...]]]) -> Iterator[Candidate]:
    for root, folders in chosen:
        unreadable: list[Candidate] = []
        yield from verification.candidates(_read(root, folders, unreadable))
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
    shared = {payload: count for root, _ in chosen for payload, count in store.sizes(root.real)}
    own = 0
    linked: set[str] = set()
    for root, folders in chosen:
        for repo in _read(root, folders, []):
            own += repo.held
            linked |= repo.shared
    return own + sum(shared.get(payload, 0) for payload in linked)


def _line(checked: Checked, names: Names) -> str:
    candidate = checked.candidate
    where = f"{name(candidate.folder)} {', '.join(names.of(candidate))}".rstrip()
    why = f": {checked.why}" if checked.why else " (remembered)" if checked.remembered else ""
    return f"{checked.verdict}: {where}, {candidate.path}{why}"


def _summary(done: Verification) -> str:
    again = f", {done.remembered} of them unchanged since they were last read" if done.remembered else ""
    damaged = sum(1 for checked in done.found if checked.damaged)
    unknown = sum(1 for checked in done.found if checked.verdict == "unverifiable")
    line = f"verified: {text.count(done.whole, 'file')} whole{again}; {text.size(done.bytes)}"
    line += f"; {damaged} damaged" if damaged else ""
    return line + (f"; {unknown} unverifiable" if unknown else "")


def _document(done: Verification) -> dict[str, Any]:
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
            for checked in done.found
        ],
        "whole": done.whole,
        "remembered": done.remembered,
        "damaged": sum(1 for checked in done.found if checked.damaged),
        "size_bytes": done.bytes,
    }
