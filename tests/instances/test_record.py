"""The record in a lock file: what no launcher has written is no record, and what one writes can be read."""

from __future__ import annotations

import fcntl
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from launcher.instances.proof import own_namespace
from launcher.instances.record import Record, instance_name, read
from tests.support.apps import AppFolder, launcher


def document(**changes: Any) -> dict[str, Any]:
    boot_id, namespace = own_namespace()
    usual = {
        "pid": os.getpid(),
        "start": 1.0,
        "boot_id": boot_id,
        "pid_namespace": namespace,
        "user": "somebody",
        "port": 7860,
        "argv": ["python", "webui.py"],
        "app_dir": "/app",
        "started_at": "2026-01-01T00:00:00Z",
        "machine": "box",
        "launcher_version": "1",
    }
    return {**usual, **changes}


EDITED = {
    "pid beyond C's int": {"pid": 2**31},
    "pid beyond C's long": {"pid": 10**30},
    "pid beyond the kernel's": {"pid": (1 << 22) + 1},
    "negative pid": {"pid": -1},
    "pid 0": {"pid": 0},
    "pid true": {"pid": True},
    "port beyond TCP": {"port": 65536},
    "negative start": {"start": -1},
    "start without an end": {"start": math.inf},
    "start no number": {"start": math.nan},
    "start a text": {"start": "1"},
    "boot a list": {"boot_id": []},
    "argv a text": {"argv": "webui.py"},
    "date a number": {"started_at": 1},
    "script a list": {"script": ["webui.py"]},
    "command a text": {"command": "run"},
    "command of numbers": {"command": [1]},
}


@pytest.mark.parametrize("changes", EDITED.values(), ids=EDITED)
def test_a_record_that_no_launcher_has_written_is_none(app: AppFolder, changes: dict[str, Any]) -> None:
    lock = app.path / ".start_app" / instance_name(app.port)
    lock.parent.mkdir()
    lock.write_text(json.dumps(document(**changes)) + "\n")
    assert read(lock) is None
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = launcher("status", *app.arguments)
    assert (done.status, "Traceback" in done.err) == (0, False)


@pytest.mark.parametrize("letter", ["x", "é", "\U0001f600"])
def test_a_record_of_the_longest_command_line_can_be_read(tmp_path: Path, letter: str) -> None:
    argv = ("python", "webui.py", letter * 130_000, *(f"--option-{number}" for number in range(60_000)))
    models = {f"{'o' * 48}/{'n' * 48}-{number}": "c" * 40 for number in range(20_000)}
    record = Record(**{**document(), "argv": argv, "models": models})
    path = tmp_path / "lock"
    path.write_bytes(record.line())
    known = read(path)
    assert known
    assert (known.pid, known.start, known.argv[:2]) == (record.pid, record.start, ("python", "webui.py"))
    assert known.argv[-1] == "…"
