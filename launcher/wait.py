"""Waiting ends when our own instance's page answers and goes on answering, or at once when the instance dies."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from . import readiness, running
from .errors import ExitStatus, LauncherError
from .instances import port
from .instances.discovery import Instance, describe
from .instances.handle import Handle, wait_for_any
from .instances.processes import look
from .readiness import Page
from .settings import Settings

DEFAULT_SECONDS = 600.0
APPEAR_SECONDS = 5.0
# Behind a proxy that does not know localhost, Gradio answers for about 0.5 s before it gives up (measured with 6.31).
SETTLE_SECONDS = 1.5
YOUNG_SECONDS = 10.0
_POLL_SECONDS = 0.1


class Ready(NamedTuple):
    """Hold the instance whose page answers."""

    instance: Instance
    page: Page
    seconds: float


def wait(settings: Settings, timeout: float) -> Ready:
    """Wait until our instance's own page answers and goes on answering.

    A launcher at work is waited for, and an instance that it replaces is let go, so that the old page does not count.
    Raises LauncherError (75): at once when the instance dies, soon when there is none, else after `timeout` seconds.
    """
    begun = time.monotonic()
    deadline = begun + timeout
    while True:
        instance = _await_instance(settings, begun, deadline)
        page = _await_page(settings, instance, deadline, timeout)
        if page:
            return Ready(instance, page, time.monotonic() - begun)
        seen = running.observe(settings)
        if seen.launcher is None and (seen.instance is None or seen.instance.process == instance.process):
            raise LauncherError(
                f"the instance has ended before its page answered: {describe(instance.process)}",
                "read what it printed last; start_app.py starts it again",
                ExitStatus.RETRY,
            )


def wait_for(settings: Settings, pid: int, timeout: float, tick: Callable[[], None]) -> Ready | None:
    """Wait for the page of the very process that was just started, or return None when it ends first.

    `tick` is called every now and then. Raises LauncherError (75) after `timeout` seconds.
    """
    begun = time.monotonic()
    process = look(pid)
    if process is None:
        return None
    instance = Instance(process, (), (pid,), settings.port, frozenset(), None)
    page = _await_page(settings, instance, begun + timeout, timeout, tick)
    return Ready(instance, page, time.monotonic() - begun) if page else None


def _await_page(
    settings: Settings,
    instance: Instance,
    deadline: float,
    timeout: float,
    tick: Callable[[], None] = lambda: None,
) -> Page | None:
    """Return the page once it has kept answering, or None when the instance ends first."""
    handle = Handle(instance.process)
    try:
        answered: float | None = None
        young = instance.process.age < YOUNG_SECONDS
        while not handle.ended():
            tick()
            now = time.monotonic()
            patience = max(0.1, min(readiness.REQUEST_SECONDS, deadline - now))
            page = readiness.page(settings.host, settings.port, patience)
            if page and page.ready and _serves(instance, settings.port):
                answered = now if answered is None else answered
                if not young or now - answered >= SETTLE_SECONDS:
                    return page
            else:
                answered, young = None, True
            if time.monotonic() >= deadline:
                raise _not_ready(instance, settings.port, timeout)
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


def _serves(instance: Instance, number: int) -> bool:
    return number in port.listening(running.tree(instance))


def _not_ready(instance: Instance, number: int, timeout: float) -> LauncherError:
    listening = port.listening(running.tree(instance))
    hint = "it may still be loading its models: start_app.py wait --timeout 600"
    if number in listening:
        state = "its page does not answer"
    elif listening:
        ports = ", ".join(str(other) for other in sorted(listening))
        state = f"it listens on {ports} instead"
        hint = "does the app take its port by that option? set APP_PORT_FLAG in .env"
    else:
        state = "it has not opened the port yet"
    return LauncherError(
        f"not ready after {timeout:g} s, {state}: {describe(instance.process)}", hint, ExitStatus.RETRY
    )
