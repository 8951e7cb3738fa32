"""Record what a launch runs, without a secret, so that it can be run again.

A masked word of the command line is taken from the current settings when the set is run again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..app.command import Command
from ..app.packages import packages
from ..config.settings import Settings
from ..config.sources import Setting
from ..context import Context
from ..operations import outcome
from ..service import outcomes
from ..service.outcomes import LaunchSet
from ..ui import redact

if TYPE_CHECKING:
    from .model_step import ModelStep


def launch_set(context: Context, command: Command, models: ModelStep) -> LaunchSet:
    """Return the set of this command with these models."""
    return LaunchSet(
        argv=redact.arguments(command.argv),
        interpreter=command.interpreter,
        program=command.program,
        script=command.script,
        models=outcome.cached_models(models.loadable),
        folders=outcome.models_in_folders(models.models, models.lock or ()),
        environment=tuple(sorted(context.settings.variables)),
        variables=plain_variables(context.settings),
        at=outcomes.now(),
        locked=models.locked,
    )


def plain_variables(settings: Settings) -> Mapping[str, str]:
    """Return the variables of `.env` whose values are no secrets, by name and by form."""
    lines = {name: setting.value for name, setting in settings.variables.items() if setting.level == "file"}
    return {name: value for name, value in lines.items() if redact.value(name, value) == value}


def with_variables(settings: Settings, good: LaunchSet) -> Settings:
    """Return the settings with the variables of `.env` as they were; secrets, and what is not in it, stay."""
    kept = {
        name: setting
        for name, setting in settings.variables.items()
        if setting.level != "file" or name in good.environment
    }
    origin = f"what ran well since {good.at}"
    recorded = {
        name: Setting(value, origin, "file")
        for name, value in good.variables.items()
        if name not in kept or kept[name].level == "file"
    }
    return settings._replace(variables={**kept, **recorded})


def digest(context: Context, key: str, command: Command, models: ModelStep) -> str:
    """Return a hash of everything that decides whether this start succeeds, as far as it is visible.

    If a model, an argument, a variable, the script or an installed package changes, the hash changes.
    """
    settings = context.settings
    lock = outcome.lock_text(models.lock) if models.locked else ""
    variables = {name: setting.value for name, setting in settings.variables.items()}
    told = [] if models.locked else [one[:3] for one in models.loadable]
    code = (_stamp(settings.script), _stamp(command.interpreter), packages(command.interpreter))
    return outcomes.digest(key, (command.argv, variables, told, lock, code))


def restored(masked: Sequence[str], current: Sequence[str]) -> tuple[str, ...] | None:
    """Return a command line with its masked words filled in from the current one, None if that lacks one of them."""
    known = {(before, shown): word for before, shown, word in _in_context(redact.arguments(current), current)}
    words = []
    for before, shown, _ in _in_context(masked, masked):
        word = known.get((before, shown)) if redact.MASK in shown else shown
        if word is None:
            return None
        words.append(word)
    return tuple(words)


def _in_context(shown: Sequence[str], words: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return each word in masked and in real form, with its option."""
    contexts = []
    option = ""
    for masked, word in zip(shown, words, strict=False):
        contexts.append((option, masked, word))
        option = masked if masked.startswith("-") else option
    return contexts


def _stamp(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
