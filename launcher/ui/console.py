"""The only module that prints.

stdout carries only the requested answer; everything else is one lower-case fact a line on stderr. Printed text may come
from another process's command line or a file name: secrets are masked and control characters escaped, so that a hostile
name cannot control the terminal.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TextIO

from ..errors import LauncherError
from . import redact
from .invocation import Invocation
from .text import clean, fitting, table

Progress = Callable[[int, str], None]
"""Receive the bytes of a step, and the name of their file; none if the step only waits."""
JSON_VERSION = 1
_RED, _YELLOW, _CYAN, _BOLD, _RESET = "\x1b[31m", "\x1b[33m", "\x1b[36m", "\x1b[1m", "\x1b[0m"
# Important words, at the start of a line or as a cell of a table. The words are clear without colour too.
_PAINTED = {
    "damaged": _RED,
    "incomplete": _RED,
    "behind": _YELLOW,
    "stale": _YELLOW,
    "skipped": _YELLOW,
    "unreachable": _YELLOW,
}
_WORD = rf"(^|  )({'|'.join(_PAINTED)})(?=$|:|  )"
# The width of a file's name in a progress bar.
_BAR_NAME = 28
_CLEAR = "\x1b[K"


class Console(NamedTuple):
    """Print for a person, or for a program with `as_json`; a closed stream prints nothing.

    `report` receives the same facts, for a service manager.
    """

    stdout: TextIO | None
    stderr: TextIO | None
    quiet: bool = False
    verbose: bool = False
    as_json: bool = False
    colour: bool = False
    colour_out: bool = False
    invocation: Invocation = Invocation()
    stdin: TextIO | None = None
    report: Callable[[str], None] | None = None

    def say(self, line: str) -> None:
        """Print a fact, unless the run is quiet."""
        if self.report:
            self.report(clean(line))
        if not self.quiet:
            self._tell(clean(line))

    def detail(self, line: str) -> None:
        """Print a fact in a verbose run."""
        if self.verbose:
            self._tell(clean(line))

    def warn(self, line: str) -> None:
        """Print a fact even in a quiet run."""
        self._tell(clean(line))

    def error(self, error: LauncherError) -> None:
        """Print an error and its hint; with `--json`, an object on stdout too."""
        self.tell_error(error)
        if self.as_json:
            self.json(self.problem(error))

    def problem(self, error: LauncherError) -> Mapping[str, Any]:
        """Return an error as an object for `--json`."""
        hint = self.invocation.pasteable(error.hint) if error.hint else None
        return {"error": error.message, "hint": hint, "exit_status": int(error.status)}

    def tell_error(self, error: LauncherError) -> None:
        """Print an error and its hint, on stderr only."""
        if self.report:
            self.report(clean(error.message))
        self._tell(self._painted(_RED, clean(error.message)))
        if error.hint:
            hint = clean(self.invocation.pasteable(error.hint))
            self._tell(f"{self._painted(_CYAN, 'hint:')} {hint}")

    def hint(self, hint: str) -> None:
        """Show the next steps, as commands that can be pasted."""
        self.say(f"{self._painted(_CYAN, 'hint:')} {self.hinted(hint)}")

    def out(self, line: str) -> None:
        """Print a line of the requested answer."""
        if self.stdout is not None:
            self.stdout.write(self._meaning(clean(line), coloured=self.colour_out) + "\n")

    def table(self, rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> tuple[str, ...]:
        """Return rows as lines that fit the terminal, if stdout is one."""
        return table(rows, right=right, columns=self.columns) if rows else ()

    @property
    def columns(self) -> int | None:
        """Return the width of the terminal on stdout, None for a file or a pipe."""
        return _columns(self.stdout)

    def text(self, block: str) -> None:
        """Print a requested block of text unchanged."""
        if self.stdout is not None:
            self.stdout.write(block.rstrip("\n") + "\n")

    def json(self, document: Mapping[str, Any]) -> None:
        """Print the one versioned object of a `--json` run, on a single line."""
        if self.stdout is not None:
            import json  # most runs print none, and the import takes a while

            self.stdout.write(json.dumps({"version": JSON_VERSION, **_scrubbed(document)}) + "\n")

    def hinted(self, line: str) -> str:
        """Return a line whose commands can be pasted."""
        return self.invocation.pasteable(line)

    @property
    def interactive(self) -> bool:
        """Return whether a person can be asked."""
        return bool(self.stdin and self.stderr and self.stdin.isatty() and self.stderr.isatty())

    def confirm(self, question: str) -> bool:
        """Ask a yes-or-no question; only a clear yes counts."""
        if self.stdin is None or self.stderr is None:
            return False
        self.stderr.write(f"{clean(question)} [y/N] ")
        self.stderr.flush()
        return self.stdin.readline().strip().lower() in ("y", "yes")

    def ask(self, question: str) -> str:
        """Ask for one line of text; blank without an answer."""
        if self.stdin is None or self.stderr is None:
            return ""
        self.stderr.write(f"{clean(question)} ")
        self.stderr.flush()
        return self.stdin.readline().strip()

    @contextmanager
    def bar(self, label: str, total: int | None) -> Iterator[Progress | None]:
        """Show a bar of `total` bytes with file, rate and remaining time, on a terminal only; yield its updater."""
        if self.quiet or self.as_json or self.stderr is None or not self.stderr.isatty():
            yield None
            return
        try:
            from tqdm import tqdm  # a requirement of huggingface_hub
        except ImportError:
            yield None
            return
        with tqdm(
            total=total,
            desc=label,
            unit="B",
            unit_scale=True,
            file=self.stderr,
            leave=False,
            **({"dynamic_ncols": True} if _columns(self.stderr) else {"ncols": 80, "nrows": 24}),
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {rate_fmt} {remaining} left{postfix}",
        ) as bar:

            def step(count: int, name: str) -> None:
                bar.set_postfix_str(fitting(clean(os.path.basename(name)), _BAR_NAME), refresh=False)
                bar.update(count)
                if not count:
                    bar.refresh()  # without progress, show the current file

            yield step

    @contextmanager
    def live(self) -> Iterator[Callable[[str], None] | None]:
        """Show one changing line, on a terminal only, and remove it at the end."""
        if self.quiet or self.as_json or self.stderr is None or not self.stderr.isatty():
            yield None
            return
        stream = self.stderr

        def show(line: str) -> None:
            try:
                stream.write(f"\r{_CLEAR}{fitting(clean(line), (_columns(stream) or 80) - 1)}")
                stream.flush()
            except OSError:
                pass  # the terminal was closed

        try:
            yield show
        finally:
            show("")

    def raw(self, data: bytes) -> None:
        """Print requested bytes, such as a log, unchanged and at once."""
        if self.stdout is not None:
            self.stdout.flush()
            self.stdout.buffer.write(data)
            self.stdout.buffer.flush()

    def flush(self) -> None:
        """Flush all output; the caller handles an OSError of stdout."""
        if self.stdout is not None:
            self.stdout.flush()
        if self.stderr is not None:
            try:
                self.stderr.flush()
            except OSError:
                pass  # there is no other way to report it

    def _tell(self, line: str) -> None:
        if self.stderr is None:
            return
        try:
            # If both streams go to one log, their lines must keep their order.
            if self.stdout is not None:
                self.stdout.flush()
        except OSError:
            pass  # the last flush reports it
        try:
            self.stderr.write(self._meaning(line, coloured=self.colour) + "\n")
        except OSError:
            pass  # a full disk or a closed pipe behind stderr must not stop a launch half-way

    @staticmethod
    def _meaning(line: str, *, coloured: bool) -> str:
        return (
            re.sub(_WORD, lambda match: f"{match[1]}{_PAINTED[match[2]]}{match[2]}{_RESET}", line) if coloured else line
        )

    def _painted(self, colour: str, text: str) -> str:
        return f"{_BOLD}{colour}{text}{_RESET}" if self.colour else text


def _columns(stream: TextIO | None) -> int | None:
    """Return the width of a terminal, None if the stream is not one or its width is unknown (a serial line)."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or None if stream and stream.isatty() else None
    except OSError:
        return None


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
