"""Upgrades fail, launchers are killed between any two of their steps, and terminals close; the app comes back.

The app dies at load by its model, by an argument, or by a signal. A burst is an upgrade and what is done about it,
some of it killed. Then only cron is left, which calls `--if-down --background`: where anything good was there before,
something good serves within three of its calls.

    python -m tests.chaos.upgrades --seed 7 --bursts 300
"""

from __future__ import annotations

import argparse
import os
import pty
import random
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

from launcher.service import outcomes
from tests.chaos.run import HERE, ViolationError, quiet_port
from tests.support.apps import START_APP, Processes, clean_environment, get, make_app

REPO = "models--koge--voice"
TRIES = 3
WORDS = (
    ("--background",),
    ("--background",),
    ("--background", "--if-down"),
    ("rollback", "--background"),
    ("stop",),
)
STEPS = 120
"""A launch that replaces an instance has about so many."""
END_SECONDS = 60.0
# It dies where its settings or its model say so, before it opens its port.
APP = """\
import argparse, http.server, os, signal, sys
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int)
parser.add_argument("--api-key")
parser.add_argument("--die")
args = parser.parse_args()
repo = Path(os.environ.get("HF_HUB_CACHE") or os.environ["HF_HOME"] + "/hub") / "models--koge--voice"
model = (repo / "snapshots" / (repo / "refs/main").read_text() / "model.txt").read_text()
for how in (args.die, model):
    if how and how.startswith("exit"):
        print("cannot load", flush=True)
        sys.exit(int(how[4:]))
    if how and how.startswith("signal"):
        os.kill(os.getpid(), int(how[6:]))


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"pid {os.getpid()} {model}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", args.port), Page).serve_forever()
"""
DEATHS = ("exit1", "exit2", "exit3", f"signal{int(signal.SIGSEGV)}", f"signal{int(signal.SIGKILL)}")


