"""Whatever a thing is called, however deep it goes and whoever owns it, only what is ours to remove goes."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.cache import planning
from launcher.cache import trash as trash_of
from launcher.cache.planning import Request
from tests.support.apps import AppFolder
from tests.support.caches import (
    A,
    B,
    add_blob,
    add_file,
    add_list,
    add_plain,
    add_ref,
    make_repo,
    make_trash,
    root_of,
    share,
)
from tests.support.removal import (
    COMMANDS,
    OtherUser,
    add_blob_path,
    as_root,
    everything,
    held,
    insist,
    mounted,
    needs_mounts,
    other_user,
    own,
    trash,
)

NAMES = (
    b"models--..--..",
    b"models--.",
    b"models--..",
    b"datasets--a--..--b",
    b"models--two\nlines",
    b"models--\x1b[31mred",
    b"models--\xff\xfe--\xe9",
    b"models--" + b"l" * 247,
    b"models--a b--$(reboot)",
    b"models---n",
    b"spaces--\xe6\xa8\xa1--\xe5\x9e\x8b",
    b"kernels--a--b",
)


@pytest.mark.parametrize("arguments", COMMANDS)
def test_a_hostile_name_is_only_a_name(arguments: tuple[str, ...], app: AppFolder, hub: Path) -> None:
    for name in NAMES:
        make_repo(hub, os.fsdecode(name))
    (app.path / "blobs").mkdir()
    (app.path / "blobs" / "mine").write_text("mine")
    outside = {path: found for path, found in everything(app.path).items() if not path.startswith("hub/")}
    dry = insist(app, *arguments, "--dry-run")
    assert dry.status == 0, dry.err
    assert "\x1b" not in dry.out
    targets = [os.fsdecode(name) for name in NAMES] if arguments[0] == "remove" else arguments[1:]
    done = insist(app, arguments[0], *targets)
    assert done.status == 0, done.err
    assert "\x1b" not in done.err
    assert [name for name in os.listdir(hub) if name != ".locks"] == []
    assert {path: found for path, found in everything(app.path).items() if not path.startswith("hub/")} == outside


def test_hostile_names_within_a_repo_are_only_names(app: AppFolder, hub: Path) -> None:
    repo = make_repo(hub, "models--koge--a", {A: {"x": b"x"}}, {"main": A})
    for name in (b"\xff\n", b"n" * 255, b"a b", b"%s"):
        word = os.fsdecode(name)
        add_blob(repo, b"orphan", word)
        add_file(repo, B, word, b"x")
        (repo / "snapshots" / word).mkdir()
        (repo / "snapshots" / word / "f").symlink_to("../../blobs/" + word)
        add_ref(repo, word, "f" * 40)
    before = everything(repo)
    done = insist(app, "prune")
    assert done.status == 0, done.err
    assert os.listdir(repo / "refs") == ["main"]
    gone = before.keys() - everything(repo).keys()
    # Nobody can tell whose a blob without a hash, or a snapshot without a commit, is: both stay.
    assert not [path for path in gone if not path.startswith((f"snapshots/{B}", "refs/"))]
    done = insist(app, "clear")
    assert done.status == 75, done.err  # what links to blobs of the repo needs them
    assert insist(app, "clear", "--force").status == 0
    assert sorted(os.listdir(repo)) == ["blobs", "snapshots"]


FOREIGN = (
    "blobs/mine/thesis.txt",
    f"blobs/{'d' * 64}/thesis.txt",
    "refs/notes.txt",
    "refs/pr/notes.txt",
    "trees/notes.txt",
    f".no_exist/{A}/notes.txt",
)


@pytest.mark.parametrize("arguments", COMMANDS)
def test_foreign_files_in_every_part_of_a_repo_stay_and_nothing_else(
    arguments: tuple[str, ...], app: AppFolder, hub: Path
) -> None:
    repo = make_repo(hub, "models--koge--a", {A: {"x": b"x"}}, {"main": A})
    (repo / ".no_exist" / A).mkdir(parents=True)
    (repo / ".no_exist" / A / "config.json").touch()
    kept = [repo / path for path in (*FOREIGN, f"snapshots/{A}/notes.txt")]
    make_repo(hub, "models--koge--b")
    kept.append(hub / ".locks" / "models--koge--b" / "notes.txt")
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    (kept[-1].parent / f"{'d' * 64}.lock").touch()
    for _ in range(2):  # the second run meets only what the first one has kept
        done = insist(app, *arguments)
        assert done.status == 0 or "matches" in done.err, done.err
        present = [path for path in hub.rglob("*") if path.is_file()]
        assert sorted(present) == sorted(kept)


def test_foreign_files_that_cannot_be_given_back_stay_in_the_trash(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = make_repo(hub, "models--koge--a", {A: {"x": b"x"}}, {"main": A})
    (repo / "thesis.txt").write_text("mine")
    left = make_trash(hub)
    repo.rename(left / repo.name)

    def failing(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr("launcher.cache.foreign.give_back", failing)
        assert [failure.path for failure in trash_of.finish(str(hub)).failures] == [f"{left}/models--koge--a"]
    assert [path.name for path in left.rglob("thesis.txt")] == ["thesis.txt"]
    assert trash_of.finish(str(hub)).failures == ()
    assert (repo / "thesis.txt").read_text() == "mine" and not left.exists()


def test_the_trash_is_deleted_also_where_nothing_can_be_renamed(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = make_repo(hub, "models--koge--a", {A: {"x": b"x"}}, {"main": A})
    left = make_trash(hub)
    repo.rename(left / repo.name)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.rename", full)
    assert trash_of.finish(str(hub)).failures == ()
    assert not left.exists()


def test_a_deletion_that_is_killed_at_any_instant_gives_back_none_of_the_models_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache without links: what is left of a repo in the trash looks like files that a removal has kept."""
    for step in range(1, 20):
        hub = tmp_path / f"hub{step}"
        repo = make_repo(hub, "models--koge--a", {}, {"main": A})
        for name in ("config.json", "w.bin", "sub/x.bin"):
            add_plain(repo, A, name, b"x")
        planned = planning.plan(Request("clear"), (root_of(hub),))
        planning.condemn(planned, lambda *_: None)
        left = step

        def dying(act: Callable[..., None]) -> Callable[..., None]:
            def dies(*arguments: object, **keywords: object) -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    raise SystemExit
                act(*arguments, **keywords)

            return dies

        with monkeypatch.context() as killed, contextlib.suppress(SystemExit):
            for name in ("rename", "unlink", "rmdir"):
                killed.setattr(os, name, dying(getattr(os, name)))
            trash_of.finish(str(hub))
        assert trash_of.finish(str(hub)).failures == ()
        assert [path for path in hub.rglob("*") if path.is_file()] == []
        if left > 0:
            return  # it was over before it was killed
    raise AssertionError("more than 20 steps")


