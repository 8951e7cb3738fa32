"""What must be true whatever has happened, looked at from outside: in /proc, at the port and on the disk."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from dotenv import dotenv_values

from launcher.models.lockfile import Lock
from launcher.system.marker import Marker, parse
from tests.support.hub import Hub
from tests.support.hub_cache import Library, LibraryError
from tests.support.hub_files import git_sha

MARK = "CHAOS_WORLD"


class ViolationError(AssertionError):
    """Tell what was not true."""


LOOK_SECONDS = 0.03
_LISTEN = "0A"
# What is in the state folder for good, whatever happens: each is one file, or bounded.
_STATE = re.compile(
    r"(\.gitignore|history\.jsonl|(instance|launch)-\d+\.lock|pull\.lock|verified(-\w+)?|locked-views"
    r"|commits|outcomes-\d+\.json|outcomes\.lock|logs(/webui-\d+\.log(\.[1-5])?)?"
    # What a killed launcher has left: the next writer of the file removes it, and any launcher after an hour.
    r")(\.start_app-[0-9a-f]{8})?|(logs/)?\.start_app-probe-[0-9a-f]{8}(/.*)?"
)
_VIEW = re.compile(r"(locked-\d+)-[0-9a-f]+(/.*)?")


class Seen(NamedTuple):
    """Hold a process that runs the app on a port; with its start, the pid names it for ever."""

    pid: int
    start: str
    port: int


def instances(app: Path) -> tuple[Seen, ...]:
    """Return the processes that run the app, by what the kernel says of them."""
    found = {int(name): _instance(int(name), app) for name in os.listdir("/proc") if name.isdigit()}
    own = {pid: one for pid, one in found.items() if one}
    # What an app starts is a copy of the app until its exec.
    return tuple(one for one in own.values() if _parent(one.pid) not in own)


def _instance(pid: int, app: Path) -> Seen | None:
    argv = _argv(pid)
    if len(argv) < 4 or argv[1] not in ("webui.py", f"{app}/webui.py") or "--port" not in argv:
        return None
    try:
        if os.readlink(f"/proc/{pid}/cwd") != str(app):
            return None
        state, start = _stat(pid)
    except OSError:
        return None
    return Seen(pid, start, int(argv[argv.index("--port") + 1])) if state not in "ZX" else None


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _argv(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _stat(pid: int) -> tuple[str, str]:
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return fields[0], fields[19]


def marked(environment: Mapping[str, str], mark: str) -> dict[str, str]:
    """Return an environment by which everything that comes from it is known."""
    return {**environment, MARK: mark}


def owned(mark: str) -> dict[int, str]:
    """Return the living processes that come from this chaos, with their command lines: its mark is inherited by all."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                environment = Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
            if f"{MARK}={mark}".encode() in environment.split(b"\0"):
                found[int(name)] = " ".join(_argv(int(name)))
    return found


def marker(pid: int) -> Marker | None:
    """Return the marker of the instance that a process comes from."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    return next((parse(word.partition("=")[2]) for word in words if word.startswith("START_APP_INSTANCE=")), None)


def settings(app: Path) -> dict[str, str | None]:
    """Return what python-dotenv reads in the app's `.env`."""
    return dict(dotenv_values(app / ".env", interpolate=False))


def contents(folder: Path) -> dict[str, str]:
    """Return every file and link below a folder, with its hash or its target."""
    found = {}
    for parent, folders, names in os.walk(folder):
        for name in (*names, *(name for name in folders if os.path.islink(f"{parent}/{name}"))):
            path = f"{parent}/{name}"
            told = f"-> {os.readlink(path)}" if os.path.islink(path) else sha256(Path(path).read_bytes())
            found[os.path.relpath(path, folder)] = told
    return found


def loadable(cache: Path, repos: tuple[str, ...]) -> dict[str, str]:
    """Return each ref, and each file of each snapshot by its hash, as an app would read them."""
    found = {}
    for repo in repos:
        folder = repo_folder(cache, repo)
        for part in ("refs", "snapshots"):
            for path in sorted((folder / part).rglob("*")):
                if not path.is_dir():
                    found[f"{repo}/{path.relative_to(folder)}"] = (
                        sha256(path.read_bytes()) if path.exists() else "it leads to nothing"
                    )
    return found


def false_pins(lock: Lock, hub: Hub) -> Iterator[str]:
    """Yield each pin of a file that the hub has otherwise in that commit."""
    for model in lock:
        known = hub.repo(model.repo).commits.get(model.commit)
        for path, file in model.files.items():
            there = known.files.get(path) if known else None
            if there is None or file.hash not in (there.etag, sha256(there.data)) or file.size != there.size:
                yield f"models.lock: {model.name} @ {model.commit[:7]}: {path} is pinned as {file}; the hub: {there}"


def is_open(port: int) -> bool:
    """Tell whether anybody listens on a port."""
    wanted = f":{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1].endswith(wanted) and line.split()[3] == _LISTEN for line in lines)


