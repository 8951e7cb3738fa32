"""The only place that prints.

stdout carries only what was asked for; everything else is one lower-case fact a line on stderr. Whatever is printed
may have come from another process's command line or a file name: secrets are masked and control characters escaped,
so that a hostile name cannot drive the terminal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TextIO

from . import redact
from .errors import LauncherError
from .text import clean, pasteable

JSON_VERSION = 1
_RED, _CYAN, _BOLD, _RESET = "\x1b[31m", "\x1b[36m", "\x1b[1m", "\x1b[0m"


class Console(NamedTuple):
    """Print for a person, or for a program with `as_json`; a closed stream prints nothing."""

    stdout: TextIO | None
    stderr: TextIO | None
    quiet: bool = False
    verbose: bool = False
    as_json: bool = False
    colour: bool = False
    program: str = "start_app.py"
    context: tuple[tuple[str, str], ...] = ()

    def say(self, line: str) -> None:
        """Tell a fact that a quiet run leaves out."""
        if not self.quiet:
            self._tell(clean(line))

    def detail(self, line: str) -> None:
        """Tell a fact that only a verbose run shows."""
        if self.verbose:
            self._tell(clean(line))

    def warn(self, line: str) -> None:
        """Tell a fact that even a quiet run must show."""
        self._tell(clean(line))

    def error(self, error: LauncherError) -> None:
        """Tell what happened, then the command that helps; with `--json`, as an object on stdout too."""
        self.tell_error(error)
        if self.as_json:
            self.json(self.problem(error))

    def problem(self, error: LauncherError) -> Mapping[str, Any]:
        """Return an error as an object for `--json`."""
        hint = pasteable(error.hint, self.program, self.context) if error.hint else None
        return {"error": error.message, "hint": hint, "exit_status": int(error.status)}

    def tell_error(self, error: LauncherError) -> None:
        """Tell what happened, then the command that helps, on stderr only."""
        self._tell(self._painted(_RED, clean(error.message)))
        if error.hint:
            hint = clean(pasteable(error.hint, self.program, self.context))
            self._tell(f"{self._painted(_CYAN, 'hint:')} {hint}")

    def out(self, line: str) -> None:
        """Print a line of what was asked for."""
        if self.stdout is not None:
            self.stdout.write(clean(line) + "\n")

    def text(self, block: str) -> None:
        """Print a block of text that was asked for, as it is."""
        if self.stdout is not None:
            self.stdout.write(block.rstrip("\n") + "\n")

    def facts(self, rows: Iterable[tuple[str, str]]) -> None:
        """Print what was asked for as `name: value` lines."""
        for name, value in rows:
            self.out(f"{name}: {value}")

    def json(self, document: Mapping[str, Any]) -> None:
        """Print the one versioned object of a `--json` run, on a single line."""
        if self.stdout is not None:
            self.stdout.write(json.dumps({"version": JSON_VERSION, **_scrubbed(document)}) + "\n")

    def flush(self) -> None:
        """Hand everything printed so far to the operating system; an OSError of stdout is the caller's."""
        if self.stdout is not None:
            self.stdout.flush()
        if self.stderr is not None:
            try:
                self.stderr.flush()
            except OSError:
                pass  # nobody is left to tell

    def _tell(self, line: str) -> None:
        if self.stderr is None:
            return
        try:
            self.stderr.write(line + "\n")
        except OSError:
            pass  # a full disk or a closed pipe behind stderr must not stop a launch half-way

    def _painted(self, colour: str, text: str) -> str:
        return f"{_BOLD}{colour}{text}{_RESET}" if self.colour else text


def _scrubbed(value: Any) -> Any:
    if isinstance(value, str):
        return redact.scrub(value)
    if isinstance(value, Mapping):
        return {
            key: redact.value(str(key), item) if isinstance(item, str) else _scrubbed(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_scrubbed(item) for item in value]
    return value
