"""Remove from the cache: the `cache` commands and the flags of a launch use the same functions to plan and apply."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..cache import plan as plans
from ..cache import planning, roots
from ..cache.plan import Plan
from ..cache.planning import Request, Result
from ..config.settings import Settings
from ..context import Answer, Context
from ..errors import REPEAT, ExitStatus, LauncherError, quoted
from ..service import history
from ..ui import text
from . import needed

if TYPE_CHECKING:
    from ..ui.console import Console

_NAMED = frozenset(("repo", "revision", "snapshot"))
_NAMED_AT_MOST = 20
_FULL = 0.05  # the free part of a disk


def requests(context: Context) -> tuple[Request, ...]:
    """Return the requests of a launch's flags to the cache, in the order of execution."""
    arguments = context.arguments
    asked = []
    if arguments.clear_cache:
        asked.append(request_of("clear", context))
    if arguments.remove_model:
        asked.append(request_of("remove", context, tuple(arguments.remove_model)))
    if arguments.prune_cache:
        asked.append(request_of("prune", context))
    return tuple(asked)


def request_of(name: str, context: Context, targets: Sequence[str] = ()) -> Request:
    """Return the request for a command or a flag of this name.

    Raises LauncherError (78) if everything outside `models.lock` is to be removed, but there is no lock.
    """
    arguments = context.arguments
    if name == "clear":
        return Request("clear", force=arguments.force, places=needed.places(context))
    if name == "remove":
        return Request(
            "remove",
            tuple(targets),
            force=arguments.force,
            places=needed.places(context),
            files=tuple(arguments.file or ()),
        )
    if arguments.unlocked and not context.lockfile:
        raise LauncherError(
            f"there is no models.lock in {context.settings.app_dir}, so --unlocked would remove every model",
            "start_app.py models lock REPO; start_app.py cache clear removes every model",
        )
    return Request(
        "prune",
        (),
        arguments.older_than,
        arguments.max_size,
        tuple(arguments.keep or ()),
        arguments.force,
        needed.locked(context),
        arguments.unlocked,
        needed.places(context),
    )


def apply(
    planned: tuple[Plan, ...],
    kind: history.Action,
    context: Context,
    afterwards: Callable[[], Mapping[str, Any]] | None = None,
) -> Answer:
    """Apply plans, or show them in a dry run, and return the result.

    `afterwards` runs too, unless nothing could be removed, and its document is part of the answer.
    """
    console = context.console
    if context.arguments.dry_run:
        documents = [planning.plan_document(plan) for plan in planned]
        lines = tuple(planning.plan_lines(planned))
        return Answer(
            _status(planned, None), lines, {"dry_run": True, "roots": documents}, _hint(planned, kind, context)
        )
    confirm(planned, kind, context)
    result = planning.condemn(planned, console_teller(console))
    with console.bar("freeing", sum(plan.size for plan in planned)) as progress:
        result = planning.finish(planned, result, progress)
    record(context.settings, kind, result, later=False)
    tell(planned, result, console)
    status = _status(planned, result)
    more = afterwards() if afterwards and (result.items or not status) else {}
    done = {"dry_run": False, **more, **result_document(planned, result), "exit_status": int(status)}
    return Answer(status, data=done, hint=_hint(planned, kind, context))


def _hint(planned: Sequence[Plan], kind: str, context: Context) -> str | None:
    """Return a hint: a restart if something is in use; if nothing can be removed, a setting or another command."""
    if planning.is_busy(planned):
        flag = {"clear": "--clear-cache", "prune": "--prune-cache", "remove": "--remove-model"}.get(kind)
        if flag is None:
            return "try again when it has ended"
        words = " ".join((flag, *map(quoted, context.arguments.repos)))
        return (
            f"to restart the app on port {context.settings.port} and remove it: start_app.py {words}{REPEAT}; "
            "else try again when it has ended"
        )
    if any(plan.items for plan in planned):
        return None
    misplaced = roots.misplaced(context.environment, context.settings.app_dir)
    if misplaced:
        return f"{misplaced[1]}: {misplaced[0]}"
    if kind == "prune" and any(_is_full(plan.root.real) for plan in planned):
        return "start_app.py cache list shows what takes the space; start_app.py cache remove REPO frees it"
    return None


def _is_full(folder: str) -> bool:
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return disk.f_bavail < disk.f_blocks * _FULL or (disk.f_files > 0 and disk.f_favail < disk.f_files * _FULL)


