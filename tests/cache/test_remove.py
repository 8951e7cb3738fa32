"""What is asked for goes from a real cache, nothing else does, and what is told of it is what happened."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.support.apps import clean_environment, launcher
from tests.support.caches import make_trash
from tests.support.hub_cache import Library
from tests.support.removal import (
    CODEC,
    PRIVATE,
    V22,
    V23,
    VOICES,
    Cached,
    besides_entries,
    everything,
    held,
    on_terminal,
    partial_of,
)

REMOVALS = (("clear",), ("remove", V22), ("remove", f"{V22}@v1"), ("remove", V22, f"datasets/{VOICES}"), ("prune",))
# A ref is some forty bytes and a payload's list of links some hundred each; nobody is told of them.
BOOKKEEPING = 2000


def test_clear_takes_every_repo_and_leaves_all_that_is_none(cached: Cached) -> None:
    before = everything(cached.home)
    done = cached.run("clear")
    assert done.status == 0, done.err
    assert everything(cached.home) == besides_entries(before)
    assert not any(cached.loads().values())
    for name in (V22, V23, CODEC, f"datasets/{VOICES}"):
        assert f"cache: removing {name}" in done.err


def test_a_cleared_cache_is_cleared_again_without_a_word_of_freed_space(cached: Cached) -> None:
    cached.run("clear")
    before = everything(cached.home)
    done = cached.run("clear", "--json")
    assert done.status == 0, done.err
    assert done.json["freed_bytes"] == 0
    assert everything(cached.home) == before


@pytest.mark.slow
def test_remove_takes_one_repo_and_every_other_loads(cached: Cached) -> None:
    before = everything(cached.home)
    done = cached.run("remove", V22)
    assert done.status == 0, done.err
    assert cached.loading() == cached.all_but(V22)
    gone = before.keys() - everything(cached.home).keys()
    folder = cached.repo(V22).name
    own = {path for path in gone if path.startswith((f"hub/{folder}/", f"hub/.locks/{folder}"))}
    # What only it linked to has left the store, and a folder of the store may be empty then.
    assert all(path.startswith("hub/blobs/") for path in gone - own)
    assert os.listdir(cached.repo(V22)) == ["notes.txt"]
    assert not (cached.hub / ".locks" / folder).exists()


@pytest.mark.parametrize(
    "target",
    [
        "koge/index-tts-v23",
        "models--koge--index-tts-v23",
        "models/koge/index-tts-v23",
        "koge/*-v23",
        "models--koge--index-tts-v2[3]",
    ],
)
def test_a_repo_is_named_in_any_of_these_ways(target: str, cached: Cached) -> None:
    done = cached.run("remove", target)
    assert done.status == 0, done.err
    assert not cached.repo(V23).exists()
    assert cached.repo(V22).exists() and cached.repo(VOICES).exists()


@pytest.mark.slow
def test_a_glob_takes_what_it_matches_of_its_own_type(cached: Cached) -> None:
    assert cached.run("remove", "koge/*").status == 0
    assert cached.loading() == cached.all_but(V22, V23)
    assert cached.run("remove", "datasets/koge/*").status == 0
    assert cached.loading() == cached.all_but(V22, V23, VOICES)


@pytest.mark.parametrize(
    "target", ["koge/index-tts-v24", "koge", "kog?", f"{V22}@v2", "index-tts", "../hub", "0" * 40, ""]
)
def test_a_name_that_means_nothing_removes_nothing(target: str, cached: Cached) -> None:
    before = everything(cached.home)
    done = cached.run("remove", V23, target)
    assert done.status == 2, done.err
    assert "nothing was removed" in done.err
    assert everything(cached.home) == before


def test_an_unknown_name_is_answered_with_the_nearest(cached: Cached) -> None:
    done = cached.run("remove", "koge/index-tts-v24")
    assert f"koge/index-tts-v24 is not in the cache; the nearest: {V22}, {V23}; nothing was removed" in done.err
    assert "cache list" in done.err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["ref", "commit", "prefix", "bare commit", "bare prefix"])
def test_a_revision_goes_without_what_others_link_to(form: str, cached: Cached) -> None:
    old = cached.old(V22)
    target = {
        "ref": f"{V22}@v1",
        "commit": f"{V22}@{old}",
        "prefix": f"{V22}@{old[:7]}",
        "bare commit": old,
        "bare prefix": old[:8],
    }[form]
    blobs = set(os.listdir(cached.repo(V22) / "blobs"))
    done = cached.run("remove", target)
    assert done.status == 0, done.err
    assert f"cache: removing {V22}@{old[:7]}" in done.err
    assert cached.loading() == cached.all_but(f"{V22}@v1", f"{V22}@{old}")
    assert not (cached.repo(V22) / "refs" / "v1").exists()
    assert not (cached.repo(V22) / "trees" / f"{old}.json").exists()
    assert len(blobs - set(os.listdir(cached.repo(V22) / "blobs"))) == 2  # its own config.json and gpt.safetensors
    assert (cached.repo(V22) / "notes.txt").read_bytes() == PRIVATE["hub/models--koge--index-tts-v22/notes.txt"]
    with Library() as library:
        assert not [warning for warning in library.scan(cached.hub)["warnings"] if "index-tts-v22" in warning]


def test_the_last_revision_takes_its_repo_with_it(cached: Cached) -> None:
    done = cached.run("remove", f"{CODEC}@main", f"{V22}@v1", f"{V22}@main")
    assert done.status == 0, done.err
    assert cached.loading() == cached.all_but(CODEC, V22)
    assert not cached.repo(CODEC).exists()
    assert os.listdir(cached.repo(V22)) == ["notes.txt"]


def test_two_revisions_that_are_both_named_go_together(cached: Cached) -> None:
    """What only these two link to is kept by neither."""
    before = set(os.listdir(cached.repo(V23) / "blobs"))
    done = cached.run("remove", f"{V23}@{cached.old(V23)}", f"{V22}@v1", f"{V22}@{cached.old(V22)[:9]}")
    assert done.status == 0, done.err
    assert cached.loading() == cached.all_but(f"{V23}@{cached.old(V23)}", f"{V22}@v1", f"{V22}@{cached.old(V22)}")
    assert len(before - set(os.listdir(cached.repo(V23) / "blobs"))) == 1


@pytest.mark.parametrize("arguments", REMOVALS)
def test_a_dry_run_names_what_will_go_and_changes_nothing(arguments: tuple[str, ...], cached: Cached) -> None:
    partial_of(cached, V23)
    make_trash(cached.hub)
    before, times = everything(cached.home), _times(cached.home)
    planned = cached.run(*arguments, "--dry-run", "--json").json["roots"][0]
    shown = cached.run(*arguments, "--dry-run")
    assert shown.status == 0, shown.err
    assert everything(cached.home) == before
    assert _times(cached.home) == times
    for item in planned["remove"]:
        assert os.path.lexists(item["path"])
        assert any(
            line.startswith(f"would remove {item['path']}") and line.endswith(f": {item['reason']}")
            for line in shown.out.splitlines()
        )
    done = cached.run(*arguments)
    assert done.status == 0, done.err
    gone = {f"{cached.home}/{path}" for path in before.keys() - everything(cached.home).keys()}
    named = tuple(item["path"] for item in planned["remove"])
    kept = str(cached.repo(V22)) if arguments[0] == "clear" or V22 in arguments else ""
    assert {name for name in named if name not in gone} <= {kept}  # it stays for the notes in it
    # A payload takes its `.refs` with it, a blob its lock, a revision its list of files, and the last payload the
    # folders of the store: nothing else goes unnamed.
    unnamed = {path for path in gone if not any(path == name or path.startswith(f"{name}/") for name in named)}
    store = f"{cached.hub}/blobs"
    kinds = (".refs", ".lock", ".huggingface-shared-blobs")
    unnamed = {p for p in unnamed if not (p.endswith(kinds) or "/trees/" in p or p in (store, store + p[-3:]))}
    assert not unnamed


def _times(folder: Path) -> dict[str, int]:
    return {place: os.stat(place).st_mtime_ns for place, _, _ in os.walk(folder)}


@pytest.mark.parametrize("arguments", REMOVALS)
def test_what_is_told_as_freed_is_what_has_really_gone(arguments: tuple[str, ...], cached: Cached) -> None:
    partial_of(cached, V23)
    before = held(cached.home)
    done = cached.run(*arguments, "--json")
    assert done.status == 0, done.err
    really = before - held(cached.home)
    assert 0 <= really - done.json["freed_bytes"] <= BOOKKEEPING
    assert really > 4000
    planned_was_right = {(item["kind"], item["path"]) for item in done.json["removed"]}
    assert len(planned_was_right) == len(done.json["removed"])


@pytest.mark.parametrize("arguments", [("clear",), ("remove", V22)])
def test_a_file_with_another_name_outside_frees_nothing(
    arguments: tuple[str, ...], cached: Cached, tmp_path: Path
) -> None:
    blob = next(path for path in (cached.repo(V22) / "blobs").iterdir() if path.stat().st_size > 4000)
    os.link(blob.resolve(), tmp_path / "mine")
    data = (tmp_path / "mine").read_bytes()
    before = held(cached.home)
    done = cached.run(*arguments, "--json")
    assert done.status == 0, done.err
    assert (tmp_path / "mine").read_bytes() == data
    really = before - held(cached.home) - len(data)
    assert 0 <= really - done.json["freed_bytes"] <= BOOKKEEPING


@pytest.mark.parametrize("arguments", REMOVALS)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_json_is_one_object_on_one_line(arguments: tuple[str, ...], dry: tuple[str, ...], cached: Cached) -> None:
    done = cached.run(*arguments, *dry, "--json")
    assert done.status == 0, done.err
    assert done.out.count("\n") == 1
    document = json.loads(done.out)
    assert document["version"] == 1
    assert document["dry_run"] is bool(dry)
    items = document["roots"][0]["remove"] if dry else document["removed"]
    assert all({"kind", "path", "size_bytes", "reason"} <= item.keys() for item in items)


@pytest.fixture
def shared(cached: Cached, tmp_path: Path) -> tuple[Cached, dict[str, str]]:
    """Return a cache that is everybody's: it lies outside the app's folder, and only the environment names it."""
    home = tmp_path / "home" / "hf"
    home.parent.mkdir()
    shutil.move(cached.home, home)
    cached.app.script.with_name(".env").unlink()
    return Cached(cached.app, home, cached.written), clean_environment(HF_HOME=str(home))


@pytest.mark.parametrize("arguments", REMOVALS)
def test_a_shared_cache_is_not_touched_without_a_yes(
    arguments: tuple[str, ...], shared: tuple[Cached, dict[str, str]]
) -> None:
    cache, env = shared
    before = everything(cache.home)
    done = cache.run(*arguments, env=env)
    assert done.status == 2
    assert f"{cache.hub} (environment) is shared with other programs: " in done.err
    assert "nothing was changed" in done.err
    assert done.err.splitlines()[-1] == "hint: --yes removes it; --dry-run shows what would be removed"
    told = cache.run(*arguments, "--json", env=env)
    assert told.status == told.json["exit_status"] == 2
    assert everything(cache.home) == before
    assert cache.run(*arguments, "--dry-run", env=env).status == 0
    assert everything(cache.home) == before
    assert cache.run(*arguments, "--yes", env=env).status == 0
    assert everything(cache.home) != before


@pytest.mark.parametrize(("answer", "removes"), [("y", True), ("yes", True), ("n", False), ("", False), ("yep", False)])
def test_on_a_terminal_a_shared_cache_is_asked_for(
    answer: str, removes: bool, shared: tuple[Cached, dict[str, str]]
) -> None:
    cache, env = shared
    before = everything(cache.home)
    status, shown = on_terminal("cache", "remove", V22, "--app-dir", cache.app.path, answer=answer, env=env)
    assert "remove that? [y/N] " in shown
    assert status == (0 if removes else 130), shown
    assert cache.loading() == (cache.all_but(V22) if removes else cache.all_but())
    if not removes:
        assert "nothing was changed" in shown
        assert everything(cache.home) == before


@pytest.mark.slow
def test_the_apps_own_cache_is_never_asked_for(cached: Cached) -> None:
    status, shown = on_terminal("cache", "clear", "--app-dir", cached.app.path, answer="n")
    assert status == 0, shown
    assert "[y/N]" not in shown
    assert not any(cached.loads().values())


def test_a_cache_elsewhere_is_the_apps_own_when_its_env_names_it(shared: tuple[Cached, dict[str, str]]) -> None:
    cache, _ = shared
    cache.app.write_env(f"HF_HOME={cache.home}\n")
    assert cache.run("clear").status == 0
    assert not any(cache.loads().values())


@pytest.mark.parametrize("line", ["HF_HOME=~/.cache/huggingface", "HF_HUB_CACHE={home}/.cache/huggingface/hub", ""])
def test_the_user_wide_default_is_shared_even_if_the_env_names_it(
    line: str, shared: tuple[Cached, dict[str, str]], tmp_path: Path
) -> None:
    cache, _ = shared
    user = tmp_path / "user"
    (user / ".cache").mkdir(parents=True)
    shutil.move(cache.home, user / ".cache" / "huggingface")
    cache.app.write_env(line.format(home=user) + "\n")
    env = clean_environment(HOME=str(user))
    before = everything(user)
    assert cache.run("clear", env=env).status == 2
    assert everything(user) == before
    assert cache.run("clear", "-y", env=env).status == 0
    assert not (user / ".cache" / "huggingface" / "hub" / "models--koge--index-tts-v23").exists()


@pytest.mark.slow
def test_caches_of_the_app_beside_the_hub_cache_are_cleared_too(cached: Cached) -> None:
    beside = cached.app.path / "checkpoints" / "hf_cache" / "models--facebook--w2v"
    shutil.copytree(cached.repo(CODEC), beside, symlinks=False)
    listed = (beside / "trees").is_dir()
    weights = cached.app.path / "checkpoints" / "gpt.pth"
    weights.write_bytes(b"weights")
    done = cached.run("clear")
    assert done.status == 0, done.err
    if listed:
        assert not beside.exists()
    else:  # before huggingface_hub 1.0 nothing proves that a plain file beside blobs came from the Hub
        left = [path for path in beside.rglob("*") if path.is_file()]
        assert left
        assert all(f"skipped: {path}: " in done.err for path in left)
    assert weights.read_bytes() == b"weights"
    assert not any(cached.loads().values())


def test_without_a_cache_there_is_nothing_to_remove(cached: Cached) -> None:
    shutil.rmtree(cached.home)
    for arguments in (("clear",), ("prune",)):
        done = launcher("cache", *arguments, "--app-dir", cached.app.path)
        assert done.status == 0
        assert f"nothing to remove in {cached.app.path}" in done.err
    assert not cached.home.exists()
