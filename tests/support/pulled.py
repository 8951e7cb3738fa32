"""What the tests of pulling share: an app whose models are an old commit, a hub that has a new one, and a mirror of it.

The cache with the old commit is downloaded once by huggingface_hub itself and copied for each test. What a pull did is
seen by what loads offline afterwards, by the files on the disk, and by the logs of both hubs.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from launcher.models import lockfile
from launcher.models.lockfile import LockedFile, LockedModel
from launcher.system import state
from tests.support.apps import AppFolder, Done, Processes, Running, eventually, free_port, get, launcher
from tests.support.hub import Hub
from tests.support.hub_cache import Library, LibraryError

MODEL, OTHER = "koge/index-tts-v23", "amphion/MaskGCT"
FOLDER = "checkpoints"
OLD_DAY, NEW_DAY = (datetime(2026, month, 1, tzinfo=timezone.utc) for month in (10, 11))
OLD: Mapping[str, bytes] = {
    "config.json": b'{"version": "old"}',
    "gpt.safetensors": b"gpt old " * 40_000,
    "same.bin": b"same" * 25_000,
    "qwen/tokenizer.json": b'{"tokens": []}' * 30,
    "gone/gone.txt": b"only the old commit has it\n",
}
NEW: Mapping[str, bytes] = {
    "config.json": b'{"version": "new"}',
    "gpt.safetensors": b"gpt new " * 40_000,
    "same.bin": OLD["same.bin"],
    "qwen/tokenizer.json": b'{"tokens": [1]}' * 30,
    "added/deep.bin": b"added" * 9_000,
}
CODEC: Mapping[str, bytes] = {"config.json": b"{}", "semantic.safetensors": b"codec" * 9_000}
CHANGED = tuple(path for path in NEW if OLD.get(path) != NEW[path])
"""What a pull of the new commit has to bring where the old one is."""

# A real app: it loads what it is told to, by name, tells what it got, keeps a file mapped, and serves a page. Whatever
# is written to its standard input later is loaded too.
LOADING = """\
import argparse, hashlib, http.server, json, mmap, os, sys, threading
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int)
parser.add_argument("--load", action="append", default=[], help="REPO or REPO@REVISION")
parser.add_argument("--map", help="a file of what was loaded to be kept mapped")
args = parser.parse_args()

import huggingface_hub


