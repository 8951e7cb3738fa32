"""`stop`: end this app's instance on the port."""

from __future__ import annotations

from ..context import Answer, Context, Report
from ..instances.describe import describe, left_alone, process_document
from ..instances.stop import stopped_document
from ..operations.instance import observe, stop_instance


def run(context: Context) -> Report:
    """Stop the instance, or show in a dry run which process would be terminated."""
    settings, console = context.settings, context.console
    nothing = f"not running: no instance of {settings.script} on port {settings.port}"
    if context.arguments.dry_run:
        observed = observe(settings)
        refused = observed.instance_refusal()
        if refused:
            raise refused
        stale = [instance.process for instance in observed.survey.stale]
        lines = tuple(f"would terminate {describe(process)}" for process in stale)
        return Answer(text=lines or (nothing,), data={"terminate": [process_document(process) for process in stale]})
    stopped = stop_instance(context)
    if not stopped:
        console.say(nothing)
        for line in left_alone(observe(settings).survey):
            console.say(line)
    return Answer(data={"stopped": [stopped_document(process) for process in stopped]})
