"""The family of an instance: the processes that the app itself provably started, and no others below it.

| a process | proof |
|---|---|
| has the marker that the launcher gave the instance at its exec | it inherited the marker, and did not copy it |
| is a child of the app, younger than that exec, or than a thread of the app | the app existed before it |
| is a child of the app and holds its listening socket, which no ancestor of the app has passed on | it inherited it |
| has the app's own command line, or is one of multiprocessing's helpers | a worker of the same program |
| is below one of these | one of these started it |

Older processes are skipped: a shell that execs the app leaves its own background jobs to the app as children.
Another app that merely inherited the marker is skipped too: one of another folder, or one with its own marker.

Pure: a table of processes supplies the facts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

from ..system import marker
from ..system.marker import Marker
from ..ui import text
from .kin import Kin, Table, line, programs
from .process import Process

LAUNCHERS = frozenset(("start_app.py", "start-app"))
# The commands of Python's own process pools: `-c 'from multiprocessing.spawn import spawn_main; …'`.
_HELPERS = ("from multiprocessing.", "from joblib.externals.loky.", "joblib.externals.loky.backend.")
_COPIED = "it has a copy of the app's environment, and the app has not started it"
_INSTALLED = r"/(site-packages|dist-packages|lib\d*/python[\d.]+)/|/bin/[^/]+$"


class Bounds(NamedTuple):
    """Hold the processes that are never stopped, and what belongs to the app.

    `folders` are the app's. `own` is the launcher and `uid` its user. `spare` are the launcher and its ancestors,
    `apart` the processes of other instances: they, and all below them, are skipped.
    """

    folders: tuple[str, ...]
    own: int
    uid: int
    spare: frozenset[int] = frozenset()
    apart: frozenset[int] = frozenset()


class Known(NamedTuple):
    """Hold the proofs of one look at a family, for the next look.

    `markers` are the instance's. `since` maps each of its own processes to the time from which it was surely the app,
    in ticks. `sealed` are the sessions whose members all belong to the instance, including new ones. `pids` are the
    processes of the family that are still the same ones.
    """

    markers: frozenset[Marker] = frozenset()
    since: Mapping[int, float] = MappingProxyType({})
    sealed: frozenset[int] = frozenset()
    pids: frozenset[int] = frozenset()


class Family(NamedTuple):
    """Hold the processes that belong to an instance, oldest first, and the skipped ones, each with the reason."""

    own: tuple[Process, ...]
    left: tuple[tuple[Process, str], ...]
    known: Known = Known()


def family(roots: Collection[int], table: Table, bounds: Bounds, known: Known | None = None) -> Family:
    """Return the family of an instance whose own processes are `roots`; `known` are the proofs of an earlier look."""
    return _Search(frozenset(roots), table, bounds, known or Known()).result()


def own_marker(pid: int, table: Table) -> Marker | None:
    """Return the marker that a process received when it became the app, not an inherited one."""
    mark = table.marked.get(pid)
    if mark is None or (mark.namespace, mark.pid) != table.inner(pid):
        return None
    kin = table.kin(pid)
    return mark if kin and kin.start <= mark.ticks + 1 else None


def inherited_marker(pid: int, table: Table, bounds: Bounds) -> Marker | None:
    """Return the marker of a dead process that this one replaced: an app may restart itself."""
    mark = table.marked.get(pid)
    return mark if mark and mark != own_marker(pid, table) and not _still_there(pid, table, bounds.own) else None


def stranger(kin: Kin, table: Table, folders: Collection[str]) -> str | None:
    """Return why a process is another app's although it may have our marker, or None."""
    if not LAUNCHERS.isdisjoint(programs(kin)):
        return "it is a launcher"
    if own_marker(kin.pid, table):
        return "a launcher has started it, as an instance of its own"
    script = table.script(kin.pid)
    if script is None or re.search(_INSTALLED, script) or any(_is_in(script, folder) for folder in folders):
        return None
    return f"it runs {script}, which is not in the app's folder"


class Start(NamedTuple):
    """Hold which starts of the app count: those of `command` for `port`.

    `marked` are the processes that have a marker of this app, of any port and command. `holding` are those that listen
    on the port. `attended` means that a person requested this launch, not a unit or supervisor, which would restart the
    app after each crash.
    """

    port: int
    command: tuple[str, ...]
    marked: Mapping[int, Marker]
    holding: frozenset[int]
    attended: bool = True


