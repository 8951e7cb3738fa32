"""The record in an instance lock: the process that holds it, and the facts of its start."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ..system.files import read_regular
from .proof import network, own_namespace

_READ_BYTES = 1 << 20
# The limit for the command line in a record, which may have 6 MiB (execve(2)); a reader accepts far more.
_ARGUMENT_LETTERS = 1000
_ARGUMENTS_LETTERS = 20_000
_MODELS = 4000
WEIGHTS = 1000
# The kernel's own limits: proc_sys_kernel(5), pid_max, and tcp(7).
_MOST_PID = 1 << 22
_MOST_PORT = (1 << 16) - 1


class Record(NamedTuple):
    """Hold a lock file's facts about its holder.

    `start` is the process's start in clock ticks since `boot_id` (proc_pid_stat(5) field 22), which, with the pid and
    its namespace, identifies one process for ever; `started_at` is UTC in ISO 8601, for people. `models` are the
    commits of its models at the start, `locked` means that it can load no other. `log` is the path of its log. `script`
    is the app's script as it was named, `command` the words of the served command; both are None in records of earlier
    versions. `network` names the network namespace; blank if unknown. `marker` is the token in the environment of all
    processes that it starts. `weights` are the fingerprints of its weights files at the start.
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
    script: str | None = None
    command: tuple[str, ...] | None = None
    marker: str | None = None
    weights: Mapping[str, str] = MappingProxyType({})

    def line(self) -> bytes:
        """Return the record as the one line of its lock file; long values are shortened."""
        models = dict(tuple(self.models.items())[:_MODELS])
        weights = dict(tuple(self.weights.items())[:WEIGHTS])
        document = {**self._asdict(), "argv": _shortened(self.argv), "models": models, "weights": weights}
        return (json.dumps(document) + "\n").encode()


def instance_name(port: int) -> str:
    """Return the name of the lock that an app on `port` holds."""
    return f"instance-{port}.lock"


LAUNCH = "launch-"


def launch_name(port: int) -> str:
    """Return the name of the lock that a launcher for `port` holds while it works."""
    return f"{LAUNCH}{port}.lock"


def read(path: Path) -> Record | None:
    """Return the record in a lock file, or None without a valid one."""
    try:
        line = read_regular(path, _READ_BYTES).split(b"\n", 1)[0]
        return _record(json.loads(line))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _shortened(argv: Iterable[str]) -> list[str]:
    short: list[str] = []
    left = _ARGUMENTS_LETTERS
    for argument in argv:
        cut = argument if len(argument) <= _ARGUMENT_LETTERS else f"{argument[:_ARGUMENT_LETTERS]}…"
        left -= len(cut) + 1
        if left < 0:
            return [*short, "…"]
        short.append(cut)
    return short


def is_elsewhere(record: Record) -> bool:
    """Return whether its process has another network than this one, so that both can use the same port.

    That is a container with its own network, or another machine. An unknown network counts as the same.
    """
    boot_id, _ = own_namespace()
    here = (boot_id, network())
    return all((*here, record.boot_id, record.network)) and (record.boot_id, record.network) != here


def _record(document: Any) -> Record:
    """Return the record in a document.

    Raises TypeError, ValueError or KeyError for invalid content: a person may have edited the file.
    """
    if not isinstance(document, dict):
        raise TypeError("a record is an object")
    # An earlier version writes fewer fields.
    values = {name: document[name] for name in Record._fields if name in document or name not in Record._field_defaults}
    for name, most in (("pid", _MOST_PID), ("port", _MOST_PORT)):
        if type(values[name]) is not int or not 0 < values[name] <= most:
            raise TypeError(f"{name} is a number up to {most}")
    if type(values["start"]) not in (int, float) or not 0 <= values["start"] < math.inf:
        raise TypeError("start is a number of clock ticks")
    for name in ("boot_id", "pid_namespace", "user", "app_dir", "started_at", "machine", "launcher_version"):
        if not isinstance(values[name], str):
            raise TypeError(f"{name} is a text")
    if not isinstance(values["argv"], list):
        raise TypeError("argv is a list")
    for name in ("models", "weights"):
        texts = values.get(name, {})
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise TypeError(f"{name} are texts by name")
    if not isinstance(values.get("log"), str | None) or not isinstance(values.get("network", ""), str):
        raise TypeError("the log is a path, the network a name")
    if not isinstance(values.get("script"), str | None):
        raise TypeError("the script is a path")
    command = values.get("command")
    if command is not None and not (isinstance(command, list) and all(isinstance(word, str) for word in command)):
        raise TypeError("the command is a list of words")
    argv = tuple(str(argument) for argument in values["argv"])
    return Record(**{**values, "argv": argv, "command": None if command is None else tuple(command)})
