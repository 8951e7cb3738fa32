"""Closed client connections block a port for a minute for an app that binds without SO_REUSEADDR, as Gradio 3 does.

The minute is TCP_TIMEWAIT_LEN in linux/include/net/tcp.h. Most apps set SO_REUSEADDR and start at once: socket(7).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from ..app.command import Command
from ..app.packages import version
from ..context import Context
from ..instances import port
from .held import last_record

_SECONDS = 65.0
_POLL_SECONDS = 0.25
_TAIL_LINES = 20
_IN_USE = r"(?i)port \d+ is in use|address already in use|is occupied|errno 98\b|empty port in range"


def wait_out(context: Context, command: Command, check: Callable[[], None] = lambda: None) -> None:
    """Wait until a plain bind works, if this app is known to need one; call this when the port is free.

    `check` is called regularly, and ends the wait by raising.
    """
    settings = context.settings
    if port.is_free_for_a_plain_bind(settings.host, settings.port):
        return
    why = _why_plain(context, command)
    if why is None:
        return
    context.console.say(f"waiting: closed connections keep port {settings.port} for up to a minute, and {why}")
    deadline = time.monotonic() + _SECONDS
    while not port.is_free_for_a_plain_bind(settings.host, settings.port) and time.monotonic() < deadline:
        if port.is_listened_to(settings.port):
            return  # another process has taken it, which the app will report
        check()
        time.sleep(_POLL_SECONDS)


def _why_plain(context: Context, command: Command) -> str | None:
    """Return the evidence that the app binds without SO_REUSEADDR, or None."""
    gradio = version(command.interpreter, "gradio")
    if gradio and gradio.startswith("3."):
        return f"Gradio {gradio} cannot bind it before"
    from ..app import logs

    settings = context.settings
    record = last_record(settings)
    log = Path(record.log) if record and record.log else logs.find(settings.app_dir, settings.script, settings.port)
    kept = (log, *(log.with_name(f"{log.name}.{number}") for number in range(1, logs.KEPT + 1))) if log else ()
    if any(re.search(_IN_USE, line) for path in kept for line in logs.tail(path, _TAIL_LINES)):
        return "a start of this app ended because the port was in use"
    return None
