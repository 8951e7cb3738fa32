"""Move a cache to another folder: copy it, compare it, name it in `.env`, and only then remove the old one.

At every instant the cache that `.env` names is complete. After a killed run, the same command continues the move: the
journal in the new cache shows the progress.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress

from ..cache import copying, entries, foreign, journal, layout, links, planning, roots
from ..cache.copying import ChangedError, Copier
from ..cache.deletion import Deletion
from ..cache.dirs import opened, reason
from ..cache.journal import Journal
from ..cache.names import name as repo_name
from ..cache.planning import Request, Result
from ..cache.usage import in_use
from ..config.paths import HUB_ENTRY, MOVE
from ..config.settings import HUB_CACHE_NAMES
from ..context import Context
from ..errors import ExitStatus, LauncherError, quoted
from ..service import history, outcomes
from ..service.outcomes import LaunchSet
from ..ui import text
from . import needed
from .move_plan import Move, refuse_full, refuse_in_use, refuse_readers

_PASSES = 3


def apply(context: Context, move: Move) -> Result:
    """Copy the cache, name the new one in `.env`, and remove the old one.

    Raises LauncherError; until `.env` names the new cache, the old one is unchanged.
    """
    try:
        prints, copied = _copy(context, move)
    except KeyboardInterrupt:
        context.console.warn(f"the cache is still {move.root.path}; the same command continues the copy")
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        where = error.filename if isinstance(error.filename, str) and error.filename.startswith("/") else move.target
        raise LauncherError(
            f"cannot copy the cache to {where}: {reason(error)}; it is still {move.root.path}",
            f"df -h {quoted(move.target)}" if full else f"ls -ld {quoted(where)}",
            ExitStatus.IO,
        ) from error
    begun = Journal(str(move.root.path), move.root.real, prints)
    journal.write(move.target, begun)
    try:
        move.edit.write()
    except OSError as error:
        raise LauncherError(
            f"cannot write {move.edit.path}: {reason(error)}; the cache is still {move.root.path}",
            f"ls -l {quoted(move.edit.path)}",
            ExitStatus.IO,
        ) from error
    for name, line in move.edit.lines.items():
        context.console.say(f"{move.edit.path} line {line}: {name}={move.edit.values[name]}")
    amount = f"{text.size(copied)} copied" if copied else "renamed on the same disk"
    history.record(context.settings, "move", f"{move.root.path} to {move.target}", amount)
    return finish(context, move.target, begun)


def finish(context: Context, target: str, begun: Journal) -> Result:
    """Point links to the new cache, which is complete and in use, and remove the old one.

    Raises LauncherError if the old cache may be in use, or a link cannot be changed; then the old cache stays.
    """
    console, source = context.console, begun.source
    roots.refuse_unsafe((begun.root,), context.settings.app_dir, context.home)
    if f"{target}/".startswith(f"{source}/") or f"{source}/".startswith(f"{target}/"):
        raise LauncherError(
            f"the journal in {target} names {source}, which is not another cache", f"rm {quoted(target + '/' + MOVE)}"
        )
    refuse_readers(context, source, target)
    _relink(context, target, source)
    _move_sets(context, target, begun)
    # A repo with only foreign files is the rest of a removal that was interrupted.
    request = Request("clear", force=True)
    planned = planning.plan(request, (begun.root,), again=True)
    going = {item.folder for plan in planned for item in plan.items if item.kind == "repo"}
    same, users = begun.unchanged(), in_use(source, going)
    stay = going.difference(same).union(users)
    if stay:
        repos = tuple(sorted(going - stay))
        planned = planning.plan(request._replace(kind="remove", targets=repos), (begun.root,), again=True)
    result = planning.condemn(planned, lambda _, item: console.detail(f"cache: removing {item.path}"))
    with console.bar("freeing", sum(plan.size for plan in planned)) as progress:
        result = planning.finish(planned, result, progress)
    for folder in sorted(stay):
        console.warn(f"skipped: {source}/{folder}: {users.get(folder, 'it is not what was copied')}")
    for line in planning.skipped_lines(result.skipped):
        console.warn(f"{line}; {target} has a copy")
    for failure in result.failures:
        console.warn(f"cannot remove {failure.path}: {failure.reason}")
    if not (stay or result.failures):
        _drop_root(begun)
        journal.drop(target)
    return result


def remains(source: str) -> tuple[str, ...]:
    """Return the repos that are still in an old cache, except those with only foreign files."""
    return tuple(repo_name(folder) for folder in entries.contents(source).entries if _has_own(source, folder))


def _has_own(source: str, folder: str) -> bool:
    try:
        return layout.read(source, folder).has_own
    except OSError:
        return True


def _copy(context: Context, move: Move) -> tuple[Mapping[str, str], int]:
    """Copy until nothing changes; return the fingerprints of the copied entries, and the bytes."""
    before = journal.read(move.target)
    _make(move)
    _drop_vanished(move, before)
    journal.write(move.target, Journal(str(move.root.path), move.root.real, dict.fromkeys(move.names, "")))
    link = move.link and _can_link(move)
    if move.link and not link:
        refuse_full(move._replace(link=False))
    console = context.console
    amount = f"{text.count(move.measured.files, 'file')}, {text.size(move.measured.size)}"
    verb = "renaming" if link else "copying"
    console.say(f"cache: {verb} {move.root.path} to {move.target}: {amount}")
    with console.bar("moving", move.measured.size) as progress:
        copier = Copier(move.root.real, move.target, link=link, progress=progress)
        prints = _copied(move, copier)
    refuse_in_use(context, move.root.real, move.target)
    if copier.copied:
        os.sync()
    return prints, copier.copied


def _copied(move: Move, copier: Copier) -> Mapping[str, str]:
    """Copy every entry, again if it has changed meanwhile, and return the fingerprints.

    Raises LauncherError (75) if it keeps changing, or a repo was added.
    """
    source = move.root.real
    pending: Sequence[str] = move.names
    prints: dict[str, str] = {}
    for _ in range(_PASSES):
        for name in pending:
            prints[name] = copying.fingerprint(source, name)
            with suppress(ChangedError):
                copier.copy(name)
        pending = [name for name, known in prints.items() if not _is_still(source, name, known)]
        if not pending:
            break
    pending = [*pending, *(name for name in _names(source) if name not in prints)]
    if pending:
        folder = pending[0]
        raise LauncherError(
            f"{repo_name(folder) if HUB_ENTRY.match(folder) else folder} has changed while it was copied",
            f"start_app.py cache move {quoted(move.target)}",
            ExitStatus.RETRY,
        )
    return prints


def _drop_vanished(move: Move, before: Journal | None) -> None:
    """Remove from an unfinished copy the entries that the old cache no longer has.

    Raises LauncherError (75) for a repo that no copy of ours created, and for a foreign file that the old cache lacks.
    """
    for name in filter(HUB_ENTRY.match, os.listdir(move.target)):
        if before is None or name not in before.prints:
            raise _appeared(move, name)
        for path in foreign.in_repo(move.target, name):
            if not os.path.lexists(f"{move.root.real}/{name}/{path}"):
                raise _appeared(move, f"{name}/{path}")
        if name not in move.names:
            with opened(move.target) as folder:
                Deletion().delete(folder, name, f"{move.target}/{name}")


def _appeared(move: Move, path: str) -> LauncherError:
    return LauncherError(
        f"{move.target}/{path} appeared while the cache was copied", f"ls -l {quoted(move.target)}", ExitStatus.RETRY
    )


def _names(source: str) -> tuple[str, ...]:
    return copying.copied_names(source, entries.contents(source))


def _is_still(source: str, name: str, known: str) -> bool:
    try:
        return copying.fingerprint(source, name) == known
    except FileNotFoundError:
        return False


def _make(move: Move) -> None:
    """Give the new folder the owner and mode of the old one."""
    if os.path.isdir(move.target):
        return
    os.makedirs(move.target)
    status = os.stat(move.root.real)
    if os.geteuid() == 0:
        os.chown(move.target, status.st_uid, status.st_gid)
    os.chmod(move.target, status.st_mode & 0o7777)


def _can_link(move: Move) -> bool:
    """Return whether a file of the old cache can have a second name in the new one."""
    part = f"{move.target}/{copying.PART}"
    with suppress(FileNotFoundError):
        os.unlink(part)
    for folder, _, names in os.walk(f"{move.root.real}/{move.names[0]}"):
        for name in names:
            if not os.path.islink(f"{folder}/{name}"):
                try:
                    os.link(f"{folder}/{name}", part, follow_symlinks=False)
                except OSError:
                    return False
                os.unlink(part)
                return True
    return True


def _relink(context: Context, target: str, source: str) -> None:
    """Point every link of the app to the same path in the new cache.

    Raises LauncherError (74) if one cannot be changed.
    """
    for link, path in list(links.entering(source, _places(context, source))):
        new = f"{target}{path.removeprefix(source)}"
        old = os.readlink(link)
        if not os.path.isabs(old):
            new = os.path.relpath(new, os.path.realpath(os.path.dirname(link)))
        beside = f"{link}.{os.urandom(4).hex()}"
        try:
            status = os.lstat(link)
            os.symlink(new, beside)  # noqa: PTH211  # text and not a path: it may be relative
            if os.geteuid() == 0:
                os.chown(beside, status.st_uid, status.st_gid, follow_symlinks=False)
            os.rename(beside, link)
        except OSError as error:
            with suppress(OSError):
                os.unlink(beside)
            raise LauncherError(
                f"cannot point {link} to {target}: {reason(error)}; {source} stays",
                f"ls -ld {quoted(os.path.dirname(link))}",
                ExitStatus.IO,
            ) from error
        context.console.say(f"cache: {link} now points to {new}")


def _move_sets(context: Context, target: str, begun: Journal) -> None:
    """Have the last good sets find their models in the new cache: a roll-back needs them.

    Raises LauncherError (74) if they cannot be written.
    """
    variable = HUB_CACHE_NAMES[0]

    def moved(ran: LaunchSet) -> LaunchSet:
        models = tuple(one._replace(path=_moved_path(one.path, target, begun)) for one in ran.models)
        if models == ran.models:
            return ran
        environment = tuple(sorted({*ran.environment, variable}))
        return ran._replace(models=models, environment=environment, variables={**ran.variables, variable: target})

    try:
        outcomes.change_all(context.settings.app_dir, moved)
    except OSError as error:
        raise LauncherError(
            f"cannot lead the last good sets to {target}: {reason(error)}; {begun.source} stays",
            f"ls -ld {quoted(context.settings.app_dir)}",
            ExitStatus.IO,
        ) from error


def _moved_path(path: str, target: str, begun: Journal) -> str:
    old = next((old for old in (begun.path, begun.source) if path.startswith(f"{old}/")), None)
    return f"{target}{path.removeprefix(old)}" if old else path


def _places(context: Context, source: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*needed.places(context), source)))


def _drop_root(begun: Journal) -> None:
    """Remove the rest of an old cache, unless it has contents or is a link."""
    source = begun.source
    with suppress(OSError):
        os.rmdir(f"{source}/{entries.LOCKS}")
    if {*os.listdir(source)} == {copying.TAG}:
        with suppress(OSError):
            os.unlink(f"{source}/{copying.TAG}")
    if begun.path == source:
        with suppress(OSError):
            os.rmdir(source)
