"""The running instance: found once, then told of, waited for or stopped (see `replace`).

The finding is shared by every command, so that `status` cannot see another instance than the launch would stop.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from .. import __version__
from ..config.settings import Settings
from ..context import Context
from ..errors import ExitStatus, LauncherError
from ..instances import port, refusal
from ..instances import survey as discovery
from ..instances.candidates import Claim
from ..instances.process import Process, look
from ..instances.proof import network, own_namespace, start_of
from ..instances.record import Record, instance_name, is_elsewhere, launch_name, read
from ..instances.survey import Address, Instance, Survey
from ..instances.table import ProcessTable
from ..system import lock as locks
from ..system import state
from ..system.files import open_regular
from ..ui import redact, text
from .identity import app_of, is_of, wanted_port

LAUNCH_LOCK_SECONDS = 20.0
# A probe of the lock by another command holds it for microseconds; only what holds it longer is worth a word.
PROBE_SECONDS = 0.1
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
    lock, record = _held(settings, instance_name(settings.port))
    launcher, _ = _held(settings, launch_name(settings.port))
    holder = _holder(record) if record else "unknown"
    claim = None
    foreign = False
    if lock and record and holder == "alive" and locks.holds(record.pid, lock):
        claim = Claim(record.pid, record.start, settings.port)
        foreign = not is_of(record, app)
    taken, unbindable = probe_port(settings)
    address = Address(settings.host, wanted_port(settings), taken)
    survey = discovery.survey(app, address, None if foreign else claim)
    if any(holder.process is None for holder in survey.holders) and not probe_port(settings)[0]:
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


def take_launch_lock(context: Context) -> locks.Lock:
    """Wait until no other launcher works on this port, and keep others out until exec or exit.

    Launchers that have their locks in different folders, because one of them may not write in the app's, meet here
    too: the one in the less preferred folder lets the other go first. Raises LauncherError (75) when another one is
    still at it after its own time-out's worth of seconds.
    """
    settings, say = context.settings, context.console.say
    name = launch_name(settings.port)
    lock = _open_lock(settings, name)
    bound = context.arguments.stop_timeout + LAUNCH_LOCK_SECONDS
    deadline = time.monotonic() + bound
    waiting = False
    while True:
        held = lock.path
        if lock.acquire(PROBE_SECONDS):
            other, _ = _held(settings, name, besides=lock.path)
            if other is None:
                write_record(lock, context)
                return lock
            if locks.preferred(settings.app_dir, other, lock.path):
                lock.release()
            held = other
        record = read(held)
        if held == lock.path and ((record and is_elsewhere(record)) or locks.held_by_reader(held)):
            lock.close()
            lock = _open_lock(settings, name)
            continue
        who = f", pid {record.pid} of user {record.user}," if record else ""
        if time.monotonic() >= deadline:
            raise LauncherError(
                f"another launcher{who} has been at work on port {settings.port} for over {bound:.0f} s",
                f"try again, or see what it does: start_app.py status --port {settings.port}",
                ExitStatus.RETRY,
            )
        if not waiting:
            say(f"waiting: another launcher{who} is at work on port {settings.port}; giving up after {bound:.0f} s")
            waiting = True
        time.sleep(locks.POLL_SECONDS)


def open_instance_lock(settings: Settings) -> locks.Lock:
    """Open the lock that the new instance is to hold.

    Raises LauncherError (74) where there is no place for one.
    """
    return _open_lock(settings, instance_name(settings.port))


def _open_lock(settings: Settings, name: str) -> locks.Lock:
    """Open a lock in the first place where no instance or launcher of another network holds it."""
    passed = [path for path in locks.held(settings.app_dir, name) if (record := read(path)) and is_elsewhere(record)]
    return locks.open_lock(settings.app_dir, name, passed)


def _held(settings: Settings, name: str, besides: Path | None = None) -> tuple[Path | None, Record | None]:
    """Return the lock of this name that somebody holds in our network, and its record."""
    for path in locks.held(settings.app_dir, name):
        record = read(path)
        if path != besides and not (record and is_elsewhere(record)):
            return path, record
    return None, None


class Started(NamedTuple):
    """Hold what an instance is started with, for its record: `models` are commits by repo."""

    argv: tuple[str, ...] = ()
    models: Mapping[str, str] = MappingProxyType({})
    locked: bool = False
    log: Path | None = None
    marker: str | None = None


def write_record(lock: locks.Lock, context: Context, started: Started | None = None) -> None:
    """Write who holds the lock into it; a disk too full for that is reported and does not stop a launch."""
    settings, started = context.settings, started or Started()
    boot_id, namespace = own_namespace()
    record = Record(
        pid=os.getpid(),
        start=start_of(os.getpid()) or 0.0,
        boot_id=boot_id,
        pid_namespace=namespace,
        user=text.user(os.geteuid()),
        port=settings.port,
        argv=redact.arguments(started.argv),
        app_dir=str(settings.app_dir),
        started_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        machine=os.uname().nodename,
        launcher_version=__version__,
        models=started.models,
        locked=started.locked,
        log=str(started.log) if started.log else None,
        network=network(),
        marker=started.marker,
    )
    try:
        lock.write(record.line())
    except OSError as error:
        context.console.say(f"lock: cannot write the record in {lock.path}: {error.strerror}; the lock itself works")


def tree(instance: Instance) -> tuple[int, ...]:
    """Return every pid of an instance as it is now, its own first."""
    return below(instance.pid, *instance.members)


def below(*pids: int) -> tuple[int, ...]:
    """Return these pids and every one below them as they are now."""
    return (*pids, *ProcessTable().below(pids))


def inherited_lock(settings: Settings, pid: int) -> bool:
    """Return whether a process has the instance lock from whoever started it."""
    path, _ = _held(settings, instance_name(settings.port))
    return path is not None and locks.holds(pid, path)


def is_launching(settings: Settings) -> bool:
    """Return whether a launcher is at work on the port."""
    return _held(settings, launch_name(settings.port))[0] is not None


def adopt(context: Context, process: Process) -> None:
    """Write a process into the record of the instance lock that it inherited from a parent that has ended."""
    settings = context.settings
    path, record = _held(settings, instance_name(settings.port))
    if not (path and record and _holder(record) == "dead" and locks.holds(process.pid, path)):
        return
    launch_lock = _open_lock(settings, launch_name(settings.port))
    try:
        if launch_lock.acquire(PROBE_SECONDS):
            lock = locks.Lock(path, open_regular(path, os.O_RDWR))
            try:
                lock.write(record._replace(pid=process.pid, start=process.start).line())
            finally:
                lock.close()
    except OSError as error:
        context.console.say(f"lock: cannot write the record in {path}: {error.strerror}; the lock itself holds")
    finally:
        launch_lock.close()


def is_up(settings: Settings) -> bool:
    """Tell by the locks whether an instance lives, or a launcher is about to start one; orphans of one do not count."""
    if is_launching(settings):
        return True
    lock, record = _held(settings, instance_name(settings.port))
    return lock is not None and (record is None or _holder(record) != "dead")


def last_record(settings: Settings) -> Record | None:
    """Return the record of the instance on the port, or of the last one that was."""
    name = instance_name(settings.port)
    held, record = _held(settings, name)
    if held:
        return record
    trusted = [folder for folder in state.folders(settings.app_dir) if state.is_trusted(folder, settings.app_dir)]
    records = [record for folder in trusted if (record := read(folder / name))]
    return max(records, key=lambda record: record.started_at, default=None)


def _holder(record: Record) -> str:
    """Return whether the process of a record is "alive", "dead", or of another boot or namespace and so "unknown"."""
    boot_id, namespace = own_namespace()
    if not namespace or (record.boot_id, record.pid_namespace) != (boot_id, namespace):
        return "unknown"
    process = look(record.pid)
    if process is not None:
        return "alive" if process.start == record.start and not process.gone else "dead"
    from ..instances.pidfd import exists

    return "unknown" if exists(record.pid) else "dead"


def probe_port(settings: Settings) -> tuple[bool, LauncherError | None]:
    """Return whether the port is taken, and why nothing could listen on the address at all."""
    host = settings.origins.get("GRADIO_SERVER_NAME")
    try:
        return port.probe(settings.host, settings.port, host.bad if host else ExitStatus.CONFIG) == "taken", None
    except LauncherError as error:
        return True, error  # a running instance can be told of and stopped even so
