"""Prune takes what nothing can load any more, what was not used for long or does not fit, and never what is pinned."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from launcher.cache import planning
from launcher.cache.planning import Request
from tests.support.caches import add_ref, make_repo, make_trash, root_of
from tests.support.hub_cache import Library, hf
from tests.support.removal import (
    CODEC,
    HUB,
    PRIVATE,
    V22,
    V23,
    VOICES,
    Cached,
    everything,
    held,
    needs_store,
    only,
    partial_of,
)


@pytest.mark.slow
def test_prune_takes_what_nothing_can_load_and_nothing_else(cached: Cached) -> None:
    v22, v23 = cached.repo(V22), cached.repo(V23)
    old = cached.old(V23)
    partial = partial_of(cached, V22)
    (v22 / "blobs" / ("e" * 64)).write_bytes(b"orphan" * 50)
    add_ref(v22, "nowhere", "2" * 40)
    stale_lock = cached.hub / ".locks" / v22.name / f"{'c' * 64}.lock"
    stale_lock.touch()
    abandoned = cached.hub / ".locks" / "models--nobody--knows"
    abandoned.mkdir()
    trash = make_trash(cached.hub)
    shutil.copytree(cached.repo(VOICES), trash / "models--old--one", symlinks=True)
    before = everything(cached.home)
    done = cached.run("prune", "--json")
    assert done.status == 0, done.err
    items = done.json["removed"]
    assert only(items, "revision") == [str(v23 / "snapshots" / old)]
    assert only(items, "partial") == [str(partial)]
    assert str(v22 / "blobs" / ("e" * 64)) in only(items, "blob")
    assert str(stale_lock) in only(items, "lock")
    assert only(items, "locks") == [str(abandoned)]
    assert cached.loading() == cached.all_but(f"{V23}@{old}")
    for path in (partial, stale_lock, abandoned, trash, v22 / "refs" / "nowhere"):
        assert not os.path.lexists(path), path
    after = everything(cached.home)
    for path, data in PRIVATE.items():
        assert after[path][1] == data
    live = {path for path in before if path.startswith(f"hub/{cached.repo(VOICES).name}/")}
    assert live <= after.keys()
    assert _scan_is_clean(cached)


def test_a_link_to_a_missing_blob_is_the_only_evidence_of_the_gap_and_stays(cached: Cached) -> None:
    dangling = cached.repo(CODEC) / "snapshots" / cached.new(CODEC) / "gone.bin"
    dangling.symlink_to("../../blobs/" + "d" * 64)
    gone = cached.repo(V22) / "snapshots" / ("1" * 40)
    gone.mkdir()
    (gone / "all.bin").symlink_to("../../blobs/" + "d" * 64)
    add_ref(cached.repo(V22), "next", "1" * 40)
    assert cached.run("prune").status == 0
    assert dangling.is_symlink() and (gone / "all.bin").is_symlink()
    assert (cached.repo(V22) / "refs" / "next").exists()


def test_the_only_complete_commit_stays_whatever_no_ref_names(cached: Cached) -> None:
    """Of V23, `main` lost its weights as when a download breaks off; of VOICES, no ref is left at all."""
    weights = cached.repo(V23) / "snapshots" / cached.new(V23) / "gpt.safetensors"
    weights.unlink()
    shutil.rmtree(cached.repo(VOICES) / "refs")
    before = {path for path in everything(cached.home) if "/snapshots/" in path}
    assert cached.run("prune").status == 0
    with Library() as library:
        old = cached.old(V23)
        assert library.load(cached.hub, V23, old) == cached.written.loads[V23, old, "model"]
    assert before <= everything(cached.home).keys()


def test_a_locked_commit_stays_though_no_ref_names_it(cached: Cached) -> None:
    size = {"config.json": {"size": 1, "git_sha1": "0" * 40}}
    locked = {"repo": V23, "revision": "main", "commit": cached.old(V23), "files": size}
    (cached.app.path / "models.lock").write_text(json.dumps({"version": 1, "models": [locked]}))
    assert cached.run("prune").status == 0
    assert f"{V23}@{cached.old(V23)}" in cached.loading()


def test_what_the_apps_folder_links_to_stays(cached: Cached, tmp_path: Path) -> None:
    """A local dir of huggingface_hub up to 0.22 is made of links to blobs; people link to a snapshot's files too."""
    models = tmp_path / "models"  # on a bigger disk
    models.mkdir()
    (cached.app.path / "checkpoints").symlink_to(models)
    weights = cached.repo(V23) / "snapshots" / cached.old(V23) / "gpt.safetensors"
    (models / "gpt.pth").symlink_to(cached.repo(V23) / "blobs" / os.path.basename(os.readlink(weights)))
    (cached.app.path / "voices").symlink_to(cached.repo(VOICES) / "snapshots" / cached.new(VOICES))
    assert cached.run("prune").status == 0
    assert (models / "gpt.pth").exists()
    for arguments in (("remove", V23), ("remove", f"datasets/{VOICES}@main"), ("clear",)):
        done = cached.run(*arguments)
        assert done.status == 75, (arguments, done.err)
        assert "links to it" in done.err
    assert (models / "gpt.pth").exists() and (cached.app.path / "voices" / "anna.wav").exists()
    assert cached.loading() == {f"{VOICES}@main", f"{V23}@main", f"{V23}@{cached.new(V23)}"}
    assert cached.run("clear", "--force").status == 0
    assert cached.loading() == set()


