"""Upgrades fail, launchers are killed between any two of their steps, and terminals close; the app comes back.

The app dies at load by its model, by an argument, or by a signal. Its model is in a hub cache, or in a folder of its
own, which each launch switches by real downloads from a hub on the loopback. A burst is an upgrade and what is done
about it, some of it killed. Then only cron or a unit is left, which call the launcher: where anything good was there
before, something good serves within two of their calls. Never do two instances run on the port.

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

from launcher.models import lockfile
from launcher.models.lockfile import LockedFile, LockedModel
from launcher.service import outcomes
from tests.chaos.checks import ViolationError, Watch
from tests.chaos.run import HERE, quiet_port
from tests.support.apps import START_APP, AppFolder, Processes, clean_environment, eventually, get, make_app
from tests.support.hub import Hub

REPO = "koge/voice"
FOLDER = "checkpoints"
TRIES = 2
WORDS = (
    ("--background",),
    ("--background",),
    ("--background", "--if-down"),
    ("rollback", "--background"),
    ("stop",),
    (),
    ("rollback",),
)
STEPS = 160
"""A launch that replaces an instance, fails and rolls back has about so many; the rest of the kills comes too late."""
PARK_EVERY = 8
CRON = ("--if-down", "--background")
END_SECONDS = 60.0
# What systemd does for the main process of a unit, as far as a launcher sees it.
UNIT = ("sh", "-c", 'SYSTEMD_EXEC_PID=$$ INVOCATION_ID=$$ exec "$@"', "sh")
# It dies where its settings or its model say so, before it opens its port.
APP = """\
import argparse, http.server, os, signal, sys
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int)
parser.add_argument("--api-key")
parser.add_argument("--die")
args = parser.parse_args()
folder = Path("checkpoints")
if not folder.is_dir():
    repo = Path(os.environ.get("HF_HUB_CACHE") or os.environ["HF_HOME"] + "/hub") / "models--koge--voice"
    folder = repo / "snapshots" / (repo / "refs/main").read_text()
parts = {(folder / name).read_text() for name in ("model.txt", "weights.bin", "more/config.txt")}
model = parts.pop().split()[0] if len(parts) == 1 else f"mixed {parts}"
for how in (args.die, model, os.environ.get("DIE")):
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
DEATHS = ("exit0", "exit1", "exit2", "exit3", f"signal{int(signal.SIGSEGV)}", f"signal{int(signal.SIGKILL)}")


