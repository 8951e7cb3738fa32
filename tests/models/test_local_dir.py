"""A folder of the app's own changes from one whole commit to another; what never came from the Hub is its owner's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.models.lockfile import LockedModel
from tests.support.apps import ROOT, AppFolder, Processes, clean_environment, eventually, launcher
from tests.support.hub_cache import Library
from tests.support.pulled import FOLDER, MODEL, NEW, OLD, OTHER, Pulled, clear_cache, pulled_app
from tests.support.removal import everything

STAGING = ".cache/start_app"
THIRD = {**NEW, "config.json": b'{"version": "third"}', "third.bin": b"third" * 999}


@pytest.fixture
def pulled(app: AppFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulled]:
    with pulled_app(app, tmp_path_factory.getbasetemp()) as made:
        yield made


@pytest.mark.slow
def test_a_folder_is_filled_with_exactly_the_locked_files(pulled: Pulled) -> None:
    pulled.lock_new(local_dir=FOLDER)
    done = pulled.pull()
    assert done.status == 0, done.err
    assert pulled.in_folder() == NEW
    assert f"model: {MODEL} in {FOLDER} @ {pulled.new[:7]}\n" in done.err
    assert not (pulled.folder / STAGING).exists()
    assert not pulled.states().count("incoming")


@pytest.mark.slow
def test_new_changed_and_deleted_files_change_over_and_what_is_right_stays(pulled: Pulled) -> None:
    pulled.bring_to_folder()
    same = (pulled.folder / "same.bin").stat()
    pulled.lock_new(local_dir=FOLDER)
    document = pulled.pulled()
    assert pulled.in_folder() == NEW
    assert document["models"][0]["removed"] == ["gone/gone.txt"]
    assert document["models"][0]["before"] == pulled.old
    assert not (pulled.folder / "gone").exists()
    after = (pulled.folder / "same.bin").stat()
    assert (after.st_ino, after.st_mtime_ns) == (same.st_ino, same.st_mtime_ns)
    assert pulled.mirror.count("same.bin", None) == 0


@pytest.mark.slow
def test_what_changed_over_is_known_again_and_not_read(pulled: Pulled) -> None:
    pulled.lock_new(local_dir=FOLDER)
    pulled.pulled()
    pulled.mirror.forget()
    assert pulled.pulled()["read_bytes"] == 0
    assert not pulled.mirror.requests and not pulled.hub.requests


@pytest.mark.slow
def test_huggingface_hub_finds_in_it_what_it_would_have_brought_itself(pulled: Pulled) -> None:
    pulled.bring_to_folder()
    pulled.lock_new(local_dir=FOLDER)
    pulled.pulled()
    pulled.hub.forget()
    with Library(pulled.hub) as library:
        library.ask("download_to", str(pulled.folder), MODEL, pulled.new)
    assert not [asked for asked in pulled.hub.requests if "/cdn/" in asked.path]
    assert pulled.in_folder() == NEW


@pytest.mark.slow
def test_what_never_came_from_the_hub_is_left_and_named(pulled: Pulled) -> None:
    pulled.bring_to_folder()
    mine = {"mine.txt": b"mine", "qwen/notes.txt": b"notes", "gone/mine.bin": b"mine too"}
    for path, data in mine.items():
        (pulled.folder / path).write_bytes(data)
    pulled.lock_new(local_dir=FOLDER)
    done = pulled.pull()
    assert done.status == 0, done.err
    assert pulled.in_folder() == {**NEW, **mine}
    assert f"left: {pulled.folder}: files that did not come from the Hub: gone, mine.txt\n" in done.err


@pytest.mark.slow
def test_a_deleted_file_that_was_changed_here_is_left_and_named(pulled: Pulled) -> None:
    pulled.bring_to_folder()
    (pulled.folder / "gone/gone.txt").write_bytes(b"changed by hand")
    pulled.lock_new(local_dir=FOLDER)
    done = pulled.pull()
    assert done.status == 0, done.err
    assert pulled.in_folder() == {**NEW, "gone/gone.txt": b"changed by hand"}
    assert (
        f"left: {pulled.folder}/gone/gone.txt: {pulled.new[:7]} does not have it, but the local file was changed"
        in done.err
    )


@pytest.mark.slow
@pytest.mark.parametrize("words", [("models", "pull"), ("--locked", "--", "--exit", "0")])
def test_a_deleted_file_of_which_no_hub_says_whose_it_was_is_left_and_named(
    words: tuple[str, ...], pulled: Pulled
) -> None:
    pulled.bring_to_folder()
    pulled.lock_new(local_dir=FOLDER)
    pulled.hub.fault("/api/", "reset")
    pulled.mirror.fault("/api/", "html")
    done = pulled.run(*words)
    assert done.status == 0, done.err
    assert pulled.in_folder() == {**NEW, "gone/gone.txt": OLD["gone/gone.txt"]}
    assert f"left: {pulled.folder}/gone/gone.txt: no hub says whether an older {MODEL} has brought it" in done.err


@pytest.mark.slow
def test_a_deleted_file_is_removed_also_where_nothing_else_changed(pulled: Pulled) -> None:
    less = pulled.hub.commit(MODEL, {path: data for path, data in NEW.items() if path != "same.bin"})
    pulled.bring_to_folder(pulled.new)
    pulled.lock(pulled.locked(less, local_dir=FOLDER))
    assert pulled.pulled()["models"][0]["removed"] == ["same.bin"]
    assert set(pulled.in_folder()) == set(NEW) - {"same.bin"}


def _second(pulled: Pulled, files: dict[str, bytes]) -> LockedModel:
    return pulled.locked(pulled.hub.commit(OTHER, files), OTHER, local_dir=FOLDER)


@pytest.mark.slow
def test_two_repos_in_one_folder_are_both_brought(pulled: Pulled) -> None:
    clear_cache(pulled)
    pulled.lock(pulled.locked(pulled.new, local_dir=FOLDER), _second(pulled, {"codec.bin": b"codec" * 999}))
    pulled.pulled()
    assert pulled.in_folder() == {**NEW, "codec.bin": b"codec" * 999}


@pytest.mark.slow
def test_of_two_repos_in_one_folder_each_keeps_its_files_when_the_other_moves(pulled: Pulled) -> None:
    second = _second(pulled, {"codec.bin": b"codec" * 999})
    pulled.lock(pulled.locked(pulled.old, local_dir=FOLDER))
    pulled.pulled()
    pulled.lock(pulled.locked(pulled.old, local_dir=FOLDER), second)
    pulled.pulled()
    pulled.lock(pulled.locked(pulled.new, local_dir=FOLDER), second)
    pulled.pulled()
    assert pulled.in_folder() == {**NEW, "codec.bin": b"codec" * 999}


@pytest.mark.slow
@pytest.mark.parametrize("equal", [True, False])
def test_a_file_that_two_repos_in_one_folder_both_have_costs_neither_of_them_another(
    equal: bool, pulled: Pulled
) -> None:
    """Every repo has a `.gitattributes`: who has brought it last says nothing of the others' files."""
    shared = NEW["config.json"] if equal else b"of the second"
    files = {"codec.bin": b"codec" * 999, "config.json": shared}
    second = _second(pulled, files)
    pulled.lock(pulled.locked(pulled.new, local_dir=FOLDER))
    pulled.pulled()
    pulled.bring_to_folder(second.commit, OTHER)  # as the app's README says: one after the other
    pulled.lock(pulled.locked(pulled.new, local_dir=FOLDER), second)
    pulled.pull()
    assert set(pulled.in_folder()) == {*NEW, *files}
    assert pulled.pull().status == 0
    assert set(pulled.in_folder()) == {*NEW, *files}