def leftovers(table: Table, start: Start, bounds: Bounds, known: Collection[int]) -> Family:
    """Return the leftovers of the app's dead instances, and the skipped marked processes, each with the reason.

    `known` are the processes of living instances, which are listed elsewhere.
    """
    apart = _apart(table, bounds)
    ours = {pid: mark for pid, mark in start.marked.items() if pid not in apart.union(known) and pid != bounds.own}
    kin = {pid: member for pid, mark in ours.items() if (member := table.kin(pid)) and member.marker == mark}
    reasons = {pid: reason for pid, member in kin.items() if (reason := _why_spared(member, table, start, bounds))}
    below = table.below([pid for pid in reasons if pid not in bounds.spare])
    own = {pid: member for pid, member in kin.items() if pid not in reasons and pid not in below}
    return Family(
        tuple(kin.process for kin in sorted(own.values(), key=lambda kin: (kin.start, kin.pid))),
        tuple((kin[pid].process, reason) for pid, reason in sorted(reasons.items())),
    )


def descendants(pids: Collection[int], table: Table, bounds: Bounds) -> tuple[Process, ...]:
    """Return the family of processes that are known to be the app's: all below them, except another app's."""
    candidates = table.below(pids) - bounds.spare - _apart(table, bounds)
    kin = {pid: member for pid in candidates if (member := table.kin(pid))}
    strangers = [pid for pid, member in kin.items() if stranger(member, table, bounds.folders)]
    apart = table.below(strangers).union(strangers)
    return tuple(k.process for pid, k in kin.items() if pid not in apart and k.process.uid == bounds.uid)


def foreign_family(pids: Collection[int], table: Table, bounds: Bounds) -> tuple[Process, ...]:
    """Return every process below foreign ones, except other instances that a launcher has started, and all below them.

    A notebook server on the port may have started another app in its terminal.
    """
    candidates = table.below(pids) - bounds.spare - _apart(table, bounds)
    instances = [pid for pid in candidates if own_marker(pid, table)]
    apart = table.below(instances).union(instances)
    return tuple(kin.process for pid in sorted(candidates - apart) if (kin := table.kin(pid)))


def _why_spared(member: Kin, table: Table, start: Start, bounds: Bounds) -> str | None:
    """Return why a marked process is not a leftover to be stopped, or None if it is."""
    mark = member.marker
    assert mark
    if member.pid in bounds.spare:
        return "the launcher runs below it"
    if member.process.uid != bounds.uid:
        return f"user {text.user(member.process.uid)}'s"
    reason = stranger(member, table, bounds.folders) or _still_there(member.pid, table, bounds.own)
    if _has_copied(member, table):
        reason = reason or _COPIED
    if mark.command != marker.quoted(start.command):
        reason = reason or "left over by another command of the app's script"
    if reason or member.pid in start.holding:
        return reason
    if mark.port != start.port:
        return f"left over by this app's instance on port {mark.port}; start_app.py stop --port {mark.port} ends it"
    if not start.attended and member.session != mark.session:
        return "left over by an instance that has ended, in a session of its own: a start by hand ends it"
    return None


def _still_there(pid: int, table: Table, own: int) -> str | None:
    """Return why the instance of a marked process may still live, or None if it is dead."""
    mark = table.marked[pid]
    here, namespace = table.inner(own)[0], table.inner(pid)[0]
    if mark.namespace == here:
        main = table.kin(mark.pid)
        alive = main is not None and main.start <= mark.ticks + 1
    elif mark.namespace == namespace:
        alive = any(mark == other and own_marker(pid, table) for pid, other in table.marked.items())
    else:
        return "the container of its instance cannot be seen from here"
    return f"its instance, pid {mark.pid}, is not an instance of this app here" if alive else None


def _has_copied(member: Kin, table: Table) -> bool:
    """Return whether a process has its marker from a copy of an environment, as in a shell that debugs the app.

    All members of a session descend from its leader (setsid(2)), so they inherit the marker of a leader that the app
    has started; the app itself may be in an older session. A title can overwrite an environment, which is blank then.
    """
    mark, leader = member.marker, table.kin(member.session)
    if mark is None or leader is None or leader.pid == member.pid:
        return False
    of_app = mark.namespace != table.inner(leader.pid)[0] or mark.session == leader.pid
    return not of_app and bool(leader.environ) and leader.marker is None


