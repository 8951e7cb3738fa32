"""Which processes are this app's instances, and which of them are stale: ours by proof, and on our port.

Nothing here acts. A survey is a value: the plan shows it, the stop takes it, and each act looks again.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..ui import text
from . import port as ports
from .match import declared_port, is_python, script_argument, wrapped_argument
from .process import Process, environment, lineage, look
from .proof import command_lines, network, words
from .script import FileIdentity, contradicted, files_run
from .table import ProcessTable

if TYPE_CHECKING:
    from .unit import Supervisor


class App(NamedTuple):
    """Hold what makes a process an instance of this app."""

    script: str
    identity: FileIdentity
    port_flags: tuple[str, ...]


class Claim(NamedTuple):
    """Hold the process that a launcher became: the instance lock's record names it, and it holds that lock."""

    pid: int
    start: float
    port: int


class Instance(NamedTuple):
    """Hold one instance: the process that it hangs on, and its ports.

    `members` are the processes below it that run the app too, `tree` is every process from it downwards. `declared` is
    the port it was told to use. `elsewhere` means in a network of its own, where every port is another one.
    """

    process: Process
    members: tuple[int, ...]
    tree: tuple[int, ...]
    declared: int | None
    listening: frozenset[int]
    supervisor: Supervisor | None
    elsewhere: bool = False

    @property
    def pid(self) -> int:
        """Return the pid of the process that the instance hangs on."""
        return self.process.pid

    @property
    def port(self) -> int | None:
        """Return the port that it is on or was told to use, or None when that cannot be known."""
        return self.declared if self.declared is not None else min(self.listening, default=None)

    def on(self, port: int) -> bool:
        """Tell whether it is on this port, or on no knowable other one."""
        return not self.elsewhere and (port in self.listening or self.port in (port, None))


class Holder(NamedTuple):
    """Hold who listens on our port without being our instance; `process` is None where it cannot be seen.

    `above` says that we run below it, or that it is pid 1: it can never be stopped from here.
    """

    address: str
    uid: int | None
    process: Process | None
    supervisor: Supervisor | None
    above: bool


class Survey(NamedTuple):
    """Hold what was found, once.

    `stale` are ours on the port, `siblings` ours on others, `others` another user's; `inside` is the instance that
    this very launcher was started from; `left` are processes that look alike, each with the reason why they are not.
    """

    port: int
    stale: tuple[Instance, ...]
    siblings: tuple[Instance, ...]
    others: tuple[Instance, ...]
    holders: tuple[Holder, ...]
    inside: Instance | None
    left: tuple[tuple[Process, str], ...]

    @property
    def spare(self) -> frozenset[int]:
        """Return the pids of every instance that is not to be touched, whatever it hangs below."""
        return frozenset(pid for i in (*self.siblings, *self.others) for pid in i.tree)


class _Match(NamedTuple):
    process: Process
    declared: int | None


def survey(app: App, host: str | None, port: int, taken: bool, claim: Claim | None = None) -> Survey:
    """Look at every visible process, and where the port is `taken`, at who listens there."""
    found, left = _matches(app, claim)
    own = lineage(os.getpid()) if found or taken else ()
    instances = _instances(found, own) if found else []
    ours = [i for i in instances if i.process.uid == os.geteuid()]
    inside = next((i for i in ours if i.on(port) and not set(own).isdisjoint((i.pid, *i.members))), None)
    stale = tuple(i for i in ours if i.on(port) and i is not inside)
    here = (*stale, *((inside,) if inside else ()))
    holders: tuple[Holder, ...] = ()
    if taken:
        holders = _holders(host, port, [pid for i in here for pid in i.tree], own)
        if not holders and not any(port in i.listening for i in here):
            holders = (Holder(host or "0.0.0.0", None, None, None, above=False),)
    return Survey(
        port=port,
        stale=stale,
        siblings=tuple(i for i in ours if not i.on(port)),
        others=tuple(i for i in instances if i.process.uid != os.geteuid()),
        holders=holders,
        inside=inside,
        left=tuple(left),
    )