TRIAL = """\
import os, sys
from huggingface_hub import file_download
os.symlink = lambda *_: os._exit(9)
file_download.are_symlinks_supported(sys.argv[1])
"""


@pytest.mark.parametrize("mine", [False, True])
def test_what_a_killed_trial_of_links_leaves_in_a_repo_goes_with_it(app: AppFolder, hub: Path, mine: bool) -> None:
    repo = make_repo(hub, "models--koge--a", {A: {"x": b"x"}}, {"main": A})
    assert subprocess.run((sys.executable, "-c", TRIAL, repo), check=False).returncode == 9
    (left,) = (path for path in repo.iterdir() if path.name.startswith("tmp"))
    if mine:
        (left / "thesis.txt").write_text("mine")
    assert insist(app, "clear").status == 0
    assert list(hub.rglob("thesis.txt")) == ([left / "thesis.txt"] if mine else [])
    assert repo.exists() == mine


@pytest.mark.parametrize("with_list", [True, False])
@pytest.mark.parametrize("target", ["koge/a", f"koge/a@{A}"])
def test_an_edited_file_of_the_same_size_outlives_a_removal_that_is_killed_at_any_rename(
    target: str, with_list: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size is that of the list, and only its content tells that a person has replaced the link."""
    listed = {"config.json": b'{"fp16": 0}', "w.bin": b"w" * 9, "sub/x.bin": b"x"}
    rename = os.rename
    for step in range(1, 40):
        hub = tmp_path / f"hub{step}"
        repo = make_repo(hub, "models--koge--a", {A: listed, B: {"y": b"y"}}, {"main": A, "other": B})
        if with_list:
            add_list(repo, A, listed)
        edited = repo / "snapshots" / A / "config.json"
        edited.unlink()
        edited.write_bytes(b'{"fp16": 1}')
        left = step

        def dying(*arguments: object, **keywords: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise SystemExit
            rename(*arguments, **keywords)  # type: ignore[arg-type]

        monkeypatch.setattr("os.rename", dying)
        planned = planning.plan(Request("remove", (target,)), (root_of(hub),))
        with contextlib.suppress(SystemExit):
            planning.condemn(planned, lambda *_: None)
        monkeypatch.setattr("os.rename", rename)
        trash_of.finish(str(hub))
        assert edited.is_file() and edited.read_bytes() == b'{"fp16": 1}', step
        if left > 0:
            assert not (edited.parent / "w.bin").is_symlink()
            return
    raise AssertionError("it never ends")


def test_what_the_system_and_a_killed_pull_left_in_a_repo_keeps_no_empty_folder_there(
    app: AppFolder, hub: Path
) -> None:
    repo = make_repo(hub, "models--koge--a")
    (repo / "snapshots" / ".DS_Store").touch()  # it must be read to be known for what it is
    (repo / ".start_app-trash-ref-0123456789abcdef").write_text(A)
    done = insist(app, "remove", "koge/a")
    assert done.status == 0, done.err
    assert not repo.exists()


def _nest(folder: Path, depth: int, length: int) -> None:
    """Make folders in folders, deeper than a process may have files open or a path may be long."""
    code = "import os, sys\nfor _ in range(int(sys.argv[1])): os.mkdir(sys.argv[2]); os.chdir(sys.argv[2])\n"
    code += "os.symlink('deep', 'f'); os.utime('f', (1, 1), follow_symlinks=False)"
    subprocess.run((sys.executable, "-c", code, str(depth), "d" * length), cwd=folder, check=True)


@pytest.mark.parametrize("arguments", [("clear",), ("remove", "koge/a"), ("prune", "--max-size", "1B")])
@pytest.mark.parametrize("with_store", [False, True])
@pytest.mark.parametrize(
    ("part", "depth", "length"), [(f"snapshots/{A}", 1100, 1), ("refs", 1100, 1), (".no_exist/a", 25, 200)]
)
def test_however_deep_a_repo_goes_it_goes_whole(
    part: str, depth: int, length: int, with_store: bool, arguments: tuple[str, ...], app: AppFolder, hub: Path
) -> None:
    needs_mounts()  # a disk takes seconds for that many folders
    with mounted(hub, "-t", "tmpfs", "tmpfs"):
        repo = make_repo(hub, "models--koge--a", {A: {"x": b"x" * 100}})
        if with_store:
            share(hub, b"payload", add_blob_path(repo, b"shared"))
        (repo / part).mkdir(parents=True, exist_ok=True)
        _nest(repo / part, depth, length)
        done = insist(app, *arguments)
        assert done.status == 0, done.err[:2000]
        assert not repo.exists()
        assert trash(hub) == []


@pytest.fixture
def nobody() -> Iterator[OtherUser]:
    with other_user() as user:
        yield user


@as_root
def test_anothers_trash_is_left(nobody: OtherUser) -> None:
    hub = nobody.folder / "hub"
    make_repo(hub, "models--koge--a")
    roots_trash, own_trash = make_trash(hub, "0" * 16), make_trash(hub, "1" * 16)
    for folder in (roots_trash, own_trash):
        make_repo(folder, "models--koge--t")
    own(hub)
    own(roots_trash, 0)
    before = everything(roots_trash)
    done = nobody.run("clear", "-y", env={"HF_HUB_CACHE": str(hub)})
    assert done.status == 0, done.err
    assert everything(roots_trash) == before
    assert not own_trash.exists()
    assert not (hub / "models--koge--a").exists()


@as_root
def test_anothers_repo_is_left_and_the_rest_goes(nobody: OtherUser) -> None:
    hub = nobody.folder / "hub"
    mine = make_repo(hub, "models--koge--mine", {A: {"x": b"m" * 5000}})
    theirs = make_repo(hub, "models--koge--theirs", {A: {"x": b"t" * 7000}})
    own(hub)
    own(theirs, 0)
    before, size = everything(theirs), held(hub)
    env = {"HF_HUB_CACHE": str(hub)}
    done = nobody.run("clear", "-y", "--json", env=env)
    assert done.status == 74, done.err
    document = done.json
    assert document["exit_status"] == 74
    assert document["failures"] == []
    assert [skipped["path"] for skipped in document["left"]] == [str(theirs)]
    assert document["freed_bytes"] == size - held(hub)
    assert everything(theirs) == before
    assert not mine.exists()
    assert trash(hub) == []
    told = nobody.run("clear", "-y", env=env)
    assert told.status == 74
    assert f"cannot remove {theirs}: " in told.err
    assert f"hint: ls -ld {theirs} shows whose it is" in told.err
    assert f"nothing to remove in {hub}" in told.err


@as_root
def test_what_another_has_in_a_repo_of_ours_is_told_and_not_counted(nobody: OtherUser) -> None:
    hub = nobody.folder / "hub"
    repo = make_repo(hub, "models--koge--a", {A: {"x": b"m" * 5000, "y": b"t" * 7000}})
    make_repo(hub, "models--koge--b", {A: {"x": b"b" * 3000}})
    own(hub)
    own(repo / "snapshots", 0)
    size = held(hub)
    done = nobody.run("clear", "-y", "--json", env={"HF_HUB_CACHE": str(hub)})
    assert done.status == 74, done.err
    assert not repo.exists() and not (hub / "models--koge--b").exists()
    marks = sum(path.stat().st_size for path in hub.glob(".start_app-trash-*/.start_app"))
    assert done.json["freed_bytes"] == size - held(hub) + marks
    assert done.json["freed_bytes"] >= 15000


@as_root
@pytest.mark.parametrize("mode", [0o555, 0o000, 0o333])
def test_a_cache_that_may_not_be_changed_is_not(mode: int, nobody: OtherUser) -> None:
    hub = nobody.folder / "hub"
    repo = make_repo(hub, "models--koge--a")
    own(hub, 0)
    hub.chmod(mode)
    before = everything(repo)
    for arguments in (("clear", "-y"), ("prune", "-y", "--max-size", "0")):
        done = nobody.run(*arguments, env={"HF_HUB_CACHE": str(hub)})
        assert done.status in (74, 77), done.err
        assert "bug" not in done.err
    assert everything(repo) == before
    assert trash(hub) == []


def test_write_protection_of_our_own_files_is_no_obstacle(app: AppFolder, hub: Path) -> None:
    repo = make_repo(hub, "models--koge--a", {A: {"x": b"x", "sub/y": b"y"}, B: {"x": b"z"}}, {"main": A, "b": B})
    for place, folders, names in os.walk(repo, topdown=False):
        for name in names:
            if not os.path.islink(f"{place}/{name}"):
                os.chmod(f"{place}/{name}", 0o444)
        for name in folders:
            os.chmod(f"{place}/{name}", 0o555)
    assert insist(app, "remove", "koge/a").status == 0
    assert [name for name in os.listdir(hub) if name != ".locks"] == []


@as_root
def test_write_protection_is_no_obstacle_to_an_ordinary_user_either(nobody: OtherUser) -> None:
    hub = nobody.folder / "hub"
    repo = make_repo(hub, "models--koge--a", {A: {"x": b"x", "sub/y": b"y"}})
    own(hub)
    for folder in (repo / "blobs", repo / "snapshots" / A / "sub", repo / "snapshots" / A, repo / "snapshots"):
        folder.chmod(0o555)
    for blob in (repo / "blobs").iterdir():
        blob.chmod(0o444)
    done = nobody.run("clear", "-y", env={"HF_HUB_CACHE": str(hub)})
    assert done.status == 0, done.err
    assert [name for name in os.listdir(hub) if name != ".locks"] == []
    assert trash(hub) == []
