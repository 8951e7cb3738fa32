"""Store the outcome of each start of the app on a port, and the last good sets.

One small file is replaced atomically at each change, so a killed process leaves the state before or after it. It has no
secret: arguments are masked, and of the app's environment it has plain values of `.env`, and one keyed hash of it all.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from ..system import files, state

MOST_DOOMED = 5
"""The number of unattended starts in a row that may fail before further ones are refused."""
_NAME = re.compile(r"outcomes-(\d{1,5})\.json")
_KEPT = 2
_LOCK = "outcomes.lock"
_LOCK_SECONDS = 1.0
_MODE = 0o600
_MOST_BYTES = 1 << 23
_LONGEST = 500
# The signals of a person, a service manager or a terminal that end a program.
_ASKED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
_INTERRUPTED = 130

By = Literal["hand", "unit", "supervisor", "if-down"]
Stage = Literal["started", "ready", "stopping", "ended", "stopped"]


class Pinned(NamedTuple):
    """Hold a cached model of a set: `path` is its folder in a hub cache."""

    repo: str
    revision: str
    commit: str
    path: str


class LaunchSet(NamedTuple):
    """Hold the set of a start: its command line with secrets masked, the models in hub caches and those in folders.

    `interpreter`, `program` and `script` are those of the app's command. `folders` is the text of a `models.lock` with
    the models in folders of the app's. `environment` are the names of the variables from the settings, and `variables`
    the values of those in `.env` that are no secrets.
    """

    argv: tuple[str, ...] = ()
    interpreter: str = ""
    program: str = ""
    script: tuple[str, ...] = ()
    models: tuple[Pinned, ...] = ()
    folders: str = ""
    environment: tuple[str, ...] = ()
    variables: Mapping[str, str] = MappingProxyType({})
    at: str = ""
    locked: bool = False

    @property
    def runs(self) -> tuple[Any, ...]:
        """Return what distinguishes sets for a person: commands and commits, not place and time."""
        return self.argv, tuple(model[:3] for model in self.models), self.folders, dict(self.variables)


class Attempt(NamedTuple):
    """Hold one start: its process (see Record), its time and caller, its set, and its outcome.

    `wish` is the digest of the set in the settings, which a rollback does not run. `seen` means that its page
    answered, `how` is how it ended, `line` the last line of its log. `unit` is systemd's id of this run of the unit.
    """

    pid: int
    start: float
    boot_id: str
    pid_namespace: str
    at: str
    by: By
    wish: str
    ran: LaunchSet
    rollback: bool = False
    stage: Stage = "started"
    seen: bool = False
    how: str = ""
    line: str = ""
    ended_at: str = ""
    log: str | None = None
    unit: str = ""

    @property
    def over(self) -> bool:
        """Return whether it has ended."""
        return self.stage in ("ended", "stopped")

    def is_process(self, pid: int, start: float) -> bool:
        """Return whether it is this process; the caller has compared boot and pid namespace."""
        return (self.pid, self.start) == (pid, start)


class Outcomes(NamedTuple):
    """Hold the facts about a port: the last start, the last failed one, and the last good sets, the newest first.

    `doomed` counts the unattended starts in a row that were never ready, all of which asked for `wish`. `key` is for
    the digests.
    """

    key: str = ""
    last: Attempt | None = None
    failed: Attempt | None = None
    good: tuple[LaunchSet, ...] = ()
    doomed: int = 0
    wish: str = ""
    told_parked: bool = False

    @property
    def refused(self) -> Attempt | None:
        """Return the failed start that stops an unattended start from retrying it, or None."""
        return self.failed if self.failed and self.failed.wish else None

    def is_parked(self, wish: str) -> bool:
        """Return whether an unattended start that asks for this would fail again."""
        return self.doomed >= MOST_DOOMED and self.wish == wish

    def should_roll_back(self, wish: str) -> bool:
        """Return whether an unattended start that asks for this must run the last good set instead."""
        failed = self.refused
        return bool(self.good and failed and failed.wish == wish and not failed.rollback)

    def other_good(self) -> LaunchSet | None:
        """Return the last good set that differs from the last start: the target of a rollback."""
        ran = self.last.ran.runs if self.last else None
        return next((one for one in self.good if one.runs != ran), None)


def name_of(port: int) -> str:
    """Return the name of a port's file."""
    return f"outcomes-{port}.json"


