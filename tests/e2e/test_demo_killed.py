"""A playground is there whole or not at all, whatever happens to whoever makes it."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.demo import MARKER, make_playground
from tests.support.playground import (
    DEADLINE_S,
    ROOT,
    tree,
)

MAKE = """
import os, sys, time
from pathlib import Path
from launcher.demo import make_playground
folder, warm = map(Path, sys.argv[1:])
make_playground(warm)  # pays for the imports
start = time.perf_counter()
make_playground(warm.with_name("timed"))
print(time.perf_counter() - start, flush=True)
sys.stdin.readline()
make_playground(folder)
"""

# Kills itself at its n-th step on the file system; says "whole" when it had fewer.
MAKE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from launcher.demo import make_playground
left = int(sys.argv[2])
def step(event, arguments):
    global left
    if event in {"open", "os.mkdir", "os.rename", "os.symlink", "os.chmod", "os.scandir"}:
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(step)
make_playground(Path(sys.argv[1]))
left = 1 << 30
print("whole")
"""


def start_make(folder: Path, warm: Path) -> tuple[subprocess.Popen[str], float]:
    """Start a child that makes `folder` on go(); return it with the seconds that the same took elsewhere."""
    child = subprocess.Popen(
        [sys.executable, "-c", MAKE, folder, warm / "first"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    return child, float(child.stdout.readline())


def go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def assert_whole_or_absent_then_made(folder: Path, whole: dict[str, bytes | str]) -> None:
    if folder.exists():
        assert tree(folder) == whole
    make_playground(folder)
    assert tree(folder) == whole
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.slow
def test_kill_9_at_a_random_instant_leaves_no_half_playground(tmp_path: Path, playground: Path) -> None:
    whole = tree(playground)
    half_way = 0
    for attempt in range(20):
        folder = tmp_path / f"here-{attempt}" / "playground"
        child, duration = start_make(folder, tmp_path / f"warm-{attempt}")
        with child:
            go(child)
            try:
                child.wait(random.uniform(0, duration * 1.25))
            except subprocess.TimeoutExpired:
                child.kill()
        half_way += folder.parent.exists() and not folder.exists()
        assert_whole_or_absent_then_made(folder, whole)
    assert half_way, "no kill came between the start and the end: this has shown nothing"


@pytest.mark.slow
def test_kill_9_at_every_step_leaves_no_half_playground(tmp_path: Path, playground: Path) -> None:
    """Each step is a system call that changes or reads the disk; imports count too, and do no harm."""
    whole = tree(playground)

    def die_at(step: int, folder: Path) -> bool:
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{MAKE_AND_DIE}"
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code, str(folder), str(step)],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert done.returncode in {0, -signal.SIGKILL}, done.stderr
        return done.returncode == 0

    step = 0
    while not die_at(step, folder := tmp_path / f"step-{step}" / "playground"):
        if folder.parent.exists():
            assert_whole_or_absent_then_made(folder, whole)
        step += 1
    assert step > len(whole) // 2


def test_what_a_killed_build_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    ours, begun, empty = (tmp_path / f".start_app_demo-building-{n}" for n in ("00000001", "00000002", "00000003"))
    alien, link = tmp_path / ".start_app_demo-building-mine", tmp_path / ".start_app_demo-building-link"
    victim = tmp_path / "victim"
    assert make_playground(ours)
    assert make_playground(victim)
    begun.mkdir()
    (begun / MARKER).touch()
    empty.mkdir()
    alien.mkdir()
    (alien / "thesis.txt").write_text("mine\n")
    link.symlink_to(victim)
    assert make_playground(tmp_path / "playground")
    assert {path.name for path in tmp_path.iterdir()} == {alien.name, link.name, "victim", "playground"}
    assert tree(alien) == {"thesis.txt": b"mine\n"}
    assert tree(victim) == tree(tmp_path / "playground")


def test_leftovers_stay_while_another_launcher_may_be_building(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.demo._LOCK_PATIENCE_S", 0.05)
    theirs = tmp_path / ".start_app_demo-building-00000001"
    assert make_playground(theirs)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert make_playground(tmp_path / "playground")
    finally:
        os.close(descriptor)
    assert theirs.exists()


def test_of_many_launchers_at_once_exactly_one_makes_it(tmp_path: Path, playground: Path) -> None:
    folder = tmp_path / "race/playground"
    children = [start_make(folder, tmp_path / f"warm-{n}")[0] for n in range(8)]
    for child in children:
        go(child)
    for child in children:
        with child:
            assert child.wait(DEADLINE_S) == 0
    assert tree(folder) == tree(playground)
    assert list(folder.parent.iterdir()) == [folder]
