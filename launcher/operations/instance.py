"""The running instance: found once, then told of, waited for or stopped.

The finding is shared by every command, so that `status` cannot see another instance than the launch would stop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..config.settings import Settings
from ..context import Context
from ..errors import ExitStatus, LauncherError
from ..instances import port, refusal
from ..instances import survey as discovery
from ..instances.candidates import Claim
from ..instances.describe import describe, left_alone, verdicts
from ..instances.process import Process, look
from ..instances.record import Record, instance_name, launch_name
from ..instances.survey import Address, Instance, Survey
from ..instances.table import ProcessTable
from ..service import history
from ..system import lock as locks
from .held import PROBE_SECONDS, held_lock, state_of, take_launch_lock
from .identity import app_of, is_of, wanted_port

if TYPE_CHECKING:
    from ..instances.stop import Stopped

PORT_SECONDS = 2.0
_ROUNDS = 5
_PAGE_SECONDS = 1.0

Say = Callable[[str], None]


class Keeper(NamedTuple):
    """Hold who holds the instance lock of our port without being our instance there, and what it is instead."""

    process: Process
    record: Record
    reason: str


class Observed(NamedTuple):
    """Hold a survey together with what the locks say.

    `lock` is the instance lock that somebody holds, `launcher` the launch lock of a launcher at work. `unseen` means
    that the instance that holds the lock cannot be seen, `orphaned` that it is dead, and something it started still
    holds its lock. `unbindable` is why nothing could listen on the address at all. `keeper` holds the lock of our port
    without being an instance of this app there.
    """

    survey: Survey
    lock: Path | None
    record: Record | None
    launcher: Path | None
    unseen: bool
    orphaned: bool
    unbindable: LauncherError | None
    keeper: Keeper | None = None

    @property
    def instance(self) -> Instance | None:
        """Return the one instance that counts as running: the one on the port, else the youngest."""
        found = [*self.survey.stale, *((self.survey.inside,) if self.survey.inside else ())]
        found.sort(key=lambda instance: (self.survey.port in instance.listening, instance.process.start))
        return found[-1] if found else None

    def instance_refusal(self) -> LauncherError | None:
        """Return why the instance may not be stopped, or None."""
        found = refusal.of_instances(self.survey)
        if found is None and self.unseen and self.lock:
            known = f" (pid {self.record.pid} of {self.record.machine}, user {self.record.user})" if self.record else ""
            return refusal.unseen_lock(str(self.lock), known)
        return found

    def launch_refusal(self, take_port: bool) -> LauncherError | None:
        """Return why the port may not be cleared, or None."""
        refused = self.unbindable or self.instance_refusal() or refusal.of_holders(self.survey, take_port=take_port)
        targets = refusal.targets(self.survey, take_port=take_port)
        if refused is None and self.keeper and self.keeper.process not in targets:
            return refusal.of_keeper(self.survey, self.keeper.process, self.keeper.reason)
        return refused

    def to_stop(self, *, take_port: bool) -> frozenset[int]:
        """Return every pid that a launch stops first: what these processes use is in nobody's way."""
        victims = {process.pid for process in refusal.targets(self.survey, take_port=take_port)}
        return frozenset(victims.union(*(instance.tree for instance in self.survey.stale)))


def observe(settings: Settings) -> Observed:
    """Look once for this app's instances, at the port and at its locks."""
    app = app_of(settings)
    lock, record = held_lock(settings, instance_name(settings.port))
    launcher, _ = held_lock(settings, launch_name(settings.port))
    holder = state_of(record) if record else "unknown"
    claim = None
    foreign = False
    if lock and record and holder == "alive" and locks.holds(record.pid, lock):
        claim = Claim(record.pid, record.start, settings.port)
        foreign = not is_of(record, app, settings)
    taken, unbindable = _probe(settings)
    address = Address(settings.host, wanted_port(settings), taken)
    survey = discovery.survey(app, address, None if foreign else claim)
    if any(holder.process is None for holder in survey.holders) and not _probe(settings)[0]:
        survey = survey._replace(holders=())  # it has ended while the processes were looked at
    survey = survey._replace(siblings=tuple(_with_page(instance) for instance in survey.siblings))
    orphaned = lock is not None and holder == "dead"
    keeper = _keeper(survey, record) if claim else None
    refused = any(instance.verdict.blocks for instance in survey.others)
    unseen = lock is not None and not (orphaned or survey.stale or survey.inside or keeper or refused)
    return Observed(survey, lock, record, launcher, unseen, orphaned, unbindable, keeper)


