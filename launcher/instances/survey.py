"""Which processes are this app's instances, and which of them are stale: ours by proof, and on our port.

Nothing here acts. A survey is a value: the plan shows it, the stop takes it, and each act looks again.
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
from .family import Bounds, Family, Known, Start, family, inherited_marker, leftovers
from .match import Evidence, Verdict, Wanted, judge
from .process import Process, lineage, look
from .proof import network
from .script import files_run, own_file, same_mount_namespace
from .table import ProcessTable

if TYPE_CHECKING:
    from .unit import Supervisor


class Member(NamedTuple):
    """Hold a process that goes with an instance, or that one has left over, with the ports that it listens on."""

    process: Process
    ports: frozenset[int]


class Instance(NamedTuple):
    """Hold one instance: the process that it hangs on, its ports, and what it is to us.

    `members` are the processes below it that run the app too, `family` is what else the app has started, `tree` the
    pids of all three. `left` is what is below it without being the app's, each with the reason. `told` is the port it
    was told to use, `page_port` the one where its page was seen, of several. `shell` is the one that goes on when the
    instance ends, and may start it again.
    """

    process: Process
    members: tuple[int, ...]
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
        """Return the pid of the process that the instance hangs on."""
        return self.process.pid

    @property
    def port(self) -> int | None:
        """Return the port that it is on or was told to use, or None when that cannot be known."""
        known = self.told.port if self.told.port is not None else self.page_port
        return known if known is not None else min(self.listening, default=None)


class Address(NamedTuple):
    """Hold where the app is to listen: on every IPv4 interface where `host` is None; `taken` says that it cannot."""

    host: str | None
    wanted: Wanted
    taken: bool


class Holder(NamedTuple):
    """Hold who listens on our port without being our instance; `process` is None where it cannot be seen.

    `above` says that we run below it, or that it is pid 1: it can never be stopped from here. `remote` is the other end
    of a connection that has the port as its own: then nobody listens there.
    """

    address: str
    uid: int | None
    process: Process | None
    supervisor: Supervisor | None
    above: bool
    remote: str | None = None


class Survey(NamedTuple):
    """Hold what was found, once.

    `stale` are ours on the port, `siblings` ours on others, `others` another user's; `inside` is the instance that
    this very launcher was started from. `left` are the pids of what looks alike, each with the reason why it is not.
    `unread` are pids that run the app's script and that cannot be read. `leftovers` are what dead instances have left,
    `spared` what has their marker without being ended, each with the reason. `bounds` are never touched.
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
    """Look at every visible process, and where the port is taken, at who listens there."""
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
        holders = _holders(port, [listener for listener in listeners if listener.pid not in gone], table, own)
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
    """Yield the other users' processes that were told our port, and of which no more can be seen."""
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
    from .supervisor import shell_above, supervisor  # needed only where something runs already

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
            # What it has started may serve its page, but does not speak for one that was told another port.
            listening=listening if told.port in (None, wanted.port) else root_ports,
            told=told,
        )
        instances.append(
            Instance(
                process=proven[root].process,
                members=members,
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
    """Return whether a process below another one is an instance of its own.

    A launcher started it, or it is another user's, in another network, or was told another port. One that was told
    none is a worker. One that was told a port below one that was told none is what that one runs, as a wrapper does,
    unless that one serves a page itself.
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
    port: int, listeners: Collection[ports.Listener], table: ProcessTable, own: Collection[int]
) -> tuple[Holder, ...]:
    from .supervisor import supervisor

    holders: dict[int | str, Holder] = {}
    for listener in listeners:
        process = look(listener.pid) if listener.pid is not None else None
        if process and port not in ports.listening((process.pid,)):
            process = None  # the pid may have passed to a stranger since the sockets were listed
        holders[process.pid if process else listener.address] = Holder(
            address=listener.address,
            uid=listener.uid if process is None or process.uid is None else process.uid,
            process=process,
            supervisor=supervisor(process.pid, table, os.getpid()) if process else None,
            above=bool(process and (process.pid == 1 or process.pid in own)),
        )
    return tuple(holders.values())
