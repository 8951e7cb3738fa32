"""On a disk that is full, read-only or mounted in pieces, and beside others at the same work, nothing is lost."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.apps import ROOT, AppFolder, Processes, eventually
from tests.support.caches import A, B, add_blob, add_link, make_repo, share
from tests.support.removal import (
    V22,
    Cached,
    add_blob_path,
    everything,
    held,
    insist,
    mounted,
    needs_mounts,
    trash,
)


@pytest.mark.slow
def test_a_read_only_file_system_is_left_as_it_is(cached: Cached) -> None:
    needs_mounts()
    before = everything(cached.home)
    with mounted(cached.hub, "--bind", str(cached.hub)):
        subprocess.run(("mount", "-o", "remount,bind,ro", cached.hub), check=True)
        for arguments in (("clear",), ("remove", V22), ("prune",)):
            done = cached.run(*arguments)
            assert done.status == 74, (arguments, done.err)
            assert "read-only file system" in done.err.lower()
            assert "bug" not in done.err
    assert everything(cached.home) == before
    assert cached.run("clear").status == 0


def test_a_cache_that_is_a_mount_point_is_cleared_and_stays_one(app: AppFolder, hub: Path) -> None:
    needs_mounts()
    with mounted(hub, "-t", "tmpfs", "tmpfs"):
        make_repo(hub, "models--koge--a")
        (hub / "mine.txt").write_text("mine")
        done = insist(app, "clear")
        assert done.status == 0, done.err
        assert [name for name in os.listdir(hub) if name != ".locks"] == ["mine.txt"]
        assert os.path.ismount(hub)


@pytest.mark.parametrize("place", ["", "blobs", f"snapshots/{A}"])
@pytest.mark.parametrize("arguments", [("clear",), ("remove", "koge/*"), ("prune", "--max-size", "0")])
def test_a_repo_that_something_is_mounted_in_is_left(
    place: str, arguments: tuple[str, ...], app: AppFolder, hub: Path, tmp_path: Path
) -> None:
    needs_mounts()
    make_repo(hub, "models--koge--a")
    repo = make_repo(hub, "models--koge--b")
    precious = tmp_path / "precious"
    shutil.copytree(repo / place, precious, symlinks=True)
    (precious / "mine").write_text("mine")
    with mounted(repo / place, "--bind", str(precious)):
        before = everything(repo)
        done = insist(app, *arguments)
        assert everything(repo) == before
        assert (repo / place / "mine").exists()
        assert (precious / "mine").read_text() == "mine"
        assert not (hub / "models--koge--a").exists()
        if arguments == ("clear",):
            assert done.status == 74, done.err
            assert f"cannot remove {repo}: something is mounted on {(repo / place)}" in done.err
    assert insist(app, "clear").status == 0
    assert (precious / "mine").read_text() == "mine"


def _fill(folder: Path) -> None:
    """Take every byte and every inode that is left."""
    with open(folder / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass
    number = 0
    try:
        while True:
            (folder / f"inode{number}").touch()
            number += 1
    except OSError:
        pass
    with pytest.raises(OSError, match="No space left"):
        (folder / "one more").mkdir()


@pytest.mark.parametrize("arguments", [("clear",), ("remove", "koge/a"), ("remove", f"koge/b@{A}"), ("prune",)])
@pytest.mark.parametrize("full", ["bytes", "inodes"])
def test_a_disk_that_is_full_is_no_obstacle(full: str, arguments: tuple[str, ...], app: AppFolder, hub: Path) -> None:
    """It is the reason to clear a cache in the first place."""
    needs_mounts()
    with mounted(hub, "-t", "tmpfs", "-o", f"size=2m,nr_inodes={100 if full == 'inodes' else 10000}", "tmpfs"):
        repo = make_repo(hub, "models--koge--a", {A: {"x": b"x" * 50000}})
        other = make_repo(hub, "models--koge--b", {A: {"x": b"y" * 60000}, B: {"z": b"z"}}, {"m": A, "n": B})
        add_blob(other, b"orphan" * 9000)
        payload = share(hub, b"p" * 70000, add_blob_path(repo, b"shared"))
        add_link(repo, A, "shared", hashlib.sha256(b"shared").hexdigest())
        (repo / "notes.txt").write_text("my notes")
        (hub / ".locks" / "models--koge--a").mkdir(parents=True)
        _fill(hub)
        before = held(hub)
        done = insist(app, *arguments, "--json")
        assert done.status == 0, done.err
        assert 0 <= before - held(hub) - done.json["freed_bytes"] <= 500
        assert trash(hub) == []
        assert (repo / "notes.txt").read_text() == "my notes"
        if arguments in (("clear",), ("remove", "koge/a")):
            assert os.listdir(repo) == ["notes.txt"]
            assert not payload.exists()
        else:
            assert payload.exists()
        if arguments[0] == "clear":
            assert not other.exists()
        elif "@" in arguments[-1]:
            assert os.listdir(other / "snapshots") == [B]


@pytest.mark.parametrize("where", ["notes.txt", "mine/deep/notes.txt", "snapshots/notes.txt", "refs-of-mine"])
@pytest.mark.parametrize("arguments", [("clear",), ("remove", "koge/a"), ("remove", f"koge/a@{A}")])
def test_what_a_stranger_keeps_in_a_repo_stays(
    where: str, arguments: tuple[str, ...], app: AppFolder, hub: Path
) -> None:
    repo = make_repo(hub, "models--koge--a")
    (repo / where).parent.mkdir(parents=True, exist_ok=True)
    (repo / where).write_text("my notes")
    for _ in range(2):
        done = insist(app, *arguments)
        assert done.status in (0, 2), done.err
        assert (repo / where).read_text() == "my notes"
    assert trash(hub) == []
    assert not (repo / "blobs").exists()


def _many(hub: Path, repos: int, files: int) -> None:
    for number in range(repos):
        repo = make_repo(hub, f"models--koge--m{number}", {A: {}})
        (repo / "blobs").mkdir()
        for file in range(files):
            (repo / "blobs" / f"{file:064x}").write_bytes(b"x" * 10)
            (repo / "snapshots" / A / str(file)).symlink_to(f"../../blobs/{file:064x}")


@pytest.mark.slow
def test_two_clears_at_once_take_everything_and_count_it_once(app: AppFolder, hub: Path, processes: Processes) -> None:
    _many(hub, 20, 50)
    size = held(hub / "models--koge--m0" / "blobs") * 20 + 40 * 20
    command = ("cache", "clear", "--json", "--app-dir", app.path)
    both = [processes.launch(*command) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0], [one.err for one in both]
    assert [name for name in os.listdir(hub) if name != ".locks"] == []
    documents = [json.loads(one.out) for one in both]
    assert sum(document["freed_bytes"] for document in documents) == size


# Stops itself just before its first rename, when its trash is made and nothing is in it yet.
PAUSED = """\
import os, signal, sys
sys.path.insert(0, sys.argv.pop(1))
from launcher import cli
def hook(event, arguments):
    global paused
    if event == "os.rename" and not paused and "models--" in str(arguments[0]):
        paused = True
        os.kill(os.getpid(), signal.SIGSTOP)
