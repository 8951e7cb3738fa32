"""The story that the launcher was made for, on the layout that IndexTTS2 has: an upgrade that a mirror holds back.

V22 runs, V23 is published, the mirror lags. The lag is named, the refresh goes by commit, and V23 is what runs.
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.models import lockfile
from tests.support.apps import AppFolder, Processes, Running, eventually, get
from tests.support.hub_cache import Library
from tests.support.pulled import CODEC, FOLDER, MODEL, NEW, OLD, OTHER, Pulled, clear_cache, pulled_app

pytestmark = pytest.mark.slow

# It loads its weights from its folders as IndexTTS2 does, keeps them mapped, and shows on its page what they are and
# what the launcher has told it.
WEBUI = """\
import argparse, hashlib, http.server, json, mmap, os

os.environ["HF_HUB_CACHE"] = "./checkpoints/hf_cache"
parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int)
port = parser.parse_args().port
kept, loaded = [], {}
for folder, folders, names in os.walk("checkpoints"):
    folders[:] = [name for name in folders if not name.startswith(".")]
    for name in names:
        if name.endswith((".safetensors", ".bin")):
            descriptor = os.open(os.path.join(folder, name), os.O_RDONLY)
            kept.append(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))
            os.close(descriptor)
            loaded[os.path.relpath(os.path.join(folder, name), "checkpoints")] = hashlib.sha256(kept[-1]).hexdigest()


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        text = os.environ.get("START_APP_MODELS_TEXT", "")
        body = json.dumps({"pid": os.getpid(), "loaded": loaded, "text": text}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", port), Page).serve_forever()
"""


@pytest.fixture
def pulled(app: AppFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulled]:
    with pulled_app(app, tmp_path_factory.getbasetemp()) as made:
        made.app.script.write_text(WEBUI)
        yield made


def start(pulled: Pulled, processes: Processes, *arguments: str) -> Running:
    running = processes.launch(*pulled.app.arguments, *arguments)
    eventually(lambda: f'"pid": {running.pid},' in (get(pulled.app.port) or ""), what=running.err)
    return running


def page(pulled: Pulled) -> dict[str, object]:
    with urllib.request.urlopen(f"http://127.0.0.1:{pulled.app.port}/", timeout=10) as answer:
        document: dict[str, object] = json.load(answer)
        return document


def download(pulled: Pulled, folder: Path, repo: str, commit: str) -> None:
    """Have huggingface_hub download a commit as `hf download --local-dir` does."""
    with Library(pulled.hub, env={"HF_HUB_CACHE": str(pulled.cache)}) as library:
        library.ask("download_to", str(folder), repo, commit)


def mapped(pulled: Pulled, old: bytes) -> bool:
    """Return whether the page says that these weights are loaded."""
    import hashlib

    return hashlib.sha256(old).hexdigest() in json.dumps(page(pulled)["loaded"])


@pytest.mark.parametrize("lock", [True, False], ids=["locked once", "without a lock"])
def test_an_upgrade_that_a_mirror_holds_back_is_the_one_that_runs(
    lock: bool, pulled: Pulled, processes: Processes
) -> None:
    clear_cache(pulled)
    pulled.hub.freeze(MODEL, sha=pulled.old)  # V23 is not published yet
    pulled.mirror.freeze(MODEL, sha=pulled.old)
    download(pulled, pulled.folder, MODEL, "main")
    download(pulled, pulled.folder / "hf_cache" / "codec", OTHER, "main")
    if lock:
        assert pulled.run("models", "lock", MODEL, "--local-dir", FOLDER).status == 0
    start(pulled, processes)
    assert mapped(pulled, OLD["gpt.safetensors"])
    pulled.hub.thaw()
    done = pulled.run("models", "check")
    assert done.status == 80
    assert "local behind" in done.out
    assert pulled.old[:7] in next(line for line in done.out.splitlines() if MODEL in line).split()[3:5]
    new = start(pulled, processes, "--force-refresh")
    assert (
        f"model: {MODEL} in {FOLDER} @ {pulled.new[:7]}" in new.err or f"model: {MODEL} @ {pulled.new[:7]}" in new.err
    )
    assert mapped(pulled, NEW["gpt.safetensors"]) and not mapped(pulled, OLD["gpt.safetensors"])
    if lock:
        assert pulled.new[:7] in str(page(pulled)["text"])
        assert f"model: {MODEL} @ {pulled.new[:7]}" in pulled.run("status").out
    assert pulled.old[:7] not in pulled.run("status").out
    listed = {one["file"]: one for one in pulled.run("models", "list", "--json").json["files"]}
    gpt = listed[f"{FOLDER}/gpt.safetensors"]
    assert (gpt["repo"], gpt["commit"], gpt["loaded"]) == (MODEL, pulled.new, "yes") or lock
    assert gpt["changed"] is None


LAYOUTS = ("hub cache in checkpoints/hf_cache", "flat local dirs", "flat files by hand")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_of_the_app_s_history_is_named_pinned_and_checked(
    layout: str, pulled: Pulled, processes: Processes
) -> None:
    clear_cache(pulled)
    cache = pulled.folder / "hf_cache"
    download(pulled, pulled.folder, MODEL, pulled.new)
    if layout == LAYOUTS[0]:
        with Library(pulled.hub) as library:
            library.download(cache, OTHER)
    elif layout == LAYOUTS[1]:
        download(pulled, cache / "codec", OTHER, "main")
    else:
        for path, data in CODEC.items():
            (cache / path).parent.mkdir(parents=True, exist_ok=True)
            (cache / path).write_bytes(data)
        for notes in pulled.folder.rglob("*.metadata"):
            notes.unlink()
    start(pulled, processes)
    listed = {os.path.basename(one["path"]): one for one in pulled.run("models", "list", "--json").json["files"]}
    assert {"gpt.safetensors", "same.bin", "deep.bin", "semantic.safetensors"} <= set(listed)
    assert {one["loaded"] for one in listed.values()} == {"yes"}
    assert pulled.run("models", "lock", "--freeze").status == 0
    lock = lockfile.read(pulled.app.path)
    assert lock is not None
    pinned = {os.path.basename(path) for model in lock for path in model.files} | set(map(os.path.basename, lock.files))
    assert set(listed) <= pinned
    running = start(pulled, processes, "--locked")
    assert mapped(pulled, CODEC["semantic.safetensors"])
    done = pulled.run("models", "check")
    assert done.status == 0, done.out + done.err
    target = Path(listed["semantic.safetensors"]["path"]).resolve()
    status, data = target.stat(), target.read_bytes()
    target.write_bytes(bytes((data[0] ^ 1,)) + data[1:])
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    refused = pulled.run("--locked", "--no-launch")
    assert refused.status == 65, refused.err
    assert running.process.poll() is None
    assert "changed: " in pulled.run("status").out
