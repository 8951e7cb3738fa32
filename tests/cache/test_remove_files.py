"""Single files go: their links in the snapshots, and the blobs that no other file needs; names in any case."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from launcher.cache import planning
from launcher.cache.planning import Request
from tests.support.caches import A, make_repo, root_of
from tests.support.hub_cache import Library
from tests.support.removal import V22, V23, Cached, everything


def files(cached: Cached, repo: str, commit: str) -> set[str]:
    snapshot = cached.repo(repo) / "snapshots" / commit
    return {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if not path.is_dir()}


def test_a_file_goes_with_its_blob_and_what_others_need_stays(cached: Cached) -> None:
    before = {commit: files(cached, V22, commit) for commit in cached.written.commits[V22]}
    codec = cached.repo(V22) / "snapshots" / cached.new(V22) / "codec.safetensors"
    blob = os.path.realpath(codec)
    shown = cached.run("remove", V22, "--file", "gpt.*", "--dry-run")
    assert "gpt.safetensors" in shown.out and "would free" in shown.out
    one = cached.run("remove", f"{V22}@{cached.new(V22)}", "--file", "codec.safetensors")
    assert one.status == 0, one.err
    assert os.path.exists(blob)  # the old revision and another repo have it
    assert files(cached, V22, cached.new(V22)) == before[cached.new(V22)] - {"codec.safetensors"}
    done = cached.run("remove", V22, "--file", "gpt.*", "--file", "qwen/*", "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["freed_bytes"] >= 700 * 6 + 800 * 6
    for commit, names in before.items():
        gone = {"gpt.safetensors", "qwen/tokenizer.json"} | (
            {"codec.safetensors"} if commit == cached.new(V22) else set()
        )
        assert files(cached, V22, commit) == names - gone
    with Library() as library:
        assert library.load(cached.hub, V23, "main") == cached.written.loads[V23, "main", "model"]
        assert not [line for line in library.scan(cached.hub)["warnings"] if V22.replace("/", "--") in line]


def test_a_glob_that_matches_nothing_names_the_files(cached: Cached) -> None:
    before = everything(cached.home)
    done = cached.run("remove", V23, "--file", "*.onnx")
    assert done.status == 2
    assert f"no file of {V23} matches *.onnx; the files: bpe.model.bin, config.json, gpt.safetensors" in done.err
    assert everything(cached.home) == before


def test_a_file_that_the_app_links_to_stays(cached: Cached) -> None:
    weights = cached.repo(V23) / "snapshots" / cached.new(V23) / "gpt.safetensors"
    (cached.app.path / "gpt.pth").symlink_to(weights)
    done = cached.run("remove", f"{V23}@main", "--file", "gpt.safetensors")
    assert done.status == 75
    assert f"{cached.app.path / 'gpt.pth'} links to it" in done.err
    assert weights.exists()


def test_the_name_of_a_repo_is_known_in_any_case_where_one_has_it(cached: Cached) -> None:
    assert cached.run("remove", V22.upper()).status == 0
    assert not (cached.repo(V22) / "refs").exists()
    other = cached.repo(V23).with_name(cached.repo(V23).name.upper().replace("MODELS", "models"))
    other.mkdir()
    done = cached.run("remove", V23.title())
    assert done.status == 2
    assert "the nearest" in done.err
    assert cached.repo(V23).exists() and other.exists()


@pytest.mark.parametrize("words", [("clear",), ("prune",)])
def test_only_remove_takes_files(cached: Cached, words: tuple[str, ...]) -> None:
    assert cached.run(*words, "--file", "x").status == 2


def test_a_file_that_took_the_place_of_a_planned_one_stays(tmp_path: Path) -> None:
    """A terminal asks before it removes from a shared cache, and the answer may take minutes."""
    repo = make_repo(tmp_path, "models--koge--a", {A: {"config.json": b"{}", "w.bin": b"w"}})
    planned = planning.plan(Request("remove", ("koge/a",), files=("*",)), (root_of(tmp_path),))
    edited = repo / "snapshots" / A / "config.json"
    edited.unlink()
    edited.write_text("mine")
    result = planning.condemn(planned, lambda *_: None)
    assert [(failure.path, failure.reason) for failure in result.failures] == [
        (str(edited), "it has changed since the removal was planned")
    ]
    assert edited.read_text() == "mine"
    assert not os.path.lexists(edited.with_name("w.bin"))
