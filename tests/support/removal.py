"""What the tests of removal share: a cache that huggingface_hub wrote, with all that lies around one, to be destroyed.

It is downloaded once for all tests and copied for each. What a removal did is seen by comparing everything there is,
before and after.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import pty
import select
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from launcher.cache.names import TRASH
from launcher.config.paths import HUB_ENTRY
from launcher.system import state
from tests.support.apps import ROOT, START_APP, AppFolder, Done, clean_environment, launcher, make_app
from tests.support.caches import add_blob
from tests.support.hub import Hub
from tests.support.hub_cache import Library, Wanted

V22, V23, CODEC, VOICES = "koge/index-tts-v22", "koge/index-tts-v23", "amphion/MaskGCT", "koge/voices"
HUB = (
    tuple(map(int, importlib.metadata.version("huggingface_hub").split(".")[:2]))
    if importlib.util.find_spec("huggingface_hub")
    else (0, 0)
)
SHARES = HUB >= (1, 32) and bool(importlib.util.find_spec("hf_xet"))
PRIVATE = {
    "token": b"hf_secret",
    "stored_tokens": b"[me]\nhf_token = hf_secret\n",
    "xet/logs/xet.log": b"log",
    "assets/a/b/c.bin": b"asset",
    "modules/transformers_modules/m.py": b"m = 1\n",
    "sandbox/s": b"s",
    "hub/version.txt": b"1",
    "hub/mine/thesis.txt": b"mine",
    "hub/models--koge--index-tts-v22/notes.txt": b"my notes",
}
"""What is nobody's to remove, by its path in HF_HOME."""
NOBODY: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": ()}

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount or to act as another user")
needs_store = pytest.mark.skipif(not SHARES, reason="this huggingface_hub has no shared blob store")

Contents = Mapping[str, tuple[str, bytes]]


@dataclass(frozen=True)
class Written:
    """Hold an HF_HOME as huggingface_hub wrote it, what loads from it, and the commits: old and new of each model."""

    home: Path
    loads: Mapping[Wanted, Mapping[str, bytes]]
    commits: Mapping[str, tuple[str, str]]


@functools.cache
def written(base: Path) -> Written:
    """Write the cache that all tests copy, once."""
    home = base / "hf-written"
    codec = b"codec" * 1200
    v22 = {
        "config.json": b'{"version": "22"}',
        "README.md": b"# IndexTTS\n" * 20,
        "gpt.safetensors": b"gpt 22" * 700,
        "codec.safetensors": codec,
        "qwen/tokenizer.json": b'{"tokens": []}' * 30,
    }
    v23 = {"config.json": b'{"version": "23"}', "gpt.safetensors": b"gpt 23" * 900, "bpe.model.bin": b"bpe" * 400}
    with Hub(xet=True) as hub:
        old22 = hub.commit(V22, {**v22, "config.json": b'{"version": "2.1"}', "gpt.safetensors": b"gpt 21" * 800})
        hub.tag(V22, "v1", old22)
        new22 = hub.commit(V22, v22)
        old23 = hub.commit(V23, {**v23, "gpt.safetensors": b"gpt 22.9" * 750})
        new23 = hub.commit(V23, v23)
        only = hub.commit(CODEC, {"config.json": b"{}", "semantic.safetensors": codec, "README.md": b"# MaskGCT\n"})
        voice = hub.commit(VOICES, {"anna.wav": b"RIFF" * 500, "index.json": b"[]"}, repo_type="dataset")
        with Library(hub) as library:
            for repo, revision, repo_type in (
                (V22, "v1", "model"),
                (V22, "main", "model"),
                (V23, old23, "model"),
                (V23, "main", "model"),
                (CODEC, "main", "model"),
                (VOICES, "main", "dataset"),
            ):
                library.download(home / "hub", repo, revision, repo_type=repo_type)
    for path, data in PRIVATE.items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_bytes(data)
    wanted = (
        (V22, "v1", "model"),
        (V22, old22, "model"),
        (V22, "main", "model"),
        (V22, new22, "model"),
        (V23, old23, "model"),
        (V23, "main", "model"),
        (V23, new23, "model"),
        (CODEC, "main", "model"),
        (VOICES, "main", "dataset"),
    )
    with Library() as library:
        found = {one: library.load(home / "hub", one[0], one[1], repo_type=one[2]) for one in wanted}
    loads = {one: files for one, files in found.items() if files}
    assert len(loads) == len(wanted)
    commits = {V22: (old22, new22), V23: (old23, new23), CODEC: (only, only), VOICES: (voice, voice)}
    return Written(home, loads, commits)


