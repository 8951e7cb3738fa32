"""The order of a launch: everything that can fail is asked before anything is stopped.

settings → preflight → launch lock → models → stop stale → cache action → port free → record → exec. The plan is a
value: `--dry-run` and `--json` show the one that the launch applies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..app.command import OWN_INTERPRETER, Command, build
from ..cache.roots import folders, hub_cache, trashed
from ..config.settings import HUB_CACHE_NAMES, Settings
from ..errors import LauncherError
from ..instances import refusal
from ..instances.process import Process
from ..instances.survey import Instance, describe
from ..operations.instance import Observed, Say, clear_port, observe, refuse_taken_port, take_launch_lock, write_record
from ..system import lock as locks
from ..ui import redact, text

if TYPE_CHECKING:
    from ..instances.stop import Stopped
    from .cache_step import Cleaning
    from .model_step import ModelStep


NAMED_AT_MOST = 10


class LaunchPlan(NamedTuple):
    """Hold what a launch is about to do, and why it would refuse."""

    settings: Settings
    command: Command
    observed: Observed
    refused: LauncherError | None
    take_port: bool
    no_launch: bool
    cleaning: Cleaning | None = None
    models: ModelStep | None = None
    log: Path | None = None
    background: bool = False

    def lines(self) -> tuple[str, ...]:
        """Return the plan as a dry run tells it."""
        lines = [f"app: {self.settings.script}"]
        lines += facts(self.settings, self.command)
        if self.observed.launcher:
            lines.append(f"would wait: another launcher is at work on port {self.settings.port}")
        if self.models and self.refused is None:
            lines += self.models.lines()
        if self.refused is None:
            victims = refusal.targets(self.observed.survey, take_port=self.take_port)
            lines += [f"would terminate {describe(process)}" for process in victims]
        lines += left_alone(self.observed)
        if self.cleaning:
            lines += self.cleaning.lines()
        if self.refused is None:
            lines += [f"would log: {self.log}"] if self.log else []
            how = "would start in the background" if self.background else "would exec"
            lines.append("would start nothing" if self.no_launch else f"{how}: {shown(self.command)}")
        return tuple(lines)

    def details(self) -> tuple[str, ...]:
        """Return what `-v` adds: the origin of every setting, and who only looks like an instance."""
        own = self.command.origin == OWN_INTERPRETER  # told already
        interpreter = () if own else (f"interpreter: {self.command.interpreter} ({self.command.origin})",)
        return (*origins(self.settings), *interpreter, *no_instances(self.observed))

    def document(self) -> Mapping[str, Any]:
        """Return the plan for `--json`."""
        survey = self.observed.survey
        return {
            "app_dir": str(self.settings.app_dir),
            "script": str(self.settings.script),
            "port": self.settings.port,
            "host": self.settings.host,
            "interpreter": self.command.interpreter,
            "argv": list(redact.arguments(self.command.argv)),
            "settings": {
                name: {"value": redact.value(name, s.value), "origin": s.origin}
                for name, s in (*self.settings.origins.items(), *self.settings.variables.items())
            },
            "terminate": [process_document(p) for p in refusal.targets(survey, take_port=self.take_port)]
            if self.refused is None
            else [],
            "launch": not self.no_launch,
            "background": self.background,
            "log": str(self.log) if self.log else None,
            "siblings": [instance_document(instance) for instance in survey.siblings],
            "waits_for_launcher": self.observed.launcher is not None,
            "cache": self.cleaning.document() if self.cleaning else [],
            "locked": self.settings.locked,
            "models": self.models.document() if self.models else [],
        }


class Prepared(NamedTuple):
    """Hold all that an exec needs once nothing stands in its way, with the locks that keep others out until then."""

    command: Command
    stopped: tuple[Stopped, ...]
    lock: locks.Lock
    launch_lock: locks.Lock
    commits: Mapping[str, str]
    locked: bool


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
    lock = locks.open_lock(settings.app_dir, locks.instance_name(settings.port))
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


def origins(settings: Settings) -> tuple[str, ...]:
    """Return every setting with its origin: the launcher's own, then what the app's environment gets."""
    return tuple(
        f"{kind}: {name}={redact.value(name, setting.value)} ({setting.origin})"
        for kind, found in (("setting", settings.origins), ("environment", settings.variables))
        for name, setting in found.items()
        if kind == "setting" or name not in settings.origins
    )


def shown(command: Command) -> str:
    """Return the command as a person would type it in the app's folder, secrets masked."""
    return text.command_line(command.shown)