def _scan_is_clean(cached: Cached) -> bool:
    with Library() as library:
        found = library.scan(cached.hub)
    warnings = [one for one in found["warnings"] if "/mine" not in one and "version.txt" not in one]
    return not warnings and {repo["repo_id"] for repo in found["repos"]} == {V22, V23, CODEC, VOICES}


def test_pruned_once_there_is_nothing_more_to_prune(cached: Cached) -> None:
    partial_of(cached, V22)
    (cached.repo(V22) / "blobs" / ("e" * 64)).write_bytes(b"orphan" * 50)
    assert cached.run("prune").status == 0
    again = cached.run("prune", "--dry-run", "--json")
    assert again.json["roots"][0]["remove"] == []


@pytest.mark.skipif(HUB < (1, 0), reason="this huggingface_hub cannot prune")
@pytest.mark.parametrize("arguments", [("prune",), ("clear",), ("remove", V22, V23)])
def test_the_librarys_own_prune_finds_nothing_left_over(arguments: tuple[str, ...], cached: Cached) -> None:
    partial_of(cached, V22)
    assert cached.run(*arguments).status == 0
    if arguments[0] != "prune":
        assert cached.run("prune").status == 0
    status, out, err = hf(cached.hub, "cache", "prune", "--dry-run", "--cache-dir", cached.hub)
    assert status == 0, err
    assert "Nothing to prune" in out + err


@pytest.mark.slow
@needs_store
@pytest.mark.parametrize("arguments", [("clear",), ("remove", V22), ("remove", f"{V22}@v1"), ("remove", CODEC, V22)])
def test_no_payload_is_left_that_nobody_links_to(arguments: tuple[str, ...], cached: Cached) -> None:
    cached.run(*arguments)
    status, out, err = hf(cached.hub, "cache", "prune", "--dry-run", "--cache-dir", cached.hub)
    assert status == 0, err
    assert "shared blob" not in (out + err).replace("or shared blobs found", "")
    cached.loads()


@pytest.mark.parametrize("options", [(), ("--older-than", "30d"), ("--max-size", "0")])
def test_a_pinned_revision_is_never_pruned(options: tuple[str, ...], cached: Cached) -> None:
    pin = cached.repo(V23) / "refs" / "start_app"
    pin.write_text(cached.old(V23))
    _age(cached, V23, 400)
    done = cached.run("prune", *options)
    assert done.status == 0, done.err
    loading = cached.loading()
    assert f"{V23}@{cached.old(V23)}" in loading
    assert pin.read_text() == cached.old(V23)
    assert (f"{V23}@main" in loading) == (not options or options[0] == "--max-size")


def _age(cached: Cached, name: str, days: float) -> None:
    """Have a repo be used last so many days ago."""
    then = time.time() - days * 86400
    for path in sorted(cached.repo(name).rglob("*")):
        if not path.is_dir():
            os.utime(path.resolve() if path.exists() else path, (then, then), follow_symlinks=False)