def confirm(planned: Sequence[Plan], kind: str, context: Context, *, ask: bool = True) -> None:
    """Ask before a cache outside the app's folder is cleared, or anything is removed from another app's cache.

    Without a terminal, a cache that the `.env` of this user or root names is cleared with a notice. Without `ask`, only
    check whether asking is possible. Raises LauncherError if it is not, or if the answer is no.
    """
    console = context.console
    for plan in planned:
        going = [item for item in plan.items if item.kind != "trash"]
        if (
            context.arguments.yes
            or (plan.root.owned and plan.root.inside)
            or not going
            or (plan.root.owned and kind != "clear")
        ):
            continue
        names = [plans.label(item) for item in plan.items if plans.is_named(item)]
        amount = f", {text.size(plan.size)}" if plan.size else ""
        where = f"{plan.root.path} ({plan.root.origin})"
        if plan.root.owned and (not console.interactive or console.as_json):
            console.say(f"cache: clearing {where}{amount}, outside the app's folder")
            continue
        whose = "is outside the app's folder" if plan.root.owned else "is shared with other programs"
        removal = f"{where} {whose}: {_summary(names, plan)}{amount}"
        if not console.interactive or console.as_json:
            raise LauncherError(
                f"{removal}; nothing was changed",
                "--yes removes it; --dry-run shows what would be removed",
                ExitStatus.USAGE,
            )
        if not ask:
            continue
        console.warn(removal)
        if not console.confirm("remove that?"):
            raise LauncherError("nothing was changed", None, ExitStatus.INTERRUPTED)


def console_teller(console: Console) -> Callable[[Plan, plans.Item], None]:
    """Return a function that reports each removed item: repos and revisions always, the rest with `-v`."""
    told = 0

    def tell_item(plan: Plan, item: plans.Item) -> None:
        nonlocal told
        named = item.kind in _NAMED or plans.is_named(item)
        told += named
        aloud = named and told <= _NAMED_AT_MOST
        if not (aloud or console.verbose):
            return
        # If repos share blobs, and for a revision, the freed bytes are known only at the end.
        whole = item.kind == "repo" and not plan.shares
        size = f", {text.size(item.size)}" if item.size and whole else ""
        line = f"cache: removing {plans.label(item)}{size}"
        if aloud:
            console.say(line)
        else:
            console.detail(f"{line}: {item.reason}")
        for target in item.targets:
            console.say(f"cache: {target} stays: {item.path} only links to it")

    return tell_item


def tell(planned: Sequence[Plan], result: Result, console: Console, *, later: bool = False) -> None:
    """Report the skipped paths, the failures and the freed bytes, or that they are freed `later`, in the background."""
    for line in planning.skipped_lines(result.skipped):
        console.warn(line)
    for failure in result.failures:
        console.warn(f"cannot remove {failure.path}: {failure.reason}")
    kept = [*(failure.path for failure in result.failures), *(s.path for s in result.skipped if s.kind == "blocked")]
    if kept:
        console.warn(f"hint: {text.command_line(('ls', '-ld', kept[0]))} shows whose it is")
    if not any(plan.items for plan in planned):
        nothing = "nothing was removed from" if planning.is_busy(planned) else "nothing to remove in"
        console.say(f"cache: {nothing} {', '.join(str(plan.root.path) for plan in planned)}")
        return
    gone = sum(item.kind in _NAMED or plans.is_named(item) for item in result.items)
    removed = f"removed {gone}, " if gone > _NAMED_AT_MOST else ""
    how = f"freed {text.size(result.freed)}"
    if later:
        how = f"{how}, the rest in the background" if result.freed else "the disk space is freed in the background"
    console.say(f"cache: {removed}{how}")


def record(settings: Settings, kind: history.Action, result: Result, *, later: bool) -> None:
    """Record a removal in the app's history."""
    names = [plans.label(item) for item in result.items if plans.is_named(item)]
    nothing = "nothing: it is in use" if any(skip.kind == "in use" for skip in result.skipped) else "nothing to remove"
    removed = text.some(names, 3) or (f"{len(result.items)} leftovers" if result.items else nothing)
    freed = "freed in the background" if later else f"freed {text.size(result.freed)}"
    failed = f", {len(result.failures)} could not be removed" if result.failures else ""
    history.record(settings, kind, removed, freed + failed)


def result_document(planned: Sequence[Plan], result: Result) -> Mapping[str, Any]:
    """Return the result of a removal for `--json`."""
    return {
        "roots": [str(plan.root.path) for plan in planned],
        "removed": [planning.item_document(item) for item in result.items],
        "left": [planning.skipped_document(skip) for skip in result.skipped],
        "failures": [failure._asdict() for failure in result.failures],
        "freed_bytes": result.freed,
    }


def _status(planned: Sequence[Plan], result: Result | None) -> ExitStatus:
    kinds = {skip.kind for plan in planned for skip in plan.skipped}
    if (result and result.failures) or "blocked" in kinds:
        return ExitStatus.IO
    return ExitStatus.RETRY if "in use" in kinds else ExitStatus.DONE


def _summary(names: Sequence[str], plan: Plan) -> str:
    if not names:
        return f"{len(plan.items)} leftovers would be removed"
    if len(names) <= 3:
        return f"{', '.join(names)} would be removed"
    return f"{len(names)} of its repos and revisions would be removed, among them {', '.join(names[:3])}"
