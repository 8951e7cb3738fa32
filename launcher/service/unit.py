"""The text of a systemd unit for one app. It contains everything it needs, and nothing from the shell that printed it.

Its main process is the launcher, which execs the app. The unit counts as started when `wait` has seen the page of that
process. It is restarted after a failure, but not when the next start would be refused for the same reason.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from ..config.settings import Settings
from ..config.sources import FLAGS
from ..errors import ExitStatus
from . import quoting
from .quoting import Raw

# A first start may download tens of gigabytes before the page answers.
READY_SECONDS = 6 * 3600
STOP_SECONDS = 30
RESTART_SECONDS = 10
RESTART_STEPS = 6
RESTART_MOST_SECONDS = 300
STEPS_SINCE = 254
# The next start would be refused too. 69 is in the list because a unit that retries until the port is free takes it
# when the other unit restarts, which then does the same: the two would alternate for ever. 74 and 75 can pass by
# themselves, and 80 never ends a launch. An app that does not know an argument ends with 2: the next start is then that
# of the last good set.
NEVER_AGAIN = (ExitStatus.DAMAGED, ExitStatus.TAKEN, ExitStatus.DENIED, ExitStatus.CONFIG)
_TEMPORARY = ("/tmp", "/var/tmp")
_SYSTEM = ("/usr", "/etc", "/boot", "/efi")


class Machine(NamedTuple):
    """Hold the facts about the machine of a unit.

    `launcher`: the words that call the launcher; `user`: the user of the app; `helper`: the command that makes the
    GPUs' device files, if this machine has one; `caches`: the hub caches of the app; `app_args`: the words after `--`;
    `systemd`: the version of its systemd, 0 if unknown; `typed`: the command that prints this unit, on one line.
    """

    launcher: tuple[str, ...]
    user: str
    helper: tuple[str, ...]
    caches: tuple[str, ...]
    app_args: tuple[str, ...] = ()
    systemd: int = 0
    typed: str = "start_app.py unit"


class Unit(NamedTuple):
    """Hold a unit: its file name, its text, and the variables of this shell that it does not contain."""

    name: str
    text: str
    left_out: tuple[str, ...]


def unit(settings: Settings, machine: Machine, *, template: bool, user_manager: bool) -> Unit:
    """Return the unit that keeps this app running.

    A `template` unit takes its port from the instance's name; `user_manager` makes it one for `systemctl --user`.
    Raises LauncherError for a path that no unit can hold.
    """
    name = f"{name_of(settings.app_dir)}{'@' if template else ''}.service"
    target = "default.target" if user_manager else "multi-user.target"
    sections = (
        ("Unit", _unit(settings, machine, template=template, user_manager=user_manager)),
        ("Service", _service(settings, machine, template=template, user_manager=user_manager)),
        ("Install", (f"WantedBy={target}", *(("DefaultInstance=7860",) if template else ()))),
    )
    body = "\n\n".join("\n".join((f"[{title}]", *lines)) for title, lines in sections)
    head = "\n".join(f"# {line}" for line in _installation(name, machine.typed, user_manager=user_manager))
    return Unit(name, f"{head}\n\n{body}\n", left_out(settings))


def gpu_helper(program: str | None, gpus: int) -> tuple[str, ...]:
    """Return the command that creates the device files of this many GPUs, if NVIDIA's `program` for it exists.

    If udev does not set up the driver, the first program that needs it does so, through this set-uid helper, which an
    app without new privileges cannot use.
    """
    return (program, "-u", *(f"-c={number}" for number in range(max(gpus, 1)))) if program else ()


def _installation(name: str, typed: str, *, user_manager: bool) -> tuple[str, ...]:
    folder, sudo, flag = (
        ("~/.config/systemd/user", "", "--user ") if user_manager else ("/etc/systemd/system", "sudo ", "")
    )
    into = f"> {folder}/{name}" if user_manager else f"| sudo tee {folder}/{name}"
    started = name.replace("@.", "@7860.")
    lines = [
        f"{typed} {into}",
        f"{sudo}systemctl {flag}daemon-reload && {sudo}systemctl {flag}enable --now {started}",
    ]
    if "@" in name:
        lines.append("The number after the @ is the port. For another instance, run `enable --now` with its port.")
    if user_manager:
        lines.append("`loginctl enable-linger` keeps it running while nobody is logged in.")
    return tuple(lines)


def _unit(settings: Settings, machine: Machine, *, template: bool, user_manager: bool) -> tuple[str, ...]:
    port = " on port %i" if template else ""
    lines = [f"Description={quoting.line(settings.app_dir.name) or 'app'}, a Gradio app kept by start_app.py{port}"]
    if not user_manager:
        lines += ["Wants=network-online.target", "After=network-online.target nvidia-persistenced.service"]
        mounts = (str(settings.app_dir), *machine.caches)
        lines += [f"RequiresMountsFor={path}" for path in map(quoting.path, mounts) if path]
    return (
        *lines,
        "# A problem that can pass by itself (no network, a full disk) is retried without a limit.",
        "StartLimitIntervalSec=0",
    )


def _service(settings: Settings, machine: Machine, *, template: bool, user_manager: bool) -> tuple[str, ...]:
    own, waiting = words_of(settings, machine.app_args, template=template)
    launched = quoting.command((*machine.launcher, *own))
    awaited = quoting.command(
        (*machine.launcher, "wait", *waiting, "--timeout", str(READY_SECONDS), "--pid", Raw("$MAINPID"))
    )
    lines = [
        "Type=exec",
        "# The launcher and `wait` report their progress. The unit is ready when `wait` ends.",
        "NotifyAccess=exec",
    ]
    if not user_manager:
        lines.append(f"User={machine.user}")
        if machine.helper:
            lines.append(f"ExecStartPre=-+{quoting.command(machine.helper)}")
    lines += [
        f"ExecStart={launched}",
        f"ExecStartPost={awaited}",
        "# Record how the app has ended: the next start depends on it.",
        f"ExecStopPost=-{quoting.command((*machine.launcher, 'ended', *waiting))}",
        "# `wait` has a time-out of its own, long enough for a first download.",
        "TimeoutStartSec=infinity",
        "",
        "# Gradio closes its page on SIGINT and dies of SIGTERM. Its children are stopped after it.",
        "KillSignal=SIGINT",
        "KillMode=mixed",
        f"TimeoutStopSec={STOP_SECONDS}",
        f"SuccessExitStatus={int(ExitStatus.INTERRUPTED)}",
        "",
        "# No restart if the next start would be refused for the same reason: see exit status in start_app.py --help.",
        "# After a failed start, the next one runs the last good set. After five, nothing starts until a change.",
        "Restart=on-failure",
        f"RestartSec={RESTART_SECONDS}",
        *(_steps() if machine.systemd >= STEPS_SINCE else ()),
        f"RestartPreventExitStatus={' '.join(str(int(status)) for status in NEVER_AGAIN)}",
    ]
    return (*lines, "", *_hardening(settings, machine, user_manager=user_manager))


def _steps() -> tuple[str, ...]:
    """Return the settings that lengthen the pauses between restarts: systemd.service(5), since version 254."""
    return f"RestartSteps={RESTART_STEPS}", f"RestartMaxDelaySec={RESTART_MOST_SECONDS}"


def words_of(
    settings: Settings, app_args: tuple[str, ...], *, template: bool = False
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the options of the launch and those of `wait`: values from flags or from this shell are written out."""
    shared: list[str] = ["--app-dir", str(settings.app_dir)]
    if settings.env_file:
        shared += ["--env-file", os.path.abspath(settings.env_file)]
    if template:
        shared += ["--port", Raw("%i")]
    elif _said_here(settings, "GRADIO_SERVER_PORT"):
        shared += ["--port", str(settings.port)]
    if settings.host and _said_here(settings, "GRADIO_SERVER_NAME"):
        shared += ["--host", settings.host]
    own = list(shared)
    if settings.python and _said_here(settings, "APP_PYTHON"):
        own += ["--python", settings.python.value]
    if settings.locked and _said_here(settings, "APP_LOCKED"):
        own.append("--locked")
    return (*own, *(("--", *app_args) if app_args else ())), tuple(shared)


