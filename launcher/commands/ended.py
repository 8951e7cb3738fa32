"""`ended`: record how our unit's main process ended; only the unit's `ExecStopPost=` calls this."""

from __future__ import annotations

from ..context import Answer, Context, Report
from ..operations import outcome


def run(context: Context) -> Report:
    """Record the end, with the facts from systemd and the journal."""
    outcome.note_unit_end(context)
    return Answer()
