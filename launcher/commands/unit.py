"""`unit`: print a systemd unit, or a program section of supervisord, for this app, machine and user."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from ..cache.roots import folders
from ..config.settings import Settings
from ..context import Answer, Context, Report
from ..errors import LauncherError, quoted
from ..service import supervisord, unit
from ..system import requirements
from ..system.child import output_within
from ..system.files import names_in
from ..ui import invocation, redact, text

_SECONDS = 3.0
_SHOWN_OTHERWISE = ("--json", "-q", "--quiet", "-v", "--verbose")
_NVIDIA = Path("/proc/driver/nvidia/gpus")


def run(context: Context) -> Report:
    """Return the unit, and warn about variables that only this shell has.

    Raises LauncherError (78) if the current Python is temporary.
    """
    arguments, settings, console = context.arguments, context.settings, context.console
    launcher_file = context.invocation.launcher_file
    if invocation.passing_python():
        packages = " ".join(f"'{requirement}'" for requirement in requirements.REQUIREMENTS.values())
        python = os.path.join(settings.app_dir, ".venv", "bin", "python")
        raise LauncherError(
            f"{sys.executable} exists only for this run of uv, and a unit needs a permanent Python",
            f"uv pip install --python {quoted(python)} {packages}, then "
            f"{quoted(python)} {invocation.again(launcher_file, ('unit',))}",
        )
    app_args = arguments.app_args
    if redact.arguments(app_args) != app_args:
        env_file = settings.env_file or settings.app_dir / ".env"
        console.warn("every user can read a unit, so the app's arguments are not in it: they contain a secret")
        console.warn(f'hint: write the line APP_ARGS="…" with them into {quoted(env_file)}, before you start the unit')
        app_args = ()
    uid = _user(settings)
    words = _launcher(launcher_file)
    for path, closed in _closed(words, uid):
        console.warn(f"the unit runs as {text.user(uid)}, whose app it is, and {closed} keeps that user from {path}")
        console.warn("hint: copy start_app.py into the app's folder, and run it there with the app's own Python")
    machine = unit.Machine(
        launcher=words,
        user=text.user(uid),
        helper=unit.gpu_helper(shutil.which("nvidia-modprobe"), len(names_in(_NVIDIA))),
        caches=tuple(str(path) for path in folders(_environment(settings, context.environ, uid), settings.app_dir)),
        app_args=app_args,
        systemd=_systemd(),
        typed=_typed(context, app_args),
    )
    if arguments.supervisord:
        made = supervisord.program(settings, machine)
    else:
        made = unit.unit(settings, machine, template=arguments.template, user_manager=arguments.user)
    for name in made.left_out:
        console.warn(f"{name} is set in this shell only: put it into .env, or the unit will not have it")
    left_out = (*made.left_out, *(("APP_ARGS",) if app_args != arguments.app_args else ()))
    document = {"name": made.name, "unit": made.text, "left_out": list(left_out)}
    return Answer(text=tuple(made.text.rstrip("\n").split("\n")), data=document)


def _typed(context: Context, app_args: Sequence[str]) -> str:
    """Return the command that prints this unit, without the options that show the answer in another way."""
    words = [word for word in invocation.own_words(context.invocation.words) if word not in _SHOWN_OTHERWISE]
    line = shlex.join((*words, *(("--", *app_args) if app_args else ())))
    return f"{context.invocation.program} {line}" if line.isprintable() else "start_app.py unit"


def _systemd() -> int:
    """Return the version of this machine's systemd, 0 without it: its first line is `systemd 252 (…)`."""
    words = (output_within(("systemctl", "--version"), _SECONDS) or b"").split(None, 2)
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


def _user(settings: Settings) -> int:
    # Root prints units for others: an app in a user's folder runs as that user, and so do its other instances.
    return os.geteuid() or os.stat(settings.app_dir).st_uid


def _closed(words: Sequence[str], uid: int) -> Iterator[tuple[str, str]]:
    """Yield the paths that a user cannot reach, with the inaccessible folder."""
    if uid == os.geteuid():
        return
    try:
        user = pwd.getpwuid(uid)
        groups = os.getgrouplist(user.pw_name, user.pw_gid)
    except KeyError:
        groups = []  # a user without a name is in no group
    for path in filter(os.path.isabs, words):
        for place in map(Path, dict.fromkeys((path, os.path.realpath(path)))):
            closed = next((p for p in (*reversed(place.parents), place) if _is_closed(p, uid, groups)), None)
            if closed:
                yield str(place), str(closed)
                break


def _is_closed(path: Path, uid: int, groups: Collection[int]) -> bool:
    status = os.stat(path)
    shift = 6 if status.st_uid == uid else 3 if status.st_gid in groups else 0
    wanted = 0o1 if path.is_dir() or os.access(path, os.X_OK) else 0o4
    return not status.st_mode >> shift & wanted


def _environment(settings: Settings, environ: Mapping[str, str], uid: int) -> Mapping[str, str]:
    try:
        home = pwd.getpwuid(uid).pw_dir
    except KeyError:
        home = environ.get("HOME", "/")
    kept = {name: setting.value for name, setting in settings.variables.items() if setting.level != "environment"}
    return {"HOME": home, **kept}


def _launcher(launcher_file: str | None) -> tuple[str, ...]:
    if launcher_file is not None:
        return sys.executable, os.path.abspath(launcher_file)
    beside = Path(__file__).resolve().parents[2] / "start_app.py"
    return (sys.executable, str(beside)) if beside.is_file() else (sys.executable, "-m", "launcher")
