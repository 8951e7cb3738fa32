"""A killed repair leaves what tells of the gap: nothing says that all is well, and a second one goes on."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cache.test_killed import Driver
from tests.support.apps import AppFolder, Processes, eventually
from tests.support.caches import flip
from tests.support.pulled import CODEC, MODEL, OLD, OTHER, Pulled, pulled_app

REPAIR = ("cache", "verify", "--repair")
INSTANTS = 24


@pytest.fixture
def pulled(app: AppFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulled]:
    with pulled_app(app, tmp_path_factory.getbasetemp()) as made:
        made.hub.freeze(MODEL, sha=made.old)
        made.mirror.freeze(MODEL, sha=made.old)
        yield made


def harm(pulled: Pulled, path: str = "gpt.safetensors", name: str = MODEL) -> None:
    commit = pulled.old if name == MODEL else pulled.other
    flip((pulled.repo(name) / "snapshots" / commit / path).resolve())


def lies(pulled: Pulled) -> Iterator[str]:
    """Yield what says that all is well although the model does not load as it was."""
    if pulled.loads() == OLD:
        return
    if pulled.ref() != pulled.old:
        yield f"refs/main is {pulled.ref()}"
    # That the content of a file is damaged, `models check` learns only with --verify.
    whole = all((pulled.repo() / "snapshots" / pulled.old / path).exists() for path in OLD)
    for words in (("cache", "verify"), *(() if whole else (("models", "check", MODEL),))):
        done = pulled.run(*words)
        if not done.status or "up to date" in done.out:
            yield f"{words}: {done.status}: {done.out}{done.err}"
    pulled.run("cache", "prune")
    if pulled.ref() != pulled.old or not os.path.lexists(pulled.repo() / "snapshots" / pulled.old / "gpt.safetensors"):
        yield "prune took what tells of the gap"


def test_killed_while_it_downloads_nothing_says_that_all_is_well(pulled: Pulled, processes: Processes) -> None:
    harm(pulled)
    with pulled.mirror.held("/cdn/", 1000) as hold:
        running = processes.launch(*REPAIR, *pulled.app.arguments)
        assert hold.reached.wait(30)
        running.process.kill()
        running.wait()
    assert f"pull: {MODEL} @ {pulled.old[:7]}: 1 file, 320.0 kB\n" in running.err
    assert pulled.loads() != OLD
    assert list(lies(pulled)) == []
    done = pulled.run(*REPAIR)
    assert done.status == 0, done.err
    assert pulled.loads() == OLD


@pytest.mark.slow
def test_killed_while_it_downloads_a_pull_brings_the_rest(pulled: Pulled, processes: Processes) -> None:
    harm(pulled)
    with pulled.mirror.held("/cdn/", 1000) as hold:
        running = processes.launch(*REPAIR, *pulled.app.arguments)
        assert hold.reached.wait(30)
        running.process.kill()
        running.wait()
    pulled.pulled(MODEL)
    assert pulled.loads() == OLD


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("listed", [True, False])
def test_killed_at_any_instant_nothing_says_that_all_is_well(listed: bool, pulled: Pulled, tmp_path: Path) -> None:
    harm(pulled)
    harm(pulled, "config.json")
    if not listed:  # as a library before 1.22 leaves it
        shutil.rmtree(pulled.repo() / "trees", ignore_errors=True)
    template = tmp_path / "template"
    shutil.copytree(pulled.app.path, template, symlinks=True)
    argv = [*REPAIR, *pulled.app.arguments]

    def restore() -> None:
        shutil.rmtree(pulled.app.path)
        shutil.copytree(template, pulled.app.path, symlinks=True)

    with Driver(pulled, tmp_path / "log") as driver:  # type: ignore[arg-type]
        restore()
        undisturbed = driver.run(argv)
        assert undisturbed and undisturbed[0] == 0, (tmp_path / "log").read_text()
        rng = random.Random(f"killed repair {listed}")
        instants: list[dict[str, float]] = [
            {"step": step} for step in rng.sample(range(undisturbed[1]), min(undisturbed[1], INSTANTS // 2))
        ]
        instants += [{"seconds": rng.uniform(0, undisturbed[2])} for _ in range(INSTANTS // 2)]
        found = []
        for instant in instants:
            restore()
            driver.run(argv, **instant)  # type: ignore[arg-type]
            found += [f"{instant}: {one}" for one in lies(pulled)]
            again = pulled.run(*REPAIR)
            if again.status or pulled.loads() != OLD:
                found.append(f"{instant}: again: {again.status}: {again.out}{again.err}")
        assert not found, f"{len(found)} in {len(instants)}:\n" + "\n".join(found[:6])


@pytest.mark.slow
def test_a_repo_that_is_gone_from_the_hubs_keeps_no_other_from_its_repair(pulled: Pulled) -> None:
    harm(pulled)
    harm(pulled, "semantic.safetensors", OTHER)
    gone = pulled.mirror.fault(f"/api/models/{OTHER}", 404)
    done = pulled.run(*REPAIR)
    assert done.status == 75, done.err
    assert f"skipped: {OTHER}@{pulled.other[:7]} cannot be fetched now, so nothing was removed: " in done.err
    assert (pulled.loads(), pulled.ref(name=OTHER)) == (OLD, pulled.other)
    gone.clear()
    assert pulled.run(*REPAIR).status == 0
    assert pulled.loads(name=OTHER) == CODEC


@pytest.mark.slow
def test_a_repo_in_use_keeps_no_other_from_its_repair(pulled: Pulled, processes: Processes) -> None:
    harm(pulled)
    harm(pulled, "semantic.safetensors", OTHER)
    reader = processes.start(("tail", "-f", pulled.repo(OTHER) / "snapshots" / pulled.other / "config.json"))
    eventually(lambda: reader.out)
    done = pulled.run(*REPAIR)
    assert done.status == 75, done.err
    assert pulled.loads() == OLD


@pytest.mark.slow
def test_a_missing_file_of_which_no_link_is_left_comes_back(pulled: Pulled) -> None:
    pulled.lock(pulled.locked(pulled.old))
    (pulled.repo() / "snapshots" / pulled.old / "gpt.safetensors").unlink()
    assert pulled.run("cache", "verify").status == 65
    done = pulled.run(*REPAIR)
    assert done.status == 0, done.err
    assert pulled.loads() == OLD
    assert pulled.run("cache", "verify").status == 0


@pytest.mark.slow
def test_a_download_that_broke_off_is_finished_where_no_list_is_here(pulled: Pulled) -> None:
    shutil.rmtree(pulled.repo() / "trees", ignore_errors=True)
    path = pulled.repo() / "snapshots" / pulled.old / "gpt.safetensors"
    path.resolve().rename(f"{path.resolve()}.incomplete")
    path.unlink()
    assert pulled.run("cache", "verify").status == 65
    done = pulled.run(*REPAIR)
    assert done.status == 0, done.err
    assert pulled.loads() == OLD
    assert pulled.run("cache", "verify").status == 0
