"""Killed at any instant, a removal leaves each repo whole or gone, and the same command, run again, finishes it.

A driver imports the launcher once and forks for every run: each is a process of its own that runs the real command,
and an instant is an instant of the removal and not of Python's start. Half of the instants are moments in time, the
other half steps on the file system, since those that matter lie closest together.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest

from tests.support.apps import clean_environment
from tests.support.caches import make_trash
from tests.support.hub_cache import Library
from tests.support.removal import (
    CODEC,
    PRIVATE,
    ROOT,
    V22,
    V23,
    Cached,
    Contents,
    besides_entries,
    everything,
    partial_of,
    trash,
)

ROUNDS = 50
"""For each of the four commands."""

DRIVER = """\
import json, os, signal, sys
from launcher import cli
from launcher.cache import planning

STEPS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.link", "os.symlink"}


def die_at(step):
    left = step
    def hook(event, arguments):
        nonlocal left
        if event in STEPS:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
    sys.addaudithook(hook)
    return lambda: step - left


cli.main(["cache", "clear", "--dry-run", "--app-dir", sys.argv[1], "--json"])
sys.stdout.flush()
print(flush=True)
for line in sys.stdin:
    argv, step, log = json.loads(line)
    answer, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(answer)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        steps = die_at(step)
        os.write(told, b"ready")
        status = cli.main(argv)
        os.write(told, b"%d %d" % (status, steps()))
        os._exit(0)
    os.close(told)
    os.read(answer, 5)
    print(pid, flush=True)
    said = os.read(answer, 100).decode()
    os.close(answer)
    sys.stdin.readline()  # until then the pid is nobody else's
    os.waitpid(pid, 0)
    print(json.dumps([int(word) for word in said.split()]), flush=True)
