"""Run all checks at once, with one deadline: a hub, a driver or a disk that hangs must not delay the others.

A check yields findings. If it fails, the failure is a finding too, so that the others are still reported.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ..context import Context
from ..errors import ExitStatus, LauncherError, quoted

SECONDS = 2.2
"""The time for all checks; the command as a whole takes less than 3 s."""
# The order of importance of the exit statuses: what prevents every start comes first.
ORDER = (
    ExitStatus.CONFIG,
    ExitStatus.DENIED,
    ExitStatus.IO,
    ExitStatus.DAMAGED,
    ExitStatus.TAKEN,
    ExitStatus.STALE,
    ExitStatus.RETRY,
)
_DENIED = (errno.EACCES, errno.EPERM)


class Finding(NamedTuple):
    """Hold a fact, its topic, and the command that helps.

    A `problem` has an exit status, an oddity and a fact have none: 0.
    """

    level: Literal["problem", "odd", "fact"]
    topic: str
    text: str
    hint: str = ""
    status: int = ExitStatus.DONE

    def document(self) -> Mapping[str, Any]:
        """Return it for `--json`."""
        return {
            "level": self.level,
            "topic": self.topic,
            "text": self.text,
            "hint": self.hint or None,
            "exit_status": int(self.status),
        }


class Check(NamedTuple):
    """Hold a check and its topic; `late` is the hint if it does not end in time, `status` the status of that.

    A check of the `machine` also makes sense if the app's folder cannot be read.
    """

    topic: str
    look: Callable[[Context], Iterable[Finding]]
    late: str
    status: ExitStatus = ExitStatus.DONE
    machine: bool = False


def problem(topic: str, text: str, hint: str, status: int) -> Finding:
    """Return a finding that counts; a wrong value of a flag is a problem of the configuration here."""
    return Finding("problem", topic, text, hint, status if status in ORDER else ExitStatus.CONFIG)


def odd(topic: str, text: str, hint: str) -> Finding:
    """Return a finding that does not count."""
    return Finding("odd", topic, text, hint)


def fact(topic: str, text: str) -> Finding:
    """Return a fact for the report."""
    return Finding("fact", topic, text)


def refused(topic: str, error: LauncherError, otherwise: str = "start_app.py -n -v") -> Finding:
    """Return the finding for a refusal of the launcher."""
    return problem(topic, error.message, error.hint or otherwise, error.status)


def unusable(topic: str, error: OSError) -> Finding:
    """Return the finding for a file or folder that cannot be used: 77 if it is not permitted, otherwise 74."""
    path = error.filename if isinstance(error.filename, str) else "."
    status = ExitStatus.DENIED if error.errno in _DENIED else ExitStatus.IO
    reason = (error.strerror or str(error)).lower()
    return problem(topic, f"cannot use {path}: {reason}", f"ls -ld {quoted(path)}", status)


def status_of(findings: Iterable[Finding]) -> int:
    """Return the exit status: the first of `ORDER` that a problem has, otherwise 0."""
    present = {finding.status for finding in findings if finding.level == "problem"}
    return next((status for status in ORDER if status in present), ExitStatus.DONE)


def examine(context: Context, checks: Sequence[Check], seconds: float) -> tuple[Finding, ...]:
    """Run all checks at once and return their findings in the order of the checks, after at most `seconds`.

    The threads of late checks end with the process.
    """
    deadline = time.monotonic() + seconds
    results: list[list[Finding]] = [[] for _ in checks]
    threads = [
        threading.Thread(target=_collect, args=(check, context, result), daemon=True)
        for check, result in zip(checks, results, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return tuple(_in_order(checks, threads, results, seconds))


def _in_order(
    checks: Sequence[Check], threads: Sequence[threading.Thread], results: Sequence[list[Finding]], seconds: float
) -> Iterator[Finding]:
    for check, thread, result in zip(checks, threads, results, strict=True):
        late = thread.is_alive()
        yield from tuple(result)
        if late and check.status:
            yield problem(check.topic, f"no answer within {seconds:g} s", check.late, check.status)
        elif late:
            yield odd(check.topic, f"this check has not ended within {seconds:g} s", check.late)


def _collect(check: Check, context: Context, result: list[Finding]) -> None:
    """Add the findings of one check to `result` as they come."""
    try:
        for finding in check.look(context):
            result.append(finding)
    except LauncherError as error:
        result.append(refused(check.topic, error))
    except OSError as error:
        result.append(unusable(check.topic, error))
    except ImportError:
        pass  # the check of the packages reports what is missing
    except Exception as error:
        # A broken machine must not hide the other findings; the report says that this one is ours.
        result.append(odd(check.topic, f"this check failed: {type(error).__name__}: {error}", "start_app.py status"))
