"""A process that somebody else would start again is not ours to stop: its unit, container or supervisor is named.

Pure: it decides from the text of a cgroup and the name of a parent process.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import NamedTuple

# Units that run jobs and log-ins for others: a process in their cgroup is not supervised by them.
_SESSION_UNITS = re.compile(
    r"(user@[^/]*|init|cron|crond|cronie|anacron|atd|ssh|sshd|ssh@[^/]*|sshd@[^/]*|dropbear|getty@[^/]*"
    r"|serial-getty@[^/]*|console-getty|rc-local|gnome-terminal-server)\.service"
)
_CONTAINER_SCOPE = re.compile(r"(docker|libpod|crio|cri-containerd|nerdctl)-([0-9a-f]{12,64})\.scope")
_CONTAINER_PATH = re.compile(r"/(docker|libpod|kubepods|actions_job|ecs|lxc)/(?:[^/]+/)*([^/]+)")
_MACHINE_SCOPE = re.compile(r"machine-([^/]+)\.scope|lxc\.payload\.([^/]+)")
# Supervisors that start a child again without a cgroup of its own, and the command that really stops it.
_SUPERVISORS: Mapping[str, str] = {
    "supervisord": "supervisorctl status; supervisorctl stop NAME",
    "runsv": "sv down SERVICE",
    "s6-supervise": "s6-svc -d SERVICE",
    "circusd": "circusctl stop NAME",
    "pm2": "pm2 list; pm2 stop NAME",
}


class Supervisor(NamedTuple):
    """Hold who would start a process again, and the command that stops it there."""

    name: str
    stop_command: str


def supervisor(cgroup: str, own_cgroup: str, ancestors: Iterable[str]) -> Supervisor | None:
    """Return who would start a process again when it is stopped, or None.

    `cgroup` and `own_cgroup` are the texts of proc_pid_cgroup(5) for the process and for us: our own unit is no
    supervisor in our way, nor is the unit that merely runs log-ins or jobs. `ancestors` are the names of the processes
    above it, nearest first, that are not above us.
    """
    path, own = _cgroup_path(cgroup), _cgroup_path(own_cgroup)
    found = _supervising_unit(path)
    if found is not None and found != _supervising_unit(own):
        return found
    for name in ancestors:
        command = _SUPERVISORS.get(name.lower().split(" ")[0])
        if command:
            return Supervisor(name, command)
    return None


def _cgroup_path(text: str) -> str:
    # With cgroup v1 the hierarchy named systemd has the units, with v2 the only one, numbered 0.
    paths = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths[controllers or number] = path
    return paths.get("name=systemd") or paths.get("0") or "/"


def _supervising_unit(path: str) -> Supervisor | None:
    for part in reversed(path.split("/")):
        if match := _CONTAINER_SCOPE.fullmatch(part):
            return _container(match[1], match[2])
        if match := _MACHINE_SCOPE.fullmatch(part):
            machine = match[1] or match[2]
            return Supervisor(f"machine {machine}", f"machinectl terminate {machine}")
        if part.endswith(".scope") or _SESSION_UNITS.fullmatch(part):
            return None
        if part.endswith(".service"):
            user = "--user " if "/user@" in path else ""
            return Supervisor(part, f"systemctl {user}stop {shlex.quote(part)}")
    match = _CONTAINER_PATH.match(path)
    return _container(match[1], match[2]) if match else None


def _container(engine: str, identifier: str) -> Supervisor:
    short = identifier[:12]
    if engine in ("docker", "nerdctl"):
        return Supervisor(f"container {short}", f"{engine} stop {short}")
    if engine == "libpod":
        return Supervisor(f"container {short}", f"podman stop {short}")
    if engine == "lxc":
        return Supervisor(f"container {identifier}", f"lxc-stop {identifier}")
    return Supervisor(f"container {short}", f"crictl stop {short}")
