"""`ended`: note how the main process of our unit has ended; the unit's `ExecStopPost=` calls it, nobody else does."""

from __future__ import annotations

from ..context import Answer, Context, Report
from ..operations import outcome


def run(context: Context) -> Report:
    """Note it, with what systemd and the journal say of it."""
    outcome.note_unit_end(context)
    return Answer()
