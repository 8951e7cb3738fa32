"""Define the typed command line that `parse` returns, and convert the text of each option."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from typing import NoReturn, TypeVar

from ..ui.text import parsed_duration, parsed_port, parsed_size

LAUNCH = "launch"
LAUNCHING = (LAUNCH, "rollback")
"""The commands that start the app and record their own refusals."""
_LONGEST_WAIT = 86400  # seconds: a day
_PIDS = 1 << 31
_Number = TypeVar("_Number", int, float)


class Arguments(argparse.Namespace):
    """Hold a parsed command line; a missing option keeps its default here."""

    command: str = LAUNCH
    topic: str = ""  # with `help`: the command or group to explain
    app_args: tuple[str, ...] = ()
    repos: tuple[str, ...] = ()
    app_dir: str | None = None
    env_file: str | None = None
    python: str | None = None
    host: str | None = None
    port: str | None = None
    take_port: bool = False
    stop_timeout: float = 10.0
    timeout: float | None = None
    background: bool = False
    log_file: str | None = None
    open: bool = False
    follow: bool = False
    lines: int | None = None
    no_launch: bool = False
    no_warm: bool = False
    if_down: bool = False
    no_rollback: bool = False
    clear_cache: bool = False
    prune_cache: bool = False
    remove_model: list[str] | None = None
    verify: bool = False
    force_refresh: bool = False
    locked: bool = False
    unlocked: bool = False
    local_dir: str | None = None
    include: list[str] | None = None
    exclude: list[str] | None = None
    remove: bool = False
    freeze: bool = False
    older_than: float | None = None
    max_size: int | None = None
    keep: list[str] | None = None
    file: list[str] | None = None
    force: bool = False
    yes: bool = False
    revisions: bool = False
    full: bool = False
    repair: bool = False
    report: bool = False
    dry_run: bool = False
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    demo: bool = False
    help: bool = False
    version: bool = False
    pid: int | None = None
    template: bool = False
    user: bool = False
    supervisord: bool = False
    print_completion: str | None = None


class BadValueError(Exception):
    """Signal an invalid value of an option; `instead` is a valid value that was probably intended."""

    def __init__(self, text: str, problem: str, instead: str | None = None) -> None:
        super().__init__(problem)
        self.text = text
        self.problem = problem
        self.instead = instead


def port(text: str) -> str:
    """Return the text of a port unchanged; a blank one is unset. Raises BadValueError."""
    try:
        if text.strip():
            parsed_port(text)
    except ValueError:
        _refuse(text, "is not a valid port: a port is a number from 1 to 65535", "7860")
    return text


def seconds(text: str) -> float:
    """Return a number of seconds. Raises BadValueError."""
    try:
        number = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        number = math.nan
    if 0 <= number <= _LONGEST_WAIT:
        return number
    _refuse(text, f"is not a number of seconds from 0 to {_LONGEST_WAIT}")


def count(text: str) -> int:
    """Return the number of lines to show. Raises BadValueError."""
    if re.fullmatch("[0-9]{1,9}", text):
        return int(text)
    _refuse(text, "is not a number of lines")


def pid(text: str) -> int:
    """Return a process id. Raises BadValueError."""
    if re.fullmatch("[0-9]{1,10}", text) and 0 < int(text) < _PIDS:
        return int(text)
    _refuse(text, "is not a process id")


def span(text: str) -> float:
    """Return the seconds of a time span such as `30d`. Raises BadValueError."""
    return _measured(text, parsed_duration, "time span", "30d")


def size(text: str) -> int:
    """Return the bytes of a size such as `50G`. Raises BadValueError."""
    return _measured(text, parsed_size, "size", "50G")


def _measured(text: str, parsed: Callable[[str], _Number], kind: str, example: str) -> _Number:
    unit = example[-1]
    try:
        return parsed(text)
    except ValueError:
        pass
    try:
        parsed(text + unit)
    except ValueError:
        _refuse(text, f"is not a {kind} such as {example}")
    _refuse(text, f"has no unit: write a {kind} such as {example}", text.strip() + unit)


def _refuse(text: str, problem: str, instead: str | None = None) -> NoReturn:
    raise BadValueError(text, problem, instead)
