"""The running instance: found once, then told of, waited for or stopped.

The finding is shared by every command, so that `status` cannot see another instance than the launch would stop.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import redact, text
from .errors import ExitStatus, LauncherError
from .handoff import lock as locks
from .instances import discovery, port, processes, refusal
from .instances.discovery import App, Claim, Instance, Survey
from .instances.family import Family, lineage
from .settings import Settings

if TYPE_CHECKING:
    from .instances.stop import Stopped

LAUNCH_LOCK_SECONDS = 20.0
PORT_SECONDS = 2.0
_POLL_SECONDS = 0.1
_ROUNDS = 5

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Observed:
    """Hold a survey together with what the locks say.

    `lock` is the instance lock somebody holds, `launcher` the launch lock of a launcher at work; `unseen` means that
    the instance lock is held by a process that cannot be seen.
    """

    survey: Survey
    lock: Path | None
    record: locks.Record | None
    launcher: Path | None
    unseen: bool

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
        return self.instance_refusal() or refusal.of_holders(self.survey, take_port=take_port)


def observe(settings: Settings) -> Observed:
    """Look for this app's instances once, and at the port and its locks.

    Raises LauncherError when the address cannot be bound, whoever runs.
    """
    lock = locks.find_held(settings.app_dir, locks.instance_name(settings.port))
    launcher = locks.find_held(settings.app_dir, locks.launch_name(settings.port))
    record = locks.read(lock) if lock else None
    holders: tuple[int, ...] = ()
    if lock:
        holders = (record.pid,) if record and locks.holds(record.pid, lock) else locks.holders(lock)
    identity = processes.own_file(str(settings.script))
    if identity is None:
        raise LauncherError(f"no {settings.script_argument} in {settings.app_dir}", "start_app.py --app-dir DIR")
    flags = dict.fromkeys((*((settings.port_flag,) if settings.port_flag else ()), "--port"))
    app = App(os.path.realpath(settings.script), identity, tuple(flags))
    claims = tuple(Claim(pid, settings.port) for pid in holders if pid != os.getpid())
    host = settings.origins.get("GRADIO_SERVER_NAME")
    taken = port.probe(settings.host, settings.port, host.bad if host else ExitStatus.CONFIG) == "taken"
    survey = discovery.survey(app, settings.host, settings.port, taken, claims)
    seen = bool(claims or survey.stale or survey.inside)
    return Observed(survey, lock, record, launcher, unseen=lock is not None and not seen)


def take_launch_lock(settings: Settings, stop_timeout: float, say: Say) -> locks.Lock:
    """Wait until no other launcher works on this port, and keep others out until exec or exit.

    Raises LauncherError (75) when another one is still at it after its own time-out's worth of seconds.
    """
    lock = locks.open_lock(settings.app_dir, locks.launch_name(settings.port))
    if lock.try_acquire():
        return lock
    bound = stop_timeout + LAUNCH_LOCK_SECONDS
    record = locks.read(lock.path)
    who = f", pid {record.pid} of user {record.user}" if record else ""
    say(f"waiting: another launcher is at work on port {settings.port}{who}; giving up after {bound:.0f} s")
    if not lock.acquire(bound):
        raise LauncherError(
            f"another launcher{who} has been at work on port {settings.port} for over {bound:.0f} s",
            f"try again, or see what it does: start_app.py status --port {settings.port}",
            ExitStatus.RETRY,
        )
    return lock


def write_record(lock: locks.Lock, settings: Settings, argv: tuple[str, ...], version: str, say: Say) -> None:
    """Write who holds the lock into it; a disk too full for that is told and does not stop a launch."""
    boot_id, namespace = locks.own_namespace()
    record = locks.Record(
        pid=os.getpid(),
        start=processes.start_of(os.getpid()) or 0.0,
        boot_id=boot_id,
        pid_namespace=namespace,
        user=text.user(os.geteuid()),
        port=settings.port,
        argv=redact.arguments(argv),
        app_dir=str(settings.app_dir),
        started_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        machine=os.uname().nodename,
        launcher_version=version,
    )
    try:
        lock.write(record)
    except OSError as error:
        say(f"lock: cannot write the record in {lock.path}: {error.strerror}; the lock itself holds")


def clear_port(
    settings: Settings,
    *,
    take_port: bool,
    timeout: float,
    say: Say,
    tell: Callable[[Observed], None],
    lock: locks.Lock | None = None,
) -> tuple[Stopped, ...]:
    """Stop what is stale until a fresh look finds nothing more, and take `lock` while the port is proved free.

    To be called under the launch lock; `tell` is given the first look. Raises LauncherError: a refusal before anything
    was stopped, 75 after.
    """
    stopped: list[Stopped] = []
    for attempt in range(_ROUNDS):
        seen = observe(settings)
        if attempt == 0:
            tell(seen)
        refused = seen.launch_refusal(take_port)
        if refused and stopped:
            raise LauncherError(refused.message, refused.hint, ExitStatus.RETRY)
        if refused:
            raise refused
        victims = refusal.targets(seen.survey, take_port=take_port)
        if victims:
            stopped += _stop(seen, victims, timeout, say)
            _await_free_port(settings)
        elif lock is None or lock.acquire(_POLL_SECONDS):
            return tuple(stopped)
    raise LauncherError(
        f"port {settings.port} is taken again and again: something starts new instances as fast as they are stopped",
        f"start_app.py status --port {settings.port}; stop what restarts them",
        ExitStatus.RETRY,
    )


def stop_instance(settings: Settings, timeout: float, say: Say) -> tuple[Stopped, ...]:
    """Stop this app's instance on the port; nothing to stop is no error, nor is a stranger on the port."""
    launch_lock = take_launch_lock(settings, timeout, say)
    try:
        stopped: list[Stopped] = []
        for _ in range(_ROUNDS):
            seen = observe(settings)
            if not (seen.survey.stale or seen.survey.inside or seen.unseen):
                return tuple(stopped)
            refused = seen.instance_refusal()
            if refused:
                raise refused
            stopped += _stop(seen, refusal.targets(seen.survey), timeout, say)
        raise LauncherError(
            f"new instances come up on port {settings.port} as fast as they are stopped",
            f"start_app.py status --port {settings.port}; stop what restarts them",
            ExitStatus.RETRY,
        )
    finally:
        launch_lock.close()


