"""A wait ends when our own instance's page answers repeatedly, or at once when the instance dies."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..app import page as pages
from ..app.page import Page
from ..config.settings import Settings
from ..context import Context
from ..errors import ExitStatus, LauncherError
from ..instances import port
from ..instances.app_arguments import Told
from ..instances.describe import describe
from ..instances.match import Verdict
from ..instances.pidfd import Handle, wait_for_any
from ..instances.process import Process, look
from ..instances.proof import start_of
from ..instances.survey import Instance
from ..ui.text import whole_number
from . import held
from . import instance as running
from .astray import Astray, other_port_hint

DEFAULT_SECONDS = 600.0
APPEAR_SECONDS = 5.0
# Behind a proxy that does not know localhost, Gradio answers for about 0.5 s before it exits (measured with 6.31).
SETTLE_SECONDS = 1.5
YOUNG_SECONDS = 10.0
# systemd reaps its main process at once; other parents get at most this long.
REAP_SECONDS = 10.0
_POLL_SECONDS = 0.1


class Ready(NamedTuple):
    """Hold the process whose page answers; `warning` is its address if that differs from the requested one."""

    process: Process
    page: Page
    seconds: float
    warning: str | None = None

    def line(self) -> str:
        """Return that it is ready, as one line."""
        return f"ready: pid {self.process.pid} answers at {self.page.url} ({self.seconds:.1f} s)"


class _Watched(NamedTuple):
    """Hold the process to wait for, a function for all pids that may serve its page, and the deadline."""

    process: Process
    tree: Callable[[], tuple[int, ...]]
    begun: float
    timeout: float
    tick: Callable[[], None]
    note: Callable[[str], None]

    @property
    def deadline(self) -> float:
        """Return the deadline."""
        return self.begun + self.timeout

    def left(self) -> float:
        """Return the seconds until the deadline."""
        return self.deadline - time.monotonic()


def main_pid(flag: int | None, environ: Mapping[str, str]) -> int | None:
    """Return the process to wait for: the named one, or else the main process of our unit.

    systemd sets MAINPID for the unit's other commands (systemd.exec(5)), and only for these.
    """
    return flag if flag is not None else whole_number(environ.get("MAINPID", "")) or None


def wait_for(pid: int, context: Context, timeout: float) -> Ready:
    """Wait until this process, or one below it, answers on the port repeatedly.

    Another process's page does not count, so an instance that is about to be replaced is not mistaken for it. Raises
    LauncherError: 75 if the process ends, or after `timeout` seconds; 69 if another process takes the port.
    """
    begun = time.monotonic()
    process = look(pid)
    if process is None and start_of(pid) is not None:
        raise _unseen(pid)
    if process is None or process.gone:
        _outlive(pid, process.start if process else None)
        raise _ended(f"pid {pid}")
    ready = _await_page(
        _Watched(process, lambda: running.below(pid), begun, timeout, _nothing, context.console.say), context.settings
    )
    if ready is None:
        _outlive(pid, process.start)
        raise _ended(describe(process))
    return ready


def _outlive(pid: int, start: float | None) -> None:
    """Return when the parent of the process has reaped it.

    If an ExecStartPost= fails first, systemd takes that as the reason for the unit's failure, and restarts the unit
    although RestartPreventExitStatus= has the exit status, which systemd has not seen yet.
    """
    deadline = time.monotonic() + REAP_SECONDS
    while start is not None and start_of(pid) == start and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def wait(context: Context, timeout: float) -> Ready:
    """Wait until our instance's own page answers repeatedly.

    If a launcher is working, wait for it too; the page of an instance that it replaces does not count. Raises
    LauncherError: 75 at once if the instance dies, soon if there is none, else after `timeout` seconds; 69 if another
    process takes the port.
    """
    settings, begun = context.settings, time.monotonic()
    while True:
        instance = _await_instance(settings, begun, begun + timeout)
        ready = _await_page(_watched(instance, begun, timeout, _nothing, context.console.say), settings)
        if ready:
            return ready
        observed = running.observe(settings)
        if observed.launcher is None and (observed.instance is None or observed.instance.process == instance.process):
            raise _ended(describe(instance.process))


def wait_for_child(context: Context, pid: int, tick: Callable[[], None]) -> Ready | None:
    """Wait for the page of the process that was just started, or return None if it ends first.

    If it exits with 0 and leaves the app in the background, wait for that. `tick` is called regularly. Raises
    LauncherError: 75 after `--timeout` seconds or if processes cannot be read, 69 if another process takes the port.
    """
    begun, timeout = time.monotonic(), context.timeout(DEFAULT_SECONDS)
    process = look(pid)
    if process is None:
        if not _has_ended(pid):
            raise _unseen(pid)
        return None
    told = Told(context.settings.port, "by us")
    instance = Instance(process, (), (pid,), told, frozenset(), Verdict("loading", "it was started just now"))
    while True:
        ready = _await_page(_watched(instance, begun, timeout, tick, context.console.say), context.settings)
        if ready:
            if ready.process.pid != pid:
                held.adopt(context, ready.process)
            return ready
        successor = _successor(context.settings, pid, instance.process) if instance.pid == pid else None
        if successor is None:
            return None
        instance = successor


def _has_ended(pid: int) -> bool:
    """Return whether our child has ended; its status stays for the caller."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _unseen(pid: int) -> LauncherError:
    return LauncherError(
        f"pid {pid} runs, but processes cannot be read here: whether its page answers is not known",
        "start_app.py logs; start_app.py doctor",
        ExitStatus.RETRY,
    )


