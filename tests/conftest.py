from __future__ import annotations

import os
import shutil
import signal
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

from launcher.demo import make_playground
from launcher.system import state
from tests.support.apps import AppFolder, Processes, make_app
from tests.support.fuzz import USUAL
from tests.support.hub_cache import Library, Loads, Wanted

if TYPE_CHECKING:
    from tests.support.removal import Cached

# The normal run tries the same examples each time; the long one others, and begins with those that failed before.
# An example may start a process or write a tree, and the machine may be busy: none of them is timed.
_ALIKE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
settings.register_profile("default", _ALIKE, max_examples=USUAL, derandomize=True, database=None)
settings.register_profile("long", _ALIKE, max_examples=50 * USUAL)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


# As in a terminal: else an app that a test leaves behind looks like a child of pid 1 where that is one of our session.
if os.getpid() not in (os.getsid(0), os.getpgrp()):
    os.setsid()
# A job in the background of a script has these ignored, and so would every process that a test starts.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the slow tests too, and every case of each test")
    parser.addoption("--rest", action="store_true", help="run what a plain run leaves out of --all")
    parser.addoption("--case", type=int, help="of all tests run one case each: this one, counted round from 0")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if settings().max_examples > USUAL:
        for item in items:
            if is_hypothesis_test(getattr(item, "obj", None)):
                item.add_marker(pytest.mark.timeout(0))  # a property of the long profile takes its time
    chosen = _chosen(config, items)
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


def _chosen(config: pytest.Config, items: list[pytest.Item]) -> set[pytest.Item]:
    """Return the tests to run: all, one case each, or by default the first case of each fast one.

    What is named on the command line is run as it is named.
    """
    case = config.getoption("--case")
    named = any("::" in argument or argument.endswith(".py") for argument in config.args)
    if case is None and (config.getoption("--all") or named or config.getoption("keyword")):
        return set(items)
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if case is not None or not item.get_closest_marker("slow"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    if case is not None:
        return {several[case % len(several)] for several in cases.values()}
    # The cases of a unit test take milliseconds.
    usual = {
        item for name, several in cases.items() for item in (several if name.startswith("tests/unit/") else several[:1])
    }
    return set(items) - usual if config.getoption("--rest") else usual


@pytest.fixture(scope="session", autouse=True)
def no_state_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove the locks that tests with a read-only or hostile app folder leave in the user's own state folder."""
    yield
    ours = urllib.parse.quote(str(tmp_path_factory.getbasetemp()), safe="")
    for folder in state.folders(tmp_path_factory.getbasetemp())[1:]:
        for path in folder.parent.glob("*"):
            if path.name.startswith(ours):
                shutil.rmtree(path)


@pytest.fixture
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    started = Processes(tmp_path_factory.mktemp("output"))
    yield started
    started.close()


@pytest.fixture
def app(tmp_path: Path) -> AppFolder:
    return make_app(tmp_path / "app")


@pytest.fixture
def playground(tmp_path: Path) -> Path:
    folder = tmp_path / "playground"
    assert make_playground(folder)
    return folder


@pytest.fixture
def cached(app: AppFolder, tmp_path_factory: pytest.TempPathFactory) -> Cached:
    pytest.importorskip("huggingface_hub")
    from tests.support.removal import make_cached

    return make_cached(app, tmp_path_factory.getbasetemp())


@pytest.fixture
def hub(app: AppFolder) -> Path:
    """Return the app's own cache, empty, which its `.env` names."""
    app.write_env("HF_HUB_CACHE=./hub\n")
    folder = app.path / "hub"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def library() -> Iterator[Library]:
    """The library without a network; each question is answered by a new process."""
    pytest.importorskip("huggingface_hub")
    with Library() as library:
        yield library


@pytest.fixture
def loads(library: Library) -> Loads:
    """Return what loads offline of some repos."""

    def loads(cache: Path, *wanted: Wanted) -> list[dict[str, bytes] | None]:
        return [library.load(cache, repo, revision) for repo, revision, _ in wanted]

    return loads
