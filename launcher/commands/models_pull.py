"""`models pull`: make the disk match `models.lock`, or the newest commits where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..cache import entries
from ..cache import names as naming
from ..context import Answer, Context, Report
from ..models import pull, verified
from ..models.task import Served, Survey
from ..operations import pull as pulling
from ..ui import text


def run(context: Context) -> Report:
    """Make the disk match the lock, or what is newest where there is none."""
    arguments, console = context.arguments, context.console
    memories = verified.load(context.settings.app_dir)
    if arguments.dry_run:
        models, _ = pulling.wanted(context, arguments.repos)
        planned = pulling.survey(models, context, memories)
        return Answer(
            text=tuple(_plan_lines(planned)), data={**_survey_document(planned), "dry_run": True, "served": []}
        )
    with pulling.pull_lock(context):
        context.forget_lockfile()
        pulling.recover(context)
        models, pin = pulling.wanted(context, arguments.repos)
        try:
            survey = pulling.survey(models, context, memories)
            served = pulling.fetch(survey, context, memories)
            pull.settle(survey, context.settings.app_dir, memories, pin=pin)
        finally:
            verified.save(context.settings.app_dir, memories, console.detail)
        if pin and not arguments.repos:
            pulling.unpin(context, _unlocked_repos(context))
        pulling.tell(survey, console)
    return Answer(data={**_survey_document(survey), "dry_run": False, "served": [_served_document(o) for o in served]})


def _unlocked_repos(context: Context) -> list[str]:
    named = {one.repo for one in context.lockfile or () if not one.local_dir}
    present = (naming.name(e) for root in context.roots for e in entries.contents(root.real).entries)
    return [repo for repo in present if repo not in named]


def _plan_lines(survey: Survey) -> Iterator[str]:
    for task in survey.tasks:
        name = f"{task.model.name} @ {task.model.commit[:7]}"
        if task.lacking:
            yield f"would pull {name}: {len(task.lacking)} files, {text.size(task.size)}"
        elif task.before == task.model.commit and not task.outdated.going:
            yield f"in place: {name}"
        if task.before != task.model.commit:
            yield f"would move {task.model.revision} of {name} from {task.before[:7] if task.before else 'nothing'}"
        for path in task.outdated.going:
            yield f"would remove {task.place.path}/{path}: {task.model.commit[:7]} does not have it"


def _survey_document(survey: Survey) -> Mapping[str, Any]:
    return {
        "models": [
            {
                **pulling.model_document(task.model),
                "before": task.before,
                "pulled": list(task.lacking),
                "pulled_bytes": task.size,
                "removed": list(task.outdated.going),
                "left": list(task.outdated.changed),
            }
            for task in survey.tasks
        ],
        "size_bytes": survey.size,
        "read_bytes": survey.read_bytes,
    }


def _served_document(one: Served) -> Mapping[str, Any]:
    return {"repo": one.task.model.repo, "endpoint": one.endpoint.url, "size_bytes": one.size}
