"""The caches that tests use are written, read and scanned by huggingface_hub itself, each version in its own process.

A `Library` is one child with the library imported. It forks for every question, so that each is answered by a process
that has never seen the cache: 2.x keeps trees in memory, and what it remembers would hide what is on the disk. One
thing is changed in the library: it writes what it has received every 64 KiB and not every 10 MiB, so that a small
download that is cut half-way leaves half a file, as a big one does.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import psutil

from tests.support.apps import Processes, Running, clean_environment
from tests.support.hub import Hub

Wanted = tuple[str, str, str]
"""Repository, revision and type."""
Loads = Callable[..., "list[dict[str, bytes] | None]"]
"""What loads offline of some repos of a cache."""

QUESTIONS = """\
import json, os, pickle, sys, traceback
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors, file_download, scan_cache_dir, snapshot_download

constants.DOWNLOAD_CHUNK_SIZE = 1 << 16


def download(cache, repo, revision, repo_type, symlinks=True):
    if not symlinks:
        file_download.are_symlinks_supported = lambda cache_dir=None: False
    # Threads race to mark a new shared store, and a file whose thread loses stays out of it: one goes first.
    workers = 8 if os.path.isdir(os.path.join(cache, "blobs")) else 1
    return snapshot_download(repo, revision=revision, repo_type=repo_type, cache_dir=cache, max_workers=workers)


def download_to(folder, repo, revision):
    return snapshot_download(repo, revision=revision, local_dir=folder)


def load(cache, repo, revision, repo_type):
    try:
        found = snapshot_download(repo, revision=revision, repo_type=repo_type, cache_dir=cache, local_files_only=True)
    except errors.LocalEntryNotFoundError:
        return None
    files = (path for path in Path(found).rglob("*") if path.is_symlink() or path.is_file())
    return {path.relative_to(found).as_posix(): path.read_bytes() for path in files}


def scan(cache):
    found = scan_cache_dir(cache)
    return {
        "size_on_disk": found.size_on_disk,
        "warnings": sorted(str(warning) for warning in found.warnings),
        "repos": [
            {
                "repo_id": repo.repo_id,
                "repo_type": repo.repo_type,
                "size_on_disk": repo.size_on_disk,
                "nb_files": repo.nb_files,
                "last_accessed": repo.last_accessed,
                "last_modified": repo.last_modified,
                "revisions": [
                    {
                        "commit_hash": revision.commit_hash,
                        "refs": sorted(revision.refs),
                        "size_on_disk": revision.size_on_disk,
                        "nb_files": len(revision.files),
                        "last_modified": revision.last_modified,
                    }
                    for revision in sorted(repo.revisions, key=lambda revision: revision.commit_hash)
                ],
            }
            for repo in sorted(found.repos, key=lambda repo: (repo.repo_type, repo.repo_id))
        ],
    }


def api(method, arguments, keywords):
    found = getattr(huggingface_hub.HfApi(), method)(*arguments, **keywords)
    found = found if hasattr(found, "__dict__") else list(found)
    return json.loads(json.dumps(found, default=lambda value: getattr(value, "__dict__", None) or str(value)))


def version():
    return huggingface_hub.__version__


def answer(question):
    try:
        return True, globals()[question[0]](*question[1:])
    except Exception as error:
        return False, (type(error).__name__, str(error), traceback.format_exc())


def main():
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            question = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        if os.fork() == 0:
            pickle.dump(answer(question), answers, protocol=4)
            answers.flush()
            os._exit(0)
        _, status = os.wait()
        if status:
            pickle.dump((False, ("Killed", f"status {status}", "")), answers, protocol=4)
            answers.flush()
"""
ASK = QUESTIONS + "\n\nmain()\n"
DOWNLOAD = QUESTIONS + "\n\nsymlinks, *wanted = sys.argv[1:]\nprint(download(*wanted, symlinks == '1'))\n"
CLI = """\
try:
    from huggingface_hub.cli.hf import main
except ImportError:
    from huggingface_hub.commands.huggingface_cli import main
