"""Which processes are this app's instances, and which of them are stale: ours by proof, and on our port.

Nothing here acts. A survey is a value: the plan shows it, the stop takes it, and each act looks again.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
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
    port it was told to use.
    """

    process: Process
    members: tuple[int, ...]
    tree: tuple[int, ...]
    told: Told
    listening: frozenset[int]
    verdict: Verdict
    supervisor: Supervisor | None = None

    @property
    def pid(self) -> int:
        """Return the pid of the process that the instance hangs on."""
        return self.process.pid

    @property
    def port(self) -> int | None:
        """Return the port that it is on or was told to use, or None when that cannot be known."""
        return self.told.port if self.told.port is not None else min(self.listening, default=None)


class Address(NamedTuple):
    """Hold where the app is to listen: on every IPv4 interface where `host` is None; `taken` says that it cannot."""

    host: str | None
    wanted: Wanted
    taken: bool


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
            holders = (Holder(address.host or "0.0.0.0", None, None, None, above=False),)
    return Survey(
        port=port,
        stale=tuple(i for i in ours if i is not inside),
        siblings=tuple(i for i in instances if i.verdict.standing == "sibling"),
        others=tuple(i for i in instances if i.verdict.standing in ("other", "refused")),
        holders=holders,
        inside=inside,
        left=seen.left,
        unread=seen.unread,
    )


def _instances(found: Mapping[int, Candidate], wanted: Wanted, own: Sequence[int]) -> list[Instance]:
    table = ProcessTable()
    groups = dict(_groups(found))
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


def _groups(found: Mapping[int, Candidate]) -> Iterable[tuple[int, tuple[int, ...]]]:
    """Yield each instance's topmost pid and the matching pids below it; one that was told another port is another."""
    members: dict[int, list[int]] = {}
    for pid, candidate in found.items():
        root = pid
        for ancestor in lineage(pid)[1:]:
            if ancestor not in found:
                continue
            told = candidate.told.port, found[ancestor].told.port
            if None not in told and told[0] != told[1]:
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