@pytest.mark.slow
def test_a_folder_that_a_link_leads_out_of_is_refused(pulled: Pulled) -> None:
    pulled.bring_to_folder()
    outside = pulled.app.path.parent / "outside"
    (pulled.folder / "qwen").rename(outside)
    (pulled.folder / "qwen").symlink_to(outside)
    before = pulled.in_folder()
    pulled.lock_new(local_dir=FOLDER)
    done = pulled.pull()
    assert done.status == 74
    assert "qwen is reached by a link" in done.err
    assert pulled.in_folder() == before
    assert (outside / "tokenizer.json").read_bytes() == OLD["qwen/tokenizer.json"]


@pytest.mark.slow
def test_a_folder_may_hold_a_cache_and_a_cache_a_folder(pulled: Pulled) -> None:
    cache = pulled.folder / "hf_cache"
    with Library(pulled.hub) as library:
        library.download(cache, OTHER)
    inside = pulled.locked(pulled.hub.commit("a/b", {"w.bin": b"w" * 99}), "a/b", local_dir=f"{FOLDER}/hf_cache/b")
    pulled.lock(pulled.locked(pulled.new, local_dir=FOLDER), inside)
    done = pulled.run("--locked", "--", "--exit", "0")
    assert done.status == 0, done.err
    assert {path: pulled.in_folder()[path] for path in NEW} == NEW
    assert pulled.in_folder()["hf_cache/b/w.bin"] == b"w" * 99
    assert pulled.library.load(cache, OTHER)