class Cached:
    """Hold a model in a hub cache, whose `main` moves as a pull or the app itself moves it."""

    settings = "HF_HOME=./hf\n"

    def __init__(self, app: Path) -> None:
        self._repo = app / "hf" / "hub" / f"models--{REPO.replace('/', '--')}"

    def publish(self, files: dict[str, bytes], name: str) -> None:
        snapshot = self._repo / "snapshots" / name
        for path, data in files.items():
            (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
            (snapshot / path).write_bytes(data)
        (self._repo / "refs").mkdir(exist_ok=True)
        new = self._repo / "refs" / "new"
        new.write_text(name)
        new.rename(self._repo / "refs" / "main")

    def close(self) -> None:
        pass


class InFolder:
    """Hold a model in a folder of the app's own: `models.lock` names the commit that the next launch brings there."""

    def __init__(self, app: Path) -> None:
        self._app = app
        self._hub = Hub()
        here = self._hub.endpoint
        self.settings = f"HF_HOME=./hf\nHF_ENDPOINT={here}\nHF_OFFICIAL_ENDPOINT={here}\nAPP_LOCKED=1\n"

    def publish(self, files: dict[str, bytes], name: str) -> None:  # noqa: ARG002
        commit = self._hub.commit(REPO, files)
        made = self._hub.repo(REPO).commits[commit].files
        locked = {path: LockedFile(file.size, file.etag) for path, file in made.items()}
        lockfile.write(self._app, [LockedModel(REPO, "main", commit, FOLDER, (), (), locked)])

    def close(self) -> None:
        self._hub.close()


class Upgrades:
    """Hold an app, its model, and all that was started; `rng` decides what is done."""

    def __init__(self, base: Path, seed: int, *, in_folder: bool) -> None:
        self.rng = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.app = AppFolder(make_app(base / "app", APP).path, quiet_port())
        (base / "output").mkdir()
        self.processes = Processes(base / "output")
        self.models = InFolder(self.app.path) if in_folder else Cached(self.app.path)
        self.words = (*WORDS, ("models", "pull")) if in_folder else WORDS
        self.key = f"sk-{secrets.token_hex(16)}"
        self.was_good = True
        self.reap: list[int] = []
        self.watch = Watch(self.app.path)
        self.configure("")
        self.publish("fine")
        self.settle([self.start("--background")])
        assert get(self.app.port), "the first start is disturbed by nothing"
        self.watch.start()

    # What an upgrade is.

    def configure(self, die: str, *, by_variable: bool = False) -> None:
        arguments = f"--api-key {self.key}{f' --die {die}' if die and not by_variable else ''}"
        variable = f"DIE={die if by_variable else 'no'}\n"
        self.app.write_env(f"{self.models.settings}{variable}APP_ARGS={arguments}\n")

    def publish(self, model: str) -> None:
        """Have the newest commit of the model be another one: each of its files has the same text, and no other has."""
        name = f"{self.rng.getrandbits(160):040x}"
        text = f"{model} {name}".encode()
        self.models.publish({"model.txt": text, "weights.bin": text, "more/config.txt": text}, name)

    def upgrade(self) -> str:
        what = self.rng.choice(("model", "argument", "variable", "nothing", "repair", "both"))
        bad = self.rng.choice(DEATHS)
        if what in ("model", "both"):
            self.publish(bad)
        if what in ("argument", "both"):
            self.configure(bad)
        if what == "variable":
            self.configure(bad, by_variable=True)
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
        count = self.rng.randint(1, 3)
        for _ in range(count):
            words = self.rng.choice(self.words)
            step = self.rng.randrange(STEPS) if self.rng.random() < 0.5 else None
            terminal = step is None and self.rng.random() < 0.3
            done.append(self.start(*words, step=step, terminal=terminal))
            name = " ".join(words) or "in the foreground"
            self.seen[name + (" killed" if step is not None else "") + (" hung up" if terminal else "")] += 1
            if self.rng.random() < 0.5:
                self.settle(done)
        alone = count == 1 and step is None and words[:1] == ("--background",)
        if not alone and self.rng.random() < 0.3:
            self.kill_app()
        self.settle(done)
        self.was_good = self.was_good or bool(self.known().good)
        if alone and self.was_good and not get(self.app.port):
            raise ViolationError(f"nothing serves after {what} and {words}, with nothing to disturb it: {self.known()}")
        self.seen[what] += 1

    def settle(self, done: list[psutil.Process]) -> None:
        """Wait until each launcher has ended, or has become the app. Raises ViolationError."""
        deadline = time.monotonic() + END_SECONDS
        while alive := [one for one in done if self.is_at_work(one)]:
            if time.monotonic() > deadline:
                raise ViolationError(f"at work without an end: {[one.cmdline() for one in alive]}")
            time.sleep(0.02)
        for pid in list(self.reap):
            with suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    self.reap.remove(pid)

    def is_at_work(self, process: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess):
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return False
            return "webui.py" not in process.cmdline() or not get(self.app.port)
        return False

    def kill_app(self) -> None:
        page = get(self.app.port)
        if page:
            self.seen["app killed"] += 1
            with suppress(psutil.Error):
                psutil.Process(int(page.split()[1])).kill()

    def known(self) -> outcomes.Outcomes:
        return outcomes.read(self.app.path, self.app.port)

    def is_last(self, attempt: outcomes.Attempt | None) -> bool:
        """Tell whether no start has been recorded since this one."""
        last = self.known().last
        return bool(last and attempt and last.is_process(attempt.pid, attempt.start))

    # What must be true.

    def check(self) -> None:
        """Have cron or a unit call until something serves. Raises ViolationError."""
        if self.watch.violations:
            raise ViolationError(self.watch.violations[0])
        state = self.app.path / ".start_app"
        for path in state.rglob("*"):
            if path.is_file() and self.key in path.read_text(errors="replace"):
                raise ViolationError(f"the key is in {path}")
        told = []
        by_unit = self.rng.random() < 0.4
        for _ in range(TRIES):
            if get(self.app.port):
                break
            told.append(self.call(by_unit=by_unit))
        serving = get(self.app.port)
        if self.was_good and not serving:
            raise ViolationError(f"nothing serves, and something good was there: {''.join(told)}\n{self.known()}")
        if serving and not serving.endswith(" fine"):
            raise ViolationError(f"it serves {serving}")
        if told and serving:
            self.check_told()
        self.was_good = self.was_good or bool(serving)
        last = self.known().last
        self.seen["rolled back" if serving and last and last.rollback else "plain"] += 1
        if by_unit and told and serving:
            os.kill(int(serving.split()[1]), self.rng.choice((signal.SIGINT, signal.SIGKILL)))

    def park(self) -> None:
        """Have unattended starts fail in a row: further ones start nothing, and one by hand tries again.

        Raises ViolationError.
        """
        by_unit = self.rng.random() < 0.4
        self.kill_app()
        self.settle([self.start("stop")])
        self.configure(self.rng.choice(DEATHS), by_variable=self.rng.random() < 0.3)
        for _ in range(outcomes.MOST_DOOMED):
            if self.rng.random() < 0.3:  # one that is killed may count, or not
                self.settle([self.start(*CRON, "--no-rollback", step=self.rng.randrange(STEPS))])
            self.call("--no-rollback", by_unit=by_unit)
        before = self.known().last
        told = self.call("--no-rollback", by_unit=by_unit)
        if "unattended starts failed" not in told or not self.is_last(before):
            raise ViolationError(f"not parked: {told}\n{before}\n{self.known()}")
        if get(self.app.port):
            raise ViolationError("something serves that must not have been started")
        self.settle([self.start("--background", "--no-rollback")])
        if self.is_last(before):
            raise ViolationError(f"parked, and a start by hand has not tried: {self.known()}")
        if self.rng.random() < 0.5:
            self.configure("")
            self.publish("fine")
        else:
            self.settle([self.start("--background")])
        self.seen["parked"] += 1

    def call(self, *more: str, by_unit: bool) -> str:
        """Call the launcher as cron or a unit does, and return what it has printed. Raises ViolationError."""
        words = (sys.executable, START_APP, *self.app.arguments, *more)
        command = (*UNIT, *words) if by_unit else (*words, *CRON)
        running = self.processes.start(command, env=clean_environment())
        self.settle([psutil.Process(running.pid)])
        status = running.process.poll()
        self.seen["unit" if by_unit else "cron"] += 1
        if not by_unit and status not in (0, 75):
            raise ViolationError(f"cron's call ended with {status}: {running.err}")
        if self.key in running.err:
            raise ViolationError("the key was printed")
        return f"{status}: {running.err}"

    def check_told(self) -> None:
        """Check that the serving start is recorded as good soon. Raises ViolationError."""
        try:
            eventually(lambda: (last := self.known().last) and last.seen, 30)
        except AssertionError as error:
            raise ViolationError(f"its page answers, and nobody has recorded that: {self.known()}") from error

    def close(self) -> None:
        if self.watch.is_alive():
            self.watch.close()
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or ()
            if "webui.py" in words and str(self.app.port) in words:
                process.kill()
        self.processes.close()
        self.models.close()


def run(base: Path, seed: int, bursts: int, seconds: float, *, in_folder: bool = False) -> str:
    """Do so many bursts, or for so many seconds, and return what was done. Raises ViolationError."""
    upgrades = Upgrades(base, seed, in_folder=in_folder)
    begun = time.monotonic()
    number = 0
    try:
        while number < bursts and time.monotonic() - begun < seconds:
            number += 1
            if number % PARK_EVERY:
                upgrades.burst()
            else:
                upgrades.park()
            upgrades.check()
    except ViolationError as error:
        raise ViolationError(f"seed {seed}, burst {number}: {error}") from error
    finally:
        upgrades.close()
    done = ", ".join(f"{name} {count}" for name, count in sorted(upgrades.seen.items()))
    where = "in a folder" if in_folder else "in the cache"
    return f"seed {seed}, {where}: {number} bursts in {time.monotonic() - begun:.0f} s without a violation: {done}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    parser.add_argument("--bursts", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--folder", action="store_true", help="the model is in a folder of the app's own")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="upgrades-") as base:
        print(run(Path(base), given.seed, given.bursts, given.seconds, in_folder=given.folder))


if __name__ == "__main__":
    main()
