"""`models lock` pins what the official Hub says, in bytes that follow from that alone, whole or not at all."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from launcher.models import lockfile
from launcher.ui.text import size
from tests.support.apps import AppFolder, Done, Processes, Running, eventually, program
from tests.support.caches import unprivileged
from tests.support.models import (
    DONE,
    IO,
    NEW,
    OLD,
    RETRY,
    USAGE,
    V22,
    V23,
    VOICES,
    World,
    expected,
    locked,
    world_of,
)

CODEC = "amphion/codec"


@pytest.fixture
def world(app: AppFolder) -> Iterator[World]:
    with world_of(app) as found:
        yield found


def moves(done: Done) -> list[str]:
    """Return the lines that tell what moved."""
    return [line for line in (done.out + done.err).splitlines() if " → " in line]


def waits(running: Running) -> bool:
    """Tell whether a process has opened a lock of the app's."""
    with suppress(OSError):
        fds = f"/proc/{running.pid}/fd"
        return any(os.readlink(f"{fds}/{fd}").endswith(".lock") for fd in os.listdir(fds))
    return False


def grown(old: dict[str, bytes], new: dict[str, bytes]) -> int:
    return sum(map(len, new.values())) - sum(map(len, old.values()))


def test_a_model_is_pinned_with_its_commit_and_each_files_size_and_hash(world: World) -> None:
    _, new = world.publish()
    done = world.run("lock", V23)
    assert (done.status, done.out) == (DONE, "")
    assert json.loads(world.lock.read_text()) == {"version": 2, "models": [expected(world.hub, V23, new)]}
    assert done.err.splitlines()[:2] == [
        f"{V23} main: new → {new[:7]} (4 files, +{size(grown({}, NEW))})",
        f"wrote {world.lock}: 1 model",
    ]
    assert f"hint: {program()} --app-dir {world.app.path} models pull" in done.err
    assert world.hub.count("/resolve/", None) == world.mirror.count("/resolve/", None) == 0