@pytest.mark.parametrize("path", ["hf_cache", "hf_cache/models--x--y/refs/main", "hf_cache/.locks/x"])
def test_a_file_that_would_get_among_those_of_a_cache_is_refused(path: str, pulled: Pulled) -> None:
    shutil.copytree(pulled.cache, pulled.folder / "hf_cache", symlinks=True)
    model = pulled.locked(pulled.new, local_dir=FOLDER)
    pulled.lock(model._replace(files={**model.files, path: model.files["config.json"]}))
    before = everything(pulled.folder)
    done = pulled.pull()
    assert done.status == 78
    assert f"its files would mix with the cache {pulled.folder}/hf_cache" in done.err
    assert everything(pulled.folder) == before


@pytest.mark.slow
def test_a_folder_that_is_a_link_itself_is_its_owner_s_choice(pulled: Pulled) -> None:
    elsewhere = pulled.app.path.parent / "big-disk"
    elsewhere.mkdir()
    pulled.folder.symlink_to(elsewhere)
    pulled.lock_new(local_dir=FOLDER)
    assert pulled.pull().status == 0
    assert pulled.in_folder(elsewhere) == NEW


@pytest.mark.slow
def test_until_all_is_verified_the_folder_is_the_old_commit(pulled: Pulled, processes: Processes) -> None:
    pulled.bring_to_folder()
    pulled.lock_new(local_dir=FOLDER)
    with pulled.mirror.held("gpt.safetensors", 1000) as hold:
        running = processes.launch("models", "pull", *pulled.app.arguments)
        assert hold.reached.wait(30)
        eventually(lambda: os.path.exists(pulled.folder / STAGING / pulled.new / "config.json"))
        assert pulled.in_folder() == OLD
    assert running.wait() == 0, running.err
    assert pulled.in_folder() == NEW


# A command that dies before the rename of this number, of those in which a path has this in it.
DYING = """\
import os, signal, sys
from launcher import cli

left, where = int(sys.argv[1]), sys.argv[2]


def whole(path, folder):
    return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path) if folder >= 0 else path


def hook(event, arguments):
    global left
    if event == "os.rename" and any(where in str(whole(*one)) for one in zip(arguments[:2], arguments[2:])):
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1


sys.addaudithook(hook)
sys.exit(cli.main(sys.argv[3:]))
"""


def dies(renames: int, where: str, *words: str | Path) -> None:
    """Run a command that is killed before this rename."""
    command = [sys.executable, "-c", DYING, str(renames), where, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, timeout=60)
    assert done.returncode == -9, done.stderr


def _killed_half_way(pulled: Pulled, renames: int, app_dir: Path | None = None) -> None:
    """Leave what a pull of the new commit leaves that is killed after some of its renames."""
    pulled.bring_to_folder()
    pulled.lock_new(local_dir=FOLDER)
    dies(renames, f"/{FOLDER}/", "models", "pull", "--app-dir", app_dir or pulled.app.path)


@pytest.mark.slow
@pytest.mark.parametrize("renames", [0, 1, 2, 5, 8])
@pytest.mark.parametrize("how", ["pull", "launch", "locked launch"])
def test_killed_in_the_middle_of_the_switch_the_next_run_completes_it(how: str, renames: int, pulled: Pulled) -> None:
    _killed_half_way(pulled, renames)
    if how == "pull":
        done = pulled.pull()
    else:
        done = pulled.run(*(("--locked",) if how == "locked launch" else ()), "--", "--exit", "0")
    assert done.status == 0, done.err
    assert pulled.in_folder() == NEW
    assert "what an interrupted pull had begun" in done.err
    assert not (pulled.folder / STAGING).exists()
    pulled.hub.forget()
    pulled.mirror.forget()
    assert pulled.pull().status == 0
    assert pulled.in_folder() == NEW
    assert not pulled.hub.requests and not pulled.mirror.requests


@pytest.mark.slow
@pytest.mark.parametrize("how", ["pull", "locked launch"])
def test_killed_in_the_middle_and_locked_to_another_commit_since_it_becomes_that_one(how: str, pulled: Pulled) -> None:
    third = pulled.hub.commit(MODEL, THIRD)
    _killed_half_way(pulled, 4)
    pulled.lock(pulled.locked(third, local_dir=FOLDER))
    done = pulled.pull() if how == "pull" else pulled.run("--locked", "--", "--exit", "0")
    assert done.status == 0, done.err
    assert pulled.in_folder() == THIRD


