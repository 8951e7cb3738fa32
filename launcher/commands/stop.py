"""`stop`: end this app's instance on the port."""

from __future__ import annotations

from ..context import Answer, Context, Report
from ..instances import refusal
from ..instances.describe import (
    family_documents,
    going_along,
    left_alone,
    left_documents,
    on_other_ports,
    process_document,
    victim,
)
from ..instances.stop import stopped_document
from ..operations import outcome
from ..operations.instance import observe
from ..operations.replace import stop_instance


def run(context: Context) -> Report:
    """Stop the instance, or show in a dry run which process would be terminated."""
    settings, console = context.settings, context.console
    nothing = f"not running: no instance of {settings.script} on port {settings.port}"
    if context.arguments.dry_run:
        observed = observe(settings)
        refused = observed.instance_refusal()
        if refused:
            raise refused
        survey = observed.survey
        victims = refusal.targets(survey)
        along = going_along(survey)
        lines = tuple(f"would terminate {line}" for line in (*(victim(process, survey) for process in victims), *along))
        data = {
            "terminate": [process_document(process) for process in victims],
            "terminate_along": family_documents(survey),
            "left": left_documents(survey),
        }
        hint = None if lines else on_other_ports(survey, "stop")
        return Answer(text=(*(lines or (nothing,)), *left_alone(survey)), data=data, hint=hint)
    outcome.look_back(context)
    stopped = stop_instance(context)
    hint = None
    if not stopped:
        survey = observe(settings).survey
        console.say(nothing)
        for line in left_alone(survey):
            console.say(line)
        hint = on_other_ports(survey, "stop")
    return Answer(data={"stopped": [stopped_document(process) for process in stopped]}, hint=hint)