def _said_here(settings: Settings, name: str) -> bool:
    setting = settings.origins.get(name)
    return setting is not None and setting.level in ("flag", "environment")


def left_out(settings: Settings) -> tuple[str, ...]:
    """Return the variables of this shell that a unit does not contain."""
    settled = {**settings.variables, **settings.origins}
    return tuple(name for name, setting in settled.items() if setting.level == "environment" and name not in FLAGS)


def _hardening(settings: Settings, machine: Machine, *, user_manager: bool) -> tuple[str, ...]:
    """Return the sandboxing settings.

    These settings are not used, each for a reason: PrivateDevices=, DevicePolicy= and ProtectClock= (which implies it)
    hide the GPUs, MemoryDenyWriteExecute= breaks run-time compilers (torch, triton, numba), ProtectProc= and
    ProcSubset= hide the stale instance, ProtectHome= the app in /root and ~/.cache, ProtectKernelModules= prevents
    root's CUDA from loading its driver. A user's manager supports only the first of these settings: systemd.exec(5).
    """
    if user_manager:
        return ("NoNewPrivileges=yes",)
    lines = [
        "# Nothing restricts the GPUs, /proc, the app's folder and the model cache.",
        "NoNewPrivileges=yes",
        "LockPersonality=yes",
        "ProtectSystem=full",
        "ProtectKernelTunables=yes",
        "ProtectKernelLogs=yes",
        "ProtectControlGroups=yes",
    ]
    used = (str(settings.app_dir), *machine.caches)
    reads = (*machine.launcher[:2], *((str(settings.env_file),) if settings.env_file else ()))
    reads += (settings.python.value,) if settings.python else ()
    if not any(_below(path, _TEMPORARY) for path in (*used, *reads)):
        lines.append("PrivateTmp=yes")
    for path in used:
        writable = quoting.path(os.path.realpath(path))
        if _below(path, _SYSTEM) and writable:
            lines.append(f"ReadWritePaths=-{writable}")
    return tuple(lines)


def _below(path: str, places: tuple[str, ...]) -> bool:
    return any(f"{p}/".startswith(f"{place}/") for p in (path, os.path.realpath(path)) for place in places)


def name_of(app_dir: Path) -> str:
    """Return the name of the unit of an app."""
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", app_dir.name).strip("-.")
    return name[:100] or "app"
