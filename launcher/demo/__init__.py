"""Create a playground atomically, and never over foreign files.

It is a folder with a real Gradio app, its `.env` and a model cache in the layout of the Hugging Face hub, written
offline, so that every command of the launcher can be tried without risk. Its bytes are the same each time. An existing
playground belongs to its user: a model removed from it does not come back.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ExitStatus, LauncherError
from ..system import files
from ..ui import text

MARKER = ".start_app_demo"
HUB_CACHE = "cache_hub/hub"
HUB = "hub"
"""The folder with what the playground's own Hub serves."""
_MARKER_LINE = b"playground of start_app.py --demo\n"
_MARKER_TEXT = _MARKER_LINE + b"# This file says so: without it the launcher takes the folder for somebody's own.\n"
_BUILDING = ".start_app_demo-building-"
# Another launcher fills its playground in milliseconds; a longer holder is not a launcher.
_LOCK_PATIENCE_S = 5.0

# systemd's EnvironmentFile= and python-dotenv read each of these lines in the same way.
_ENV = b"""\
# The settings of this app: start_app.py hands every line to it.
# The models of the playground, and nothing of the cache in your home folder.
HF_HOME=./cache_hub
# The mirror that models come from. It is on this machine and lags behind the Hub.
HF_ENDPOINT=http://127.0.0.1:%(port)d/mirror
# The Hub of the playground, also on this machine. A --demo command that needs it starts it.
HF_OFFICIAL_ENDPOINT=http://127.0.0.1:%(port)d
# Gradio reports each start to its makers unless told not to.
GRADIO_ANALYTICS_ENABLED=False
# Gradio asks its own page once at the start, which must not go through a proxy.
NO_PROXY=localhost,127.0.0.1,::1
"""

# https://bford.info/cachedir/, with the text of huggingface_hub 1.9 and later.
_CACHEDIR_TAG = b"""\
Signature: 8a477f597d28d172789f06886806bc55
# This file is a cache directory tag created by huggingface_hub.
# For information about cache directory tags, see:
#\thttps://bford.info/cachedir/
"""

_EMOTIONS = ("happy", "angry", "sad", "afraid", "disgusted", "melancholic", "surprised", "calm")


class _DemoModel(NamedTuple):
    repo: str
    version: str
    hidden: int
    emotions: tuple[str, ...] = ()
    date: str = "2026-09-01T12:00:00.000Z"


class _Contents(NamedTuple):
    """Hold a whole playground: relative paths with their bytes, and relative paths with their symlinks' targets."""

    files: Mapping[str, bytes]
    links: Mapping[str, str]


_MODELS = (
    _DemoModel("koge/index-tts-v22", "2.2", 64),
    _DemoModel("koge/index-tts-v23", "2.3", 80, _EMOTIONS),
)
# What the Hub has and its mirror does not know yet.
_NEWER = (_DemoModel("koge/index-tts-v23", "2.3.1", 96, (*_EMOTIONS, "tired"), "2026-11-20T12:00:00.000Z"),)
# Ports below those that the kernel gives to outgoing connections.
_FIRST_PORT, _PORTS = 20000, 12000


