"""Guess the intended meaning of an unreadable command line; imported only for a refusal.

`parse` accepts every command in a hint, and a hint keeps the typed command: the hint for a mistyped `stop` never starts
anything.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..errors import ExitStatus, LauncherError
from ..ui.text import parsed_port
from .line import Given, Line, named, own_options
from .options import Option
from .parsing import PROGRAM, read
from .table import ALIASES, COMMANDS, GROUPS, OPTIONS, TABLE, Command
from .typed import LAUNCH, BadValueError

# The names in other programs.
_OTHER_COMMANDS = {"start": LAUNCH, "run": LAUNCH, "kill": "stop", "ps": "status", "delete": "cache remove"}
_OTHER_OPTIONS = {"--server-port": "--port", "--listen-port": "--port", "--server-name": "--host"}
_CLOSE = 0.75


class _Guess(NamedTuple):
    """Hold the likely meaning, in a few words, and the whole command."""

    name: str
    command: str


def command(line: Line, app_args: Sequence[str]) -> LauncherError:
    """Return the refusal of words that start with no command, or with an incomplete one."""
    first = line.words[0]
    if first in GROUPS and len(line.words) == 1:
        fitting = [name for name in _within(first) if _unfit(TABLE[name], own_options(line)) is None]
        hints = [f"{PROGRAM} {first} --help", *(_command(name, line, ()) for name in fitting if own_options(line))]
        return _refusal(f"{first} needs a command: {', '.join(name.split()[1] for name in _within(first))}", hints)
    unknown = " ".join(line.words[: 2 if first in GROUPS else 1])
    guesses = [_guess(name, line, words) for name, words in _meant(line.words)] or _meant_option(line)
    hints = [_did_you_mean(guesses)]
    if first in GROUPS:
        hints.append(f"its commands: {PROGRAM} {first} --help")
    else:
        hints.append("" if guesses else f"all commands: {PROGRAM} --help")
        hints.append(_own(_command(LAUNCH, line, (), [*line.words, *_flat(line.unknown), *app_args])))
    return _refusal(f"unknown command {unknown!r}", hints)


def topic(words: Sequence[str]) -> LauncherError:
    """Return the refusal of a help request for an unknown command."""
    guesses = [_Guess(name, f"{PROGRAM} help {name}") for name, _ in _meant(words)]
    hints = [_did_you_mean(guesses), f"all commands: {PROGRAM} --help"]
    return _refusal(f"unknown command {' '.join(words)!r}", hints)


def misfit(line: Line, given: Command, words: Sequence[str], app_args: Sequence[str]) -> LauncherError:
    """Return the refusal of options, words or arguments of the app that a command does not accept."""
    if line.unknown:
        return _unknown_option(line, given, words, app_args)
    misplaced = _unfit(given, line.given)
    if misplaced:
        name = misplaced.option.names[-1]
        places = " or ".join(sorted(c.name for c in TABLE.values() if _unfit(c, [misplaced]) is None))
        return _refusal(f"{name} does not go with {given.name}, only with {places}", [_help(given)])
    if words and not given.repos:
        return _too_many_words(line, given, words)
    if given.repos == "DIR" and len(words) != 1:
        return _refusal(f"{given.name} needs exactly one DIR", [_help(given)])
    if not words and given.repos == "+":
        return _refusal(f"{given.name} needs at least one REPO", [f"{PROGRAM} cache list"])
    hints = [_command(given.name, line, words), f"to start the app with them: {shlex.join((PROGRAM, '--', *app_args))}"]
    return _refusal(f"{given.name} takes no arguments for the app", hints)


def value(error: BadValueError, line: Line, given: Command) -> LauncherError:
    """Return the refusal of an invalid value of an option."""
    name = next(g.option.names[-1] for g in line.given if error.text in g.values and _refuses(g.option, error.text))
    hint = _help(given)
    if error.instead is not None:
        mended = [
            g._replace(values=(error.instead,)) if g.option.names[-1] == name and error.text in g.values else g
            for g in line.given
        ]
        hint = _command(given.name, line._replace(given=mended), line.words[len(given.name.split()) :])
    return _refusal(f"{name}: {error.text!r} {error.problem}", [hint])


def _unknown_option(line: Line, given: Command, words: Sequence[str], app_args: Sequence[str]) -> LauncherError:
    word, *values = line.unknown[0]
    name, _, inline = word.partition("=")
    guesses = []
    meant = _meant_name(name, given)
    if meant:
        option = OPTIONS[meant]
        own = [inline, *values] if inline else values
        mended = Given(meant, option, tuple(own) if option.takes_value else ())
        after = [*words, *(() if option.takes_value else values)]
        guesses.append(_guess(given.name, line._replace(given=[*line.given, mended]), after)._replace(name=meant))
    else:
        guesses += [_guess(name, line, words) for name, words in _meant([name.lstrip("-")])]
    hints = [_did_you_mean(guesses)]
    theirs = [*_flat(line.unknown), *app_args]
    if given.app_arguments:
        hints.append(_own(_command(given.name if line.words else LAUNCH, line, (), theirs)))
    else:
        hints.append(_help(given))
        hints.append(f"to start the app with it: {shlex.join((PROGRAM, '--', *theirs))}")
    return _refusal(f"unknown option {word}", hints)


def _too_many_words(line: Line, given: Command, words: Sequence[str]) -> LauncherError:
    other = named(words)
    if other:
        both = [_command(given.name, line, ()), _guess(other, line, words[len(other.split()) :]).command]
        return _refusal(f"one command at a time: {' '.join(line.words)}", both)
    if given.name.startswith("cache "):
        hint = _command("cache remove", line, words)
        return _refusal(f"{given.name} takes the whole cache, not {' '.join(words)}", [hint])
    guess = _guess(given.name, line, words).command
    hint = _own(_command(LAUNCH, line, (), words)) if given.name == LAUNCH else guess
    return _refusal(f"{given.name} takes no such argument: {' '.join(words)}", [hint])


def _meant(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return the commands or groups that these words probably mean, each with the remaining words."""
    first, *rest = words
    word = ALIASES.get(first, first)
    if rest and f"{rest[0]} {word}" in COMMANDS:  # `prune cache`
        return [(f"{rest[0]} {word}", rest[1:])]
    if first in GROUPS:
        second, *rest = rest
        names = _ending(ALIASES.get(second, second)) or _close(f"{first} {second}", _within(first))
        return [(name, rest) for name in names]
    names = _ending(word) or [_OTHER_COMMANDS[first]] if first in _OTHER_COMMANDS else _ending(word)
    if names:
        return [(name, rest) for name in names]
    pair = _close(" ".join(words[:2]), [name for name in COMMANDS if " " in name])
    if rest and pair:
        return [(pair[0], rest[1:])]
    return [(name, rest) for name in _close(first, [*GROUPS, *(name for name in COMMANDS if " " not in name)])]


