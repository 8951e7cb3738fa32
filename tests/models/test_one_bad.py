"""Each model is judged by itself: one that is gone, gated, empty or made by hand keeps no other from being pulled."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.apps import AppFolder
from tests.support.hub_cache import Library
from tests.support.pulled import CODEC, MODEL, NEW, OLD, OTHER, Pulled, pulled_app

STALE, DENIED, RETRY, USAGE = 80, 77, 75, 2
NEWEST = {**CODEC, "semantic.safetensors": b"newer" * 9_000}


@pytest.fixture
def pulled(app: AppFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulled]:
    with pulled_app(app, tmp_path_factory.getbasetemp()) as made:
        yield made


def _gone(pulled: Pulled) -> None:
    pulled.hub.remove(MODEL)


def _gated(pulled: Pulled) -> None:
    pulled.hub.gate(MODEL)


def _private(pulled: Pulled) -> None:
    pulled.hub.gate(MODEL, gated=False, private=True)


def _by_hand(pulled: Pulled) -> None:
    """Put a repo that no hub has where the model was."""
    pulled.hub.remove(MODEL)
    snapshot = pulled.repo() / "snapshots" / pulled.old
    shutil.rmtree(snapshot)
    shutil.rmtree(pulled.repo() / "blobs")
    snapshot.mkdir()
    (snapshot / "mine.bin").write_bytes(b"mine")


def _empty(pulled: Pulled) -> None:
    """Have nothing here of the model, and an empty list of its files upstream, which is not believed."""
    pulled.hub.commit(MODEL, {})
    shutil.rmtree(pulled.repo() / "snapshots" / pulled.old)
    (pulled.repo() / "snapshots" / pulled.old).mkdir()


@pytest.mark.parametrize(
    ("spoil", "status"),
    [(_gone, STALE), (_gated, DENIED), (_private, STALE), (_by_hand, STALE), (_empty, RETRY)],
)
def test_a_pull_skips_and_names_it_brings_the_others_and_says_so_by_its_status(
    spoil: Callable[[Pulled], None], status: int, pulled: Pulled
) -> None:
    spoil(pulled)
    newest = pulled.hub.commit(OTHER, NEWEST)
    done = pulled.pull("--json")
    assert done.status == status, done.err
    assert pulled.ref("main", OTHER) == newest
    assert pulled.loads(name=OTHER) == NEWEST
    assert pulled.ref() == pulled.old
    assert f"skipped: {MODEL}" in done.err or f"skipped: cannot pull {MODEL}" in done.err or f"{MODEL}@" in done.err
    (skipped,) = done.json["skipped"]
    assert skipped["name"].startswith(MODEL)
    again = pulled.run("--force-refresh", "--no-launch")
    assert again.status == 0, again.err
    assert MODEL in again.err


def test_where_nothing_else_is_to_be_pulled_the_reason_is_the_error(pulled: Pulled) -> None:
    _gone(pulled)
    done = pulled.pull(MODEL)
    assert (done.status, done.out) == (USAGE, "")
    assert "the repo does not exist, or is private" in done.err
    hint = done.err.splitlines()[-1]
    assert f"cache remove {MODEL}" in hint
    assert pulled.run("cache", "remove", MODEL).status == 0
    assert pulled.pull().status == 0


@pytest.mark.slow
def test_of_two_locked_models_the_one_that_no_hub_serves_does_not_keep_the_other(pulled: Pulled) -> None:
    newest = pulled.hub.commit(OTHER, NEWEST)
    pulled.lock(pulled.locked(pulled.new), pulled.locked(newest, OTHER))
    fault = pulled.mirror.fault(f"{MODEL}/resolve", 500)
    done = pulled.pull()
    assert done.status == RETRY, done.err
    assert pulled.loads(name=OTHER) == NEWEST
    assert pulled.loads() == OLD
    assert "skipped: cannot pull" in done.err
    locked = pulled.run("--locked", "--no-launch")
    assert locked.status == RETRY, locked.err
    fault.clear()
    pulled.pulled()
    assert pulled.loads() == NEW


def test_a_check_names_it_and_judges_the_others(pulled: Pulled) -> None:
    _by_hand(pulled)
    done = pulled.run("models", "check", "--json")
    assert {one["repo"]: one["verdict"] for one in done.json["models"]} == {
        OTHER: "up to date",
        MODEL: "gone or renamed upstream",
    }


def test_a_repo_that_was_renamed_is_pulled_under_the_name_that_the_app_uses(pulled: Pulled) -> None:
    pulled.hub.rename(MODEL, "koge/index-tts-2.3")
    done = pulled.pull()
    assert done.status == 0, done.err
    assert f"{MODEL} is called koge/index-tts-2.3 upstream" in done.err
    assert pulled.loads() == NEW
    assert not (pulled.cache / "models--koge--index-tts-2.3").exists()


def test_every_branch_that_is_here_is_checked_and_refreshed(pulled: Pulled) -> None:
    half = {**NEW, "config.json": b"half"}
    pulled.hub.commit(MODEL, {**OLD, "config.json": b"half"}, branch="fp16")
    with Library(pulled.hub) as library:
        library.download(pulled.cache, MODEL, "fp16")
    newest = pulled.hub.commit(MODEL, half, branch="fp16")
    check = pulled.run("models", "check", "--json", MODEL)
    assert [(one["revision"], one["verdict"]) for one in check.json["models"]] == [
        ("main", "local behind"),
        ("fp16", "local behind"),
    ]
    done = pulled.run("--force-refresh", "--no-launch")
    assert done.status == 0, done.err
    assert (pulled.ref(), pulled.ref("fp16")) == (pulled.new, newest)
    assert (pulled.loads(), pulled.loads("fp16")) == (NEW, half)


def _partial(pulled: Pulled, *paths: str) -> None:
    """Have only these files of the old commit here, as a library that asks for files by their names leaves it."""
    shutil.rmtree(pulled.repo())
    with Library(pulled.hub) as library:
        for path in paths:
            keywords = {"cache_dir": str(pulled.cache), "revision": pulled.old}
            library.ask("api", "hf_hub_download", (MODEL, path), keywords)
    (pulled.repo() / "refs").mkdir(exist_ok=True)
    (pulled.repo() / "refs" / "main").write_text(pulled.old)


def test_weights_that_have_another_name_upstream_come_in_the_place_of_the_old_ones(pulled: Pulled) -> None:
    _partial(pulled, "config.json", "gpt.safetensors")
    files = {**OLD, "model.safetensors": b"renamed" * 9_000, "qwen/more.bin": b"more" * 9_000}
    del files["gpt.safetensors"]
    newest = pulled.hub.commit(MODEL, files)
    done = pulled.pull()
    assert done.status == 0, done.err
    assert f"{MODEL}@{newest[:7]} does not have gpt.safetensors any more; " in done.err
    loaded = pulled.loads()
    assert isinstance(loaded, dict) and loaded["model.safetensors"] == files["model.safetensors"]
    assert "same.bin" not in loaded


def test_a_file_that_was_moved_upstream_comes_from_its_new_place(pulled: Pulled) -> None:
    _partial(pulled, "config.json", "gpt.safetensors")
    files = {**OLD, "weights/gpt.safetensors": OLD["gpt.safetensors"]}
    del files["gpt.safetensors"]
    pulled.hub.commit(MODEL, files)
    assert pulled.pull().status == 0
    assert pulled.loads() == {"config.json": OLD["config.json"], "weights/gpt.safetensors": OLD["gpt.safetensors"]}


def test_where_the_newest_commit_has_no_weights_the_copy_stays_what_it_is(pulled: Pulled) -> None:
    _partial(pulled, "config.json", "gpt.safetensors")
    pulled.hub.commit(MODEL, {"config.json": b"{}", "README.md": b"moved\n"})
    done = pulled.pull()
    assert done.status == STALE, done.err
    assert "has no weights" in done.err and "gpt.safetensors" in done.err
    assert pulled.ref() == pulled.old
    assert pulled.loads() == {path: OLD[path] for path in ("config.json", "gpt.safetensors")}


def _state(pulled: Pulled) -> set[Path]:
    return set(pulled.cache.rglob("*"))


def test_a_dry_run_of_a_pull_names_what_it_would_skip_and_changes_nothing(pulled: Pulled) -> None:
    _gone(pulled)
    before = _state(pulled)
    done = pulled.pull("--dry-run")
    assert done.status == STALE
    assert f"skipped: {MODEL}@main" in done.err
    assert f"in place: {OTHER}" in done.out
    assert _state(pulled) == before
