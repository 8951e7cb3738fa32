"""The model that was asked for runs: a locked app cannot load another one, and a refreshed one gets the newest."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import pytest

from tests.support.apps import AppFolder, Processes, Running, eventually, free_port, get
from tests.support.caches import flip, settle
from tests.support.pulled import CODEC, FOLDER, LOADING, MODEL, NEW, OLD, OTHER, Pulled, opened, pulled_app
from tests.support.removal import everything

SECRET = "hf_" + "s" * 20
WATCHED = ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "HF_TOKEN_FOR_MIRROR")


@pytest.fixture
def pulled(app: AppFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulled]:
    with pulled_app(app, tmp_path_factory.getbasetemp()) as made:
        yield made


@pytest.fixture
def loading(pulled: Pulled) -> Pulled:
    """Have the app be one that loads its models through huggingface_hub."""
    pulled.app.script.write_text(LOADING)
    return pulled


def _hashes(files: Any) -> dict[str, str]:
    return {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}


def _asked(port: int, name: str) -> Any:
    """Have a running app load something more, and return what came of it."""
    with urlopen(f"http://127.0.0.1:{port}/{name}", timeout=30) as answer:
        return json.loads(answer.read())


@pytest.mark.slow
def test_a_locked_app_gets_the_pinned_commit_although_hub_and_mirror_have_moved_on(
    loading: Pulled, processes: Processes
) -> None:
    loading.lock(loading.locked(loading.old))
    running = loading.start(processes, "--locked", "--", "--load", MODEL, "--load", OTHER)
    told = running.hello()
    assert told["loaded"][MODEL]["commit"] == loading.old
    assert told["loaded"][MODEL]["files"] == _hashes(OLD)
    assert told["loaded"][OTHER]["error"] == "LocalEntryNotFoundError"
    assert "error" in _asked(loading.app.port, f"{MODEL}@{loading.new}")
    assert told["env"]["HF_HUB_OFFLINE"] == "1"
    assert json.loads(told["env"]["START_APP_MODELS"]) == {MODEL: loading.old}
    assert told["env"]["START_APP_MODELS_TEXT"] == f"{MODEL} @ {loading.old[:7]} (locked)"
    assert f"model: {MODEL} @ {loading.old[:7]} (locked)" in running.err
    assert not loading.hub.requests and not loading.mirror.requests


@pytest.mark.slow
def test_a_locked_launch_pulls_what_is_pinned_first(loading: Pulled, processes: Processes) -> None:
    loading.mirror.freeze(MODEL, sha=loading.old)
    loading.lock_new()
    running = loading.start(processes, "--locked", "--", "--load", MODEL)
    assert running.hello()["loaded"][MODEL]["files"] == _hashes(NEW)
    assert (loading.ref(), loading.ref("start_app")) == (loading.new, loading.new)


@pytest.mark.slow
def test_an_older_pin_takes_the_app_back_and_a_newer_commit_in_the_cache_is_not_loaded(
    loading: Pulled, processes: Processes
) -> None:
    loading.pulled()
    assert loading.loads() == NEW
    loading.lock(loading.locked(loading.old))
    running = loading.start(processes, "--locked", "--", "--load", MODEL, "--load", f"{MODEL}@{loading.new}")
    told = running.hello()["loaded"]
    assert told[MODEL]["files"] == _hashes(OLD)
    assert "error" in told[f"{MODEL}@{loading.new}"]


def test_the_setting_locks_as_the_flag_does(loading: Pulled, processes: Processes) -> None:
    loading.set(APP_LOCKED="1")
    loading.lock(loading.locked(loading.old))
    running = loading.start(processes, "--", "--load", MODEL, "--load", OTHER)
    told = running.hello()["loaded"]
    assert (told[MODEL]["commit"], told[OTHER]["error"]) == (loading.old, "LocalEntryNotFoundError")


@pytest.mark.slow
def test_a_second_locked_launch_reads_no_content(pulled: Pulled) -> None:
    pulled.lock(pulled.locked(pulled.old), pulled.locked(pulled.new, local_dir=FOLDER))
    settle(pulled.repo())
    folders = (pulled.repo() / "blobs", pulled.folder, pulled.folder / "added")
    assert pulled.run("--locked", "--", "--exit", "0").status == 0
    settle(pulled.folder)
    assert pulled.run("--locked", "--", "--exit", "0").status == 0
    pulled.mirror.forget()
    with opened(*folders) as files:
        done = pulled.run("--locked", "--", "--exit", "0")
        assert done.status == 0, done.err
        assert files() == set()
    assert not pulled.mirror.requests and not pulled.hub.requests


@pytest.mark.slow
def test_a_locked_launch_of_a_damaged_cache_repairs_it_first(loading: Pulled, processes: Processes) -> None:
    loading.lock(loading.locked(loading.old))
    flip((loading.repo() / "snapshots" / loading.old / "gpt.safetensors").resolve())
    running = loading.start(processes, "--locked", "--", "--load", MODEL)
    assert running.hello()["loaded"][MODEL]["files"] == _hashes(OLD)


@pytest.mark.slow
def test_a_locked_launch_brings_a_folder_of_the_app_s_own(pulled: Pulled) -> None:
    pulled.bring_to_folder()
    pulled.lock_new(local_dir=FOLDER)
    done = pulled.run("--locked", "--", "--exit", "0")
    assert done.status == 0, done.err
    assert pulled.in_folder() == NEW


@pytest.mark.slow
def test_another_port_s_locked_instance_keeps_its_view_when_the_lock_moves(
    loading: Pulled, processes: Processes
) -> None:
    loading.lock(loading.locked(loading.old))
    loading.start(processes, "--locked")
    loading.lock_new()
    port = free_port()
    second = processes.launch("--app-dir", loading.app.path, "--port", str(port), "--locked")
    eventually(lambda: get(port) == f"pid {second.pid}", what=second.err)
    assert _asked(loading.app.port, MODEL)["commit"] == loading.old
    assert _asked(port, MODEL)["commit"] == loading.new


def _waiting(pulled: Pulled, processes: Processes, *arguments: str) -> tuple[Running, Running]:
    """Return an old instance that does not end, and a locked launch that has made its view and waits for that."""
    pulled.lock(pulled.locked(pulled.old))
    old = pulled.start(processes, "--", "--ignore-term")
    pulled.app.script.write_text(LOADING)
    new = processes.launch(*pulled.app.arguments, "--locked", "--stop-timeout", "600", *arguments)
    views = pulled.app.path / ".start_app"
    eventually(lambda: list(views.glob(f"locked-*/*/snapshots/{pulled.old}/gpt.safetensors")), what=new.err)
    eventually(lambda: f"stale: pid {old.pid}" in new.err, what=new.err)
    return old, new


@pytest.mark.parametrize("pinned", [False, True], ids=["pinned just now", "pinned before"])
def test_a_pinned_model_that_goes_while_the_old_instance_ends_is_missed(
    pinned: bool, pulled: Pulled, processes: Processes
) -> None:
    if pinned:
        pulled.lock(pulled.locked(pulled.old))
        pulled.pulled()
        settle(pulled.cache)  # what was written just now is read again, and not taken for in place
        pulled.pulled()
    old, new = _waiting(pulled, processes)
    shutil.rmtree(pulled.repo() / "snapshots" / pulled.old)
    old.process.kill()
    assert new.wait() == 75, new.err
    assert f"{MODEL} @ {pulled.old[:7]} was {'pinned, and ' if pinned else 'removed by another process'}" in new.err


@pytest.mark.slow
def test_a_ref_that_moves_while_the_old_instance_ends_moves_no_locked_app(pulled: Pulled, processes: Processes) -> None:
    old, new = _waiting(pulled, processes, "--", "--load", MODEL)
    (pulled.repo() / "refs" / "main").write_text(pulled.new)
    old.process.kill()
    eventually(lambda: pulled.serves(new) or new.process.poll() is not None, timeout=60, what=new.err)
    assert pulled.serves(new), new.err
    told = new.hello()
    assert told["loaded"][MODEL]["commit"] == pulled.old
    assert json.loads(told["env"]["START_APP_MODELS"]) == {MODEL: pulled.old}


@pytest.mark.slow
@pytest.mark.parametrize("flag", [True, False])
def test_without_a_lock_there_is_nothing_to_keep_to(flag: bool, pulled: Pulled, processes: Processes) -> None:
    old = pulled.start(processes)
    pulled.set(APP_LOCKED=None if flag else "1")
    done = pulled.run(*(("--locked",) if flag else ()))
    assert done.status == (2 if flag else 78)
    assert "no models.lock" in done.err
    assert pulled.serves(old)


def test_a_plain_launch_passes_over_a_lock_that_is_nonsense_and_says_so(pulled: Pulled) -> None:
    (pulled.app.path / "models.lock").write_text("<<<<<<< HEAD\n{}\n=======\n")
    done = pulled.run("--", "--exit", "0")
    assert done.status == 0, done.err
    assert "models.lock" in done.err and "ignores the file" in done.err


@pytest.mark.parametrize("how", ["--locked", "--force-refresh"])
def test_a_lock_that_is_nonsense_is_refused_while_the_old_instance_serves(
    how: str, pulled: Pulled, processes: Processes
) -> None:
    old = pulled.start(processes)
    (pulled.app.path / "models.lock").write_text("<<<<<<< HEAD\n{}\n=======\n")
    done = pulled.run(how)
    assert done.status == 78, done.err
    assert pulled.serves(old)


@pytest.mark.slow
def test_status_tells_what_runs_whatever_the_lock_says(pulled: Pulled, processes: Processes) -> None:
    old = pulled.start(processes)
    (pulled.app.path / "models.lock").write_text("<<<<<<< HEAD\n{}\n=======\n")
    done = pulled.run("status", "--json")
    assert done.status == 0, done.err
    assert done.json["instance"]["pid"] == old.pid


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize(
    "against", [("--clear-cache",), ("--force-refresh",), ("--remove-model", MODEL), ("--remove-model", "koge/*")]
)
def test_what_would_remove_or_move_a_pinned_model_is_refused(
    against: tuple[str, ...], flag: bool, pulled: Pulled, processes: Processes
) -> None:
    pulled.lock(pulled.locked(pulled.old))
    old = pulled.start(processes)
    pulled.set(APP_LOCKED=None if flag else "1")
    before = everything(pulled.cache)
    done = pulled.run(*(("--locked",) if flag else ()), *against)
    assert done.status == 2, done.err
    assert pulled.serves(old)
    assert everything(pulled.cache) == before


def test_a_model_that_is_not_pinned_can_be_removed_on_the_way(pulled: Pulled) -> None:
    pulled.lock(pulled.locked(pulled.old))
    done = pulled.run("--locked", "--remove-model", OTHER, "--", "--exit", "0")
    assert done.status == 0, done.err
    assert pulled.loads() == OLD
    assert pulled.loads(name=OTHER) is None


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--locked", "--force-refresh"])
def test_what_was_just_pulled_is_not_pruned_on_the_way(how: str, pulled: Pulled, processes: Processes) -> None:
    pulled.start(processes)
    if how == "--locked":
        pulled.lock_new()
    done = pulled.run(how, "--prune-cache", "--", "--exit", "0")
    assert done.status == 0, done.err
    assert pulled.loads() == NEW


@pytest.mark.slow
def test_a_refresh_that_removes_a_model_too_does_both_or_is_refused_first(pulled: Pulled, processes: Processes) -> None:
    old = pulled.start(processes)
    done = pulled.run("--force-refresh", "--remove-model", OTHER, "--", "--exit", "0")
    if done.status == 2:
        assert pulled.serves(old)
    else:
        assert done.status == 0, done.err
        assert pulled.loads() == NEW


@pytest.mark.slow
def test_a_refresh_pulls_the_newest_while_the_old_instance_serves_then_switches(
    pulled: Pulled, processes: Processes
) -> None:
    old = pulled.start(processes)
    with pulled.mirror.held("gpt.safetensors", 1000) as hold:
        new = processes.launch(*pulled.app.arguments, "--force-refresh")
        assert hold.reached.wait(30)
        assert pulled.serves(old)
        assert pulled.loads() == OLD
    eventually(lambda: pulled.serves(new), what=new.err)
    assert old.process.poll() is not None
    assert pulled.loads() == NEW
    assert json.loads(new.hello()["env"]["START_APP_MODELS"]) == {MODEL: pulled.new, OTHER: pulled.other}
    assert f"model: {MODEL} @ {pulled.new[:7]} (cached)" in new.err


@pytest.mark.slow
def test_a_refresh_goes_beyond_the_lock_and_leaves_the_pin(pulled: Pulled) -> None:
    pulled.lock(pulled.locked(pulled.old))
    pulled.pulled()
    done = pulled.run("--force-refresh", "--", "--exit", "0")
    assert done.status == 0, done.err
    assert (pulled.ref(), pulled.ref("start_app")) == (pulled.new, pulled.old)
    assert pulled.loads(name=OTHER) == CODEC


@pytest.mark.slow
def test_while_another_pull_is_at_work_a_refresh_leaves_the_old_instance_serving(
    pulled: Pulled, processes: Processes
) -> None:
    old = pulled.start(processes)
    with pulled.mirror.held("gpt.safetensors", 1000) as hold:
        first = processes.launch("models", "pull", *pulled.app.arguments)
        assert hold.reached.wait(30)
        done = pulled.run("--force-refresh")
        assert done.status == 75, done.err
        assert pulled.serves(old)
    assert first.wait() == 0, first.err


@pytest.mark.slow
def test_without_launching_all_is_pulled_and_settled(pulled: Pulled) -> None:
    pulled.lock_new()
    done = pulled.run("--locked", "--no-launch")
    assert done.status == 0, done.err
    assert pulled.loads() == NEW
    assert pulled.ref("start_app") == pulled.new


@pytest.mark.parametrize("how", ["--locked", "--force-refresh"])
def test_a_dry_run_of_it_asks_nobody_and_changes_nothing(how: str, pulled: Pulled) -> None:
    pulled.lock_new()
    before = everything(pulled.cache)
    done = pulled.run(how, "--dry-run")
    assert done.status == 0, done.err
    assert "would pull" in done.out
    assert everything(pulled.cache) == before
    assert not pulled.hub.requests and not pulled.mirror.requests


def test_a_plain_launch_tells_which_commits_are_cached(pulled: Pulled) -> None:
    done = pulled.run("--", "--exit", "0")
    assert f"model: {MODEL} @ {pulled.old[:7]} (cached)" in done.err
    assert f"model: {OTHER} @ {pulled.other[:7]} (cached)" in done.err
    hello = json.loads(done.out.splitlines()[0])
    assert json.loads(hello["env"]["START_APP_MODELS"]) == {MODEL: pulled.old, OTHER: pulled.other}
    shown = (f"{OTHER} @ {pulled.other[:7]} (cached)", f"{MODEL} @ {pulled.old[:7]} (cached)")
    assert hello["env"]["START_APP_MODELS_TEXT"] == ", ".join(shown)


def test_without_models_the_app_is_told_of_none(pulled: Pulled) -> None:
    shutil.rmtree(pulled.cache)
    done = pulled.run("--", "--exit", "0")
    assert "model:" not in done.err
    environment = json.loads(done.out.splitlines()[0])["env"]
    assert json.loads(environment["START_APP_MODELS"]) == {}
    assert "START_APP_MODELS_TEXT" not in environment


@pytest.mark.slow
@pytest.mark.parametrize("where", ["HF_TOKEN", "file"])
def test_that_the_app_sends_its_token_to_a_mirror_is_told_once(where: str, pulled: Pulled) -> None:
    _give_token(pulled, where)
    done = pulled.run("--", "--exit", "0")
    assert done.err.count(f"token: the app will send your token to {pulled.mirror.endpoint}") == 1
    assert SECRET not in done.err
    for name in WATCHED:
        pulled.set(**{name: "1"})
        assert "token:" not in pulled.run("--", "--exit", "0").err
        pulled.set(**{name: None})
    pulled.lock(pulled.locked(pulled.old))
    assert "token:" not in pulled.run("--locked", "--", "--exit", "0").err
    pulled.set(HF_ENDPOINT=pulled.hub.endpoint)
    assert "token:" not in pulled.run("--", "--exit", "0").err


def _give_token(pulled: Pulled, where: str) -> None:
    if where == "HF_TOKEN":
        pulled.set(HF_TOKEN=SECRET)
    else:
        (pulled.app.path / "hf" / "token").write_text(SECRET)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["HF_TOKEN", "file"])
def test_a_token_goes_to_the_official_hub_alone_and_is_written_nowhere(where: str, pulled: Pulled) -> None:
    _give_token(pulled, where)
    pulled.hub.store.token = SECRET
    pulled.set(HF_ENDPOINT_FALLBACK=pulled.hub.endpoint)
    pulled.mirror.fault("/cdn/", 404)
    done = pulled.run("--force-refresh", "--json", "--", "--exit", "0")
    assert done.status == 0, done.err
    assert f"Bearer {SECRET}" in {asked.authorization for asked in pulled.hub.requests if "/api/" in asked.path}
    assert not [asked for asked in pulled.hub.requests if "/cdn/" in asked.path and asked.authorization]
    assert pulled.mirror.requests and not [asked for asked in pulled.mirror.requests if asked.authorization]
    document, hello = done.out.splitlines()
    models = json.loads(hello)["env"]["START_APP_MODELS"]
    for text in (document, done.err, models, pulled.states()):
        assert SECRET not in text


def test_a_mirror_that_is_trusted_is_sent_the_token(pulled: Pulled) -> None:
    _give_token(pulled, "HF_TOKEN")
    pulled.hub.store.token = SECRET
    pulled.set(HF_TOKEN_FOR_MIRROR="1")
    pulled.hub.gate(MODEL)
    pulled.lock_new()
    pulled.pulled()
    assert pulled.loads() == NEW
    assert {asked.authorization for asked in pulled.mirror.requests if "/resolve/" in asked.path} == {
        f"Bearer {SECRET}"
    }


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--locked", "--force-refresh"])
def test_what_was_fetched_and_removed_before_the_switch_is_not_led_to(
    how: str, pulled: Pulled, processes: Processes
) -> None:
    pulled.lock_new()
    old = pulled.start(processes, "--", "--ignore-term")
    new = processes.launch(*pulled.app.arguments, how, "--stop-timeout", "1")
    eventually(lambda: "stale: " in new.err, what="the stop")
    new.process.send_signal(signal.SIGSTOP)
    assert pulled.run("cache", "remove", MODEL).status == 0
    new.process.send_signal(signal.SIGCONT)
    assert new.wait() == 75, new.err
    assert f"{MODEL} @ {pulled.new[:7]} was removed by another process" in new.err
    assert old.wait() == -9
    assert pulled.ref() is None
    assert pulled.ref("start_app") is None
    assert pulled.loads() is None
    pulled.pulled()
    assert pulled.loads() == NEW


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--locked", "--force-refresh"])
def test_a_prune_before_the_switch_keeps_what_was_fetched(how: str, pulled: Pulled, processes: Processes) -> None:
    pulled.lock_new()
    pulled.start(processes, "--", "--ignore-term")
    new = processes.launch(*pulled.app.arguments, how, "--stop-timeout", "1")
    eventually(lambda: "stale: " in new.err, what="the stop")
    new.process.send_signal(signal.SIGSTOP)
    assert pulled.run("cache", "prune").status == 0
    new.process.send_signal(signal.SIGCONT)
    eventually(lambda: get(pulled.app.port) == f"pid {new.pid}", what=new.err)
    assert pulled.loads() == NEW
