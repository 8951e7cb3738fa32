"""`cache verify`: hash the cached files offline, and with `--repair` fetch the damaged ones again."""

from __future__ import annotations

from ..cache import planning, roots
from ..cache.verify import Names, Verification
from ..context import Answer, Context, Report
from ..errors import ExitStatus
from ..operations import removal, repair, verification


def run(context: Context) -> Report:
    """Verify the caches, name each file that differs from the hub's, and with `--repair` fetch it again."""
    arguments, console = context.arguments, context.console
    if arguments.repair:
        roots.refuse_unsafe(context.roots, context.settings.app_dir, context.home)
    keep_whole = console.as_json or console.verbose
    done = verification.check(context, arguments.repos, full=arguments.full, keep_whole=keep_whole)
    damaged = [checked for checked in done.checked if checked.damaged]
    unread = ExitStatus.IO if any(checked.denied for checked in done.checked) else ExitStatus.DONE
    if damaged and arguments.repair:
        return _repair(context, done, unread)
    status = ExitStatus.DAMAGED if damaged else unread
    hint = "start_app.py cache verify --repair removes the damaged files and downloads them again" if damaged else None
    return Answer(status, _lines(done), {**verification.document(done), "exit_status": int(status)}, hint)


def _repair(context: Context, done: Verification, unread: ExitStatus) -> Report:
    console = context.console
    if not console.as_json:
        for line in _lines(done):
            console.out(line)
    damaged = [checked for checked in done.checked if checked.damaged]
    planned = planning.plan_repair(damaged, context.roots, force=context.arguments.force)
    going = repair.broken(planned)
    repair.refuse_unavailable(going, context)
    applied = removal.apply(planned, "repair", context, lambda: repair.fetch(going, context))
    status = applied.status or (ExitStatus.DAMAGED if context.arguments.dry_run else unread)
    return applied._replace(status=status, data={**verification.document(done), **(applied.data or {})})


def _lines(done: Verification) -> tuple[str, ...]:
    names = Names()
    ordered = sorted(done.checked, key=lambda checked: (not checked.damaged, checked.candidate.path))
    return (*(verification.line(checked, names) for checked in ordered), verification.summary(done))