def read(app_dir: Path, port: int) -> Outcomes:
    """Return the facts about a port; empty if the file is missing or invalid."""
    with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        data = state.read(app_dir, name_of(port))
        if 0 < len(data) <= _MOST_BYTES:
            return _outcomes(json.loads(data))
    return Outcomes()


def good_sets(app_dir: Path) -> tuple[LaunchSet, ...]:
    """Return the last good sets of every port of an app."""
    return tuple(good for port in _ports(app_dir) for good in read(app_dir, port).good)


def _ports(app_dir: Path) -> tuple[int, ...]:
    names = (_NAME.fullmatch(name) for name in state.listed(app_dir, "outcomes-"))
    return tuple(int(name[1]) for name in names if name)


def change(app_dir: Path, port: int, how: Callable[[Outcomes], Outcomes], *, durable: bool = False) -> Outcomes:
    """Change the facts about a port in one step, and return them; create a missing key.

    Raises OSError if they cannot be written.
    """
    with _taking_turns(app_dir):
        before = read(app_dir, port)
        after = how(before if before.key else before._replace(key=os.urandom(16).hex()))
        if after != before:
            data = json.dumps({"version": 1, **_plain(after)}).encode()
            state.write(app_dir, name_of(port), data, durable=durable, mode=_MODE)
        return after


def change_all(app_dir: Path, how: Callable[[LaunchSet], LaunchSet]) -> None:
    """Change every set of every port of an app.

    Raises OSError if one cannot be written.
    """

    def changed(known: Outcomes) -> Outcomes:
        last, failed = (one and one._replace(ran=how(one.ran)) for one in (known.last, known.failed))
        return known._replace(last=last, failed=failed, good=tuple(map(how, known.good)))

    for port in _ports(app_dir):
        change(app_dir, port, changed, durable=True)


def started(outcomes: Outcomes, attempt: Attempt) -> Outcomes:
    """Return the facts after a start; a start that asks for something else is not doomed yet."""
    if attempt.wish != outcomes.wish:
        outcomes = outcomes._replace(doomed=0, wish=attempt.wish)
    return outcomes._replace(last=attempt, told_parked=False)


def ready(outcomes: Outcomes, ran: LaunchSet) -> Outcomes:
    """Return the facts after the page of the last start has answered: its set is the last good set."""
    last = outcomes.last
    if last is None or last.over:
        return outcomes
    others = (one for one in outcomes.good if one.runs != ran.runs)
    return outcomes._replace(
        last=last._replace(stage="ready" if last.stage == "started" else last.stage, seen=True),
        good=(ran, *others)[:_KEPT],
        doomed=0,
        failed=outcomes.failed if last.rollback else None,
    )


def stopping(outcomes: Outcomes) -> Outcomes:
    """Return the facts when the last start is about to be stopped: its end is not a failure."""
    last = outcomes.last
    if last is None or last.over:
        return outcomes
    return outcomes._replace(last=last._replace(stage="stopping"))


class End(NamedTuple):
    """Hold how a process ended: in words, its status (negative for a signal, None if unknown), its last line.

    `asked` means that its end was requested.
    """

    how: str
    status: int | None = None
    line: str = ""
    asked: bool = False

    @property
    def is_asked(self) -> bool:
        """Return whether its end was requested, according to its status or to the reporting process."""
        return self.asked or self.status == _INTERRUPTED or (self.status is not None and -self.status in _ASKED)


