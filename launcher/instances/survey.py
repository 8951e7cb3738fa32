"""Find this app's instances, and the stale ones among them: ours by proof, and on our port.

This module changes nothing. A survey is a value: the plan shows it, the stop uses it, and each act checks again.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..system.marker import Marker
from . import port as ports
from .app_arguments import Told
from .candidates import App, Candidate, Claim, candidates
from .command_line import ScriptArgument
from .family import Bounds, Family, Known, Start, family, foreign_family, inherited_marker, leftovers
from .match import Evidence, Verdict, Wanted, judge
from .process import Process, lineage, look
from .proof import network
from .script import files_run, own_file, same_mount_namespace
from .table import ProcessTable

if TYPE_CHECKING:
    from .unit import Supervisor


class Member(NamedTuple):
    """Hold a process that belongs to an instance, or is its leftover, with the ports on which it listens."""

    process: Process
    ports: frozenset[int]


class Instance(NamedTuple):
    """Hold one instance: its root process, its ports, and the verdict.

    `runs` are the processes below it that run the app too, `family` are the other processes that the app started,
    `tree` the pids of all three. `left` are foreign processes below it, each with the reason. `told` is the port in its
    arguments, `page_port` the port where its page was found, if it has several. `shell` is the one that continues when
    the instance ends, and may restart it.
    """

    process: Process
    runs: tuple[Process, ...]
    tree: tuple[int, ...]
    told: Told
    listening: frozenset[int]
    verdict: Verdict
    supervisor: Supervisor | None = None
    page_port: int | None = None
    family: tuple[Member, ...] = ()
    left: tuple[tuple[Process, str], ...] = ()
    known: Known = Known()
    shell: Process | None = None

    @property
    def pid(self) -> int:
        """Return the pid of the instance's root process."""
        return self.process.pid

    @property
    def members(self) -> tuple[int, ...]:
        """Return the pids of the processes below it that run the app too."""
        return tuple(process.pid for process in self.runs)

    @property
    def port(self) -> int | None:
        """Return its actual port or the one in its arguments, or None if it is unknown."""
        known = self.told.port if self.told.port is not None else self.page_port
        return known if known is not None else min(self.listening, default=None)


class Address(NamedTuple):
    """Hold where the app is to listen: on every IPv4 interface if `host` is None; `taken` means that it cannot."""

    host: str | None
    wanted: Wanted
    taken: bool


class Holder(NamedTuple):
    """Hold a foreign listener on our port; `process` is None if it is invisible.

    `above` means that it is our ancestor or pid 1: it can never be stopped from here. `remote` is the other end of a
    connection that uses the port: then no process listens there. `family` are the processes that go with it.
    """

    address: str
    uid: int | None
    process: Process | None
    supervisor: Supervisor | None
    above: bool
    remote: str | None = None
    family: tuple[Member, ...] = ()


class Survey(NamedTuple):
    """Hold the results of one survey.

    `stale` are ours on the port, `siblings` ours on others, `others` another user's; `inside` is the instance that
    started this launcher. `left` are the pids of similar processes, each with the reason why it is not the app.
    `unread` are pids that run the app's script and cannot be read. `leftovers` are the processes of dead instances,
    `spared` have their marker and are skipped, each with the reason. `bounds` are never stopped.
    """

    port: int
    stale: tuple[Instance, ...]
    siblings: tuple[Instance, ...]
    others: tuple[Instance, ...]
    holders: tuple[Holder, ...]
    inside: Instance | None
    left: tuple[tuple[int, str], ...]
    bounds: Bounds
    unread: tuple[int, ...] = ()
    leftovers: tuple[Member, ...] = ()
    spared: tuple[tuple[Process, str], ...] = ()


