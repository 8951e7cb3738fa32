"""Describe processes and instances in words and as JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..ui import redact, text
from .process import Process, look
from .survey import Instance, Member, Survey

NAMED_AT_MOST = 10
_PORTS_AT_MOST = 3


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


def family_documents(survey: Survey, *, take_port: bool = False) -> list[Mapping[str, Any]]:
    """Return for `--json` the processes that go with the instances on the port, and with holders that are taken."""
    return [member_document(member) for _, family in _families(survey, take_port) for member in family]


def left_documents(survey: Survey) -> list[Mapping[str, Any]]:
    """Return for `--json` the skipped processes that are below an instance or have its marker."""
    left = (*(pair for instance in survey.stale for pair in instance.left), *survey.spared)
    return [{**process_document(process), "reason": reason} for process, reason in left]


def instance_document(instance: Instance) -> Mapping[str, Any]:
    """Return an instance for `--json`."""
    return {**process_document(instance.process), "port": instance.port}


def describe(process: Process) -> str:
    """Return a process for messages: `pid 4242, python webui.py --port 7860, up 3h12m`."""
    command = text.command_line(process.argv) if process.argv else f"[{process.name}]"
    owner = "" if process.uid == os.geteuid() else f", user {text.user(process.uid)}"
    return f"pid {process.pid}{owner}, {command}, up {text.duration(process.age)}"


def describe_member(member: Member) -> str:
    """Return a process that belongs to an instance for messages, with its ports."""
    ports = f", port {', '.join(str(port) for port in sorted(member.ports))}" if member.ports else ""
    return f"{describe(member.process)}{ports}"


def victim(process: Process, survey: Survey) -> str:
    """Return a process to be stopped, and the reason if it is not the app itself."""
    leftover = next((member for member in survey.leftovers if member.process == process), None)
    return f"{describe_member(leftover)}, left over by an instance that has ended" if leftover else describe(process)


def going_along(survey: Survey, *, take_port: bool = False) -> tuple[str, ...]:
    """Return the processes that go with those to be stopped, the ones that listen on a port first."""
    lines = []
    for pid, members in _families(survey, take_port):
        family = sorted(members, key=lambda member: not member.ports)
        named = family[:NAMED_AT_MOST]
        lines += [f"{describe_member(member)}: below pid {pid}, goes with it" for member in named]
        if len(family) > len(named):
            lines.append(f"{len(family) - len(named)} more below pid {pid}")
    return tuple(lines)


def _families(survey: Survey, take_port: bool) -> Iterator[tuple[int, Sequence[Member]]]:
    yield from ((instance.pid, instance.family) for instance in survey.stale)
    if take_port:
        yield from ((holder.process.pid, holder.family) for holder in survey.holders if holder.process)


def left_alone(survey: Survey) -> tuple[str, ...]:
    """Return the skipped processes: instances on other ports or of other users, and foreign children of the app."""
    lines = [f"left: {describe(i.process)}: this app's instance{where(i, survey.port)}" for i in survey.siblings]
    # An instance on the port is reported as a refusal.
    others = [i for i in survey.others if i.verdict.standing == "other"]
    lines += [f"left: {describe(i.process)}: this app's instance of another user" for i in others]
    below = [(process, _of_family(process, i, reason)) for i in survey.stale for process, reason in i.left]
    lines += [f"left: {describe(process)}: {reason}" for process, reason in (*below, *survey.spared)]
    lines += [
        f"left: pid {pid}: it runs this app's script, but psutil cannot read processes here" for pid in survey.unread
    ]
    return tuple(lines)


def _of_family(process: Process, instance: Instance, reason: str) -> str:
    return f"below pid {instance.pid}: {reason}" if process.ppid in instance.tree else reason


def verdicts(survey: Survey) -> tuple[str, ...]:
    """Return the verdict on each process that runs the app or mentions its script, with the reason."""
    instances = (*survey.stale, *((survey.inside,) if survey.inside else ()), *survey.siblings, *survey.others)
    judged = [f"{i.verdict.standing}: pid {i.pid}: {i.verdict.reason}" for i in instances]
    # The youngest first: most likely the user is looking for it.
    left = [(process, reason) for pid, reason in survey.left if (process := look(pid)) and not process.gone]
    left.sort(key=lambda entry: -entry[0].start)
    lines = [f"no instance: {describe(process)}: {reason}" for process, reason in left[:NAMED_AT_MOST]]
    more = len(left) - len(lines)
    return (*judged, *lines, *((f"no instance: {more} more of this kind",) if more else ()))


def on_other_ports(survey: Survey, command: str) -> str | None:
    """Return the hint that repeats a command for the ports of the app's other instances; None without any."""
    ports = sorted({port for i in survey.siblings if (port := i.port) and port != survey.port})
    return "; ".join(f"start_app.py {command} --port {number}" for number in ports[:_PORTS_AT_MOST]) or None


def where(instance: Instance, port: int) -> str:
    """Return the port of an instance that is not on `port`; if it is unknown, the reason."""
    if instance.port in (None, port):
        return f", {instance.verdict.reason}"
    return f" on port {instance.port}"
