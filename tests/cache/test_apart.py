"""Another process that looks at a part of the cache sees what we would, and its end changes nothing."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.apps import ROOT, AppFolder, Processes, eventually
from tests.support.caches import A, age, make_repo
from tests.support.removal import insist

MANY = 120
# From the first third, which goes to the other process, from the rest, and from where the two meet.
PLACES = (0, 39, 40, 41, 119)
HOLDER = "import sys, time; kept = open(sys.argv[1]); print('ready', flush=True); time.sleep(600)"


def many(hub: Path) -> list[Path]:
    """Make a cache of so many repos that they are looked at by two, all of them settled."""
    repos = [make_repo(hub, f"models--koge--model-{number:03}") for number in range(MANY)]
    for repo in repos:
        for path in (repo, repo / "blobs", repo / "snapshots"):
            age(path)
    return repos


def left(hub: Path) -> list[str]:
    return sorted(path.name for path in hub.glob("models--*"))


@contextmanager
def downloaded(repo: Path) -> Iterator[None]:
    """Hold the lock of a file of this repo that has come in part."""
    (repo / "blobs" / f"{'f' * 64}.incomplete").write_bytes(b"half")
    age(repo / "blobs")
    lock = repo.parent / ".locks" / repo.name / f"{'f' * 64}.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("place", PLACES)
def test_what_is_read_among_many_stays(place: int, app: AppFolder, hub: Path, processes: Processes) -> None:
    repo = many(hub)[place]
    reader = processes.start((sys.executable, "-c", HOLDER, repo / "snapshots" / A / "config.json"))
    eventually(lambda: "ready" in reader.out, what=reader.err)
    done = insist(app, "clear")
    assert done.status == 75, done.err
    assert f"it is in use by pid {reader.pid}" in done.err
    assert left(hub) == [repo.name]


@pytest.mark.parametrize("place", PLACES)
def test_what_is_downloaded_among_many_stays(place: int, app: AppFolder, hub: Path) -> None:
    repo = many(hub)[place]
    with downloaded(repo):
        done = insist(app, "clear")
    assert done.status == 75, done.err
    assert "it is being downloaded" in done.err
    assert left(hub) == [repo.name]


@pytest.mark.parametrize("part", [".", "blobs", "snapshots"])
def test_a_strangers_file_in_any_of_many_stays(part: str, app: AppFolder, hub: Path) -> None:
    repos = many(hub)
    mine = [repos[place] / part / "mine.txt" for place in PLACES]
    for path in mine:
        path.write_text("mine")
        age(path.parent)
    assert insist(app, "clear").status == 0
    assert left(hub) == sorted(repos[place].name for place in PLACES)
    assert [path.read_text() for path in mine] == ["mine"] * len(mine)
    assert not list(hub.glob("*/snapshots/*/config.json"))


def test_many_that_are_in_nobodys_way_all_go(app: AppFolder, hub: Path) -> None:
    many(hub)
    done = insist(app, "clear")
    assert done.status == 0, done.err
    assert left(hub) == []


def ran(program: str) -> list[str]:
    """Return what a program prints that has work done apart; pytest's own process has threads, and must not fork."""
    preamble = "import os, signal\nfrom launcher.cache.apart import apart\nfrom launcher.cache import apart as module\n"
    done = subprocess.run((sys.executable, "-c", preamble + program), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.split()


def test_the_work_is_done_by_another_process_which_is_reaped() -> None:
    program = """\
module._cores = lambda: 2
with apart(lambda: (os.getpid(),)) as result:
    pid, = result()
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print(pid != os.getpid())
"""
    assert ran(program) == ["True"]


@pytest.mark.parametrize(
    "end", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)", "raise OSError", "raise KeyboardInterrupt"]
)
def test_work_that_the_other_process_does_not_finish_is_done_here(end: str) -> None:
    program = f"""\
module._cores = lambda: 2
ours = os.getpid()
def work():
    if os.getpid() != ours:
        {end}
    return (os.getpid(),)
with apart(work) as result:
    print(result() == (ours,))
"""
    assert ran(program) == ["True"]


def test_on_one_core_no_process_is_started() -> None:
    program = """\
module._cores = lambda: 1
with apart(lambda: (os.getpid(),)) as result:
    print(result() == (os.getpid(),))
"""
    assert ran(program) == ["True"]


def test_what_the_work_raises_is_raised_here_and_nothing_is_left() -> None:
    program = """\
module._cores = lambda: 2
def work():
    raise PermissionError
before = len(os.listdir("/dev/fd"))
try:
    with apart(work) as result:
        result()
except PermissionError:
    print("raised", len(os.listdir("/dev/fd")) == before)
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print("reaped")
"""
    assert ran(program) == ["raised", "True", "reaped"]