main()
"""


class LibraryError(Exception):
    """Carry what huggingface_hub raised in the child: the name of its class, its message and the traceback there."""

    def __init__(self, name: str, message: str, traceback: str) -> None:
        super().__init__(f"{name}: {message}\n{traceback}")
        self.name = name
        self.message = message


def environment(
    home: Path, hub: Hub | None = None, cache: Path | None = None, env: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return an environment in which huggingface_hub knows the loopback only; without a hub it is offline."""
    return clean_environment(
        **{
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(cache or home / "hub"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "PYTHONWARNINGS": "ignore",
            **({"HF_ENDPOINT": hub.endpoint} if hub else {"HF_HUB_OFFLINE": "1"}),
            **(env or {}),
        }
    )


class Library:
    """Ask the huggingface_hub of an interpreter, over a pipe; without a hub it is offline."""

    def __init__(
        self, hub: Hub | None = None, *, python: str | Path = sys.executable, env: Mapping[str, str] | None = None
    ) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="hf-home-")
        self._process = subprocess.Popen(
            (str(python), "-c", ASK),
            env=environment(Path(self._home.name), hub, env=env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Library:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the child; a question that hangs does not keep it."""
        assert self._process.stdin
        assert self._process.stdout
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            for child in psutil.Process(self._process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    child.kill()
            self._process.kill()
            self._process.wait(10)
        self._process.stdout.close()
        self._home.cleanup()

    def ask(self, question: str, *arguments: Any) -> Any:
        """Ask one question; raise LibraryError with what the library raised."""
        assert self._process.stdin
        assert self._process.stdout
        pickle.dump((question, *arguments), self._process.stdin, protocol=4)
        self._process.stdin.flush()
        fine, answer = pickle.load(self._process.stdout)
        if not fine:
            raise LibraryError(*answer)
        return answer

    def version(self) -> str:
        return cast("str", self.ask("version"))

    def api(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Call a method of HfApi and return what came of it as JSON would have it."""
        return self.ask("api", method, arguments, keywords)

    def download(
        self, cache: Path, repo: str, revision: str = "main", *, repo_type: str = "model", symlinks: bool = True
    ) -> str:
        """Download a snapshot and return its path; without symlinks as on Windows, whatever the version."""
        return cast("str", self.ask("download", str(cache), repo, revision, repo_type, symlinks))

    def load(
        self, cache: Path, repo: str, revision: str = "main", *, repo_type: str = "model"
    ) -> dict[str, bytes] | None:
        """Return the files of a snapshot that loads without the network, by their paths, or None if it does not.

        A snapshot whose files cannot be read, like one with a broken link, raises LibraryError.
        """
        return cast("dict[str, bytes] | None", self.ask("load", str(cache), repo, revision, repo_type))

    def scan(self, cache: Path) -> dict[str, Any]:
        """Return what the library sees in a cache, as JSON would have it."""
        return cast("dict[str, Any]", self.ask("scan", str(cache)))


def download_many(
    hub: Hub,
    cache: Path,
    wanted: Iterable[Wanted],
    *,
    python: str | Path = sys.executable,
    env: Mapping[str, str] | None = None,
    symlinks: bool = True,
) -> list[str]:
    """Download snapshots from a hub and return their paths."""
    with Library(hub, python=python, env=env) as library:
        return [
            library.download(cache, repo, revision, repo_type=repo_type, symlinks=symlinks)
            for repo, revision, repo_type in wanted
        ]


def download(
    hub: Hub,
    cache: Path,
    repo: str,
    revision: str = "main",
    *,
    repo_type: str = "model",
    python: str | Path = sys.executable,
    env: Mapping[str, str] | None = None,
    symlinks: bool = True,
) -> str:
    """Download a snapshot from a hub and return its path."""
    return download_many(hub, cache, [(repo, revision, repo_type)], python=python, env=env, symlinks=symlinks)[0]


def start_download(
    processes: Processes,
    hub: Hub,
    cache: Path,
    repo: str,
    revision: str = "main",
    *,
    repo_type: str = "model",
    python: str | Path = sys.executable,
    env: Mapping[str, str] | None = None,
    symlinks: bool = True,
) -> Running:
    """Start a download in the background; it prints the snapshot's path when it is done."""
    command = (python, "-c", DOWNLOAD, str(int(symlinks)), cache, repo, revision, repo_type)
    return processes.start(command, env=environment(processes.folder / "hf-home", hub, cache, env))


def loads_offline_many(
    cache: Path, wanted: Iterable[Wanted], *, python: str | Path = sys.executable
) -> list[dict[str, bytes] | None]:
    """Return the files of each snapshot that loads without the network, and None for each that does not."""
    with Library(python=python) as library:
        return [library.load(cache, repo, revision, repo_type=repo_type) for repo, revision, repo_type in wanted]


def loads_offline(
    cache: Path, repo: str, revision: str = "main", *, repo_type: str = "model", python: str | Path = sys.executable
) -> dict[str, bytes] | None:
    """Return the files of a snapshot that loads without the network, or None."""
    return loads_offline_many(cache, [(repo, revision, repo_type)], python=python)[0]


def scan(cache: Path, *, python: str | Path = sys.executable) -> dict[str, Any]:
    """Return what an interpreter's huggingface_hub sees in a cache."""
    with Library(python=python) as library:
        return library.scan(cache)


def hf(
    cache: Path,
    *arguments: str | Path,
    python: str | Path = sys.executable,
    hub: Hub | None = None,
    env: Mapping[str, str] | None = None,
) -> tuple[int, str, str]:
    """Run the library's own command (`hf`, or `huggingface-cli` where there is none) and return what it left."""
    words: Sequence[str] = [str(word) for word in arguments]
    with tempfile.TemporaryDirectory(prefix="hf-home-") as home:
        done = subprocess.run(
            (str(python), "-c", CLI, *words),
            env=environment(Path(home), hub, cache, env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
    return done.returncode, done.stdout, done.stderr
