"""Read the locks of the app's port and their records: the living instance, a working launcher, the last instance.

Locks of another network do not block: a container or a machine that shares the app's folder has its own ports.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from .. import __version__
from ..config import env_file
from ..config.settings import Settings
from ..context import Context
from ..errors import ExitStatus, LauncherError
from ..instances.process import Process, look
from ..instances.proof import network, own_namespace, start_of
from ..instances.record import Record, instance_name, is_elsewhere, launch_name, read
from ..system import lock as locks
from ..system import state
from ..system.files import open_regular
from ..ui import redact, text

LAUNCH_LOCK_SECONDS = 20.0
# Another command's probe holds the lock for microseconds; only a longer hold is reported.
PROBE_SECONDS = 0.1


def take_launch_lock(context: Context) -> locks.Lock:
    """Wait until no other launcher works on this port, and keep others out until exec or exit.

    Two launchers may have their locks in different folders, because one of them cannot write to the app's. They also
    meet here: the one in the less preferred folder waits for the other. Raises LauncherError (75) if another one still
    works after the seconds of its own time-out.
    """
    settings, say = context.settings, context.console.say
    name = launch_name(settings.port)
    lock = _open_lock(settings, name)
    bound = context.arguments.stop_timeout + LAUNCH_LOCK_SECONDS
    deadline = time.monotonic() + bound
    waiting = False
    while True:
        waited_for = lock.path
        if lock.acquire(PROBE_SECONDS):
            other, _ = held_lock(settings, name, besides=lock.path)
            if other is None:
                write_record(lock, context)
                return lock
            if locks.preferred(settings.app_dir, other, lock.path):
                lock.release()
            waited_for = other
        record = read(waited_for)
        if waited_for == lock.path and ((record and is_elsewhere(record)) or locks.held_by_reader(waited_for)):
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


def refuse_edited(context: Context) -> None:
    """Refuse to act, under a lock, on settings that were changed since they were read: `cache move` changes `.env`.

    Raises LauncherError (75).
    """
    settings = context.settings
    path = settings.env_file or settings.app_dir / ".env"
    if env_file.stamp(path) != settings.env_stamp:
        raise LauncherError(
            f"{path} has changed since this command read it; nothing was stopped or changed",
            "start_app.py -n -v shows the settings as they are now; then try again",
            ExitStatus.RETRY,
        )


def open_instance_lock(settings: Settings) -> locks.Lock:
    """Open the lock that the new instance will hold.

    Raises LauncherError (74) if no place for it is writable.
    """
    return _open_lock(settings, instance_name(settings.port))


def _open_lock(settings: Settings, name: str) -> locks.Lock:
    """Open a lock in the first place where no instance or launcher of another network holds it."""
    passed = [path for path in locks.held(settings.app_dir, name) if (record := read(path)) and is_elsewhere(record)]
    return locks.open_lock(settings.app_dir, name, passed)


def held_lock(settings: Settings, name: str, besides: Path | None = None) -> tuple[Path | None, Record | None]:
    """Return the held lock of this name in our network, and its record."""
    for path in locks.held(settings.app_dir, name):
        record = read(path)
        if path != besides and not (record and is_elsewhere(record)):
            return path, record
    return None, None


class Started(NamedTuple):
    """Hold the facts of a start for its record: `models` are commits by repo, `weights` returns fingerprints."""

    argv: tuple[str, ...] = ()
    models: Mapping[str, str] = MappingProxyType({})
    locked: bool = False
    log: Path | None = None
    marker: str | None = None
    weights: Mapping[str, str] = MappingProxyType({})


def write_record(lock: locks.Lock, context: Context, started: Started | None = None) -> None:
    """Write the holder of the lock into it; report a full disk, but do not stop the launch for it."""
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
        weights=started.weights,
    )
    try:
        lock.write(record.line())
    except OSError as error:
        context.console.say(f"lock: cannot write the record in {lock.path}: {error.strerror}; the lock itself works")


def adopt(context: Context, process: Process) -> None:
    """Write a process into the record of the instance lock that it inherited from a parent that has ended."""
    settings = context.settings
    path, record = held_lock(settings, instance_name(settings.port))
    if not (path and record and state_of(record) == "dead" and locks.holds(process.pid, path)):
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


def inherited_lock(settings: Settings, pid: int) -> bool:
    """Return whether a process has inherited the instance lock."""
    path, _ = held_lock(settings, instance_name(settings.port))
    return path is not None and locks.holds(pid, path)


def has_let_go(settings: Settings, process: tuple[int, float, str, str]) -> bool:
    """Return whether the instance lock that a process took is free, so that it has ended, in whatever container.

    `process` is its pid, start, boot and pid namespace. Without a record that names it, nothing is known.
    """
    for folder in state.folders(settings.app_dir):
        path = folder / instance_name(settings.port)
        record = read(path) if state.is_trusted(folder, settings.app_dir) else None
        if record and (record.pid, record.start, record.boot_id, record.pid_namespace) == process:
            return not locks.is_held(path)
    return False


def is_launching(settings: Settings) -> bool:
    """Return whether a launcher is working on the port."""
    return held_lock(settings, launch_name(settings.port))[0] is not None


def is_up(settings: Settings) -> bool:
    """Return by the locks whether an instance lives, or a launcher is about to start one; orphans do not count."""
    if is_launching(settings):
        return True
    lock, record = held_lock(settings, instance_name(settings.port))
    return lock is not None and (record is None or state_of(record) != "dead")


def last_record(settings: Settings) -> Record | None:
    """Return the record of the instance on the port, or of the last one."""
    name = instance_name(settings.port)
    path, record = held_lock(settings, name)
    if path:
        return record
    trusted = [folder for folder in state.folders(settings.app_dir) if state.is_trusted(folder, settings.app_dir)]
    records = [record for folder in trusted if (record := read(folder / name))]
    return max(records, key=lambda record: record.started_at, default=None)


def state_of(record: Record) -> str:
    """Return whether the process of a record is "alive", "dead", or of another boot or namespace and so "unknown"."""
    boot_id, namespace = own_namespace()
    if not namespace or (record.boot_id, record.pid_namespace) != (boot_id, namespace):
        return "unknown"
    process = look(record.pid)
    if process is not None:
        return "alive" if process.start == record.start and not process.gone else "dead"
    from ..instances.pidfd import exists

    return "unknown" if exists(record.pid) else "dead"
