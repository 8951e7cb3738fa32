"""The worlds that the commands of README and docs/ are run in: what a reader has before typing them.

A command goes to bash as it is written, except for what `World.exchanges` lists: places and ports that belong to the
machine of a test's own. What it prints is read with the same exchanges, the other way round.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support import readme
from tests.support.apps import (
    PAGE,
    ROOT,
    AppFolder,
    Done,
    Processes,
    Running,
    clean_environment,
    eventually,
    free_port,
    get,
    make_app,
)
from tests.support.environments import make_seeing_venv
from tests.support.hub import Hub
from tests.support.models import NEW, NEW_DAY, OLD, OLD_DAY, put

TTS = "IndexTeam/IndexTTS-2"
TTS_FILES = {"gpt.pth": b"gpt" * 9_000, "s2mel.pth": b"mel" * 7_000, "config.yaml": b"version: 2.0\n"}
MIRROR, OFFICIAL = "https://hf-mirror.com", "https://huggingface.co"
# What the quick start has its reader write into .env.
SETTINGS = f"HF_HOME=./cache_hub\nHF_ENDPOINT={MIRROR}\n"

# IndexTTS2's webui.py as far as the launcher can see it: its options, that it rejects any other, what it looks for
# before it starts, and that it names a hub cache of its own. Its page is a plain one.
INDEXTTS = (
    """\
import argparse, http.server, json, os, sys

parser = argparse.ArgumentParser(description="IndexTTS WebUI")
parser.add_argument("--verbose", action="store_true", default=False)
parser.add_argument("--port", type=int, default=7860)
parser.add_argument("--host", default="0.0.0.0")
parser.add_argument("--model_dir", default="./checkpoints")
parser.add_argument("--fp16", action="store_true", default=False)
cmd_args = parser.parse_args()
for file in ("gpt.pth", "config.yaml"):
    if not os.path.exists(os.path.join(cmd_args.model_dir, file)):
        print(f"Required file {file} does not exist. Please download it.")
        sys.exit(1)
print(json.dumps({"argv": sys.argv, "cwd": os.getcwd(), "env": dict(os.environ)}), flush=True)
os.environ["HF_HUB_CACHE"] = "./checkpoints/hf_cache"


"""
    + PAGE
    + """

