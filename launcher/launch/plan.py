"""The plan of a launch: a value that a dry run shows and a launch applies."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..app.command import Command, to_activate
from ..app.environment import proxy_problem
from ..app.interpreter import OWN_INTERPRETER
from ..cache.roots import hub_cache
from ..config.settings import HUB_CACHE_NAMES, Settings
from ..context import Context
from ..errors import ExitStatus, LauncherError
from ..instances import refusal
from ..instances.describe import (
    family_documents,
    going_along,
    instance_document,
    left_alone,
    left_documents,
    process_document,
    verdicts,
    victim,
)
from ..models import versions
from ..operations.instance import Observed
from ..service.outcomes import Attempt
from ..system import lock as locks
from ..ui import redact, text

if TYPE_CHECKING:
    from ..instances.process import Process
    from ..instances.stop import Stopped
    from .cache_step import CacheStep
    from .model_step import ModelStep


class LaunchPlan(NamedTuple):
    """Hold the steps of a launch, and its refusal, if any."""

    context: Context
    command: Command
    observed: Observed
    problem: LauncherError | None
    models: ModelStep
    cache: CacheStep | None = None
    log: Path | None = None

    @property
    def status(self) -> ExitStatus:
        """Return the exit status of a refused launch."""
        return self.problem.status if self.problem else ExitStatus.DONE

    @property
    def hint(self) -> None:
        """Return None: a plan has no hint."""
        return None

    def victims(self) -> tuple[Process, ...]:
        """Return the processes that the launch would stop."""
        if self.problem:
            return ()
        return refusal.targets(self.observed.survey, take_port=self.context.arguments.take_port)

    def lines(self) -> Iterator[str]:
        """Yield the plan as a dry run shows it; with `-v`, the origin of every setting and the skipped processes."""
        settings, arguments = self.context.settings, self.context.arguments
        yield f"app: {settings.script}"
        yield from facts(settings, self.command)
        if self.observed.launcher:
            yield f"would wait: another launcher is at work on port {settings.port}"
        if self.problem is None:
            yield from self.models.lines()
        for process in self.victims():
            yield f"would terminate {victim(process, self.observed.survey)}"
        if self.problem is None:
            for line in going_along(self.observed.survey, take_port=arguments.take_port):
                yield f"would terminate {line}"
        yield from self._changes()
        yield from left_alone(self.observed.survey)
        if self.cache:
            yield from self.cache.lines()
        if self.problem is None:
            yield from self._first()
            if self.log:
                yield f"would log: {self.log}"
            how = "would start in the background" if arguments.background else "would exec"
            yield "would start nothing" if arguments.no_launch else f"{how}: {shown(self.command)}"
        if self.context.console.verbose:
            yield from origins(settings)
            if self.command.origin != OWN_INTERPRETER:  # shown already
                yield f"interpreter: {self.command.interpreter} ({self.command.origin})"
            yield from verdicts(self.observed.survey)

    def _changes(self) -> Iterator[str]:
        """Yield what the new instance will lack of one that was started by hand."""
        victims = () if self.context.arguments.no_launch else self.victims()
        if victims:
            from ..operations.changes import changes

            for process in victims:
                yield from (f"note: {line}" for line in changes(process, self.command, self.context.settings))

    def _first(self) -> Iterator[str]:
        """Yield the commands that run before anything is stopped."""
        prefix = to_activate(self.command, self.context.environ)
        if prefix:
            yield f"would activate: {prefix}"
        prestart = self.context.settings.form.prestart
        if prestart and not self.context.arguments.no_launch:
            yield f"would run first: {prestart.value} ({prestart.origin})"

    def document(self) -> Mapping[str, Any]:
        """Return the plan for `--json`."""
        settings, arguments, survey = self.context.settings, self.context.arguments, self.observed.survey
        return {
            "app_dir": str(settings.app_dir),
            "script": str(settings.script),
            "port": settings.port,
            "host": settings.host,
            "interpreter": self.command.interpreter,
            "argv": list(redact.arguments(self.command.argv)),
            "settings": {
                name: {"value": redact.value(name, setting.value), "origin": setting.origin}
                for name, setting in (*settings.origins.items(), *settings.variables.items())
            },
            "terminate": [process_document(process) for process in self.victims()],
            "terminate_along": [] if self.problem else family_documents(survey, take_port=arguments.take_port),
            "left": left_documents(survey),
            "launch": not arguments.no_launch,
            "background": arguments.background,
            "log": str(self.log) if self.log else None,
            "siblings": [instance_document(instance) for instance in survey.siblings],
            "waits_for_launcher": self.observed.launcher is not None,
            "cache": self.cache.document() if self.cache else [],
            "locked": settings.locked,
            "models": self.models.document(),
            "error": self.problem.message if self.problem else None,
            "hint": self.context.console.hinted(self.problem.hint) if self.problem and self.problem.hint else None,
            "exit_status": int(self.status),
        }


class Prepared(NamedTuple):
    """Hold all that an exec needs after the last check, with the locks that keep others out until then."""

    command: Command
    stopped: tuple[Stopped, ...]
    lock: locks.Lock
    launch_lock: locks.Lock
    models: ModelStep
    cache: CacheStep | None
    attempt: Attempt

    @property
    def commits(self) -> Mapping[str, str]:
        """Return the commit of each model at the start of the app."""
        return versions.commits(self.models.models)

    def document(self) -> Mapping[str, Any]:
        """Return for `--json` the actions before the exec."""
        from ..instances.stop import stopped_document

        return {
            "launched": True,
            "argv": list(redact.arguments(self.command.argv)),
            "stopped": [stopped_document(stopped) for stopped in self.stopped],
            "cache": self.cache.done if self.cache else [],
            "locked": self.models.locked,
            "models": self.models.document(),
        }


def origins(settings: Settings) -> tuple[str, ...]:
    """Return every setting with its origin: first the launcher's own, then those in the app's environment."""
    return tuple(
        f"{kind}: {name}={redact.value(name, setting.value)} ({setting.origin})"
        for kind, named in (("setting", settings.origins), ("environment", settings.variables))
        for name, setting in named.items()
        if kind == "setting" or name not in settings.origins
    )


def shown(command: Command) -> str:
    """Return the command in the form that a person would type in the app's folder, secrets masked."""
    return text.command_line(command.shown)


def facts(settings: Settings, command: Command) -> tuple[str, ...]:
    """Return what the app will use, first of all the two settings that decide which model runs."""
    endpoint = settings.variables.get("HF_ENDPOINT")
    source = f"{endpoint.value} ({endpoint.origin})" if endpoint else "https://huggingface.co (default)"
    origin = next((settings.variables[n].origin for n in HUB_CACHE_NAMES if n in settings.variables), "default")
    foreign = () if command.origin != OWN_INTERPRETER else (f"interpreter: {command.interpreter} ({command.origin})",)
    problem = proxy_problem(command.environment, command.interpreter)
    return (
        *_anothers(settings),
        *foreign,
        f"endpoint: {source}",
        f"cache: {hub_cache(command.environment, settings.app_dir)} ({origin})",
        *((f"note: {problem}",) if problem else ()),
    )


def _anothers(settings: Settings) -> tuple[str, ...]:
    """Return a note that the app is another user's: a user who can write it decides what runs as this user."""
    owner = os.stat(settings.script).st_uid
    if owner in (0, os.geteuid()):
        return ()
    return (f"owner: {settings.script} belongs to {text.user(owner)}, and runs as {text.user(os.geteuid())}",)