def survey(app: App, address: Address, claim: Claim | None = None) -> Survey:
    """Check every visible process, and the listeners if the port is taken."""
    table = ProcessTable()
    app_processes = candidates(app, claim)
    marked = _marked(app, table)
    own = lineage(os.getpid()) if app_processes.proven or address.taken or marked else ()
    bounds = Bounds(app.folders, os.getpid(), os.geteuid(), frozenset((1, *own)))
    instances = _instances(app_processes.proven, address.wanted, table, bounds) if app_processes.proven else []
    ours = [i for i in instances if i.verdict.stale]
    inside = next((i for i in ours if not set(own).isdisjoint((i.pid, *i.members))), None)
    bounds = bounds._replace(apart=frozenset(pid for i in instances if i not in ours for pid in i.tree))
    port = address.wanted.port
    listeners = ports.listeners(address.host, port, [pid for i in ours for pid in i.tree]) if address.taken else ()
    holding = frozenset(listener.pid for listener in listeners if listener.pid is not None)
    left_over = _leftovers(Start(port, app.command, marked, holding), table, bounds, instances)
    leftovers = tuple(_member(process) for process in left_over.own)
    holders: tuple[Holder, ...] = ()
    if address.taken:
        gone = {process.pid for process in left_over.own}
        holders = _holders(port, [listener for listener in listeners if listener.pid not in gone], table, bounds)
        seen_on = frozenset[int]().union(*(i.listening for i in ours), *(member.ports for member in leftovers))
        if not holders and port not in seen_on:
            unseen = Holder(address.host or "0.0.0.0", None, None, None, above=False)
            holders = _connected(address.host, port) or (unseen,)
    return Survey(
        port=port,
        stale=tuple(i for i in ours if i is not inside),
        siblings=tuple(i for i in instances if i.verdict.standing == "sibling"),
        others=(
            *(i for i in instances if i.verdict.standing in ("other", "refused")),
            *_hidden(app_processes.hidden, port),
        ),
        holders=holders,
        inside=inside,
        left=app_processes.left,
        bounds=bounds,
        unread=app_processes.unread,
        leftovers=leftovers,
        spared=left_over.left,
    )


def _hidden(candidates: Sequence[Candidate], port: int) -> Iterator[Instance]:
    """Yield the other users' processes with our port in their arguments, which are otherwise hidden."""
    for process, told, _ in candidates:
        if told.port == port:
            verdict = Verdict("hidden", f"another user's, told {told.by}; which file it runs is hidden")
            yield Instance(process, (), (process.pid,), told, frozenset(), verdict)


def _marked(app: App, table: ProcessTable) -> Mapping[int, Marker]:
    """Return the other processes that descend from a start of this app; most launches find none."""
    return {pid: mark for pid, mark in table.marked.items() if pid != os.getpid() and _is_of(mark, pid, app)}


def _is_of(marker: Marker, pid: int, app: App) -> bool:
    identities = [entry.identity for entry in app.entries]
    if same_mount_namespace(pid):
        return marker.script in [entry.path for entry in app.entries] or own_file(marker.script) in identities
    try:
        return not files_run(pid, ScriptArgument("script", marker.script)).isdisjoint(identities)
    except PermissionError:
        return False


def _leftovers(start: Start, table: ProcessTable, bounds: Bounds, instances: Collection[Instance]) -> Family:
    known = frozenset(pid for i in instances for pid in (*i.tree, *(process.pid for process, _ in i.left)))
    if known.issuperset(start.marked):
        return Family((), ())
    from .supervisor import supervisor

    return leftovers(table, start._replace(attended=supervisor(bounds.own, table) is None), bounds, known)


def _member(process: Process) -> Member:
    return Member(process, ports.listening((process.pid,)))


