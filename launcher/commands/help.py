"""The help, made from the table of commands: a first screen, a list for each group, a page for each command.

argparse's own help differs between Python 3.10 and 3.14 and mixes all groups in its usage line.
"""

from __future__ import annotations

import platform
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from .. import __version__
from ..arguments.line import PROGRAM
from ..arguments.table import (
    COMMANDS,
    COMMON,
    EXIT_STATUSES,
    FIRST_EXAMPLES,
    GROUPS,
    MOST_USED,
    TABLE,
    Option,
)

_WIDEST = 100
_WIDEST_LABEL = 26
# By the name of the distribution.
_LIBRARIES = {"psutil": "psutil", "huggingface_hub": "huggingface_hub", "gradio": "Gradio"}


def text(topic: str, program: str, columns: int | None = None) -> str:
    """Return the help about a command, a group or, with an empty topic, everything.

    `program` is how the launcher was called, `columns` the width to fit, by default the terminal's.
    """
    width = min(_WIDEST, columns or shutil.get_terminal_size((80, 24)).columns or 80)
    if not topic:
        lines = _first_screen(width)
    elif topic in GROUPS:
        lines = _group(topic, width)
    else:
        lines = _page(topic, width)
    return "\n".join(lines).replace(PROGRAM, program) + "\n"


def version(program: str, verbose: bool) -> str:
    """Return the version; a verbose one names Python and the libraries of this environment too."""
    lines = [f"{program} {__version__}"]
    if verbose:
        from importlib import metadata  # it takes longer than all the rest

        lines.append(f"Python {platform.python_version()} ({sys.executable})")
        for distribution, name in _LIBRARIES.items():
            try:
                lines.append(f"{name} {metadata.version(distribution)}")
            except metadata.PackageNotFoundError:
                lines.append(f"{name} not installed")
    return "\n".join(lines) + "\n"


def commands() -> Mapping[str, str]:
    """Return what can be typed first, with its summary: a group stands for its commands."""
    alone = {name: summary for name, summary in COMMANDS.items() if " " not in name}
    return {**alone, **{name: f"{summary}: {', '.join(_within(name))}" for name, summary in GROUPS.items()}}


def _first_screen(width: int) -> Iterator[str]:
    yield f"usage: {PROGRAM} [COMMAND] [OPTIONS] [-- APP ARGUMENTS]"
    yield from _section("commands", commands().items(), width)
    yield from _section("options", ((option.label, option.help) for option in MOST_USED), width)
    yield from _section("examples", _examples(FIRST_EXAMPLES), width)
    yield ""
    yield from textwrap.wrap(f"{PROGRAM} COMMAND --help shows every option of a command.", width)
    statuses = "; ".join(f"{number} {what}" for number, what in EXIT_STATUSES.items())
    yield from textwrap.wrap(f"exit status: {statuses}", width)


def _group(name: str, width: int) -> Iterator[str]:
    yield f"usage: {PROGRAM} {name} COMMAND [OPTIONS]"
    yield from _section("commands", ((word, COMMANDS[f"{name} {word}"]) for word in _within(name)), width)
    yield from _section("examples", _examples(TABLE[f"{name} {word}"].examples[0] for word in _within(name)), width)
    yield ""
    yield from textwrap.wrap(f"{PROGRAM} {name} COMMAND --help shows every option of a command.", width)


def _page(name: str, width: int) -> Iterator[str]:
    command = TABLE[name]
    yield f"usage: {PROGRAM} {command.usage}"
    yield ""
    yield from textwrap.wrap(f"{command.summary[:1].upper()}{command.summary[1:]}. {command.details}", width)
    for heading, options in {**command.groups, **COMMON}.items():
        yield from _section(heading, map(_row, options), width)
    yield from _section("examples", _examples(command.examples), width)


def _row(option: Option) -> tuple[str, str]:
    # As argparse does: the long names of all options stand below one another.
    return ("" if option.names[0].startswith("-") and len(option.names[0]) == 2 else "    ") + option.label, option.help


def _within(group: str) -> list[str]:
    return [name.split()[1] for name in COMMANDS if name.startswith(f"{group} ")]


def _examples(examples: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((f"{PROGRAM} {words}".rstrip(), what) for words, what in examples)


def _section(heading: str, rows: Iterable[tuple[str, str]], width: int) -> Iterator[str]:
    yield ""
    yield f"{heading}:"
    yield from _table(list(rows), width)


def _table(rows: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    """Yield rows in two columns; a label that is too wide for the first column has a line of its own."""
    column = 4 + max((len(label) for label, _ in rows if len(label) <= _WIDEST_LABEL), default=2)
    for label, what in rows:
        head = f"  {label:<{column - 4}}  " if len(label) <= column - 4 else ""
        if not head:
            yield f"  {label}"
        yield from textwrap.wrap(what, width, initial_indent=head or " " * column, subsequent_indent=" " * column)
