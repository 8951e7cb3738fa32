"""Stop an instance so that another one can take its place, or so that none runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..config.settings import Settings
from ..context import Context
from ..errors import ExitStatus, LauncherError
from ..instances import port, refusal
from ..instances.describe import describe, left_alone, verdicts
from ..instances.process import Process, look
from ..instances.record import Record
from ..service import history
from ..system import lock as locks
from . import outcome
from .again import refuse_again, shells_of
from .held import PROBE_SECONDS, take_launch_lock
from .instance import Observed, Say, observe, probe_port

if TYPE_CHECKING:
    from ..instances.stop import Stopped

PORT_SECONDS = 2.0
_ROUNDS = 5


def clear_port(
    context: Context, lock: locks.Lock | None, about_to_stop: Callable[[tuple[Process, ...]], None]
) -> tuple[Stopped, ...]:
    """Stop stale instances until a new survey finds none, and take `lock` while the port is proved free.

    Call it under the launch lock. `about_to_stop` is called with the processes right before each stop. Raises
    LauncherError: a refusal before anything was stopped, 75 after; 69 if a shell loop restarts the app.
    """
    settings, console, take_port = context.settings, context.console, context.arguments.take_port
    stopped: list[Stopped] = []
    for attempt in range(_ROUNDS):
        observed = observe(settings)
        if attempt == 0:
            for line in left_alone(observed.survey):
                console.say(line)
            for line in verdicts(observed.survey):
                console.detail(line)
        refused = observed.launch_refusal(take_port)
        if refused and stopped:
            raise LauncherError(refused.message, refused.hint, ExitStatus.RETRY)
        if refused:
            raise refused
        victims = refusal.targets(observed.survey, take_port=take_port)
        if victims:
            about_to_stop(victims)
            shells = shells_of(observed.survey)
            stopped += _stop(context, observed, victims)
            _await_free_port(settings)
            refuse_again(context, shells)
        elif lock is None or lock.acquire(PROBE_SECONDS):
            return tuple(stopped)
        elif observed.orphaned:
            _leave_orphans(lock, console.say)
            return tuple(stopped)
    raise _reborn(settings)


def ended(processes: Iterable[Process]) -> tuple[Process, ...]:
    """Return which of these processes have ended."""
    pairs = ((process, look(process.pid)) for process in processes)
    return tuple(process for process, now in pairs if now is None or now.start != process.start or now.gone)


def refuse_taken_port(settings: Settings) -> None:
    """Refuse to continue if another process has taken the port since it was cleared.

    Raises LauncherError with status RETRY.
    """
    if probe_port(settings)[0]:
        raise LauncherError(
            f"port {settings.port} was taken while the cache was being cleared",
            f"start_app.py status --port {settings.port}, then try again",
            ExitStatus.RETRY,
        )


def stop_instance(context: Context) -> tuple[Stopped, ...]:
    """Stop this app's instance on the port; a free port or a foreign holder of the port is not an error."""
    settings = context.settings
    launch_lock = take_launch_lock(context)
    try:
        stopped: list[Stopped] = []
        for _ in range(_ROUNDS):
            observed = observe(settings)
            refused = observed.instance_refusal()
            if refused:
                raise refused
            victims = refusal.targets(observed.survey)
            if not victims:
                return tuple(stopped)
            if not stopped:
                for line in left_alone(observed.survey):
                    context.console.say(line)
            shells = shells_of(observed.survey)
            stopped += _stop(context, observed, victims)
            refuse_again(context, shells)
        raise _reborn(settings)
    finally:
        launch_lock.close()


def _stop(context: Context, observed: Observed, victims: tuple[Process, ...]) -> tuple[Stopped, ...]:
    from ..instances.stop import relatives_of, stop  # most launches have nothing to stop

    timeout, say, survey = context.arguments.stop_timeout, context.console.say, observed.survey
    # Without a new instance, the old one is as good as ever.
    kind = "stopping" if context.arguments.command == "stop" else "stale"
    kinds = {instance.pid: kind for instance in survey.stale}
    kinds |= {member.process.pid: "left over" for member in survey.leftovers}
    for process in victims:
        say(f"{kinds.get(process.pid, 'taking the port from')}: {describe(process)}")
    members = (pid for instance in survey.stale for pid in instance.tree)
    outcome.see_page(context, survey.stale)
    outcome.note_stopping(context, {*(process.pid for process in victims), *members})
    unchanged = tuple(process for process in victims if not changed(process, observed.record))
    try:
        done = stop(unchanged, timeout, survey.bounds.spare | survey.bounds.apart, say, relatives_of(survey))
    except BaseException:
        for process in ended(victims):
            history.record(context.settings, "stop", describe(process), "ended before the stop of all was done")
        raise
    for stopped in done:
        end = f"killed after {timeout:g} s" if stopped.killed else f"terminated after {stopped.seconds:.1f} s"
        history.record(context.settings, "kill" if stopped.killed else "stop", describe(stopped.process), end)
        below = f" and {stopped.others} below it" if stopped.others else ""
        how = f"killed pid {stopped.process.pid}{below} (still there after {timeout:g} s)"
        say(how if stopped.killed else f"terminated pid {stopped.process.pid}{below} ({stopped.seconds:.1f} s)")
    return done


def changed(process: Process, record: Record | None) -> bool:
    """Return whether a process has another command line than in the survey.

    The holder of the instance lock may set a title.
    """
    now = look(process.pid)
    titled = record is not None and record.pid == process.pid
    return now is not None and now.start == process.start and now.argv != process.argv and not titled


def _leave_orphans(lock: locks.Lock, say: Say) -> None:
    # A child that the app started through a shell inherits its lock and may outlive it, but is not an instance.
    for pid in locks.holders(lock.path):
        process = look(pid)
        if process:
            say(f"left: {describe(process)}: started by an instance that has ended, and still has its lock")
    lock.replace()


def _await_free_port(settings: Settings) -> None:
    # The kernel closes a dead process's sockets before its parent notices; the short grace is for its forks.
    deadline = time.monotonic() + PORT_SECONDS
    while probe_port(settings)[0] and time.monotonic() < deadline:
        if port.listeners(settings.host, settings.port):
            return
        time.sleep(locks.POLL_SECONDS)


def _reborn(settings: Settings) -> LauncherError:
    return LauncherError(
        f"new instances appear on port {settings.port} as fast as they are stopped",
        f"start_app.py status --port {settings.port}; stop what restarts them",
        ExitStatus.RETRY,
    )
