"""Parse the command line: one argparse parser with a subparser per command.

Options may come before or after the command; everything after `--` belongs to the app and is never read here. `table`
declares the commands, `line` puts the words into argparse's order, `rules` refuses conflicting options, and `refusals`
guesses the intended command.
"""

from __future__ import annotations

from collections.abc import Sequence

from .line import Line, named, own_options, take_apart
from .parsing import parser, read
from .table import CHANGING, COMMANDS, GROUPS, TABLE, Command
from .typed import LAUNCH, LAUNCHING, Arguments, BadValueError

__all__ = ["CHANGING", "COMMANDS", "LAUNCH", "LAUNCHING", "Arguments", "parse", "parser"]

_HELP = "help"


def parse(argv: Sequence[str]) -> Arguments:
    """Read a command line.

    Raises LauncherError (2). The error names an unknown option, and the way to pass it to the app.
    """
    split = list(argv).index("--") if "--" in argv else len(argv)
    line, app_args = take_apart(argv[:split]), tuple(argv[split + 1 :])
    if line.has("--version"):
        return Arguments(version=True, verbose=line.has("--verbose"))
    if line.words[:1] == [_HELP] or (line.words[1:2] == [_HELP] and line.words[0] in GROUPS):
        return Arguments(help=True, topic=_topic([word for word in line.words if word != _HELP]))
    name = _command(line, app_args)
    if line.has("--help") or name in GROUPS:
        return Arguments(help=True, topic=name if line.words else "")
    command = TABLE[name]
    words = line.words[len(name.split()) :]
    _refuse_misfits(line, command, words, app_args)
    try:
        return read(command, words, line.options, app_args)
    except BadValueError as error:
        from . import refusals

        raise refusals.value(error, line, command) from None


def _topic(words: list[str]) -> str:
    """Return the command or group of a help request, or an empty string for all of them."""
    topic = named(words)
    if len(topic.split()) == len(words):
        return topic
    from . import refusals

    raise refusals.topic(words)


def _command(line: Line, app_args: tuple[str, ...]) -> str:
    """Return the command at the start of the words, or a group that is given alone: its commands are listed."""
    name = named(line.words) if line.words else LAUNCH
    alone = len(line.words) == 1 and not (app_args or line.unknown or own_options(line))
    if name in TABLE or (name in GROUPS and (alone or line.has("--help"))):
        return name
    from . import refusals

    raise refusals.command(line, app_args)


def _refuse_misfits(line: Line, command: Command, words: list[str], app_args: tuple[str, ...]) -> None:
    """Refuse options, words and arguments of the app that the command does not accept."""
    names = {option.names for option in command.options}
    fits = (
        not line.unknown
        and all(given.option.names in names for given in line.given)
        and (command.repos if words else command.repos in ("", "*"))
        and (len(words) == 1 or command.repos in ("", "*", "+"))
        and (command.app_arguments or not app_args)
    )
    if not fits:
        from . import refusals

        raise refusals.misfit(line, command, words, app_args)
