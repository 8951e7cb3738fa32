"""The order of a launch: whatever can be refused is refused before anything is stopped.

settings → checks → launch lock → models → rehearsal → stop → models switch → cache → port free → record → exec. A
launch is a list of steps; a dry run checks them and shows the plan, `--no-launch` ends before the exec. From the stop
on, a signal that would end the launcher waits until the step at hand is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol

from ..app.command import Command, activated, build
from ..cache.entries import trashed
from ..cache.roots import folders
from ..context import Context
from ..errors import LauncherError
from ..operations.closed_connections import wait_out
from ..operations.held import open_instance_lock, take_launch_lock
from ..operations.identity import command_of
from ..operations.instance import Observed, observe
from ..operations.replace import clear_port, ended, refuse_taken_port
from ..system import lock as locks
from ..system import marker
from ..system.signals import Guard
from .model_step import ModelStep
from .plan import LaunchPlan, Prepared, facts
from .prestart import PrestartStep
from .start import StartStep

if TYPE_CHECKING:
    from ..instances.process import Process
    from ..instances.stop import Stopped
    from .cache_step import CacheStep


class Step(Protocol):
    """A part of a launch: it refuses, prepares and rehearses while the old instance serves, and acts after the stop."""

    def check(self, observe: Callable[[], Observed]) -> None:
        """Refuse what can be refused; nothing has changed yet. Raises LauncherError."""

    def prepare(self) -> None:
        """Do what is slow while the old instance still serves. Raises LauncherError."""

    def rehearse(self) -> None:
        """Try and acquire what `apply` and the start will need, right before the stop; nothing has changed yet.

        It is not called when there is nothing to stop. Raises LauncherError.
        """

    def apply(self, changed: bool) -> bool:
        """Act after the stop; return whether the disk changed. `changed`: something was stopped or changed before."""

    def close(self) -> None:
        """Give up what was acquired and not used: the launch has ended early."""

    def lines(self) -> Iterable[str]:
        """Return what a dry run shows."""

    def document(self) -> Sequence[Mapping[str, Any]]:
        """Return what a dry run shows with `--json`."""


class Launch:
    """Hold the steps of a launch, and go through them."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.models = ModelStep(context)
        self.start = StartStep(context, lambda: self.models.expected(self.command))
        self.cache = _cache_step(context)
        prestart = PrestartStep(context, lambda: self.command)
        self.steps: tuple[Step, ...] = (self.start, self.models, *((self.cache,) if self.cache else ()), prestart)
        self.guard = Guard(context.console.warn)
        self._victims: tuple[Process, ...] = ()

    @property
    def stopped(self) -> tuple[Process, ...]:
        """Return the processes that this launch has stopped."""
        return ended(self._victims)

    def close(self) -> None:
        """Give up what every step has acquired."""
        for step in self.steps:
            step.close()

    @cached_property
    def command(self) -> Command:
        """Return the command that starts the app.

        A dry run does not run the scripts of its environment. Raises LauncherError (78) where its interpreter cannot be
        one, 75 when those scripts fail.
        """
        settings = self.context.settings
        command = build(settings, self.context.environ, self.context.python)
        if not self.context.arguments.dry_run:
            command = activated(command, settings, self.context.environ)
        mark = marker.new(settings.port, str(settings.script), command_of(settings))
        return command._replace(environment={**command.environment, marker.NAME: mark.text()})

    def plan(self) -> LaunchPlan:
        """Check all that can be checked without a change, and return what the launch would do."""
        command, observed = self.command, observe(self.context.settings)
        problem = observed.launch_refusal(self.context.arguments.take_port)
        if problem is None:
            try:
                for step in self.steps:
                    step.check(lambda: observed)
                command = command if self.models.asked else self.models.command(command)
            except LauncherError as error:
                problem = error
        return LaunchPlan(self.context, command, observed, problem, self.models, self.cache, self.start.log)

    def clear(self) -> tuple[Stopped, ...]:
        """Do what a launch does before its exec, and leave the port free."""
        self._check()
        launch_lock = take_launch_lock(self.context)
        try:
            return self._make_way(None)
        finally:
            launch_lock.close()

    def prepare(self) -> Prepared:
        """Do everything up to the record: nothing of ours runs on the port any more, and the instance lock is ours.

        Both locks close by themselves at the exec or exit. Raises LauncherError; what it refuses, it refuses before
        anything was stopped.
        """
        settings, command = self.context.settings, self.command
        for line in facts(settings, command):
            self.context.console.say(line)
        self._check()
        launch_lock = take_launch_lock(self.context)
        lock = open_instance_lock(settings)
        stopped = self._make_way(lock)
        if self.cache:
            refuse_taken_port(settings)
        else:
            self._finish_trash()
        command = self.models.command(command)
        self.models.tell(command.environment)
        wait_out(self.context, command, self.guard.check)
        return Prepared(command, stopped, lock, launch_lock, self.models, self.cache)

    def _check(self) -> None:
        for step in self.steps:
            step.check(partial(observe, self.context.settings))

    def _make_way(self, lock: locks.Lock | None) -> tuple[Stopped, ...]:
        """Prepare every step, stop what runs, and apply every step."""
        for step in self.steps:
            step.prepare()
        stopped = clear_port(self.context, lock, self._about_to_stop)
        self.guard.begin()
        changed = bool(stopped)
        for step in self.steps:
            self.guard.check()
            changed = step.apply(changed) or changed
        self.guard.check()
        return stopped

    def _about_to_stop(self, victims: tuple[Process, ...]) -> None:
        """Have every step try what it will need before the first stop; signals wait, so that nothing of it is left."""
        if not self._victims:
            pids = [process.pid for process in victims]
            self.models.refuse_hidden(pids)
            self.models.warm(pids)
            self.guard.begin()
            for step in self.steps:
                step.rehearse()
        self.guard.check()
        self._victims += victims

    def _finish_trash(self) -> None:
        """Delete in the background what an interrupted removal has left."""
        left = trashed(folders(self.command.environment, self.context.settings.app_dir))
        if not left:
            return
        from ..cache import trash

        try:
            trash.finish_later(left, quiet=True)
        except OSError as error:
            self.context.console.say(f"cache: trash of an interrupted removal is left: {error.strerror}")


def _cache_step(context: Context) -> CacheStep | None:
    """Return what the flags ask of the cache; most launches ask nothing, and import nothing of it."""
    arguments = context.arguments
    if not (arguments.clear_cache or arguments.remove_model or arguments.prune_cache or arguments.verify):
        return None
    from .cache_step import CacheStep

    return CacheStep(context)
