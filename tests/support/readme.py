"""What the READMEs and the pages of docs/ say, taken apart: their commands, what those print, and their tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from tests.support.apps import ROOT

ENGLISH, CHINESE = READMES = ("README.md", "README.zh-CN.md")
# Made from the parser of the command line, whose own tests parse every example in it.
GENERATED = ("docs/commands.md",)


def _pages(folder: str) -> tuple[str, ...]:
    found = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / folder).glob("*.md"))
    return tuple(name for name in found if name not in GENERATED)


PAGES = (ENGLISH, *_pages("docs"))
TRANSLATED = (CHINESE, *_pages("docs/zh-CN"))
PAIRS = tuple((name.replace("docs/zh-CN/", "docs/").replace(CHINESE, ENGLISH), name) for name in TRANSLATED)
QUICK_START, SETTINGS, TROUBLESHOOTING, BENCHMARKS = (
    f"docs/{name}.md" for name in ("quickstart", "settings", "troubleshooting", "benchmarks")
)

# A code span that begins like this is a command to be typed; `--demo stop` and `models lock` are ends of one.
_COMMAND = re.compile(
    r"(start_app\.py|\.venv/bin/(python|pip|pytest|nox|pre-commit)|start-app|cp|uv|pip|pipx|python3|sudo|ss|systemctl"
    r"|loginctl|eval|docker|dmesg|~/start-app/bin/\S+) \S"
)
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_REMARK = re.compile(r" {2}# .*$")
# The ways to call the launcher, which the pages call start_app.py.
_CALLED = re.compile(r"^(\.venv/bin/python start_app\.py|start-app)(?=$| )")

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
    """Hold a block of shell: the commands in it, and what each prints where the page shows that."""

    language: str
    commands: Mapping[str, tuple[str, ...]]


@cache
def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def fences(name: str) -> tuple[Fence, ...]:
    """Return the blocks of shell in a page. A remark at the end of a shown line is the page's own."""
    found = []
    for language, body in _FENCE.findall(read(name)):
        if language not in ("sh", "console"):
            continue
        commands: dict[str, list[str]] = {}
        last = ""
        for line in body.splitlines():
            if language == "sh" or line.startswith("$ "):
                last = line.removeprefix("$ ") if language == "console" else line
                commands[last] = []
            else:
                commands[last].append(_REMARK.sub("", line))
        found.append(Fence(language, {command: tuple(lines) for command, lines in commands.items()}))
    return tuple(found)


def blocks(name: str) -> tuple[str, ...]:
    """Return the blocks of all languages without their remarks, which each language of the pages has its own of."""
    return tuple(
        "\n".join(_REMARK.sub("", line) for line in body.splitlines()) for _, body in _FENCE.findall(read(name))
    )


def spans(text: str) -> tuple[str, ...]:
    """Return the code in the text, but not what stands in blocks; in a table, `|` is written with a backslash."""
    prose = "\n".join(line for line in _FENCE.sub("", text).splitlines() if not line.startswith("    "))
    return tuple(dict.fromkeys(re.sub(r"\s*\n\s*", " ", span.replace("\\|", "|")) for span in _SPAN.findall(prose)))


def typed(command: str) -> str:
    """Return a command of the launcher under the one name that the pages have for it."""
    return _CALLED.sub("start_app.py", command)


def commands(name: str) -> tuple[str, ...]:
    """Return everything in a page that a reader would type into a shell, in its order, by `typed`."""
    text = read(name)
    found = [command for fence in fences(name) for command in fence.commands]
    found += [span for span in spans(text) if _COMMAND.match(span)]
    return tuple(dict.fromkeys(typed(command) for command in found))


def all_fences() -> Iterator[Fence]:
    """Return the blocks of shell of all English pages."""
    return (fence for name in PAGES for fence in fences(name))


def printed(command: str) -> tuple[str, ...]:
    """Return what a page shows that a command prints."""
    return next(fence.commands[command] for fence in all_fences() if fence.commands.get(command))


def fence_of(*commands: str) -> tuple[str, ...]:
    """Return all commands of the block that has these."""
    return next(tuple(fence.commands) for fence in all_fences() if set(commands) <= set(fence.commands))


def sections(name: str) -> tuple[str, ...]:
    """Return a page's text cut before each heading."""
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


def settings(name: str = SETTINGS) -> tuple[tuple[str, ...], ...]:
    """Return the rows of the table of settings."""
    return tables(name)[0][1:]


def troubles(name: str = TROUBLESHOOTING) -> tuple[tuple[str, ...], ...]:
    """Return the rows of the table of messages."""
    return tables(name)[0][1:]


def statuses(name: str = TROUBLESHOOTING) -> tuple[tuple[str, ...], ...]:
    """Return the rows of the table of exit statuses."""
    return tables(name)[1][1:]


def anchors(name: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", read(name)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(name: str) -> tuple[tuple[str, str], ...]:
    """Return the links of a page, each as its path (empty: this page) and its anchor (empty: none)."""
    found = re.findall(r"\]\(([^)\s]*)\)", _FENCE.sub("", read(name)))
    return tuple((link.partition("#")[0], link.partition("#")[2]) for link in found)


def shape(line: str) -> str:
    """Return what is the same in every run that prints this line."""
    for pattern, word in _SHAPES:
        line = pattern.sub(word, line)
    return line.rstrip()


def same(shown: str, real: str) -> bool:
    """Return whether a line of a page is what a command prints; `…` stands for anything."""
    pattern = ".*".join(re.escape(part) for part in shape(shown).split("…"))
    return re.fullmatch(pattern, shape(real)) is not None
