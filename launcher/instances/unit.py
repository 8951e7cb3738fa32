"""Find the unit or container of a process's cgroup, and whether the process is that unit's main process.

Every hierarchy is read: a nested or hybrid set-up can have both `name=systemd:/` and `0::/system.slice/app.service`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from .kin import Kin, Table, is_wrapper, waits_for

# Units that run jobs and log-ins for others: they do not supervise the processes in their cgroup.
_SESSION_UNITS = (
    r"(user@[^/]*|init|cron|crond|cronie|anacron|atd|ssh|sshd|ssh@[^/]*|sshd@[^/]*|dropbear|getty@[^/]*"
    r"|serial-getty@[^/]*|console-getty|rc-local|gnome-terminal-server)\.service"
)
_CONTAINER_SCOPE = r"(docker|libpod|crio|cri-containerd|nerdctl)-([0-9a-f]{12,64})\.scope"
_CONTAINER_PATH = r"/(docker|libpod|kubepods|actions_job|ecs|lxc)/(?:[^/]+/)*([^/]+)"
_MACHINE_SCOPE = r"machine-([^/]+)\.scope|lxc\.payload\.([^/]+)"
_MANAGERS = ("systemd", "init")
_NAMELESS = "a systemd unit"


class Supervisor(NamedTuple):
    """Hold who would restart a process, or exit with it, and the command that stops it there.

    `why` completes a sentence whose subject is the process. `restart` is the command that restarts it there, if any.
    """

    name: str
    stop: str
    why: str
    restart: str | None = None

    @property
    def is_unit(self) -> bool:
        """Return whether it is a systemd unit."""
        return self.name.endswith(".service") or self.name == _NAMELESS

    @property
    def hint(self) -> str:
        """Return the commands that help."""
        return f"{f'{self.restart} restarts it there; ' if self.restart else ''}{self.stop} stops it for good"


def supervising(ancestry: Sequence[Kin], table: Table, own: int | None) -> Supervisor | None:
    """Return the container that a process is in, or the unit whose main process it is; None for our own.

    `ancestry` is the process and its ancestors, nearest first.
    """
    named = of_cgroup(ancestry[0].cgroup)
    ours = table.kin(own) if own else None
    if named is None:
        return _nameless(ancestry, ours)
    if ours and of_cgroup(ours.cgroup) == named:
        return None
    return named if _is_main(ancestry, named, table) else None


def of_cgroup(cgroup: str) -> Supervisor | None:
    """Return the unit or container in the text of proc_pid_cgroup(5), from any of its hierarchies."""
    return next((supervisor for path in _paths(cgroup) if (supervisor := _of_path(path))), None)


def _is_main(ancestry: Sequence[Kin], supervisor: Supervisor, table: Table) -> bool:
    """Return whether the unit's main process is this one or a wrapper of it.

    systemd passes its pid to its children in SYSTEMD_EXEC_PID (since 248), and they inherit it. If no living process is
    named (the app has become a daemon), it is the oldest ancestor of the unit's other processes.
    """
    if not supervisor.name.endswith(".service"):
        return True  # a container: its processes are stopped from outside
    wrapped = {ancestry[0].pid}
    for child, parent in pairwise(ancestry):
        if of_cgroup(parent.cgroup) != supervisor or not is_wrapper(parent) or not waits_for(parent, child, table):
            break
        wrapped.add(parent.pid)
    members = [
        kin for pid, group in table.cgroups().items() if of_cgroup(group) == supervisor and (kin := table.kin(pid))
    ]
    named = ancestry[0].environ.get("SYSTEMD_EXEC_PID")
    main = [kin for kin in members if str(kin.pid) in (named, kin.environ.get("SYSTEMD_EXEC_PID"))]
    pids = {kin.pid for kin in members}
    tops = [kin for kin in members if kin.ppid not in pids]
    main = main or sorted(tops, key=lambda kin: (kin.start, kin.pid))[:1]
    return any(kin.pid in wrapped for kin in main)


def _nameless(ancestry: Sequence[Kin], ours: Kin | None) -> Supervisor | None:
    """Return the unit of a main process whose cgroup does not name it.

    SYSTEMD_EXEC_PID is inherited, but equals only the main process's pid. Before systemd 248 there is INVOCATION_ID,
    which counts if systemd itself is the parent, and the process leads a session.
    """
    for child, parent in pairwise(ancestry):
        unit, named = (child.environ.get(name) for name in ("INVOCATION_ID", "SYSTEMD_EXEC_PID"))
        started = parent.name in _MANAGERS and child.session == child.pid and "INVOCATION_ID" not in parent.environ
        if named == str(child.pid) or (named is None and unit and started):
            if ours and unit and ours.environ.get("INVOCATION_ID") == unit:
                return None  # our own unit
            stop = f"systemctl status {child.pid} names the unit, and systemctl stop UNIT"
            return Supervisor("a systemd unit", stop, "is the main process of a systemd unit, which may start it again")
        if not is_wrapper(parent):
            return None
    return None


def _paths(cgroup: str) -> tuple[str, ...]:
    # With cgroup v1 the hierarchy named systemd has the units, with v2 the only one, numbered 0.
    paths = {}
    for line in cgroup.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths[controllers or number] = path
    first = [paths.pop(name) for name in ("name=systemd", "0") if name in paths]
    return (*first, *paths.values())


def _of_path(path: str) -> Supervisor | None:
    for part in reversed(path.split("/")):
        if match := re.fullmatch(_CONTAINER_SCOPE, part):
            return _container(match[1], match[2])
        if match := re.fullmatch(_MACHINE_SCOPE, part):
            machine = match[1] or match[2]
            return _inside(f"machine {machine}", f"machinectl terminate {machine}")
        if part.endswith(".scope") or re.fullmatch(_SESSION_UNITS, part):
            return None
        if part.endswith(".service"):
            systemctl = "systemctl --user" if "/user@" in path else "systemctl"
            unit = shlex.quote(part)
            return _inside(part, f"{systemctl} stop {unit}", f"{systemctl} restart {unit}")
    match = re.match(_CONTAINER_PATH, path)
    return _container(match[1], match[2]) if match else None


def _container(engine: str, identifier: str) -> Supervisor:
    short = identifier[:12]
    if engine in ("docker", "nerdctl"):
        return _inside(f"container {short}", f"{engine} stop {short}")
    if engine == "libpod":
        return _inside(f"container {short}", f"podman stop {short}")
    if engine == "lxc":
        return _inside(f"container {identifier}", f"lxc-stop {identifier}")
    return _inside(f"container {short}", f"crictl stop {short}")


def _inside(name: str, stop: str, restart: str | None = None) -> Supervisor:
    return Supervisor(name, stop, f"runs inside {name}, which may start it again", restart)
