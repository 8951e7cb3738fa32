"""Which processes are this app's instances, and which of them are stale: ours by proof, and on our port.

Nothing here acts. A survey is a value: the plan shows it, the stop takes it, and each act looks again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .. import text
from . import port as ports
from .family import Family, lineage
from .identity import (
    ScriptArgument,
    declared_port,
    is_python,
    script_argument,
    wrapped_arguments,
)
from .processes import (
    FileIdentity,
    Process,
    cgroup,
    command_lines,
    contradicted,
    environment,
    files_run,
    look,
)

if TYPE_CHECKING:
    from .supervisor import Supervisor

Role = Literal["app", "wrapper", "lock holder"]


@dataclass(frozen=True, slots=True)
class App:
    """Hold what makes a process an instance of this app."""

    script: str
    identity: FileIdentity
    port_flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """Hold a process that was proved to hold the instance lock, which is inherited from a launcher only."""

    pid: int
    port: int


@dataclass(frozen=True, slots=True)
class Instance:
    """Hold one instance: the process that it hangs on, and its ports.

    `members` are the processes below it that run the app too, `tree` is every process from it downwards.
    """

    process: Process
    role: Role
    members: tuple[int, ...]
    tree: tuple[int, ...]
    declared: int | None
    listening: frozenset[int]
    supervisor: Supervisor | None

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
        return port in self.listening or self.port in (port, None)


@dataclass(frozen=True, slots=True)
class Holder:
    """Hold who listens on our port without being our instance; `process` is None where it cannot be seen.

    `above` says that we run below it, or that it is pid 1: it can never be stopped from here.
    """

    address: str
    uid: int | None
    process: Process | None
    supervisor: Supervisor | None
    above: bool


@dataclass(frozen=True, slots=True)
class Survey:
    """Hold what was found, once.

    `stale` are ours on the port, `siblings` ours on others, `others` another user's; `inside` is the instance that
    this very launcher was started from; `left` are processes that look alike, each with the reason why they are not.
    """

    port: int
    taken: bool
    stale: tuple[Instance, ...]
    siblings: tuple[Instance, ...]
    others: tuple[Instance, ...]
    holders: tuple[Holder, ...]
    inside: Instance | None
    left: tuple[tuple[Process, str], ...]


def survey(app: App, host: str | None, port: int, taken: bool, claims: Sequence[Claim] = ()) -> Survey:
    """Look at every visible process, and where the port is `taken`, at who listens there."""
    found, left = _matches(app, claims)
    own = lineage(os.getpid())
    own_cgroup = cgroup(os.getpid())
    claimed = {claim.pid: claim.port for claim in claims}
    family = Family() if found or taken else None
    instances = [_instance(app, group, claimed, family, own_cgroup, own) for group in _groups(found)] if family else []
    ours = [i for i in instances if i.process.uid == os.geteuid()]
    inside = next((i for i in ours if i.on(port) and not set(own).isdisjoint((i.pid, *i.members))), None)
    stale = tuple(i for i in ours if i.on(port) and set(own).isdisjoint((i.pid, *i.members)))
    here = (*stale, *((inside,) if inside else ()))
    known = tuple(pid for i in here for pid in i.tree)
    served = any(port in i.listening for i in here)
    return Survey(
        port=port,
        taken=taken,
        stale=stale,
        siblings=tuple(i for i in ours if not i.on(port)),
        others=tuple(i for i in instances if i.process.uid != os.geteuid()),
        holders=_holders(host, port, known, served, own_cgroup, own) if taken else (),
        inside=inside,
        left=tuple(left),
    )


def describe(process: Process) -> str:
    """Return a process as messages name it: `pid 4242, python webui.py --port 7860, up 3h12m`."""
    command = text.command_line(process.argv) if process.argv else f"[{process.name}]"
    owner = "" if process.uid == os.geteuid() else f", user {text.user(process.uid)}"
    return f"pid {process.pid}{owner}, {command}, up {text.duration(process.age)}"


def _matches(app: App, claims: Sequence[Claim]) -> tuple[dict[int, tuple[Process, Role]], list[tuple[Process, str]]]:
    name = os.fsencode(os.path.basename(app.script))
    found: dict[int, tuple[Process, Role]] = {}
    left: list[tuple[Process, str]] = []
    for pid, line in command_lines():
        mentions = name in line
        program = line.split(b"\0", 1)[0].rsplit(b"/", 1)[-1].lower()
        if pid == os.getpid() or not (mentions or program.startswith((b"python", b"pypy"))):
            continue
        process = look(pid)
        if process is None or process.gone:
            continue
        role, reason = _match(app, process)
        if role:
            found[pid] = (process, role)
        elif mentions:
            left.append((process, reason))
    for claim in claims:
        process = look(claim.pid)
        if process and not process.gone and claim.pid not in found and claim.pid != os.getpid():
            found[claim.pid] = (process, "lock holder")
            left = [(other, reason) for other, reason in left if other.pid != claim.pid]
    return found, left


def _match(app: App, process: Process) -> tuple[Role | None, str]:
    python = is_python(process.exe if process.exe else (process.argv[0] if process.argv else None))
    argument = script_argument(process.argv) if python else None
    candidates: list[tuple[Role, ScriptArgument]] = [("app", argument)] if argument else []
    candidates += [("wrapper", wrapped) for wrapped in wrapped_arguments(process.argv, python)]
    if not candidates:
        return None, "not a Python" if not python else "a Python that runs no script"
    for role, wanted in candidates:
        try:
            if app.identity in files_run(process.pid, wanted):
                if contradicted(process.pid, wanted, app.identity):
                    return None, "its current folder and the one it was started in name different scripts"
                return role, ""
        except PermissionError:
            return None, f"user {text.user(process.uid)} hides which file it runs"
    return None, "it runs another file"


def _groups(found: Mapping[int, tuple[Process, Role]]) -> Iterable[tuple[tuple[Process, Role], tuple[int, ...]]]:
    """Yield each instance: the topmost process that matched, and the matching processes below it."""
    members: dict[int, list[int]] = {}
    for pid in found:
        above = [ancestor for ancestor in lineage(pid) if ancestor in found]
        members.setdefault(above[-1], []).append(pid)
    for root, pids in members.items():
        yield found[root], tuple(pid for pid in pids if pid != root)


def _instance(
    app: App,
    group: tuple[tuple[Process, Role], tuple[int, ...]],
    claimed: Mapping[int, int],
    family: Family,
    own_cgroup: str,
    own: Sequence[int],
) -> Instance:
    (process, role), members = group
    pids = (process.pid, *members)
    declared = next((claimed[pid] for pid in pids if pid in claimed), None)
    for pid in pids if declared is None else ():
        seen = look(pid)
        declared = declared_port(seen.argv, environment(pid), app.port_flags) if seen else None
        if declared is not None:
            break
    tree = tuple(dict.fromkeys((*pids, *family.below(frozenset(pids)))))
    return Instance(
        process=process,
        role=role,
        members=members,
        tree=tree,
        declared=declared,
        listening=ports.listening(tuple(pid for pid in tree if pid not in own)),
        supervisor=_supervisor(process, own_cgroup, own),
    )


def _supervisor(process: Process, own_cgroup: str, own: Sequence[int]) -> Supervisor | None:
    from .supervisor import supervisor  # needed only where something runs already

    # A supervisor that is our own ancestor started us in its place, or will do so: it is not in our way.
    parent = look(process.ppid)
    parent_name = parent.name if parent and parent.pid not in own else ""
    return supervisor(cgroup(process.pid), own_cgroup, parent_name)


def _holders(
    host: str | None, port: int, known: Sequence[int], served: bool, own_cgroup: str, own: Sequence[int]
) -> tuple[Holder, ...]:
    """Return who else listens on the port; `served` says that an instance of ours does, which is why it is taken."""
    found: dict[int | str, Holder] = {}
    for listener in ports.listeners(host, port, known):
        process = look(listener.pid) if listener.pid is not None else None
        found[process.pid if process else listener.address] = Holder(
            address=listener.address,
            uid=listener.uid if process is None or process.uid is None else process.uid,
            process=process,
            supervisor=_supervisor(process, own_cgroup, own) if process else None,
            above=bool(process and (process.pid == 1 or process.pid in own)),
        )
    if not found and not served:
        return (Holder(host or "0.0.0.0", None, None, None, above=False),)
    return tuple(found.values())
