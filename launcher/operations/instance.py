"""The running instance: found once, then told of, waited for or stopped (see `replace`).

The finding is shared by every command, so that `status` cannot see another instance than the launch would stop.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..config.settings import Settings
from ..errors import ExitStatus, LauncherError
from ..instances import port, refusal
from ..instances import survey as discovery
from ..instances.candidates import Claim
from ..instances.process import Process, look
from ..instances.record import Record, instance_name, launch_name
from ..instances.survey import Address, Instance, Survey
from ..instances.table import ProcessTable
from ..system import lock as locks
from .held import held_lock, state_of
from .identity import app_of, is_of, wanted_port

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


def probe_port(settings: Settings) -> tuple[bool, LauncherError | None]:
    """Return whether the port is taken, and why nothing could listen on the address at all."""
    host = settings.origins.get("GRADIO_SERVER_NAME")
    try:
        return port.probe(settings.host, settings.port, host.bad if host else ExitStatus.CONFIG) == "taken", None
    except LauncherError as error:
        return True, error  # a running instance can be told of and stopped even so
