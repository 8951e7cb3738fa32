"""The child that talks to hubs: whatever a hub does to it, its parent has a deadline and can end it.

It runs with the app's environment, because huggingface_hub reads that once at its import. It reads one task as a line
of JSON from stdin, and writes answers as lines of JSON to stdout. It ends when stdin ends, so a killed parent leaves no
child behind. It loads only two other files of the launcher, by path, because the app may have a package with the
launcher's name.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import urljoin, urlsplit


def _beside(name: str) -> Any:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"start_app_{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from . import worker_errors, worker_http
else:
    worker_errors, worker_http = _beside("worker_errors"), _beside("worker_http")

_AT_ONCE = 64
_DOWNLOADS_AT_ONCE = 4
_CHUNK = 1 << 17
_EXPANDED = {"model": ["sha", "lastModified", "gated"], "dataset": ["sha", "lastModified", "gated"]}
# A mirror may answer with everything about a repo of 100,000 files, including the whole list of them.
_MOST_OF_AN_ANSWER = 8 << 20
_MOST_OF_A_TREE = 32 << 20
# A small file comes with a larger response: an error page, a token for Xet.
_LEAST_OF_A_BODY = 1 << 20
# hf_xet keeps chunks of up to 64 MiB on the disk.
_LEAST_OF_A_FILE = 128 << 20
_MOST_REDIRECTS = 5
_COUNT_SECONDS = 1.0
# Fewer bytes may be only the keep-alive of a connection.
_SIGN_OF_LIFE = 4096
_told = threading.Lock()
_answers: list[TextIO] = []
_expected = threading.local()


def main() -> None:
    """Read one task and carry it out."""
    # Other output of this process must not look like an answer.
    _answers.append(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    {"ask": _ask, "download": _download}[task["do"]](task)
    os._exit(0)  # do not wait for a thread that still waits for a hub


def _end_with_parent() -> None:
    while sys.stdin.read(1 << 12):
        pass
    os._exit(1)


def _tell(answer: Mapping[str, Any]) -> None:
    with _told:
        _answers[0].write(json.dumps(answer) + "\n")
        _answers[0].flush()


def _ask(task: Mapping[str, Any]) -> None:
    """Answer every question within its time; skip the remaining questions for a hub that is too slow.

    Each hub has workers of its own; a worker that takes too long is abandoned and replaced.
    """
    _import_all()  # before the clock starts: it takes longer than most answers
    worker_http.trust(question["endpoint"] for question in task["questions"] if question["token"])
    hubs: dict[str, list[Mapping[str, Any]]] = {}
    for question in task["questions"]:
        hubs.setdefault(question["endpoint"], []).append(question)
    threads = [
        threading.Thread(target=_ask_hub, args=(questions, task["timeout"]), daemon=True) for questions in hubs.values()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _import_all() -> None:
    """Import the needed parts of huggingface_hub, whose lazy imports are not thread-safe.

    From then on, response bodies are limited.
    """
    from huggingface_hub import (  # noqa: F401
        HfApi,
        constants,
        errors,
        file_download,
        get_hf_file_metadata,
        get_token,
        hf_hub_download,
        hf_hub_url,
    )

    worker_http.bound_bodies()


def _ask_hub(questions: list[Mapping[str, Any]], timeout: float) -> None:
    import time

    answers: queue.Queue[tuple[int, Mapping[str, Any]]] = queue.Queue()
    waiting, due = list(reversed(questions)), dict[int, float]()
    answered = late = False
    while waiting or due:
        while waiting and len(due) < _AT_ONCE and not (late and not answered):
            question = waiting.pop()
            due[question["id"]] = time.monotonic() + timeout
            threading.Thread(target=_answer, args=(question, timeout, answers), daemon=True).start()
        if late and not answered:
            break
        try:
            number, answer = answers.get(timeout=max(0.0, min(due.values()) - time.monotonic()))
        except queue.Empty:
            now = time.monotonic()
            for number in [number for number, moment in due.items() if moment <= now]:
                del due[number]
                late = True
                _tell({"id": number, **_late(timeout)})
            continue
        if due.pop(number, None) is not None:
            answered = True
            _tell({"id": number, **answer})
    for number in (*due, *(question["id"] for question in waiting)):
        _tell({"id": number, **_late(timeout)})


def _late(timeout: float) -> Mapping[str, Any]:
    return {"error": "unreachable", "text": f"no answer within {timeout:g} s"}


def _answer(question: Mapping[str, Any], timeout: float, answers: queue.Queue[tuple[int, Mapping[str, Any]]]) -> None:
    ways: Mapping[str, Callable[[Mapping[str, Any], float], Mapping[str, Any]]]
    ways = {"head": _head, "file": _file, "tree": _tree}
    worker_http.allow(_MOST_OF_A_TREE if question["what"] == "tree" else _MOST_OF_AN_ANSWER)
    try:
        answer = ways[question["what"]](question, timeout)
    except Exception as error:  # the network can raise any exception: report it as text
        answer = _classified(error, question)
    answers.put((question["id"], answer))


def _classified(error: BaseException, task: Mapping[str, Any]) -> dict[str, Any]:
    from huggingface_hub import get_token

    withheld = not task["token"] and get_token() is not None
    return worker_errors.classified(error, withheld=withheld, too_much=worker_http.TooMuchError)


def _api(question: Mapping[str, Any]) -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=question["endpoint"], token=_token(question))


def _token(question: Mapping[str, Any]) -> bool | None:
    return None if question["token"] else False


def _head(question: Mapping[str, Any], timeout: float) -> Mapping[str, Any]:
    """Ask for the commit of a revision, its date, and the repo's name on the hub."""
    kind = question["kind"]
    info = _api(question).repo_info(
        question["repo"], repo_type=kind, revision=question["revision"], timeout=timeout, expand=_EXPANDED.get(kind)
    )
    date = getattr(info, "last_modified", None)
    return {"commit": info.sha, "date": date.timestamp() if date else None, "repo": info.id}


