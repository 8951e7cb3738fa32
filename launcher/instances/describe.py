"""Processes and instances in words and as JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..ui import redact, text
from .process import Process, look
from .survey import Instance, Survey

NAMED_AT_MOST = 10


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


def left_alone(survey: Survey) -> tuple[str, ...]:
    """Return which instances of this app are not touched: those on other ports and those of other users."""
    lines = [f"left: {describe(i.process)}: this app's instance{where(i, survey.port)}" for i in survey.siblings]
    # One on the port is a refusal of its own.
    others = [i for i in survey.others if i.verdict.standing == "other"]
    lines += [f"left: {describe(i.process)}: this app's instance of another user" for i in others]
    lines += [
        f"left: pid {pid}: it runs this app's script, but psutil cannot read processes here" for pid in survey.unread
    ]
    return tuple(lines)


def verdicts(survey: Survey) -> tuple[str, ...]:
    """Return what each process that runs the app or mentions its script is to us, with the reason."""
    instances = (*survey.stale, *((survey.inside,) if survey.inside else ()), *survey.siblings, *survey.others)
    judged = [f"{i.verdict.standing}: pid {i.pid}: {i.verdict.reason}" for i in instances]
    # The youngest first: it is the one that somebody is wondering about.
    left = [(process, reason) for pid, reason in survey.left if (process := look(pid)) and not process.gone]
    left.sort(key=lambda one: -one[0].start)
    lines = [f"no instance: {describe(process)}: {reason}" for process, reason in left[:NAMED_AT_MOST]]
    more = len(left) - len(lines)
    return (*judged, *lines, *((f"no instance: {more} more of this kind",) if more else ()))


def where(instance: Instance, port: int) -> str:
    """Return which port an instance is on that is not the one on `port`; where that says nothing, why it is not."""
    if instance.port in (None, port):
        return f", {instance.verdict.reason}"
    return f" on port {instance.port}"
