"""Fifty models are compared with two hubs at once, a pull of what is there asks nobody, and a lock costs little.

Every weights file is listed without a read, and what is frozen is read as fast as the cache is verified.

The hubs are one server in a process of its own that lets every answer wait; what stands beside is the loop that
everybody writes, or the import that nobody can save.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from launcher.models import lockfile
from launcher.models.lockfile import Lock, LockedFile, LockedModel

from .downtime import downtime
from .launch import PRINTS_AND_ENDS, App, temporary_app
from .measure import ROOT, BenchmarkError, Claim, Result, Say, Scale, in_turn, running, to_end, to_first_line

MODELS, FILES, FLAT = 50, 40, 20
LATENCY = 0.2
HUB_IMPORT = "from huggingface_hub import HfApi"
# Two hubs on two ports; every answer takes its time, as on the other side of the world.
SERVER = """\
import json, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

commits = json.load(open(sys.argv[1]))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a body would wait 40 ms for the acknowledgement of its headers

    def do_GET(self):
        time.sleep(float(sys.argv[2]))
        words = self.path.partition("?")[0].strip("/").split("/")
        repo = "/".join(words[2:4] if words[0] == "api" else words[:2])
        info = {"id": repo, "modelId": repo, "sha": commits[repo], "lastModified": "2026-01-01T00:00:00.000Z"}
        body = json.dumps(info).encode() if words[0] == "api" else b"{}"
        self.send_response(200)
        self.send_header("X-Repo-Commit", commits[repo])
        self.send_header("ETag", '"' + commits[repo] + '"')
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 256


servers = [Server(("127.0.0.1", 0), Handler) for _ in range(2)]
for server in servers:
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
print(*(server.server_address[1] for server in servers), flush=True)
sys.stdin.read()
"""
LOOP = """\
import sys
from huggingface_hub import HfApi
for endpoint in sys.argv[1:3]:
    api = HfApi(endpoint=endpoint, token=False)
    for repo in sys.argv[3:]:
        api.model_info(repo, revision="main", timeout=10).sha