def _apart(table: Table, bounds: Bounds) -> frozenset[int]:
    return bounds.apart | table.below(bounds.apart) | table.below((bounds.own,))


def _is_in(path: str, folder: str) -> bool:
    return os.path.commonpath((path, folder)) == folder


class _Search:
    def __init__(self, roots: frozenset[int], table: Table, bounds: Bounds, known: Known) -> None:
        own = {pid: mark for pid in roots if (mark := own_marker(pid, table))}
        # A process younger than this proof cannot have left it.
        told = {pid: float(own[pid].ticks) if pid in own else table.ran_since(pid) for pid in roots}
        self._since = {pid: min(_moments(told[pid], known.since.get(pid)), default=None) for pid in roots}
        self._markers = known.markers.union(own.values())
        self._led = frozenset(pid for pid in roots if table.session(pid) == pid)
        self._roots, self._table, self._bounds, self._known = roots, table, bounds, known

    def result(self) -> Family:
        table, roots = self._table, self._roots
        marked = frozenset(pid for pid, mark in table.marked.items() if mark in self._markers)
        led = frozenset[int]().union(*(table.in_session(session) for session in self._led | self._known.sealed))
        apart = _apart(table, self._bounds)
        mark = marked | table.below(roots | self._known.pids) | led
        candidates = mark - roots - self._known.pids - apart - self._bounds.spare
        kin = {pid: member for pid in candidates if (member := table.kin(pid))}
        left = {pid: why for pid, member in kin.items() if (why := stranger(member, table, self._bounds.folders))}
        apart |= table.below(left).union(left)
        own = self._proven({pid: member for pid, member in kin.items() if pid not in apart})
        for pid, member in kin.items():
            if pid not in own and pid not in apart and (member.ppid in roots or member.ppid not in kin):
                left[pid] = _COPIED if _has_copied(member, table) else "nothing proves that the app has started it"
        goes = roots | own | self._known.pids
        whole = frozenset(session for session in self._led if table.in_session(session) <= goes)
        for pid in [pid for pid in own if kin[pid].process.uid != self._bounds.uid]:
            own.discard(pid)
            left[pid] = f"user {text.user(kin[pid].process.uid)}'s"
        return Family(
            own=tuple(kin[pid].process for pid in sorted(own, key=lambda pid: (kin[pid].start, pid))),
            left=tuple((kin[pid].process, why) for pid, why in sorted(left.items())),
            known=Known(
                markers=self._markers,
                since={pid: min(_moments(moment, table.now)) for pid, moment in self._since.items()},
                sealed=self._known.sealed | whole,
            ),
        )

    def _proven(self, kin: Mapping[int, Kin]) -> set[int]:
        own = {pid for pid, member in kin.items() if self._is_proven(member)}
        pending = [*own, *self._known.pids]
        while pending:
            new = [pid for pid in self._table.children(pending.pop()) if pid in kin and pid not in own]
            own.update(new)
            pending += new
        return own

    def _is_proven(self, member: Kin) -> bool:
        if member.session in self._known.sealed:
            return True
        if member.marker in self._markers:
            return not _has_copied(member, self._table)
        if member.ppid not in self._roots:
            return False
        moment, parent = self._since[member.ppid], self._table.kin(member.ppid)
        younger = moment is not None and member.start > moment
        return younger or _is_worker(member, parent) or _has_socket(member, parent, self._table)


def _moments(*moments: float | None) -> list[float]:
    return [moment for moment in moments if moment is not None]


def _has_socket(member: Kin, parent: Kin | None, table: Table) -> bool:
    """Return whether a child has inherited a listening socket that its parent has opened, and not received itself.

    systemd passes sockets on with LISTEN_FDS: sd_listen_fds(3).
    """
    if parent is None or "LISTEN_FDS" in parent.environ:
        return False
    shared = parent.listeners & member.listeners
    return bool(shared) and all(shared.isdisjoint(above.listeners) for above in line(parent.pid, table)[1:])


def _is_worker(member: Kin, parent: Kin | None) -> bool:
    """Return whether a child runs the same program as its parent: a fork of it, or a worker of its process pool."""
    if parent is None or member.process.exe is None or member.process.exe != parent.process.exe:
        return False
    return member.argv == parent.argv or any(word.startswith(_HELPERS) for word in member.argv[1:4])
