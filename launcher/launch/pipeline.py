"""The order of a launch: everything that can fail is asked before anything is stopped.

settings → preflight → launch lock → models → stop stale → cache action → port free → record → exec. The plan is a
value: `--dry-run` and `--json` show the one that the launch applies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..app.command import Command, build
from ..cache.roots import folders, trashed
from ..config.settings import Settings
from ..errors import LauncherError
from ..instances import refusal
from ..instances.record import instance_name
from ..operations.instance import (
    Observed,
    Say,
    clear_port,
    left_alone,
    no_instances,
    observe,
    refuse_taken_port,
    take_launch_lock,
    write_record,
)
from ..system import lock as locks
from .plan import LaunchPlan, Prepared, facts

if TYPE_CHECKING:
    from ..instances.stop import Stopped
    from .cache_step import Cleaning
    from .model_step import ModelStep


def plan(
    settings: Settings,
    environ: Mapping[str, str],
    running_interpreter: str,
    *,
    take_port: bool,
    no_launch: bool,
    cleaning: Cleaning | None = None,
    models: ModelStep | None = None,
    check: Callable[[], None] = lambda: None,
) -> LaunchPlan:
    """Check all that can be checked without changing anything, and return what a launch would do."""
    command = build(settings, environ, running_interpreter)
    observed = observe(settings)
    refused = observed.launch_refusal(take_port)
    try:
        if refused is None:
            check()
        if refused is None and models:
            models.check()
            command = command if models.asked else models.command(command)
        if refused is None and cleaning:
            cleaning.check(lambda: _to_stop(observed, take_port=take_port))
    except LauncherError as error:
        refused = error
    return LaunchPlan(settings, command, observed, refused, take_port, no_launch, cleaning, models)


def prepare(
    settings: Settings,
    environ: Mapping[str, str],
    running_interpreter: str,
    *,
    take_port: bool,
    stop_timeout: float,
    say: Say,
    detail: Say,
    models: ModelStep,
    cleaning: Cleaning | None = None,
) -> Prepared:
    """Do everything up to the record: nothing of ours runs on the port any more, and the instance lock is ours.

    Both locks close by themselves at the exec or exit. Raises LauncherError; what it refuses, it refuses before
    anything was stopped.
    """
    command = build(settings, environ, running_interpreter)
    for line in facts(settings, command):
        say(line)
    models.check()
    if cleaning:
        cleaning.check(lambda: _to_stop(observe(settings), take_port=take_port))
    launch_lock = take_launch_lock(settings, stop_timeout, say)
    _fetch(models, settings, take_port=take_port)
    lock = locks.open_lock(settings.app_dir, instance_name(settings.port))
    stopped = clear_port(
        settings, take_port=take_port, timeout=stop_timeout, say=say, tell=_teller(say, detail), lock=lock
    )
    moved = models.settle()
    if cleaning:
        cleaning.carry_out(background=True, changed=bool(stopped) or moved)
        refuse_taken_port(settings)
    elif trashed(folders(command.environment, settings.app_dir)):
        _finish_trash(command, settings, say)
    command = models.command(command)
    models.tell(say, command.environment)
    commits = {one.repo: one.commit for one in models.models}
    return Prepared(command, stopped, lock, launch_lock, commits, models.locked)


def record(prepared: Prepared, settings: Settings, say: Say, log: Path | None) -> None:
    """Write this process into the instance lock, and keep that across the exec that comes next."""
    write_record(
        prepared.lock,
        settings,
        prepared.command.argv,
        say,
        models=prepared.commits,
        locked=prepared.locked,
        log=log,
    )
    prepared.lock.keep_across_exec()


def _fetch(models: ModelStep, settings: Settings, *, take_port: bool) -> None:
    """Pull what is lacking while the old instance serves; what would be refused anyway is refused before that."""
    if models.asked and not models.in_place():
        refused = observe(settings).launch_refusal(take_port)
        if refused:
            raise refused
        models.fetch()
    models.show()


def stop_only(
    settings: Settings,
    *,
    take_port: bool,
    stop_timeout: float,
    say: Say,
    detail: Say,
    models: ModelStep,
    cleaning: Cleaning | None = None,
) -> tuple[Stopped, ...]:
    """Do what a launch does before its exec, and leave the port free."""
    models.check()
    if cleaning:
        cleaning.check(lambda: _to_stop(observe(settings), take_port=take_port))
    launch_lock = take_launch_lock(settings, stop_timeout, say)
    try:
        _fetch(models, settings, take_port=take_port)
        stopped = clear_port(settings, take_port=take_port, timeout=stop_timeout, say=say, tell=_teller(say, detail))
        moved = models.settle()
        if cleaning:
            cleaning.carry_out(background=False, changed=bool(stopped) or moved)
        return stopped
    finally:
        launch_lock.close()


def _to_stop(observed: Observed, *, take_port: bool) -> frozenset[int]:
    """Return every pid that goes before the cache is touched: what these read is in nobody's way."""
    victims = {process.pid for process in refusal.targets(observed.survey, take_port=take_port)}
    return frozenset(victims.union(*(instance.tree for instance in observed.survey.stale)))


def _finish_trash(command: Command, settings: Settings, say: Say) -> None:
    from ..cache import trash

    try:
        trash.finish_later(trashed(folders(command.environment, settings.app_dir)), quiet=True)
    except OSError as error:
        say(f"cache: trash of an interrupted removal is left: {error.strerror}")


def _teller(say: Say, detail: Say) -> Callable[[Observed], None]:
    def tell(observed: Observed) -> None:
        for line in left_alone(observed):
            say(line)
        for line in no_instances(observed):
            detail(line)

    return tell
