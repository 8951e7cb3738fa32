"""Processes and instances in words and as JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..ui import redact, text
from .process import Process
from .survey import Instance


def process_document(process: Process) -> Mapping[str, Any]:
    """Return a process for `--json`."""
    return {
        "pid": process.pid,
        "user": text.user(process.uid),
        "command": list(redact.arguments(process.argv)),
        "uptime_seconds": round(process.age, 1),
    }


def instance_document(instance: Instance) -> Mapping[str, Any]:
    """Return an instance for `--json`."""
    return {**process_document(instance.process), "port": instance.port}


def describe(process: Process) -> str:
    """Return a process as messages name it: `pid 4242, python webui.py --port 7860, up 3h12m`."""
    command = text.command_line(process.argv) if process.argv else f"[{process.name}]"
    owner = "" if process.uid == os.geteuid() else f", user {text.user(process.uid)}"
    return f"pid {process.pid}{owner}, {command}, up {text.duration(process.age)}"