def ended(outcomes: Outcomes, end: End, wish: str | None = None) -> Outcomes:
    """Return the facts after the end of the last start; `wish` is the digest that it actually asked for.

    A second report can only add how it ended.
    """
    last = outcomes.last
    if last is None:
        return outcomes
    if last.over:
        better = last._replace(how=end.how, line=end.line or last.line)
        if end.status is None or last.stage == "stopped":
            return outcomes
        failed = better if outcomes.failed == last else outcomes.failed
        return outcomes._replace(last=better, failed=failed)
    stopped = last.stage == "stopping" or end.is_asked
    last = last._replace(
        stage="stopped" if stopped else "ended",
        how=end.how,
        line=end.line[:_LONGEST],
        ended_at=now(),
        wish=last.wish if wish is None else wish,
    )
    outcomes = outcomes._replace(last=last)
    if stopped:
        # A person who restarts after a rollback wants to try the new set again.
        again = last.rollback and last.seen and outcomes.failed
        return outcomes._replace(failed=outcomes.failed._replace(wish="")) if again and outcomes.failed else outcomes
    if last.seen:
        return outcomes
    if last.by == "hand" and end.status is None:
        last = last._replace(wish="")  # no process saw the end: a person at a terminal may have requested it
    doomed = outcomes.doomed + (last.by != "hand")
    return outcomes._replace(failed=last, doomed=doomed, wish=last.wish or outcomes.wish)


def now() -> str:
    """Return the time in UTC, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def digest(key: str, facts: Sequence[Any]) -> str:
    """Return a keyed hash of what a start depends on; it is short, so that no value can be guessed with certainty."""
    from _blake2 import blake2b  # hashlib would load OpenSSL, which takes longer than the other imports of a launch

    data = json.dumps(facts, sort_keys=True).encode()
    return str(blake2b(data, key=bytes.fromhex(key), digest_size=8).hexdigest())


@contextmanager
def _taking_turns(app_dir: Path) -> Iterator[None]:
    """Prevent concurrent changes meanwhile; without flock, that is not possible."""
    for folder in state.folders(app_dir):
        try:
            descriptor = state.open_file(folder, _LOCK, app_dir)
        except OSError:
            continue
        try:
            with suppress(OSError):
                files.lock_within(descriptor, _LOCK_SECONDS, pause=0.005)
            yield
        finally:
            os.close(descriptor)
        return
    yield


def _plain(outcomes: Outcomes) -> dict[str, Any]:
    values = outcomes._asdict()
    for name in ("last", "failed"):
        attempt = values[name]
        values[name] = {**attempt._asdict(), "ran": _plain_set(attempt.ran)} if attempt else None
    values["good"] = [_plain_set(one) for one in outcomes.good]
    return values


def _plain_set(ran: LaunchSet) -> dict[str, Any]:
    return {**ran._asdict(), "variables": dict(ran.variables)}


def _outcomes(document: Any) -> Outcomes:
    """Return the facts in a document.

    Raises TypeError, ValueError, KeyError or AttributeError for invalid content.
    """
    bytes.fromhex(document["key"])
    if type(document["doomed"]) is not int:
        raise TypeError("doomed is a number")
    return Outcomes(
        key=document["key"],
        last=_attempt(document["last"]),
        failed=_attempt(document["failed"]),
        good=tuple(_set(one) for one in document["good"]),
        doomed=document["doomed"],
        wish=_text(document["wish"]),
        told_parked=bool(document["told_parked"]),
    )


def _attempt(document: Any) -> Attempt | None:
    if document is None:
        return None
    values = {name: document[name] for name in Attempt._fields}
    if type(values["pid"]) is not int or type(values["start"]) not in (int, float) or values["pid"] <= 0:
        raise TypeError("a process is numbers")
    for name in ("boot_id", "pid_namespace", "at", "by", "wish", "stage", "how", "line", "ended_at", "unit"):
        _text(values[name])
    if values["log"] is not None:
        _text(values["log"])
    if not all(type(values[name]) is bool for name in ("rollback", "seen")):
        raise TypeError("a mark is true or false")
    return Attempt(**{**values, "ran": _set(values["ran"])})


def _set(document: Any) -> LaunchSet:
    return LaunchSet(
        argv=_words(document["argv"]),
        interpreter=_text(document["interpreter"]),
        program=_text(document["program"]),
        script=_words(document["script"]),
        models=tuple(Pinned(*map(_text, model)) for model in document["models"]),
        folders=_text(document["folders"]),
        environment=tuple(map(_text, document["environment"])),
        variables={_text(name): _text(value) for name, value in document["variables"].items()},
        at=_text(document["at"]),
        locked=bool(document["locked"]),
    )


def _words(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise TypeError("a command has words")
    return tuple(map(_text, value))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("it is a text")
    return value
