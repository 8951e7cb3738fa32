"""`models pull` makes the disk match by commit, and nothing moves before all of it is there and right."""

from __future__ import annotations

import base64
import hashlib
import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.apps import AppFolder, Processes, eventually
from tests.support.caches import flip, settle
from tests.support.hub import Hub
from tests.support.pulled import (
    CHANGED,
    CODEC,
    FOLDER,
    MODEL,
    NEW,
    OLD,
    OTHER,
    Pulled,
    blobs,
    clear_cache,
    pulled_app,
    served,
)
from tests.support.removal import HUB, held, mounted, needs_mounts


@pytest.fixture
def pulled(app: AppFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulled]:
    with pulled_app(app, tmp_path_factory.getbasetemp()) as made:
        yield made


@pytest.mark.slow
def test_by_commit_it_brings_what_the_mirror_does_not_call_the_newest_yet(pulled: Pulled) -> None:
    pulled.mirror.freeze(MODEL, sha=pulled.old)
    pulled.lock_new()
    done = pulled.pull()
    assert done.status == 0, done.err
    assert pulled.loads() == NEW
    assert (pulled.ref(), pulled.ref("start_app")) == (pulled.new, pulled.new)
    assert f"model: {MODEL} @ {pulled.new[:7]} (was {pulled.old[:7]})" in done.err
    assert pulled.loads(pulled.old) == OLD
    assert not pulled.hub.requests


@pytest.mark.slow
def test_only_what_changed_is_asked_for(pulled: Pulled) -> None:
    pulled.lock_new()
    document = pulled.pulled()
    assert document["models"][0]["pulled"] == sorted({*CHANGED, "same.bin"})  # of a new commit, nothing is there yet
    assert pulled.mirror.count("/cdn/") == len([path for path in CHANGED if not path.endswith("json")])


@pytest.mark.slow
def test_the_old_commit_loads_and_its_refs_stay_until_all_is_there(pulled: Pulled, processes: Processes) -> None:
    pulled.lock_new()
    with pulled.mirror.held("gpt.safetensors", 1000) as hold:
        running = processes.launch("models", "pull", *pulled.app.arguments)
        assert hold.reached.wait(30)
        eventually(lambda: os.path.exists(pulled.repo() / "snapshots" / pulled.new / "config.json"))
        assert (pulled.ref(), pulled.ref("start_app")) == (pulled.old, None)
        assert pulled.loads() == OLD
    assert running.wait() == 0, running.err
    assert pulled.loads() == NEW
    assert (pulled.ref(), pulled.ref("start_app")) == (pulled.new, pulled.new)


@pytest.mark.slow
def test_a_pull_that_broke_off_goes_on_with_the_files_that_it_has_not(pulled: Pulled) -> None:
    pulled.lock_new()
    fault = pulled.mirror.fault("gpt.safetensors", "hang")  # the others come meanwhile
    assert pulled.pull("--timeout", "3").status == 75
    assert pulled.loads() == OLD
    fault.clear()
    document = pulled.pulled()
    assert set(document["models"][0]["pulled"]) < {*CHANGED, "same.bin"}
    assert pulled.loads() == NEW


@pytest.mark.skipif(HUB >= (1, 18), reason="this huggingface_hub begins every file anew")
@pytest.mark.parametrize("garbage", [False, True])
def test_half_a_file_is_gone_on_with_and_garbage_in_it_is_found_and_fetched_anew(garbage: bool, pulled: Pulled) -> None:
    pulled.lock_new()
    file = pulled.hub.repo(MODEL).commits[pulled.new].files["gpt.safetensors"]
    half = b"x" * 1000 if garbage else file.data[:1000]
    (pulled.repo() / "blobs" / f"{file.etag}.incomplete").write_bytes(half)
    document = pulled.pulled()
    assert document["served"][0]["endpoint"] == pulled.mirror.endpoint
    assert pulled.loads() == NEW
    ranges = [asked.range for asked in pulled.mirror.requests if file.etag in asked.path and asked.method == "GET"]
    assert ranges[0] == "bytes=1000-"
    assert len(ranges) == 1 + garbage


@pytest.mark.slow
def test_a_partial_download_that_is_too_big_is_cleared_away(pulled: Pulled) -> None:
    pulled.lock_new()
    file = pulled.hub.repo(MODEL).commits[pulled.new].files["gpt.safetensors"]
    (pulled.repo() / "blobs" / f"{file.etag}.incomplete").write_bytes(b"x" * (file.size + 1))
    pulled.pulled()
    assert pulled.loads() == NEW