@pytest.mark.slow
def test_what_was_not_used_for_long_is_pruned_on_request_only(cached: Cached) -> None:
    def aged(*arguments: str) -> list[str]:
        _age(cached, V23, 40)
        _age(cached, VOICES, 20)
        done = cached.run("prune", *arguments, "--json")
        assert done.status == 0, done.err
        return [item["reason"] for item in done.json["removed"] if item["kind"] == "repo"]

    assert aged("--keep", V23) == []
    assert cached.loading() == cached.all_but()
    assert aged("--older-than", "30d") == ["not used for 40 days"]
    assert cached.loading() == cached.all_but(V23)
    assert aged("--older-than", "2w", "--keep", f"datasets/{VOICES}") == []
    assert cached.loading() == cached.all_but(V23)
    assert aged("--older-than", "2w") == ["not used for 20 days"]
    assert cached.loading() == cached.all_but(V23, VOICES)


def test_what_was_just_loaded_is_in_use_and_not_old(cached: Cached) -> None:
    _age(cached, V23, 40)
    for blob in (cached.repo(V23) / "blobs").iterdir():
        os.utime(blob, (time.time(), blob.stat().st_mtime))
    assert cached.run("prune", "--older-than", "30d").status == 0
    assert f"{V23}@main" in cached.loading()


@pytest.mark.slow
def test_the_least_recently_used_go_until_the_rest_fits(cached: Cached) -> None:
    def aged(size: int) -> set[str]:
        for days, name in ((1, CODEC), (2, V22), (3, VOICES), (4, V23)):
            if cached.repo(name).exists():
                _age(cached, name, days)
        done = cached.run("prune", "--max-size", f"{size}B")
        assert done.status == 0, done.err
        return {one.partition("@")[0] for one in cached.loading()}

    # What two of them share is counted once.
    assert aged(held(cached.hub)) == {V22, V23, CODEC, VOICES}
    assert f"{V23}@{cached.old(V23)}" not in cached.loading()  # no ref points to it, whatever the size
    sizes = {name: held(cached.repo(name) / "blobs") for name in (V22, V23, CODEC, VOICES)}
    store = sum(path.stat().st_size for path in cached.hub.glob("blobs/*/*") if len(path.name) == 64)
    assert aged(sum(sizes.values()) + store - 100) == {V22, CODEC, VOICES}
    assert aged(sizes[CODEC] + 6000) == {CODEC}
    assert aged(1) == set()


def test_what_is_to_be_kept_is_not_pruned_to_make_room(cached: Cached) -> None:
    _age(cached, V22, 100)
    done = cached.run("prune", "--max-size", "0", "--keep", V22, "--keep", "amphion/*")
    assert done.status == 0, done.err
    assert cached.loading() == cached.all_but(V23, VOICES)


def test_keeping_what_is_not_there_is_a_mistake_that_removes_nothing(cached: Cached) -> None:
    before = everything(cached.home)
    done = cached.run("prune", "--max-size", "0", "--keep", "koge/index-tts-v2")
    assert done.status == 2
    assert V22 in done.err
    assert everything(cached.home) == before


@pytest.mark.parametrize("gone", ["repo", "snapshot", "blob"])
def test_what_another_run_has_taken_since_the_plan_is_no_failure(gone: str, tmp_path: Path) -> None:
    repo = make_repo(tmp_path, "models--koge--index-tts-v22")
    orphan, unused = repo / "blobs" / ("e" * 64), repo / "snapshots" / ("1" * 40)
    orphan.write_bytes(b"orphan")
    shutil.copytree(repo / "snapshots" / ("a" * 40), unused, symlinks=True)
    planned = planning.plan(Request("prune"), (root_of(tmp_path),))
    assert {item.path for item in planned[0].items} >= {str(orphan), str(unused)}
    taken = {"repo": repo, "snapshot": unused, "blob": orphan}[gone]
    taken.rename(tmp_path / ".start_app-trash-0123456789abcdef")
    result = planning.finish(planned, planning.condemn(planned, lambda _plan, _item: None), None)
    assert not result.failures
    assert not orphan.exists() and not unused.exists()
    assert repo.exists() == (gone != "repo")
