"""Detect a shell loop that restarts the app when it ends, within the launch, and name it.

A shell's children show its next step: `sleep 2` shows how long it waits. A shell that exits, or shows its prompt,
starts nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from typing import NamedTuple

from ..context import Context
from ..errors import REPEAT, ExitStatus, LauncherError
from ..instances.describe import describe
from ..instances.kin import Kin
from ..instances.process import Process
from ..instances.proof import start_of, ticks_now
from ..instances.survey import Survey
from ..instances.table import ProcessTable
from ..system import lock as locks
from .instance import observe

_IDLE_SECONDS = 0.5
_BUSY_SECONDS = 3.0
_LONGEST_SLEEP = 15.0
_MARGIN_SECONDS = 1.5
_SAY_SECONDS = 1.0
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Shells(NamedTuple):
    """Hold the shells that continue when the instances to be stopped end, and the time before the stop, in ticks."""

    processes: tuple[Process, ...]
    since: float


def shells_of(survey: Survey) -> Shells:
    """Return the shells that may restart the app; call this right before the stop."""
    return Shells(tuple({i.shell.pid: i.shell for i in survey.stale if i.shell}.values()), ticks_now())


def refuse_again(context: Context, loops: Shells) -> None:
    """Return once none of these shells restarts the app, as far as their children show.

    Call this right after the stop. Raises LauncherError (69) if one does.
    """
    begun, shells, said = time.monotonic(), loops.processes, False
    while shells := tuple(shell for shell in shells if start_of(shell.pid) == shell.start):
        table = ProcessTable()
        if any(table.children(shell.pid) for shell in shells):
            _refuse(context, shells)
        seconds = max(_patience(shell, table, loops.since) for shell in shells)
        passed = time.monotonic() - begun
        if passed >= seconds:
            return
        if not said and seconds > _SAY_SECONDS:
            context.console.say(f"waiting up to {seconds:.0f} s: {describe(shells[0])}, may start the app again")
            said = True
        time.sleep(max(locks.POLL_SECONDS, min(0.2, seconds - passed)))


def _refuse(context: Context, shells: Collection[Process]) -> None:
    for instance in observe(context.settings).survey.stale:
        shell = next((shell for shell in shells if instance.shell and instance.shell.pid == shell.pid), None)
        if shell:
            command = "start_app.py stop" if context.arguments.command == "stop" else f"start_app.py{REPEAT}"
            raise LauncherError(
                f"{describe(shell)}, has started the app again: {describe(instance.process)}",
                f"kill {shell.pid} ends that loop; then {command}",
                ExitStatus.TAKEN,
            )


def _patience(shell: Process, table: ProcessTable, since: float) -> float:
    """Return for how many seconds after the stop a shell may still restart the app."""
    children = [kin for pid in table.children(shell.pid) if (kin := table.kin(pid)) and kin.start >= since - 1]
    if not children:
        return _IDLE_SECONDS
    return max(_slept(kin) for kin in children)


def _slept(kin: Kin) -> float:
    words = kin.argv
    if not words or os.path.basename(words[0]) != "sleep":
        return _BUSY_SECONDS
    try:
        seconds = sum(float(word.rstrip("smhd")) * _UNITS.get(word[-1:], 1) for word in words[1:])
    except ValueError:
        return _BUSY_SECONDS
    return seconds + _MARGIN_SECONDS if seconds <= _LONGEST_SLEEP else _BUSY_SECONDS