print("compared")
"""


def results(scale: Scale, say: Say) -> Iterator[Result]:
    """Measure the claims about models, one after the other."""
    repetitions = scale.slow_repetitions
    with temporary_app(PRINTS_AND_ENDS) as app, temporary_app(PRINTS_AND_ENDS) as plain:
        models = make(app.folder)
        to_end(app.start_app("models", "pull"), app.folder)
        say(f"models check: {repetitions} repetitions, {MODELS} models, two hubs")
        yield from check(scale, app, models)
        say(f"models pull and --locked: {repetitions} repetitions, {MODELS} models, {MODELS * FILES} files")
        yield pull(scale, app)
        yield locked(scale, app, plain)
        say(f"models list: {repetitions} repetitions, {MODELS * FILES} files")
        yield listing(scale, app)
        say(f"models lock --freeze: {scale.big_bytes >> 20} MiB")
        yield freeze(scale, plain)
    say(f"downtime: {repetitions} repetitions")
    yield downtime(scale)


def check(scale: Scale, app: App, models: Mapping[str, LockedModel]) -> Iterator[Result]:
    """Measure the comparison of every model with two hubs that let every answer wait."""
    what = f"check {len(models)} models, two hubs, {LATENCY * 1000:.0f} ms an answer"
    with _hubs(app.folder, models) as (mirror, official):
        hubs = {"HF_ENDPOINT": mirror, "HF_OFFICIAL_ENDPOINT": official}
        command = app.start_app("models", "check")
        (ours,) = in_turn(
            scale.slow_repetitions,
            lambda: to_end(command, app.folder, "up to date", variables=hubs),
        )
        loop = (sys.executable, "-c", LOOP, mirror, official, *models)
        beside = [to_end(loop, app.folder, "compared") for _ in range(max(1, scale.slow_repetitions // 3))]
    yield Claim(what, "start_app.py models check", "model_info() in a loop", "value", 0.9).judge(ours, beside)
    yield Claim(what, "start_app.py models check", "limit: one answer", "difference", None).judge(ours, (LATENCY,))


def pull(scale: Scale, app: App) -> Result:
    """Measure a pull of what is there and known to be whole, against an import of huggingface_hub."""
    claim = Claim(
        f"pull {MODELS} models, all in place",
        "start_app.py models pull",
        f'python -c "{HUB_IMPORT}"',
        "difference",
        0.3,
    )
    return claim.judge(
        *in_turn(
            scale.slow_repetitions,
            lambda: to_end(app.start_app("models", "pull"), app.folder),
            lambda: to_end((sys.executable, "-c", HUB_IMPORT), app.folder),
        )
    )


def locked(scale: Scale, app: App, plain: App) -> Result:
    """Measure what a lock adds to a launch, against the same launch of an app without one."""
    what = f"launch with {MODELS} models locked, {MODELS * FILES} files, {FLAT} flat ones"
    claim = Claim(what, "start_app.py --locked", "start_app.py", "difference", 0.03)
    return claim.judge(
        *in_turn(
            scale.repetitions,
            lambda: to_first_line(app.start_app("--locked"), app.folder),
            lambda: to_first_line(plain.start_app(), plain.folder),
        )
    )


def listing(scale: Scale, app: App) -> Result:
    """Measure the list of every weights file, whose hashes are remembered."""
    claim = Claim(
        f"list {MODELS * FILES} weights files", "start_app.py models list", f'python -c "{HUB_IMPORT}"', "value", 0.3
    )
    return claim.judge(
        *in_turn(
            scale.slow_repetitions,
            lambda: to_end(app.start_app("models", "list"), app.folder, "pinned"),
            lambda: to_end((sys.executable, "-c", HUB_IMPORT), app.folder),
        )
    )


def freeze(scale: Scale, app: App) -> Result:
    """Measure the first freeze of files in a folder against the first verification of the same bytes in a cache."""
    root = app.folder / "cache_hub" / "hub"
    blobs, flat = root / "models--bench--big" / "blobs", app.folder / "checkpoints"
    for folder in (blobs, flat):
        folder.mkdir(parents=True)
    for number in range(4):
        data = os.urandom(scale.big_bytes >> 2)
        (flat / f"{number}.safetensors").write_bytes(data)
        (blobs / hashlib.sha256(data).hexdigest()).write_bytes(data)

    def forgotten(*command: str) -> float:
        for name in ("verified", "verified-local", "../models.lock"):
            (app.folder / ".start_app" / name).unlink(missing_ok=True)
        return to_end(app.start_app(*command), app.folder, variables={"HF_HUB_OFFLINE": "1"})  # only the reading counts

    claim = Claim(
        f"freeze {scale.big_bytes >> 20} MiB",
        "start_app.py models lock --freeze",
        "start_app.py cache verify",
        "ratio",
        1.25,
    )
    return claim.judge(
        *in_turn(
            scale.slow_repetitions,
            lambda: forgotten("models", "lock", "--freeze"),
            lambda: forgotten("cache", "verify"),
        )
    )


def make(folder: Path) -> Mapping[str, LockedModel]:
    """Make a cache of many models in an app's folder, and the lock that pins them."""
    root = folder / "cache_hub" / "hub"
    found: dict[str, LockedModel] = {}
    for number in range(MODELS):
        repo = f"bench/model-{number:03}"
        commit = hashlib.sha1(repo.encode()).hexdigest()
        path = root / f"models--{repo.replace('/', '--')}"
        snapshot = path / "snapshots" / commit
        for part in (path / "blobs", path / "refs", snapshot):
            part.mkdir(parents=True)
        (path / "refs" / "main").write_text(commit)
        files = {}
        for file in range(FILES):
            data = f"{repo} {file}\n".encode() * 20
            digest = hashlib.sha256(data).hexdigest()
            (path / "blobs" / digest).write_bytes(data)
            (snapshot / f"file-{file:03}.safetensors").symlink_to(f"../../blobs/{digest}")
            files[f"file-{file:03}.safetensors"] = LockedFile(len(data), digest)
        found[repo] = LockedModel(repo, "main", commit, None, (), (), files)
    (folder / "checkpoints").mkdir()
    single = {}
    for number in range(FLAT):
        data = f"flat {number}\n".encode() * 20
        (folder / "checkpoints" / f"{number}.pth").write_bytes(data)
        single[f"checkpoints/{number}.pth"] = LockedFile(len(data), hashlib.sha256(data).hexdigest())
    lockfile.write(folder, Lock(found.values(), single, frozen=True))
    return found


@contextmanager
def _hubs(folder: Path, models: Mapping[str, LockedModel]) -> Iterator[tuple[str, str]]:
    import json

    commits = folder / "commits.json"
    commits.write_text(json.dumps({repo: model.commit for repo, model in models.items()}))
    program = (sys.executable, "-c", SERVER, str(commits), str(LATENCY))
    with running(program, ROOT, stdin=subprocess.PIPE) as server:
        ports = server.line().split()
        if len(ports) != 2:
            raise BenchmarkError(f"the hubs have not begun: {server.errors}")
        mirror, official = (f"http://127.0.0.1:{port}" for port in ports)
        yield mirror, official
