"""Decide when to change nothing: a refusal names the process in the way, and the command that helps."""

from __future__ import annotations

import os

from ..errors import REPEAT, ExitStatus, LauncherError, quoted
from ..ui import text
from .command_line import script_argument
from .describe import describe
from .port import another, probe
from .process import Process
from .survey import Holder, Instance, Survey
from .unit import Supervisor


def of_instances(survey: Survey) -> LauncherError | None:
    """Return why this app's instances on the port may not be stopped, or None if they may."""
    if survey.inside:
        return LauncherError(
            f"the launcher was started from inside the instance on port {survey.port}: "
            f"{describe(survey.inside.process)}",
            "run it from another terminal, not from the app's own",
            ExitStatus.TAKEN,
        )
    for instance in survey.stale:
        if instance.supervisor:
            return _supervised(instance, instance.supervisor)
    for instance in survey.others:
        if instance.verdict.blocks:
            user = text.user(instance.process.uid)
            whose = "this app's instance" if instance.verdict.standing == "refused" else f"a {_name(instance.process)}"
            return LauncherError(
                f"port {survey.port} belongs to {whose} of another user: {describe(instance.process)}",
                f"ask {user}, or {_sudo(user)}kill {instance.pid}; to run beside it: {_elsewhere(survey)}",
                ExitStatus.TAKEN,
            )
    return None


def of_holders(survey: Survey, *, take_port: bool) -> LauncherError | None:
    """Return why another holder of the port blocks the launch, or None.

    With `take_port` a foreign holder may be stopped if it belongs to the same user.
    """
    refusals = (_held(survey, holder, take_port) for holder in survey.holders)
    return next((error for error in refusals if error), None)


def targets(survey: Survey, *, take_port: bool = False) -> tuple[Process, ...]:
    """Return the processes to be stopped, with their families, if no refusal applies."""
    taken = [h.process for h in survey.holders if h.process and not h.remote] if take_port else []
    ours = (*(i.process for i in survey.stale), *(member.process for member in survey.leftovers))
    return tuple({p.pid: p for p in (*ours, *taken)}.values())


def unseen_lock(path: str, known: str) -> LauncherError:
    """Return the refusal for an instance lock whose holder is invisible from here."""
    return LauncherError(
        f"an instance holds {path}, but its process cannot be seen from here{known}",
        "stop it where it was started: in its container, or as its own user",
        ExitStatus.TAKEN,
    )


def unproven_lock(path: str, process: Process) -> LauncherError:
    """Return the refusal for an instance lock whose record another user may have written."""
    return LauncherError(
        f"{path} names {describe(process)}, and nothing proves that a launcher has started it",
        f"ls -l {quoted(path)}; rm {quoted(path)} if that process is not the app",
        ExitStatus.TAKEN,
    )


def of_keeper(survey: Survey, process: Process, reason: str) -> LauncherError:
    """Return the refusal for a lock of our port that another app of the folder holds, or one in another network."""
    return LauncherError(
        f"the lock of port {survey.port} is held by {describe(process)}: {reason}",
        f"to leave it alone: {_elsewhere(survey)}"
        + (f"; kill {process.pid} ends it" if process.uid == os.geteuid() else ""),
        ExitStatus.TAKEN,
    )


def _name(process: Process) -> str:
    """Return the name of the script that another user's process runs, as far as its command line shows it."""
    argument = script_argument(process.argv or ())
    return os.path.basename(argument.text) if argument else process.name


def _supervised(instance: Instance, supervisor: Supervisor) -> LauncherError:
    return LauncherError(f"{describe(instance.process)} {supervisor.why}", supervisor.hint, ExitStatus.TAKEN)


def _sudo(user: str | None = None) -> str:
    if os.geteuid() == 0:
        return ""  # root does not need sudo, and a system with only root rarely has it
    return f"sudo -u {user} " if user else "sudo "


def _another(survey: Survey) -> int:
    """Return a free port for the app that disturbs no other process, including its own other instances."""
    return another({port for i in survey.siblings for port in (i.port, *i.listening) if port}, survey.port)


def _elsewhere(survey: Survey) -> str:
    """Return the command that starts the app on another port."""
    return f"start_app.py --port {_another(survey)}{REPEAT}"


def _beside(survey: Survey, holder: Holder) -> str:
    """Return the hint to listen on another address than the holder's, and a semicolon; blank if impossible."""
    if holder.address in ("0.0.0.0", "::", "127.0.0.1") or ":" in holder.address:
        return ""
    try:
        free = probe("127.0.0.1", survey.port) == "free"
    except LauncherError:
        return ""
    return f"to listen beside it: start_app.py --host 127.0.0.1{REPEAT}; " if free else ""


def _held(survey: Survey, holder: Holder, take_port: bool) -> LauncherError | None:
    process, port = holder.process, survey.port
    if holder.remote:
        who = describe(process) if process else "a process that cannot be seen from here"
        return LauncherError(
            f"port {port} is the local port of a connection to {holder.remote}: {who}",
            f"try again when that connection has ended, or {_elsewhere(survey)}; "
            f"sysctl net.ipv4.ip_local_reserved_ports={port} keeps it from outgoing connections",
            ExitStatus.RETRY,
        )
    beside = _beside(survey, holder)
    if process is None:
        owner = f", user {text.user(holder.uid)}" if holder.uid is not None else ""
        return LauncherError(
            f"port {port} is held on {holder.address} by a process that cannot be seen from here{owner}",
            f"{beside}{_sudo()}ss -ltnp 'sport = :{port}' names it; or {_elsewhere(survey)}",
            ExitStatus.TAKEN,
        )
    problem = f"port {port} is held on {holder.address} by {describe(process)}, which is not this app's instance"
    reason = dict(survey.left).get(process.pid)
    problem += f": {reason}" if reason else ""
    if process.name == "docker-proxy":
        return LauncherError(problem, f"docker ps --filter publish={port}", ExitStatus.TAKEN)
    if holder.supervisor:
        return LauncherError(
            f"{problem}; it {holder.supervisor.why}",
            f"{beside}{holder.supervisor.stop}, or {_elsewhere(survey)}",
            ExitStatus.TAKEN,
        )
    if process.uid != os.geteuid():
        user = text.user(process.uid)
        if take_port:
            return LauncherError(
                f"{problem}; another user's process is never stopped",
                f"{beside}ask {user}, or {_elsewhere(survey)}",
                ExitStatus.DENIED,
            )
        return LauncherError(problem, f"{beside}ask {user}, or {_elsewhere(survey)}", ExitStatus.TAKEN)
    if holder.above:
        return LauncherError(f"{problem}, but the launcher runs below it", _elsewhere(survey), ExitStatus.TAKEN)
    if take_port:
        return None
    return LauncherError(
        problem,
        f"{beside}to stop it first: start_app.py --take-port{REPEAT}; to leave it alone: {_elsewhere(survey)}",
        ExitStatus.TAKEN,
    )
