"""The record in an instance lock: which process holds it, and what it was started with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ..system.files import read_regular

_READ_BYTES = 1 << 20


class Record(NamedTuple):
    """Hold what a lock file tells about its holder.

    `start` is the process's start in clock ticks since `boot_id` (proc_pid_stat(5) field 22), which, with the pid and
    its namespace, names one process for ever; `started_at` is UTC in ISO 8601, for people. `models` are the commits of
    the models that it was started with, `locked` tells that it can load no other. `log` is the file its output goes to.
    `network` names the network namespace, empty where that is unknown.
    """

    pid: int
    start: float
    boot_id: str
    pid_namespace: str
    user: str
    port: int
    argv: tuple[str, ...]
    app_dir: str
    started_at: str
    machine: str
    launcher_version: str
    models: Mapping[str, str] = MappingProxyType({})
    locked: bool = False
    log: str | None = None
    network: str = ""

    def line(self) -> bytes:
        """Return the record as the one line of its lock file."""
        return (json.dumps({**self._asdict(), "models": dict(self.models)}) + "\n").encode()


def instance_name(port: int) -> str:
    """Return the name of the lock that an app on `port` holds."""
    return f"instance-{port}.lock"


def launch_name(port: int) -> str:
    """Return the name of the lock that a launcher for `port` holds while it works."""
    return f"launch-{port}.lock"


def read(path: Path) -> Record | None:
    """Return the record in a lock file, or None where there is none that makes sense."""
    try:
        line = read_regular(path, _READ_BYTES).split(b"\n", 1)[0]
        return _record(json.loads(line))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def own_namespace() -> tuple[str, str]:
    """Return the boot and the pid namespace in which this process's pid and start mean something."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")
    except OSError:
        return "", ""  # macOS, or a unit with ProcSubset=pid: a record from there proves nothing elsewhere


def own_network() -> str:
    """Return the network namespace of this process, empty where that is unknown."""
    try:
        return os.readlink("/proc/self/ns/net")
    except OSError:
        return ""


def is_elsewhere(record: Record) -> bool:
    """Return whether its process has another network than this one, so that no port of theirs can be the same.

    That is a container with a network of its own, or another machine. Where it is unknown, it is not.
    """
    boot_id, _ = own_namespace()
    here = (boot_id, own_network())
    return all((*here, record.boot_id, record.network)) and (record.boot_id, record.network) != here


def _record(document: Any) -> Record:
    if not isinstance(document, dict):
        raise TypeError("a record is an object")
    # An instance that an earlier version has started says less.
    values = {name: document[name] for name in Record._fields if name in document or name not in Record._field_defaults}
    if type(values["pid"]) is not int or type(values["port"]) is not int:
        raise TypeError("pid and port are numbers")
    models = values.get("models", {})
    if not isinstance(models, dict) or not all(isinstance(commit, str) for commit in models.values()):
        raise TypeError("models are commits")
    if not isinstance(values.get("log"), str | None) or not isinstance(values.get("network", ""), str):
        raise TypeError("the log is a path, the network a name")
    return Record(**{**values, "argv": tuple(str(argument) for argument in values["argv"])})