class Upgrades:
    """Hold an app, its model in a cache, and all that was started; `rng` decides what is done."""

    def __init__(self, base: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.app = make_app(base / "app", APP)
        self.app = type(self.app)(self.app.path, quiet_port())
        (base / "output").mkdir()
        self.processes = Processes(base / "output")
        self.repo = self.app.path / "hf" / "hub" / REPO
        self.key = f"sk-{secrets.token_hex(16)}"
        self.commits: dict[str, str] = {}
        self.was_good = True
        self.reap: list[int] = []
        self.configure("")
        self.publish("fine")
        self.settle([self.start("--background")])
        assert get(self.app.port), "the first start is disturbed by nothing"

    # What an upgrade is.

    def configure(self, die: str) -> None:
        arguments = f"--api-key {self.key}{f' --die {die}' if die else ''}"
        self.app.write_env(f"HF_HOME=./hf\nAPP_ARGS={arguments}\n")

    def publish(self, model: str) -> None:
        """Have `main` of the cached model be another commit, as a pull or the app itself does it."""
        commit = f"{self.rng.getrandbits(160):040x}"
        self.commits[commit] = model
        snapshot = self.repo / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "model.txt").write_text(model)
        (self.repo / "refs").mkdir(exist_ok=True)
        new = self.repo / "refs" / "new"
        new.write_text(commit)
        new.rename(self.repo / "refs" / "main")

    def upgrade(self) -> str:
        what = self.rng.choice(("model", "argument", "nothing", "repair", "both"))
        bad = self.rng.choice(DEATHS)
        if what in ("model", "both"):
            self.publish(bad)
        if what in ("argument", "both"):
            self.configure(bad)
        if what == "repair":
            self.configure("")
            self.publish("fine")
        return what

    # What is done.

    def start(self, *words: str, step: int | None = None, terminal: bool = False) -> psutil.Process:
        wrapper = (str(HERE / "step.py"), str(step), "") if step is not None else ()
        command = (sys.executable, *wrapper, str(START_APP), *self.app.arguments, *words)
        if not terminal:
            return psutil.Process(self.processes.start(command, env=clean_environment()).pid)
        pid, master = pty.fork()
        if not pid:
            os.execve(command[0], command, clean_environment())
        os.set_blocking(master, False)
        deadline = time.monotonic() + self.rng.uniform(0.1, 1.5)
        while time.monotonic() < deadline:
            with suppress(OSError):
                os.read(master, 65536)
            time.sleep(0.01)
        os.close(master)  # the terminal closes
        self.reap.append(pid)
        return psutil.Process(pid)

    def burst(self) -> None:
        what = self.upgrade()
        done = []
        for _ in range(self.rng.randint(1, 3)):
            words = self.rng.choice(WORDS)
            step = self.rng.randrange(STEPS) if self.rng.random() < 0.5 else None
            terminal = step is None and self.rng.random() < 0.3
            done.append(self.start(*words, step=step, terminal=terminal))
            self.seen[" ".join(words) + (" killed" if step is not None else "") + (" hung up" if terminal else "")] += 1
            if self.rng.random() < 0.5:
                self.settle(done)
        if self.rng.random() < 0.3:
            self.kill_app()
        self.settle(done)
        self.was_good = self.was_good or bool(self.known().good)
        self.seen[what] += 1

    def settle(self, done: list[psutil.Process]) -> None:
        _, alive = psutil.wait_procs(done, END_SECONDS)
        for pid in list(self.reap):
            with suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    self.reap.remove(pid)
        alive = [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
        if alive:
            raise ViolationError(f"at work without an end: {[one.cmdline() for one in alive]}")

    def kill_app(self) -> None:
        page = get(self.app.port)
        if page:
            self.seen["app killed"] += 1
            with suppress(psutil.Error):
                psutil.Process(int(page.split()[1])).kill()

    def known(self) -> outcomes.Outcomes:
        return outcomes.read(self.app.path, self.app.port)

    # What must be true.

    def check(self) -> None:
        """Have cron call until something serves. Raises ViolationError."""
        state = self.app.path / ".start_app"
        for path in state.rglob("*"):
            if path.is_file() and self.key in path.read_text(errors="replace"):
                raise ViolationError(f"the key is in {path}")
        told = []
        for _ in range(TRIES):
            if get(self.app.port):
                break
            running = self.processes.start(
                (sys.executable, START_APP, *self.app.arguments, "--if-down", "--background"), env=clean_environment()
            )
            status = running.wait(END_SECONDS)
            told.append(f"{status}: {running.err}")
            if status not in (0, 75):
                raise ViolationError(f"cron's call ended with {status}: {running.err}")
            if self.key in running.err:
                raise ViolationError("the key was printed")
        serving = get(self.app.port)
        if self.was_good and not serving:
            raise ViolationError("nothing serves, and something good was there: " + "\n".join(told))
        if serving and not serving.endswith(" fine"):
            raise ViolationError(f"it serves {serving}")
        self.was_good = self.was_good or bool(serving)
        self.seen["rolled back" if serving and self.known().last and self.known().last.rollback else "plain"] += 1  # type: ignore[union-attr]

    def close(self) -> None:
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or ()
            if "webui.py" in words and str(self.app.port) in words:
                process.kill()
        self.processes.close()


def run(base: Path, seed: int, bursts: int, seconds: float) -> str:
    """Do so many bursts, or for so many seconds, and return what was done. Raises ViolationError."""
    upgrades = Upgrades(base, seed)
    begun = time.monotonic()
    number = 0
    try:
        while number < bursts and time.monotonic() - begun < seconds:
            number += 1
            upgrades.burst()
            upgrades.check()
    except ViolationError as error:
        raise ViolationError(f"seed {seed}, burst {number}: {error}") from error
    finally:
        upgrades.close()
    done = ", ".join(f"{name} {count}" for name, count in sorted(upgrades.seen.items()))
    return f"seed {seed}: {number} bursts in {time.monotonic() - begun:.0f} s without a violation: {done}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    parser.add_argument("--bursts", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=1e9)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="upgrades-") as base:
        print(run(Path(base), given.seed, given.bursts, given.seconds))


if __name__ == "__main__":
    main()
