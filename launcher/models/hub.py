"""The only way to a hub: a child process with a question and a deadline.

huggingface_hub's first request has no time-out in any version, and a download cannot be stopped from outside; a child
can be ended at any instant. Its answer is data from a stranger, so it is checked before it is used.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..cache.names import HASH
from ..errors import ExitStatus, LauncherError, quoted
from ..system import requirements
from . import repo_id
from .endpoints import Endpoint
from .lockfile import LockedFile

REQUIREMENT = "huggingface_hub>=0.30,<3"
DEFAULT_SECONDS = 10.0
TREE_SECONDS = 60.0
# The time for an import of huggingface_hub on a slow disk, before the first question.
_START_SECONDS = 60.0
_TICK_SECONDS = 0.2
_WORKER = Path(__file__).with_name("worker.py")
# A script's own folder would be first on sys.path, so its neighbours would shadow other packages. The current folder
# must not be there either: anybody may have put a runpy.py into it.
_BOOT = (
    "import sys; sys.path[:1] == [''] and sys.path.pop(0); "
    "import runpy; runpy.run_path(sys.argv[1], run_name='__main__')"
)
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "PYTHONWARNINGS": "ignore",
}

Trouble = Literal["gone", "no revision", "no file", "gated", "denied", "unreachable", "full", "disk", "wrong"]
_TROUBLES = frozenset(("gone", "no revision", "no file", "gated", "denied", "unreachable", "full", "disk", "wrong"))
# The installed library cannot ask any hub: this is the library's answer, not a hub's.
_CLIENT = "client"
_INSTALL = re.compile(r"pip install (\"[^\"]+\"|'[^']+'|[\w.,\[\]=<>~-]*[\w\]])")
_MOST_BYTES = 1 << 63


class Question(NamedTuple):
    """Hold a question to a hub: the head of a revision, the commit of one of its files, or the tree of a commit."""

    endpoint: Endpoint
    kind: Literal["head", "file", "tree"]
    repo: str
    revision: str
    file: str = ""


class Answer(NamedTuple):
    """Hold a hub's answer: a commit, its date in seconds since the epoch, the repo's name there, or a reason."""

    commit: str | None = None
    date: float | None = None
    repo: str | None = None
    files: Mapping[str, LockedFile] | None = None
    trouble: Trouble | None = None
    text: str = ""


class Downloaded(NamedTuple):
    """Hold the end of a download: `trouble` is None if every file has arrived."""

    trouble: Trouble | None
    text: str = ""


class Transfer(NamedTuple):
    """Hold which files of a commit to download from which hub: into a hub cache, or into a folder."""

    endpoint: Endpoint
    repo: str
    commit: str
    files: Mapping[str, LockedFile]
    cache: str | None
    local_dir: str | None


class Child:
    """Hold a child that works on one task; it ends with this process, and `close` ends it at once."""

    def __init__(self, task: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        if importlib.util.find_spec("huggingface_hub") is None:
            raise requirements.missing([REQUIREMENT], "not installed")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  it is closed by close()
        self._process = subprocess.Popen(
            (sys.executable, "-c", _BOOT, str(_WORKER)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**environment, **_QUIET},
            start_new_session=True,  # Ctrl-C must reach only this process
        )
        assert self._process.stdin and self._process.stdout
        self._buffer = b""
        try:
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died already; its last output is read at the end

    def events(self, patience: Callable[[], bool]) -> Iterator[Mapping[str, Any] | None]:
        """Yield its events, and None each tick, while `patience` allows it and the child lives."""
        assert self._process.stdout
        descriptor = self._process.stdout.fileno()
        while True:
            ready, _, _ = select.select([descriptor], [], [], _TICK_SECONDS)
            if not patience():
                return
            if not ready:
                yield None
                continue
            block = os.read(descriptor, 1 << 16)
            if not block:
                return
            self._buffer += block
            *lines, self._buffer = self._buffer.split(b"\n")
            for line in lines:
                event = _event(line)
                if event is not None:
                    yield event

    def last_words(self) -> str:
        """Return the last line of its other output, for a child that died without an answer."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it was ended"

    def close(self) -> None:
        """End the child, whatever it does."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                try:
                    pipe.close()
                except OSError:
                    pass  # input that it did not read
        self._process.wait()
        self._errors.close()


def ask(questions: Sequence[Question], environment: Mapping[str, str], timeout: float) -> Mapping[Question, Answer]:
    """Ask all questions at once, and return for each its answer, or why none came within `timeout` seconds.

    Raises LauncherError (78) if the installed huggingface_hub cannot ask any hub.
    """
    if not questions:
        return {}
    listed = tuple(dict.fromkeys(questions))
    task = {"do": "ask", "timeout": timeout, "questions": [_asked(number, q) for number, q in enumerate(listed)]}
    answers: dict[Question, Answer] = {}
    # A slow hub needs several rounds; a silent hub gets only the first.
    deadline = time.monotonic() + _START_SECONDS + timeout * (2 + len(listed) / 16)
    child = Child(task, environment)
    try:
        for event in child.events(lambda: time.monotonic() < deadline):
            if event is not None:
                question = listed[event["id"]]
                answers[question] = _answer(event, question)
            if len(answers) == len(listed):
                break
        lost = Answer(trouble="unreachable", text=child.last_words()) if len(answers) < len(listed) else None
    finally:
        child.close()
    return {question: answers.get(question) or lost or Answer() for question in listed}


def download(
    transfer: Transfer,
    environment: Mapping[str, str],
    *,
    stall: float,
    watch: Callable[[int], object],
    last: bool,
) -> Downloaded:
    """Download files of one commit; the last hub gets more time than the others.

    `watch` is called every tick with the bytes that the connections have received, and returns a value that changes
    while bytes arrive. If this value, the byte count and all files stay the same for `stall` seconds, the child is
    ended. Raises LauncherError (78) if the installed huggingface_hub cannot download anything.
    """
    kind, identifier = repo_id.kind_and_id(transfer.repo)
    task = {
        "do": "download",
        "endpoint": transfer.endpoint.url,
        "token": transfer.endpoint.token,
        "repo": identifier,
        "kind": kind,
        "commit": transfer.commit,
        "files": {path: [file.size, file.hash] for path, file in transfer.files.items()},
        "cache_dir": transfer.cache,
        "local_dir": transfer.local_dir,
        "timeout": min(stall, DEFAULT_SECONDS),
        "last": last,
    }
    variables = {**environment, "HF_ENDPOINT": transfer.endpoint.url}
    if not transfer.endpoint.official:
        # A third-party mirror redirects the client to the Hub's own storage, which the mirror may be meant to replace.
        variables.setdefault("HF_HUB_DISABLE_XET", "1")
    arrived: object = None
    received = 0
    moved = time.monotonic() + _START_SECONDS
    trouble: Downloaded | None = None

    def moving() -> bool:
        nonlocal arrived, moved
        now = watch(received)
        if now != arrived:
            arrived, moved = now, max(moved, time.monotonic())
        return time.monotonic() - moved < stall

    child = Child(task, variables)
    try:
        for event in child.events(moving):
            if event is None:
                continue
            moved = time.monotonic()  # the first event means that huggingface_hub is imported
            if "received" in event:
                received = int(event["received"])
            elif "failed" in event:
                _refuse_client(event)
                trouble = Downloaded(_trouble(event), f"{event['failed']}: {event['text']}")
            elif "end" in event:
                return trouble or Downloaded(None)
        if trouble:
            return trouble
        stalled = time.monotonic() - moved >= stall
        return Downloaded("unreachable", f"no data for {stall:g} s" if stalled else child.last_words())
    finally:
        child.close()


def _refuse_client(event: Mapping[str, Any]) -> None:
    """Refuse to continue with a library that cannot meet the settings: another hub or a retry does not help.

    Raises LauncherError (78).
    """
    if event.get("error") != _CLIENT:
        return
    text = str(event["text"])
    advised = _INSTALL.search(text)
    package = advised[1] if advised else "PySocks" if "SOCKS" in text else ""
    if "SOCKS" in text and "proxy" not in text:  # the message of requests is shorter than that of httpx
        text = f"{text} They are needed for the SOCKS proxy in the environment."
    hint = f"{quoted(sys.executable)} -m pip {f'install {quoted(package)}' if package else 'check'}"
    raise LauncherError(f"huggingface_hub cannot ask any hub: {text}", hint, ExitStatus.CONFIG)


def _asked(number: int, question: Question) -> Mapping[str, Any]:
    kind, identifier = repo_id.kind_and_id(question.repo)
    return {
        "id": number,
        "endpoint": question.endpoint.url,
        "token": question.endpoint.token,
        "what": question.kind,
        "repo": identifier,
        "kind": kind,
        "revision": question.revision,
        "file": question.file,
    }


def _answer(event: Mapping[str, Any], question: Question) -> Answer:
    if "error" in event:
        _refuse_client(event)
        return Answer(trouble=_trouble(event), text=str(event["text"]))
    if question.kind == "tree":
        return _tree(event["files"])
    commit, date, repo = event.get("commit"), event.get("date"), event.get("repo")
    if not isinstance(commit, str) or not repo_id.COMMIT.fullmatch(commit):
        return Answer(trouble="unreachable", text="it names no commit")
    if commit != question.revision and repo_id.COMMIT.fullmatch(question.revision) and question.kind == "head":
        # A commit never changes, so this hub ignores the requested revision: its date is that of another commit.
        return Answer(trouble="wrong", text=f"it answers with {commit[:7]} for {question.revision[:7]}")
    prefix = question.repo.partition("/")[0]
    name = f"{prefix}/{repo}" if prefix in repo_id.TYPES else repo
    return Answer(commit, date, name if isinstance(repo, str) and repo_id.is_name(str(name)) else None)


def _tree(files: Mapping[str, Any]) -> Answer:
    listed: dict[str, LockedFile] = {}
    for path, (size, digest) in files.items():
        if not repo_id.is_path(path):
            problem = (
                "leads out of the repo" if ".." in path or path.startswith("/") else "is not a file's path in a repo"
            )
            return Answer(trouble="wrong", text=f"it names a file {path!r}, which {problem}")
        if type(size) is not int or not 0 <= size < _MOST_BYTES:
            return Answer(trouble="wrong", text=f"it reports no size of {path}")
        if not isinstance(digest, str) or not HASH.fullmatch(digest):
            return Answer(trouble="wrong", text=f"it reports no hash of {path}")
        listed[path] = LockedFile(size, digest)
    # Every commit of a model has files; an empty list would make any local copy look complete.
    return Answer(files=listed) if listed else Answer(trouble="wrong", text="it lists no files")


def _event(line: bytes) -> Mapping[str, Any] | None:
    """Return the event in a line; other printed lines are not events."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _trouble(event: Mapping[str, Any]) -> Trouble:
    kind = event["error"]
    return kind if kind in _TROUBLES else "unreachable"
