"""What the tests of `models check` and `models lock` share: an app, its cache, the official hub, and a mirror of it.

A cache is written here as huggingface_hub writes one, from the hub's own store: a child that imports the library costs
more than most tests. That both write the same is a test of its own.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from launcher.models import lockfile
from tests.support.apps import AppFolder, Done, clean_environment, launcher
from tests.support.hub import Hub

V22, V23, VOICES = "koge/index-tts-v22", "koge/index-tts-v23", "datasets/koge/voices"
OLD_DAY, NEW_DAY = datetime(2026, 9, 1, 12, tzinfo=timezone.utc), datetime(2026, 11, 20, 12, tzinfo=timezone.utc)
OLD = {"config.json": b'{"layers": 2}', "gpt.safetensors": b"gpt 1" * 400, "sub/a b.txt": b"a b\n"}
NEW = {**OLD, "gpt.safetensors": b"gpt 2!" * 900, "sub/new.txt": b"new\n"}

DONE, USAGE, IO, RETRY, DENIED, CONFIG, STALE = 0, 2, 74, 75, 77, 78, 80


@dataclass
class World:
    """Hold an app whose `.env` names a cache of its own, the official hub, and a mirror of it."""

    app: AppFolder
    hub: Hub
    mirror: Hub
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        return self.app.path / "hf" / "hub"

    @property
    def lock(self) -> Path:
        return self.app.path / "models.lock"

    @property
    def models(self) -> list[dict[str, Any]]:
        """Return the models of `models.lock`."""
        found: list[dict[str, Any]] = json.loads(self.lock.read_text())["models"]
        return found

    @property
    def asked(self) -> int:
        """Return how many requests any hub has seen."""
        return len(self.hub.requests) + len(self.mirror.requests)

    def configure(self, **settings: str | None) -> None:
        """Change settings of the app's `.env`; None takes one out."""
        self.settings = {name: value for name, value in {**self.settings, **settings}.items() if value is not None}
        self.app.write_env("".join(f"{name}={value}\n" for name, value in self.settings.items()))

    def publish(self, repo: str = V23) -> tuple[str, str]:
        """Commit an old state of a repo and a new one, and return both commits."""
        kind, identifier = kind_and_id(repo)
        old = self.hub.commit(identifier, OLD, date=OLD_DAY, repo_type=kind)
        new = self.hub.commit(identifier, NEW, date=NEW_DAY, repo_type=kind)
        return old, new

    def put(self, commit: str, repo: str = V23, *, ref: str | None = "main", files: Mapping[str, bytes] = {}) -> Path:
        """Write a commit into the cache as huggingface_hub would, all its files or those named."""
        return put(self.hub, self.cache, commit, repo, ref=ref, files=files)

    def run(self, *arguments: str | Path, env: Mapping[str, str] | None = None, **keywords: Any) -> Done:
        """Run a `models` command."""
        environment = clean_environment(**(env or {}))
        return launcher("models", *arguments, "--app-dir", self.app.path, env=environment, **keywords)

    def check(self, *arguments: str | Path, **keywords: Any) -> Done:
        return self.run("check", *arguments, **keywords)

    def pin(self, *arguments: str | Path, **keywords: Any) -> Done:
        """Run `models lock`, which must succeed, and begin new logs."""
        done = self.run("lock", *arguments, **keywords)
        assert done.status == 0, done.err
        for hub in (self.hub, self.mirror):
            hub.forget()
        return done


@contextmanager
def world_of(app: AppFolder) -> Iterator[World]:
    """Start both hubs for an app, and tell it of them."""
    with Hub() as hub, hub.mirror() as mirror:
        world = World(app, hub, mirror)
        world.configure(HF_HOME="./hf", HF_ENDPOINT=mirror.endpoint, HF_OFFICIAL_ENDPOINT=hub.endpoint)
        yield world


def kind_and_id(repo: str) -> tuple[str, str]:
    """Return what the hub of the tests calls a repo."""
    prefix, _, rest = repo.partition("/")
    return (prefix.removesuffix("s"), rest) if prefix in ("datasets", "spaces", "kernels") else ("model", repo)


def put(
    hub: Hub,
    cache: Path,
    commit: str,
    repo: str = V23,
    *,
    ref: str | None = "main",
    files: Mapping[str, bytes] = {},
) -> Path:
    """Write a commit into a cache as huggingface_hub would, and return the repo's folder."""
    kind, identifier = kind_and_id(repo)
    folder = cache / f"{kind}s--{identifier.replace('/', '--')}"
    for path, file in hub.repo(identifier, kind).commits[commit].files.items():
        if files and path not in files:
            continue
        blob, link = folder / "blobs" / file.etag, folder / "snapshots" / commit / path
        for one in (blob, link):
            one.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(file.data)
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(blob, link.parent))
    if ref:
        (folder / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (folder / "refs" / ref).write_text(commit)
    return folder


def verdicts(done: Done) -> dict[str, str]:
    """Return what `models check --json` says of each model."""
    return {one["name"]: one["verdict"] for one in done.json["models"]}


def verdict(done: Done) -> str:
    """Return what it says of the only one."""
    (found,) = verdicts(done).values()
    return found


def detail(done: Done) -> str:
    """Return the words behind the only verdict."""
    (one,) = done.json["models"]
    return one["detail"] or ""


def cells(done: Done) -> dict[str, list[str]]:
    """Return the rows of the table by the model's name, cut where columns are."""
    return {row[0]: row[1:] for row in (re.split(r"\s{2,}", line) for line in done.out.splitlines())}


def locked(world: World) -> lockfile.Lock:
    """Return the models that are pinned, by the product's own reader."""
    found = lockfile.read(world.app.path)
    assert found is not None
    return found


def expected(hub: Hub, repo: str, commit: str, revision: str = "main") -> dict[str, Any]:
    """Return the entry of `models.lock` that a commit must have, from what the hub has stored."""
    kind, identifier = kind_and_id(repo)
    files = {
        path: {"size": file.size, "sha256" if file.sha256 else "git_sha1": file.sha256 or file.blob}
        for path, file in hub.repo(identifier, kind).commits[commit].files.items()
    }
    return {"repo": repo, "revision": revision, "commit": commit, "files": files}


@contextmanager
def deaf() -> Iterator[str]:
    """Lend an address that lets everybody wait: it takes no connection, and its queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        callers = [socket.socket() for _ in range(4)]
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for caller in callers:
                caller.close()
