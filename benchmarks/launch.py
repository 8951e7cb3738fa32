"""A launch costs little more than its imports, a restart little more than the old app's exit, a crowd costs little.

Every script has a name of its own, because the alternatives go by name: `pgrep -f webui.py` means every app there is.
"""

from __future__ import annotations

import secrets
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launcher.config import settings
from launcher.operations import instance

from .crowd import crowd
from .measure import (
    ROOT,
    START_APP,
    BenchmarkError,
    Claim,
    Measured,
    Result,
    Say,
    Scale,
    in_turn,
    running,
    temporary_folder,
    to_end,
    to_first_line,
)

EXIT_SECONDS = 0.5
IMPORTS = "import psutil, dotenv, argparse"
EXECS = "os.execv(sys.argv[1], sys.argv[1:])"
HUB_IMPORT = "from huggingface_hub import scan_cache_dir"
ENV = """\
# what a user of such an app has in the file: the mirror, the cache, a GPU, a token
HF_HOME=./cache_hub
HF_ENDPOINT=https://hf-mirror.com
export HF_TOKEN="hf_{token}"
HF_HUB_DOWNLOAD_TIMEOUT=60
HF_HUB_DISABLE_XET=1

USE_MODELSCOPE=false
CUDA_VISIBLE_DEVICES=0
PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True  # less fragmentation
TORCH_HOME=${{HF_HOME}}/torch
GRADIO_TEMP_DIR='/tmp/gradio'
GRADIO_ANALYTICS_ENABLED=False

APP_SCRIPT={script}
APP_ARGS="{arguments}"
GRADIO_SERVER_NAME=127.0.0.1
GRADIO_SERVER_PORT={port}
"""
PRINTS_AND_ENDS = 'print("running", flush=True)\n'
# The line comes when the port is open, as Gradio's does; SIGTERM kills it at once, as it does Gradio, or takes a while.
SERVES = """\
import signal, socket, sys, time

port, seconds = int(sys.argv[sys.argv.index("--port") + 1]), float(sys.argv[sys.argv.index("--exit-seconds") + 1])


def end(*_):
    time.sleep(seconds)
    sys.exit(0)


if seconds:
    signal.signal(signal.SIGTERM, end)
signal.alarm(900)  # should nobody be left to end it
listener = socket.create_server(("127.0.0.1", port))
print("running", flush=True)
while True:
    signal.pause()
"""
START_APP_SH = """\
#!/bin/bash
cd {folder}
export HF_HOME=./cache_hub
export HF_ENDPOINT=https://hf-mirror.com
PIDS=$(pgrep -f {script})
if [ -n "$PIDS" ]; then
    kill $PIDS
    sleep 2
fi
{python} {script} --port {port} {arguments}
"""


@dataclass(frozen=True, slots=True)
class App:
    """Hold an app in a folder of its own, with a script name and a port that nobody else has."""

    folder: Path
    script: str
    port: int
    arguments: str

    @property
    def start(self) -> tuple[str, ...]:
        """Return the command that starts the app without any launcher."""
        return (sys.executable, self.script, "--port", str(self.port), *self.arguments.split())

    def start_app(self, *options: str) -> tuple[str | Path, ...]:
        """Return the command that starts the launcher for this app."""
        return (sys.executable, START_APP, "--app-dir", self.folder, *options)

    @property
    def start_app_sh(self) -> tuple[str, ...]:
        """Return the command that does what the launcher replaces."""
        return ("bash", "start_app.sh")

    @property
    def pgrep(self) -> tuple[str, ...]:
        """Return the command that start_app.sh finds its instances with."""
        return ("pgrep", "-f", self.script)


def results(scale: Scale, say: Say) -> Iterator[Result]:
    """Measure the claims about launching, one after the other."""
    say(f"launch: {scale.repetitions} repetitions")
    yield from launch(scale)
    yield imports()
    for seconds in (0.0, EXIT_SECONDS):
        say(f"restart: {scale.slow_repetitions} repetitions, an app that takes {seconds:g} s to exit")
        yield from restart(scale, seconds)
    say(f"finding among {scale.processes} other processes: {scale.repetitions} repetitions")
    yield from finding(scale)


def launch(scale: Scale) -> Iterator[Result]:
    """Measure a launch with nothing to stop, up to its exec, against a Python that imports the same and execs the app.

    The app's own start, and what it takes to spawn a process, is taken off both.
    """
    name, what = "launch, nothing to stop", "start_app.py, up to its exec"
    with temporary_app(PRINTS_AND_ENDS) as app:
        ours, alone, imported, nothing = in_turn(
            scale.repetitions,
            lambda: to_first_line(app.start_app(), app.folder),
            lambda: to_first_line(app.start, app.folder),
            lambda: to_first_line((sys.executable, "-c", f"{IMPORTS}, os, sys; {EXECS}", *app.start), app.folder),
            lambda: to_first_line((sys.executable, "-c", f"import os, sys; {EXECS}", *app.start), app.folder),
        )
    own = statistics.median(alone)
    ours, imported, nothing = (tuple(seconds - own for seconds in samples) for samples in (ours, imported, nothing))
    yield Claim(name, what, f'python -c "{IMPORTS}"', "ratio", 1.3).judge(ours, imported)
    yield Claim(name, what, "limit: python -c pass", "ratio", None).judge(ours, nothing)


