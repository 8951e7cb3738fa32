"""Find every obstacle to a move of the cache before the move begins, with a hint."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..cache import copying, entries, journal, links, planning, roots
from ..cache.copying import Measured
from ..cache.dirs import reason
from ..cache.journal import Journal
from ..cache.names import name as repo_name
from ..cache.planning import Request
from ..cache.roots import Root
from ..cache.usage import in_use
from ..config.env_write import Edit
from ..config.paths import MOVE
from ..config.settings import HUB_CACHE_NAMES
from ..context import Context
from ..errors import ExitStatus, LauncherError, quoted
from ..instances import process
from ..instances.record import LAUNCH, launch_name
from ..instances.survey import Instance
from ..system import renames, state
from ..system.files import existing_folder, free_bytes
from ..ui import text
from . import needed
from .held import held_lock
from .instance import Observed, observe

_USAGE = ExitStatus.USAGE
_VARIABLE = HUB_CACHE_NAMES[0]
_SPARE_BYTES = 16 << 20
_NO_MATTER = entries.HELPERS | {"lost+found"}  # present on a new disk


class Move(NamedTuple):
    """Hold a possible move: what is copied from where to where, and the `.env` that names the new cache.

    With `link`, both are on one file system, and the files get second names. `free` are the free bytes at the new
    place, `begun` means that an earlier run has copied a part.
    """

    root: Root
    target: str
    names: tuple[str, ...]
    measured: Measured
    edit: Edit
    link: bool
    free: int | None
    begun: bool


def prepare(context: Context, target: str) -> Move:
    """Return the move of the app's hub cache to this folder; change nothing.

    Raises LauncherError for every failure that can be foreseen.
    """
    root = context.roots[0]
    _refuse_places(context, root, target)
    contents = entries.contents(root.real)
    if not contents.entries:
        raise LauncherError(
            f"there is nothing to move in {root.path} ({root.origin})",
            f"set HF_HUB_CACHE={quoted(target)} in .env",
            ExitStatus.USAGE,
        )
    begun = journal.read(target)
    _refuse_target(target, root, begun)
    edit = _edit(context, target)
    for folder, point in contents.mounted.items():
        raise LauncherError(
            f"cannot move {root.path}/{folder}: something is mounted on {point}",
            f"umount {quoted(point)}",
            ExitStatus.IO,
        )
    refuse_in_use(context, root.real, target)
    _refuse_kept(root)
    names = copying.copied_names(root.real, contents)
    try:
        measured = copying.measure(root.real, names)
    except OSError as error:
        raise LauncherError(
            f"cannot read {error.filename}: {reason(error)}", f"ls -ld {quoted(error.filename)}", ExitStatus.IO
        ) from error
    for link, _ in links.entering(root.real, needed.places(context)):
        if not os.access(os.path.dirname(link), os.W_OK):
            raise LauncherError(
                f"{link} points to the cache, and may not be changed",
                f"ls -ld {quoted(os.path.dirname(link))}",
                ExitStatus.DENIED,
            )
    place = existing_folder(target)
    same = os.stat(place).st_dev == os.stat(root.real).st_dev
    move = Move(root, target, names, measured, edit, same, free_bytes(place), begun is not None)
    refuse_full(move)
    return move


def refuse_in_use(context: Context, source: str, target: str) -> None:
    """Refuse to move a cache that an instance of the app, or any other process, uses.

    Raises LauncherError (75).
    """
    again = f"start_app.py cache move {quoted(target)}"
    _refuse_launchers(context, again)
    if context.settings.script.exists():
        observed = observe(context.settings)
        running = _running(observed)
        if running:
            raise LauncherError(
                f"the app is running (pid {running[0].pid}) and may use {source}",
                f"start_app.py stop; {again}",
                ExitStatus.RETRY,
            )
        if observed.unseen or observed.keeper:
            raise LauncherError(
                f"an instance of the app holds the lock {observed.lock} and may use {source}",
                f"start_app.py status; {again}",
                ExitStatus.RETRY,
            )
    contents = entries.contents(source)
    for folder, user in in_use(source, tuple(dict.fromkeys((*contents.entries, *contents.locks)))).items():
        raise LauncherError(f"cannot move {repo_name(folder)}: {user}", again, ExitStatus.RETRY)


def refuse_readers(context: Context, source: str, target: str) -> None:
    """Refuse to remove an old cache that an instance, or a launcher at work, may have read from the old `.env`.

    Raises LauncherError (75).
    """
    again = f"start_app.py cache move {quoted(target)}"
    _refuse_launchers(context, again)
    for instance in _running(observe(context.settings)) if context.settings.script.exists() else ():
        named = roots.hub_cache(process.environment(instance.pid) or {}, context.settings.app_dir)
        if os.path.realpath(named) == source:
            raise LauncherError(
                f"the cache is {target} now, but pid {instance.pid} of the app still uses {source}",
                f"start_app.py stop --port {instance.port or context.settings.port}; {again}",
                ExitStatus.RETRY,
            )


def _refuse_launchers(context: Context, again: str) -> None:
    """Refuse while a launcher works on another port of the app: it has read the settings that a move changes."""
    settings = context.settings
    for name in state.listed(settings.app_dir, LAUNCH):
        lock, record = held_lock(settings, name) if name != launch_name(settings.port) else (None, None)
        if lock:
            who = f", pid {record.pid}," if record else ""
            raise LauncherError(f"a launcher{who} is at work on another port of the app", again, ExitStatus.RETRY)


def _running(observed: Observed) -> tuple[Instance, ...]:
    survey = observed.survey
    return (*survey.stale, *((survey.inside,) if survey.inside else ()), *survey.siblings)


def _edit(context: Context, target: str) -> Edit:
    """Return the `.env` with the new cache; HF_HOME stays unchanged, because the token is there.

    Raises LauncherError if the line cannot be written, or would have no effect.
    """
    settings = context.settings
    named = settings.variables.get(_VARIABLE)
    if named and named.level == "environment":
        raise LauncherError(
            f"{_VARIABLE} is set in the environment, which wins over .env",
            f"unset HF_HUB_CACHE, and set it in .env; start_app.py cache move {quoted(target)}",
        )
    path = settings.env_file or settings.app_dir / ".env"
    if settings.foreign is not None:
        raise LauncherError(
            f"{path} belongs to {text.user(settings.foreign)}, and the new cache is named there",
            f"start_app.py cache move {quoted(target)} --env-file {quoted(path)}",
            ExitStatus.DENIED,
        )
    values = {_VARIABLE: target}
    home = settings.variables.get("HF_HOME")
    if home and home.level == "default":  # a folder of the app's that counts only without a setting
        values = {"HF_HOME": home.value, **values}
    elsewhere = {**context.environment, **values}
    for name in settings.form.unset:
        elsewhere.pop(name, None)
    legacy = roots.transformers_cache(context.environment, settings.app_dir)
    if legacy and _is_in(os.path.realpath(legacy[1]), context.roots[0].real):
        raise LauncherError(
            f"{legacy[0]} ({settings.variables[legacy[0]].origin}) names the cache too",
            f"unset {quoted(legacy[0])}; start_app.py cache move {quoted(target)}",
        )
    if os.path.realpath(roots.hub_cache(elsewhere, settings.app_dir)) != target:
        raise LauncherError(f"APP_UNSET keeps {_VARIABLE} from the app", f"$EDITOR {quoted(path)}")
    try:
        edit = Edit(path, values)
        with renames.probe(str(edit.path.parent)) as probe:
            if edit.before is not None:
                probe.leave(str(edit.path))
    except OSError as error:
        raise LauncherError(
            f"cannot write {path}: {reason(error)}", f"ls -ld {quoted(path)} {quoted(path.parent)}", ExitStatus.DENIED
        ) from error
    return edit


def _refuse_places(context: Context, root: Root, target: str) -> None:
    """Refuse a folder that is unsuitable for a cache, or overlaps with the old one."""
    if _is_in(target, root.real):
        raise LauncherError(
            f"{target} is inside the cache {root.real}", f"start_app.py cache move {quoted(_free(root.real))}", _USAGE
        )
    if _is_in(root.real, target):
        raise LauncherError(
            f"{target} holds the cache {root.real}",
            f"start_app.py cache move {quoted(_free(target + '/hub'))}",
            _USAGE,
        )
    pseudo = Root(Path(target), target, "DIR", False)
    for folder in (context.home, str(context.settings.app_dir)):
        if folder and _is_in(os.path.realpath(folder), target):
            raise LauncherError(
                f"{pseudo.path} is not a place for a model cache: it holds {folder}",
                f"start_app.py cache move {quoted(_free(target + '/hub'))}",
                _USAGE,
            )
    roots.refuse_unsafe((root,), context.settings.app_dir, context.home)


def _refuse_target(target: str, root: Root, begun: Journal | None) -> None:
    """Refuse a folder that cannot be created or written to, or has contents other than our unfinished move."""
    if os.path.lexists(target) and not os.path.isdir(target):
        raise LauncherError(f"{target} is not a folder", f"start_app.py cache move {quoted(_free(target))}", _USAGE)
    if begun and begun.source != root.real:
        raise LauncherError(
            f"{target} has a part of another cache, {begun.source}",
            f"start_app.py cache move {quoted(_free(target))}",
            _USAGE,
        )
    place = existing_folder(target)
    if not os.access(place, os.W_OK | os.X_OK):
        raise LauncherError(f"{place} may not be written to", f"ls -ld {quoted(place)}", ExitStatus.DENIED)
    if begun or not os.path.isdir(target):
        return
    names = sorted(name for name in os.listdir(target) if name not in _NO_MATTER and not name.startswith(MOVE))
    if names or os.path.lexists(f"{target}/{MOVE}"):
        held = text.some(names, 3) or MOVE
        raise LauncherError(
            f"{target} is not empty: it holds {held}",
            f"start_app.py cache move {quoted(_free(target + '/hub'))}",
            _USAGE,
        )


def _refuse_kept(root: Root) -> None:
    """Refuse a cache that could not be removed afterwards."""
    (plan,) = planning.plan(Request("clear", force=True), (root,))
    for skip in plan.skipped:
        if skip.kind == "blocked":
            raise LauncherError(f"cannot move {skip.path}: {skip.reason}", f"ls -ld {quoted(skip.path)}", ExitStatus.IO)
    if not os.access(root.real, os.W_OK | os.X_OK):
        raise LauncherError(
            f"cannot move {root.path}: it may not be written to", f"ls -ld {quoted(root.real)}", ExitStatus.DENIED
        )


def refuse_full(move: Move) -> None:
    """Refuse a disk without room for the missing files.

    Raises LauncherError (74).
    """
    if move.link:
        return
    there = copying.measure(move.target, _copied_already(move)).size if move.begun else 0
    wanted = max(0, move.measured.size - there)
    if move.free is not None and wanted + _SPARE_BYTES > move.free:
        place = existing_folder(move.target)
        raise LauncherError(
            f"{text.size(wanted)} are to be copied, and {place} has room for {text.size(move.free)}",
            f"start_app.py cache prune; df -h {quoted(place)}",
            ExitStatus.IO,
        )


def _copied_already(move: Move) -> tuple[str, ...]:
    return tuple(name for name in move.names if os.path.lexists(f"{move.target}/{name}"))


def _free(path: str) -> str:
    """Return the first free name among these, numbered if necessary."""
    return next(name for name in _numbered(path) if not os.path.lexists(name))


def _numbered(path: str) -> Iterator[str]:
    yield path
    number = 2
    while True:
        yield f"{path}-{number}"
        number += 1


def _is_in(path: str, folder: str) -> bool:
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")