def _meant_option(line: Line) -> list[_Guess]:
    """Return the option of a launch that a word probably means: `clear-cache`, `7861`."""
    word, *after = line.words
    if _is_port(word):
        word, after = "port", [word]
    name = _meant_name(f"--{word}", TABLE[LAUNCH])
    if name is None:
        return []
    given = Given(name, OPTIONS[name], tuple(after[:1]) if OPTIONS[name].takes_value else ())
    return [_guess(LAUNCH, line._replace(given=[*line.given, given]), ())._replace(name=name)]


def _meant_name(typed: str, given: Command) -> str | None:
    """Return the intended option of a command: `-port`, `--clear_cache`, `--prot`."""
    name = "--" + typed.lstrip("-").replace("_", "-")
    names = [name for option in given.options for name in option.names if name.startswith("--")]
    if name in names:
        return name
    if _OTHER_OPTIONS.get(name) in names:
        return _OTHER_OPTIONS[name]
    if _ending(name.lstrip("-")):
        return None  # `--stop` is a command
    return next(iter(_close(name, names)), None)


def _close(word: str, names: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(word, names, 1, _CLOSE)


def _ending(word: str) -> list[str]:
    """Return the commands that end with this word."""
    return [name for name in COMMANDS if name.rpartition(" ")[2] == word]


def _within(group: str) -> list[str]:
    return [name for name in COMMANDS if name.startswith(f"{group} ")]


def _unfit(command: Command, given: Iterable[Given]) -> Given | None:
    names = {option.names for option in command.options}
    return next((word for word in given if word.option.names not in names), None)


def _refuses(option: Option, text: str) -> bool:
    try:
        option.keywords.get("type", str)(text)
    except BadValueError:
        return True
    return False


def _is_port(word: str) -> bool:
    try:
        return word.isdecimal() and parsed_port(word) > 0
    except ValueError:
        return False


def _guess(name: str, line: Line, words: Sequence[str]) -> _Guess:
    """Return a command as a guess, with the typed options and words that it accepts."""
    if name in GROUPS:
        return _Guess(name, f"{PROGRAM} {name}")
    if words and not TABLE[name].repos:
        if len(words) > 1 or not _is_port(words[0]):
            return _Guess(name, _help(TABLE[name]))
        line = line._replace(given=[*line.given, Given("--port", OPTIONS["--port"], (words[0],))])
        words = ()
    return _Guess(name, _command(name, line, words))


def _command(name: str, line: Line, words: Sequence[str], app_args: Sequence[str] = ()) -> str:
    """Return a whole command: its words and, if the result can be parsed, the typed options that it accepts."""
    command = TABLE[name]
    if command.repos == "+" and not words:
        words = ("REPO",)
    if command.repos == "DIR":
        words = words[:1] or ("DIR",)
    fitting = [given for given in line.given if _unfit(command, [given]) is None]
    for given in (fitting, fitting[-1:]):
        options = [text for word in given for text in (word.option.names[-1], *word.values)]
        try:
            read(command, words, options, app_args)
        except (LauncherError, BadValueError):
            continue
        break
    else:
        options = []
    own = ("--", *app_args) if app_args else ()
    return shlex.join((PROGRAM, *(() if name == LAUNCH else name.split()), *words, *options, *own))


def _help(command: Command) -> str:
    return f"{PROGRAM} {command.name} --help"


def _own(command: str) -> str:
    return f"if it is the app's own, put it after --: {command}"


def _did_you_mean(guesses: Sequence[_Guess]) -> str:
    if not guesses:
        return ""
    if guesses[0].name == LAUNCH:
        return f"to restart the app, give no command: {guesses[0].command}"
    names = " or ".join(guess.name for guess in guesses)
    return f"did you mean {names}? {'; '.join(guess.command for guess in guesses)}"


def _flat(unknown: Iterable[Sequence[str]]) -> list[str]:
    return [word for words in unknown for word in words]


def _refusal(message: str, hints: Iterable[str]) -> LauncherError:
    return LauncherError(message, "; ".join(hint for hint in hints if hint), ExitStatus.USAGE)
