"""Help fits the screen, shows a command's own options, and docs/commands.md is made from the same table."""

from __future__ import annotations

import re
import sys
import unicodedata
from importlib import metadata
from pathlib import Path

import pytest

from launcher import __version__
from launcher.arguments.table import ALIASES, COMMANDS, COMMON, GROUPS, MOST_USED, TABLE
from launcher.commands import help as helping
from launcher.errors import ExitStatus
from tests.support.apps import clean_environment, launcher
from tools.reference import PAGE, reference

TOPICS = ("", *GROUPS, *COMMANDS)


def columns(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in line)


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("width", [60, 80, 200])
def test_help_fits_the_width_but_for_the_one_thing_that_is_to_be_pasted(topic: str, width: int) -> None:
    for line in helping.text(topic, "start_app.py", width).splitlines():
        assert columns(line) <= width or line.startswith(("  start_app.py ", "usage: ")), line
        assert line == line.rstrip()


def test_the_first_screen_fits_forty_lines_of_eighty_columns(tmp_path: Path) -> None:
    done = launcher("--help", cwd=tmp_path, env=clean_environment(COLUMNS="80"))
    lines = done.out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert "start_app.py COMMAND --help" in done.out
    for name in COMMANDS:
        group, _, word = name.rpartition(" ")
        assert any(line.split()[:1] == [group or word] and word in line for line in lines), name
    for option in MOST_USED:
        assert f"  {option.label}  " in done.out
    for status in ExitStatus:
        assert re.search(rf"(^|[ :]){int(status)} \w", done.out, re.MULTILINE), status


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_shows_its_options_in_groups_and_no_other_and_two_examples(name: str) -> None:
    pages = {
        launcher(*words).out for words in ((*name.split(), "--help"), ("help", *name.split()), ("-h", *name.split()))
    }
    assert len(pages) == 1
    page = pages.pop()
    assert page.startswith(f"usage: start_app.py {TABLE[name].usage}\n")
    shown = set(re.findall(r"^ +(?:-\w, )?(--[a-z-]+)", page, re.MULTILINE))
    assert shown == {option.names[-1] for option in TABLE[name].options}
    for heading in (*TABLE[name].groups, *COMMON, "examples"):
        assert f"\n{heading}:\n" in page
    examples = page.partition("\nexamples:\n")[2]
    assert len(re.findall(r"^  start_app\.py", examples, re.MULTILINE)) == 2


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_alone_lists_its_commands(group: str) -> None:
    asked = ((group,), (group, "--help"), ("help", group), (group, "help"), (group, "--json"), ("-v", group))
    pages = [launcher(*words) for words in asked]
    assert {(done.status, done.err) for done in pages} == {(0, "")}
    assert len({done.out for done in pages}) == 1
    for name, summary in COMMANDS.items():
        if name.startswith(f"{group} "):
            assert re.search(rf"^  {name.split()[1]} +{re.escape(summary[:30])}", pages[0].out, re.MULTILINE)
    assert f"start_app.py {group} COMMAND --help" in pages[0].out


def test_help_is_given_for_a_short_name_and_refused_for_what_is_no_command() -> None:
    for alias, name in ALIASES.items():
        for command in (command for command in COMMANDS if command.split()[-1] == name):
            words = (*command.split()[:-1], alias)
            assert (
                launcher("help", *words).out == launcher(*words, "--help").out == launcher("help", *command.split()).out
            )
    for words in (("help", "frob"), ("help", "cache", "frob"), ("help", "status", "stop"), ("frob", "--help")):
        done = launcher(*words)
        assert (done.status, done.out) == (2, "")
        assert done.err.startswith("unknown command")


def test_help_comes_before_everything_that_may_be_wrong(tmp_path: Path) -> None:
    for line in ("cache remove -h", "--port 0 -h", "cache prune --older-than 3 -h", "-q -v -h", "status --frob -h"):
        done = launcher(*line.split(), cwd=tmp_path)
        assert (done.status, done.err) == (0, ""), line
        assert done.out.startswith("usage: ")


def test_the_installed_command_is_called_by_its_name_in_its_help() -> None:
    for topic in TOPICS:
        text = helping.text(topic, "start-app", 80)
        assert text.startswith("usage: start-app ")
        assert "start_app.py" not in text


def test_a_verbose_version_names_the_libraries_of_this_environment_without_importing_them() -> None:
    done = launcher("--version", "-v", python=(sys.executable, "-X", "importtime"))
    lines = done.out.splitlines()
    assert lines[0] == f"start_app.py {__version__}"
    assert lines[1] == f"Python {sys.version.split()[0]} ({sys.executable})"
    for line, (distribution, name) in zip(
        lines[2:], (("psutil", "psutil"), ("huggingface_hub", "huggingface_hub"), ("gradio", "Gradio")), strict=True
    ):
        try:
            assert line == f"{name} {metadata.version(distribution)}"
        except metadata.PackageNotFoundError:
            assert line == f"{name} not installed"
    imported = {entry.rsplit("|", 1)[1].strip() for entry in done.err.splitlines() if entry.startswith("import time:")}
    assert not imported & {"psutil", "huggingface_hub", "gradio", "dotenv"}
    assert launcher("-v", "--version").out == done.out
    assert launcher("--version").out == f"start_app.py {__version__}\n"


def test_the_page_of_commands_is_the_one_that_the_table_makes() -> None:
    assert PAGE.read_text() == reference(), "run: python -m tools.reference"