@pytest.mark.slow
def test_killed_in_the_middle_it_is_completed_by_whatever_name_the_app_s_folder_is_called(pulled: Pulled) -> None:
    other_name = pulled.app.path.parent / "other-name"
    other_name.symlink_to(pulled.app.path)
    _killed_half_way(pulled, 4, other_name)
    done = pulled.run("--", "--exit", "0")
    assert done.status == 0, done.err
    assert pulled.in_folder() == NEW


@pytest.mark.slow
@pytest.mark.parametrize(
    "where, words",
    [
        ("verified-local", ("models", "pull")),
        ("verified", ("cache", "verify")),
        ("switch-", ("models", "pull")),
        (".metadata", ("models", "pull")),
        ("/models.lock", ("models", "lock")),
    ],
)
def test_killed_before_a_new_file_has_taken_its_place_it_is_gone_after_the_next_run(
    where: str, words: tuple[str, ...], pulled: Pulled
) -> None:
    pulled.bring_to_folder()
    pulled.lock(pulled.locked(pulled.old if words[1] == "lock" else pulled.new, local_dir=FOLDER))
    before = _files(pulled)
    dies(0, where, *words, *pulled.app.arguments)
    left = _files(pulled)
    assert {path for path in left - before if where.strip("/.") in path}
    assert pulled.run(*words).status == 0
    assert pulled.run("models", "pull").status == 0
    untidy = re.compile(r".*(\.start_app-[0-9a-f]{8}|\.new)|.*/switch-.*")
    assert not {path for path in _files(pulled) if untidy.fullmatch(path)}


def _files(pulled: Pulled) -> set[str]:
    """Return the files of the app, without those in its cache."""
    found = (path.relative_to(pulled.app.path) for path in pulled.app.path.rglob("*") if path.is_file())
    return {f"/{path}" for path in found if path.parts[0] != "hf"}


@pytest.mark.slow
def test_a_dry_run_completes_nothing(pulled: Pulled) -> None:
    _killed_half_way(pulled, 4)
    before = pulled.in_folder()
    assert pulled.pull("--dry-run").status == 0
    assert pulled.in_folder() == before
    assert (pulled.folder / STAGING).exists()
    assert pulled.pull().status == 0
    assert pulled.in_folder() == NEW


@pytest.mark.slow
def test_a_copy_of_an_app_that_was_killed_in_the_middle_does_not_touch_the_one_it_was_copied_from(
    pulled: Pulled,
) -> None:
    _killed_half_way(pulled, 4)
    copy = pulled.app.path.parent / "copy"
    shutil.copytree(pulled.app.path, copy, symlinks=True)
    before = everything(pulled.app.path)
    done = launcher("--app-dir", copy, "--port", str(pulled.app.port), "--", "--exit", "0")
    assert done.status == 0, done.err
    assert everything(pulled.app.path) == before
    assert pulled.in_folder(copy / FOLDER) == NEW
    assert pulled.pull().status == 0
    assert pulled.in_folder() == NEW


@pytest.mark.slow
def test_a_locked_launch_removes_what_the_pinned_commit_does_not_have(pulled: Pulled) -> None:
    """An app that loads every file in a folder must not find last month's among them."""
    less = pulled.hub.commit(MODEL, {path: data for path, data in NEW.items() if path != "same.bin"})
    pulled.lock_new(local_dir=FOLDER)
    pulled.pulled()
    pulled.lock(pulled.locked(less, local_dir=FOLDER))
    done = pulled.run("--locked", "--", "--exit", "0")
    assert done.status == 0, done.err
    assert set(pulled.in_folder()) == set(NEW) - {"same.bin"}


@pytest.mark.slow
def test_a_wrong_file_from_the_mirror_never_comes_into_the_folder(pulled: Pulled) -> None:
    pulled.bring_to_folder()
    pulled.lock_new(local_dir=FOLDER)
    fault = pulled.mirror.fault("/cdn/", "wrong-bytes")
    assert pulled.pull().status == 65
    assert pulled.in_folder() == OLD
    fault.clear()
    pulled.pulled()
    assert pulled.in_folder() == NEW


@pytest.mark.slow
def test_the_next_hub_serves_a_folder_too(pulled: Pulled) -> None:
    pulled.lock_new(local_dir=FOLDER)
    pulled.set(HF_ENDPOINT_FALLBACK=pulled.hub.endpoint)
    pulled.mirror.fault("/cdn/", "wrong-bytes")
    assert pulled.pulled()["served"][0]["endpoint"] == pulled.hub.endpoint
    assert pulled.in_folder() == NEW