def tree(instance: Instance) -> tuple[int, ...]:
    """Return every pid of an instance, its own first."""
    return tuple(dict.fromkeys((instance.pid, *instance.members, *Family().below(frozenset((instance.pid,))))))


def _stop(seen: Observed, victims: tuple[processes.Process, ...], timeout: float, say: Say) -> tuple[Stopped, ...]:
    from .instances.stop import stop  # most launches have nothing to stop

    spare = frozenset((*lineage(os.getpid()), 1))
    strangers = {holder.process.pid for holder in seen.survey.holders if holder.process}
    for process in victims:
        what = "taking the port from" if process.pid in strangers else "stale"
        say(f"{what}: {discovery.describe(process)}")
    done = stop(victims, timeout, spare, say)
    for one in done:
        below = f" and {one.others} below it" if one.others else ""
        how = f"killed pid {one.process.pid}{below} (still there after {timeout:g} s)"
        say(how if one.killed else f"terminated pid {one.process.pid}{below} ({one.seconds:.1f} s)")
    return done


def _await_free_port(settings: Settings) -> None:
    # The kernel closes a dead process's sockets before its parent hears of it; a short grace is for what it forked.
    deadline = time.monotonic() + PORT_SECONDS
    while port.probe(settings.host, settings.port) == "taken" and time.monotonic() < deadline:
        if port.listeners(settings.host, settings.port):
            return
        time.sleep(locks.POLL_SECONDS)
