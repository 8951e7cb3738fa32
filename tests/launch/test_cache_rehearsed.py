"""A folder of the cache that cannot be moved away is found out while the old instance serves."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

import pytest

from tests.support.apps import Processes, clean_environment, eventually, get, launcher
from tests.support.removal import V23, Cached, everything, trash


@pytest.mark.parametrize("flags", [("--clear-cache",), ("--remove-model", V23)], ids=" ".join)
def test_a_repo_that_cannot_be_moved_stops_nothing(
    flags: tuple[str, ...], cached: Cached, processes: Processes
) -> None:
    app = cached.app
    old = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what="page")
    repo = cached.hub / f"models--{V23.replace('/', '--')}"
    if not shutil.which("chattr") or subprocess.run(("chattr", "+i", repo), capture_output=True).returncode:
        pytest.skip("folders cannot be made immutable here")
    before = everything(cached.home)
    try:
        done = launcher(*app.arguments, *flags, "--background", "--yes")
        assert done.status == 74
        assert f"{repo} stays: it is immutable (chattr +i); nothing was stopped or removed\n" in done.err
        assert get(app.port) == f"pid {old.pid}"
        assert everything(cached.home) == before
        forced = launcher(*app.arguments, *flags, "--force", "--yes", "--no-launch")
        assert f"terminated pid {old.pid} " in forced.err
    finally:
        subprocess.run(("chattr", "-i", repo), check=True)
    assert not trash(cached.hub)


@pytest.mark.slow
def test_a_repo_that_the_prestart_command_has_put_to_use_stops_nothing(cached: Cached, processes: Processes) -> None:
    app = cached.app
    old = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what="page")
    blob = next((cached.hub / f"models--{V23.replace('/', '--')}" / "blobs").iterdir())
    fifo = app.path / "opened"
    os.mkfifo(fifo)  # the command ends when its child has the file open
    command = f"(exec 3<{blob}; echo >{fifo}; exec sleep 600) >/dev/null 2>&1 & echo $! >pid; cat {fifo}"
    environ = clean_environment(APP_PRESTART=command)
    before = everything(cached.home)
    try:
        done = launcher(*app.arguments, "--clear-cache", "--background", "--yes", env=environ)
        assert (done.status, get(app.port)) == (75, f"pid {old.pid}"), done.err
        assert "nothing was stopped or removed\n" in done.err
        assert everything(cached.home) == before
    finally:
        os.kill(int((app.path / "pid").read_text()), signal.SIGKILL)
