"""A program that is asked something: it answers, fails, or hangs, and never takes the launcher with it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from launcher.system.child import output_within
from tests.support.apps import alive, eventually


def test_what_it_prints_is_returned_and_a_failure_is_none() -> None:
    assert output_within(("sh", "-c", "echo one; echo two >&2"), 20) == b"one\n"
    assert output_within(("sh", "-c", "echo one; exit 3"), 20) is None
    assert output_within(("/no/such/program",), 20) is None
    begun = time.monotonic()
    data = output_within(("sh", "-c", "head -c 5000000 /dev/zero; sleep 60"), 40, most=1 << 20)
    assert data is None  # it is killed with the pipe full
    assert time.monotonic() - begun < 30


def test_one_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    begun = time.monotonic()
    script = f"echo one; sleep 300 & echo $! >{tmp_path}/child; echo $$ >{tmp_path}/self; wait"
    assert output_within(("sh", "-c", script), 0.5) is None
    assert time.monotonic() - begun < 20
    for name in ("child", "self"):
        pid = int((tmp_path / name).read_text())
        eventually(lambda pid=pid: not alive(pid))  # type: ignore[misc]


def test_one_that_leaves_its_pipe_to_a_daemon_has_answered(tmp_path: Path) -> None:
    script = f"echo one; setsid sleep 3 & echo $! >{tmp_path}/child; sleep 0.2"
    assert output_within(("sh", "-c", script), 0.5) == b"one\n"
    os.kill(int((tmp_path / "child").read_text()), 9)
