"""Waiting ends when our own instance's page answers and goes on answering, or at once when the instance dies."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..app import page as readiness
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
from . import instance as running

DEFAULT_SECONDS = 600.0
APPEAR_SECONDS = 5.0
# Behind a proxy that does not know localhost, Gradio answers for about 0.5 s before it gives up (measured with 6.31).
SETTLE_SECONDS = 1.5
YOUNG_SECONDS = 10.0
# systemd reaps its main process at once; whoever does not is not waited for longer than this.
REAP_SECONDS = 10.0
_POLL_SECONDS = 0.1


class Ready(NamedTuple):
    """Hold the process whose page answers."""

    process: Process
    page: Page
    seconds: float

    def line(self) -> str:
        """Return that it is ready, as one line."""
        return f"ready: pid {self.process.pid} answers at {self.page.url} ({self.seconds:.1f} s)"


class _Watched(NamedTuple):
    """Hold the process that is waited for, and what tells every pid that may serve its page."""

    process: Process
    tree: Callable[[], tuple[int, ...]]


def main_pid(flag: int | None, environ: Mapping[str, str]) -> int | None:
    """Return which process is to be waited for: the one that was named, else the main one of our unit.

    systemd gives MAINPID to the commands that it runs beside the main process (systemd.exec(5)), and to no others.
    """
    told = environ.get("MAINPID", "")
    return flag if flag is not None else int(told) if told.isdecimal() and int(told) > 0 else None


def wait_for(pid: int, settings: Settings, timeout: float) -> Ready:
    """Wait until this process, or one below it, answers on the port and goes on answering.

    Nobody else's page counts, so an instance that it is still about to replace is not taken for it. Raises
    LauncherError (75): when the process ends, or after `timeout` seconds.
    """
    begun = time.monotonic()
    process = look(pid)
    if process is None or process.gone:
        _outlive(pid, process.start if process else None)
        raise _ended(f"pid {pid}")
    page = _await_page(_Watched(process, lambda: running.below(pid)), settings, begun + timeout, timeout)
    if page is None:
        _outlive(pid, process.start)
        raise _ended(describe(process))
    return Ready(process, page, time.monotonic() - begun)


def _outlive(pid: int, start: float | None) -> None:
    """Return when whoever started the process has taken note of its end.

    An ExecStartPost= that fails first is for systemd the reason why the unit has failed, and it would start it again
    whatever RestartPreventExitStatus= says of the exit status that it has not seen yet.
    """
    deadline = time.monotonic() + REAP_SECONDS
    while start is not None and start_of(pid) == start and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def wait(settings: Settings, timeout: float) -> Ready:
    """Wait until our instance's own page answers and goes on answering.

    A launcher at work is waited for, and an instance that it replaces is let go, so that the old page does not count.
    Raises LauncherError (75): at once when the instance dies, soon when there is none, else after `timeout` seconds.
    """
    begun = time.monotonic()
    deadline = begun + timeout
    while True:
        instance = _await_instance(settings, begun, deadline)
        page = _await_page(_watched(instance), settings, deadline, timeout)
        if page:
            return Ready(instance.process, page, time.monotonic() - begun)
        seen = running.observe(settings)
        if seen.launcher is None and (seen.instance is None or seen.instance.process == instance.process):
            raise _ended(describe(instance.process))


def wait_for_child(settings: Settings, pid: int, timeout: float, tick: Callable[[], None]) -> Ready | None:
    """Wait for the page of the very process that was just started, or return None when it ends first.

    `tick` is called every now and then. Raises LauncherError (75) after `timeout` seconds.
    """
    begun = time.monotonic()
    process = look(pid)
    if process is None:
        return None
    told = Told(settings.port, "by us")
    instance = Instance(process, (), (pid,), told, frozenset(), Verdict("loading", "it was started just now"))
    page = _await_page(_watched(instance), settings, begun + timeout, timeout, tick)
    return Ready(process, page, time.monotonic() - begun) if page else None


def _watched(instance: Instance) -> _Watched:
    return _Watched(instance.process, lambda: running.tree(instance))


def _ended(what: str) -> LauncherError:
    return LauncherError(
        f"the instance has ended before its page answered: {what}",
        "read what it printed last; start_app.py starts it again",
        ExitStatus.RETRY,
    )


def _await_page(
    watched: _Watched,
    settings: Settings,
    deadline: float,
    timeout: float,
    tick: Callable[[], None] = lambda: None,
) -> Page | None:
    """Return the page once it has kept answering, or None when the instance ends first."""
    handle = Handle(watched.process)
    try:
        answered: float | None = None
        young = watched.process.age < YOUNG_SECONDS
        while not handle.ended():
            tick()
            now = time.monotonic()
            patience = max(0.1, min(readiness.REQUEST_SECONDS, deadline - now))
            page = readiness.page(settings.host, settings.port, patience)
            if page and page.ready and settings.port in port.listening(watched.tree()):
                answered = now if answered is None else answered
                if not young or now - answered >= SETTLE_SECONDS:
                    return page
            else:
                answered, young = None, True
            if time.monotonic() >= deadline:
                raise _not_ready(watched, settings, timeout)
            # Each look at a page that answers is a line in the app's log.
            pause = _POLL_SECONDS if answered is None else SETTLE_SECONDS / 3
            wait_for_any([handle], min(pause, max(0.0, deadline - time.monotonic())))
        return None
    finally:
        handle.close()


def _await_instance(settings: Settings, begun: float, deadline: float) -> Instance:
    while True:
        seen = running.observe(settings)
        instance = seen.instance
        if instance and seen.launcher is None:
            return instance
        now = time.monotonic()
        if seen.launcher is None and now >= min(deadline, begun + APPEAR_SECONDS):
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


def _not_ready(watched: _Watched, settings: Settings, timeout: float) -> LauncherError:
    listening = port.listening(watched.tree())
    hint = "it may still be loading its models: start_app.py wait --timeout 600"
    if settings.port in listening:
        state = "its page does not answer"
    elif listening:
        ports = ", ".join(str(other) for other in sorted(listening))
        state = f"it listens on {ports} instead"
        hint = f"where its code names that port: start_app.py --port {min(listening)}"
        if settings.port_flag:
            hint = f"where {settings.port_flag} is none of its options: APP_PORT_FLAG=none in .env; {hint}"
    else:
        state = "it has not opened the port yet"
    return LauncherError(f"not ready after {timeout:g} s, {state}: {describe(watched.process)}", hint, ExitStatus.RETRY)


def open_page(url: str, context: Context) -> None:
    """Open the page in a browser, and say so where there is none."""
    from ..app import browser

    if not browser.open_page(url, context.python):
        context.console.warn(f"open: there is no browser here; the page is at {url}")
