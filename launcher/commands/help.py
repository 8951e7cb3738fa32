"""Generate the help from the table of commands: a first screen, a list for each group, a page for each command.

argparse's own help differs between Python 3.10 and 3.14 and mixes all groups in its usage line.
"""

from __future__ import annotations

import platform
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from .. import __version__
from ..arguments.options import Option
from ..arguments.parsing import PROGRAM
from ..arguments.table import (
    COMMANDS,
    COMMON,
    EXIT_STATUSES,
    FIRST_EXAMPLES,
    GROUPS,
    MOST_USED,
    TABLE,
)

_WIDEST = 100
# By the name of the distribution.
_LIBRARIES = {"psutil": "psutil", "huggingface_hub": "huggingface_hub", "gradio": "Gradio"}


def text(topic: str, program: str, columns: int | None = None) -> str:
    """Return the help about a command, a group or, with an empty topic, everything.

    `program` is the name of the user's call, `columns` the width to fit, by default the terminal's.
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
        from importlib import metadata  # this import takes longer than the rest

        lines.append(f"Python {platform.python_version()} ({sys.executable})")
        for distribution, name in _LIBRARIES.items():
            try:
                lines.append(f"{name} {metadata.version(distribution)}")
            except metadata.PackageNotFoundError:
                lines.append(f"{name} not installed")
    return "\n".join(lines) + "\n"


def commands() -> Mapping[str, str]:
    """Return the possible first words, with their summaries: a group stands for its commands."""
    alone = {name: summary for name, summary in COMMANDS.items() if " " not in name}
    return {**alone, **{name: f"{summary}: {', '.join(within(name))}" for name, summary in GROUPS.items()}}


def within(group: str) -> Mapping[str, str]:
    """Return the last words of a group's commands, each with the command's summary."""
    return {name.split()[1]: summary for name, summary in COMMANDS.items() if name.startswith(f"{group} ")}


def _first_screen(width: int) -> Iterator[str]:
    yield f"usage: {PROGRAM} [COMMAND] [OPTIONS] [-- APP ARGUMENTS]"
    yield "Restart the Gradio app in this folder and manage its models."
    yield from _section("commands", list(commands().items()), width)
    yield from _section("options", [(option.label, option.help) for option in MOST_USED], width)
    yield from _examples(FIRST_EXAMPLES, width)
    yield ""
    yield from textwrap.wrap(f"{PROGRAM} COMMAND --help shows every option of a command.", width)
    statuses = [f"{int(status)} {meaning}" for status, meaning in EXIT_STATUSES.items()]
    # A line breaks only between them.
    text = "; ".join((*statuses, "after the start, the app's own")).replace(" ", "\0").replace(";\0", "; ")
    yield from (line.replace("\0", " ") for line in textwrap.wrap(f"exit\0status:\0{text}", width))


def _group(name: str, width: int) -> Iterator[str]:
    yield f"usage: {PROGRAM} {name} COMMAND [OPTIONS]"
    yield from _section("commands", list(within(name).items()), width)
    yield from _examples([TABLE[f"{name} {word}"].examples[0] for word in within(name)], width)
    yield ""
    yield from textwrap.wrap(f"{PROGRAM} {name} COMMAND --help shows every option of a command.", width)


def _page(name: str, width: int) -> Iterator[str]:
    command = TABLE[name]
    yield f"usage: {PROGRAM} {command.usage}"
    yield ""
    yield from textwrap.wrap(f"{command.summary[:1].upper()}{command.summary[1:]}. {command.details}", width)
    groups = {
        heading: [(_indented(option), option.help) for option in options]
        for heading, options in {**command.groups, **COMMON}.items()
    }
    column = max(len(label) for rows in groups.values() for label, _ in rows)
    for heading, rows in groups.items():
        yield from _section(heading, rows, width, column)
    yield from _examples(command.examples, width)


def _indented(option: Option) -> str:
    """Return an option's label, aligned with the long names of options that have a short one."""
    return option.label if len(option.names) > 1 else f"    {option.label}"


def _examples(examples: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    rows = [(f"{PROGRAM} {words}".rstrip(), meaning) for words, meaning in examples]
    yield from _section("examples", rows, width)


def _section(heading: str, rows: Sequence[tuple[str, str]], width: int, column: int = 0) -> Iterator[str]:
    """Yield rows in two columns, or each in two lines if the second column would be too narrow."""
    yield ""
    yield f"{heading}:"
    column = column or max(len(label) for label, _ in rows)
    for label, meaning in rows:
        if column > width // 2:
            yield f"  {label}"
            yield from textwrap.wrap(meaning, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
        else:
            indent = " " * (column + 4)
            yield from textwrap.wrap(meaning, width, initial_indent=f"  {label:<{column}}  ", subsequent_indent=indent)
