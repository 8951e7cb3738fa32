"""The demo as its reader sees it: what a real browser draws, before and after a model is removed.

A screenshot of the page is left in the folder that CI_ARTEFACTS names. The one in the README is made anew by

    DEMO_PORT=7860 CI_ARTEFACTS=docs .venv/bin/pytest -n 0 --basetemp /tmp/demo tests/e2e/test_browser.py
"""

from __future__ import annotations

import importlib.util
import io
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

from tests.support.apps import ROOT, START_APP, Done, Processes, Running, eventually, free_port, launcher
from tests.support.playground import DEADLINE_S, NEWEST, OLDER, needs_gradio, repo_folder

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
RUNNING, IDLE = (16, 185, 129), (148, 163, 184)
BAR = 5_000
"""More pixels than the key of a colour has, and fewer than a bar."""


@pytest.fixture
def page() -> Iterator[Page]:
    """Open a page in a browser with a profile of its own."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=DEADLINE_S * 1000)
    with sync_playwright() as driver:
        # Chromium gives root, and a user in most containers, no sandbox; the page is our own.
        browser = driver.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=False, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1180, "height": 900})
        opened.set_default_timeout(DEADLINE_S * 1000)
        yield opened
        browser.close()


@pytest.fixture
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as the README has it: start_app.py, and the environment of the tests as `.venv`."""
    folder = tmp_path_factory.mktemp("src", numbered=(tmp_path_factory.getbasetemp() / "src").exists())
    (folder / "start_app.py").symlink_to(START_APP)
    (folder / "launcher").symlink_to(ROOT / "launcher")
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def complaints_of(page: Page, base: str) -> list[str]:
    """Collect the errors that the page itself makes; a font that is not fetched from outside is none."""
    found: list[str] = []

    def console(kind: str, text: str, url: str) -> None:
        asked_in_vain = url == f"{base}/config" and "ERR_CONNECTION_REFUSED" in text  # whether it still answers
        if kind == "error" and url.startswith(base) and not asked_in_vain:
            found.append(f"{url}: {text}")

    page.on("console", lambda message: console(message.type, message.text, message.location["url"]))
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


def rows(page: Page) -> list[list[str]]:
    """Return the cells of the table that can be seen."""
    cells = page.locator('#cache-table [data-testid^="cell-"]:visible').all_inner_texts()
    return [[cell.strip() for cell in cells[start : start + 4]] for start in range(0, len(cells), 4)]


def painted(page: Page) -> tuple[int, int]:
    """Return how many pixels of the chart have the colour of what runs, and how many that of what does not."""
    from PIL import Image

    image = Image.open(io.BytesIO(page.locator("#cache-chart").screenshot())).convert("RGB")
    count = {colour: pixels for pixels, colour in image.getcolors(image.width * image.height) or ()}
    return count.get(RUNNING, 0), count.get(IDLE, 0)


def drawn(page: Page, models: int) -> tuple[list[list[str]], tuple[int, int]]:
    """Wait until so many models are in the table and in the chart; return what was seen of both."""

    def look() -> tuple[list[list[str]], tuple[int, int]] | None:
        seen = rows(page), painted(page)
        return seen if len(seen[0]) == sum(pixels > BAR for pixels in seen[1]) == models else None

    return eventually(look, DEADLINE_S, f"{models} models are drawn")


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


@pytest.mark.slow
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
    table, (running, idle) = drawn(page, 2)
    assert [row[:3] for row in table] == [[repo, "main", commits[repo][:7]] for repo in (OLDER, NEWEST)]
    older, newest = (float(row[3].removesuffix(" kB")) for row in table)
    assert idle / running == pytest.approx(older / newest, abs=0.03)

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
    ((*model, _),), (running, idle) = drawn(page, 1)
    assert model == [NEWEST, "main", commits[NEWEST][:7]]
    assert running and not idle
    expect(page.locator("#version .version")).to_have_text(f"●running {NEWEST} @ {commits[NEWEST][:7]}")
    assert status().json["instance"]["pid"] == shown_pid(page) == second.pid != first.pid
    assert listening(port) == {second.pid}
    assert not repo_folder(playground, OLDER).exists()
    assert complaints == []


def test_a_phone_shows_it_all_and_the_page_notices_that_its_instance_has_stopped(
    processes: Processes, page: Page, clone: Path, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    port = free_port()
    base = f"http://127.0.0.1:{port}"
    demo = ("--demo", "--port", str(port))
    first = processes.start((clone / ".venv/bin/python", "start_app.py", *demo), cwd=clone)
    eventually((clone / "start_app_demo").exists, what=first.err)
    await_page(first, demo, clone)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=base)
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(base)
    eventually(lambda: len(rows(page)) == 2, DEADLINE_S, "the table")
    artefacts = Path(os.environ.get("CI_ARTEFACTS") or tmp_path)
    page.screenshot(path=artefacts / "demo-390.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for box in (one.bounding_box() for one in page.locator("#try li code, #try li button, .tts-card").all()):
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390

    step = page.locator("#try li", has_text="cache list")
    step.locator("button.copy").click()
    expect(step.locator("button.copy")).to_have_text("copied")
    assert page.evaluate("navigator.clipboard.readText()") == step.locator("code").inner_text()

    expect(page.locator("#try code", has_text="--remove-model")).to_have_count(1)
    shutil.rmtree(repo_folder(clone / "start_app_demo", OLDER))
    page.locator("#refresh").click()
    expect(page.locator("#try code", has_text="--remove-model")).to_have_count(0)

    assert launcher(*demo, "stop", cwd=clone).status == 0
    expect(page.locator("#tts-gone")).to_contain_text("This instance has stopped. To start it: ")
    second = processes.start((clone / ".venv/bin/python", "start_app.py", *demo), cwd=clone)
    await_page(second, demo, clone)
    expect(page.locator("#tts-gone")).to_contain_text(f"Another instance runs here now, pid {second.pid}.")
    page.locator("#tts-gone button").click()
    eventually(lambda: shown_pid(page) == second.pid, DEADLINE_S, "the new page")
    expect(page.locator("#tts-gone")).to_be_empty()
