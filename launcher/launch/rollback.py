"""Roll back: choose the launch of an unattended start, and build the launch of the last good set.

An attended launch always follows the settings. An unattended start does not retry a failed set of models and arguments
if another set has run well: it starts that one, and reports it.
"""

from __future__ import annotations

import os

from ..context import Context
from ..errors import ExitStatus, LauncherError, quoted
from ..operations import outcome
from ..operations.identity import command_of
from ..service import outcomes
from ..service.outcomes import LaunchSet, Outcomes, Pinned
from ..ui import text
from .launch_set import restored
from .pipeline import Launch


class ParkedError(LauncherError):
    """Signal that an unattended start would fail again; `told` means that the history has it already."""

    told = False


def choose(launch: Launch) -> Launch:
    """Return the launch to run: the requested one, or that of the last good set.

    Raises RunningError (75) if only a missing instance is to be started and one runs, LauncherError (75) if unattended
    starts have failed too often, and nothing has changed since.
    """
    context = launch.context
    known = outcome.look_back(context)
    if context.arguments.if_down:
        launch.refuse_running()
    last = known.last
    if launch.by == "hand" and last and last.stage == "ended" and not last.seen and known.good:
        context.console.say(f"note: the last start failed: pid {last.pid} {outcome.told_end(last)}")
        context.console.hint("start_app.py rollback starts what ran well before")
    if launch.by == "hand" or known.refused is None or last is None:
        return launch
    wish = launch.wish()
    if known.is_parked(wish):
        raise parked(context, known)
    if context.arguments.no_rollback or not known.should_roll_back(wish):
        return launch
    good = known.good[0]
    problem = unusable(launch, good)
    console, failed = context.console, known.refused
    console.warn(f"the last start failed: pid {failed.pid} {outcome.told_end(failed)}")
    if problem:
        console.warn(f"not rolled back: {problem}")
        return launch
    console.warn(f"rolling back to what ran well since {good.at}: {told(good)}; the app's code is not rolled back")
    console.hint("start_app.py status shows what failed; after a change, the next start tries it again")
    return Launch(context, good, wish)


def parked(context: Context, known: Outcomes) -> ParkedError:
    """Return the refusal of another unattended start, and record that it was reported."""
    assert known.failed
    error = ParkedError(
        f"the last {text.count(known.doomed, 'unattended start')} failed, and nothing has changed since: "
        f"{outcome.told_end(known.failed)}",
        outcome.PARKED_HINT,
        ExitStatus.RETRY,
    )
    error.told = known.told_parked
    outcome.note_parked(context)
    return error


def after(launch: Launch, error: LauncherError) -> Launch:
    """Return the launch of the last good set, after a start in the background has failed.

    Raises the error if there is none, or it must not be started.
    """
    context = launch.context
    known = outcomes.read(context.settings.app_dir, context.settings.port)
    last = known.last
    if last is None or last.stage != "ended" or last.rollback or launch.good or not known.good:
        raise error
    if context.arguments.no_rollback:
        raise LauncherError(
            error.message, f"start_app.py rollback starts the last good set; {error.hint}", error.status
        )
    good = known.good[0]
    problem = unusable(launch, good)
    if problem:
        context.console.warn(f"not rolled back: {problem}")
        raise error
    context.console.warn(error.message)
    context.console.warn(
        f"rolling back to what ran well since {good.at}: {told(good)}; the app's code is not rolled back"
    )
    return Launch(context, good, last.wish)


def by_hand(context: Context) -> Launch:
    """Return the launch of the last good set that differs from the last start.

    Raises LauncherError (78) without one.
    """
    known = outcome.look_back(context)
    last = known.last
    good = known.other_good() or (known.good[0] if known.good and last and last.over else None)
    if good is None:
        what = "no other set of models and arguments has ever been ready" if known.good else "nothing was ever ready"
        raise LauncherError(
            f"no earlier good set on port {context.settings.port}: {what}",
            "start_app.py models check; start_app.py status",
            ExitStatus.CONFIG,
        )
    launch = Launch(context)
    problem = unusable(launch, good)
    if problem:
        lost = _lost(good)
        hint = "start_app.py history"
        if lost:
            shown = quoted(f"{lost.repo}@{lost.commit}")
            hint = f"start_app.py models lock {shown}; start_app.py models pull; start_app.py rollback"
        raise LauncherError(f"the last good set cannot be started: {problem}", hint, ExitStatus.CONFIG)
    context.console.say(f"rollback: to what ran well since {good.at}: {told(good)}; the app's code is not rolled back")
    return Launch(context, good, launch.wish())


def unusable(launch: Launch, good: LaunchSet) -> str:
    """Return why a set cannot be started, without reading its files; blank if it can."""
    settings = launch.context.settings
    owner = os.stat(settings.app_dir).st_uid
    if owner not in (0, os.geteuid()):
        return f"the last good sets are in a folder of {text.user(owner)}, who may have changed them"
    gone = next((path for path in (good.interpreter, good.program) if not os.access(path, os.X_OK)), None)
    if gone is not None:
        return f"{gone} no longer exists"
    if restored(good.argv, launch.command.argv) is None:
        return "its arguments contain a secret, which is not recorded, and the settings do not have it"
    words = command_of(settings)
    if words and not set(words) <= set(good.argv):
        return f"it ran another command than {' '.join(map(quoted, words))}"
    lost = _lost(good)
    return f"{lost.repo} @ {lost.commit[:7]} is no longer in {lost.path}" if lost else ""


def _lost(good: LaunchSet) -> Pinned | None:
    from .good_models import is_there

    return next((model for model in good.models if not is_there(model)), None)


def told(good: LaunchSet) -> str:
    """Return a set in words: its command, and its models with their commits."""
    models = text.some([f"{model.repo} @ {model.commit[:7]}" for model in good.models], 3)
    return f"{text.command_line(good.argv)}{f'; {models}' if models else ''}"
