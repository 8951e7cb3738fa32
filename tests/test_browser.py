"""The demo as its reader sees it: what a real browser draws, before and after a model is removed.

A screenshot of the page is left in the folder that CI_ARTEFACTS names. The one in the README is made anew by

    DEMO_PORT=7860 CI_ARTEFACTS=docs .venv/bin/pytest -n 0 --basetemp /tmp/demo tests/test_browser.py
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.playground import DEADLINE_S, NEWEST, OLDER, needs_gradio, repo_folder
from tests.support import ROOT, START_APP, Done, Processes, Running, eventually, free_port, launcher

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium")
pytestmark = [
    needs_gradio,
    pytest.mark.skipif(not CHROMIUM, reason="chromium is not there: apt-get install chromium"),
    pytest.mark.skipif(
        not importlib.util.find_spec("playwright"), reason="playwright is not there: pip install -e '.[browser]'"
    ),
]
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # The page of some versions of Gradio names hosts outside; nothing but the app may answer here.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
GREEN, GREY = "rgb(16, 185, 129)", "rgb(148, 163, 184)"


@pytest.fixture
def page() -> Iterator[Page]:
    """Open a page in a browser with a profile of its own."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=DEADLINE_S * 1000)
    with sync_playwright() as driver:
        # Root, which CI often is, gets no sandbox from Chromium.
        browser = driver.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=os.geteuid() != 0, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1180, "height": 900})
        opened.set_default_timeout(DEADLINE_S * 1000)
        yield opened
        browser.close()


@pytest.fixture
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as the README has it: start_app.py, and the environment of the tests as `.venv`."""
    folder = tmp_path_factory.mktemp("start-app", numbered=False)
    (folder / "start_app.py").symlink_to(START_APP)
    (folder / "launcher").symlink_to(ROOT / "launcher")
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def complaints_of(page: Page, base: str) -> list[str]:
    """Collect the errors that the page itself makes; a font that is not fetched from outside is none."""
    found: list[str] = []

    def console(kind: str, text: str, url: str) -> None:
        if kind == "error" and url.startswith(base):
            found.append(f"{url}: {text}")

    page.on("console", lambda message: console(message.type, message.text, message.location["url"]))
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


def rows(page: Page) -> list[list[str]]:
    """Return the cells of the table that can be seen."""
    cells = page.locator('#cache-table [data-testid^="cell-"]:visible').all_inner_texts()
    return [[cell.strip() for cell in cells[start : start + 4]] for start in range(0, len(cells), 4)]


def bars(page: Page) -> dict[str, tuple[str, float]]:
    """Return what the chart has drawn: the colour and the height of each repo's bar, in pixels."""
    drawn = page.locator("#cache-chart svg [aria-roledescription=bar]").evaluate_all(
        "all => all.map(bar => [bar.getAttribute('aria-label'), getComputedStyle(bar).fill,"
        " bar.getBoundingClientRect().height])"
    )
    return {repo: (fill, height) for label, fill, height in drawn for repo in (NEWEST, OLDER) if repo in label}


def shown_pid(page: Page) -> int:
    facts = page.locator("#process .tts-facts div", has=page.get_by_text("pid", exact=True))
    return int(facts.locator("dd").inner_text())


def listening(port: int) -> set[int | None]:
    """Return who answers on a port, as the kernel has it."""
    found = psutil.net_connections("tcp")
    return {one.pid for one in found if one.status == psutil.CONN_LISTEN and one.laddr.port == port}


def await_page(running: Running, demo: tuple[str, ...], folder: Path) -> None:
    done = launcher(*demo, "wait", "--pid", str(running.pid), "--timeout", "90", cwd=folder, timeout=100)
    assert done.status == 0, done.err + running.err


@pytest.mark.timeout(240)
def test_a_browser_draws_which_model_runs_and_a_removed_one_is_gone_after_the_restart(
    processes: Processes, page: Page, clone: Path, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    port = int(os.environ.get("DEMO_PORT") or free_port())
    base = f"http://127.0.0.1:{port}"
    demo = ("--demo", "--port", str(port))
    playground = clone / "start_app_demo"
    complaints = complaints_of(page, base)

    def status() -> Done:
        return launcher(*demo, "status", "--json", cwd=clone)

    first = processes.start((clone / ".venv/bin/python", "start_app.py", *demo), cwd=clone)
    eventually(playground.exists, what=first.err)
    await_page(first, demo, clone)
    commits = {repo: (repo_folder(playground, repo) / "refs/main").read_text() for repo in (NEWEST, OLDER)}

    page.goto(base)
    expect(page.locator("#version .version")).to_have_text(f"●running {NEWEST} @ {commits[NEWEST][:7]}")
    expect(page.locator("#version .version")).to_be_visible()
    eventually(lambda: len(bars(page)) == 2 and len(rows(page)) == 2, DEADLINE_S, "two models are drawn")
    assert [row[:3] for row in rows(page)] == [[repo, "main", commits[repo][:7]] for repo in (OLDER, NEWEST)]
    assert {repo: fill for repo, (fill, _) in bars(page).items()} == {NEWEST: GREEN, OLDER: GREY}
    sizes = {row[0]: float(row[3].removesuffix(" kB")) for row in rows(page)}
    heights = {repo: height for repo, (_, height) in bars(page).items()}
    assert heights[NEWEST] > 40
    assert heights[OLDER] / heights[NEWEST] == pytest.approx(sizes[OLDER] / sizes[NEWEST], abs=0.02)

    found = status().json
    assert found["instance"]["pid"] == shown_pid(page) == first.pid
    assert listening(port) == {first.pid}
    mapped = {one["repo"]: one["commit"] for one in found["models"] if one["evidence"] == "mapped"}
    assert mapped == {NEWEST: commits[NEWEST]}
    artefacts = Path(os.environ.get("CI_ARTEFACTS") or tmp_path)
    artefacts.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=artefacts / "demo.png", full_page=True)
    assert complaints == []

    # As the reader does: the command that the page shows, in the folder that it names.
    expect(page.locator("#try h2")).to_have_text(f"try in another terminal, in {clone}")
    command = page.locator("#try code", has_text="--remove-model").inner_text()
    assert command.startswith(".venv/bin/python start_app.py --demo ")
    second = processes.start(shlex.split(command), cwd=clone)
    await_page(second, demo, clone)
    assert first.wait() == -signal.SIGTERM

    complaints.clear()  # an open page may say that its server went away
    page.reload()
    eventually(lambda: list(bars(page)) == [NEWEST] and len(rows(page)) == 1, DEADLINE_S, "one model is drawn")
    assert rows(page)[0][:3] == [NEWEST, "main", commits[NEWEST][:7]]
    assert bars(page)[NEWEST][0] == GREEN
    expect(page.locator("#version .version")).to_have_text(f"●running {NEWEST} @ {commits[NEWEST][:7]}")
    expect(page.locator("#cache-chart")).not_to_contain_text(OLDER)
    assert status().json["instance"]["pid"] == shown_pid(page) == second.pid != first.pid
    assert listening(port) == {second.pid}
    assert not repo_folder(playground, OLDER).exists()
    assert complaints == []
