"""README and docs/ name what there is, all of it and nothing else: commands, settings, messages and exit statuses."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measure import HEADINGS
from launcher.arguments import COMMANDS, parse
from launcher.config import settings
from launcher.errors import ExitStatus, LauncherError

# Once these are imported it is known which commands they run.
from tests.e2e import (  # noqa: F401
    test_readme,
    test_readme_demo,
    test_readme_install,
    test_readme_tasks,
    test_readme_troubles,
)
from tests.support import readme
from tests.support.apps import ROOT
from tests.support.readme_world import RUN, TOLD

# Settings that are read where a hub is asked, by no name that settings.py lists.
HUBS = {"HF_ENDPOINT_FALLBACK", "HF_TOKEN_FOR_MIRROR"}

# What is in the pages and cannot be run here, each with the reason.
NOT_RUN = {
    ".venv/bin/python -m benchmarks": "it takes many minutes; .ci/run runs it with --quick",
    ".venv/bin/python -m benchmarks --quick": "it takes minutes; .ci/run runs it",
    "start_app.py --if-down --background -q": "tests/launch/test_rollback.py runs it",
    "start_app.py --force-refresh --background": "tests/launch/test_models.py refreshes, and no app is upgraded here",
    "start_app.py rollback --background": "tests/launch/test_rollback.py runs it",
    "start_app.py rollback": "tests/launch/test_rollback.py runs it",
    "start_app.py unit --supervisord": "tests/service/test_way_back.py has a real supervisord read it",
    "dmesg | tail": "a container may not read the kernel's log",
    "loginctl enable-linger": "systemd-logind is nowhere in the tests",
    "pipx install .": "pipx is nowhere in the tests; uv installs in the same way",
    "pipx install --force .": "pipx is nowhere in the tests; uv installs in the same way",
}
# Names of programs and their options rather than commands to be typed.
NAMES = {"docker run --init", "pip install", "systemctl --user", "uv run", "start_app.py --app-dir DIR"}
# What Gradio says, when it is started behind a proxy without the launcher.
GRADIOS = "When localhost is not accessible"
every_page = pytest.mark.parametrize("name", (*readme.PAGES, *readme.TRANSLATED))


def both(page: str) -> pytest.MarkDecorator:
    """Have a test look at a page and at its translation."""
    return pytest.mark.parametrize("name", next(pair for pair in readme.PAIRS if page in pair))


def taken(span: str) -> bool:
    """Return whether some command takes these words, or this option with a value."""
    values = ("", " 7860", " 30d", " 50G") if re.fullmatch(r"--[a-z-]+", span) else ("",)
    for command, value in itertools.product(("", *COMMANDS, "models lock REPO"), values):
        try:
            parse(shlex.split(f"{command} {span}{value}"))
        except LauncherError:
            continue
        return True
    return False


@every_page
def test_every_command_and_every_end_of_one_is_one_that_the_command_line_takes(name: str) -> None:
    first = {command.split()[0] for command in COMMANDS}
    called = {command.removeprefix("start_app.py ") for command in readme.commands(name) if "start_app.py " in command}
    called = {re.split(r" [|&>] ?", command)[0] for command in called if not command.startswith(("python", ".venv"))}
    ends = {
        span
        for span in readme.spans(readme.read(name))
        if (span.startswith("-") or span.split()[0] in first) and span not in ("cache", "models", "--")
    }
    wanted = {re.sub(r"\b(DIR|FILE|GLOB|SECONDS)\b", "x", span.replace("…", "")) for span in ends | called}
    foreign = {span for span in wanted if "start_app.py" in span or span.startswith("--with")}
    assert [span for span in sorted(wanted - foreign) if not taken(span)] == []


@both(readme.TROUBLESHOOTING)
def test_the_exit_statuses_are_those_of_the_code(name: str) -> None:
    assert [row[0] for row in readme.statuses(name)] == [str(int(status)) for status in ExitStatus]


@both(readme.SETTINGS)
def test_the_settings_are_those_that_the_code_reads(name: str) -> None:
    rows = readme.settings(name)
    told = {word for row in rows for word in readme.spans(row[0])}
    assert told == {*settings.LAUNCHER_NAMES, *settings.ENDPOINT_NAMES, *HUBS, "HF_HOME", "HF_HUB_CACHE"}
    defaults = {readme.spans(row[0])[0]: row[2].strip("`") for row in rows}
    assert defaults["GRADIO_SERVER_PORT"] == settings.DEFAULT_PORT
    assert defaults["APP_SCRIPT"] == settings.DEFAULT_SCRIPT
    flags = {flag for row in rows if (flag := row[1].strip("`")).startswith("--")}
    assert [flag for flag in flags if not taken(flag)] == []


@both(readme.SETTINGS)
def test_the_folders_that_are_resolved_are_named(name: str) -> None:
    text = readme.read(name)
    assert [path for path in settings.PATH_NAMES if path not in text and not path.startswith(("HF_", "HUGGING"))] == []


def test_the_example_has_every_setting_that_a_reader_is_to_choose() -> None:
    example = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    told = {word for row in readme.settings() for word in readme.spans(row[0])}
    # Whom a mirror is compared with, and whether it gets the token, is rarely an app's own choice.
    assert told - example == {"HF_OFFICIAL_ENDPOINT", "HF_TOKEN_FOR_MIRROR"}


def test_the_table_of_benchmarks_is_one_that_they_print() -> None:
    table = readme.tables(readme.BENCHMARKS)[0]
    assert table[0] == tuple(HEADINGS)
    assert re.search(r"Measured on \d{4}-\d\d-\d\d", readme.read(readme.BENCHMARKS))


def test_every_command_is_run_or_its_reason_is_listed() -> None:
    commands = {command for name in readme.PAGES for command in readme.commands(name)}
    assert commands - NAMES - set(NOT_RUN) - set(RUN) == set(), "no test runs these"
    assert set(RUN) - commands == set(), "no page has these"
    assert (NAMES | set(NOT_RUN)) - commands == set(), "no page has these"
    for command, reason in NOT_RUN.items():
        print(f"not run: {command}: {reason}")


@pytest.mark.parametrize("name", readme.TRANSLATED)
def test_a_translation_has_no_command_of_its_own(name: str) -> None:
    commands = {command for page in readme.PAGES for command in readme.commands(page)}
    assert set(readme.commands(name)) - commands == set()


def test_what_is_not_run_is_at_least_there() -> None:
    for command in (*NOT_RUN, *NAMES):
        assert subprocess.run(("bash", "-nc", command)).returncode == 0
    assert ".venv/bin/python -m benchmarks --quick" in (ROOT / ".ci" / "run").read_text()
    subprocess.run((sys.executable, "-c", "import benchmarks.__main__"), cwd=ROOT, check=True)


@both(readme.TROUBLESHOOTING)
def test_every_message_of_the_troubleshooting_page_is_seen_by_a_test(name: str) -> None:
    messages = {span for row in readme.troubles(name) for span in readme.spans(row[0])}
    assert messages - {GRADIOS} == set(TOLD)
    blocks = importlib.util.find_spec("gradio")
    if blocks and blocks.origin:
        assert GRADIOS in Path(blocks.origin).with_name("blocks.py").read_text()