def _keeper(survey: Survey, record: Record | None) -> Keeper | None:
    """Return who holds the instance lock of our port without being an instance on it, or None."""
    here = (*survey.stale, *((survey.inside,) if survey.inside else ()))
    process = look(record.pid) if record and all(record.pid not in (i.pid, *i.members) for i in here) else None
    if record is None or process is None:
        return None
    sibling = next((i for i in survey.siblings if process.pid in (i.pid, *i.members)), None)
    return Keeper(process, record, sibling.verdict.reason if sibling else "another app of this folder")


def _with_page(instance: Instance) -> Instance:
    """Return an instance with the port of its page, where it was told none and listens on several."""
    if instance.told.port is not None or len(instance.listening) < 2:
        return instance
    from ..app import page as pages

    for number, addresses in sorted(port.addresses(instance.tree).items()):
        page = pages.page(pages.host_to_ask(None, addresses), number, _PAGE_SECONDS)
        if page and page.for_people:
            return instance._replace(page_port=number)
    return instance


def clear_port(
    context: Context, lock: locks.Lock | None, about_to_stop: Callable[[tuple[Process, ...]], None]
) -> tuple[Stopped, ...]:
    """Stop what is stale until a fresh look finds nothing more, and take `lock` while the port is proved free.

    To be called under the launch lock. `about_to_stop` is called with what will be stopped, right before each stop.
    Raises LauncherError: a refusal before anything was stopped, 75 after.
    """
    settings, console, take_port = context.settings, context.console, context.arguments.take_port
    stopped: list[Stopped] = []
    for attempt in range(_ROUNDS):
        seen = observe(settings)
        if attempt == 0:
            for line in left_alone(seen.survey):
                console.say(line)
            for line in verdicts(seen.survey):
                console.detail(line)
        refused = seen.launch_refusal(take_port)
        if refused and stopped:
            raise LauncherError(refused.message, refused.hint, ExitStatus.RETRY)
        if refused:
            raise refused
        victims = refusal.targets(seen.survey, take_port=take_port)
        if victims:
            about_to_stop(victims)
            stopped += _stop(context, seen, victims)
            _await_free_port(settings)
        elif lock is None or lock.acquire(PROBE_SECONDS):
            return tuple(stopped)
        elif seen.orphaned:
            _leave_orphans(lock, console.say)
            return tuple(stopped)
    raise _reborn(settings)


def ended(processes: Iterable[Process]) -> tuple[Process, ...]:
    """Return which of these processes have ended."""
    now = ((process, look(process.pid)) for process in processes)
    return tuple(process for process, seen in now if seen is None or seen.start != process.start or seen.gone)


def refuse_taken_port(settings: Settings) -> None:
    """Refuse to go on when somebody has taken the port since it was cleared.

    Raises LauncherError with status RETRY.
    """
    if _probe(settings)[0]:
        raise LauncherError(
            f"port {settings.port} was taken while the cache was being cleared",
            f"start_app.py status --port {settings.port}, then try again",
            ExitStatus.RETRY,
        )


def stop_instance(context: Context) -> tuple[Stopped, ...]:
    """Stop this app's instance on the port; nothing to stop is no error, nor is a stranger on the port."""
    settings = context.settings
    launch_lock = take_launch_lock(context)
    try:
        stopped: list[Stopped] = []
        for _ in range(_ROUNDS):
            seen = observe(settings)
            refused = seen.instance_refusal()
            if refused:
                raise refused
            victims = refusal.targets(seen.survey)
            if not victims:
                return tuple(stopped)
            if not stopped:
                for line in left_alone(seen.survey):
                    context.console.say(line)
            stopped += _stop(context, seen, victims)
        raise _reborn(settings)
    finally:
        launch_lock.close()


