"""Split a command line before its command is known: words, options with their values, and unknown options.

argparse expects the command first, and its options after it; people type them in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .options import Option
from .table import ALIASES, COMMON, GROUPS, OPTIONS, TABLE


class Given(NamedTuple):
    """Hold an option as it was typed: its name, and its values."""

    name: str
    option: Option
    values: tuple[str, ...] = ()


class Line(NamedTuple):
    """Hold the launcher's own part of a command line.

    `words` are neither options nor values of options. `options` are the known options and their values, as typed. Each
    of `unknown` is an option that the launcher does not have, with the next word, which may be its value.
    """

    words: list[str]
    options: list[str]
    given: list[Given]
    unknown: list[list[str]]

    def has(self, name: str) -> bool:
        """Return whether an option was given, under any of its names."""
        return any(name in given.option.names for given in self.given)


def take_apart(typed: Sequence[str]) -> Line:
    """Return the parts of a command line; the option's name decides whether a value follows."""
    line = Line([], [], [], [])
    rest = list(typed)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            line.words.append(word)
            continue
        known = _known(word)
        if not known:
            value = [rest.pop(0)] if rest and "=" not in word and _may_be_value(rest[0]) else []
            line.unknown.append([word, *value])
            continue
        *flags, last = known
        values = list(last.values)
        line.options.append(word)
        if last.option.takes_value and not values:
            while rest and _is_value(rest[0]) and (last.option.takes_values or not values):
                values.append(rest.pop(0))
            line.options.extend(values)
        line.given.extend((*flags, last._replace(values=tuple(values))))
    return line


def own_options(line: Line) -> list[Given]:
    """Return the given options that only some commands have."""
    common = {option.names for group in COMMON.values() for option in group}
    return [given for given in line.given if given.option.names not in common]


def named(words: Sequence[str]) -> str:
    """Return the command or group at the start of these words, aliases resolved, or an empty string."""
    for length in (2, 1):
        *group, word = words[:length] or ("",)
        name = " ".join((*group, ALIASES.get(word, word)))
        if name in TABLE or name in GROUPS:
            return name
    return ""


def _known(word: str) -> list[Given]:
    """Return the options in one word; none if any of them is unknown."""
    name, equals, value = word.partition("=")
    if word.startswith("--"):
        return [Given(name, OPTIONS[name], (value,) if equals else ())] if name in OPTIONS else []
    if f"-{name}" in OPTIONS:
        return []  # `-port 7861` would be `-p ort`
    given: list[Given] = []
    for position, letter in enumerate(word[1:], 2):
        option = OPTIONS.get(f"-{letter}")
        if option is None:
            return []
        if option.takes_value:
            return [*given, Given(f"-{letter}", option, (word[position:],) if word[position:] else ())]
        given.append(Given(f"-{letter}", option))
    return given


def _is_value(word: str) -> bool:
    # argparse also accepts `-1` and `-.5` as values.
    number = word[1:].replace(".", "", 1).isdecimal() and not word.endswith(".")
    return not word.startswith("-") or word == "-" or number


def _may_be_value(word: str) -> bool:
    firsts = {name.partition(" ")[0] for name in TABLE}
    return _is_value(word) and word not in firsts and word not in ALIASES