@dataclass(frozen=True)
class Cached:
    """Hold an app with a copy of that cache, which its `.env` names."""

    app: AppFolder
    home: Path
    written: Written

    @property
    def hub(self) -> Path:
        return self.home / "hub"

    def repo(self, name: str) -> Path:
        return self.hub / f"{'datasets' if name == VOICES else 'models'}--{name.replace('/', '--')}"

    def old(self, name: str) -> str:
        return self.written.commits[name][0]

    def new(self, name: str) -> str:
        return self.written.commits[name][1]

    def run(self, *arguments: str | Path, **keywords: Any) -> Done:
        """Run a `cache` command on it."""
        return launcher("cache", *arguments, "--app-dir", self.app.path, **keywords)

    def loads(self, library: Library | None = None) -> dict[Wanted, bool]:
        """Tell what still loads; whatever loads, loads whole and right."""
        if library is None:
            with Library() as one:
                return self.loads(one)
        found = {}
        for wanted, files in self.written.loads.items():
            loaded = library.load(self.hub, wanted[0], wanted[1], repo_type=wanted[2])
            assert loaded in (None, files), wanted
            found[wanted] = loaded is not None
        return found

    def loading(self) -> set[str]:
        """Return what still loads, as `repo@ref`."""
        return {f"{repo}@{revision}" for (repo, revision, _), there in self.loads().items() if there}

    def all_but(self, *gone: str) -> set[str]:
        """Return what loads when these, as `repo` or `repo@ref`, do not."""
        everything = {f"{repo}@{revision}" for repo, revision, _ in self.written.loads}
        return {one for one in everything if one not in gone and one.partition("@")[0] not in gone}

    def trash(self) -> list[str]:
        return trash(self.hub)


def make_cached(app: AppFolder, base: Path) -> Cached:
    """Give an app its own copy of the cache."""
    source = written(base)
    home = app.path / "hf"
    shutil.copytree(source.home, home, symlinks=True)
    app.write_env("HF_HOME=./hf\n")
    return Cached(app, home, source)


def everything(folder: Path) -> Contents:
    """Return all there is below a folder, links never followed: type and mode, and bytes or target.

    What the launcher keeps of an app is not looked at: its history tells of refusals too.
    """
    found: dict[str, tuple[str, bytes]] = {}
    pending = [os.fsencode(folder)]
    base = len(pending[0]) + 1
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if os.fsdecode(entry.name) == state.FOLDER:
                    continue
                status = entry.stat(follow_symlinks=False)
                data = b""
                if stat.S_ISLNK(status.st_mode):
                    data = os.readlink(entry.path)
                elif stat.S_ISDIR(status.st_mode):
                    pending.append(entry.path)
                elif stat.S_ISREG(status.st_mode):
                    with open(entry.path, "rb") as file:
                        data = file.read()
                found[os.fsdecode(entry.path[base:])] = (stat.filemode(status.st_mode), data)
    return found


def held(folder: Path) -> int:
    """Return the bytes of all files below a folder, each inode once."""
    sizes = {}
    for place, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(os.path.join(place, name))
            if stat.S_ISREG(status.st_mode):
                sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


def besides_entries(contents: Contents, hub: str = "hub") -> Contents:
    """Return what of an HF_HOME no clear may touch: all but repos, but what is foreign in them, locks and store."""

    def stays(path: str) -> bool:
        parts = Path(path).parts
        if parts[0] != hub or len(parts) == 1:
            return True
        if HUB_ENTRY.match(parts[1]):
            return path in PRIVATE or any(one.startswith(f"{path}/") for one in PRIVATE)
        return not parts[1].startswith(TRASH) and parts[1] != "blobs" and (parts[1] != ".locks" or len(parts) == 2)

    return {path: found for path, found in contents.items() if stays(path)}


def trash(hub: Path) -> list[str]:
    """Return all trash in a cache, in its repos too."""
    found = []
    for folder in ("", *os.listdir(hub)):
        with suppress(OSError):  # no folder, or trash that is just being deleted
            found += [f"{folder}/{name}".lstrip("/") for name in os.listdir(hub / folder) if name.startswith(TRASH)]
    return sorted(found)


