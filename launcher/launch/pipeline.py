"""The order of a launch: every refusal comes before anything is stopped.

settings → checks → launch lock → models → rehearsal → stop → models switch → cache → port free → record → exec. A
launch is a list of steps; a dry run checks them and shows the plan, `--no-launch` ends before the exec. From the stop
on, a signal that would end the launcher waits until the current step is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol

from ..app.command import Command, activated, build
from ..app.environment import app_environment_of
from ..arguments import LAUNCH
from ..cache.entries import trashed
from ..cache.roots import folders
from ..context import Context
from ..errors import ExitStatus, LauncherError
from ..instances import refusal
from ..instances.proof import own_namespace
from ..operations import outcome
from ..operations.closed_connections import wait_out
from ..operations.held import open_instance_lock, refuse_edited, take_launch_lock
from ..operations.identity import command_of
from ..operations.instance import Observed, observe
from ..operations.replace import clear_port, ended, refuse_taken_port
from ..service.outcomes import Attempt, By, LaunchSet, now
from ..system import lock as locks
from ..system import marker
from ..system.signals import Guard
from .launch_set import digest, launch_set, restored, with_variables
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
        """Do slow work while the old instance still serves. Raises LauncherError."""

    def rehearse(self) -> None:
        """Try and acquire what `apply` and the start will need, right before the stop; nothing has changed yet.

        It is not called if there is nothing to stop. Raises LauncherError.
        """

    def apply(self, changed: bool) -> bool:
        """Act after the stop; return whether the disk changed. `changed`: something was stopped or changed before."""

    def close(self) -> None:
        """Release unused resources: the launch has ended early."""

    def lines(self) -> Iterable[str]:
        """Return the lines of a dry run."""

    def document(self) -> Sequence[Mapping[str, Any]]:
        """Return the dry run's part of `--json`."""


class RunningError(LauncherError):
    """Signal that an instance runs although only a missing one is to be started."""

    def __init__(self, process: Process) -> None:
        super().__init__(
            f"pid {process.pid} runs already: nothing was started", "start_app.py status", ExitStatus.RETRY
        )
        self.process = process