def _file(question: Mapping[str, Any], timeout: float) -> Mapping[str, Any]:
    """Ask for the commit of a revision's files, by one of them."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    url = hf_hub_url(
        question["repo"],
        question["file"],
        repo_type=question["kind"],
        revision=question["revision"],
        endpoint=question["endpoint"],
    )
    try:
        metadata = _announced(get_hf_file_metadata, {"url": url, "token": _token(question), "timeout": timeout})
    except EntryNotFoundError as error:
        response = getattr(error, "response", None)
        return {"commit": response.headers.get("X-Repo-Commit") if response is not None else None}
    return {"commit": metadata.commit_hash}


def _announced(ask: Callable[..., Any], keywords: Mapping[str, Any]) -> Any:
    """Ask for a hub's announcement of a file, and follow a redirect to another hub.

    The library follows a redirect to another host for API requests but not for files, so such a hub would look up to
    date and still serve nothing. The token is not sent along.
    """
    metadata = ask(**keywords)
    url = keywords["url"]
    for _ in range(_MOST_REDIRECTS):
        if metadata.commit_hash is not None or not metadata.location or metadata.location == url:
            break
        target = urljoin(url, metadata.location)
        if urlsplit(target).netloc != urlsplit(url).netloc:
            headers = {k: v for k, v in (keywords.get("headers") or {}).items() if k.lower() != "authorization"}
            keywords = {**keywords, "token": False, **({"headers": headers} if "headers" in keywords else {})}
        url = target
        metadata = ask(**{**keywords, "url": url})
    return metadata


def _tree(question: Mapping[str, Any], timeout: float) -> Mapping[str, Any]:  # noqa: ARG001  it has none for this
    """Ask for every file of a commit: path, bytes and hash."""
    listed = _api(question).list_repo_tree(
        question["repo"], repo_type=question["kind"], revision=question["revision"], recursive=True
    )
    files = {
        entry.path: (entry.lfs.size, entry.lfs.sha256) if entry.lfs else (entry.size, entry.blob_id)
        for entry in listed
        if hasattr(entry, "blob_id")
    }
    return {"files": files}


def _download(task: Mapping[str, Any]) -> None:
    """Download files of one commit, several at once; stop at the first failure."""
    _import_all()
    from huggingface_hub import constants, hf_hub_download

    # The library writes every 10 MiB by default, but the growth on the disk must show that a slow download is alive.
    constants.DOWNLOAD_CHUNK_SIZE = _CHUNK
    worker_http.trust((task["endpoint"],) if task["token"] else ())
    _believe_nothing(last=task["last"])
    _bound_files(task["files"])
    _tell({"begun": True})
    threading.Thread(target=_tell_arrivals, daemon=True).start()
    work: queue.SimpleQueue[str] = queue.SimpleQueue()
    for file in task["files"]:
        work.put(file)
    failed, failing = threading.Event(), threading.Lock()
    place = {"cache_dir": task["cache_dir"]} if task["cache_dir"] else {"local_dir": task["local_dir"]}

    def run() -> None:
        while not failed.is_set():
            try:
                file = work.get_nowait()
            except queue.Empty:
                return
            size, digest = task["files"][file]
            _expected.file = (task["commit"], digest, size)
            worker_http.allow(max(size, _LEAST_OF_A_BODY) if size >= 0 else None)
            try:
                hf_hub_download(
                    task["repo"],
                    file,
                    repo_type=task["kind"],
                    revision=task["commit"],
                    endpoint=task["endpoint"],
                    token=_token(task),
                    etag_timeout=task["timeout"],
                    **place,
                )
            except Exception as error:
                with failing:  # once `failed` is set, the worker reports its end
                    if not failed.is_set():
                        _tell({"failed": file, **_classified(error, task)})
                        failed.set()
            else:
                _tell({"done": file})

    threads = [threading.Thread(target=run, daemon=True) for _ in range(min(_DOWNLOADS_AT_ONCE, len(task["files"])))]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) and not failed.is_set():
        for thread in threads:
            thread.join(0.05)
    _tell({"end": not failed.is_set()})


def _tell_arrivals() -> None:
    """Report whenever bytes have arrived; the disk may show no change for minutes."""
    import time

    arrivals = worker_http.Arrivals()
    told = 0
    while True:
        time.sleep(_COUNT_SECONDS)
        count = arrivals.count()
        if count - told >= _SIGN_OF_LIFE:
            told = count
            _tell({"received": count})


def _bound_files(files: Mapping[str, tuple[int, str]]) -> None:
    """Limit every file that this process writes to the largest announced size: setrlimit(2), RLIMIT_FSIZE."""
    import resource

    if all(size >= 0 for size, _ in files.values()):
        most = max(_LEAST_OF_A_FILE, *(size + _LEAST_OF_A_BODY for size, _ in files.values()))
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if hard == resource.RLIM_INFINITY or most < hard:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))


def _believe_nothing(*, last: bool) -> None:
    """Refuse a wrong announcement before huggingface_hub turns it into names and refs.

    The library uses the commit and the hash from a hub's headers as parts of paths. An ETag that is not comparable with
    the hash is a mirror's own: the file gets its name from the expected hash, and is hashed after it has arrived. Since
    1.0 the library retries a silent hub for some 25 s: only the last hub is worth that.
    """
    from huggingface_hub import errors, file_download

    original = file_download.get_hf_file_metadata

    def checked(url: str, *arguments: Any, **keywords: Any) -> Any:
        commit, digest, size = _expected.file
        if not last and keywords.get("retry_on_errors"):
            keywords["retry_on_errors"] = False

        def ask(url: str, **keywords: Any) -> Any:
            return original(url, *arguments, **keywords)

        try:
            metadata = _announced(ask, {**keywords, "url": url})
        except errors.EntryNotFoundError as error:
            # The library would store that for the commit in the answer, even a wrong one.
            response = getattr(error, "response", None)
            named = response.headers.get("X-Repo-Commit") if response is not None else None
            # A commit's files never change.
            kind = worker_errors.WrongAnswerError if named == commit else worker_errors.NoAnswerError
            raise kind(f"it does not have the file at {commit[:7]}") from error
        if metadata.commit_hash is None:
            raise worker_errors.NoAnswerError("its answer names no commit, like that of a sign-in page")
        if metadata.commit_hash != commit:
            raise worker_errors.WrongAnswerError(f"it serves the commit {str(metadata.commit_hash)[:40]!r}")
        if _contradicts(metadata.etag, digest):
            raise worker_errors.WrongAnswerError(f"it announces different content, {str(metadata.etag)[:64]!r}")
        if size >= 0 and metadata.size not in (None, size):
            raise worker_errors.WrongAnswerError(f"it announces {metadata.size} bytes instead of {size}")
        return dataclasses.replace(metadata, etag=digest)

    file_download.get_hf_file_metadata = checked


def _contradicts(etag: str | None, digest: str) -> bool:
    """Return whether an ETag is the sha256 of another content; one of 40 digits may be a mirror's own."""
    is_sha256 = etag is not None and len(etag) == 64 and not set(etag) - set("0123456789abcdef")
    return is_sha256 and len(digest) == 64 and etag != digest


if __name__ == "__main__":
    main()