def tree(instance: Instance) -> tuple[int, ...]:
    """Return every pid of an instance as it is now, its own first."""
    return below(instance.pid, *instance.members)


def below(*pids: int) -> tuple[int, ...]:
    """Return these pids, every one below them, and whatever else the same start of the app has begun, as they are now.

    A server that left the app's session is known by the marker.
    """
    table = ProcessTable()
    tokens = {table.marked[pid].token for pid in pids if pid in table.marked}
    begun = (pid for pid, mark in table.marked.items() if mark.token in tokens)
    return tuple(dict.fromkeys((*pids, *table.below(pids), *begun)))


def _probe(settings: Settings) -> tuple[bool, LauncherError | None]:
    host = settings.origins.get("GRADIO_SERVER_NAME")
    try:
        return port.probe(settings.host, settings.port, host.bad if host else ExitStatus.CONFIG) == "taken", None
    except LauncherError as error:
        return True, error  # a running instance can be told of and stopped even so


def _stop(context: Context, seen: Observed, victims: tuple[Process, ...]) -> tuple[Stopped, ...]:
    from ..instances.stop import relatives_of, stop  # most launches have nothing to stop

    timeout, say, survey = context.arguments.stop_timeout, context.console.say, seen.survey
    kinds = {instance.pid: "stale" for instance in survey.stale}
    kinds |= {member.process.pid: "left over" for member in survey.leftovers}
    for process in victims:
        say(f"{kinds.get(process.pid, 'taking the port from')}: {describe(process)}")
    unchanged = tuple(process for process in victims if not changed(process, seen.record))
    try:
        done = stop(unchanged, timeout, survey.bounds.spare | survey.bounds.apart, say, relatives_of(survey))
    except BaseException:
        for process in ended(victims):
            history.record(context.settings, "stop", describe(process), "ended before the stop of all was done")
        raise
    for one in done:
        end = f"killed after {timeout:g} s" if one.killed else f"terminated after {one.seconds:.1f} s"
        history.record(context.settings, "kill" if one.killed else "stop", describe(one.process), end)
        below = f" and {one.others} below it" if one.others else ""
        how = f"killed pid {one.process.pid}{below} (still there after {timeout:g} s)"
        say(how if one.killed else f"terminated pid {one.process.pid}{below} ({one.seconds:.1f} s)")
    return done


def changed(process: Process, record: Record | None) -> bool:
    """Return whether a process runs another command line than it did when it was looked at.

    The one that holds the instance lock may give itself a title.
    """
    now = look(process.pid)
    titled = record is not None and record.pid == process.pid
    return now is not None and now.start == process.start and now.argv != process.argv and not titled


def _leave_orphans(lock: locks.Lock, say: Say) -> None:
    # What the app started through a shell inherits its lock and may outlive it; that makes it no instance.
    for pid in locks.holders(lock.path):
        process = look(pid)
        if process:
            say(f"left: {describe(process)}: started by an instance that has ended, and still has its lock")
    lock.replace()


def _await_free_port(settings: Settings) -> None:
    # The kernel closes a dead process's sockets before its parent hears of it; a short grace is for what it forked.
    deadline = time.monotonic() + PORT_SECONDS
    while _probe(settings)[0] and time.monotonic() < deadline:
        if port.listeners(settings.host, settings.port):
            return
        time.sleep(locks.POLL_SECONDS)


def _reborn(settings: Settings) -> LauncherError:
    return LauncherError(
        f"new instances come up on port {settings.port} as fast as they are stopped",
        f"start_app.py status --port {settings.port}; stop what restarts them",
        ExitStatus.RETRY,
    )
