"""Killed at any instant, a pull leaves the old or the new version whole and no child behind; the next one completes.

Half of the instants are moments in time, the other half steps on the file system, as in `test_cache_killed`.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cache.test_killed import Driver
from tests.support.apps import AppFolder, Processes, alive, eventually
from tests.support.pulled import FOLDER, MODEL, NEW, OLD, Pulled, children_of, pulled_app

ROUNDS = 20
"""For each of the two kinds of model."""


@pytest.fixture
def pulled(app: AppFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulled]:
    with pulled_app(app, tmp_path_factory.getbasetemp()) as made:
        yield made


def _workers(pulled: Pulled) -> list[int]:
    """Return the children of any launcher at work for this app: they are told its HF_HOME."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(word.endswith("worker.py") for word in process.info["cmdline"] or ()):
            try:
                if process.environ().get("HF_HOME", "").startswith(str(pulled.app.path)):
                    found.append(process.pid)
            except psutil.Error:
                continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", ["cached", "local_dir"])
def test_killed_at_any_instant_a_pull_leaves_one_version_whole_and_the_next_one_completes(
    kind: str, pulled: Pulled, tmp_path: Path
) -> None:
    if kind == "local_dir":
        pulled.bring_to_folder()
    pulled.lock_new(local_dir=FOLDER if kind == "local_dir" else None)
    template = tmp_path / "template"
    shutil.copytree(pulled.app.path, template, symlinks=True)
    argv = ["models", "pull", *pulled.app.arguments]

    def restore() -> None:
        shutil.rmtree(pulled.app.path)
        shutil.copytree(template, pulled.app.path, symlinks=True)

    def wrong() -> Iterator[str]:
        if kind == "cached":
            loaded = pulled.loads()
            if loaded not in (OLD, NEW):
                yield f"neither is whole: {loaded if not isinstance(loaded, dict) else sorted(loaded)}"
            if pulled.ref("start_app") and loaded != NEW:
                yield "the pin has moved before it was whole"
            yield from pulled.library.scan(pulled.cache)["warnings"]
        elif pulled.in_folder() not in (OLD, NEW):
            yield f"neither is whole: {sorted(pulled.in_folder())}"

    with Driver(pulled, tmp_path / "log") as driver:  # type: ignore[arg-type]
        undisturbed = []
        for _ in range(3):
            restore()
            undisturbed.append(driver.run(argv))
        log = (tmp_path / "log").read_text()
        assert all(undisturbed), log
        assert {one[0] for one in undisturbed if one} == {0}, log
        steps = undisturbed[0][1] if undisturbed[0] else 0
        seconds = statistics.median(one[2] for one in undisturbed if one)

        rng = random.Random(f"killed pull {kind}")
        half = ROUNDS // 2
        instants: list[dict[str, float]] = [{"step": step} for step in rng.sample(range(steps), min(steps, half))]
        instants += [{"seconds": rng.uniform(0, seconds * 1.02)} for _ in range(ROUNDS - len(instants))]
        killed = 0
        found: list[str] = []
        for number, instant in enumerate(instants):
            restore()
            killed += driver.run(argv, **instant) is None  # type: ignore[arg-type]
            eventually(lambda: not _workers(pulled), what="the worker's end")
            at = f"{kind} {instant}"
            if kind == "local_dir" and number % 2:
                launched = pulled.run("--", "--exit", "0")
                found += [] if launched.status == 0 else [f"{at}: launched: {launched.err}"]
            if kind == "cached" or number % 2:
                found += [f"{at}: killed: {one}" for one in wrong()]
            again = driver.run(argv)
            log = (tmp_path / "log").read_text()
            if not again or again[0]:
                found.append(f"{at}: again: {again}: {log}")
            now = pulled.loads() if kind == "cached" else pulled.in_folder()
            if now != NEW:
                found.append(f"{at}: again: not the new one: {log}")
            if os.path.exists(pulled.folder / ".cache" / "start_app"):
                found.append(f"{at}: again: left {sorted((pulled.folder / '.cache/start_app').rglob('*'))}")
        assert not found, f"{len(found)} in {len(instants)}:\n" + "\n".join(found[:6])
        assert killed >= half


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["/revision/", "/resolve/", "/cdn/"])
def test_the_child_that_speaks_to_hubs_ends_with_its_parent(stage: str, pulled: Pulled, processes: Processes) -> None:
    pulled.hub.fault(stage, "hang")
    pulled.mirror.fault(stage, "hang")
    if stage != "/revision/":
        pulled.lock_new()
    running = processes.launch("models", "pull", *pulled.app.arguments)
    hubs = (pulled.hub, pulled.mirror)
    eventually(lambda: any(asked.status == 0 for hub in hubs for asked in hub.requests), what="a hang")
    workers = children_of(running.pid)
    assert workers
    for pid in workers:
        processes.end_also(pid)
    running.process.kill()
    running.wait()
    eventually(lambda: not any(alive(pid) for pid in workers), what="the worker's end")
    assert pulled.loads(name=MODEL) == OLD


@pytest.mark.slow
def test_interrupted_by_the_keyboard_it_ends_and_leaves_the_old_version(pulled: Pulled, processes: Processes) -> None:
    pulled.lock_new()
    with pulled.mirror.held("/cdn/", 1000) as hold:
        running = processes.launch("models", "pull", *pulled.app.arguments)
        assert hold.reached.wait(30)
        workers = children_of(running.pid)
        running.process.send_signal(2)
        assert running.wait() == 130, running.err
        assert not any(alive(pid) for pid in workers)
    assert running.err.endswith("interrupted\n")
    assert pulled.loads() == OLD
    pulled.pulled()
    assert pulled.loads() == NEW
