"""Classify an error of huggingface_hub, and describe it in one line.

The worker loads this module by path, so it imports nothing of the launcher.
"""

from __future__ import annotations

import errno
from typing import Any

_MOST_CHARACTERS = 300
_FULL = (errno.ENOSPC, errno.EDQUOT)
WITHHELD = "your token is not sent to this hub; HF_TOKEN_FOR_MIRROR in .env sends it"


class WrongAnswerError(Exception):
    """Signal a wrong announcement: the hash of the requested file is known."""


class NoAnswerError(Exception):
    """Signal that a hub sent something else than an answer."""


def classified(error: BaseException, *, withheld: bool, too_much: type[Exception]) -> dict[str, Any]:
    """Return the kind of an error and its text; `withheld` means that the user's token was not sent."""
    from huggingface_hub import errors

    chain = _chain(error)
    for cause in chain:
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return {"error": "full", "text": "no space left on the disk"}
        if isinstance(cause, (WrongAnswerError, too_much)):
            return {"error": "wrong", "text": str(cause)}
        if isinstance(cause, OSError) and cause.errno == errno.EFBIG:
            return {"error": "wrong", "text": "it sends more than was announced"}
        if isinstance(cause, NoAnswerError):
            return {"error": "unreachable", "text": str(cause)}
        if isinstance(cause, OSError) and _is_of_disk(cause):
            where = f": {cause.filename}" if cause.filename else ""
            return {"error": "disk", "text": f"{(cause.strerror or str(cause)).lower()}{where}"}
    statuses = [status for cause in chain if (status := _status_of(cause)) is not None]
    refused = next((status for status in statuses if status in (401, 403)), None)
    if withheld and refused:
        return {"error": "denied", "text": f"it answers {refused}: {WITHHELD}"}
    kinds = (
        (errors.GatedRepoError, "gated", "it is gated, and this user has no access"),
        (errors.RepositoryNotFoundError, "gone", "the repo does not exist, or is private"),
        (errors.RevisionNotFoundError, "no revision", "no such revision"),
        (errors.EntryNotFoundError, "no file", "no such file"),
    )
    for cause in chain:
        for kind, name, text in kinds:
            if isinstance(cause, kind) and not isinstance(cause, errors.LocalEntryNotFoundError):
                return {"error": name, "text": text}
    for cause in chain:
        status = _status_of(cause)
        if status is not None:
            kind_ = "denied" if status in (401, 403) else "unreachable"
            return {"error": kind_, "text": _status_text(status, cause)}
    # The installed library cannot ask any hub, and its message names the missing package.
    lacking = any(isinstance(cause, ImportError) or type(cause).__name__ == "InvalidSchema" for cause in chain)
    return {"error": "client" if lacking else "unreachable", "text": _reason(chain)}


def _is_of_disk(error: OSError) -> bool:
    """Return whether an error comes from a file system; a connection's error has no file name."""
    named = isinstance(error.filename, (str, bytes)) and error.errno not in (None, errno.ENOENT)
    return named or error.errno in (errno.EROFS, errno.EIO)


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    return chain


def _status_of(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _status_text(status: int, error: Any) -> str:
    after = error.response.headers.get("Retry-After")
    if status == 429:
        return "it answers 429, too many requests" + (f": try again in {str(after)[:20]} s" if after else "")
    if status == 401:
        return "it answers 401: the token is wrong or has expired, or there is none"
    return f"it answers {status}"


def _reason(chain: list[BaseException]) -> str:
    """Return the innermost message; for a missing package, the library's advice instead of the package's name."""
    for cause in chain:
        if isinstance(cause, ValueError) and "JSON" in type(cause).__name__:
            return "it answers with something other than JSON"
    if any("timeout" in type(cause).__name__.lower() for cause in chain):
        return "no answer in time"
    advising = [cause for cause in chain if not isinstance(cause, ModuleNotFoundError)] or chain
    told = next((str(cause).strip() for cause in reversed(advising) if str(cause).strip()), "")
    return told.splitlines()[0][:_MOST_CHARACTERS] if told else type(chain[0]).__name__
