"""systemd is told what the launcher is doing, and never that the service is ready or stops."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.apps import AppFolder, Processes, clean_environment, eventually, get, launcher


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(address)
        end.setblocking(False)
        yield end


def heard(end: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(end.recv(65536).decode())
        except BlockingIOError:
            return messages


@pytest.mark.slow
@pytest.mark.parametrize("abstract", [False, True])
def test_each_step_is_one_line_of_status_and_nothing_else_is_said(
    abstract: bool, app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    name = f"start-app-{app.port}" if abstract else str(tmp_path / "notify")
    old = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what="page")
    with listening(f"\0{name}" if abstract else name) as end:
        env = clean_environment(NOTIFY_SOCKET=f"@{name}" if abstract else name)
        new = processes.launch(*app.arguments, "--quiet", env=env)
        eventually(lambda: get(app.port) == f"pid {new.pid}", what="page")
        messages = heard(end)
        assert all(message.startswith("STATUS=") and "\n" not in message for message in messages)
        assert any(message.startswith(f"STATUS=stale: pid {old.pid}, ") for message in messages)
        assert messages[-1].startswith("STATUS=exec: ")
        assert new.err == ""  # a quiet launch is quiet on its own streams only
        assert launcher("wait", "--timeout", "20", *app.arguments, env=env).status == 0
        (ready,) = heard(end)
        assert ready.startswith(f"STATUS=ready: pid {new.pid} answers at ")
        for command in (("status",), ("-n",), ("unit",)):
            launcher(*command, *app.arguments, env=env)
        assert heard(end) == []
        # A secret is masked there as it is everywhere.
        refused = clean_environment(NOTIFY_SOCKET=env["NOTIFY_SOCKET"], GRADIO_SERVER_PORT="hf_" + "a" * 34)
        assert launcher("--app-dir", app.path, env=refused).status == 78
        (message,) = heard(end)
        assert message.startswith("STATUS=") and "hf_aaa" not in message


@pytest.mark.parametrize("address", ["/nobody/listens", "@nobody-listens", "relative", "vsock:2:1", ""])
def test_nobody_who_listens_is_no_problem(address: str, app: AppFolder) -> None:
    env = clean_environment(NOTIFY_SOCKET=address)
    done = launcher(*app.arguments, "--", "--exit", "0", env=env)
    assert done.status == 0, done.err
