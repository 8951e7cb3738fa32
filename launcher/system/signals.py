"""A signal that would end the launcher in the middle of a step waits until the step is done."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

# The signals that end a program from outside: the terminal's end, Ctrl-C, Ctrl-\, and kill.
ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Signal that the launcher was asked to end; `number` is that signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)


class Guard:
    """Delay the signals that would end the launcher, between `begin` and `end`.

    An ignored signal stays ignored. `tell` is called with a line about the first one. A second one is not delayed: it
    interrupts the current work.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._before: dict[signal.Signals, Any] = {}
        self._noted: int | None = None

    def begin(self) -> None:
        """Delay signals from here on, until `check` or `end`."""
        if not self._before:
            self._before = _take_over(self._note)

    def check(self) -> None:
        """End here if a signal came: raise Interrupted."""
        if self._noted is not None:
            number, self._noted = self._noted, None
            raise Interrupted(number)

    def interrupt_at_once(self) -> None:
        """Make every further signal raise Interrupted at once, and check for an earlier one."""
        for number in self._before or _take_over(_interrupt):
            signal.signal(number, _interrupt)
        self.check()

    def end(self) -> None:
        """Restore the previous signal handlers, and check for an earlier signal."""
        while self._before:
            signal.signal(*self._before.popitem())
        self.check()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted is not None:
            _interrupt(number, frame)
        self._noted = number
        with suppress(RuntimeError):  # the signal arrived while another line was printed
            self._tell(f"{signal.Signals(number).name}: ending after this step; a second signal ends it at once")


def ignore_hangup() -> None:
    """Make this process survive the end of the terminal."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def die_of(number: signal.Signals) -> None:
    """End as a program without a signal handler does: the sender sees it in the exit status."""
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))
    signal.raise_signal(number)


def _take_over(handler: Any) -> dict[signal.Signals, Any]:
    before: dict[signal.Signals, Any] = {}
    for number in ENDING:
        current = signal.getsignal(number)
        if current not in (signal.SIG_IGN, None):  # None: not set by Python
            before[number] = signal.signal(number, handler)
    return before


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)
