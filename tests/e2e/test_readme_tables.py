"""The READMEs name what there is, all of it and nothing else: commands, options, settings and exit statuses."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.arguments import COMMANDS, LAUNCH, parse
from launcher.arguments.table import OPTIONS, listed
from launcher.config import settings
from launcher.errors import ExitStatus, LauncherError

# Once these two are imported it is known which commands they run.
from tests.e2e import test_readme, test_readme_troubles  # noqa: F401
from tests.support import readme
from tests.support.apps import ROOT
from tests.support.readme_world import RUN, TOLD

# Settings that are read where a hub is asked, by no name that settings.py lists.
HUBS = {"HF_ENDPOINT_FALLBACK", "HF_TOKEN_FOR_MIRROR"}

# What is on the READMEs' lists and cannot be run here, each with the reason.
NOT_RUN = {
    ".venv/bin/python -m benchmarks": "it takes many minutes; .ci/run runs it",
    "dmesg | tail": "a container may not read the kernel's log",
    "loginctl enable-linger": "systemd-logind is nowhere in the tests",
}
# Which are the names of programs and their options rather than commands to be typed.
NAMES = {"docker run --init", "pip install", "systemctl --user", "uv run", "start-app --app-dir DIR"}
# What Gradio says, when it is started behind a proxy without the launcher.
GRADIOS = "When localhost is not accessible"
both = pytest.mark.parametrize("name", readme.READMES)


def words(cell: str) -> tuple[str, ...]:
    return readme.spans(cell)


@both
def test_the_table_has_every_option_by_each_of_its_names_and_no_other(name: str) -> None:
    told = [word.split()[0] for row in readme.rows(name, readme.OPTIONS) for word in words(row[0])]
    known = {option_name for _, names, _ in listed() for option_name in names}
    assert sorted(told) == sorted({*known, "zsh", "--"} - {"--version", "-h", "--help", "--quiet", "--verbose"})


@both
def test_a_default_in_the_table_of_options_is_the_one_that_help_tells(name: str) -> None:
    rows = {words(row[0])[0].split()[0]: row[1] for row in readme.rows(name, readme.OPTIONS)}
    for option in ("--stop-timeout", "--timeout", "--lines"):
        texts = dict.fromkeys(what for _, names, what in listed() if option in names)
        row = next(text for first, text in rows.items() if first == {"--lines": "-f"}.get(option, option))
        assert list(dict.fromkeys(re.findall(r"\d+", " ".join(texts)))) == re.findall(r"\d+", row), option


@both
def test_the_commands_are_those_that_there_are_in_the_order_of_help(name: str) -> None:
    listed = re.findall(r"^    start_app\.py ([a-z]+(?: [a-z]+)?)?", readme.read(name), re.MULTILINE)
    assert listed == ["", *(command for command in COMMANDS if command != LAUNCH)]


def taken(span: str) -> bool:
    """Tell whether some command takes these words."""
    for command in ("", *COMMANDS, "models lock REPO"):
        try:
            parse(shlex.split(f"{command} {span}"))
        except LauncherError:
            continue
        return True
    return False


@both
def test_every_end_of_a_command_is_one_that_the_command_line_takes(name: str) -> None:
    first = {command.split()[0] for command in COMMANDS}
    known = set(OPTIONS)
    table = {word for row in readme.rows(name, readme.OPTIONS) for word in words(row[0])}
    ends = [
        span
        for span in readme.spans(readme.read(name))
        if (span.startswith("-") or span.split()[0] in first) and span not in table | known | {"cache", "models"}
    ]
    assert len(ends) > 20
    assert [span for span in ends if not taken(span.replace("…", ""))] == []


@both
def test_the_exit_statuses_are_those_of_the_code(name: str) -> None:
    assert [row[0] for row in readme.rows(name, readme.STATUSES)] == [str(int(status)) for status in ExitStatus]


@both
def test_the_settings_are_those_that_the_code_reads(name: str) -> None:
    told = {word for row in readme.rows(name, readme.SETTINGS) for word in words(row[0])}
    assert told == {*settings.LAUNCHER_NAMES, *settings.ENDPOINT_NAMES, *HUBS, "HF_HOME", "HF_HUB_CACHE"}
    defaults = {words(row[0])[0]: row[2].strip("`") for row in readme.rows(name, readme.SETTINGS)}
    assert defaults["GRADIO_SERVER_PORT"] == settings.DEFAULT_PORT
    assert defaults["APP_SCRIPT"] == settings.DEFAULT_SCRIPT
    flags = {words(row[0])[0]: row[1].strip("`") for row in readme.rows(name, readme.SETTINGS)}
    assert {flag for flag in flags.values() if flag.startswith("--")} <= set(OPTIONS)


@both
def test_the_folders_that_are_resolved_are_named(name: str) -> None:
    text = readme.read(name)
    assert [path for path in settings.PATH_NAMES if path not in text and not path.startswith(("HF_", "HUGGING"))] == []


def test_the_example_has_every_setting_that_a_reader_is_to_choose() -> None:
    example = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    rows = readme.rows(readme.ENGLISH, readme.SETTINGS)
    told = {word for row in rows for word in words(row[0])}
    # Whom a mirror is compared with, and whether it gets the token, is no matter of an app's usual settings.
    assert told - example == {"HF_OFFICIAL_ENDPOINT", "HF_TOKEN_FOR_MIRROR"}


@both
def test_what_is_said_to_lie_in_this_repository_does(name: str) -> None:
    for path in ("deploy/", "deploy/Dockerfile", ".env.example", *readme.READMES):
        assert (ROOT / path).exists()
    for link in re.findall(r"\]\(([^)#]+)\)", readme.read(name)):
        assert link.startswith("http") or (ROOT / link).exists(), link


@both
def test_no_line_of_prose_is_wider_than_a_terminal(name: str) -> None:
    if name == readme.CHINESE:
        pytest.skip("a paragraph of Chinese is one line: a break would show as a blank")
    prose = re.sub(r"^```.*?^```$", "", readme.read(name), flags=re.MULTILINE | re.DOTALL).splitlines()
    assert [line for line in prose if len(line) > 120 and not line.startswith("|")] == []


def test_both_readmes_have_the_same_blocks_and_the_same_code_in_each_section() -> None:
    english, chinese = (readme.sections(name) for name in readme.READMES)
    assert len(english) == len(chinese)
    for ours, theirs in zip(english, chinese, strict=True):
        heading = theirs.splitlines()[0]
        assert set(readme.spans(ours)) - set(readme.spans(theirs)) == set(), heading
        # A sentence may name what stands in a block or in another sentence of the other language.
        more = set(readme.spans(theirs)) - set(readme.spans(ours))
        assert {span for span in more if span not in readme.read(readme.ENGLISH)} == set(), heading
    assert readme.fences(readme.ENGLISH) == readme.fences(readme.CHINESE)


def test_both_readmes_have_the_same_rows_in_each_table() -> None:
    english, chinese = (readme.tables(name) for name in readme.READMES)
    assert len(english) == len(chinese) == readme.SPEED + 1
    for ours, theirs in zip(english, chinese, strict=True):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert len(one) == len(other)
            assert set(readme.spans(one[0])) - set(readme.spans(other[0])) == set(), other
    for one, other in zip(english[readme.SPEED], chinese[readme.SPEED], strict=True):
        assert sorted(re.findall(r"\d[\d,.]*", " ".join(one))) == sorted(re.findall(r"\d[\d,.]*", " ".join(other)))


@both
def test_every_command_is_run_and_nothing_else(name: str) -> None:
    commands = set(readme.commands(name)) - NAMES - set(NOT_RUN)
    assert commands - set(RUN) == set(), "no test runs these"
    assert {command for command in RUN if command not in commands} == set(), f"these are not in {name}"
    assert set(NOT_RUN) <= set(readme.commands(name))
    for command, reason in NOT_RUN.items():
        print(f"not run: {command}: {reason}")


def test_what_is_not_run_is_at_least_there() -> None:
    for command in (*NOT_RUN, *NAMES):
        assert subprocess.run(("bash", "-nc", command)).returncode == 0
    assert ".venv/bin/python -m benchmarks " in (ROOT / ".ci" / "run").read_text()
    subprocess.run((sys.executable, "-c", "import benchmarks.__main__"), cwd=ROOT, check=True)


@both
def test_every_message_of_the_troubleshooting_table_is_told(name: str) -> None:
    messages = {span for row in readme.troubles(name) for span in readme.spans(row[0])}
    assert messages - {GRADIOS} == set(TOLD)
    blocks = importlib.util.find_spec("gradio")
    if blocks and blocks.origin:
        assert GRADIOS in Path(blocks.origin).with_name("blocks.py").read_text()