@pytest.mark.slow
def test_the_bytes_are_the_same_in_whatever_order_and_however_often_models_are_added(world: World) -> None:
    repos = (V23, VOICES, CODEC, V22)
    for repo in repos:
        world.publish(repo)
    world.pin(*repos)
    data = world.lock.read_bytes()
    assert data == lockfile.dump(locked(world))
    assert [model["repo"] for model in world.models] == sorted(repos)
    world.lock.unlink()
    for repo in sorted(repos, reverse=True):
        world.pin(repo)
    assert world.lock.read_bytes() == data
    before = world.lock.stat()
    again = world.pin()
    assert (moves(again), again.err.splitlines()[-1]) == ([], f"unchanged: {world.lock}, 4 models")
    assert (world.lock.stat().st_ino, world.lock.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.slow
def test_re_locking_all_shows_what_moved_and_by_how_much(world: World) -> None:
    old = world.hub.commit(V23, OLD)
    codec = world.hub.commit(CODEC, NEW)
    world.publish(V22)
    world.pin(V22, V23, CODEC)
    new = world.hub.commit(V23, NEW)
    less = world.hub.commit(CODEC, OLD)
    done = world.run("lock", "--json")
    assert moves(done) == [
        f"{CODEC} main: {codec[:7]} → {less[:7]} (2 files, -{size(grown(OLD, NEW))})",
        f"{V23} main: {old[:7]} → {new[:7]} (2 files, +{size(grown(OLD, NEW))})",
    ]
    assert [model["commit"] for model in world.models] == [less, world.hub.head(V22), new]
    assert (done.json["dry_run"], done.json["changed"]) == (False, True)
    assert done.json["moved"][1] == {
        "repo": V23,
        "local_dir": None,
        "revision": "main",
        "before": old,
        "after": new,
        "files": ["gpt.safetensors", "sub/new.txt"],
        "size_bytes": grown(OLD, NEW),
    }
    assert done.json["models"][2] == {
        "repo": V23,
        "revision": "main",
        "commit": new,
        "local_dir": None,
        "files": 4,
        "size_bytes": sum(map(len, NEW.values())),
    }


@pytest.mark.slow
def test_a_dry_run_shows_it_on_stdout_and_writes_nothing(world: World) -> None:
    old = world.hub.commit(V23, OLD)
    first = world.run("lock", "-n", V23)
    assert (first.status, moves(first)) == (DONE, first.out.splitlines())
    assert sorted(os.listdir(world.app.path)) == [".env", "webui.py"]
    assert f"would write {world.lock}: 1 model" in first.err
    world.pin(V23)
    before, data = sorted(os.listdir(world.app.path)), world.lock.read_bytes()
    new = world.hub.commit(V23, NEW)
    done = world.run("lock", "--dry-run")
    assert done.out.splitlines() == [f"{V23} main: {old[:7]} → {new[:7]} (2 files, +{size(grown(OLD, NEW))})"]
    document = world.run("lock", "--dry-run", "--json").json
    assert (document["dry_run"], document["changed"], len(document["moved"])) == (True, True, 1)
    world.run("lock", "--dry-run", "--remove", V23)
    assert world.lock.read_bytes() == data
    assert sorted(os.listdir(world.app.path)) == before


@pytest.mark.slow
def test_a_dry_run_says_changed_when_the_run_would_change_the_files_form(world: World) -> None:
    world.publish()
    world.pin(V23)
    world.lock.write_text(json.dumps(json.loads(world.lock.read_text())))
    dry = world.run("lock", "-n", "--json").json
    real = world.run("lock", "--json").json
    assert (dry["changed"], dry["moved"]) == (real["changed"], real["moved"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v1.0", "refs/pr/1", "dev/next", "分支"])
def test_a_tag_a_branch_or_a_commit_is_pinned_as_the_revision_that_is_meant(name: str, world: World) -> None:
    old, new = world.publish()
    world.hub.tag(V23, name, old)
    world.pin(f"{V23}@{name}")
    assert world.models == [expected(world.hub, V23, old, name)]
    world.pin(V23)
    assert world.models == [expected(world.hub, V23, old, name)]
    world.pin(f"{V23}@{old}")
    assert world.models == [expected(world.hub, V23, old, old)]
    world.pin(f"{V23}@main")
    assert world.models == [expected(world.hub, V23, new)]


@pytest.mark.slow
def test_a_model_that_is_named_twice_is_locked_once_or_refused(world: World) -> None:
    old, _ = world.publish()
    world.hub.tag(V23, "v1.0", old)
    for arguments in ((V23, V23), (V23, f"{V23}@v1.0"), (V23, "models--koge--index-tts-v23")):
        done = world.run("lock", *arguments)
        assert done.status in (DONE, USAGE)
        assert lockfile.read(world.app.path) is None or len(locked(world)) == 1


@pytest.mark.slow
def test_globs_choose_what_is_pinned_and_are_kept(world: World) -> None:
    world.publish()
    world.pin(V23, "--include", "*.safetensors", "--include", "sub/", "--exclude", "*.txt")
    (model,) = world.models
    assert (model["include"], model["exclude"]) == (["*.safetensors", "sub/"], ["*.txt"])
    assert list(model["files"]) == ["gpt.safetensors"]
    world.hub.commit(V23, {**NEW, "sub/vocab.bin": b"vocab"})
    world.pin()
    assert list(world.models[0]["files"]) == ["gpt.safetensors", "sub/vocab.bin"]
    world.pin(V23, "--include", "*.json")
    assert list(world.models[0]["files"]) == ["config.json"]
    none = world.run("lock", V23, "--include", "*.onnx")
    assert none.status == USAGE
    assert "these globs match no file of" in none.err


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--include", "--exclude"])
@pytest.mark.parametrize("glob", ["", b"\xff"])
def test_a_glob_that_cannot_be_locked_is_refused_and_the_lock_stays_readable(
    option: str, glob: str | bytes, world: World
) -> None:
    world.publish()
    world.pin(V23)
    data = world.lock.read_bytes()
    done = world.run("lock", V23, option, os.fsdecode(glob), "--include", "*.json")
    assert done.status == USAGE
    assert world.lock.read_bytes() == data


@pytest.mark.slow
def test_a_folder_of_the_apps_is_where_a_model_is_kept(world: World) -> None:
    old = world.hub.commit(V23, OLD)
    world.pin(V23, "--local-dir", "./checkpoints/")
    assert world.models == [{**expected(world.hub, V23, old), "local_dir": "checkpoints"}]
    new = world.hub.commit(V23, NEW)
    done = world.pin(V23)
    assert moves(done) == [f"{V23} in checkpoints main: {old[:7]} → {new[:7]} (2 files, +{size(grown(OLD, NEW))})"]
    assert [model["local_dir"] for model in world.models] == ["checkpoints"]


@pytest.mark.parametrize(
    "folder", ["/etc", "..", "../x", "a/../../x", ".", "./", "", "a//b", "a\\b", "a\nb", "/", "checkpoints/..", ".git"]
)
def test_a_folder_that_is_not_below_the_apps_is_refused_before_any_hub_is_asked(folder: str, world: World) -> None:
    world.publish()
    done = world.run("lock", V23, "--local-dir", folder)
    assert (done.status, world.lock.exists(), world.asked) == (USAGE, False, 0)
    assert done.err.startswith("--local-dir ") and " is not a folder inside " in done.err


@pytest.mark.slow
def test_what_would_lie_where_huggingface_hub_keeps_its_notes_is_not_pinned(world: World) -> None:
    world.hub.commit(V23, {**OLD, ".cache/x.bin": b"x"})
    done = world.run("lock", V23, "--local-dir", "checkpoints")
    assert (done.status, world.lock.exists()) == (USAGE, False)
    assert f"{world.lock} is not written: models[0] ({V23}).files['.cache/x.bin']" in done.err
    world.pin(V23, "--local-dir", "checkpoints", "--exclude", ".cache/")


@pytest.mark.slow
def test_a_model_is_taken_out_by_name_or_folder_without_a_hub(world: World) -> None:
    for repo in (V22, V23, VOICES):
        world.publish(repo)
    world.pin(V22, V23, VOICES)
    world.configure(HF_HUB_OFFLINE="1")
    done = world.pin("--remove", V22)
    assert moves(done) == [f"{V22} main: {world.hub.head(V22)[:7]} → gone (4 files, -{size(grown({}, NEW))})"]
    world.pin("--remove", "datasets--koge--voices")
    assert [model["repo"] for model in world.models] == [V23]
    world.pin("--remove", V23)
    assert world.lock.read_text() == '{\n  "version": 2,\n  "models": []\n}\n'
    assert world.asked == 0


@pytest.mark.slow
def test_what_is_not_in_the_lock_cannot_be_taken_out_and_the_nearest_that_is_there_is_named(world: World) -> None:
    world.put(world.publish()[1])
    world.pin(V23)
    done = world.run("lock", "--remove", "koge/index-tts-v24")
    assert (done.status, len(world.models)) == (USAGE, 1)
    first = done.err.splitlines()[0]
    assert first.startswith("koge/index-tts-v24 is not in ") and first.endswith("; the nearest: koge/index-tts-v23")
    assert "models.lock" in first and "cache" not in first


@pytest.mark.slow
def test_a_revision_that_is_not_pinned_is_not_taken_out(world: World) -> None:
    world.publish()
    world.pin(V23)
    done = world.run("lock", "--remove", f"{V23}@v1.0")
    assert (done.status, len(world.models)) == (USAGE, 1)


@pytest.mark.slow
def test_the_traps_are_warned_of_and_hinder_nothing(world: World) -> None:
    for repo in ("koge/index-tts", V22, V23):
        world.put(world.publish(repo)[1], repo)
    done = world.pin("koge/index-tts")
    assert (
        "koge/index-tts names no version, and koge/index-tts-v22, koge/index-tts-v23 is there too: "
        "does the app load the right one?"
    ) in done.err.splitlines()
    world.pin("--remove", "koge/index-tts")
    os.rename(world.cache / "models--koge--index-tts", world.cache / "gone")
    two = world.pin(V23, "-q")
    assert two.err.splitlines() == [
        "2 versions of koge/index-tts are there: koge/index-tts-v22, koge/index-tts-v23; check which the app loads"
    ]


@pytest.mark.slow
def test_two_locks_at_once_lose_nothing_of_each_other(world: World, processes: Processes) -> None:
    for repo in (V22, V23):
        world.publish(repo)
    with world.hub.held(f"/api/models/{V22}/tree/", 0) as hold:
        slow = processes.launch("models", "lock", V22, "--app-dir", world.app.path)
        eventually(hold.reached.is_set)
        quick = processes.launch("models", "lock", V23, "--app-dir", world.app.path)
        eventually(lambda: waits(quick) or quick.process.poll() is not None or world.hub.count(f"{V23}/tree/"))
        hold.release()
    assert slow.wait() in (DONE, RETRY) and quick.wait() in (DONE, RETRY)
    done = {repo for repo, one in ((V22, slow), (V23, quick)) if one.process.returncode == DONE}
    assert done and {model["repo"] for model in world.models} == done


def test_without_a_lock_and_a_name_it_says_what_could_be_locked(world: World) -> None:
    world.put(world.publish()[1])
    done = world.run("lock")
    assert (done.status, world.asked) == (USAGE, 0)
    assert f"models lock {V23}" in done.err


@pytest.mark.parametrize("named", ["../etc", "https://huggingface.co/koge/x", "koge/*", "koge/x@../y", ""])
def test_what_names_no_repo_is_refused_before_any_hub_is_asked(named: str, world: World) -> None:
    done = world.run("lock", named)
    assert (done.status, world.asked, world.lock.exists()) == (USAGE, 0, False)


def test_a_link_in_place_of_the_lock_is_replaced_and_what_it_leads_to_is_left(world: World, tmp_path: Path) -> None:
    world.publish()
    target = tmp_path / "elsewhere.lock"
    target.write_bytes(lockfile.dump([]))
    world.lock.symlink_to(target)
    world.pin(V23)
    assert not world.lock.is_symlink()
    assert (len(world.models), target.read_bytes()) == (1, lockfile.dump([]))


@pytest.mark.slow
def test_in_a_folder_that_may_not_be_written_the_old_lock_stays_whole(world: World) -> None:
    prefix = unprivileged()
    world.publish()
    world.pin(V23)
    data = world.lock.read_bytes()
    world.hub.commit(V23, {"config.json": b"3"})
    world.app.path.chmod(0o555)
    try:
        for arguments in ((), ("--remove", V23)):
            done = world.run("lock", *arguments, python=(*prefix, sys.executable))
            assert (done.status, world.lock.read_bytes() == data) == (IO, True)
            assert done.err.splitlines()[-2].startswith(f"cannot write {world.lock}: permission denied")
        assert world.run("lock", "--dry-run", python=(*prefix, sys.executable)).status == DONE
    finally:
        world.app.path.chmod(0o755)
    assert sorted(path.name for path in world.app.path.iterdir() if "lock" in path.name) == ["models.lock"]