def on_terminal(
    *arguments: str | Path, answer: str, env: Mapping[str, str] | None = None, timeout: float = 30
) -> tuple[int, str]:
    """Run the launcher on a terminal, answer what it asks, and return its status and all that it showed."""
    controller, terminal = pty.openpty()
    command = [sys.executable, str(START_APP), *map(str, arguments)]
    process = subprocess.Popen(
        command,
        cwd=ROOT.parent,
        env=env or clean_environment(),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    shown, answered = b"", False
    deadline = time.monotonic() + timeout
    try:
        while select.select([controller], [], [], max(0, deadline - time.monotonic()))[0]:
            try:
                block = os.read(controller, 4096)
            except OSError:
                break  # nobody has the terminal open any more
            shown += block
            if not block:
                break
            if b"[y/N] " in shown and not answered:
                os.write(controller, f"{answer}\n".encode())
                answered = True
        else:
            process.kill()
        return process.wait(10), shown.decode(errors="replace")
    finally:
        os.close(controller)
        if process.poll() is None:
            process.kill()
            process.wait()


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """Mount something on a folder of ours meanwhile."""
    subprocess.run(("mount", *options, str(folder)), check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(("umount", "--lazy", str(folder)), check=True, capture_output=True)


@functools.cache
def mounts_work() -> bool:
    """Tell whether something can be mounted here."""
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(("mount", "-t", "tmpfs", "none", folder), capture_output=True).returncode:
            return False
        return not subprocess.run(("umount", folder), capture_output=True).returncode


def needs_mounts() -> None:
    """Skip a test where nothing can be mounted."""
    if os.geteuid() != 0 or not mounts_work():
        pytest.skip("needs root that may mount")


class OtherUser:
    """Run the launcher as the user nobody, who may read it, the cache's folder and little else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.chmod(0o755)
        self.python = next(filter(None, map(self._usable, (sys.executable, "/usr/bin/python3"))), "")
        if not self.python:
            pytest.skip("there is no Python here that another user may run")
        for name in ("psutil", "dotenv"):
            found = importlib.util.find_spec(name)
            assert found and found.origin
            shutil.copytree(Path(found.origin).parent, folder / "packages" / name, ignore=_COMPILED)
        shutil.copytree(ROOT / "launcher", folder / "launcher", ignore=_COMPILED)
        shutil.copy(START_APP, folder / "start_app.py")
        self.app = make_app(folder / "app")
        subprocess.run(("chmod", "-R", "go+rX", folder), check=True)

    @staticmethod
    def _usable(python: str) -> str:
        with suppress(OSError):
            if subprocess.run((python, "-c", ""), cwd="/", capture_output=True, **NOBODY).returncode == 0:
                return python
        return ""

    def run(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Done:
        """Run a `cache` command."""
        environment = clean_environment(
            HOME=str(self.folder / "home"), PYTHONPATH=str(self.folder / "packages"), PYTHONDONTWRITEBYTECODE="1"
        )
        return launcher(
            "cache",
            *arguments,
            "--app-dir",
            self.app.path,
            python=(self.python,),
            start_app=self.folder / "start_app.py",
            cwd=self.folder,
            env={**environment, **(env or {})},
            **NOBODY,
        )


_COMPILED: Callable[[Any, list[str]], set[str]] = shutil.ignore_patterns("__pycache__")


@contextmanager
def other_user() -> Iterator[OtherUser]:
    """Lend the user nobody a folder of their own outside pytest's, which only its owner may enter."""
    folder = Path(tempfile.mkdtemp(prefix="start_app-nobody-", dir="/tmp"))
    try:
        yield OtherUser(folder)
    finally:
        shutil.rmtree(folder)


def own(path: Path, user: int = 65534) -> None:
    """Give a whole tree to a user."""
    subprocess.run(("chown", "-hR", f"{user}:{user}", path), check=True)


def removed_paths(before: Contents, after: Contents) -> set[str]:
    return set(before) - set(after)


def partial_of(cached: Cached, repo: str, *, blob: str = "f" * 64) -> Path:
    """Leave what a download that died leaves: half a file, and a lock that nobody holds."""
    suffix = ".0a1b2c3d.incomplete" if HUB >= (1, 18) else ".incomplete"
    path = cached.repo(repo) / "blobs" / f"{blob}{suffix}"
    path.write_bytes(b"half" * 100)
    lock = cached.hub / ".locks" / cached.repo(repo).name / f"{blob}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    return path


def only(items: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    return sorted(item["path"] for item in items if item["kind"] == kind)


COMMANDS = (("clear",), ("remove", "models--*"), ("prune", "--max-size", "0"))
"""The ways to ask for everything."""


def insist(app: AppFolder, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Done:
    """Run a `cache` command, and insist on it as far as a setting can be insisted on."""
    return launcher("cache", *arguments, "--yes", "--app-dir", app.path, env=clean_environment(**(env or {})))


def add_blob_path(repo: Path, data: bytes) -> Path:
    """Add a blob to a repo made by hand, and return where it lies."""
    return repo / "blobs" / add_blob(repo, data)
