"""Which processes are this app's instances, and which of them are stale: ours by proof, and on our port.

Nothing here acts. A survey is a value: the plan shows it, the stop takes it, and each act looks again.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from . import port as ports
from .app_arguments import Told
from .candidates import App, Candidate, Claim, candidates
from .match import Evidence, Verdict, Wanted, judge
from .process import Process, lineage, look
from .proof import network
from .table import ProcessTable

if TYPE_CHECKING:
    from .unit import Supervisor


class Instance(NamedTuple):
    """Hold one instance: the process that it hangs on, its ports, and what it is to us.

    `members` are the processes below it that run the app too, `tree` is every process from it downwards. `told` is the
    port it was told to use, `page_port` the one where its page was seen, of several.
    """

    process: Process
    members: tuple[int, ...]
    tree: tuple[int, ...]
    told: Told
    listening: frozenset[int]
    verdict: Verdict
    supervisor: Supervisor | None = None
    page_port: int | None = None

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
    `unread` are pids that run the app's script and that cannot be read.
    """

    port: int
    stale: tuple[Instance, ...]
    siblings: tuple[Instance, ...]
    others: tuple[Instance, ...]
    holders: tuple[Holder, ...]
    inside: Instance | None
    left: tuple[tuple[int, str], ...]
    unread: tuple[int, ...] = ()

    @property
    def spare(self) -> frozenset[int]:
        """Return the pids of every instance that is not to be touched, whatever it hangs below."""
        return frozenset(pid for i in (*self.siblings, *self.others) for pid in i.tree)


def survey(app: App, address: Address, claim: Claim | None = None) -> Survey:
    """Look at every visible process, and where the port is taken, at who listens there."""
    seen = candidates(app, claim)
    own = lineage(os.getpid()) if seen.found or address.taken else ()
    instances = _instances(seen.found, address.wanted, own) if seen.found else []
    ours = [i for i in instances if i.verdict.stale]
    inside = next((i for i in ours if not set(own).isdisjoint((i.pid, *i.members))), None)
    port = address.wanted.port
    holders: tuple[Holder, ...] = ()
    if address.taken:
        holders = _holders(address.host, port, [pid for i in ours for pid in i.tree], own)
        if not holders and not any(port in i.listening for i in ours):
            unseen = Holder(address.host or "0.0.0.0", None, None, None, above=False)
            holders = _connected(address.host, port) or (unseen,)
    return Survey(
        port=port,
        stale=tuple(i for i in ours if i is not inside),
        siblings=tuple(i for i in instances if i.verdict.standing == "sibling"),
        others=(*(i for i in instances if i.verdict.standing in ("other", "refused")), *_hidden(seen.hidden, port)),
        holders=holders,
        inside=inside,
        left=seen.left,
        unread=seen.unread,
    )


def _hidden(candidates: Sequence[Candidate], port: int) -> Iterator[Instance]:
    """Yield the other users' processes that were told our port, and of which no more can be seen."""
    for process, told, _ in candidates:
        if told.port == port:
            verdict = Verdict("hidden", f"another user's, told {told.by}; which file it runs is hidden")
            yield Instance(process, (), (process.pid,), told, frozenset(), verdict)


def _instances(found: Mapping[int, Candidate], wanted: Wanted, own: Sequence[int]) -> list[Instance]:
    table = ProcessTable()
    groups = _groups(found)
    instances = []
    for root, members in groups.items():
        others = [pid for pid in groups if pid != root]
        below = (pid for pid, _ in table.below((root, *members), others))
        tree = tuple(dict.fromkeys((root, *members, *below)))
        running = [found[pid] for pid in (root, *members)]
        told = max((candidate.told for candidate in running), key=lambda told: (told.port is not None, told.doubt))
        listening = ports.listening([pid for pid in tree if pid not in own])
        # What it has started may serve its page, but does not speak for one that was told another port.
        own_ports = listening if told.port in (None, wanted.port) else ports.listening((root, *members))
        evidence = Evidence(
            same_user=found[root].process.uid == os.geteuid(),
            recorded=any(candidate.recorded for candidate in running),
            network=network(root) in ("", network()),
            listening=own_ports,
            told=told,
        )
        supervisor = _supervisor(root, table)
        verdict = judge(evidence, wanted)
        instances.append(Instance(found[root].process, members, tree, told, listening, verdict, supervisor))
    return instances


def _groups(found: Mapping[int, Candidate]) -> Mapping[int, tuple[int, ...]]:
    """Return the topmost pid of each instance, with the matching pids below it."""
    above: dict[int, int] = {}
    for pid, candidate in found.items():
        nearest = next((ancestor for ancestor in lineage(pid)[1:] if ancestor in found), None)
        if nearest is not None and not _is_apart(found[nearest], candidate):
            above[pid] = nearest
    members: dict[int, list[int]] = {pid: [] for pid in found if pid not in above}
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


def _supervisor(pid: int, table: ProcessTable) -> Supervisor | None:
    from .supervisor import supervisor  # needed only where something runs already

    return supervisor(pid, table, os.getpid())


def _connected(host: str | None, port: int) -> tuple[Holder, ...]:
    holders = []
    for connection in ports.connections(host, port):
        process = look(connection.pid) if connection.pid is not None else None
        uid = process.uid if process else None
        holders.append(Holder(connection.address, uid, process, None, above=False, remote=connection.remote))
    return tuple(holders)


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