class Watch(threading.Thread):
    """Look all the time for two instances on one port."""

    def __init__(self, app: Path) -> None:
        super().__init__(daemon=True)
        self._app = app
        self._over = threading.Event()
        self.looks = 0
        self.violations: list[str] = []

    def run(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Look once; of several that were seen one after the other, those count that then still live."""
        self.looks += 1
        found = instances(self._app)
        for port in {one.port for one in found}:
            here = [one for one in found if one.port == port]
            if len(here) > 1:
                still = [one for one in here if _instance(one.pid, self._app) == one]
                if len(still) > 1:
                    self.violations.append(f"{len(still)} instances at once on port {port}: {still}")

    def close(self) -> None:
        self._over.set()
        self.join(10)


def repo_folder(cache: Path, repo: str) -> Path:
    return cache / f"models--{repo.replace('/', '--')}"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def is_file_right(path: Path, name: str) -> bool:
    """Tell whether a blob is what its name says."""
    data = path.read_bytes()
    return name == (hashlib.sha256(data).hexdigest() if len(name) == 64 else git_sha(data))


def wrong_refs(cache: Path, hub: Hub, repos: tuple[str, ...]) -> Iterator[str]:
    """Yield each ref of these repos that leads to anything but a whole and right commit."""
    for repo in repos:
        folder = repo_folder(cache, repo)
        for path in sorted((folder / "refs").rglob("*")):
            if path.is_file():
                commit = path.read_text()
                ref = f"{repo}: {path.relative_to(folder)} at {commit[:7] or 'nothing'}"
                if commit not in hub.repo(repo).commits:
                    yield f"{ref}: no commit of the hub's"
                else:
                    yield from (f"{ref}: {one}" for one in _wrong_files(folder / "snapshots" / commit, hub, repo))


def _wrong_files(base: Path, hub: Hub, repo: str) -> Iterator[str]:
    files = {path: file.data for path, file in hub.repo(repo).commits[base.name].files.items()}
    there = {path.relative_to(base).as_posix() for path in base.rglob("*") if not path.is_dir()}
    for path in sorted(files.keys() | there):
        if path not in there or not (base / path).exists():
            yield f"{path} is lacking"
        elif path not in files:
            yield f"{path} is too much"
        elif (base / path).read_bytes() != files[path]:
            yield f"{path} is damaged"


def not_whole(
    cache: Path, hub: Hub, library: Library, repos: tuple[str, ...], pinned: Collection[str] = ()
) -> Iterator[str]:
    """Yield what is neither whole nor gone in a cache in which nothing is at work any more, by the library itself.

    A `pinned` commit whose pull has failed may lack files: the next pull goes on with it.
    """
    if not cache.is_dir():
        return
    for warning in library.scan(cache)["warnings"]:
        if "notes.txt" not in warning:
            yield f"scan: {warning}"
    for entry in sorted(os.listdir(cache)):
        if entry.startswith(".start_app-trash-"):
            yield f"trash: {entry}"
    for repo in repos:
        folder = repo_folder(cache, repo)
        yield from (f"trash: {repo}/{path.name}" for path in folder.glob(".start_app-trash-*"))
        yield from (f"partial: {repo}/{path.name}" for path in folder.glob("blobs/*.incomplete"))
        blobs = [path for path in sorted(folder.glob("blobs/*")) if path.suffix != ".incomplete"]
        yield from (f"{repo}: blob {path.name[:12]} is damaged" for path in blobs if not is_file_right(path, path.name))
        yield from wrong_refs(cache, hub, (repo,))
        for snapshot in sorted((folder / "snapshots").glob("*")):
            files = {path: file.data for path, file in hub.repo(repo).commits[snapshot.name].files.items()}
            try:
                loaded = library.load(cache, repo, snapshot.name)
            except LibraryError as error:
                yield f"{repo} @ {snapshot.name[:7]}: {error}"
            else:
                is_begun = snapshot.name in pinned and loaded.items() <= files.items()
                if loaded != files and not is_begun:
                    yield f"{repo} @ {snapshot.name[:7]} does not load as it is on the hub"


def folder_commit(folder: Path, hub: Hub, repo: str, left: Collection[str]) -> str | None:
    """Return the commit that a folder of the app's own holds, blank for an empty one, None for a mixture.

    `left` are files that may lie there besides.
    """
    there = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] != ".cache"
    }
    if there.keys() <= {*left}:
        return ""
    for sha, commit in hub.repo(repo).commits.items():
        files = {path: file.data for path, file in commit.files.items()}
        if there.items() >= files.items() and there.keys() - files.keys() <= {*left}:
            return sha
    return None


def litter(app: Path, folder: str) -> Iterator[str]:
    """Yield what lies about that nothing will ever need, once a launch has come to its end with nothing beside it."""
    state = app / ".start_app"
    views: dict[str, set[str]] = {}
    for path in sorted(state.rglob("*")):
        name = path.relative_to(state).as_posix()
        view = _VIEW.fullmatch(name)
        if view:
            views.setdefault(view[1], set()).add(name.partition("/")[0])
        elif not _STATE.fullmatch(name):
            yield f"state: {name}"
    yield from (f"views: {sorted(found)}" for found in views.values() if len(found) > 1)
    yield from (f"beside the app: {path.name}" for path in app.glob(".models.lock.*"))
    staged = (path.name for path in (app / folder / ".cache" / "start_app").glob("*"))
    yield from (f"staged: {name}" for name in staged if not name.startswith("kept-"))  # those wait for a page
    notes = app / folder / ".cache" / "huggingface"
    odd = (path for path in notes.rglob("*") if path.is_file() and path.suffix not in (".metadata", ".lock"))
    yield from (f"note: {path.name}" for path in odd if path.name not in (".gitignore", "CACHEDIR.TAG"))