def _successor(settings: Settings, pid: int, process: Process) -> Instance | None:
    """Return the instance that our child left behind when it exited with 0, as a daemonizing app does."""
    try:
        end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # the caller needs its status
    except ChildProcessError:
        return None
    if end is None or (end.si_code, end.si_status) != (os.CLD_EXITED, 0):
        return None
    instance = running.observe(settings).instance
    return instance if instance and instance.process.start >= process.start and instance.pid != pid else None


def _watched(
    instance: Instance, begun: float, timeout: float, tick: Callable[[], None], note: Callable[[str], None]
) -> _Watched:
    return _Watched(instance.process, lambda: running.tree(instance), begun, timeout, tick, note)


def _nothing() -> None:
    return None


def _ended(reason: str) -> LauncherError:
    return LauncherError(
        f"the instance has ended before its page answered: {reason}",
        "start_app.py logs shows its last output; start_app.py starts it again",
        ExitStatus.RETRY,
    )


def _await_page(watched: _Watched, settings: Settings) -> Ready | None:
    """Return the page after it has answered repeatedly, or None if the instance ends first.

    At the deadline any answer counts, however young the instance is.
    """
    handle = Handle(watched.process)
    astray = Astray(settings, watched.process, watched.tree, watched.note)
    patience = pages.REQUEST_SECONDS
    answered: float | None = None
    young = watched.process.age < YOUNG_SECONDS
    try:
        while not handle.ended():
            watched.tick()
            addresses: tuple[str, ...] = ()
            page = None
            if port.is_listened_to(settings.port):
                addresses = port.addresses(watched.tree()).get(settings.port, ())
            if addresses:
                host = pages.host_to_ask(settings.host, addresses)
                page = pages.page(host, settings.port, max(0.1, min(patience, watched.left())), watched.tick)
                patience *= 2  # a slower page may still come
            if page and page.ready:
                now = time.monotonic()
                answered = now if answered is None else answered
                if not young or now - answered >= SETTLE_SECONDS or watched.left() <= 0:
                    seconds = now - watched.begun
                    return Ready(watched.process, page, seconds, port.mismatch(settings.host, addresses))
            else:
                answered, young = None, True
                if watched.left() <= 0:
                    raise _not_ready(watched, settings)
                if not addresses:
                    astray.look()
            # Each request for the page is a line in the app's log.
            pause = _POLL_SECONDS if answered is None else SETTLE_SECONDS / 3
            wait_for_any([handle], min(pause, max(0.0, watched.left())))
        return None
    finally:
        handle.close()


def _await_instance(settings: Settings, begun: float, deadline: float) -> Instance:
    while True:
        observed = running.observe(settings)
        instance = observed.instance
        if instance and observed.launcher is None:
            return instance
        now = time.monotonic()
        if observed.launcher is None and now >= min(deadline, begun + APPEAR_SECONDS):
            raise LauncherError(
                f"no instance of {settings.script} runs on port {settings.port}",
                "start it first: start_app.py",
                ExitStatus.RETRY,
            )
        if now >= deadline:
            raise LauncherError(
                f"a launcher is still at work on port {settings.port}",
                "start_app.py wait --timeout 600",
                ExitStatus.RETRY,
            )
        time.sleep(_POLL_SECONDS)


def _not_ready(watched: _Watched, settings: Settings) -> LauncherError:
    listening = port.addresses(watched.tree())
    hint = "it may still be loading its models: start_app.py wait --timeout 600"
    if settings.port in listening:
        where = port.mismatch(settings.host, listening[settings.port])
        state = f"its page does not answer{f', and {where}' if where else ''}"
    elif listening:
        ports = ", ".join(str(other) for other in sorted(listening))
        state = f"it listens on {ports} instead"
        hint = other_port_hint(settings, min(listening))
    else:
        state = "it has not opened the port yet"
    message = f"not ready after {watched.timeout:g} s, {state}: {describe(watched.process)}"
    return LauncherError(message, hint, ExitStatus.RETRY)


def open_page(url: str, context: Context) -> None:
    """Open the page in a browser, and report a missing one."""
    from ..app import browser

    if not browser.open_page(url, context.python):
        context.console.warn(f"open: no browser found; the page is at {url}")
