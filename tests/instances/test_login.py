"""Which logins take along what was started in them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from launcher.instances.login import ends_at_logout, ends_with_terminal
from tests.support.apps import eventually

SCOPE = "0::/user.slice/user-1000.slice/session-7.scope\n"
TERMINAL = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-terminal-22.scope\n"


@pytest.mark.parametrize(
    ("cgroup", "user", "kills", "lingers", "ends"),
    [
        (SCOPE, "alice", True, False, True),
        (SCOPE, "alice", True, True, True),  # lingering keeps the user's manager, not a session's scope
        (SCOPE, "alice", False, False, False),
        (SCOPE, "root", True, False, False),
        ("12:pids:/user.slice\n1:name=systemd:/user.slice/user-0.slice/session-c1.scope\n", "bob", True, False, True),
        (TERMINAL, "alice", False, False, True),
        (TERMINAL, "alice", True, True, False),
        ("0::/system.slice/cron.service\n", "alice", True, False, False),
        ("0::/\n", "alice", True, False, False),
    ],
)
def test_what_ends_when_its_user_logs_out(
    cgroup: str, user: str, kills: bool, lingers: bool, ends: bool, tmp_path: Path
) -> None:
    if lingers:
        (tmp_path / user).touch()
    assert bool(ends_at_logout(cgroup, user, lambda: kills, str(tmp_path))) is ends


def test_a_process_whose_name_is_no_text_is_asked_like_any_other(tmp_path: Path) -> None:
    parent, child = os.openpty()
    named = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.symlink("/bin/sleep", named)
    process = subprocess.Popen(("setsid", "--ctty", named, b"60"), stdin=child, stdout=child, stderr=child)
    try:
        eventually(lambda: Path(f"/proc/{process.pid}/comm").read_bytes() == b"caf\xe9\n", what="exec")
        assert (ends_with_terminal(process.pid) or "").startswith("/dev/pts/")
    finally:
        process.kill()
        process.wait()
        os.close(parent)
        os.close(child)
