"""Observe the running instance once, then describe it, wait for it or stop it (see `replace`).

Every command uses the same observation, so `status` and the launch see the same instance.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..config.settings import Settings
from ..errors import ExitStatus, LauncherError
from ..instances import port, refusal
from ..instances import survey as discovery
from ..instances.candidates import Claim
from ..instances.process import Process, environment, look
from ..instances.record import Record, instance_name, launch_name
from ..instances.survey import Address, Instance, Survey
from ..instances.table import ProcessTable
from ..system import lock as locks
from ..system import marker
from .held import held_lock, state_of
from .identity import app_of, is_of, wanted_port

_PAGE_SECONDS = 1.0

Say = Callable[[str], None]


class Keeper(NamedTuple):
    """Hold the holder of our port's instance lock that is not our instance there, and its description."""

    process: Process
    record: Record
    reason: str


class Observed(NamedTuple):
    """Hold a survey together with the facts from the locks.

    `lock` is the held instance lock, `launcher` the launch lock of a working launcher. `unseen` means that the instance
    that holds the lock is invisible, `orphaned` that it is dead, and a leftover of it still holds its lock.
    `unbindable` is why the address cannot be bound at all. `keeper` holds the lock of our port without being an
    instance of this app there.
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
        """Return the instance that counts as running: the one on the port, or else the youngest."""
        instances = [*self.survey.stale, *((self.survey.inside,) if self.survey.inside else ())]
        instances.sort(key=lambda instance: (self.survey.port in instance.listening, instance.process.start))
        return instances[-1] if instances else None

    def instance_refusal(self) -> LauncherError | None:
        """Return why the instance may not be stopped, or None."""
        refused = refusal.of_instances(self.survey)
        if refused is None and self.unseen and self.lock:
            process = look(self.record.pid) if self.record and state_of(self.record) == "alive" else None
            if process and locks.holds(process.pid, self.lock):
                return refusal.unproven_lock(str(self.lock), process)
            known = f" (pid {self.record.pid} of {self.record.machine}, user {self.record.user})" if self.record else ""
            return refusal.unseen_lock(str(self.lock), known)
        return refused

    def launch_refusal(self, take_port: bool) -> LauncherError | None:
        """Return why the port may not be cleared, or None."""
        refused = self.unbindable or self.instance_refusal() or refusal.of_holders(self.survey, take_port=take_port)
        targets = refusal.targets(self.survey, take_port=take_port)
        if refused is None and self.keeper and self.keeper.process not in targets:
            return refusal.of_keeper(self.survey, self.keeper.process, self.keeper.reason)
        return refused

    def to_stop(self, *, take_port: bool) -> frozenset[int]:
        """Return every pid that a launch stops first: files in use by these processes do not block it."""
        victims = {process.pid for process in refusal.targets(self.survey, take_port=take_port)}
        return frozenset(victims.union(*(instance.tree for instance in self.survey.stale)))


def observe(settings: Settings) -> Observed:
    """Find this app's instances, and check the port and its locks, once."""
    app = app_of(settings)
    lock, record = held_lock(settings, instance_name(settings.port))
    launcher, _ = held_lock(settings, launch_name(settings.port))
    holder = state_of(record) if record else "unknown"
    claim = None
    foreign = False
    if lock and record and holder == "alive" and locks.holds(record.pid, lock) and _is_believed(record, lock):
        claim = Claim(record.pid, record.start, settings.port)
        foreign = not is_of(record, app)
    taken, unbindable = probe_port(settings)
    address = Address(settings.host, wanted_port(settings), taken)
    survey = discovery.survey(app, address, None if foreign else claim)
    if any(holder.process is None for holder in survey.holders) and not probe_port(settings)[0]:
        survey = survey._replace(holders=())  # it has ended during the survey
    survey = survey._replace(siblings=tuple(_with_page(instance) for instance in survey.siblings))
    orphaned = lock is not None and holder == "dead"
    keeper = _keeper(survey, record) if claim else None
    refused = any(instance.verdict.blocks for instance in survey.others)
    unseen = lock is not None and not (orphaned or survey.stale or survey.inside or keeper or refused)
    return Observed(survey, lock, record, launcher, unseen, orphaned, unbindable, keeper)


def _is_believed(record: Record, lock: Path) -> bool:
    """Return whether no other user can have invented a record, or its process has the marker of its start.

    The owner of the app's folder can make any record, and give its file to any process that locks files of that user.
    """
    try:
        status = os.stat(lock, follow_symlinks=False)
    except OSError:
        return False
    if status.st_uid in (0, os.geteuid()) and status.st_nlink == 1 and not status.st_mode & 0o022:
        return True
    mark = marker.parse((environment(record.pid) or {}).get(marker.NAME))
    return mark is not None and mark.token == record.marker


def _keeper(survey: Survey, record: Record | None) -> Keeper | None:
    """Return the holder of our port's instance lock that is not an instance on the port, or None."""
    here = (*survey.stale, *((survey.inside,) if survey.inside else ()))
    process = look(record.pid) if record and all(record.pid not in (i.pid, *i.members) for i in here) else None
    if record is None or process is None:
        return None
    sibling = next((i for i in survey.siblings if process.pid in (i.pid, *i.members)), None)
    return Keeper(process, record, sibling.verdict.reason if sibling else "another app of this folder")


def _with_page(instance: Instance) -> Instance:
    """Return an instance with the port of its page, if its arguments name none and it listens on several."""
    if instance.told.port is not None or len(instance.listening) < 2:
        return instance
    from ..app import page as pages

    for number, addresses in sorted(port.addresses(instance.tree).items()):
        page = pages.page(pages.host_to_ask(None, addresses), number, _PAGE_SECONDS)
        if page and page.for_people:
            return instance._replace(page_port=number)
    return instance


def tree(instance: Instance) -> tuple[int, ...]:
    """Return every current pid of an instance, its own first."""
    return below(instance.pid, *instance.members)


def below(*pids: int) -> tuple[int, ...]:
    """Return these pids, all their current descendants, and all other processes from the same start of the app.

    The marker identifies a server that left the app's session.
    """
    table = ProcessTable()
    tokens = {table.marked[pid].token for pid in pids if pid in table.marked}
    begun = (pid for pid, mark in table.marked.items() if mark.token in tokens)
    return tuple(dict.fromkeys((*pids, *table.below(pids), *begun)))


def probe_port(settings: Settings) -> tuple[bool, LauncherError | None]:
    """Return whether the port is taken, and why the address cannot be bound at all."""
    host = settings.origins.get("GRADIO_SERVER_NAME")
    try:
        return port.probe(settings.host, settings.port, host.bad if host else ExitStatus.CONFIG) == "taken", None
    except LauncherError as error:
        return True, error  # a running instance can still be shown and stopped