def make_playground(folder: Path) -> bool:
    """Create the playground at `folder` and return True, or leave an existing one unchanged and return False.

    It is built next to `folder` and renamed into place: if the launcher is killed at any instant, it exists completely
    or not at all, and the next call removes the rest. An empty folder may be replaced, except the current one: the
    rename would remove the folder of the user's shell.

    Raises LauncherError (78) if another folder or file is there, or if it cannot be written.
    """
    target = Path(os.path.realpath(folder))
    try:
        if _is_playground(target):
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target.parent) as locked:
            if _is_playground(target):
                return False
            if locked:
                _remove_leftovers(target.parent)
            _build(target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise LauncherError(
            f"cannot make the demo folder {folder}: {reason} ({error.filename or target})",
            "start_app.py --demo --app-dir DIR, with a DIR that you can write to",
            ExitStatus.CONFIG,
        ) from error
    return True


def _is_playground(target: Path) -> bool:
    """Return whether `target` is a playground, or False if it can become one; raise LauncherError otherwise."""
    if not os.path.lexists(target):
        return False
    if not target.is_dir():
        raise _refused(f"{target} is not a folder")
    refuse_foreign(target)
    if _is_marked(target):
        return True
    with os.scandir(target) as entries:
        if next(entries, None) is not None:
            raise _refused(f"{target} is not empty and not a demo folder")
    if target.samefile(os.curdir):
        raise _refused(f"{target} is the current folder, and the demo folder would replace it")
    return False


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder of another user, who controls its app, its settings and its marker.

    Raises LauncherError (78).
    """
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        raise _refused(f"{folder} belongs to user {text.user(owner)}, not to user {text.user(os.geteuid())}")


def _refused(message: str) -> LauncherError:
    return LauncherError(message, "start_app.py --demo --app-dir DIR, with a new DIR")


def _is_marked(folder: Path, *, begun: bool = False) -> bool:
    """Return whether our marker is in `folder`; `begun` also accepts the partial or empty marker of a killed build."""
    try:
        with (folder / MARKER).open("rb") as file:
            line = file.read(len(_MARKER_LINE))
    except (FileNotFoundError, IsADirectoryError):
        return False
    return line == _MARKER_LINE or (begun and _MARKER_LINE.startswith(line))


@contextmanager
def _lock(parent: Path) -> Iterator[bool]:
    """Hold the flock of `parent` while a playground is built in it; yield whether it was taken.

    It proves that no other launcher builds there, and the end of its holder releases it, even kill -9. The folder
    itself is locked, so no lock file is left. Without it (NFS, a foreign holder) the rename alone decides.
    """
    try:
        descriptor = files.open_folder(parent, follow=True)
    except PermissionError:
        yield False
        return
    try:
        locked = False
        with suppress(OSError):  # a file system without flock
            locked = files.lock_within(descriptor, _LOCK_PATIENCE_S)
        yield locked
    finally:
        os.close(descriptor)


def _remove_leftovers(parent: Path) -> None:
    """Remove the unfinished playgrounds of killed launchers in `parent`, under its lock.

    Only proven ones: our name, a real folder of this user, and our marker, the first file that a build writes; or
    empty. A folder that cannot be removed does no harm and stays.
    """
    for path in parent.glob(f"{_BUILDING}*"):
        try:
            if path.is_symlink() or not path.is_dir() or path.stat().st_uid != os.geteuid():
                continue
            if _is_marked(path, begun=True):
                _remove_tree(path)
            else:
                path.rmdir()
        except OSError:
            continue


def _remove_tree(path: Path) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)


def _build(target: Path) -> None:
    import secrets
    import shutil

    contents = _contents(_port_of(target))
    building = target.parent / f"{_BUILDING}{secrets.token_hex(4)}"
    building.mkdir()
    try:
        # The marker comes first: from here on, the leftovers of a killed build are provably ours.
        (building / MARKER).write_bytes(_MARKER_TEXT)
        _write(building, contents)
        if target.exists():
            shutil.copymode(target, building)
            if os.name == "nt":
                target.rmdir()
        building.rename(target)
    except BaseException:
        _remove_tree(building)
        raise


def _write(root: Path, contents: _Contents) -> None:
    for name, data in contents.files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for name, destination in contents.links.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.symlink_to(destination)
        except OSError:
            # Without symlinks (Windows, vfat), huggingface_hub keeps the file itself in the snapshot.
            (path.parent / destination).rename(path)


def _port_of(target: Path) -> int:
    """Return the port of a playground's Hub: the same each time, and another one for another folder."""
    import zlib

    return _FIRST_PORT + zlib.crc32(os.fsencode(target)) % _PORTS


def _contents(port: int) -> _Contents:
    files = {
        ".env": _ENV % {b"port": port},
        # A playground inside a checkout is not part of it.
        ".gitignore": b"*\n",
        **{name: Path(__file__).with_name(name).read_bytes() for name in ("webui.py", "page.css", "page.js")},
        f"{HUB_CACHE}/CACHEDIR.TAG": _CACHEDIR_TAG,
    }
    links: dict[str, str] = {}
    repos: dict[str, dict[str, Any]] = {}
    for model in (*_MODELS, *_NEWER):
        named = _files_of(model)
        commit = _commit_of(model, named)
        if model not in _NEWER:
            _add_to_cache(model.repo, commit, named, (files, links))
        repo = repos.setdefault(model.repo, {"mirror": commit, "commits": {}})
        repo["hub"] = commit
        repo["commits"][commit] = model.date
        files.update((f"{HUB}/{model.repo}/{commit}/{name}", data) for name, data in named.items())
    files[f"{HUB}/index.json"] = _json(repos)
    return _Contents(files, links)


def _files_of(model: _DemoModel) -> dict[str, bytes]:
    return {"README.md": _readme(model), "config.json": _config(model), "model.safetensors": _weights(model)}


def _blobs_of(named: Mapping[str, bytes]) -> dict[str, str]:
    """Return the name of each content as on the Hub: git's own blob hash for a file in git, sha256 for one in LFS."""
    from .hub import hash_of

    return {name: hash_of(name, data) for name, data in named.items()}


def _commit_of(model: _DemoModel, named: Mapping[str, bytes]) -> str:
    return _sha1("\n".join([model.repo, *_blobs_of(named).values()]).encode())


def _json(content: object) -> bytes:
    import json

    return json.dumps(content, indent=2).encode() + b"\n"


def _add_to_cache(
    repo: str, commit: str, named: Mapping[str, bytes], into: tuple[dict[str, bytes], dict[str, str]]
) -> None:
    """Add a commit in the hub's layout: blobs named by their hash, a ref to it, a snapshot that links to blobs.

    https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    """
    files, links = into
    folder = f"{HUB_CACHE}/models--{repo.replace('/', '--')}"
    files[f"{folder}/refs/main"] = commit.encode()
    for name, blob in _blobs_of(named).items():
        files[f"{folder}/blobs/{blob}"] = named[name]
        links[f"{folder}/snapshots/{commit}/{name}"] = f"../../blobs/{blob}"


def _sha1(data: bytes) -> str:
    import hashlib

    # This is a name, not a safeguard: FIPS builds of Python refuse it otherwise.
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def _config(model: _DemoModel) -> bytes:
    config: dict[str, object] = {
        "architectures": ["IndexTTS"],
        "hidden_size": model.hidden,
        "model_type": "index-tts",
        "sampling_rate": 22050,
        "torch_dtype": "float32",
        "version": model.version,
    }
    if model.emotions:
        config["emotion"] = {"dimensions": list(model.emotions), "max_strength": 1.0}
    return _json(config)


def _readme(model: _DemoModel) -> bytes:
    emotion = "Emotion control: " + (", ".join(model.emotions) if model.emotions else "none") + "."
    return f"""\
---
library_name: index-tts
pipeline_tag: text-to-speech
tags:
- demo
---

# {model.repo}

A stand-in made by `start_app.py --demo`: the files of a text-to-speech model, with made-up weights.

{emotion}
""".encode()


def _weights(model: _DemoModel) -> bytes:
    """Return a valid safetensors file: header length (u64 LE), JSON header padded to 8 bytes, tensors.

    https://github.com/huggingface/safetensors#format
    """
    import hashlib
    import json
    import struct

    shapes = {
        "text_embedding.weight": [128, model.hidden],
        "decoder.layers.0.weight": [model.hidden, model.hidden],
        "decoder.layers.0.bias": [model.hidden],
    }
    if model.emotions:
        shapes["emotion_embedding.weight"] = [len(model.emotions), model.hidden]
    header: dict[str, object] = {"__metadata__": {"format": "pt", "version": model.version}}
    count = 0
    for name, shape in shapes.items():
        start, count = count, count + math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start * 4, count * 4]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    # The hash is a source of noise that is the same on every Python.
    noise = hashlib.shake_256(f"{model.repo}{model.date if model in _NEWER else ''}".encode()).digest(count)
    values = [(byte - 127.5) / 1275 for byte in noise]
    return struct.pack("<Q", len(head)) + head + struct.pack(f"<{count}f", *values)