paused = False
sys.addaudithook(hook)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("other", [("prune",), ("remove", "koge/b")])
def test_a_trash_that_another_run_is_about_to_fill_is_left_to_it(
    other: tuple[str, ...], app: AppFolder, hub: Path, processes: Processes, tmp_path: Path
) -> None:
    make_repo(hub, "models--koge--a")
    make_repo(hub, "models--koge--b")
    program = tmp_path / "paused.py"
    program.write_text(PAUSED)
    command = (sys.executable, program, ROOT, "cache", "remove", "koge/a", "--json", "--app-dir", app.path)
    first = processes.start(command)
    eventually(lambda: psutil.Process(first.pid).status() == psutil.STATUS_STOPPED, what=first.err)
    done = insist(app, *other)
    assert done.status == 0, done.err
    os.kill(first.pid, signal.SIGCONT)
    assert first.wait() == 0, first.err
    assert not (hub / "models--koge--a").exists()
    assert [item["kind"] for item in json.loads(first.out)["removed"]] == ["repo"]
    assert trash(hub) == []


def test_on_a_full_disk_a_prune_that_finds_nothing_names_what_frees_space(app: AppFolder, hub: Path) -> None:
    needs_mounts()
    with mounted(hub, "-t", "tmpfs", "-o", "size=2m", "tmpfs"):
        make_repo(hub, "models--koge--a")
        assert " cache remove REPO frees it" not in insist(app, "prune").err
        with open(hub / "mine", "wb") as file:
            file.write(bytes(os.statvfs(hub).f_bavail * os.statvfs(hub).f_frsize))
        done = insist(app, "prune")
        assert done.status == 0, done.err
        assert done.err.splitlines()[-1].endswith(" cache remove REPO frees it")
