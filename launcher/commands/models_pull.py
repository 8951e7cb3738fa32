"""`models pull`: make the disk match `models.lock`, or the newest commits without a lock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..cache import entries
from ..cache import names as naming
from ..context import Answer, Context, Report
from ..models import pull, verified
from ..models.task import Served, Skipped, Survey, spare_all
from ..operations import held, single_files
from ..operations import pull as pulling
from ..ui import text


def run(context: Context) -> Report:
    """Make the disk match the lock, or the newest commits without one; each model separately."""
    arguments, console = context.arguments, context.console
    memories = verified.load(context.settings.app_dir)
    if arguments.dry_run:
        wanted = pulling.wanted(context, arguments.repos, spare=spare_all)
        survey = pulling.survey(wanted.models, context, memories, spare_all)
        return _report(context, survey, wanted.skipped, lines=tuple(_plan_lines(survey)))
    with pulling.pull_lock(context):
        held.refuse_edited(context)
        context.forget_lockfile()
        pulling.recover(context)
        wanted = pulling.wanted(context, arguments.repos, spare=spare_all)
        try:
            survey = pulling.survey(wanted.models, context, memories, spare_all)
            survey, served = pulling.fetch(survey, context, memories, spare_all)
            survey = pull.settle(
                survey,
                context.settings.app_dir,
                memories,
                pin=wanted.by_lock,
                spare=spare_all,
                keep=pulling.kept_folders(context.settings.app_dir),
            )
            if wanted.by_lock and context.lockfile and context.lockfile.files and not arguments.repos:
                places = pulling.sources_of(context, memories)
                lost = single_files.restore(context, context.lockfile, places, memories)
                survey = survey._replace(skipped=(*survey.skipped, *lost))
        finally:
            verified.save(context.settings.app_dir, memories, console.detail)
        if wanted.by_lock and not arguments.repos:
            pulling.unpin(context, _unlocked_repos(context))
        pulling.tell(survey, console)
    return _report(context, survey, wanted.skipped, served)


def _report(
    context: Context,
    survey: Survey,
    unresolved: Sequence[Skipped],
    served: Sequence[Served] | None = None,
    lines: tuple[str, ...] = (),
) -> Report:
    """Return what was done or, without `served`, what would be done; if nothing was done, the reason is an error.

    Raises LauncherError.
    """
    skipped = (*unresolved, *survey.skipped)
    if skipped and not survey.tasks:
        pulling.tell_skipped(skipped[:-1], context.console)
        raise skipped[-1].error
    pulling.tell_skipped(skipped, context.console)
    document = {
        **_survey_document(survey),
        "skipped": [{"name": skip.name, "reason": skip.error.message} for skip in skipped],
        "dry_run": served is None,
        "served": [_served_document(source) for source in served or ()],
    }
    return Answer(pulling.status_of(skipped), lines, document)


def _unlocked_repos(context: Context) -> list[str]:
    named = {model.repo for model in context.lockfile or () if not model.local_dir}
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


def _served_document(served: Served) -> Mapping[str, Any]:
    return {"repo": served.task.model.repo, "endpoint": served.endpoint.url, "size_bytes": served.size}