def _instances(proven: Mapping[int, Candidate], wanted: Wanted, table: ProcessTable, bounds: Bounds) -> list[Instance]:
    from .supervisor import shell_above, supervisor  # needed only if an instance runs

    groups = _groups(proven)
    instances = []
    for root, members in groups.items():
        roots = (root, *members)
        others = frozenset(pid for other in groups if other != root for pid in (other, *groups[other]))
        running = [proven[pid] for pid in roots]
        told = max((candidate.told for candidate in running), key=lambda told: (told.port is not None, told.doubt))
        port = wanted.port if told.port is None else told.port
        heirs = (inherited_marker(pid, table, bounds) for pid in roots)
        known = Known(markers=frozenset(marker for marker in heirs if marker and marker.port == port))
        belongs = family(roots, table, bounds._replace(apart=others), known)
        own = tuple(_member(process) for process in belongs.own)
        root_ports = ports.listening([pid for pid in roots if pid not in bounds.spare])
        listening = root_ports.union(*(member.ports for member in own))
        evidence = Evidence(
            same_user=proven[root].process.uid == bounds.uid,
            recorded=any(candidate.recorded for candidate in running),
            network=network(root) in ("", network()),
            # Its children may serve its page, but cannot override the port in its own arguments.
            listening=listening if told.port in (None, wanted.port) else root_ports,
            told=told,
        )
        instances.append(
            Instance(
                process=proven[root].process,
                runs=tuple(proven[pid].process for pid in members),
                tree=(*roots, *(member.process.pid for member in own)),
                told=told,
                listening=listening,
                verdict=judge(evidence, wanted),
                supervisor=supervisor(root, table, bounds.own),
                family=own,
                left=belongs.left,
                known=belongs.known,
                shell=shell_above(root, table, bounds.own),
            )
        )
    return instances


def _groups(proven: Mapping[int, Candidate]) -> Mapping[int, tuple[int, ...]]:
    """Return the topmost pid of each instance, with the matching pids below it."""
    above: dict[int, int] = {}
    for pid, candidate in proven.items():
        nearest = next((ancestor for ancestor in lineage(pid)[1:] if ancestor in proven), None)
        if nearest is not None and not _is_apart(proven[nearest], candidate):
            above[pid] = nearest
    members: dict[int, list[int]] = {pid: [] for pid in proven if pid not in above}
    for pid in above:
        root = pid
        while root in above:
            root = above[root]
        members[root].append(pid)
    return {root: tuple(pids) for root, pids in members.items()}


def _is_apart(ancestor: Candidate, candidate: Candidate) -> bool:
    """Return whether a process below another one is a separate instance.

    It is if a launcher started it, or if it is another user's, is in another network, or has another port in its
    arguments. Without a port it is a worker. With a port, below a process without one, it is that wrapper's command,
    unless the upper process serves a page itself.
    """
    outer, inner = ancestor.process, candidate.process
    if candidate.recorded or outer.uid != inner.uid or network(outer.pid) != network(inner.pid):
        return True
    above, port = ancestor.told.port, candidate.told.port
    if port is None or port == above:
        return False
    return above is not None or not ports.listening((outer.pid,)) <= {port}


def _connected(host: str | None, port: int) -> tuple[Holder, ...]:
    holders = []
    for connection in ports.connections(host, port):
        process = look(connection.pid) if connection.pid is not None else None
        uid = process.uid if process else None
        holders.append(Holder(connection.address, uid, process, None, above=False, remote=connection.remote))
    return tuple(holders)


def _holders(
    port: int, listeners: Collection[ports.Listener], table: ProcessTable, bounds: Bounds
) -> tuple[Holder, ...]:
    from .supervisor import supervisor

    holders: dict[int | str, Holder] = {}
    for listener in listeners:
        process = look(listener.pid) if listener.pid is not None else None
        if process and port not in ports.listening((process.pid,)):
            process = None  # another process may have received the pid after the sockets were listed
        holders[process.pid if process else listener.address] = Holder(
            address=listener.address,
            uid=listener.uid if process is None or process.uid is None else process.uid,
            process=process,
            supervisor=supervisor(process.pid, table, os.getpid()) if process else None,
            above=bool(process and process.pid in bounds.spare),
            family=tuple(map(_member, foreign_family((process.pid,), table, bounds))) if process else (),
        )
    return tuple(holders.values())