http.server.ThreadingHTTPServer((cmd_args.host, cmd_args.port), Page).serve_forever()
"""
)

RUN: dict[str, str] = {}
"""Which test runs a command of the pages, by `readme.typed`."""
TOLD: dict[str, str] = {}
"""Which test sees a message that the troubleshooting page explains."""


@dataclass
class World:
    """Hold an app's folder with an environment of its own, a home, two hubs, and what was run."""

    app: AppFolder
    home: Path
    units: Path
    hub: Hub
    mirror: Hub
    processes: Processes
    other_port: int = field(default_factory=free_port)
    ran: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)

    @property
    def exchanges(self) -> Mapping[str, str]:
        """Return what the pages have, and what stands for it here; `~` is for bash to find, in `HOME`."""
        return {
            "/root/index-tts": str(self.app.path),
            "/srv/my-app": str(self.app.path),
            "/etc/systemd/system": str(self.units),
            "/mnt/usb": str(self.app.path / "usb"),
            "7860": str(self.app.port),
            "7861": str(self.other_port),
            "sudo ": "",
        }

    def exchanged(self, command: str) -> str:
        """Return a command as it is run here."""
        for shown, real in self.exchanges.items():
            command = command.replace(shown, real)
        return command

    def shown(self, output: str) -> str:
        """Return output as the pages would show it."""
        pairs = {**self.exchanges, MIRROR: self.mirror.endpoint, OFFICIAL: self.hub.endpoint}
        for shown, real in pairs.items():
            output = output.replace(real, shown) if real else output
        return output

    def environment(self, **changes: str) -> dict[str, str]:
        """Return the environment of a shell in which the app's own is active, and whose hubs are on the loopback."""
        path = f"{self.app.path}/.venv/bin:{self.app.path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        told = {"HOME": str(self.home), "PATH": path, "GRADIO_SERVER_PORT": str(self.app.port)}
        # What was downloaded once need not be again, though the home is new, and nothing here is imported twice.
        caches = {f"{name.upper()}_CACHE_DIR": str(Path.home() / ".cache" / name) for name in ("pip", "uv")}
        caches["PIP_NO_COMPILE"] = "1"
        return clean_environment(**{**told, **caches, "HF_OFFICIAL_ENDPOINT": self.hub.endpoint, **changes})

    def with_quick_venv(self) -> dict[str, str]:
        """Return an environment in which `python3 -m venv` makes one that has everything that this one has.

        An installer finds what it is to bring in place then, and only builds what it was pointed at.
        """
        python3 = self.home / "bin" / "python3"
        python3.parent.mkdir()
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path; "
        code += (
            "from tests.support.environments import make_seeing_venv; make_seeing_venv(Path(sys.argv[1]).absolute())"
        )
        made = shlex.join((sys.executable, "-c", code))
        python3.write_text(f'#!/bin/sh\n[ "$1 $2" = "-m venv" ] || exit 1\nexec {made} "$3"\n')
        python3.chmod(0o755)
        environment = self.environment()
        return {**environment, "PATH": f"{python3.parent}:{environment['PATH']}"}

    def script(self, *commands: str) -> tuple[str, ...]:
        """Return the words that run commands of the pages in one shell, each only if those before were fine."""
        self.ran.update(map(readme.typed, commands))
        lines = ("exec 2>&1", *(self.exchanged(command) for command in commands))
        return ("bash", "-ec", "\n".join(lines))

    def run(self, *commands: str, env: Mapping[str, str] = {}, cwd: Path | None = None, **keywords: Any) -> Done:
        """Run commands of the pages to their end; `out` has all that they print."""
        done = subprocess.run(
            self.script(*commands),
            cwd=cwd or self.app.path,
            env=self.environment(**env),
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "timeout": 100, **keywords},
        )
        return Done(done.returncode, self.shown((done.stdout or b"").decode(errors="replace")), "")

    def fine(self, *commands: str, **keywords: Any) -> str:
        """Run commands that are to end with 0, and return what they print."""
        done = self.run(*commands, **keywords)
        assert done.status == 0, done.out
        return done.out

    def start(self, *commands: str, env: Mapping[str, str] = {}, cwd: Path | None = None, port: int = 0) -> Running:
        """Run commands of the pages the last of which becomes the app, and wait for its page."""
        running = self.processes.start(self.script(*commands), cwd or self.app.path, self.environment(**env))
        self.await_page(running, port or self.app.port)
        return running

    def await_page(self, running: Running, port: int, before: int | None = None) -> None:
        """Wait until the app that a shell became answers, after the one of pid `before`."""
        eventually(lambda: running.process.poll() is not None or get(port) not in (None, f"pid {before}"), 60, "page")
        assert running.process.poll() is None, running.out

    def by_hand(self) -> Running:
        """Start the app as a person does without the launcher."""
        python = self.app.path / ".venv" / "bin" / "python"
        words = (python, "webui.py", "--port", str(self.app.port))
        running = self.processes.start(words, self.app.path, self.environment())
        self.await_page(running, self.app.port)
        return running

    def install(self) -> None:
        """Copy the launcher into the app's folder, and give it the settings of the quick start with our mirror."""
        for name in ("start_app.py", "launcher"):
            copied(ROOT / name, self.app.path / name)
        self.app.write_env(SETTINGS.replace(MIRROR, self.mirror.endpoint))

    def cache(self, repo: str, commit: str, ref: str | None = "main") -> Path:
        """Put a commit into the app's cache as huggingface_hub would."""
        return put(self.hub, self.app.path / "cache_hub" / "hub", commit, repo, ref=ref)

    def publish(self, repo: str) -> tuple[str, str]:
        """Have the hubs serve an old and a new commit of a model."""
        return self.hub.commit(repo, OLD, date=OLD_DAY), self.hub.commit(repo, NEW, date=NEW_DAY)

    def background(self) -> int:
        """Start the app apart from this test, and return its pid."""
        self.fine(".venv/bin/python start_app.py --background")
        pid = self.app.lock_holder()
        assert pid
        return self.processes.end_also(pid)

    def tells(self, message: str, output: str) -> None:
        """Require a message that the troubleshooting page explains; `…` stands for anything."""
        pattern = ".*".join(re.escape(part) for part in message.split("…"))
        assert re.search(pattern, output), f"{message!r} is not told: {output}"
        self.told.add(message)


def copied(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


@contextmanager
def made(folder: Path, processes: Processes) -> Iterator[World]:
    """Make a world in a folder, and end what runs in it."""
    app = make_app(folder / "root" / "index-tts", INDEXTTS)
    for path, data in TTS_FILES.items():
        (app.path / "checkpoints" / path).parent.mkdir(exist_ok=True)
        (app.path / "checkpoints" / path).write_bytes(data)
    make_seeing_venv(app.path / ".venv")
    home, units = folder / "home", folder / "units"
    home.mkdir()
    units.mkdir()
    with Hub() as hub, hub.mirror() as mirror:
        world = World(AppFolder(app.path, free_port()), home, units, hub, mirror, processes)
        try:
            yield world
        finally:
            for port in (world.app.port, world.other_port):
                holder = AppFolder(app.path, port).lock_holder()
                if holder:
                    processes.end_also(holder)


def runs(*commands: str, tells: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Mark a test as the one that runs these commands in its `world`, and sees these messages told."""

    def mark(test: Callable[..., None]) -> Callable[..., None]:
        names = set(map(readme.typed, commands))
        RUN.update(dict.fromkeys(names, test.__name__))
        TOLD.update(dict.fromkeys(tells, test.__name__))

        @functools.wraps(test)
        def checked(world: World, **keywords: Any) -> None:
            test(world=world, **keywords)
            assert names <= world.ran
            assert set(tells) <= world.told

        return checked

    return mark


def shows(command: str, output: str) -> None:
    """Require that a command prints what a page shows of it, up to what the app itself prints."""
    shown, real = readme.printed(command), output.splitlines()
    if shown[-1].startswith("exec: "):
        real = real[: len(shown)]
    assert len(real) == len(shown), output
    for expected, line in zip(shown, real, strict=True):
        assert readme.same(expected, line), f"{expected}\n{line}\n\n{output}"


def needs_root_and(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(os.geteuid() != 0 or bool(missing), reason=f"needs root and {', '.join(programs)}")