def handoff_document(prepared: Prepared, models: ModelStep, cleaning: Cleaning | None = None) -> Mapping[str, Any]:
    """Return for `--json` what was done just before the exec."""
    return {
        "launched": True,
        "argv": list(redact.arguments(prepared.command.argv)),
        "stopped": [stopped_document(one) for one in prepared.stopped],
        "cache": cleaning.done if cleaning else [],
        "locked": models.locked,
        "models": models.document(),
    }


def stopped_document(stopped: Stopped) -> Mapping[str, Any]:
    """Return a stopped instance for `--json`."""
    return {
        **process_document(stopped.process),
        "others": stopped.others,
        "seconds": round(stopped.seconds, 3),
        "killed": stopped.killed,
    }


def facts(settings: Settings, command: Command) -> tuple[str, ...]:
    """Return what the app will use, the two things that decide which model runs above all."""
    endpoint = settings.variables.get("HF_ENDPOINT")
    source = f"{endpoint.value} ({endpoint.origin})" if endpoint else "https://huggingface.co (default)"
    origin = next((settings.variables[n].origin for n in HUB_CACHE_NAMES if n in settings.variables), "default")
    foreign = () if command.origin != OWN_INTERPRETER else (f"interpreter: {command.interpreter} ({command.origin})",)
    return (
        *foreign,
        f"endpoint: {source}",
        f"cache: {hub_cache(command.environment, settings.app_dir)} ({origin})",
    )


def left_alone(observed: Observed) -> tuple[str, ...]:
    """Return which instances of this app are not touched: those on other ports and those of other users."""
    survey = observed.survey
    lines = [f"left: {describe(i.process)}: this app's instance on port {i.port}" for i in survey.siblings]
    others = [i for i in survey.others if not i.on(survey.port)]  # one on the port is a refusal of its own
    lines += [f"left: {describe(i.process)}: this app's instance of another user" for i in others]
    return tuple(lines)


def no_instances(observed: Observed) -> tuple[str, ...]:
    """Return which processes mention the script without being an instance, each with the reason."""
    # The youngest first: it is the one that somebody is wondering about.
    left = sorted(observed.survey.left, key=lambda found: -found[0].start)
    lines = [f"no instance: {describe(process)}: {reason}" for process, reason in left[:NAMED_AT_MOST]]
    more = len(left) - len(lines)
    return (*lines, f"no instance: {more} more of this kind") if more else tuple(lines)


def _to_stop(observed: Observed, *, take_port: bool) -> frozenset[int]:
    """Return every pid that goes before the cache is touched: what these read is in nobody's way."""
    victims = {process.pid for process in refusal.targets(observed.survey, take_port=take_port)}
    return frozenset(victims.union(*(instance.tree for instance in observed.survey.stale)))


def _finish_trash(command: Command, settings: Settings, say: Say) -> None:
    from ..cache.background import finish_later

    try:
        finish_later(trashed(folders(command.environment, settings.app_dir)), quiet=True)
    except OSError as error:
        say(f"cache: trash of an interrupted removal is left: {error.strerror}")


def _teller(say: Say, detail: Say) -> Callable[[Observed], None]:
    def tell(observed: Observed) -> None:
        for line in left_alone(observed):
            say(line)
        for line in no_instances(observed):
            detail(line)

    return tell


def process_document(process: Process) -> Mapping[str, Any]:
    """Return a process for `--json`."""
    return {
        "pid": process.pid,
        "user": text.user(process.uid),
        "command": list(redact.arguments(process.argv)),
        "uptime_seconds": round(process.age, 1),
    }


def instance_document(instance: Instance) -> Mapping[str, Any]:
    """Return an instance for `--json`."""
    return {**process_document(instance.process), "port": instance.port}
