"""The child that speaks to hubs: whatever a hub does to it, its parent has a deadline and can end it.

It runs with the app's environment, so that huggingface_hub, which reads it once at its import, uses what the app would.
One task comes as a line of JSON on stdin; answers go out as lines of JSON on stdout. When stdin ends, so does the
child: a parent that was killed leaves nobody behind. It imports nothing of the launcher's.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, TextIO

_AT_ONCE = 32
_DOWNLOADS_AT_ONCE = 4
_CHUNK = 1 << 17
_EXPANDED = {"model": ["sha", "lastModified", "gated"], "dataset": ["sha", "lastModified", "gated"]}
_told = threading.Lock()
_answers: list[TextIO] = []
_expected = threading.local()


class WrongAnswerError(Exception):
    """Tell what a hub announces that cannot be: the file that was asked for is known by its hash."""


class NoAnswerError(Exception):
    """Tell what a hub says in the place of an answer."""


def main() -> None:
    """Read one task and carry it out."""
    # Whatever else is printed in this process must not pass for an answer.
    _answers.append(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    {"ask": _ask, "download": _download}[task["do"]](task)
    os._exit(0)  # a thread that still waits for a hub is not waited for


def _end_with_parent() -> None:
    while sys.stdin.read(1 << 12):
        pass
    os._exit(1)


def _tell(answer: Mapping[str, Any]) -> None:
    with _told:
        _answers[0].write(json.dumps(answer) + "\n")
        _answers[0].flush()


def _ask(task: Mapping[str, Any]) -> None:
    """Answer every question within its time; a hub that lets one wait is not asked the rest.

    Each hub has workers of its own, and a worker that a question keeps too long is given up and another one takes its
    place.
    """
    _import_all()  # before the clock runs: it takes longer than most answers
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
    """Import what is needed of huggingface_hub, which loads its parts late, and not soundly from several threads."""
    from huggingface_hub import (  # noqa: F401
        HfApi,
        constants,
        errors,
        file_download,
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
    )


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
    try:
        answer = ways[question["what"]](question, timeout)
    except Exception as error:  # at the edge of the network anything can come: it is told in words
        answer = _classified(error)
    answers.put((question["id"], answer))


def _api(question: Mapping[str, Any]) -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=question["endpoint"], token=_token(question))


def _token(question: Mapping[str, Any]) -> bool | None:
    return None if question["token"] else False


def _head(question: Mapping[str, Any], timeout: float) -> Mapping[str, Any]:
    """Ask which commit a revision is, of when, and what the repo is called there."""
    kind = question["kind"]
    info = _api(question).repo_info(
        question["repo"], repo_type=kind, revision=question["revision"], timeout=timeout, expand=_EXPANDED.get(kind)
    )
    date = getattr(info, "last_modified", None)
    return {"commit": info.sha, "date": date.timestamp() if date else None, "repo": info.id}


def _file(question: Mapping[str, Any], timeout: float) -> Mapping[str, Any]:
    """Ask of which commit the files of a revision are, by one of them."""
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
        found = get_hf_file_metadata(url, token=_token(question), timeout=timeout)
    except EntryNotFoundError as error:
        response = getattr(error, "response", None)
        return {"commit": response.headers.get("X-Repo-Commit") if response is not None else None}
    return {"commit": found.commit_hash}


def _tree(question: Mapping[str, Any], timeout: float) -> Mapping[str, Any]:  # noqa: ARG001  it has none for this
    """Ask for every file of a commit: path, bytes and hash."""
    found = _api(question).list_repo_tree(
        question["repo"], repo_type=question["kind"], revision=question["revision"], recursive=True
    )
    files = {
        entry.path: (entry.lfs.size, entry.lfs.sha256) if entry.lfs else (entry.size, entry.blob_id)
        for entry in found
        if hasattr(entry, "blob_id")
    }
    return {"files": files}


def _download(task: Mapping[str, Any]) -> None:
    """Download files of one commit, some at once; the first that fails ends it."""
    _import_all()
    from huggingface_hub import constants, hf_hub_download

    # It writes what has come every 10 MiB, and what grows on the disk is how a slow download shows that it lives.
    constants.DOWNLOAD_CHUNK_SIZE = _CHUNK
    _believe_nothing(last=task["last"])
    _tell({"begun": True})
    work: queue.SimpleQueue[str] = queue.SimpleQueue()
    for file in task["files"]:
        work.put(file)
    failed = threading.Event()
    place = {"cache_dir": task["cache_dir"]} if task["cache_dir"] else {"local_dir": task["local_dir"]}

    def run() -> None:
        while not failed.is_set():
            try:
                file = work.get_nowait()
            except queue.Empty:
                return
            size, digest = task["files"][file]
            _expected.file = (task["commit"], digest, size)
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
                if not failed.is_set():
                    failed.set()
                    _tell({"failed": file, **_classified(error)})
            else:
                _tell({"done": file})

    threads = [threading.Thread(target=run, daemon=True) for _ in range(min(_DOWNLOADS_AT_ONCE, len(task["files"])))]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) and not failed.is_set():
        for thread in threads:
            thread.join(0.05)
    _tell({"end": not failed.is_set()})


def _believe_nothing(*, last: bool) -> None:
    """Refuse what is announced otherwise than it must be, before huggingface_hub makes names and refs of it.

    It takes the commit and the hash that a hub's headers name for parts of paths. Since 1.0 it asks a hub that does not
    answer again and again, for some 25 s: only the last is worth that.
    """
    from huggingface_hub import errors, file_download

    original = file_download.get_hf_file_metadata

    def checked(*arguments: Any, **keywords: Any) -> Any:
        commit, digest, size = _expected.file
        if not last and keywords.get("retry_on_errors"):
            keywords["retry_on_errors"] = False
        try:
            found = original(*arguments, **keywords)
        except errors.EntryNotFoundError as error:
            # It would note that for the commit which the answer names, whichever that is.
            response = getattr(error, "response", None)
            named = response.headers.get("X-Repo-Commit") if response is not None else None
            kind = WrongAnswerError if named == commit else NoAnswerError  # what a commit has never changes
            raise kind(f"it does not have the file, of {commit[:7]}") from error
        if found.commit_hash is None:
            raise NoAnswerError("its answer names no commit, as that of a sign-in page")
        if found.commit_hash != commit:
            raise WrongAnswerError(f"it serves the commit {str(found.commit_hash)[:40]!r}")
        if found.etag != digest:
            raise WrongAnswerError(f"it announces another content, {str(found.etag)[:64]!r}")
        if size >= 0 and found.size not in (None, size):
            raise WrongAnswerError(f"it announces {found.size} bytes instead of {size}")
        return found

    file_download.get_hf_file_metadata = checked


def _classified(error: BaseException) -> dict[str, Any]:
    """Return what an error of huggingface_hub means, and what it says in one line."""
    from huggingface_hub import errors

    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    for one in chain:
        if isinstance(one, OSError) and one.errno in (28, 122):  # ENOSPC, EDQUOT
            return {"error": "full", "text": "no space left on the disk"}
        if isinstance(one, WrongAnswerError):
            return {"error": "wrong", "text": str(one)}
        if isinstance(one, NoAnswerError):
            return {"error": "unreachable", "text": str(one)}
        if isinstance(one, PermissionError):
            return {"error": "disk", "text": str(one).lower()}
    kinds = (
        (errors.GatedRepoError, "gated", "it is gated, and this user has no access"),
        (errors.RepositoryNotFoundError, "gone", "there is no such repo, or it is private"),
        (errors.RevisionNotFoundError, "no revision", "there is no such revision"),
        (errors.EntryNotFoundError, "no file", "there is no such file"),
    )
    for one in chain:
        for kind, name, text in kinds:
            if isinstance(one, kind) and not isinstance(one, errors.LocalEntryNotFoundError):
                return {"error": name, "text": text}
    for one in chain:
        response = getattr(one, "response", None)
        status = getattr(response, "status_code", None)
        if status is not None:
            return {"error": "denied" if status in (401, 403) else "unreachable", "text": _status(status, response)}
    return {"error": "unreachable", "text": _reason(chain)}


def _status(status: int, response: Any) -> str:
    after = response.headers.get("Retry-After")
    if status == 429:
        return "it answers 429, too many requests" + (f": try again in {after} s" if after else "")
    if status == 401:
        return "it answers 401: the token is wrong or has expired, or there is none"
    return f"it answers {status}"


def _reason(chain: list[BaseException]) -> str:
    for one in chain:
        if isinstance(one, ValueError) and "JSON" in type(one).__name__:
            return "it answers with something else than JSON"
    timeouts = [one for one in chain if "timeout" in type(one).__name__.lower()]
    if timeouts:
        return "no answer in time"
    told = next((str(one) for one in reversed(chain) if str(one)), type(chain[0]).__name__)
    return told.strip().splitlines()[0][:200] if told.strip() else type(chain[0]).__name__


if __name__ == "__main__":
    main()
