"""What the READMEs say, taken apart: their commands, what those print, and their tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from tests.support.apps import ROOT

ENGLISH, CHINESE = READMES = ("README.md", "README.zh-CN.md")

# A code span that begins like this is a command to be typed; `--demo stop` and `models lock` are ends of one.
_COMMAND = re.compile(
    r"(start_app\.py|\.venv/bin/python|start-app|cp|uv|pip|python3|sudo|ss|systemctl|loginctl|eval|docker|dmesg) \S"
)
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")

# Words of which one run differs from another. What is left of a line is the message, and must be the same.
_SHAPES = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "TIME"),
    (re.compile(r"\b\d{4}-\d\d-\d\d\b"), "DAY"),
    (re.compile(r"\bpid \d+"), "pid N"),
    (re.compile(r"/dev/pts/\d+"), "TERMINAL"),
    (re.compile(r"\b\d+(\.\d+)? ([kMGT]?B)\b"), "SIZE"),
    (re.compile(r"\b(\d+\.\d s|\d+s|\d+[mhd]\d+[smh])(?!\w)"), "SPAN"),
    (re.compile(r"\b[0-9a-f]{7}\b"), "COMMIT"),
    (re.compile(r"\b\d+ files\b"), "N files"),
    (re.compile(r"-7860\b"), "-PORT"),
    (re.compile(r" {2,}"), "  "),
)


@dataclass(frozen=True)
class Fence:
    """Hold a block of code: the commands in it, and what each prints where the README shows that."""

    language: str
    commands: Mapping[str, tuple[str, ...]]


@cache
def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def fences(name: str) -> tuple[Fence, ...]:
    """Return the blocks of shell in a README."""
    found = []
    for language, body in _FENCE.findall(read(name)):
        commands: dict[str, list[str]] = {}
        last = ""
        for line in body.splitlines():
            if language == "sh" or line.startswith("$ "):
                last = line.removeprefix("$ ") if language == "console" else line
                commands[last] = []
            else:
                commands[last].append(line)
        found.append(Fence(language, {command: tuple(lines) for command, lines in commands.items()}))
    return tuple(found)


def spans(text: str) -> tuple[str, ...]:
    """Return the code in the text, but not what stands in blocks; in a table, `|` is written with a backslash."""
    prose = "\n".join(line for line in _FENCE.sub("", text).splitlines() if not line.startswith("    "))
    return tuple(dict.fromkeys(re.sub(r"\s*\n\s*", " ", span.replace("\\|", "|")) for span in _SPAN.findall(prose)))


def commands(name: str) -> tuple[str, ...]:
    """Return everything in a README that a reader would type into a shell, in its order."""
    text = read(name)
    typed = [command for fence in fences(name) for command in fence.commands]
    typed += [span for span in spans(text) if _COMMAND.match(span)]
    return tuple(dict.fromkeys(typed))


def printed(name: str, command: str) -> tuple[str, ...]:
    """Return what the README shows that a command prints."""
    return next(fence.commands[command] for fence in fences(name) if fence.commands.get(command))


def fence_of(name: str, command: str) -> tuple[str, ...]:
    """Return all commands of the block that has this one."""
    return next(tuple(fence.commands) for fence in fences(name) if command in fence.commands)


def sections(name: str) -> tuple[str, ...]:
    """Return a README's text cut before each heading."""
    return tuple(re.split(r"^(?=## )", read(name), flags=re.MULTILINE))


def tables(name: str) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """Return the tables in their order, each as rows of cells, the heading first."""
    found: list[list[tuple[str, ...]]] = []
    before = ""
    for line in read(name).splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append([])
            found[-1].append(tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]))
        before = line
    return tuple((rows[0], *rows[2:]) for rows in found)


REPLACED, OPTIONS, SETTINGS, STATUSES, TROUBLES, SPEED = range(6)


def rows(name: str, number: int) -> tuple[tuple[str, ...], ...]:
    """Return the rows of one of the tables, without its heading."""
    return tables(name)[number][1:]


def troubles(name: str) -> tuple[tuple[str, ...], ...]:
    return rows(name, TROUBLES)


def shape(line: str) -> str:
    """Return what is the same in every run that prints this line."""
    for pattern, word in _SHAPES:
        line = pattern.sub(word, line)
    return line.rstrip()


def same(shown: str, real: str) -> bool:
    """Tell whether a line of a README is what a command prints; `…` stands for anything."""
    pattern = ".*".join(re.escape(part) for part in shape(shown).split("…"))
    return re.fullmatch(pattern, shape(real)) is not None
