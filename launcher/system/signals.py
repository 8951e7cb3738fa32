"""A signal that would end the launcher half-way waits until the step at hand is done."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

# What ends a program from outside: the terminal's end, Ctrl-C, Ctrl-\, and kill.
ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal has asked the launcher to end; `number` is that signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)


class Guard:
    """Hold back the signals that would end the launcher, between `begin` and `end`.

    A signal that is ignored stays ignored. `tell` is called with a line about the first one. A second one is not held
    back: it interrupts whatever is being done.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._before: dict[signal.Signals, Any] = {}
        self._noted: int | None = None

    def begin(self) -> None:
        """Hold signals back from here on, until `check` or `end`."""
        if not self._before:
            self._before = _take_over(self._note)

    def check(self) -> None:
        """End here if a signal came: raise Interrupted."""
        if self._noted is not None:
            number, self._noted = self._noted, None
            raise Interrupted(number)

    def interrupt_at_once(self) -> None:
        """Have every further signal raise Interrupted where it comes, and check for one that has come."""
        for number in self._before or _take_over(_interrupt):
            signal.signal(number, _interrupt)
        self.check()

    def end(self) -> None:
        """Let signals do again what they did before, and check for one that has come."""
        while self._before:
            signal.signal(*self._before.popitem())
        self.check()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted is not None:
            _interrupt(number, frame)
        self._noted = number
        with suppress(RuntimeError):  # it came in the midst of another line
            self._tell(f"{signal.Signals(number).name}: ending after this step; a second signal ends it at once")


def ignore_hangup() -> None:
    """Have the end of the terminal not end this process."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def die_of(number: signal.Signals) -> None:
    """End as a signal ends a program that does not handle it: the exit status says so to the sender."""
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))
    signal.raise_signal(number)


def _take_over(handler: Any) -> dict[signal.Signals, Any]:
    before: dict[signal.Signals, Any] = {}
    for number in ENDING:
        current = signal.getsignal(number)
        if current not in (signal.SIG_IGN, None):  # None: not from Python
            before[number] = signal.signal(number, handler)
    return before


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)
