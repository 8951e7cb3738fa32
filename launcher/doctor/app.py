"""Check the app: its Python, its settings, its start, its instance, and what would end it."""

from __future__ import annotations

import importlib.util
import os
import platform
import stat
from collections.abc import Iterator
from contextlib import suppress

from ..app import command as commands
from ..app import page as pages
from ..app import rehearsal
from ..app.environment import proxy_problem
from ..app.packages import version
from ..config import env_file
from ..config.paths import current_folder
from ..context import Context
from ..errors import ExitStatus, LauncherError, quoted
from ..instances import port, refusal
from ..instances.describe import describe, describe_member
from ..instances.login import ends_at_logout, ends_with_terminal
from ..instances.process import cgroup, psutil_module
from ..instances.survey import Instance
from ..launch.clash import refuse_clash
from ..launch.plan import origins
from ..models.hub import REQUIREMENT
from ..operations import weights
from ..operations.instance import Observed, observe
from ..operations.outcome import PARKED_HINT, look_back, told_end, told_parked
from ..service.outcomes import Outcomes
from ..system import requirements
from ..ui import redact, text
from .finding import Finding, fact, odd, problem, refused

_START_SECONDS = 1.0
_PAGE_SECONDS = 1.0
_NAMED_AT_MOST = 3
_OTHERS_READ = stat.S_IRGRP | stat.S_IROTH


def python(context: Context) -> Iterator[Finding]:
    """Yield what is wrong with the launcher's own Python and packages."""
    own = context.python
    named = [
        f"{name} {found}" for name in ("psutil", "python_dotenv", "huggingface_hub") if (found := version(own, name))
    ]
    yield fact("python", f"{platform.python_version()}, {own}, {', '.join(named) or 'no packages'}")
    yield fact("system", f"{platform.platform()}")
    absent = [want for name, want in requirements.REQUIREMENTS.items() if importlib.util.find_spec(name) is None]
    if absent:
        yield refused("python", requirements.missing(absent, "not installed"))
    if importlib.util.find_spec("psutil"):
        psutil_module()
    if importlib.util.find_spec("huggingface_hub") is None:
        install = requirements.install_command([REQUIREMENT])
        yield odd("python", "huggingface_hub is not installed: no models command can ask a hub", install)


def settings(context: Context) -> Iterator[Finding]:
    """Yield what is wrong with the settings, and where each comes from."""
    loaded = context.settings
    try:
        current_folder()
    except LauncherError as error:
        yield problem("settings", error.message, "cd; start_app.py doctor", error.status)
    for wrong in context.problems:
        yield refused("settings", wrong)
    edit = f"$EDITOR {quoted(loaded.env_file or loaded.app_dir / '.env')}"
    for warning in loaded.warnings:
        yield odd("settings", warning, edit)
    if loaded.foreign is not None and loaded.env_file:
        owner = text.user(loaded.foreign)
        told = f"{loaded.env_file} belongs to {owner}: for you, it sets no token, runs no code and allows no removal"
        yield odd("settings", told, f"start_app.py --env-file {quoted(loaded.env_file)}")
    for line in origins(loaded):
        yield fact("settings", line)
    if loaded.env_file is None:
        return
    with suppress(LauncherError, ImportError):
        file = env_file.read(loaded.env_file, context.environ)
        yield from _contradictions(context, file)
        secret = next((name for name, value in file.values.items() if redact.is_secret(name, value)), None)
        if secret and os.stat(file.path).st_mode & _OTHERS_READ:
            yield odd(
                "settings", f"other users can read {file.path}, and {secret} in it", f"chmod 600 {quoted(file.path)}"
            )


def _contradictions(context: Context, file: env_file.EnvFile) -> Iterator[Finding]:
    """Yield each setting that the environment overrides with another value than `.env` has."""
    for name, value in file.values.items():
        setting = context.settings.variables.get(name) or context.settings.origins.get(name)
        present = context.environ.get(name, "")
        if setting is None or setting.level != "environment" or present == value or not value.strip():
            continue
        shown, other = redact.value(name, present), redact.value(name, value)
        line = f"line {file.lines[name]}"
        told = f"{name} is {shown} in the environment and {other} in {file.path} {line}; the environment wins"
        yield odd("settings", told, f"env -u {quoted(name)} start_app.py")


def start(context: Context) -> Iterator[Finding]:
    """Yield what would prevent the start: the app's Python, its script, a proxy. Python compiles the script."""
    loaded = context.settings
    command = commands.build(loaded, context.environ, context.python)
    yield fact("start", f"{text.command_line(command.shown)} ({command.origin})")
    if not os.path.isfile(loaded.script):
        return  # the settings have reported it
    refuse_clash(loaded, context.python)
    trouble = proxy_problem(command.environment, command.interpreter)
    if trouble:
        told, _, install = trouble.partition(": ")
        yield problem("proxy", told, install, ExitStatus.CONFIG)
    named = {name: setting.origin for name, setting in loaded.variables.items()}
    try:
        placeholder = rehearsal.rehearse(command, named, _START_SECONDS)
    except LauncherError as error:
        slow = error.status == ExitStatus.RETRY
        yield odd("start", error.message, error.hint or "uptime") if slow else refused("start", error)
        return
    if placeholder is None:
        yield problem("start", "no more processes can be started", "ulimit -u; ps -e | wc -l", ExitStatus.RETRY)
    else:
        placeholder.close()


