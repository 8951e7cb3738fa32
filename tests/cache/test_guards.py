"""However the settings are wrong, and whatever links somebody has planted: nothing but a model goes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.apps import AppFolder, Processes, clean_environment, launcher
from tests.support.caches import A, B, add_blob, add_file, add_link, age, make_repo, make_trash, share
from tests.support.removal import (
    COMMANDS,
    PRIVATE,
    V23,
    Cached,
    everything,
    insist,
)


@pytest.mark.parametrize("arguments", COMMANDS)
@pytest.mark.parametrize("name", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])
@pytest.mark.parametrize("place", ["root", "home", "above home", "app", "app, relative", "above app", "link to home"])
def test_a_system_a_home_or_an_app_is_no_cache(
    arguments: tuple[str, ...], name: str, place: str, app: AppFolder, tmp_path: Path
) -> None:
    home = tmp_path / "home" / "me"
    home.mkdir(parents=True)
    (tmp_path / "link").symlink_to(home)
    value = {
        "root": "/",
        "home": "~",
        "above home": str(home.parent),
        "app": str(app.path),
        "app, relative": "./",
        "above app": "..",
        "link to home": str(tmp_path / "link"),
    }[place]
    for folder in (home, home.parent, app.path, tmp_path):
        make_repo(folder, "models--koge--a")
        (folder / "blobs").mkdir()
        (folder / "blobs" / ".huggingface-shared-blobs").write_text("1\n")
    before = everything(tmp_path)
    done = insist(app, *arguments, env={"HOME": str(home), name: value})
    assert done.status == 78, done.err
    assert " is no place for a model cache (environment): it holds " in done.err
    assert done.err.splitlines()[-1].startswith("hint: set HF_HOME to a folder of its own")
    assert everything(tmp_path) == before


@pytest.mark.parametrize("flags", [("--clear-cache",), ("--prune-cache",), ("--remove-model", "koge/a")])
def test_a_launch_refuses_such_a_cache_before_it_stops_anything(
    flags: tuple[str, ...], app: AppFolder, processes: Processes
) -> None:
    make_repo(app.path, "models--koge--a")
    running = processes.launch(*app.arguments)
    running.hello()
    before = everything(app.path / "models--koge--a")
    done = launcher(*app.arguments, *flags, "-y", env=clean_environment(HF_HUB_CACHE="."))
    assert done.status == 78, done.err
    assert running.process.poll() is None
    assert everything(app.path / "models--koge--a") == before


@pytest.mark.parametrize("home", ["/", "~", "app"])
def test_a_home_of_hugging_faces_that_is_a_system_a_home_or_an_app_loses_its_models_only(
    home: str, cached: Cached, tmp_path: Path
) -> None:
    """HF_HOME=~ is a mistake that works: its cache is ~/hub, a folder like any other."""
    user = tmp_path / "user"
    user.mkdir()
    place = {"/": Path("/"), "~": user, "app": cached.app.path}[home]
    if home != "/":
        shutil.copytree(cached.home, place, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(cached.home)
    cached.app.write_env("")
    before = everything(place) if home != "/" else {}
    if home == "/" and os.path.exists("/hub"):
        pytest.skip("there is a /hub here")
    done = insist(cached.app, "clear", env={"HOME": str(user), "HF_HOME": home if home != "app" else "."})
    assert done.status == 0, done.err
    if home == "/":
        return
    after = everything(place)
    for path, data in PRIVATE.items():
        assert after[path][1] == data
    assert not [path for path in after if "index-tts-v23" in path]
    assert {path for path in before if not path.startswith("hub")} <= after.keys()


@pytest.mark.parametrize("arguments", [("clear",), ("prune",), ("clear", "--dry-run")])
def test_a_cache_that_is_the_current_folder_loses_its_models_only(
    arguments: tuple[str, ...], app: AppFolder, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    make_repo(work, "models--koge--a", {A: {"x": b"x"}, B: {"y": b"y"}})
    (work / "thesis.txt").write_text("mine")
    for folder in ("blobs", "models", "models--", "datasets-mine", "snapshots"):
        (work / folder).mkdir()
        (work / folder / "mine.txt").write_text("mine")
    env = clean_environment(HF_HUB_CACHE=str(work))
    before = everything(work)
    done = launcher("cache", *arguments, "-y", "--app-dir", app.path, cwd=work, env=env)
    assert done.status == 0, done.err
    stay = {path: found for path, found in before.items() if not path.startswith("models--koge")}
    assert {path: found for path, found in everything(work).items() if not path.startswith("models--koge")} == stay
    assert (work / "models--koge--a").exists() == (arguments != ("clear",))


@pytest.mark.parametrize(("name", "file"), [("HF_HOME", ""), ("HF_HUB_CACHE", ""), ("HF_HOME", "hub")])
def test_a_cache_that_is_a_file_stays_one(name: str, file: str, app: AppFolder, tmp_path: Path) -> None:
    place = tmp_path / "place"
    (place / file).parent.mkdir(exist_ok=True)
    (place / file).write_text("a file")
    for arguments in (("clear",), ("prune",), ("remove", "koge/a"), ("clear", "-n")):
        done = insist(app, *arguments, env={name: str(place)})
        assert done.status in (74, 78), (arguments, done.err)
        assert "a folder" in done.err or "not a directory" in done.err
    assert (place / file).read_text() == "a file"


@pytest.mark.parametrize(("name", "link"), [("HF_HOME", ""), ("HF_HUB_CACHE", ""), ("HF_HOME", "hub")])
def test_a_cache_that_is_a_link_to_nowhere_makes_nothing_there(
    name: str, link: str, app: AppFolder, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    (place / link).parent.mkdir(exist_ok=True)
    (place / link).symlink_to(tmp_path / "nowhere")
    for arguments in (("clear",), ("prune",), ("clear", "-n")):
        done = insist(app, *arguments, env={name: str(place)})
        assert done.status in (0, 78), done.err
        assert "nothing to remove in " in done.err + done.out or "is a dangling link" in done.err
    assert sorted(os.listdir(tmp_path)) == ["app", "place"]


@pytest.mark.parametrize("arguments", COMMANDS)
def test_of_a_repo_that_is_a_link_the_link_goes_and_what_it_leads_to_stays(
    arguments: tuple[str, ...], app: AppFolder, hub: Path, tmp_path: Path
) -> None:
    make_repo(hub, "models--koge--a")
    precious = make_repo(tmp_path / "precious", "models--koge--b")
    (hub / "models--koge--b").symlink_to(precious)
    (hub / "models--koge--c").symlink_to("nowhere")
    (hub / "models--koge--d").write_text("no folder")
    before = everything(precious)
    done = insist(app, *arguments)
    assert done.status == 0, done.err
    assert everything(precious) == before
    assert (hub / "models--koge--c").is_symlink()
    assert (hub / "models--koge--d").read_text() == "no folder"
    assert not (hub / "models--koge--a").exists()
    if arguments[0] == "prune":
        assert (hub / "models--koge--b").is_symlink()  # it takes no space here
    else:
        assert not os.path.lexists(hub / "models--koge--b")
        assert f"cache: {precious} stays: {hub}/models--koge--b only links to it\n" in done.err
    if arguments == ("clear",):
        assert f"skipped: {hub}/models--koge--c: it is a link to nowhere, which is not there\n" in done.err
        assert f"skipped: {hub}/models--koge--d: it is not a folder\n" in done.err


def test_a_revision_behind_a_link_is_not_removed_through_it(app: AppFolder, hub: Path, tmp_path: Path) -> None:
    precious = make_repo(tmp_path / "precious", "models--koge--b", {A: {"x": b"x"}, B: {"y": b"y"}})
    (hub / "models--koge--b").symlink_to(precious)
    before = everything(tmp_path)
    done = insist(app, "remove", f"koge/b@{A}")
    assert done.status == 74
    assert f"cannot remove {hub}/models--koge--b: it is behind a link to {precious}, " in done.err
    assert everything(tmp_path) == before
    assert insist(app, "prune").status == 0
    assert everything(tmp_path) == before


@pytest.mark.parametrize("arguments", [*COMMANDS, ("remove", f"koge/a@{A}"), ("remove", "koge/a@main")])
@pytest.mark.parametrize("part", ["blobs", "refs", "snapshots", "snapshots/" + A, "trees", ".no_exist"])
def test_no_part_of_a_repo_that_is_a_link_is_followed(
    part: str, arguments: tuple[str, ...], app: AppFolder, hub: Path, tmp_path: Path
) -> None:
    repo = make_repo(hub, "models--koge--a", {A: {"x": b"x" * 99}, B: {"y": b"y"}}, {"main": A, "other": B})
    add_blob(repo, b"orphan")
    (repo / "trees").mkdir()
    (repo / "trees" / f"{A}.json").write_text("{}")
    (repo / ".no_exist" / A).mkdir(parents=True)
    (repo / ".no_exist" / A / "z").touch()
    precious = tmp_path / "precious"
    shutil.move(repo / part, precious)
    (repo / part).symlink_to(precious)
    before = everything(precious)
    done = insist(app, *arguments)
    assert done.status in (0, 2, 74), done.err
    assert everything(precious) == before
    assert "bug" not in done.err


@pytest.mark.parametrize("arguments", [*COMMANDS, ("prune",)])
@pytest.mark.parametrize("place", [".locks", ".locks/models--koge--a", ".locks/models--koge--gone"])
def test_no_lock_folder_that_is_a_link_is_followed(
    place: str, arguments: tuple[str, ...], app: AppFolder, hub: Path, tmp_path: Path
) -> None:
    make_repo(hub, "models--koge--a")
    precious = tmp_path / "precious"
    for folder in (precious, precious / "models--koge--a", precious / "models--koge--gone"):
        folder.mkdir()
        (folder / "mine.lock").write_text("mine")
    if place == ".locks":
        (hub / ".locks").symlink_to(precious)
    else:
        (hub / ".locks").mkdir()
        (hub / place).symlink_to(precious)
    before = everything(precious)
    done = insist(app, *arguments)
    assert everything(precious) == before
    done = insist(app, "prune")
    assert everything(precious) == before
    assert "bug" not in done.err


@pytest.mark.parametrize("arguments", [*COMMANDS, ("remove", "koge/a@main"), ("prune",)])
def test_what_a_snapshots_links_lead_to_outside_is_never_touched(
    arguments: tuple[str, ...], app: AppFolder, hub: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    (precious / "blobs").mkdir(parents=True)
    for name in ("a", "blobs/b", "c"):
        (precious / name).write_text(f"precious {name}")
    repo = make_repo(hub, "models--koge--a", {A: {"x": b"x"}, B: {"y": b"y"}}, {"main": A, "other": B})
    add_link(repo, A, "absolute", "", str(precious / "a"))
    add_link(repo, A, "relative", "", os.path.relpath(precious / "blobs" / "b", repo / "snapshots" / A))
    add_link(repo, A, "folder", "", str(precious))
    (repo / "blobs" / ("c" * 64)).symlink_to(precious / "c")
    add_link(repo, A, "blob", "c" * 64)
    (repo / "refs" / "linked").symlink_to(precious / "a")
    age(repo / "refs" / "linked")
    before = everything(precious)
    done = insist(app, *arguments)
    assert done.status == 0, done.err
    assert everything(precious) == before


def test_another_repos_blob_is_not_taken_with_a_snapshot_that_links_to_it(app: AppFolder, hub: Path) -> None:
    other = make_repo(hub, "models--koge--b", {B: {"x": b"theirs"}})
    blob = next((other / "blobs").iterdir()).name
    repo = make_repo(hub, "models--koge--a")
    add_link(repo, A, "borrowed", "", f"../../../models--koge--b/blobs/{blob}")
    before = everything(other)
    assert insist(app, "remove", f"koge/a@{A}").status == 0
    assert everything(other) == before


@pytest.mark.parametrize("arguments", [("clear",), ("remove", "koge/a"), ("prune",)])
def test_trash_that_is_a_link_is_never_followed(
    arguments: tuple[str, ...], app: AppFolder, hub: Path, tmp_path: Path
) -> None:
    precious = make_repo(tmp_path / "precious", "models--koge--p")
    repo = make_repo(hub, "models--koge--a", {A: {"x": b"x"}}, {"main": A})
    other = make_repo(hub, "models--koge--b", {A: {"x": b"x"}}, {"main": A})
    (hub / ".start_app-trash-0123456789abcdef").symlink_to(precious.parent)
    (hub / ".start_app-trash-x").symlink_to(app.path)
    (repo / ".start_app-trash-ref-0123456789abcdef").symlink_to(precious)
    (other / ".start_app-trash-ref-0123456789abcdef").symlink_to(precious)
    real = make_trash(hub, "1" * 16)
    (real / "models--koge--q").symlink_to(precious)
    (real / "blobs").symlink_to(precious / "blobs")
    before = everything(precious)
    done = insist(app, *arguments)
    assert done.status == 0, done.err
    assert everything(precious) == before
    assert app.script.exists()
    assert not real.exists()


def test_a_blob_store_without_its_mark_is_somebody_elses(app: AppFolder, hub: Path) -> None:
    make_repo(hub, "models--koge--a")
    (hub / "blobs" / "ab").mkdir(parents=True)
    (hub / "blobs" / "ab" / ("ab" * 32)).write_text("mine")
    before = everything(hub / "blobs")
    for mark in (None, "2\n", ""):
        if mark is not None:
            (hub / "blobs" / ".huggingface-shared-blobs").write_text(mark)
            before = everything(hub / "blobs")
        assert insist(app, "clear").status == 0
        assert insist(app, "prune").status == 0
        assert everything(hub / "blobs") == before


def test_a_blob_store_that_is_a_link_is_left(app: AppFolder, hub: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    make_repo(hub, "models--koge--a")
    share(tmp_path, b"payload")
    shutil.move(tmp_path / "blobs", precious)
    (hub / "blobs").symlink_to(precious)
    before = everything(precious)
    for arguments in (("prune",), ("clear",)):
        assert insist(app, *arguments).status == 0
        assert everything(precious) == before
    assert (hub / "blobs").is_symlink()


def test_an_unknown_file_beside_a_store_stays_with_it(cached: Cached) -> None:
    add_file(cached.repo(V23), "9" * 40, "unused", b"u")
    (cached.hub / "blobs.txt").write_text("mine")
    assert cached.run("clear").status == 0
    assert (cached.hub / "blobs.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("setting", "advice"),
    [("./hf/hub", "set HF_HOME={app}/hf"), ("./models", "set HF_HUB_CACHE={app}/models")],
)
def test_an_hf_home_that_is_a_hub_cache_itself_is_hinted_at(setting: str, advice: str, app: AppFolder) -> None:
    make_repo(app.path / setting, "models--koge--a")
    app.write_env(f"HF_HOME={setting}\n")
    done = launcher("cache", "clear", "--yes", *app.arguments)
    assert f"hint: {advice.format(app=app.path)}: HF_HOME is {app.path / setting}, so the hub cache is " in done.err
    assert (app.path / setting / "models--koge--a").exists()


@pytest.mark.parametrize("name", ["TRANSFORMERS_CACHE", "PYTORCH_TRANSFORMERS_CACHE", "PYTORCH_PRETRAINED_BERT_CACHE"])
def test_the_cache_of_transformers_is_listed_and_cleared_too(name: str, app: AppFolder) -> None:
    repo = make_repo(app.path / "models_cache", "models--koge--a")
    app.write_env(f"{name}=./models_cache\n")
    assert "koge/a" in launcher("cache", "list", *app.arguments).out
    assert launcher("cache", "clear", *app.arguments).status == 0
    assert not repo.exists()