def imports() -> Result:
    """Count the modules of huggingface_hub that a launch imports; a plain use of it shows that they would be seen."""
    name, beside = "launch imports no huggingface_hub", f'python -c "{HUB_IMPORT}"'
    claim = Claim(name, "start_app.py", beside, "value", 0, "modules")
    options = ("-X", "importtime")
    with temporary_app(PRINTS_AND_ENDS) as app:
        python, *rest = app.start_app()
        ours = _imported((python, *options, *rest), app.folder)
        alternative = _imported((python, *options, "-c", HUB_IMPORT), app.folder)
    if "launcher.operations.instance" not in ours:
        raise BenchmarkError("-X importtime does not show the launcher's own imports")
    return claim.judge((_of_hub(ours),), (_of_hub(alternative),))


def restart(scale: Scale, exit_seconds: float) -> Iterator[Result]:
    """Measure a restart against the time that nobody can save, and against start_app.sh.

    What nobody can save is the old app's exit after SIGTERM and the new one's start, each measured by itself.
    """
    exits = f"the app exits {'at once' if not exit_seconds else f'in {exit_seconds:g} s'}"
    least = Claim(f"restart, {exits}", "start_app.py", "old exit + new start", "difference", 0.15)
    script = Claim(f"restart, {exits}", "start_app.py", "start_app.sh (sleep 2)", "ratio", 1.0)
    with temporary_app(SERVES, f"--exit-seconds {exit_seconds}") as app:
        ours, alone, shell = in_turn(
            scale.slow_repetitions,
            lambda: _restart(app, app.start_app()),
            lambda: _exit(app) + to_first_line(app.start, app.folder),
            lambda: _restart(app, app.start_app_sh),
        )
    yield least.judge(ours, alone)
    yield script.judge(ours, shell)


def finding(scale: Scale) -> Iterator[Result]:
    """Measure finding the one stale instance among many other processes; each must have found that very one."""
    name = f"find, {scale.processes} other processes"
    with crowd(scale.processes), temporary_app(SERVES, "--exit-seconds 0") as app:
        beside = f"{' '.join(app.pgrep[:2])} webui.py"
        with running(app.start, app.folder) as old, _observer(app) as observer:
            old.line()
            observed, dry, pgrep = in_turn(
                scale.repetitions,
                lambda: _observation(observer, old),
                lambda: to_end(app.start_app("--dry-run"), app.folder, f"would terminate pid {old.process.pid},"),
                lambda: to_end(app.pgrep, app.folder, str(old.process.pid)),
            )
        nothing, idle = in_turn(
            scale.repetitions,
            lambda: to_end(app.start_app("--no-launch"), app.folder),
            lambda: to_end(app.pgrep, app.folder, status=1),
        )
    yield Claim(name, "observe(), warmed up", beside, "ratio", 3).judge(observed, pgrep)
    yield Claim(name, "start_app.py --dry-run", beside, "ratio", 3).judge(dry, pgrep)
    yield Claim(f"{name}, none stale", "start_app.py --no-launch", beside, "ratio", 3).judge(nothing, idle)


def answer(folder: str) -> None:
    """Observe the app in `folder` for every line on stdin, and tell the seconds it took and the stale pids."""
    found = settings.load({"APP_DIR": folder}, {}, settings.Call(Path(folder)))
    for _ in sys.stdin:
        begun = time.perf_counter()
        seen = instance.observe(found)
        seconds = time.perf_counter() - begun
        print(seconds, *(stale.pid for stale in seen.survey.stale), flush=True)


@contextmanager
def temporary_app(source: str, arguments: str = "") -> Iterator[App]:
    """Make an app that is gone afterwards, its `.env` and its start_app.sh with it."""
    token = secrets.token_hex(8)
    with temporary_folder() as folder:
        app = App(folder, f"webui_{token}.py", _free_port(), arguments)
        (folder / app.script).write_text(source)
        (folder / ".env").write_text(ENV.format(token=token * 2, script=app.script, port=app.port, arguments=arguments))
        (folder / "start_app.sh").write_text(
            START_APP_SH.format(
                folder=folder, script=app.script, python=sys.executable, port=app.port, arguments=arguments
            )
        )
        yield app


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _observer(app: App) -> Iterator[Measured]:
    program = (sys.executable, "-c", f"from benchmarks.launch import answer; answer({str(app.folder)!r})")
    with running(program, ROOT, stdin=subprocess.PIPE) as observer:
        yield observer


def _observation(observer: Measured, old: Measured) -> float:
    assert observer.process.stdin
    observer.process.stdin.write(b"\n")
    observer.process.stdin.flush()
    seconds, *stale = observer.line().split()
    if stale != [str(old.process.pid)]:
        raise BenchmarkError(f"observe() has found {stale} in place of pid {old.process.pid}")
    return float(seconds)


def _restart(app: App, command: tuple[str | Path, ...]) -> float:
    with running(app.start, app.folder) as old:
        old.line()
        with running(command, app.folder) as new:
            seconds = new.first_line_after()
            if old.process.poll() is None:
                raise BenchmarkError(f"{command[-1]} has left the old instance running:\n{new.errors}")
            return seconds


def _exit(app: App) -> float:
    with running(app.start, app.folder) as old:
        old.line()
        begun = time.perf_counter()
        old.process.send_signal(signal.SIGTERM)
        old.process.wait()
        return time.perf_counter() - begun


def _imported(command: tuple[str | Path, ...], folder: Path) -> frozenset[str]:
    with running(command, folder) as measured:
        measured.end_after()
        lines = (line for line in measured.errors.splitlines() if line.startswith("import time:"))
        return frozenset(line.rpartition("|")[2].strip() for line in lines)


def _of_hub(modules: frozenset[str]) -> int:
    return sum(name.partition(".")[0] == "huggingface_hub" for name in modules)
