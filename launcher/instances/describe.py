"""Processes and instances in words and as JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..ui import redact, text
from .process import Process
from .survey import Instance, Member, Survey


def process_document(process: Process) -> Mapping[str, Any]:
    """Return a process for `--json`."""
    return {
        "pid": process.pid,
        "user": text.user(process.uid),
        "command": list(redact.arguments(process.argv)),
        "uptime_seconds": round(process.age, 1),
    }


def member_document(member: Member) -> Mapping[str, Any]:
    """Return a process that belongs to an instance for `--json`."""
    return {**process_document(member.process), "ports": sorted(member.ports)}


def family_documents(survey: Survey) -> list[Mapping[str, Any]]:
    """Return for `--json` what goes with the instances on the port."""
    return [member_document(member) for instance in survey.stale for member in instance.family]


def left_documents(survey: Survey) -> list[Mapping[str, Any]]:
    """Return for `--json` what is left alone although it is below an instance or has its marker."""
    left = (*(pair for instance in survey.stale for pair in instance.left), *survey.spared)
    return [{**process_document(process), "reason": reason} for process, reason in left]


def instance_document(instance: Instance) -> Mapping[str, Any]:
    """Return an instance for `--json`."""
    return {**process_document(instance.process), "port": instance.port}


def describe(process: Process) -> str:
    """Return a process as messages name it: `pid 4242, python webui.py --port 7860, up 3h12m`."""
    command = text.command_line(process.argv) if process.argv else f"[{process.name}]"
    owner = "" if process.uid == os.geteuid() else f", user {text.user(process.uid)}"
    return f"pid {process.pid}{owner}, {command}, up {text.duration(process.age)}"


def describe_member(member: Member) -> str:
    """Return a process that belongs to an instance as messages name it, with its ports."""
    ports = f", port {', '.join(str(port) for port in sorted(member.ports))}" if member.ports else ""
    return f"{describe(member.process)}{ports}"
