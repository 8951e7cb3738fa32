"""Detect an app that will never answer on its port: another process has the port, or its page is on another one.

Both are reported within ten seconds. An auxiliary port (an API, metrics) that opens before the page is only noted: a
page on another port counts only if the app cannot have its own, is known to be Gradio, or is idle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from ..app import page as pages
from ..config.settings import Settings
from ..errors import REPEAT, ExitStatus, LauncherError
from ..instances import port
from ..instances.describe import describe
from ..instances.process import Process, look
from ..instances.resources import cpu_seconds
from . import held

_LOOK_SECONDS = 1.0
_CERTAIN_SECONDS = 3.0
_IDLE = 0.05  # of one processor
_PAGE_SECONDS = 1.0
_PORTS_ASKED = 5


class Astray:
    """Hold the observations of an instance that does not listen on its port."""

    def __init__(
        self,
        settings: Settings,
        process: Process,
        tree: Callable[[], Collection[int]],
        note: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._process = process
        self._tree = tree
        self._note = note
        self._noted: set[int] = set()
        self._since: dict[int | str, float] = {}
        self._busy: tuple[float, float] | None = None
        self._next = 0.0

    def look(self) -> None:
        """Check once a second.

        Raises LauncherError: 69 if another process has the port, 75 if the page is on another port.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _LOOK_SECONDS
        tree = tuple(self._tree())
        self._look_at_port(tree, now)
        others = port.addresses(tree)
        idle = self._is_idle(tree, now) if others else False
        for other in sorted(others)[:_PORTS_ASKED]:
            self._look_at_page(other, others[other], idle, now)

    def _look_at_port(self, tree: Collection[int], now: float) -> None:
        holder = self._holder(tree)
        if self._has_lasted("holder", holder is not None, now) and holder and not held.is_launching(self._settings):
            other = port.another((), self._settings.port)
            raise LauncherError(
                f"{holder} took port {self._settings.port} while the app was loading: {describe(self._process)}",
                f"start_app.py status; stop that process, or start_app.py --port {other}{REPEAT}",
                ExitStatus.TAKEN,
            )

    def _holder(self, tree: Collection[int]) -> str | None:
        """Return the other listeners on the app's port, as messages name them."""
        if not port.is_listened_to(self._settings.port):
            return None
        for listener in port.listeners(self._settings.host, self._settings.port, tuple(tree)):
            process = look(listener.pid) if listener.pid is not None else None
            if process and held.inherited_lock(self._settings, process.pid):
                continue
            return describe(process) if process else "a process that cannot be seen from here"
        return None

    def _look_at_page(self, other: int, addresses: tuple[str, ...], idle: bool, now: float) -> None:
        settings = self._settings
        page = pages.page(addresses[0], other, _PAGE_SECONDS)
        if not (page and page.for_people):
            self._since.pop(other, None)
            if other not in self._noted:
                self._note(f"note: the app listens on port {other}; waiting for its page on port {settings.port}")
                self._noted.add(other)
            return
        kept_away = not port.is_free_for_a_plain_bind(settings.host, settings.port)
        if not self._has_lasted(other, kept_away or page.gradio or idle, now):
            return
        message = f"the app's page is on port {other}, not on port {settings.port}: {describe(self._process)}"
        hint = other_port_hint(settings, other)
        if kept_away:
            holder = self._holder(tuple(self._tree()))
            message += f"; port {settings.port} is held by {holder or 'connections that were closed within 60 s'}"
            first = "stop that process, then" if holder else "in a minute:"
            hint = f"{first} start_app.py{REPEAT}"
        raise LauncherError(message, hint, ExitStatus.RETRY)

    def _is_idle(self, tree: Collection[int], now: float) -> bool:
        """Return whether the app has been idle since the previous check: it has finished loading."""
        used = cpu_seconds(tree)
        before, self._busy = self._busy, (now, used)
        return before is not None and used - before[1] <= _IDLE * (now - before[0])

    def _has_lasted(self, fact: int | str, holds: bool, now: float) -> bool:
        """Return whether a condition has held for some seconds without a break."""
        if not holds:
            self._since.pop(fact, None)
            return False
        return now - self._since.setdefault(fact, now) >= _CERTAIN_SECONDS


def other_port_hint(settings: Settings, other: int) -> str:
    """Return a hint for an app that listens on another port than the requested one."""
    hint = f"where its code names that port: start_app.py --port {other}{REPEAT}"
    if settings.port_flag:
        hint = f"where {settings.port_flag} is none of its options: APP_PORT_FLAG=none in .env; {hint}"
    return hint
