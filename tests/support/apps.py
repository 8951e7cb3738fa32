"""What the tests share: a small real app, real processes that are always reaped, and a way to run the launcher."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

ROOT = Path(__file__).resolve().parents[2]
START_APP = ROOT / "start_app.py"
T = TypeVar("T")

# What an app serves, by which it can be told from any other.
PAGE = """\
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"pid {os.getpid()}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass
"""

# A stand-in for the parts of an app that the launcher can see: it starts in milliseconds, tells what it was given as
# JSON on its first line, and serves a page by which it can be told from any other.
WEBUI = (
    """\
import argparse, http.server, json, os, signal, sys, time

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", 7860)))
parser.add_argument("--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
parser.add_argument("--load", type=float, default=0, help="seconds before the port opens")
parser.add_argument("--ignore-term", action="store_true")
parser.add_argument("--worker", action="store_true", help="fork a worker that shares the port and outlives its parent")
parser.add_argument("--exit", type=int, default=None, help="exit with this status instead of serving")
parser.add_argument("rest", nargs="*")
args = parser.parse_args()
fds = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))
links = {}
for fd in fds:
    try:
        links[fd] = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        pass
print(json.dumps({"pid": os.getpid(), "argv": sys.argv, "cwd": os.getcwd(), "env": dict(os.environ), "fds": links,
                  "exe": sys.executable}), flush=True)
if args.ignore_term:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if args.exit is not None:
    sys.exit(args.exit)
time.sleep(args.load)


"""
    + PAGE
    + """

server = http.server.ThreadingHTTPServer((args.host, args.port), Page)
if args.worker and os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setsid()
try:
    server.serve_forever()
except KeyboardInterrupt:
    sys.exit(0)
"""
)


def free_port() -> int:
    """Return a port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def eventually(condition: Callable[[], T], timeout: float = 15, what: str = "") -> T:
    """Poll until the condition is truthy and return it; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or condition}")
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def get(port: int, host: str = "127.0.0.1", timeout: float = 2) -> str | None:
    """Return the body that an app's page answers with, or None."""
    try:
        with socket.create_connection((host, port), timeout) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            data = b""
            while block := connection.recv(65536):
                data += block
    except OSError:
        return None
    return data.partition(b"\r\n\r\n")[2].decode() or None


def clean_environment(**changes: str) -> dict[str, str]:
    """Return this process's environment without anything that a launcher or an app would listen to."""
    prefixes = ("HF_", "HUGGINGFACE_", "APP_", "GRADIO_", "PYTHON", "VIRTUAL_ENV", "CONDA_", "UV_", "XDG_", "NO_COLOR")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(prefixes) and not name.lower().endswith("_proxy")
    }
    return {**kept, **changes}


@dataclass(frozen=True)
class Done:
    """Hold what a finished launcher left."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Running:
    """Hold a process that was started in the background, its output going to files."""

    process: subprocess.Popen[bytes]
    stdout: Path
    stderr: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def out(self) -> str:
        return self.stdout.read_text(errors="surrogateescape")

    @property
    def err(self) -> str:
        return self.stderr.read_text(errors="surrogateescape")

    def hello(self) -> dict[str, Any]:
        """Wait for the app's first line and return what it tells of itself."""
        line = eventually(
            lambda: next((line for line in self.out.splitlines() if line.startswith("{")), ""), what="hello"
        )
        document: dict[str, Any] = json.loads(line)
        return document

    def wait(self, timeout: float = 30) -> int:
        return self.process.wait(timeout)


@dataclass
class Processes:
    """Start processes and end every one of them, and whatever they started, when the test is over."""

    folder: Path
    started: list[Running] = field(default_factory=list)
    strays: set[int] = field(default_factory=set)

    def start(
        self,
        command: Sequence[str | Path],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        **keywords: Any,
    ) -> Running:
        number = len(self.started)
        stdout, stderr = self.folder / f"{number}.out", self.folder / f"{number}.err"
        with stdout.open("wb") as out, stderr.open("wb") as err:
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=cwd,
                env=clean_environment() if env is None else dict(env),
                **{"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, **keywords},
            )
        running = Running(process, stdout, stderr)
        self.started.append(running)
        return running

    def launch(self, *arguments: str | Path, env: Mapping[str, str] | None = None, **keywords: Any) -> Running:
        """Start the launcher in the background; it becomes the app."""
        return self.start((sys.executable, START_APP, *arguments), env=env, **keywords)

    def end_also(self, pid: int) -> int:
        """Have a process that is not our child ended with the test."""
        self.strays.add(pid)
        return pid

    def close(self) -> None:
        doomed: dict[int, psutil.Process] = {}
        for pid in (*(running.pid for running in self.started), *self.strays):
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                for one in (process, *process.children(recursive=True)):
                    doomed[one.pid] = one
        for process in doomed.values():
            with suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        for running in self.started:
            running.process.wait(10)


@dataclass(frozen=True)
class AppFolder:
    """Hold an app's folder and a free port of its own."""

    path: Path
    port: int

    @property
    def script(self) -> Path:
        return self.path / "webui.py"

    def write_env(self, text: str) -> Path:
        path = self.path / ".env"
        path.write_text(text)
        return path

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("--app-dir", str(self.path), "--port", str(self.port))

    def lock_holder(self) -> int | None:
        """Return the pid that the instance lock's record names."""
        try:
            line = (self.path / ".start_app" / f"instance-{self.port}.lock").read_text().splitlines()[0]
            pid: int = json.loads(line)["pid"]
            return pid
        except (OSError, IndexError, ValueError):
            return None


def make_app(folder: Path, script: str = WEBUI) -> AppFolder:
    """Make an app's folder with the small real app in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "webui.py").write_text(script)
    return AppFolder(folder, free_port())


def open_to_all(folder: Path) -> None:
    """Let other users into a test's folder, through those above it that pytest has made, and no others."""
    for path in (folder, *folder.parents):
        path.chmod(path.stat().st_mode | 0o055)
        if path.name.startswith("pytest-of-"):
            return
    raise AssertionError(f"{folder} is no folder of pytest's")


def program(cwd: Path = ROOT.parent) -> str:
    """Return how hints call the launcher when it was run by `launcher()` in this folder."""
    return shlex.join(str(path).removeprefix(f"{cwd}/") for path in (sys.executable, START_APP))


def launcher(
    *arguments: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    python: Sequence[str | Path] = (sys.executable,),
    start_app: Path = START_APP,
    timeout: float = 60,
    **keywords: Any,
) -> Done:
    """Run the launcher to its end."""
    done = subprocess.run(
        [str(word) for word in (*python, start_app, *arguments)],
        cwd=cwd or ROOT.parent,
        env=clean_environment() if env is None else dict(env),
        capture_output=True,
        timeout=timeout,
        **{"stdin": subprocess.DEVNULL, **keywords},
    )
    return Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
