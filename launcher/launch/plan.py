"""The plan of a launch: a value that a dry run shows and a launch applies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..app.command import Command
from ..app.interpreter import OWN_INTERPRETER
from ..cache.roots import hub_cache
from ..config.settings import HUB_CACHE_NAMES, Settings
from ..errors import LauncherError
from ..instances import refusal
from ..instances.describe import describe, instance_document, process_document
from ..instances.stop import stopped_document
from ..operations.instance import Observed, left_alone, no_instances
from ..system import lock as locks
from ..ui import redact, text

if TYPE_CHECKING:
    from ..instances.stop import Stopped
    from .cache_step import Cleaning
    from .model_step import ModelStep


class LaunchPlan(NamedTuple):
    """Hold what a launch is about to do, and why it would refuse."""

    settings: Settings
    command: Command
    observed: Observed
    refused: LauncherError | None
    take_port: bool
    no_launch: bool
    cleaning: Cleaning | None = None
    models: ModelStep | None = None
    log: Path | None = None
    background: bool = False

    def lines(self) -> tuple[str, ...]:
        """Return the plan as a dry run tells it."""
        lines = [f"app: {self.settings.script}"]
        lines += facts(self.settings, self.command)
        if self.observed.launcher:
            lines.append(f"would wait: another launcher is at work on port {self.settings.port}")
        if self.models and self.refused is None:
            lines += self.models.lines()
        if self.refused is None:
            victims = refusal.targets(self.observed.survey, take_port=self.take_port)
            lines += [f"would terminate {describe(process)}" for process in victims]
        lines += left_alone(self.observed)
        if self.cleaning:
            lines += self.cleaning.lines()
        if self.refused is None:
            lines += [f"would log: {self.log}"] if self.log else []
            how = "would start in the background" if self.background else "would exec"
            lines.append("would start nothing" if self.no_launch else f"{how}: {shown(self.command)}")
        return tuple(lines)

    def details(self) -> tuple[str, ...]:
        """Return what `-v` adds: the origin of every setting, and who only looks like an instance."""
        own = self.command.origin == OWN_INTERPRETER  # told already
        interpreter = () if own else (f"interpreter: {self.command.interpreter} ({self.command.origin})",)
        return (*origins(self.settings), *interpreter, *no_instances(self.observed))

    def document(self) -> Mapping[str, Any]:
        """Return the plan for `--json`."""
        survey = self.observed.survey
        return {
            "app_dir": str(self.settings.app_dir),
            "script": str(self.settings.script),
            "port": self.settings.port,
            "host": self.settings.host,
            "interpreter": self.command.interpreter,
            "argv": list(redact.arguments(self.command.argv)),
            "settings": {
                name: {"value": redact.value(name, s.value), "origin": s.origin}
                for name, s in (*self.settings.origins.items(), *self.settings.variables.items())
            },
            "terminate": [process_document(p) for p in refusal.targets(survey, take_port=self.take_port)]
            if self.refused is None
            else [],
            "launch": not self.no_launch,
            "background": self.background,
            "log": str(self.log) if self.log else None,
            "siblings": [instance_document(instance) for instance in survey.siblings],
            "waits_for_launcher": self.observed.launcher is not None,
            "cache": self.cleaning.document() if self.cleaning else [],
            "locked": self.settings.locked,
            "models": self.models.document() if self.models else [],
        }


class Prepared(NamedTuple):
    """Hold all that an exec needs once nothing stands in its way, with the locks that keep others out until then."""

    command: Command
    stopped: tuple[Stopped, ...]
    lock: locks.Lock
    launch_lock: locks.Lock
    commits: Mapping[str, str]
    locked: bool


def origins(settings: Settings) -> tuple[str, ...]:
    """Return every setting with its origin: the launcher's own, then what the app's environment gets."""
    return tuple(
        f"{kind}: {name}={redact.value(name, setting.value)} ({setting.origin})"
        for kind, found in (("setting", settings.origins), ("environment", settings.variables))
        for name, setting in found.items()
        if kind == "setting" or name not in settings.origins
    )


def shown(command: Command) -> str:
    """Return the command as a person would type it in the app's folder, secrets masked."""
    return text.command_line(command.shown)


def handoff_document(prepared: Prepared, models: ModelStep, cleaning: Cleaning | None = None) -> Mapping[str, Any]:
    """Return for `--json` what was done just before the exec."""
    return {
        "launched": True,
        "argv": list(redact.arguments(prepared.command.argv)),
        "stopped": [stopped_document(one) for one in prepared.stopped],
        "cache": cleaning.done if cleaning else [],
        "locked": models.locked,
        "models": models.document(),
    }


def facts(settings: Settings, command: Command) -> tuple[str, ...]:
    """Return what the app will use, the two things that decide which model runs above all."""
    endpoint = settings.variables.get("HF_ENDPOINT")
    source = f"{endpoint.value} ({endpoint.origin})" if endpoint else "https://huggingface.co (default)"
    origin = next((settings.variables[n].origin for n in HUB_CACHE_NAMES if n in settings.variables), "default")
    foreign = () if command.origin != OWN_INTERPRETER else (f"interpreter: {command.interpreter} ({command.origin})",)
    return (
        *foreign,
        f"endpoint: {source}",
        f"cache: {hub_cache(command.environment, settings.app_dir)} ({origin})",
    )
