"""An upgrade of models that kills the app leads back to the old ones: from the cache, and in a folder of the app's."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.service import outcomes
from tests.support.apps import START_APP, WEBUI, AppFolder, Done, Processes, eventually, get
from tests.support.pulled import CODEC, FOLDER, MODEL, NEW, OLD, OTHER, Pulled, pulled_app

# It reads its model where the hub library would, or in its own folder, and dies of a new one.
APP = WEBUI.replace(
    "time.sleep(args.load)\n",
    """
from pathlib import Path
hub = Path(os.environ.get("HF_HUB_CACHE") or os.environ["HF_HOME"] + "/hub") / "models--koge--index-tts-v23"
folder = Path("checkpoints")
if not folder.is_dir():
    folder = hub / "snapshots" / (hub / "refs/main").read_text()
config = (folder / "config.json").read_text()
print(config, flush=True)
if "new" in config:
    os.kill(os.getpid(), signal.SIGSEGV)
""",
)


@pytest.fixture
def pulled(app: AppFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulled]:
    with pulled_app(app, tmp_path_factory.getbasetemp()) as made:
        made.app.script.write_text(APP)
        yield made


def background(pulled: Pulled, processes: Processes, *words: str) -> Done:
    done = pulled.run("--background", *words)
    processes.end_also(pulled.app.lock_holder() or 0)
    return done


def environment_of(pulled: Pulled) -> dict[str, str]:
    """Return the environment of the app that serves."""
    page = get(pulled.app.port)
    assert page
    words = Path(f"/proc/{page.split()[1]}/environ").read_bytes().decode().split("\0")
    return dict(word.split("=", 1) for word in words if word)


@pytest.mark.slow
def test_a_new_commit_in_the_cache_that_kills_the_app_is_not_loaded_again(pulled: Pulled, processes: Processes) -> None:
    assert background(pulled, processes).status == 0
    (good,) = outcomes.read(pulled.app.path, pulled.app.port).good
    assert {model.repo: model.commit for model in good.models}[MODEL] == pulled.old
    done = background(pulled, processes, "--force-refresh")
    assert done.status == 75, done.err
    assert "SIGSEGV" in done.err
    assert f"{MODEL} @ {pulled.old[:7]}" in done.err
    assert environment_of(pulled)["HF_HUB_OFFLINE"] == "1"
    assert pulled.ref() == pulled.new  # refs stay as they are
    assert pulled.run("cache", "prune").status == 0
    assert pulled.loads(pulled.old) == OLD  # nothing points to it any more
    assert pulled.run("stop").status == 0
    done = background(pulled, processes, "--if-down")  # a person has stopped it: the new one is tried once more
    assert (done.status, bool(get(pulled.app.port))) == (75, True), done.err
    assert pulled.run("stop").status == 0
    assert pulled.run("cache", "remove", f"{MODEL}@{pulled.old}").status == 0
    done = background(pulled, processes, "--if-down")
    assert (done.status, get(pulled.app.port)) == (75, None)
    assert "is no longer in" in done.err


@pytest.mark.slow
def test_a_way_back_whose_model_is_gone_says_how_to_get_it_again(pulled: Pulled, processes: Processes) -> None:
    assert background(pulled, processes).status == 0
    assert pulled.run("stop").status == 0
    assert pulled.run("cache", "remove", MODEL).status == 0
    refused = pulled.run("rollback", "--background")
    assert refused.status == 78
    assert f"the last good set cannot be started: {MODEL} @ {pulled.old[:7]} is no longer in" in refused.err
    (hint,) = [line for line in refused.err.splitlines() if line.startswith("hint: ")]
    assert f" models lock {MODEL}@{pulled.old}; " in hint
    entries = pulled.run("history", "--json").json["entries"]
    assert (entries[-1]["action"], entries[-1]["what"]) == ("refuse", "rollback")
    assert pulled.run("models", "lock", f"{MODEL}@{pulled.old}").status == 0
    assert pulled.run("models", "pull").status == 0
    done = pulled.run("rollback", "--background")
    processes.end_also(pulled.app.lock_holder() or 0)
    assert done.status == 0, done.err
    assert pulled.loads(pulled.old) == OLD


@pytest.mark.slow
def test_a_way_back_shows_the_app_all_that_it_could_load_also_what_no_lock_pins(
    pulled: Pulled, processes: Processes
) -> None:
    pulled.lock(pulled.locked(pulled.old))
    assert background(pulled, processes).status == 0
    done = background(pulled, processes, "--", "--exit", "3")
    assert (done.status, bool(get(pulled.app.port))) == (75, True), done.err
    environment = environment_of(pulled)
    assert environment["HF_HUB_OFFLINE"] == "1"
    hub = Path(environment["HF_HUB_CACHE"])
    assert pulled.library.load(hub, MODEL) == OLD
    assert pulled.library.load(hub, OTHER) == CODEC


@pytest.mark.slow
def test_a_way_back_leads_into_the_cache_that_was_moved(pulled: Pulled, processes: Processes, tmp_path: Path) -> None:
    assert background(pulled, processes).status == 0
    assert pulled.run("stop").status == 0
    moved = pulled.run("cache", "move", tmp_path / "moved" / "hub")
    assert moved.status == 0, moved.err
    done = background(pulled, processes, "--force-refresh")
    assert (done.status, bool(get(pulled.app.port))) == (75, True), done.err
    (good,) = outcomes.read(pulled.app.path, pulled.app.port).good
    assert {model.path.rpartition("/")[0] for model in good.models} == {str(tmp_path / "moved" / "hub")}
    assert pulled.library.load(Path(environment_of(pulled)["HF_HUB_CACHE"]), MODEL) == OLD


@pytest.mark.slow
@pytest.mark.parametrize("how", ["launch", "pull"])
def test_a_new_commit_in_a_folder_of_the_apps_is_put_back_without_a_hub(
    how: str, pulled: Pulled, processes: Processes
) -> None:
    pulled.bring_to_folder()
    (pulled.folder / "my.wav").write_bytes(b"mine")
    pulled.lock(pulled.locked(pulled.old, local_dir=FOLDER))
    assert background(pulled, processes, "--locked").status == 0
    before = [len(hub.requests) for hub in (pulled.hub, pulled.mirror)]
    pulled.lock(pulled.locked(pulled.new, local_dir=FOLDER))
    if how == "pull":
        pulled.pulled()
        assert pulled.run("stop").status == 0
        done = background(pulled, processes, "--if-down", "--locked")
    else:
        done = background(pulled, processes, "--locked")
    hubs = zip((pulled.hub, pulled.mirror), before, strict=True)
    asked = [str(one) for hub, count in hubs for one in hub.requests[count:]]
    assert not [one for one in asked if pulled.old in one and "resolve" in one], "its files were downloaded"
    assert done.status == 75, done.err
    assert "SIGSEGV" in done.err
    assert get(pulled.app.port), done.err
    found = pulled.in_folder()
    assert found.pop("my.wav") == b"mine"
    assert {path: found.get(path) for path in OLD} == OLD
    assert not (pulled.folder / ".cache" / "start_app").exists()
    assert f'"commit": "{pulled.new}"' in (pulled.app.path / "models.lock").read_text()
    assert set(found) <= {*OLD, *NEW}
    assert os.path.exists(pulled.folder)


@pytest.mark.slow
def test_what_was_replaced_goes_once_the_new_one_is_ready(pulled: Pulled, processes: Processes) -> None:
    pulled.app.script.write_text(APP.replace('"new" in config', "False"))
    pulled.bring_to_folder()
    pulled.lock(pulled.locked(pulled.old, local_dir=FOLDER))
    assert background(pulled, processes, "--locked").status == 0
    pulled.lock(pulled.locked(pulled.new, local_dir=FOLDER))
    pulled.pulled()
    kept = pulled.folder / ".cache" / "start_app"
    assert [path.read_bytes() for path in kept.rglob("config.json")] == [OLD["config.json"]]
    assert background(pulled, processes, "--locked").status == 0
    assert not kept.exists()
    assert pulled.in_folder() == NEW


@pytest.mark.slow
@pytest.mark.parametrize("locked", [True, False])
@pytest.mark.parametrize("where", [None, FOLDER])
def test_a_unit_does_not_repeat_what_its_lock_has_brought(
    where: str | None, locked: bool, pulled: Pulled, processes: Processes
) -> None:
    if where:
        pulled.bring_to_folder()
    pulled.lock(pulled.locked(pulled.old, local_dir=where))
    pulled.set(APP_LOCKED="1" if locked else None)
    assert background(pulled, processes).status == 0
    pulled.lock(pulled.locked(pulled.new, local_dir=where))
    if not locked:
        pulled.pulled()
    assert pulled.run("stop").status == 0
    unit = ("sh", "-c", 'SYSTEMD_EXEC_PID=$$ exec "$@"', "sh", sys.executable, START_APP, *pulled.app.arguments)
    first = processes.start(unit)
    assert first.wait(60) == -signal.SIGSEGV, first.err
    second = processes.start(unit)
    eventually(lambda: get(pulled.app.port) or second.process.poll() is not None, 60, what="page")
    assert "rolling back to what ran well" in second.err
    assert get(pulled.app.port) == f"pid {second.pid}"
