"""Launchers start, stop, clear, prune, pull and die at random, and after each burst it is looked at what must be true.

A step is a burst of concurrent actions, some of which are killed, against hubs that fault. After it, all of them have
ended, and what is left must be sound; then a run that nothing disturbs must mend whatever there is to be mended. The
seed decides what is done, when, and which instants are fatal; the system decides how the processes share the
processors, so a replay does the same things and may meet otherwise.

    python -m tests.chaos --seed 7 --seconds 1200 --verbose
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from launcher.errors import LauncherError
from launcher.models import lockfile
from launcher.models.lockfile import LockedFile, LockedModel
from tests.chaos import after, checks
from tests.chaos.app import DIED, HELPER, LARGE
from tests.chaos.checks import ViolationError
from tests.chaos.plan import CACHED, FOLDER, LOCAL, UNLOCKED, Action, Death, Step, plan
from tests.support import hub_cache
from tests.support.apps import START_APP, AppFolder, Done, Processes, Running, clean_environment, get
from tests.support.hub import Fault, Hub
from tests.support.hub_cache import Library

REPOS = (CACHED, UNLOCKED)
END_SECONDS = 100.0
OWN_SECONDS = 45.0
"""A notifier gives up after 20 s, and what is deleted in the background waits for half a second."""
DOCUMENTED = frozenset((0, 65, 74, 75))
ALSO = {
    "check": {80},
    "remove": {2},
    "--remove-model": {2},
    "rollback": {78},
    "doctor": {69, 77, 78, 80},
    "move": {2},
    "--die": {DIED},
}
"""What else a command may end with by its words: a rollback without a good set, a move to where something is."""
FOREIGN = {
    "hf/token": b"",
    "hf/stored_tokens": b"[main]\n",
    "hf/xet/keep": b"xet",
    "hf/assets/of/others.json": b"{}",
    "hf/hub/notes.txt": b"mine\n",
    f"{FOLDER}/my_voice.wav": b"RIFF",
}
HERE = Path(__file__).parent


@dataclass
class Run:
    """Hold a launcher that was started; `action` is None for what is run to its end after a burst."""

    words: tuple[str, ...]
    running: Running
    action: Action | None = None

    @property
    def name(self) -> str:
        return " ".join(self.words) or "launch"

    @property
    def became_app(self) -> bool:
        return "\nexec: " in f"\n{self.running.err}"


class Chaos:
    """Hold an app on two ports, its models, its hubs and everything that was started."""

    def __init__(self, base: Path, seed: int, say: Callable[[str], None] = lambda line: None) -> None:
        self.seed = seed
        self.say = say
        self.log: list[str] = []
        self.statuses: Counter[str] = Counter()
        self._begun = time.monotonic()
        self._number = 0
        self._mark = secrets.token_hex(8)
        self._hook = secrets.token_hex(16)
        self._key = f"sk-{secrets.token_hex(16)}"
        self._token = f"hf_{secrets.token_hex(17)}"
        self._damaged: set[str] = set()
        self._left = {"my_voice.wav"}
        self._broken_off = False
        self._strangers: list[Running] = []
        self._runs: list[Run] = []
        self._stack = ExitStack()
        self._base = base
        self.app = AppFolder(base / "app", quiet_port())
        self.ports = (self.app.port, quiet_port(self.app.port))
        self.other_disk = Path(tempfile.mkdtemp(prefix="chaos-", dir="/dev/shm" if os.path.isdir("/dev/shm") else base))
        self.export = base / "export"

    @property
    def cache(self) -> Path:
        """Return the hub cache that `.env` names."""
        named = checks.settings(self.app.path).get("HF_HUB_CACHE")
        return Path(named) if named else self.app.path / "hf" / "hub"

    def place(self, number: int) -> Path:
        """Return where a move of this step leads to: into the app's folder, or onto another disk."""
        return (self.app.path / "places" if number % 2 else self.other_disk) / str(number) / "hub"

    def __enter__(self) -> Chaos:
        (self._base / "output").mkdir()
        self.processes = Processes(self._base / "output")
        self._stack.callback(shutil.rmtree, self.other_disk, ignore_errors=True)
        self._stack.callback(self._end)
        # Every other chaos has a store that repos share, as far as this huggingface_hub knows one.
        self.hub = self._stack.enter_context(Hub(token=self._token, xet=self.seed % 2 == 1))
        self.mirror = self._stack.enter_context(self.hub.mirror())
        self.library = self._stack.enter_context(Library(self.hub))
        self.offline = self._stack.enter_context(Library())
        self.watch = checks.Watch(self.app.path)
        self._stack.callback(self.watch.close)
        self._prepare()
        self.watch.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, at)

    def step(self, one: Step) -> None:
        """Do one step and look at what it has left. Raises ViolationError."""
        self.note(f"step {one.number}")
        self._number = one.number
        self._change(one)
        with self._spoiled(one):
            self._burst(one)
        self._await_ends()
        self._look()
        for number, port in enumerate(self.ports):
            if number == 0 or any(action.second_port for action in one.actions):
                self.look_at_port(port)
        self._mend(one)
        if self.watch.violations:
            raise ViolationError("; ".join(self.watch.violations))

    def close_down(self) -> None:
        """Stop everything and look at what is left for the last time."""
        self._everything(clear=True)
        self._look()
        for port in self.ports:
            if checks.is_open(port):
                raise ViolationError(f"port {port} is open and nothing runs")

    # What happens in a step.

    def _change(self, one: Step) -> None:
        """Publish new commits, have the mirror lag, and damage a file, while nothing is at work."""
        before = {repo: self.hub.head(repo) for repo in (*REPOS, LOCAL)}
        for repo in one.publish:
            self.note(f"  publish {repo} @ {self._publish(repo, one.number)[:7]}")
        if one.locked and one.publish:
            # As when it comes by git, which asks nobody.
            lockfile.write(self.app.path, (self._newest(CACHED), self._newest(LOCAL, FOLDER)))
            self.note("  models.lock names the newest")
        if one.lag in one.publish:
            self.note(f"  the mirror lags: {one.lag} @ {before[one.lag][:7]}")
            self.mirror.freeze(one.lag, sha=before[one.lag])
        if one.damage:
            repo, share = one.damage
            blobs = sorted((checks.repo_folder(self.cache, repo) / "blobs").glob("*"))
            if blobs:
                blob = blobs[int(share * len(blobs))]
                with blob.open("r+b") as file:
                    file.seek(int(share * blob.stat().st_size / 2))
                    file.write(b"\xff\x00\xff")
                self._damaged.add(repo)
                self.note(f"  damage {repo} {blob.name[:12]}")

    @contextmanager
    def _spoiled(self, one: Step) -> Iterator[None]:
        faults: list[Fault] = []
        for spoil in one.spoils:
            self.note(f"  {'mirror' if spoil.mirror else 'hub'}: {spoil.kind} {spoil.place!r} x {spoil.times}")
            faults.append((self.mirror if spoil.mirror else self.hub).fault(spoil.place, spoil.kind, spoil.times))
        try:
            yield
        finally:
            for fault in faults:
                fault.clear()
            self.mirror.thaw()

    def _burst(self, one: Step) -> None:
        """Start every action and send every signal at its time."""
        due: list[tuple[float, Callable[[], None]]] = []
        for action in one.actions:
            due.append((action.delay, lambda action=action: self._act(action)))  # type: ignore[misc]
            if action.death and action.death.seconds is not None:
                due.append((action.delay + action.death.seconds, lambda action=action: self._signal(action)))  # type: ignore[misc]
        begun = time.monotonic()
        for moment, do in sorted(due, key=lambda each: each[0]):
            time.sleep(max(0.0, begun + moment - time.monotonic()))
            do()
        time.sleep(one.rest)

    def _act(self, action: Action) -> None:
        port = self.ports[action.second_port]
        if action.what == "launcher":
            self._start(action.words, port, action)
        elif action.what == "download":
            # By its hash: a download by name leads to a ref before it is whole, which is huggingface_hub's own way.
            wanted = (UNLOCKED, self.hub.head(UNLOCKED), "model")
            environment = checks.marked(
                hub_cache.environment(self._base / "other", self.mirror, self.cache), self._mark
            )
            running = self.processes.start(
                (sys.executable, "-c", hub_cache.DOWNLOAD, "1", self.cache, *wanted), env=environment
            )
            self.note(f"  pid {running.pid}: another program downloads {UNLOCKED}")
            self._runs.append(Run(("download",), running, action))
        elif action.what == "kill app":
            self._kill("app", [seen.pid for seen in checks.instances(self.app.path) if seen.port == port])
        else:
            self._kill("worker", [pid for pid, argv in checks.owned(self._mark).items() if "worker.py" in argv])

    def _kill(self, what: str, pids: Collection[int]) -> None:
        for pid in pids:
            self.note(f"  kill the {what} {pid}")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _signal(self, action: Action) -> None:
        run = next(run for run in self._runs if run.action is action)
        if run.running.process.poll() is None and action.death:
            self.note(f"  signal {action.death.signal} to {run.running.pid}")
            run.running.process.send_signal(action.death.signal)

    def _start(self, words: tuple[str, ...], port: int, action: Action | None = None) -> Run:
        death = action.death if action and action.death and action.death.step is not None else None
        wrapper = (HERE / "step.py", str(death.step), death.where) if death else ()
        words = tuple(word.format(export=self.export, place=self.place(self._number)) for word in words)
        command = (sys.executable, *wrapper, START_APP, "--app-dir", self.app.path, "--port", str(port), *words)
        running = self.processes.start(command, env=self._environment())
        how = f", dies at step {death.step} {death.where}" if death else ""
        self.note(f"  pid {running.pid}: port {port}: {' '.join(words) or 'launch'}{how}")
        run = Run(words, running, action)
        self._runs.append(run)
        return run

    def run(self, *words: str, death: Death | None = None, allow: Collection[int] = (0,), **where: int) -> Done:
        """Run a launcher with nothing beside it; it must end as allowed, or by its death."""
        action = Action(0.0, False, "launcher", words, death) if death else None
        run = self._start(words, where.get("port", self.app.port), action)
        self._await_end(run)
        done = Done(run.running.wait(), run.running.out, run.running.err)
        if done.status not in (*allow, *((-signal.SIGKILL,) if death else ())):
            raise ViolationError(f"{run.name} ended with {done.status}, undisturbed: {done.err}")
        self._judge()
        return done

    # What must be true.

    def _await_ends(self) -> None:
        for run in self._runs:
            self._await_end(run)
        self.await_alone()
        self._judge()

    def _await_end(self, run: Run) -> None:
        deadline = time.monotonic() + END_SECONDS
        while run.running.process.poll() is None:
            if any(seen.pid == run.running.pid for seen in checks.instances(self.app.path)):
                return
            if time.monotonic() > deadline:
                raise ViolationError(f"pid {run.running.pid} ({run.name}) is at work without an end: {run.running.err}")
            time.sleep(0.01)

    def await_alone(self) -> None:
        """Wait until nothing lives but instances, one a port."""
        deadline = time.monotonic() + OWN_SECONDS
        while True:
            found = {pid: argv for pid, argv in checks.owned(self._mark).items() if HELPER not in argv}
            for pid in (*(seen.pid for seen in checks.instances(self.app.path)), *(one.pid for one in self._strangers)):
                found.pop(pid, None)
            if not found:
                return
            if time.monotonic() > deadline:
                raise ViolationError(f"nobody owns {found}")
            time.sleep(0.02)

    def _judge(self) -> None:
        """Look at how every launcher has ended that has, and at all that was printed."""
        for run in [run for run in self._runs if run.running.process.poll() is not None]:
            self._runs.remove(run)
            status = run.running.process.returncode
            kind = " ".join(run.words[:2]) if run.words and not run.words[0].startswith("-") else "launch"
            self.statuses[f"{kind}: {status}"] += 1
            self.note(f"    pid {run.running.pid} ({run.name}) ended with {status}")
            printed = f"{run.running.err}{run.running.out}"
            if status not in (0, -signal.SIGKILL):
                self.note("      " + " / ".join(run.running.err.splitlines()[-3:]))
            if run.words == ("download",):
                self._broken_off |= status != 0
                continue  # what it makes of the faults is its own affair
            if "this check failed" in printed:
                raise ViolationError(f"pid {run.running.pid} ({run.name}): {printed}")
            if "Traceback" in printed and not self._interrupted_unborn(run, printed):
                raise ViolationError(f"pid {run.running.pid} ({run.name}): {printed}")
            self._refuse_secrets(f"pid {run.running.pid} ({run.name})", printed)
            self._left.update(re.findall(rf"^left: {self.app.path}/{FOLDER}/(.*): no hub says", printed, re.MULTILINE))
            if status not in self._allowed(run) and not self._interrupted_unborn(run, printed):
                raise ViolationError(f"pid {run.running.pid} ({run.name}) ended with {status}: {printed}")
            for path in (run.running.stdout, run.running.stderr):
                path.unlink()

    @staticmethod
    def _interrupted_unborn(run: Run, printed: str) -> bool:
        """Tell whether Python was interrupted before it had begun with the launcher."""
        death = run.action.death if run.action else None
        interrupted = death is not None and death.step is None and death.signal == signal.SIGINT
        return interrupted and printed.startswith("Fatal Python error: init_import_site")

    @staticmethod
    def _allowed(run: Run) -> frozenset[int]:
        allowed = set(DOCUMENTED)
        death = run.action.death if run.action else None
        if death:
            allowed.add(-signal.SIGKILL if death.step is not None else -death.signal)
            if death.signal == signal.SIGINT:
                allowed.add(130)
        if run.became_app:
            allowed |= {-signal.SIGTERM, -signal.SIGKILL}
        for word in ALSO.keys() & {*run.words}:
            allowed |= ALSO[word]
        return frozenset(allowed)

    def _refuse_secrets(self, where: str, printed: str) -> None:
        for name, secret in (("token", self._token), ("webhook", self._hook), ("key", self._key)):
            if secret in printed:
                raise ViolationError(f"the {name} is in {where}")

    def _look(self) -> None:
        """Look at all that must be true although nothing has been mended yet."""
        for path, data in FOREIGN.items():
            found = self.app.path / path
            if not found.exists() or found.read_bytes() != (data or self._token.encode()):
                raise ViolationError(f"{path} is not as it was")
        for path in (self.app.path / ".start_app").rglob("*"):
            if path.is_file():
                text = path.read_text(errors="replace")
                self._refuse_secrets(str(path), text)
                if "Traceback" in text:
                    raise ViolationError(f"{path}: {text}")
        for asked in (*self.mirror.requests, *(one for one in self.hub.requests if "/cdn/" in one.path)):
            if self._token in (asked.authorization or ""):
                raise ViolationError(f"the token was sent along with {asked}")
        for hub in (self.hub, self.mirror):
            hub.forget()
        self._look_at_lock()
        dead = [one.process.args for one in self._strangers if one.process.poll() is not None]
        if dead:
            raise ViolationError(f"not the app's, and not there any more: {dead}")
        lost = self._settings.items() - checks.settings(self.app.path).items()
        if lost:
            raise ViolationError(f".env has lost {sorted(name for name, _ in lost)}")
        self.none(after.wrong_in_export(self))
        self.none(checks.wrong_refs(self.cache, self.hub, tuple(one for one in REPOS if one not in self._damaged)))
        journals = list((self.app.path / ".start_app").glob("switch-????????????????"))
        if self.folder_commit() is None and not journals:
            raise ViolationError(f"{FOLDER} is a mixture, and nothing says how to end it")

    def _look_at_lock(self) -> None:
        """Look whether each pin is true; a lock by `--freeze` gives way to the usual one afterwards."""
        try:
            lock = lockfile.read(self.app.path)
        except LauncherError as error:
            raise ViolationError(f"models.lock: {error.message}") from error
        self.none(checks.false_pins(lock or (), self.hub))
        if not (lock and lock.frozen):
            if {one.repo for one in lock or ()} != {CACHED, LOCAL}:
                raise ViolationError(f"models.lock names {[(one.repo, one.commit) for one in lock or ()]}")
        else:
            lockfile.write(self.app.path, (self._newest(CACHED), self._newest(LOCAL, FOLDER)))
            self.note("  models.lock names the newest in place of what was frozen")

    def look_at_port(self, port: int) -> None:
        """Compare what `status` says with the processes, the port and the page."""
        found = [seen for seen in checks.instances(self.app.path) if seen.port == port]
        if len(found) > 1:
            raise ViolationError(f"{len(found)} instances on port {port}: {found}")
        page = self.page(port)
        told = self.run("status", "--json", port=port).json
        if not page:
            if told["instance"] or told["state"] != "not running" or checks.is_open(port):
                raise ViolationError(f"nothing runs on port {port}, open: {checks.is_open(port)}, and status: {told}")
            return
        if not (told["instance"] and told["instance"]["pid"] == page["pid"] == found[0].pid and told["answers"]):
            raise ViolationError(f"port {port}: {found}, {page}, and status: {told}")
        if told["locked"] != page["offline"]:
            raise ViolationError(f"port {port}: locked is {told['locked']}, and the app: {page}")
        for model in told["models"]:
            loaded = (page["loaded"].get(model["repo"]) or {}).get("commit")
            mapped = model["evidence"] == "mapped"
            expected = loaded if mapped else page["models"].get(model["repo"])
            if model["commit"] != expected and not (mapped and model["repo"] in self._damaged):
                raise ViolationError(f"port {port}: status says {model}, and the app: {page}")
        for repo, one in page["loaded"].items():
            if one and repo not in self._damaged:
                self.none(self._loaded_wrong(repo, one["commit"], one["files"]))

    def _loaded_wrong(self, repo: str, commit: str, files: dict[str, str | None]) -> Iterator[str]:
        known = self.hub.repo(repo).commits.get(commit)
        wanted = {path: checks.sha256(file.data) for path, file in known.files.items()} if known else {}
        if files != wanted:
            yield f"the app has loaded of {repo} @ {commit[:7]}: {files} and not {wanted}"

    def page(self, port: int) -> dict[str, Any] | None:
        """Return what the instance on the port tells, None where there is none; one that loads is waited for."""
        deadline = time.monotonic() + END_SECONDS
        while any(seen.port == port for seen in checks.instances(self.app.path)):
            body = get(port)
            if body:
                page: dict[str, Any] = json.loads(body)
                return page
            if time.monotonic() > deadline:
                raise ViolationError(f"the instance on port {port} never answers")
            time.sleep(0.02)
        return None

    @staticmethod
    def none(found: Iterator[str]) -> None:
        listed = list(found)
        if listed:
            raise ViolationError("\n".join(listed))

    # What one run, with nothing beside it, must have mended.

    def _mend(self, one: Step) -> None:
        if self._broken_off:
            # In a repo without a ref nothing but its program knows that a part is not all that it wants.
            self.library.download(self.cache, UNLOCKED, self.hub.head(UNLOCKED))
            self._broken_off = False
        if self._damaged:
            self.stop()
            self.run("cache", "verify", "--repair")
            self._damaged.clear()
        if one.next == "prune":
            self._prune()
        elif one.next == "launch":
            self.run("--background")
            self.await_alone()
            self.none(self.leftovers())
            self.look_at_port(self.app.port)
            self.none(self._left_helpers(self.app.port))
        elif one.next == "pull":
            self.pull()
        elif one.next == "freeze":
            after.freeze(self)
        elif one.next == "fail":
            after.fail(self)
        elif one.next == "move":
            after.move(self, one)
        else:
            self._everything(clear=one.number % 8 == 0)
        if one.number % 3 == 0:
            after.doctor(self)
        self._look()

    def _left_helpers(self, port: int) -> Iterator[str]:
        """Yield what a dead instance on this port has started, and what lives although the port was dealt with."""
        alive = {seen.pid for seen in checks.instances(self.app.path)}
        for pid in [pid for pid, argv in checks.owned(self._mark).items() if HELPER in argv]:
            mark = checks.marker(pid)
            if mark and mark.port == port and mark.pid not in alive:
                yield f"pid {pid}, a leftover of {mark}, still lives"

    def _prune(self) -> None:
        done = self.run("cache", "prune", allow=(0, 75))
        if done.status:
            self.stop()
            self.run("cache", "prune")
        pinned = [one.commit for one in lockfile.read(self.app.path) or ()]
        self.none(checks.not_whole(self.cache, self.hub, self.offline, REPOS, pinned))
        self.run("cache", "verify")

    def pull(self) -> None:
        self.run("models", "pull")
        for one in lockfile.read(self.app.path) or ():
            if one.repo == LOCAL and self.folder_commit() != one.commit:
                raise ViolationError(f"{FOLDER} is {self.folder_commit()} and not {one.commit}")
            refs = checks.repo_folder(self.cache, CACHED) / "refs"
            if one.repo == CACHED and {(refs / ref).read_text() for ref in ("main", "start_app")} != {one.commit}:
                raise ViolationError(f"{CACHED} is not {one.commit}")

    def leftovers(self) -> Iterator[str]:
        """Yield what a launch should have ended that a killed run had begun."""
        trash = [*self.cache.glob(".start_app-trash-*"), *self.cache.glob("models--*/.start_app-trash-*")]
        yield from (f"trash: {path}" for path in trash)
        if self.folder_commit() is None:
            yield f"{FOLDER} is a mixture"

    def _everything(self, *, clear: bool) -> None:
        """Have all be as it is meant: pulled, started locked, nothing left over, and at last nothing running."""
        self.stop(self.ports[1])
        self.pull()
        self.run("--background", "--locked")
        page = self.page(self.app.port)
        commits = {one.repo: one.commit for one in lockfile.read(self.app.path) or ()}
        loaded = (page or {}).get("loaded", {}).get(CACHED) or {}
        if not page or page["models"] != commits or loaded.get("commit") != commits[CACHED] or not page["mapped"]:
            raise ViolationError(f"started locked to {commits}, and the app: {page}")
        self.await_alone()
        self.none(self.leftovers())
        self.none(checks.litter(self.app.path, FOLDER))
        self.look_at_port(self.app.port)
        self.stop()
        self._prune()
        if clear:
            self.run("cache", "clear")
            left = [name for name in os.listdir(self.cache) if name.startswith(("models--", ".start_app-trash-"))]
            left += [f".locks/{name}" for name in os.listdir(self.cache / ".locks")]
            if left:
                inside = sorted(str(path) for name in left for path in (self.cache / name).rglob("*"))
                raise ViolationError(f"after a clear there is {left}: {inside}")
        if not checks.repo_folder(self.cache, UNLOCKED).exists():
            self._download()

    def stop(self, *ports: int) -> None:
        for port in ports or self.ports:
            self.run("stop", port=port)
            self.none(self._left_helpers(port))
            if checks.is_open(port) or any(seen.port == port for seen in checks.instances(self.app.path)):
                raise ViolationError(f"stopped, and something is on port {port}")

    def folder_commit(self) -> str | None:
        return checks.folder_commit(self.app.path / FOLDER, self.hub, LOCAL, self._left)

    # What it is made of.

    def _prepare(self) -> None:
        self.app.path.mkdir(parents=True)
        shutil.copy(HERE / "app.py", self.app.script)
        for path, data in FOREIGN.items():
            (self.app.path / path).parent.mkdir(parents=True, exist_ok=True)
            (self.app.path / path).write_bytes(data or self._token.encode())
        settings = {
            "HF_HOME": "./hf",
            "HF_ENDPOINT": self.mirror.endpoint,
            "HF_OFFICIAL_ENDPOINT": self.hub.endpoint,
            "HF_ENDPOINT_FALLBACK": self.hub.endpoint,
            "APP_NOTIFY_URL": f"{self.hub.endpoint}/hook/{self._hook}",
            "APP_ARGS": f"--api-key {self._key}",
        }
        self._settings = settings
        self.app.write_env("".join(f"{name}={value}\n" for name, value in settings.items()))
        self._start_strangers()
        for number in (-1, 0):
            for repo in (CACHED, UNLOCKED, LOCAL):
                self._publish(repo, number)
        self._download()
        self.run("models", "lock", CACHED)
        self.run("models", "lock", LOCAL, "--local-dir", FOLDER)
        self.run("models", "pull")

    def _start_strangers(self) -> None:
        """Start what looks like the app and is not: another checkout, and two that only name it."""
        other = self._base / "other app"
        other.mkdir()
        shutil.copy(HERE / "app.py", other / "webui.py")
        environment = {**self._environment(), "HF_HOME": str(other)}
        naps = (sys.executable, "-c", "import time; time.sleep(100000)", "webui.py", "--port", str(self.app.port))
        for command, folder in (
            ((sys.executable, "webui.py", "--port", str(quiet_port(self.app.port))), other),
            (naps, self.app.path),
            (("tail", "-f", str(self.app.script)), self.app.path),
        ):
            running = self.processes.start(command, cwd=folder, env=environment)
            self._strangers.append(running)

    def _publish(self, repo: str, number: int) -> str:
        """Commit a state in which some files are new, one is not, and one has another name than before."""
        return self.hub.commit(
            repo,
            {
                "config.json": json.dumps({"number": number}).encode(),
                LARGE: f"{repo} {number} ".encode() * 6000,
                "same.bin": repo.encode() * 4000,
                f"voices/{number % 3}/voice.txt": f"voice {number}".encode(),
            },
        )

    def _newest(self, repo: str, local_dir: str | None = None) -> LockedModel:
        commit = self.hub.head(repo)
        files = self.hub.repo(repo).commits[commit].files
        named = {path: LockedFile(file.size, file.etag) for path, file in files.items()}
        return LockedModel(repo, "main", commit, local_dir, (), (), named)

    def _download(self) -> None:
        """Have huggingface_hub itself bring the model that is not locked, in two revisions."""
        head = self.hub.repo(UNLOCKED).commits[self.hub.head(UNLOCKED)]
        for revision in (head.parent, "main"):
            self.library.download(self.cache, UNLOCKED, str(revision))

    def _environment(self) -> dict[str, str]:
        return checks.marked(clean_environment(CHAOS_MODELS=" ".join(REPOS), PYTHONWARNINGS="ignore"), self._mark)

    def note(self, line: str) -> None:
        told = f"{time.monotonic() - self._begun:8.2f} {line}"
        self.log.append(told)
        self.say(told)

    def _end(self) -> None:
        """End what is left, by its mark, so that a failure leaves nobody behind."""
        for pid in checks.owned(self._mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.processes.close()


def quiet_port(besides: int = 0) -> int:
    """Return a free port that the system gives to no outgoing connection: a download must not take an app's port."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10_000, max(lowest, 12_000))
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port != besides:
                return port


def run(base: Path, seed: int, seconds: float, *, steps: int | None = None, say: Callable[[str], None] = print) -> str:
    """Do steps for so long, or so many, and return what was done. Raises ViolationError with all that led there."""
    chaos = Chaos(base, seed, say)
    number = 0
    try:
        with chaos:
            deadline = time.monotonic() + seconds
            while number < steps if steps is not None else time.monotonic() < deadline:
                number += 1
                chaos.step(plan(seed, number))
            chaos.close_down()
    except Exception as error:
        replay = f"python -m tests.chaos --seed {seed} --steps {number} --verbose"
        told = "\n".join(chaos.log)
        raise ViolationError(f"{error}\n\nseed {seed}, step {number}; again: {replay}\n{told}") from error
    ended = ", ".join(f"{name} {count}" for name, count in sorted(chaos.statuses.items()))
    return f"seed {seed}: {number} steps, {chaos.watch.looks} looks for a second instance; {ended}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--steps", type=int, help="so many steps, however long they take")
    parser.add_argument("--verbose", action="store_true", help="tell each thing as it is done")
    arguments = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"seed {arguments.seed}", flush=True)
    try:
        say = (lambda line: print(line, flush=True)) if arguments.verbose else (lambda line: None)
        print(run(base, arguments.seed, arguments.seconds, steps=arguments.steps, say=say))
    except ViolationError as error:
        print(f"{error}\nleft for a look: {base}", file=sys.stderr)
        return 1
    shutil.rmtree(base)
    return 0