def _matches(app: App, claim: Claim | None) -> tuple[dict[int, _Match], list[tuple[Process, str]]]:
    name = os.fsencode(os.path.basename(app.script))
    found: dict[int, _Match] = {}
    left: list[tuple[Process, str]] = []
    for pid, line in command_lines():
        mentions = name in line
        program = line.split(b"\0", 1)[0].rsplit(b"/", 1)[-1].lower()
        if pid == os.getpid() or not (mentions or program.startswith((b"python", b"pypy"))):
            continue
        if not mentions and not _runs(app, pid, words(line)):
            continue
        process = look(pid)
        if process is None or process.gone:
            continue
        reason = _why_not(app, process)
        if reason is None:
            found[pid] = _Match(process, declared_port(process.argv, environment(pid) or {}, app.port_flags))
        elif mentions:
            left.append((process, reason))
    claimed = look(claim.pid) if claim and claim.pid != os.getpid() else None
    if claim and claimed and claimed.start == claim.start and not claimed.gone:
        found[claim.pid] = _Match(claimed, claim.port)
        left = [(process, reason) for process, reason in left if process.pid != claim.pid]
    return found, left


def _runs(app: App, pid: int, argv: Sequence[str]) -> bool:
    """Return whether a command line leads to the app's script, if it is a Python's: most Pythons run something else.

    It costs no import of psutil.
    """
    try:
        wanted = (script_argument(argv), wrapped_argument(argv, python=True), wrapped_argument(argv, python=False))
        return any(one and one.can_be(app.script) and app.identity in files_run(pid, one) for one in wanted)
    except PermissionError:
        return True


def _why_not(app: App, process: Process) -> str | None:
    """Return why a process is no instance of the app, or None when it is one."""
    python = is_python(process.exe if process.exe else (process.argv[0] if process.argv else None))
    argument = script_argument(process.argv) if python else None
    wrapped = wrapped_argument(process.argv, python)
    reason = "a Python that runs no script" if python else "not a Python"
    for wanted in (argument, wrapped):
        if wanted is None:
            continue
        try:
            if app.identity in files_run(process.pid, wanted):
                if contradicted(process.pid, wanted, app.identity):
                    return "its current folder and the one it was started in name different scripts"
                return None
        except PermissionError:
            return f"user {text.user(process.uid)} hides which file it runs"
        reason = "it runs another file"
    return reason


def _instances(found: Mapping[int, _Match], own: Sequence[int]) -> list[Instance]:
    table = ProcessTable()
    groups = dict(_groups(found))
    instances = []
    for root, members in groups.items():
        others = [pid for pid in groups if pid != root]
        below = (pid for pid, _ in table.below((root, *members), others))
        tree = tuple(dict.fromkeys((root, *members, *below)))
        declared = next((found[pid].declared for pid in (root, *members) if found[pid].declared is not None), None)
        instances.append(
            Instance(
                process=found[root].process,
                members=members,
                tree=tree,
                declared=declared,
                listening=ports.listening([pid for pid in tree if pid not in own]),
                supervisor=_supervisor(root, table),
                elsewhere=network(root) not in ("", network()),
            )
        )
    return instances


def _groups(found: Mapping[int, _Match]) -> Iterable[tuple[int, tuple[int, ...]]]:
    """Yield each instance's topmost pid and the matching pids below it; one that was told another port is another."""
    members: dict[int, list[int]] = {}
    for pid, match in found.items():
        root = pid
        for ancestor in lineage(pid)[1:]:
            if ancestor not in found:
                continue
            if None not in (match.declared, found[ancestor].declared) and match.declared != found[ancestor].declared:
                break
            root = ancestor
        members.setdefault(root, []).append(pid)
    for root, pids in members.items():
        yield root, tuple(pid for pid in pids if pid != root)


def _supervisor(pid: int, table: ProcessTable) -> Supervisor | None:
    from .supervisor import supervisor  # needed only where something runs already

    return supervisor(pid, table, os.getpid())


def _holders(host: str | None, port: int, known: Sequence[int], own: Collection[int]) -> tuple[Holder, ...]:
    table = ProcessTable()
    found: dict[int | str, Holder] = {}
    for listener in ports.listeners(host, port, known):
        process = look(listener.pid) if listener.pid is not None else None
        if process and port not in ports.listening((process.pid,)):
            process = None  # the pid may have passed to a stranger since the sockets were listed
        found[process.pid if process else listener.address] = Holder(
            address=listener.address,
            uid=listener.uid if process is None or process.uid is None else process.uid,
            process=process,
            supervisor=_supervisor(process.pid, table) if process else None,
            above=bool(process and (process.pid == 1 or process.pid in own)),
        )
    return tuple(found.values())
