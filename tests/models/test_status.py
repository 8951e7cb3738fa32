"""Which model runs is told by evidence; what no lock names is pruned; what is damaged is fetched again and no more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest

from tests.support.apps import AppFolder, Processes
from tests.support.caches import HAS_STORE, flip
from tests.support.hub import Hub
from tests.support.pulled import CODEC, FOLDER, LOADING, MODEL, NEW, OLD, OTHER, Pulled, clear_cache, pulled_app
from tests.support.removal import everything


@pytest.fixture
def pulled(app: AppFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulled]:
    with pulled_app(app, tmp_path_factory.getbasetemp()) as made:
        yield made


def _models(pulled: Pulled) -> dict[str, dict[str, object]]:
    done = pulled.run("status", "--json")
    assert done.status == 0, done.err
    return {one["repo"]: one for one in done.json["models"]}


MAPPING = ("--load", MODEL, "--map", "gpt.safetensors")


@pytest.mark.slow
def test_a_mapped_model_is_told_by_its_file_and_one_that_is_not_by_the_record(
    pulled: Pulled, processes: Processes
) -> None:
    pulled.mirror.freeze(MODEL, sha=pulled.old)
    pulled.app.script.write_text(LOADING)
    pulled.start(processes, "--", *MAPPING)
    found = _models(pulled)
    assert found[MODEL] == {
        "repo": MODEL,
        "commit": pulled.old,
        "evidence": "mapped",
        "on_disk": pulled.old,
        "changed": False,
    }
    assert (found[OTHER]["commit"], found[OTHER]["evidence"]) == (pulled.other, "lock record")
    text = pulled.run("status").out
    assert f"model: {MODEL} @ {pulled.old[:7]} (mapped: gpt.safetensors)" in text
    assert f"model: {OTHER} @ {pulled.other[:7]} (on the disk when it started)" in text


@pytest.mark.slow
@pytest.mark.parametrize("mapped", [True, False])
def test_that_the_disk_has_changed_since_the_start_is_told(mapped: bool, pulled: Pulled, processes: Processes) -> None:
    pulled.mirror.freeze(MODEL, sha=pulled.old)
    pulled.app.script.write_text(LOADING)
    pulled.start(processes, "--", *(MAPPING if mapped else ()))
    pulled.pulled()
    found = _models(pulled)[MODEL]
    assert (found["commit"], found["on_disk"], found["changed"]) == (pulled.old, pulled.new, True)
    assert found["evidence"] == ("mapped" if mapped else "lock record")
    assert f"the disk has {pulled.new[:7]} now, which a restart loads" in pulled.run("status").out


@pytest.mark.slow
def test_the_files_that_are_mapped_say_more_than_the_record(pulled: Pulled, processes: Processes) -> None:
    """An app that is not locked may have loaded another commit than the cache had when it was started."""
    pulled.app.script.write_text(LOADING)
    pulled.set(HF_ENDPOINT=pulled.hub.endpoint)
    running = pulled.start(processes, "--", *MAPPING)
    assert running.hello()["loaded"][MODEL]["commit"] == pulled.new
    found = _models(pulled)[MODEL]
    assert (found["commit"], found["evidence"], found["changed"]) == (pulled.new, "mapped", False)


@pytest.mark.slow
def test_a_model_that_the_lock_does_not_name_is_compared_with_the_cache(pulled: Pulled, processes: Processes) -> None:
    pulled.mirror.freeze(MODEL, sha=pulled.old)
    pulled.app.script.write_text(LOADING)
    pulled.start(processes, "--", *MAPPING)
    (pulled.app.path / "models.lock").write_text('{"version": 1, "models": []}')
    found = _models(pulled)[MODEL]
    assert (found["on_disk"], found["changed"]) == (found["commit"], False)


@pytest.mark.slow
def test_a_model_that_was_removed_under_the_app_is_told_as_such(pulled: Pulled, processes: Processes) -> None:
    pulled.mirror.freeze(MODEL, sha=pulled.old)
    pulled.app.script.write_text(LOADING)
    pulled.start(processes, "--", *MAPPING)
    assert pulled.run("cache", "remove", MODEL, "--force").status == 0
    assert not pulled.repo().exists()
    found = _models(pulled)[MODEL]
    assert (found["on_disk"], found["changed"]) == (None, True)
    assert "the disk has no commit of it now" in pulled.run("status").out


@pytest.mark.slow
def test_a_locked_instance_is_not_said_to_change_at_its_next_start(pulled: Pulled, processes: Processes) -> None:
    pulled.app.script.write_text(LOADING)
    pulled.lock(pulled.locked(pulled.old))
    pulled.start(processes, "--locked")
    (pulled.repo() / "refs" / "main").write_text(pulled.new)
    (pulled.repo() / "snapshots" / pulled.new).mkdir()
    told = pulled.run("status").out
    assert f"the cache has {pulled.new[:7]}, which a restart without --locked loads" in told


@pytest.mark.slow
def test_a_locked_instance_is_told_as_such_and_its_view_leads_to_the_real_cache(
    pulled: Pulled, processes: Processes
) -> None:
    pulled.app.script.write_text(LOADING)
    pulled.lock(pulled.locked(pulled.old))
    pulled.start(processes, "--locked", "--", *MAPPING)
    assert pulled.run("status", "--json").json["locked"] is True
    found = _models(pulled)
    assert set(found) == {MODEL}
    assert (found[MODEL]["commit"], found[MODEL]["evidence"], found[MODEL]["changed"]) == (pulled.old, "mapped", False)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_STORE, reason="this huggingface_hub has no shared blob store")
def test_what_is_mapped_from_the_shared_store_is_told_by_its_repo(pulled: Pulled, processes: Processes) -> None:
    pulled.app.script.write_text(LOADING)
    clear_cache(pulled)
    with Hub(xet=True) as hub:
        old = hub.commit(MODEL, OLD)
        pulled.set(HF_ENDPOINT=hub.endpoint, HF_OFFICIAL_ENDPOINT=hub.endpoint)
        pulled.start(processes, "--", *MAPPING)
        assert list((pulled.cache / "blobs").glob("*/*"))
        found = _models(pulled)[MODEL]
        assert (found["commit"], found["evidence"], found["changed"]) == (old, "mapped", False)


@pytest.mark.slow
def test_the_record_holds_the_commits_and_no_more(pulled: Pulled, processes: Processes) -> None:
    pulled.start(processes)
    record = json.loads((pulled.app.path / ".start_app" / f"instance-{pulled.app.port}.lock").read_text())
    assert record["models"] == {MODEL: pulled.old, OTHER: pulled.other}


@pytest.mark.slow
def test_prune_takes_what_the_lock_does_not_name(pulled: Pulled) -> None:
    pulled.pulled()
    pulled.lock(pulled.locked(pulled.old))
    pulled.pulled()
    done = pulled.run("cache", "prune", "--unlocked")
    assert done.status == 0, done.err
    assert pulled.loads() == OLD
    assert pulled.loads(pulled.new) is None
    assert not pulled.repo(OTHER).exists()


def test_prune_leaves_what_the_lock_names_though_nothing_was_pinned_yet(pulled: Pulled) -> None:
    pulled.lock(pulled.locked(pulled.old))
    done = pulled.run("cache", "prune", "--unlocked")
    assert done.status == 0, done.err
    assert pulled.loads() == OLD
    assert not pulled.repo(OTHER).exists()


@pytest.mark.slow
def test_a_launch_prunes_what_the_lock_does_not_name(pulled: Pulled) -> None:
    pulled.lock_new()
    done = pulled.run("--locked", "--prune-cache", "--unlocked", "--", "--exit", "0")
    assert done.status == 0, done.err
    assert pulled.loads() == NEW
    assert pulled.loads(pulled.old) is None
    assert not pulled.repo(OTHER).exists()


@pytest.mark.parametrize("lock", ["none", "empty"])
@pytest.mark.parametrize("how", [("cache", "prune"), ("--prune-cache",)])
def test_without_a_lock_it_would_be_everything_and_is_refused(
    how: tuple[str, ...], lock: str, pulled: Pulled, processes: Processes
) -> None:
    if lock == "empty":
        pulled.lock()
    old = pulled.start(processes)
    before = everything(pulled.cache)
    done = pulled.run(*how, "--unlocked")
    assert done.status == 78, done.err
    assert "models.lock" in done.err
    assert everything(pulled.cache) == before
    assert pulled.serves(old)


def test_a_lock_of_folders_alone_names_nothing_in_the_cache(pulled: Pulled) -> None:
    pulled.lock_new(local_dir=FOLDER)
    done = pulled.run("cache", "prune", "--unlocked")
    assert done.status == 0, done.err
    assert not pulled.repo().exists() and not pulled.repo(OTHER).exists()


@pytest.mark.slow
@pytest.mark.parametrize("pinned", [True, False])
def test_a_repair_fetches_exactly_what_is_damaged_and_gives_the_refs_back(pinned: bool, pulled: Pulled) -> None:
    pulled.hub.tag(MODEL, "v1", pulled.old)
    (pulled.repo() / "refs" / "v1").write_text(pulled.old)
    if pinned:
        pulled.lock(pulled.locked(pulled.old))
        pulled.pulled()
    refs = {path.name: path.read_text() for path in (pulled.repo() / "refs").iterdir()}
    damaged = (pulled.repo() / "snapshots" / pulled.old / "gpt.safetensors").resolve()
    flip(damaged)
    pulled.mirror.forget()
    done = pulled.run("cache", "verify", "--repair", "--json")
    assert done.status == 0, done.err
    assert done.json["repaired"] == [{"repo": MODEL, "commit": pulled.old}]
    assert pulled.loads() == OLD
    got = [asked.path for asked in pulled.mirror.requests if asked.method == "GET" and asked.status == 200]
    got = [path for path in got if not path.startswith("/api/")]  # that asks whether it can be had at all
    assert len(got) == 1 and damaged.name in got[0]
    assert not [asked for asked in pulled.hub.requests if "/resolve/" in asked.path or "/cdn/" in asked.path]
    assert {path.name: path.read_text() for path in (pulled.repo() / "refs").iterdir()} == refs
    assert pulled.run("cache", "verify").status == 0


@pytest.mark.slow
def test_a_repair_of_a_file_that_two_commits_have_brings_both_back(pulled: Pulled) -> None:
    pulled.pulled()
    flip((pulled.repo() / "snapshots" / pulled.old / "same.bin").resolve())
    pulled.mirror.forget()
    done = pulled.run("cache", "verify", "--repair")
    assert done.status == 0, done.err
    assert (pulled.loads(), pulled.loads(pulled.old)) == (NEW, OLD)
    assert pulled.mirror.count("/cdn/") == 1


def test_a_repair_offline_removes_what_is_damaged_and_says_so(pulled: Pulled) -> None:
    flip((pulled.repo() / "snapshots" / pulled.old / "gpt.safetensors").resolve())
    pulled.set(HF_HUB_OFFLINE="1")
    done = pulled.run("cache", "verify", "--repair")
    assert done.status == 0, done.err
    assert "HF_HUB_OFFLINE is set: what was removed is fetched by the next download" in done.err
    assert pulled.loads() is None
    assert pulled.loads(name=OTHER) == CODEC
    assert not pulled.hub.requests and not pulled.mirror.requests


@pytest.mark.slow
def test_a_repair_that_gets_no_answer_says_what_is_gone_and_a_pull_brings_it(pulled: Pulled) -> None:
    pulled.lock(pulled.locked(pulled.old))
    flip((pulled.repo() / "snapshots" / pulled.old / "gpt.safetensors").resolve())
    fault = pulled.mirror.fault("/resolve/", 404)
    done = pulled.run("cache", "verify", "--repair")
    assert done.status == 75, done.err
    assert "could not be fetched" in done.err
    fault.clear()
    pulled.pulled()
    assert pulled.loads() == OLD


@pytest.mark.slow
def test_a_repair_that_no_hub_could_complete_takes_nothing_away(pulled: Pulled) -> None:
    damaged = (pulled.repo() / "snapshots" / pulled.old / "config.json").resolve()
    flip(damaged)
    pulled.mirror.close()
    done = pulled.run("cache", "verify", "--repair")
    assert done.status == 75, done.err
    named = f"{MODEL}@{pulled.old[:7]}"
    assert f"{named} cannot be fetched now, so nothing was removed: {pulled.mirror.endpoint}: " in done.err
    assert damaged.exists()
    assert pulled.ref("main") == pulled.old
    assert f" cache remove {named}" in done.err.splitlines()[-1]
    assert pulled.run("cache", "remove", named).status == 0
    assert not damaged.exists()


@pytest.mark.slow
@pytest.mark.skipif(not HAS_STORE, reason="this huggingface_hub has no shared blob store")
def test_a_repair_of_a_shared_payload_brings_it_back_to_the_store(pulled: Pulled) -> None:
    shutil.rmtree(pulled.cache)
    with Hub(xet=True) as hub:
        hub.commit(MODEL, OLD)
        pulled.set(HF_ENDPOINT=hub.endpoint, HF_OFFICIAL_ENDPOINT=hub.endpoint)
        pulled.hub = hub
        pulled.lock(pulled.locked(pulled.old))
        pulled.pulled()
        flip((pulled.repo() / "snapshots" / pulled.old / "gpt.safetensors").resolve())
        hub.forget()
        done = pulled.run("cache", "verify", "--repair")
        assert done.status == 0, done.err
        assert pulled.loads() == OLD
        assert pulled.run("cache", "verify").status == 0
        assert not hub.count("same.bin")
