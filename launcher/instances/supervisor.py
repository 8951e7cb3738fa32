"""Do not stop a process that a supervisor would restart, or whose end stops a container.

The supervisor is found among the process's ancestors. Evidence counts only if all processes in between are wrappers (a
shell, uv, tini): variables and cgroups are inherited, and pid 1 adopts orphans. A process that merely runs below a
supervisor, as in a notebook's terminal, is not supervised.

Pure: a table of processes supplies the facts.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise, takewhile
from typing import NamedTuple

from . import unit
from .kin import INITS, Kin, Table, is_interactive, is_shell, is_wrapper, line, programs, waits_for
from .process import Process
from .unit import Supervisor

# Programs that run as pid 1 and do not exit with a child.
_LASTING = frozenset("systemd init openrc-init runit s6-svscan sleep tail cat sshd pause cron nginx".split())


class _Kind(NamedTuple):
    """Hold how a supervisor starts its children: the variable that names them, and whether each leads a session."""

    variable: str | None
    own_session: bool


class Starter(NamedTuple):
    """Hold the supervisor that exits with a process or restarts it; `by_script`: a script in between may continue."""

    supervisor: Supervisor
    by_script: bool


_KINDS: Mapping[str, _Kind] = {
    "supervisord": _Kind("SUPERVISOR_PROCESS_NAME", own_session=False),
    "pm2": _Kind("pm_id", own_session=True),
    "circusd": _Kind(None, own_session=True),
    "honcho": _Kind(None, own_session=True),
    "runsv": _Kind(None, own_session=False),
    "s6-supervise": _Kind(None, own_session=True),
    "supervise": _Kind(None, own_session=False),
    "supervise-daemon": _Kind(None, own_session=True),
}


def supervisor(pid: int, table: Table, own: int | None = None) -> Supervisor | None:
    """Return who would restart a stopped process, or exit with it; None if nothing does.

    `own` is our own pid, unless the question is about us: our own unit, and the script that runs us, are no obstacle.
    """
    ancestry = line(pid, table)
    if not ancestry:
        return None
    if pid == 1:
        return _container(ancestry[0], "is pid 1 of this container, which ends with it")
    ours = _scripts_above(own, table) if own else frozenset()
    return unit.supervising(ancestry, table, own) or _above(ancestry, table, ours) or _first_of_another(pid, table)


def starter(pid: int, table: Table) -> Starter | None:
    """Return who exits with a process that exits at once, or restarts it; None if it may exit.

    A container that it merely runs in does not count, because it continues.
    """
    ancestry = line(pid, table)
    if not ancestry:
        return None
    named = unit.supervising(ancestry, table, None)
    direct = named if named and named.is_unit else _above(ancestry, table, frozenset())
    if direct is None:
        return None
    script = any(is_shell(kin) for kin in takewhile(is_wrapper, ancestry[1:]))
    of_pid_1 = direct.name.startswith("pid 1,") and programs(ancestry[-1]).isdisjoint(INITS)
    return Starter(direct, by_script=script or of_pid_1)


def shell_above(pid: int, table: Table, own: int) -> Process | None:
    """Return the shell that continues when a process ends, and may restart it; None for one that runs us."""
    for child, parent in pairwise(line(pid, table)):
        if parent.pid == 1 or parent.pid in {kin.pid for kin in line(own, table)}:
            return None
        if is_shell(parent):
            return parent.process if waits_for(parent, child, table) else None
        if not is_wrapper(parent):
            return None
    return None


def _above(ancestry: Sequence[Kin], table: Table, ours: frozenset[int]) -> Supervisor | None:
    for child, parent in pairwise(ancestry):
        if parent.pid in ours:
            return None
        kind = _kind(parent, child)
        if kind:
            return _supervised(kind, _top(parent, kind, table), child) if _started(kind, parent, child) else None
        if parent.pid == 1:
            return _ends_with(parent, child, table)
        if not is_wrapper(parent) or not waits_for(parent, child, table):
            return None
    return None


def _scripts_above(own: int, table: Table) -> frozenset[int]:
    """Return the pids of the scripts that run us: their effect on their own commands is intended."""
    pids = {own}
    for parent in line(own, table)[1:]:
        if not is_wrapper(parent) or (parent.pid == 1 and not is_shell(parent)):
            break
        pids.add(parent.pid)
    return frozenset(pids)


def _kind(parent: Kin, child: Kin) -> str | None:
    names = programs(parent)
    for name, kind in _KINDS.items():
        if name in names:
            return name
        # A variable that a process has and its parent lacks was set by that parent.
        gave = kind.variable in child.environ and parent.environ and kind.variable not in parent.environ
        if gave and not is_shell(parent) and not is_wrapper(parent):
            return name
    return None


def _top(supervisor: Kin, name: str, table: Table) -> Kin:
    """Return the supervisor that the user started: honcho forks itself above each of its processes."""
    forks = [*takewhile(lambda kin: name in programs(kin), line(supervisor.pid, table))]
    return forks[-1] if forks else supervisor


def _started(name: str, parent: Kin, child: Kin) -> bool:
    """Return whether a supervisor has started this child: as pid 1 it also adopts orphans."""
    if parent.pid != 1:
        return True
    kind = _KINDS[name]
    if kind.own_session:
        return child.session == child.pid and (kind.variable is None or kind.variable in child.environ)
    return child.session == parent.session


def _supervised(name: str, parent: Kin, child: Kin) -> Supervisor:
    folder = shlex.quote(parent.folder or "SERVICE")
    stop = {
        "supervisord": _supervisorctl(parent, child),
        "pm2": f"pm2 stop {shlex.quote(child.environ.get('pm_id', 'NAME'))}",
        "circusd": "circusctl list; circusctl stop NAME",
        "honcho": f"kill {parent.pid}",
        "runsv": f"sv down {folder}",
        "s6-supervise": f"s6-svc -d {folder}",
        "supervise": f"svc -d {folder}",
        "supervise-daemon": f"rc-service {shlex.quote(parent.argv[1] if len(parent.argv) > 1 else 'NAME')} stop",
    }[name]
    fate = "stops everything that it has started when one of them ends" if name == "honcho" else "may start it again"
    return Supervisor(name, stop, f"runs inside {name}, pid {parent.pid}, which {fate}")


def _supervisorctl(parent: Kin, child: Kin) -> str:
    words = ["supervisorctl"]
    for option, value in pairwise(parent.argv):
        if option in ("-c", "--configuration"):
            words += ["-c", os.path.join(parent.folder or "", value)]
    name, group = (child.environ.get(f"SUPERVISOR_{part}_NAME") for part in ("PROCESS", "GROUP"))
    if name is None:
        return f"{shlex.join(words)} status; {shlex.join(words)} stop NAME"
    return shlex.join((*words, "stop", name if group in (None, name) else f"{group}:{name}"))


def _ends_with(first: Kin, child: Kin, table: Table) -> Supervisor | None:
    """Return pid 1 if it exits with this child, and the container with both."""
    names = programs(first)
    if not names.isdisjoint(_LASTING) or (is_shell(first) and is_interactive(first)):
        return None
    ends = _started_by_first(first, child, table) and waits_for(first, child, table)
    return (
        _container(first, f"keeps this container running: pid 1, {first.name}, waits for it and ends with it")
        if ends
        else None
    )


def _first_of_another(pid: int, table: Table) -> Supervisor | None:
    """Return a process as the pid 1 of another pid namespace, if others that it has not started end with it.

    The kernel kills the rest of a namespace with its pid 1: pid_namespaces(7). A shell may have been attached to it.
    """
    namespace, inner = table.inner(pid)
    if inner != 1:
        return None
    own = table.below((pid,)).union((pid,))
    other = next((one for one in sorted(table.cgroups()) if one not in own and table.inner(one)[0] == namespace), None)
    if other is None:
        return None
    return Supervisor(
        "another pid namespace",
        f"kill -9 {pid}",
        f"is pid 1 of a pid namespace, and pid {other} there would end with it",
    )


def _started_by_first(first: Kin, child: Kin, table: Table) -> bool:
    """Return whether pid 1 has started this child itself, as far as that is visible: it also adopts every orphan.

    Its children share its session, unless it is an init, and it waits for them one after the other: it has started the
    oldest living one. Only the background jobs of a shell can be older.
    """
    if not programs(first).isdisjoint(INITS):
        rivals = _children(first, table)
    elif child.session == first.session:
        rivals = [kin for kin in _children(first, table) if kin.session == first.session]
        if is_shell(first):
            rivals = [kin for kin in rivals if not kin.background]
    else:
        return False
    return all((child.start, child.pid) <= (kin.start, kin.pid) for kin in rivals)


def _children(parent: Kin, table: Table) -> list[Kin]:
    return [kin for pid in table.children(parent.pid) if (kin := table.kin(pid))]


def _container(first: Kin, why: str) -> Supervisor:
    name = shlex.quote(os.uname().nodename)
    restart = f"restart the container from outside: docker restart {name}"
    return Supervisor(f"pid 1, {first.name}", f"docker stop {name}", why, restart)
