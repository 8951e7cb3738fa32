"""Completion of the command line in a shell, made from the same table that the command line is read by."""

from __future__ import annotations

import argparse

from ..arguments import COMMANDS, LAUNCH, OPTIONS
from ..errors import LauncherError
from ..system.requirements import missing

SHTAB = "shtab>=1.7"
_FOLDERS = ("--app-dir", "--local-dir")
_FILES = ("--env-file", "--python")


def script(shell: str, program: str) -> str:
    """Return the script that completes `program` in `bash` or `zsh`.

    Raises LauncherError where shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise _no_shtab() from None
    text: str = shtab.complete(_parser(program), shell=shell, root_prefix="start_app")
    return text


def _no_shtab() -> LauncherError:
    return missing([SHTAB], "not installed, and completion is made by it,")


def _parser(program: str) -> argparse.ArgumentParser:
    """Return a parser with a subcommand for each command, each with the options that go with it alone."""
    root = argparse.ArgumentParser(prog=program, add_help=False)
    _add_options(root, LAUNCH)
    commands = root.add_subparsers()
    groups: dict[str, argparse._SubParsersAction[argparse.ArgumentParser]] = {}
    for name, what in COMMANDS.items():
        group, _, word = name.rpartition(" ")
        if name == LAUNCH:
            continue
        if group and group not in groups:
            groups[group] = commands.add_parser(group, add_help=False, help=f"{group} …").add_subparsers()
        within = groups[group] if group else commands
        _add_options(within.add_parser(word, add_help=False, help=what.replace("%", "%%")), name)
    return root


def _add_options(parser: argparse.ArgumentParser, command: str) -> None:
    import shtab

    for option in OPTIONS:
        if command not in option.commands:
            continue
        action = parser.add_argument(*option.names, **option.keywords)
        if option.names[0] in _FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif option.names[0] in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