def load(name):
    repo, _, revision = name.partition("@")
    try:
        folder = huggingface_hub.snapshot_download(repo, revision=revision or None)
    except Exception as error:
        return {"error": type(error).__name__}
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {
        "commit": os.path.basename(folder),
        "files": {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        "folder": folder,
    }


loaded = {name: load(name) for name in args.load}
kept = []
if args.map:
    for one in loaded.values():
        path = os.path.join(one.get("folder", "/nowhere"), args.map)
        if os.path.isfile(path):
            with open(path, "rb") as file:
                kept.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
print(json.dumps({"pid": os.getpid(), "env": dict(os.environ), "loaded": loaded}), flush=True)


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = (f"pid {os.getpid()}" if self.path == "/" else json.dumps(load(self.path[1:]))).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", args.port), Page).serve_forever()
"""


@functools.cache
def template(base: Path) -> Path:
    """Download the cache that all tests copy, once: the old commit of one model, and another model."""
    home = base / "pulled-home"
    with Hub() as hub:
        hub.commit(MODEL, OLD)
        hub.commit(OTHER, CODEC)
        with Library(hub) as library:
            library.download(home / "hub", MODEL)
            library.download(home / "hub", OTHER)
    return home


@dataclass
class Pulled:
    """Hold an app, the official hub, a mirror that the app uses, and the commits."""

    app: AppFolder
    hub: Hub
    mirror: Hub
    old: str
    new: str
    other: str
    library: Library
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        return self.app.path / "hf" / "hub"

    @property
    def folder(self) -> Path:
        """Return the folder of the app's own for a model that is kept outside the cache."""
        return self.app.path / FOLDER

    def repo(self, name: str = MODEL) -> Path:
        return self.cache / f"models--{name.replace('/', '--')}"

    def ref(self, ref: str = "main", name: str = MODEL) -> str | None:
        path = self.repo(name) / "refs" / ref
        return path.read_text() if path.exists() else None

    def set(self, **changes: str | None) -> None:
        """Write the app's `.env` anew with these settings changed; None takes one out."""
        for name, value in changes.items():
            if value is None:
                self.settings.pop(name, None)
            else:
                self.settings[name] = value
        self.app.write_env("".join(f"{name}={value}\n" for name, value in self.settings.items()))

    def locked(
        self,
        commit: str,
        name: str = MODEL,
        *,
        revision: str = "main",
        local_dir: str | None = None,
        only: tuple[str, ...] = (),
    ) -> LockedModel:
        """Return a commit as `models lock` pins it."""
        files = self.hub.repo(name).commits[commit].files
        chosen = {path: LockedFile(file.size, file.etag) for path, file in files.items() if not only or path in only}
        return LockedModel(name, revision, commit, local_dir, only, (), chosen)

    def lock(self, *models: LockedModel) -> None:
        lockfile.write(self.app.path, models)

    def lock_new(self, **keywords: Any) -> None:
        self.lock(self.locked(self.new, **keywords))

    def run(self, *arguments: str | Path, **keywords: Any) -> Done:
        return launcher(*self.app.arguments, *arguments, **keywords)

    def pull(self, *arguments: str | Path, **keywords: Any) -> Done:
        return self.run("models", "pull", *arguments, **keywords)

    def pulled(self, *arguments: str | Path, **keywords: Any) -> Any:
        """Pull, which is to succeed, and return what `--json` says."""
        done = self.pull("--json", *arguments, **keywords)
        assert done.status == 0, done.err
        return done.json

    def loads(self, revision: str = "main", name: str = MODEL) -> dict[str, bytes] | str | None:
        """Return the files that load offline, None where nothing does, or the error of what is broken."""
        try:
            return self.library.load(self.cache, name, revision)
        except LibraryError as error:
            return error.name

    def start(self, processes: Processes, *arguments: str, **keywords: Any) -> Running:
        """Launch the app in the background and wait until its page answers."""
        running = processes.launch(*self.app.arguments, *arguments, **keywords)
        eventually(lambda: self.serves(running) or running.process.poll() is not None, what=running.err)
        assert self.serves(running), running.err
        return running

    def serves(self, running: Running) -> bool:
        return get(self.app.port) == f"pid {running.pid}"

    def in_folder(self, folder: Path | None = None) -> dict[str, bytes]:
        """Return the files of a folder of the app's own, without what huggingface_hub and the launcher keep there."""
        base = folder or self.folder
        found = (path for path in base.rglob("*") if path.is_file())
        listed = {path.relative_to(base).as_posix(): path.read_bytes() for path in found}
        return {path: data for path, data in listed.items() if not path.startswith(".cache/")}

    def bring_to_folder(self, commit: str | None = None, name: str = MODEL, folder: Path | None = None) -> None:
        """Have huggingface_hub download a commit into a folder of the app's own, as the app's README says."""
        target = folder or self.folder
        with Library(self.hub) as library:
            library.ask("download_to", str(target), name, commit or self.old)

    def states(self) -> str:
        """Return everything that the launcher keeps beside the app, as text."""
        paths = (path for path in (self.app.path / state.FOLDER).rglob("*") if path.is_file())
        return "\n".join(path.read_text(errors="replace") for path in paths)


@contextmanager
def pulled_app(app: AppFolder, base: Path) -> Iterator[Pulled]:
    """Give an app a copy of the cache with the old commit, and hubs that have a new one."""
    pytest.importorskip("huggingface_hub")
    shutil.copytree(template(base), app.path / "hf", symlinks=True)
    with Hub() as hub, Library() as library:
        old, other = hub.commit(MODEL, OLD, date=OLD_DAY), hub.commit(OTHER, CODEC)
        new = hub.commit(MODEL, NEW, date=NEW_DAY)
        with hub.mirror() as mirror:
            # The port that was free before the hubs came may be one of theirs by now.
            made = Pulled(replace(app, port=free_port()), hub, mirror, old, new, other, library)
            made.set(HF_HOME="./hf", HF_ENDPOINT=mirror.endpoint, HF_OFFICIAL_ENDPOINT=hub.endpoint)
            yield made


def clear_cache(pulled: Pulled) -> None:
    """Take everything out of the cache."""
    shutil.rmtree(pulled.cache)


def children_of(pid: int) -> list[int]:
    """Return the workers of a launcher: it starts them in sessions of their own."""
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@contextmanager
def opened(*folders: Path) -> Iterator[Callable[[], set[str]]]:
    """Watch folders, and lend a way to tell which of the files in them anybody has opened meanwhile: inotify(7)."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert watch >= 0
    try:
        for folder in folders:
            assert libc.inotify_add_watch(watch, os.fsencode(folder), 0x20) >= 0  # IN_OPEN

        def files() -> set[str]:
            found = set()
            with suppress(BlockingIOError):
                data = os.read(watch, 1 << 20)
                while data:
                    _, mask, _, length = struct.unpack_from("iIII", data)
                    if not mask & 0x40000000:  # IN_ISDIR
                        found.add(os.fsdecode(data[16 : 16 + length].rstrip(b"\0")))
                    data = data[16 + length :]
            return found

        yield files
    finally:
        os.close(watch)


def served(done: Done) -> Any:
    return {one["repo"]: one["endpoint"] for one in json.loads(done.out)["served"]}


def blobs(repo: Path) -> set[str]:
    return set(os.listdir(repo / "blobs"))
