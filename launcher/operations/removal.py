"""Removal from the cache: the `cache` commands and the flags of a launch plan and apply it by the same functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..cache import plan as plans
from ..cache import planning
from ..cache.plan import Plan
from ..cache.planning import Request, Result
from ..config.settings import Settings
from ..context import Answer, Context
from ..errors import ExitStatus, LauncherError
from ..service import history
from ..ui import text

if TYPE_CHECKING:
    from ..ui.console import Console

_NAMED = frozenset(("repo", "revision", "snapshot"))
_NAMED_AT_MOST = 20


def requests(context: Context) -> tuple[Request, ...]:
    """Return what the flags of a launch ask of the cache, in the order in which it is done."""
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
    """Return the request that a command or a flag of this name makes.

    Raises LauncherError (78) where what `models.lock` does not name is to go, and there is none.
    """
    arguments = context.arguments
    keep = tuple(arguments.keep or ())
    if name == "clear":
        return Request("clear", force=arguments.force)
    if name == "remove":
        return Request("remove", tuple(targets), force=arguments.force)
    locked = _locked(context) if arguments.unlocked else None
    return Request("prune", (), arguments.older_than, arguments.max_size, keep, arguments.force, locked)


def _locked(context: Context) -> Mapping[str, frozenset[str]]:
    from ..models import repo_id as names

    lock = context.lockfile
    if not lock:
        raise LauncherError(
            f"there is no models.lock in {context.settings.app_dir}, so --unlocked would remove every model",
            "start_app.py models lock REPO; start_app.py cache clear if that is meant",
        )
    return {names.folder(one.repo): frozenset((one.commit,)) for one in lock if not one.local_dir}


def apply(
    planned: tuple[Plan, ...],
    kind: history.Action,
    context: Context,
    afterwards: Callable[[], Mapping[str, Any]] | None = None,
) -> Answer:
    """Apply plans, or show them in a dry run, and return what was done.

    When everything could go, `afterwards` is done too, and its document is part of the answer.
    """
    console = context.console
    if context.arguments.dry_run:
        documents = [planning.plan_document(one) for one in planned]
        return Answer(
            _status(planned, None), tuple(planning.plan_lines(planned)), {"dry_run": True, "roots": documents}
        )
    confirm_shared(planned, context)
    result = planning.condemn(planned, console_teller(console))
    with console.bar("freeing", sum(one.size for one in planned)) as progress:
        result = planning.finish(planned, result, progress)
    record(context.settings, kind, result, later=False)
    tell(planned, result, console)
    status = _status(planned, result)
    more = afterwards() if afterwards and not status else {}
    done = {"dry_run": False, **more, **result_document(planned, result), "exit_status": int(status)}
    return Answer(status, data=done)


def confirm_shared(planned: Sequence[Plan], context: Context, *, ask: bool = True) -> None:
    """Ask before anything goes from a cache that other programs use too; without `ask`, see whether one could.

    Raises LauncherError when nobody can be asked, or the answer is no.
    """
    console = context.console
    for one in planned:
        if context.arguments.yes or one.root.owned or not any(item.kind != "trash" for item in one.items):
            continue
        names = [plans.label(item) for item in one.items if item.kind in ("repo", "revision")]
        amount = f", {text.size(one.size)}" if one.size else ""
        what = f"{one.root.path} ({one.root.origin}) is shared with other programs: {_summary(names, one)}{amount}"
        if not console.interactive or console.as_json:
            raise LauncherError(
                f"{what}; nothing was changed",
                "--yes removes it; --dry-run shows what would be removed",
                ExitStatus.USAGE,
            )
        if not ask:
            continue
        console.warn(what)
        if not console.confirm("remove that?"):
            raise LauncherError("nothing was changed", None, ExitStatus.INTERRUPTED)


def console_teller(console: Console) -> Callable[[Plan, plans.Item], None]:
    """Return what tells of each item that goes: repos and revisions to everybody, the rest with `-v`."""
    told = 0

    def tell_item(plan: Plan, item: plans.Item) -> None:
        nonlocal told
        told += item.kind in _NAMED
        aloud = item.kind in _NAMED and told <= _NAMED_AT_MOST
        if not (aloud or console.verbose):
            return
        # Of a revision, or where repos share their blobs, only the end tells what it has freed.
        whole = item.kind == "repo" and not plan.shares
        size = f", {text.size(item.size)}" if item.size and whole else ""
        line = f"cache: removing {plans.label(item)}{size}"
        if aloud:
            console.say(line)
        else:
            console.detail(f"{line}: {item.reason}")

    return tell_item


def tell(planned: Sequence[Plan], result: Result, console: Console, *, later: bool = False) -> None:
    """Tell what stays, what could not go and what was freed, or that it is freed `later`, in the background."""
    for line in planning.left_lines(result.left):
        console.warn(line)
    for failure in result.failures:
        console.warn(f"cannot remove {failure.path}: {failure.reason}")
    if result.failures:
        console.warn(f"hint: {text.command_line(('ls', '-ld', result.failures[0].path))} shows whose it is")
    if not any(one.items for one in planned):
        console.say(f"cache: nothing to remove in {', '.join(str(one.root.path) for one in planned)}")
        return
    gone = sum(1 for item in result.items if item.kind in _NAMED)
    what = f"removed {gone}, " if gone > _NAMED_AT_MOST else ""
    how = "the disk space is freed in the background" if later else f"freed {text.size(result.freed)}"
    console.say(f"cache: {what}{how}")


def record(settings: Settings, kind: history.Action, result: Result, *, later: bool) -> None:
    """Write into the app's history what a removal took."""
    names = [plans.label(item) for item in result.items if item.kind in ("repo", "revision")]
    what = text.some(names, 3) or (f"{len(result.items)} leftovers" if result.items else "nothing to remove")
    freed = "freed in the background" if later else f"freed {text.size(result.freed)}"
    failed = f", {len(result.failures)} could not be removed" if result.failures else ""
    history.record(settings, kind, what, freed + failed)


def result_document(planned: Sequence[Plan], result: Result) -> Mapping[str, Any]:
    """Return what a removal did for `--json`."""
    return {
        "roots": [str(one.root.path) for one in planned],
        "removed": [planning.item_document(item) for item in result.items],
        "left": [planning.left_document(left) for left in result.left],
        "failures": [failure._asdict() for failure in result.failures],
        "freed_bytes": result.freed,
    }


def _status(planned: Sequence[Plan], result: Result | None) -> ExitStatus:
    left = [one for plan in planned for one in plan.left]
    if (result and result.failures) or any(not (one.busy or one.unknowable) for one in left):
        return ExitStatus.IO
    return ExitStatus.RETRY if any(one.busy for one in left) else ExitStatus.DONE


def _summary(names: Sequence[str], one: Plan) -> str:
    if not names:
        return f"{len(one.items)} leftovers would be removed"
    if len(names) <= 3:
        return f"{', '.join(names)} would go"
    return f"{len(names)} of its repos and revisions would be removed, among them {', '.join(names[:3])}"