"""


class Driver:
    """Run commands in forks of one process that has imported the launcher."""

    def __init__(self, cached: Cached, log: Path) -> None:
        self.log = log
        self.process = subprocess.Popen(
            (sys.executable, "-c", DRIVER, str(cached.app.path)),
            cwd=ROOT,
            env=clean_environment(PYTHONWARNINGS="ignore"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self.process.stdin and self.process.stdout
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        while self.stdout.readline().strip():
            pass

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stdin.close()
        self.process.wait(10)
        self.stdout.close()

    def run(self, argv: list[str], *, seconds: float | None = None, step: int = -1) -> tuple[int, int, float] | None:
        """Run a command and return its status, its steps and its seconds; None when it was killed before its end."""
        self.stdin.write(json.dumps([argv, step, str(self.log)]) + "\n")
        pid = int(self.stdout.readline())
        start = time.perf_counter()
        if seconds is not None:
            while time.perf_counter() - start < seconds:
                pass
            os.kill(pid, signal.SIGKILL)
        else:
            # It has ended, or killed itself, when its parent has read the end of its pipe: it is a zombie then.
            while _state(pid) != "Z":
                time.sleep(0.0005)
        took = time.perf_counter() - start
        self.stdin.write("\n")
        said = json.loads(self.stdout.readline())
        return (said[0], said[1], took) if said else None


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def _litter(cached: Cached) -> None:
    """Leave in the cache what prune is for."""
    partial_of(cached, V22)
    (cached.repo(V22) / "blobs" / ("e" * 64)).write_bytes(b"orphan" * 50)
    missing = cached.repo(CODEC) / "snapshots" / ("1" * 40)
    missing.mkdir()
    (missing / "gone.bin").symlink_to("../../blobs/" + "d" * 64)
    shutil.copytree(cached.repo(V23), make_trash(cached.hub) / "models--old--one", symlinks=True)


def _final(cached: Cached) -> Contents:
    """Return all there is but locks, which say nothing once nobody holds them."""
    return {path: found for path, found in everything(cached.home).items() if not path.endswith(".lock")}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["clear", "remove repo", "remove revision", "prune"])
def test_killed_at_any_instant_each_repo_is_whole_or_gone_and_the_next_run_finishes(
    what: str, cached: Cached, library: Library, tmp_path: Path
) -> None:
    if what == "prune":
        _litter(cached)
    words = {
        "clear": ("clear",),
        "remove repo": ("remove", V22),
        "remove revision": ("remove", f"{V22}@{cached.old(V22)}"),
        "prune": ("prune",),
    }[what]
    argv = ["cache", *words, "--app-dir", str(cached.app.path)]
    may_go = {
        "clear": lambda wanted: True,
        "remove repo": lambda wanted: wanted[0] == V22,
        "remove revision": lambda wanted: wanted[0] == V22 and wanted[1] in ("v1", cached.old(V22)),
        "prune": lambda wanted: wanted[:2] == (V23, cached.old(V23)),
    }[what]
    template = tmp_path / "template"
    shutil.move(cached.home, template)

    def restore() -> None:
        shutil.rmtree(cached.home, ignore_errors=True)
        shutil.copytree(template, cached.home, symlinks=True)
        for mark in cached.hub.glob(".start_app-trash-*/.start_app"):  # it names the inode of its folder
            mark.write_text(f"{mark.parent.stat().st_ino}\n")

    with Driver(cached, tmp_path / "log") as driver:
        undisturbed = []
        for _ in range(4):
            restore()
            undisturbed.append(driver.run(argv))
        assert all(undisturbed), (tmp_path / "log").read_text()
        assert {one[0] for one in undisturbed if one} == {0}
        steps = undisturbed[0][1] if undisturbed[0] else 0
        seconds = statistics.median(one[2] for one in undisturbed if one)
        expected, untouched = _final(cached), besides_entries(everything(template))
        before = set(everything(template))

        rng = random.Random(f"killed {what}")
        assert steps > 5
        instants: list[dict[str, float]] = [
            {"step": step} for step in rng.sample(range(steps), min(steps, ROUNDS // 2))
        ]
        instants += [{"seconds": rng.uniform(0, seconds * 1.05)} for _ in range(ROUNDS - len(instants))]
        killed = 0
        wrong: list[str] = []
        for instant in instants:
            restore()
            done = driver.run(argv, **instant)  # type: ignore[arg-type]
            killed += done is None
            at = f"{words} {instant}"
            wrong += [f"{at}: killed: {one}" for one in _broken(cached, library, may_go, untouched)]
            again = driver.run(argv)
            assert again
            log = (tmp_path / "log").read_text()
            # What was gone before the kill is unknown afterwards.
            if again[0] not in (0, 2 if words[0] == "remove" else 0):
                wrong.append(f"{at}: again: status {again[0]}: {log}")
            now = _final(cached)
            if trash(cached.hub) or now != expected:
                extra, lost = sorted(now.keys() - expected.keys()), sorted(expected.keys() - now.keys())
                wrong.append(f"{at}: again: status {again[0]}, too much: {extra[:4]}, too little: {lost[:4]}: {log}")
            if not now.keys() <= before:
                wrong.append(f"{at}: again: new: {sorted(now.keys() - before)}")
        assert not wrong, f"{len(wrong)} of {len(instants)}:\n" + "\n".join(wrong[:6])
        assert killed >= ROUNDS // 2


def _broken(cached: Cached, library: Library, may_go, untouched) -> Iterator[str]:  # type: ignore[no-untyped-def]
    """Yield what is neither whole nor gone, and what of others is not as it was."""
    for wanted, files in cached.written.loads.items():
        try:
            loaded = library.load(cached.hub, wanted[0], wanted[1], repo_type=wanted[2])
        except Exception as error:
            yield f"{wanted} cannot be read: {error}"
            continue
        if loaded is None and not may_go(wanted):
            yield f"{wanted} is gone and should not be"
        elif loaded not in (None, files):
            yield f"{wanted} loads wrong"
    for warning in library.scan(cached.hub)["warnings"]:
        # Our trash is no repo, and a stranger's file alone makes none.
        about = warning.rpartition("/hub/")[2]
        stranger = about == f"{cached.repo(V22).name}/snapshots" and (cached.repo(V22) / "notes.txt").exists()
        if about.startswith(("models--", "datasets--")) and not stranger and "d" * 64 not in about:
            yield f"scan: {warning}"
    now = besides_entries(everything(cached.home))
    for path, found in untouched.items():
        if now.get(path) != found and not (path in PRIVATE or _moved(cached, path)):
            yield f"{path} is not as it was"
    for path, data in PRIVATE.items():
        if now.get(path, ("", b""))[1] != data and not _moved(cached, path):
            yield f"{path} is lost"


def _moved(cached: Cached, path: str) -> bool:
    """Tell whether this is a stranger's file in a repo, or the way to it, that has gone into the trash meanwhile."""
    return any((folder / Path(path).relative_to("hub")).exists() for folder in cached.hub.glob(".start_app-trash-*"))
