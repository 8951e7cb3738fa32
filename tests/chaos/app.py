"""The app of the chaos: it loads each model as huggingface_hub does offline, and its page tells what it got."""

from __future__ import annotations

import argparse
import hashlib
import http.server
import json
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LARGE = "gpt.safetensors"
DIED = 3
HELPER = "chaos-helper"
"""A word of the command line of what the app starts beside itself, which outlives it when it is killed."""


def load(hub: str, repo: str) -> dict[str, Any] | None:
    """Return the commit that `main` is and every file of it as its hash, read while nothing of that has changed."""
    folder = f"{hub}/models--{repo.replace('/', '--')}"
    while True:
        before = _stamp(folder)
        if before is None:
            return None
        commit, base = before[0], f"{folder}/snapshots/{before[0]}"
        files: dict[str, str | None] = {}
        for parent, _, names in os.walk(base):
            for name in names:
                path = f"{parent}/{name}"
                files[os.path.relpath(path, base)] = digest(path)
        if _stamp(folder) == before:
            return {"commit": commit, "files": files}


def digest(path: str) -> str | None:
    """Return the sha256 of a file, None where it leads to nothing."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except FileNotFoundError:
        return None


def _stamp(folder: str) -> tuple[str, tuple[int, ...]] | None:
    """Return what `main` is, and what changes when the ref, the snapshot or the repo was another one meanwhile."""
    try:
        commit = Path(f"{folder}/refs/main").read_text()
        found = [os.stat(path) for path in (f"{folder}/refs/main", f"{folder}/snapshots/{commit}", folder)]
    except OSError:
        return None
    return commit, (*(one.st_ino for one in found), found[0].st_ctime_ns)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--api-key")
    parser.add_argument("--load", type=float, default=0, help="seconds before the port opens")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--die", action="store_true", help="end before the port opens")
    parser.add_argument("--helper", action="store_true", help="start a process beside the app")
    args = parser.parse_args()
    if args.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hub = os.environ.get("HF_HUB_CACHE") or os.environ["HF_HOME"] + "/hub"
    repos = os.environ["CHAOS_MODELS"].split()
    loaded = {repo: load(hub, repo) for repo in repos}
    kept = []
    first = loaded[repos[0]]
    if first:
        try:
            path = f"{hub}/models--{repos[0].replace('/', '--')}/snapshots/{first['commit']}/{LARGE}"
            with open(path, "rb") as file:
                kept.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError:
            pass  # removed since
    told = {
        "pid": os.getpid(),
        "models": json.loads(os.environ.get("START_APP_MODELS", "{}")),
        "offline": os.environ.get("HF_HUB_OFFLINE") == "1",
        "loaded": loaded,
        "mapped": bool(kept),
    }
    if args.helper:
        words = (sys.executable, "-c", "import time; time.sleep(10000)", HELPER)
        subprocess.Popen(words, start_new_session=os.getpid() % 2 == 0)
    time.sleep(args.load)
    if args.die:
        print("cannot load", flush=True)
        sys.exit(DIED)

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            body = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    http.server.ThreadingHTTPServer(("127.0.0.1", args.port), Page).serve_forever()


if __name__ == "__main__":
    main()
