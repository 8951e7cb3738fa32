"""Make docs/commands.md from the table of commands: `python -m tools.reference` writes it, a test compares it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from launcher.arguments.options import Option
from launcher.arguments.table import ALIASES, COMMANDS, COMMON, EXIT_STATUSES, TABLE

PAGE = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
_START = """\
# Commands

<!-- Made by `python -m tools.reference` from launcher/arguments/table.py. Do not edit it by hand. -->

    start_app.py [COMMAND] [OPTIONS] [-- APP ARGUMENTS]

Without a command, `start_app.py` restarts the app. Options can stand before or after the command. Everything after `--`
goes to the app. `start_app.py --help` is one screen, `start_app.py COMMAND --help` and `start_app.py help COMMAND` show
the options of one command, and `start_app.py cache` and `start_app.py models` list their commands.

A REPO is `owner/name`, `owner/name@revision`, a commit, or a quoted glob such as `'owner/*'`. A time span needs a unit
(`30m`, `12h`, `30d`, `2w`), and so does a size (`500M`, `50G`, `1.5TiB`).
"""


def reference() -> str:
    """Return the reference of every command and option, in Markdown."""
    aliases = "; ".join(f"`{alias}` is `{name}`" for alias, name in ALIASES.items())
    return "\n".join(
        (
            _START,
            "## All commands\n",
            *_table(("command", "what it does"), _commands()),
            f"\nShort names: {aliases}.",
            "\n## Options of every command\n",
            *_table(("option", "meaning"), _options(option for group in COMMON.values() for option in group)),
            "\n## Options of one or more commands\n",
            *_table(("option", "with", "meaning"), _own_options()),
            "\n## Examples\n",
            *_table(("type", "to"), _examples()),
            "\n## Exit statuses\n",
            *_table(("status", "meaning"), ((str(int(status)), what) for status, what in EXIT_STATUSES.items())),
            "\nAfter the app has started in the foreground, the exit status is the app's own.",
            "[Troubleshooting](troubleshooting.md) says what to do about each.\n",
        )
    )


def _commands() -> Iterator[tuple[str, str]]:
    for name, summary in COMMANDS.items():
        yield f"`{TABLE[name].usage.replace(' [OPTIONS]', '')}`", _code(summary)


def _own_options() -> Iterator[tuple[str, str, str]]:
    """Yield each option that not every command has, with the commands that have it in this meaning."""
    commands: dict[tuple[str, str], list[str]] = {}
    for name in COMMANDS:
        for options in TABLE[name].groups.values():
            for label, what in _options(options):
                commands.setdefault((label, what), []).append(f"`{name}`")
    for (label, what), names in commands.items():
        yield label, ", ".join(names), what


def _options(options: Iterable[Option]) -> Iterator[tuple[str, str]]:
    for option in options:
        yield f"`{option.label}`", _code(option.help)


def _examples() -> Iterator[tuple[str, str]]:
    for name in COMMANDS:
        for words, what in TABLE[name].examples:
            yield f"`start_app.py {words}`", what


def _code(text: str) -> str:
    """Return a help text with its option names marked as code."""
    return re.sub(r"--[a-z-]+", lambda match: f"`{match[0]}`", text)


def _table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for row in (headings, ("---",) * len(headings), *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


if __name__ == "__main__":
    PAGE.write_text(reference())
