"""Build the argparse parser: a subparser for each command, below one for its group."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from ..errors import ExitStatus, LauncherError
from .rules import refuse_contradictions
from .table import TABLE, Command
from .typed import Arguments

PROGRAM = "start_app.py"


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        # argparse tries each option on a formatter, which would import shutil to find the terminal's width.
        super().__init__(prog, width=80)


class _Parser(argparse.ArgumentParser):
    def __init__(self, prog: str, **keywords: Any) -> None:
        # A missing option keeps its default in Arguments.
        super().__init__(
            prog,
            add_help=False,
            allow_abbrev=False,
            formatter_class=_Formatter,
            argument_default=argparse.SUPPRESS,
            **keywords,
        )

    def error(self, message: str) -> NoReturn:
        raise LauncherError(message, f"{self.prog} --help", ExitStatus.USAGE)


def parser(commands: Iterable[Command] = tuple(TABLE.values())) -> argparse.ArgumentParser:
    """Return the parser of these commands; building it only for the typed one takes a tenth of the time."""
    root = _Parser(PROGRAM)
    below = {"": root.add_subparsers(prog=PROGRAM, required=True)}
    for command in commands:
        group, _, word = command.name.rpartition(" ")
        if group not in below:
            below[group] = below[""].add_parser(group).add_subparsers(prog=f"{PROGRAM} {group}", required=True)
        leaf = below[group].add_parser(word)
        if command.repos:
            leaf.add_argument("repos", nargs="*")
        for option in command.options:
            leaf.add_argument(*option.names, **option.keywords)
    return root


def read(command: Command, repos: Sequence[str], options: Sequence[str], app_args: Sequence[str]) -> Arguments:
    """Return a command line in argparse's own order as Arguments.

    Raises LauncherError (2), and BadValueError for a value that an option cannot have.
    """
    arguments = parser((command,)).parse_args([*command.name.split(), *repos, *options], Arguments())
    arguments.command, arguments.repos, arguments.app_args = command.name, tuple(arguments.repos), tuple(app_args)
    refuse_contradictions(arguments)
    return arguments