def _has_no_script(context: Context) -> bool:
    """Return whether the settings have reported that no script of the app exists: no process can be its instance."""
    loaded = context.settings
    return bool(context.problems) and not any(map(os.path.isfile, (loaded.script, *loaded.other_entries)))


def instance(context: Context) -> Iterator[Finding]:
    """Yield who holds the port, the instance, its leftovers, and how the last start ended."""
    if _has_no_script(context):
        return
    observed = observe(context.settings)
    yield from _port(context, observed)
    running = observed.instance
    if running:
        yield from _running(context, observed, running)
    for member in observed.survey.leftovers:
        yield odd("instance", f"left over by a dead instance: {describe_member(member)}", "start_app.py stop")
    for sibling in observed.survey.siblings:
        yield fact("instance", f"another instance: {describe(sibling.process)}")
    yield from _last_start(look_back(context), running)


def _port(context: Context, observed: Observed) -> Iterator[Finding]:
    supervised = observed.instance is not None and observed.instance.supervisor is not None
    inside = observed.survey.inside is not None
    for error in (
        observed.unbindable,
        observed.instance_refusal(),
        refusal.of_holders(observed.survey, take_port=False),
    ):
        if error is None or (error is observed.unbindable and observed.instance):
            continue
        if (supervised or inside) and not observed.survey.holders:
            hint = context.console.hinted(error.hint or "")
            yield fact("port", f"{error.message}: {hint}")  # a launch by hand is refused, and that is right
        else:
            yield refused("port", error)
    if observed.keeper:
        keeper = observed.keeper
        told = f"the lock of port {context.settings.port} is held by {describe(keeper.process)}: {keeper.reason}"
        yield problem("port", told, "start_app.py status", ExitStatus.TAKEN)


def _running(context: Context, observed: Observed, running: Instance) -> Iterator[Finding]:
    number = context.settings.port
    yield fact("instance", f"{describe(running.process)}")
    addresses = port.addresses(running.tree).get(number, ())
    if addresses:
        page = pages.page(pages.host_to_ask(context.settings.host, addresses), number, _PAGE_SECONDS)
        if page is None or not page.ready:
            yield odd(
                "instance",
                f"pid {running.pid} listens on port {number}, but its page does not answer",
                "start_app.py logs",
            )
    elif running.listening:
        listed = ", ".join(str(other) for other in sorted(running.listening))
        yield odd("instance", f"pid {running.pid} listens on port {listed}, not on {number}", "start_app.py status")
    else:
        yield odd("instance", f"pid {running.pid} has opened no port yet", "start_app.py wait --timeout 60")
    mismatch = port.mismatch(context.settings.host, addresses)
    if mismatch:
        yield odd("instance", f"pid {running.pid}: {mismatch}", "start_app.py")
    changes = tuple(weights.inventory(context, weights.instance_of(observed), cached=False).changes())
    if changes:
        yield odd(
            "models", f"changed since the start: {text.some(changes, _NAMED_AT_MOST)}", "start_app.py models list"
        )


def _last_start(known: Outcomes, running: Instance | None) -> Iterator[Finding]:
    last, failed = known.last, known.failed
    refused_starts = told_parked(known)
    if refused_starts:
        yield problem("last start", refused_starts, PARKED_HINT, ExitStatus.RETRY)
    if last and last.over and running is None and last.stage == "ended":
        told = f"{last.ended_at}, pid {last.pid} {told_end(last)}"
        back = "start_app.py rollback; " if known.other_good() and not last.seen else ""
        helps = f"{back}start_app.py logs --lines 200"
        yield odd("last start", told, helps) if last.seen else problem("last start", told, helps, ExitStatus.RETRY)
    elif failed:
        yield odd(
            "last start", f"failed {failed.ended_at}, pid {failed.pid} {told_end(failed)}", "start_app.py history"
        )
    if last and last.rollback and not last.over:
        told = f"the last good set of {last.ran.at} runs instead of what the settings ask for"
        yield odd("last start", told, "start_app.py history; start_app.py runs what the settings ask for")


def logout(context: Context) -> Iterator[Finding]:
    """Yield what would end the app when its user logs out or closes the terminal."""
    if _has_no_script(context):
        return
    running = observe(context.settings).instance
    pid = running.pid if running else os.getpid()
    user = text.user(os.geteuid())
    reason = ends_at_logout(cgroup(pid), user)
    if reason:
        told = f"the app would end when {user} logs out: {reason}"
        yield odd("log-out", told, f"loginctl enable-linger {quoted(user)}; start_app.py unit --user")
    terminal = ends_with_terminal(running.pid) if running else None
    if terminal:
        told = f"pid {pid} runs in the foreground of {terminal}, and closing that terminal ends it"
        yield odd("log-out", told, "start_app.py --background")