class Launch:
    """Hold the steps of a launch, and run them.

    With `good`, start that set in place of the set of the settings, whose hash is `wish`.
    """

    def __init__(self, context: Context, good: LaunchSet | None = None, wish: str = "") -> None:
        self.context = context
        self.good = good
        self._wish = wish
        self.models = _model_step(context, good)
        self.start = StartStep(context, lambda: self.models.expected(self.command), self.wish)
        self.cache = None if good else _cache_step(context)
        # The prestart command is a part of the failure, or has already run.
        prestart = () if good else (PrestartStep(context, lambda: self.command),)
        self.steps: tuple[Step, ...] = (self.start, self.models, *((self.cache,) if self.cache else ()), *prestart)
        self.guard = Guard(context.console.warn)
        self._victims: tuple[Process, ...] = ()

    @cached_property
    def by(self) -> By:
        """Return who has called the launcher."""
        return outcome.by(self.context)

    @property
    def stopped(self) -> tuple[Process, ...]:
        """Return the processes that this launch has stopped."""
        return ended(self._victims)

    def close(self) -> None:
        """Release the resources of every step."""
        for step in self.steps:
            step.close()

    @cached_property
    def command(self) -> Command:
        """Return the command that starts the app.

        A dry run does not run the scripts of its environment. Raises LauncherError: 78 if its interpreter cannot be
        one, 75 if those scripts fail.
        """
        settings = self.context.settings
        command = build(settings, self.context.environ, self.context.python)
        if self.good:
            command = self._restored(command, self.good)
        if not self.context.arguments.dry_run:
            command = activated(command, settings, self.context.environ)
        mark = marker.new(settings.port, str(settings.script), command_of(settings))
        return command._replace(environment={**command.environment, marker.NAME: mark.text()})

    def wish(self) -> str:
        """Return a hash of everything that the settings ask for, with the models as they are now.

        Raises LauncherError (78) if the app's interpreter cannot be one.
        """
        if self.good:
            return self._wish
        command = self.models.expected(self.command)
        return digest(self.context, outcome.known_of(self.context).key, command, self.models)

    def _restored(self, command: Command, good: LaunchSet) -> Command:
        """Return the command of a good set, with the current environment of its interpreter.

        Raises LauncherError (78) if a secret of its arguments is no longer in the settings.
        """
        argv = restored(good.argv, command.argv)
        if argv is None:
            raise LauncherError(
                "the arguments of the last good set contain a secret, which is not recorded",
                "APP_ARGS in .env has it, or start_app.py starts what the settings name",
            )
        settings = with_variables(self.context.settings, good)
        environment = app_environment_of(settings, self.context.environ, good.interpreter)
        origin = f"what ran well since {good.at}"
        return Command(good.interpreter, origin, argv, environment, command.folder, good.program, good.script)

    def plan(self) -> LaunchPlan:
        """Make every check that changes nothing, and return the plan of the launch."""
        command, observed = self.command, observe(self.context.settings)
        problem = observed.launch_refusal(self.context.arguments.take_port)
        if problem is None:
            try:
                for step in self.steps:
                    step.check(lambda: observed)
                victims = refusal.targets(observed.survey, take_port=self.context.arguments.take_port)
                self.models.foresee([process.pid for process in victims])
                command = command if self.models.asked else self.models.command(command)
            except LauncherError as error:
                problem = error
        return LaunchPlan(self.context, command, observed, problem, self.models, self.cache, self.start.log)

    def clear(self) -> tuple[Stopped, ...]:
        """Do everything before the exec, and leave the port free."""
        self._check()
        launch_lock = take_launch_lock(self.context)
        try:
            refuse_edited(self.context)
            return self._make_way(None)
        finally:
            launch_lock.close()

    def prepare(self) -> Prepared:
        """Do everything up to the record: then no instance of ours runs on the port, and the instance lock is ours.

        Both locks close by themselves at the exec or exit. Raises LauncherError; every refusal comes before anything
        was stopped.
        """
        settings, command = self.context.settings, self.command
        for line in facts(settings, command):
            self.context.console.say(line)
        self._check()
        launch_lock = take_launch_lock(self.context)
        if self.good is None:  # a good set does not depend on the settings
            refuse_edited(self.context)
        outcome.look_back(self.context)
        if self.context.arguments.if_down or self.unattended_rollback:
            self.refuse_running()
        lock = open_instance_lock(settings)
        stopped = self._make_way(lock)
        if self.cache:
            refuse_taken_port(settings)
        else:
            self._finish_trash()
        command = self.models.command(command)
        self.models.tell(command.environment)
        wait_out(self.context, command, self.guard.check)
        return Prepared(command, stopped, lock, launch_lock, self.models, self.cache, self._attempt(command))

    def _attempt(self, command: Command) -> Attempt:
        """Return the record of the next start; the starting process adds itself."""
        context = self.context
        # The settings, which a rollback does not follow, must not become a part of the good set.
        ran = self.good or launch_set(context, command, self.models)
        boot_id, namespace = own_namespace()
        unit = context.environ.get("INVOCATION_ID", "") if self.by == "unit" else ""
        return Attempt(
            0, 0.0, boot_id, namespace, now(), self.by, self.wish(), ran, rollback=self.good is not None, unit=unit
        )

    def refuse_running(self) -> None:
        """Refuse to replace an instance; only under the launch lock, no other launch can start one afterwards.

        Raises RunningError (75).
        """
        instance = observe(self.context.settings).instance
        if instance:
            raise RunningError(instance.process)

    @property
    def unattended_rollback(self) -> bool:
        """Return whether to launch the good set after a failure: an instance that was started meanwhile stays."""
        return self.good is not None and self.context.arguments.command == LAUNCH

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
        """Make every step try what it will need before the first stop; signals wait until all have done so."""
        if not self._victims:
            pids = [process.pid for process in victims]
            self.models.refuse_hidden(pids)
            self._tell_changes(victims)
            self.models.warm(pids)
            self.guard.begin()
            for step in self.steps:
                step.rehearse()
        self.guard.check()
        self._victims += victims

    def _tell_changes(self, victims: tuple[Process, ...]) -> None:
        """Report what the new instance will lack of one that was started by hand."""
        if self.context.arguments.no_launch:
            return
        from ..operations.changes import changes

        told = [line for process in victims for line in changes(process, self.command, self.context.settings)]
        for line in told:
            self.context.console.say(f"note: {line}")
        if told:
            self.context.console.hint("start_app.py init, while it runs, writes what it has into .env")

    def _finish_trash(self) -> None:
        """Delete the trash of an interrupted removal in the background."""
        left = trashed(folders(self.command.environment, self.context.settings.app_dir))
        if not left:
            return
        from ..cache import trash

        try:
            trash.finish_later(left, quiet=True)
        except OSError as error:
            self.context.console.say(f"cache: trash of an interrupted removal is left: {error.strerror}")


def _model_step(context: Context, good: LaunchSet | None) -> ModelStep:
    if good is None:
        return ModelStep(context)
    from .good_models import GoodModels

    return GoodModels(context, good)


def _cache_step(context: Context) -> CacheStep | None:
    """Return the requests of the flags to the cache; most launches have none, and import nothing for it."""
    arguments = context.arguments
    if not (arguments.clear_cache or arguments.remove_model or arguments.prune_cache or arguments.verify):
        return None
    from .cache_step import CacheStep

    return CacheStep(context)
