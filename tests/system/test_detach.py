"""Work beside the launcher: nobody's child, and bound to nothing of the launcher's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from launcher.system import detach
from tests.support.apps import ROOT, alive, eventually


def told(path: Path) -> dict[str, object]:
    eventually(lambda: path.exists() and path.read_text().endswith("\n"), what="the work")
    document: dict[str, object] = json.loads(path.read_text())
    return document


def tell(path: Path) -> None:
    links = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            links[number] = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
    facts = {
        "parent": os.getppid(),
        "session": os.getsid(0),
        "pid": os.getpid(),
        "cwd": os.getcwd(),
        "fds": links,
        "term": str(signal.getsignal(signal.SIGTERM)),
    }
    path.write_text(json.dumps(facts) + "\n")


def test_it_has_a_session_of_its_own_and_holds_nothing(tmp_path: Path) -> None:
    with (tmp_path / "held").open("w"):
        detach.beside(lambda: tell(tmp_path / "out"), seconds=20)
        facts = told(tmp_path / "out")
    assert facts["parent"] != os.getpid()
    assert facts["session"] not in (os.getsid(0), facts["pid"])
    assert facts["cwd"] == "/"
    assert facts["term"] == str(signal.Handlers.SIG_IGN)
    fds = facts["fds"]
    assert isinstance(fds, dict)
    assert {fds[name] for name in ("0", "1", "2")} == {"/dev/null"}
    assert str(tmp_path / "held") not in fds.values()


def test_work_without_a_bound_can_be_ended(tmp_path: Path) -> None:
    detach.beside(lambda: (tell(tmp_path / "out"), time.sleep(60))[1])
    facts = told(tmp_path / "out")
    pid = facts["pid"]
    assert isinstance(pid, int)
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not alive(pid))


def test_it_ends_when_its_time_is_over(tmp_path: Path) -> None:
    detach.beside(lambda: (tell(tmp_path / "out"), time.sleep(60))[1], seconds=1)
    pid = told(tmp_path / "out")["pid"]
    assert isinstance(pid, int)
    eventually(lambda: not alive(pid))


def test_a_caller_whose_children_are_reaped_by_the_kernel_hears_nothing(tmp_path: Path) -> None:
    code = (
        "import signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); from launcher.system import detach;"
        "detach.beside(lambda: open(sys.argv[1], 'w').write('done'))"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "out"], cwd=ROOT, check=False).returncode == 0
    eventually((tmp_path / "out").exists)
