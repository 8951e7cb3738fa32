"""An interrupt ends the launcher with 130 and one line, at whichever instant it comes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.apps import START_APP, AppFolder, clean_environment, eventually

# Sends this process a real SIGINT at one instant of the run: at its n-th import of a module or its n-th call or return
# of a function, counted from where Python begins with the launcher. What comes before that is Python's own.
SITECUSTOMIZE = """\
import atexit, os, signal, sys
at, kind, started, count = int(os.environ["AT"]), os.environ["KIND"], False, 0


def instant():
    global count
    count += 1
    if count == at:
        os.kill(os.getpid(), signal.SIGINT)


class Finder:
    def find_spec(self, name, path=None, target=None):
        if started and kind == "import":
            instant()


def step(frame, event, argument):
    global started
    if not started:
        started = frame.f_code.co_name == "run" and frame.f_code.co_filename.endswith("start_app.py")
    if started and kind == "import":
        sys.setprofile(None)
    elif started:
        instant()


def tell():
    if "COUNT" in os.environ:
        with open(os.environ["COUNT"], "w") as file:
            file.write(str(count))


sys.meta_path.insert(0, Finder())
sys.setprofile(step)
atexit.register(tell)
"""
COMMANDS = (("-n",), ("status",), ("cache", "list"))


def interrupted(app: AppFolder, folder: Path, at: int, kind: str, *words: str) -> tuple[int, int, str]:
    """Run the launcher with an interrupt at this instant; return how many there were, its status and its stderr."""
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    count = folder / "count"
    count.unlink(missing_ok=True)
    env = clean_environment(PYTHONPATH=str(folder), AT=str(at), KIND=kind, COUNT=str(count))
    done = subprocess.run(
        (sys.executable, START_APP, *app.arguments, *words), env=env, capture_output=True, text=True, timeout=120
    )
    return int(count.read_text()) if count.exists() else 0, done.returncode, done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    return tmp_path / "site"


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("-n",), "import"),
        (("--version",), "call"),
        *(pytest.param(words, kind, marks=pytest.mark.slow) for words in COMMANDS for kind in ("import", "call")),
    ],
)
def test_an_interrupt_at_any_instant_is_one_line(
    words: tuple[str, ...], kind: str, app: AppFolder, folder: Path, request: pytest.FixtureRequest
) -> None:
    interrupted(app, folder, 0, kind, *words)  # the first one may compile modules, which are more calls
    instants, status, err = interrupted(app, folder, 0, kind, *words)
    assert (status, err) == (0, "")
    assert instants > 10
    tries = 20 if request.config.getoption("--all") else 4
    done = (0, "")  # and not interrupted: the last instants are those of Python's own end
    for at in range(1, instants, max(1, instants // tries)):
        seen, status, err = interrupted(app, folder, at, kind, *words)
        assert (status, err) == (130, "interrupted\n") or ((status, err) == done and at > seen * 0.8), at


def test_an_interrupt_in_a_destructor_or_a_callback_is_one_line_too(tmp_path: Path) -> None:
    # Python prints such an exception and goes on: the interrupt would be lost, and a traceback be shown.
    code = (
        "import os, signal, sys\n"
        "from launcher import __main__, cli\n"
        "class Late:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        sum(range(10))\n"
        "cli.main = lambda launcher_file: Late() and 0\n"
        "sys.exit(__main__.main())\n"
    )
    done = subprocess.run((sys.executable, "-c", code), cwd=START_APP.parent, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_an_interrupt_while_python_ends_changes_nothing(tmp_path: Path) -> None:
    code = (
        "import atexit, os, signal, sys\n"
        "from launcher.__main__ import main\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
        "sys.argv[1:] = ['--version']\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run((sys.executable, "-c", code), cwd=START_APP.parent, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_second_interrupt_is_not_a_second_line() -> None:
    code = (
        "import os, signal, sys\n"
        "from launcher import __main__, cli\n"
        "class Stream:\n"
        "    def write(self, line):\n"
        "        sys.__stderr__.write(line)\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    flush = isatty = lambda self: None\n"
        "sys.stderr = Stream()\n"
        "def first(words): os.kill(os.getpid(), signal.SIGINT)\n"
        "cli.parse = first\n"
        "sys.exit(__main__.main())\n"
    )
    done = subprocess.run((sys.executable, "-c", code), cwd=START_APP.parent, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_who_ignores_interrupts_goes_on_ignoring_them(app: AppFolder, folder: Path) -> None:
    (folder / "ignore.py").write_text(
        "import os, signal, sys\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nos.execv(sys.argv[1], sys.argv[1:])\n"
    )
    words = (sys.executable, folder / "ignore.py", sys.executable, START_APP, *app.arguments, "-n")
    with subprocess.Popen(words, env=clean_environment(), stdout=subprocess.PIPE) as process:
        eventually(lambda: ignores(process.pid), what="SIGINT is ignored")
        while process.poll() is None:
            os.kill(process.pid, signal.SIGINT)
        assert process.returncode == 0


def ignores(pid: int) -> bool:
    (line,) = re.findall(r"^SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(line, 16) & 1 << (signal.SIGINT - 1))