@pytest.mark.parametrize("more", [0, 1])
def test_a_partial_download_for_a_folder_that_is_too_long_is_cleared_away(more: int, pulled: Pulled) -> None:
    pulled.lock_new(local_dir=FOLDER)
    file = pulled.hub.repo(MODEL).commits[pulled.new].files["gpt.safetensors"]
    notes = pulled.folder / ".cache" / "start_app" / pulled.new / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    short = base64.urlsafe_b64encode(hashlib.sha1(b"gpt.safetensors.metadata").digest()).decode()
    for name in (f"{short}.{file.etag}.incomplete", f"{short}.{file.etag}.0123abcd.incomplete"):
        (notes / name).write_bytes(b"x" * (file.size + more))
    done = pulled.pull()
    assert done.status == 0, done.err
    assert pulled.in_folder() == NEW


@pytest.mark.slow
def test_what_has_arrived_of_a_slow_file_is_on_the_disk(pulled: Pulled, processes: Processes) -> None:
    """What grows on the disk is all by which a slow download is told from one that hangs."""
    pulled.lock_new()
    file = pulled.hub.repo(MODEL).commits[pulled.new].files["gpt.safetensors"]

    def arrived() -> int:
        found = (pulled.repo() / "blobs").glob(f"{file.etag}*.incomplete")
        return max((path.stat().st_size for path in found), default=0)

    with pulled.mirror.held(file.etag, file.size - 1) as hold:
        running = processes.launch("models", "pull", *pulled.app.arguments)
        assert hold.reached.wait(30)
        eventually(lambda: arrived() > file.size // 2, what="half of the file")
    assert running.wait() == 0, running.err


@pytest.mark.slow
def test_on_a_terminal_a_pull_names_the_file_that_arrives(pulled: Pulled, processes: Processes) -> None:
    pulled.lock_new()
    file = pulled.hub.repo(MODEL).commits[pulled.new].files["gpt.safetensors"]
    ours, terminal = os.openpty()
    with pulled.mirror.held(file.etag, file.size - 1) as hold:
        running = processes.launch("models", "pull", *pulled.app.arguments, stderr=terminal)
        assert hold.reached.wait(30)
        shown = ""
        while " left, gpt.safetensors" not in shown:
            assert select.select([ours], [], [], 30)[0], shown
            shown += os.read(ours, 1 << 16).decode(errors="replace")
    os.close(terminal)
    os.close(ours)
    running.wait()


@pytest.mark.slow
def test_with_everything_in_place_no_hub_is_asked_and_no_file_is_read(pulled: Pulled) -> None:
    pulled.lock_new()
    first = pulled.pulled()
    assert first["size_bytes"] == sum(map(len, NEW.values()))
    pulled.mirror.forget()
    document = pulled.pulled()
    assert (document["read_bytes"], document["size_bytes"], document["served"]) == (0, 0, [])
    assert not pulled.mirror.requests and not pulled.hub.requests


def test_what_is_there_already_is_read_once_and_known_again(pulled: Pulled) -> None:
    pulled.lock(pulled.locked(pulled.old))
    settle(pulled.repo())
    assert pulled.pulled()["read_bytes"] == sum(map(len, OLD.values()))
    assert pulled.pulled()["read_bytes"] == 0
    assert pulled.ref("start_app") == pulled.old
    assert not pulled.mirror.requests and not pulled.hub.requests


@pytest.mark.slow
def test_a_file_that_was_damaged_is_fetched_and_no_other(pulled: Pulled) -> None:
    pulled.lock(pulled.locked(pulled.old))
    flip((pulled.repo() / "snapshots" / pulled.old / "gpt.safetensors").resolve())
    document = pulled.pulled()
    assert document["models"][0]["pulled"] == ["gpt.safetensors"]
    assert pulled.loads() == OLD
    assert pulled.mirror.count("/cdn/") == 1


@pytest.mark.slow
def test_without_a_lock_every_cached_repo_is_brought_to_its_newest_commit(pulled: Pulled) -> None:
    done = pulled.pull()
    assert done.status == 0, done.err
    assert pulled.loads() == NEW
    assert pulled.loads(name=OTHER) == CODEC
    assert pulled.ref("start_app") is None
    assert f"model: {OTHER} @ {pulled.other[:7]}\n" in done.err


@pytest.mark.slow
def test_of_a_partial_copy_just_the_same_files_are_brought(pulled: Pulled) -> None:
    for path in ("gpt.safetensors", "qwen/tokenizer.json"):
        blob = (pulled.repo() / "snapshots" / pulled.old / path).resolve()
        (pulled.repo() / "snapshots" / pulled.old / path).unlink()
        blob.unlink()
    document = pulled.pulled(MODEL)
    assert document["models"][0]["files"] == 2
    assert pulled.loads() == {path: NEW[path] for path in ("config.json", "same.bin")}
    assert pulled.mirror.count("gpt.safetensors", None) == 0


def test_a_dry_run_tells_it_and_changes_nothing(pulled: Pulled) -> None:
    pulled.lock_new()
    before = held(pulled.cache)
    done = pulled.pull("--dry-run")
    assert done.status == 0, done.err
    assert f"would pull {MODEL} @ {pulled.new[:7]}: {len(NEW)} files" in done.out
    assert f"would move main of {MODEL} @ {pulled.new[:7]} from {pulled.old[:7]}" in done.out
    assert held(pulled.cache) == before
    assert pulled.ref() == pulled.old and pulled.ref("start_app") is None
    assert not pulled.mirror.requests
    assert pulled.pulled("--dry-run")["models"][0]["pulled"] == sorted(NEW)


@pytest.mark.parametrize("locked", [False, True])
def test_an_unknown_repo_is_usage(locked: bool, pulled: Pulled) -> None:
    if locked:
        pulled.lock_new()
    done = pulled.pull("koge/index-tts-v32")
    assert done.status == 2
    assert MODEL in done.err
    assert pulled.ref() == pulled.old


def test_one_of_the_locked_models_can_be_pulled_alone(pulled: Pulled) -> None:
    pulled.lock(pulled.locked(pulled.new), pulled.locked(pulled.other, OTHER))
    assert [one["repo"] for one in pulled.pulled(OTHER)["models"]] == [OTHER]
    assert pulled.ref() == pulled.old
    assert pulled.ref("start_app", OTHER) == pulled.other


@pytest.mark.slow
def test_only_the_files_that_the_lock_names_are_brought(pulled: Pulled) -> None:
    clear_cache(pulled)
    pulled.lock_new(only=("config.json", "qwen/tokenizer.json"))
    assert pulled.pulled()["models"][0]["pulled"] == ["config.json", "qwen/tokenizer.json"]
    assert pulled.loads() == {path: NEW[path] for path in ("config.json", "qwen/tokenizer.json")}


@pytest.mark.slow
def test_a_dataset_and_a_tag_are_pulled_as_what_they_are(pulled: Pulled) -> None:
    voice = pulled.hub.commit("koge/voices", {"anna.wav": b"RIFF" * 500}, repo_type="dataset")
    pulled.hub.tag(MODEL, "v1", pulled.old)
    files = pulled.hub.repo("koge/voices", "dataset").commits[voice].files
    model = pulled.locked(pulled.old, revision="v1")
    listed = {path: type(next(iter(model.files.values())))(file.size, file.etag) for path, file in files.items()}
    pulled.lock(model, model._replace(repo="datasets/koge/voices", revision="main", commit=voice, files=listed))
    pulled.pulled()
    assert pulled.ref("v1") == pulled.old and pulled.ref() == pulled.old
    assert pulled.library.load(pulled.cache, "koge/voices", repo_type="dataset") == {"anna.wav": b"RIFF" * 500}


def test_a_model_that_is_locked_no_more_is_pinned_no_more(pulled: Pulled) -> None:
    pulled.lock(pulled.locked(pulled.old), pulled.locked(pulled.other, OTHER))
    pulled.pulled()
    assert pulled.ref("start_app", OTHER) == pulled.other
    pulled.lock(pulled.locked(pulled.old))
    pulled.pulled()
    assert (pulled.ref("start_app"), pulled.ref("start_app", OTHER)) == (pulled.old, None)


@pytest.mark.slow
def test_the_next_hub_serves_what_the_first_does_not_have_and_that_is_told(pulled: Pulled) -> None:
    pulled.lock_new()
    pulled.set(HF_ENDPOINT_FALLBACK=pulled.hub.endpoint)
    pulled.mirror.fault("/resolve/", 404)
    done = pulled.pull("--json")
    assert done.status == 0, done.err
    assert served(done) == {MODEL: pulled.hub.endpoint}
    assert f"from {pulled.hub.endpoint}, verified" in done.err
    assert f"pull: {MODEL}: {pulled.mirror.endpoint}: " in done.err
    assert pulled.loads() == NEW


@pytest.mark.slow
def test_a_second_pull_of_the_same_app_is_turned_away_and_the_first_goes_on(
    pulled: Pulled, processes: Processes
) -> None:
    pulled.lock_new()
    with pulled.mirror.held("gpt.safetensors", 1000) as hold:
        running = processes.launch("models", "pull", *pulled.app.arguments)
        assert hold.reached.wait(30)
        second = pulled.pull()
    assert second.status == 75
    assert "another pull" in second.err
    assert running.wait() == 0, running.err
    assert pulled.loads() == NEW


@pytest.mark.slow
def test_two_apps_that_share_a_cache_pull_at_once_and_both_get_it(pulled: Pulled, processes: Processes) -> None:
    pulled.lock_new()
    second = pulled.app.path.parent / "second"
    second.mkdir()
    (second / ".env").write_text((pulled.app.path / ".env").read_text().replace("./hf", str(pulled.app.path / "hf")))
    (second / "models.lock").write_bytes((pulled.app.path / "models.lock").read_bytes())
    both = [processes.launch("models", "pull", "--app-dir", folder) for folder in (pulled.app.path, second)]
    for running in both:
        assert running.wait(60) == 0, running.err
    assert pulled.loads() == NEW


def test_a_disk_without_room_is_told_before_anything_comes(pulled: Pulled, tmp_path: Path) -> None:
    needs_mounts()
    pulled.lock_new()
    small = tmp_path / "small"
    small.mkdir()
    with mounted(small, "-t", "tmpfs", "-o", "size=8m", "none"):
        pulled.set(HF_HOME=str(small))
        done = pulled.pull()
        assert done.status == 74
        assert "has room for" in done.err
        assert not [path for path in small.rglob("*") if path.is_file() and "lock" not in path.name]
    assert not pulled.mirror.requests and not pulled.hub.requests


def test_a_disk_without_room_for_a_folder_of_the_app_s_own_is_told_too(pulled: Pulled) -> None:
    needs_mounts()
    pulled.lock_new(local_dir=FOLDER)
    pulled.folder.mkdir()
    with mounted(pulled.folder, "-t", "tmpfs", "-o", "size=8m", "none"):
        assert pulled.pull().status == 74
    assert not pulled.mirror.requests


def test_offline_it_says_what_is_lacking_and_asks_nobody(pulled: Pulled) -> None:
    pulled.lock_new()
    pulled.set(HF_HUB_OFFLINE="1")
    done = pulled.pull()
    assert done.status == 75
    assert "HF_HUB_OFFLINE" in done.err
    pulled.lock(pulled.locked(pulled.old))
    assert pulled.pull().status == 0
    assert not pulled.mirror.requests and not pulled.hub.requests


@pytest.mark.slow
def test_what_one_repo_shares_with_another_through_the_store_stays_theirs(pulled: Pulled) -> None:
    """The official hub serves by Xet where the library can; the mirror never does."""
    with Hub(xet=True) as hub:
        old = hub.commit(MODEL, OLD)
        new = hub.commit(MODEL, NEW)
        clear_cache(pulled)
        pulled.set(HF_ENDPOINT=hub.endpoint, HF_OFFICIAL_ENDPOINT=hub.endpoint)
        pulled.hub = hub
        for commit in (old, new):
            pulled.lock(pulled.locked(commit))
            pulled.pulled()
        assert pulled.loads() == NEW
        assert pulled.loads(old) == OLD
        hub.forget()
        assert pulled.pulled()["read_bytes"] == 0
        assert not hub.requests


def test_a_branch_of_an_unusual_name_gets_its_ref(pulled: Pulled) -> None:
    pulled.lock(pulled.locked(pulled.new, revision="refs/pr/1"))
    before = blobs(pulled.repo())
    pulled.pulled()
    assert pulled.ref("refs/pr/1") == pulled.new
    assert pulled.ref() == pulled.old
    assert before < blobs(pulled.repo())
