"""The cache as a step of a launch: every refusal comes while the old instance still serves.

Other processes are checked twice: before the stop, where use of the cache refuses the launch, and after it, where newly
used files are skipped and named.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..cache import planning, roots, trash
from ..cache.dirs import reason
from ..cache.entries import mount_points
from ..cache.plan import Plan
from ..context import Context
from ..errors import ExitStatus, LauncherError, quoted
from ..operations import removal, verification
from ..operations.instance import Observed, observe
from ..system import renames

_FRESH_SECONDS = 1.0
_NAMED_AT_MOST = 10


class CacheStep:
    """Hold the requests of a launch's flags to the cache, and carry them out in two steps: check, then apply."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._requests = removal.requests(context)
        self._observe: Callable[[], Observed] = lambda: observe(context.settings)
        self._planned: tuple[Plan, ...] = ()
        self._looked_at = 0.0
        self.done: list[Mapping[str, Any]] = []

    def check(self, observe: Callable[[], Observed]) -> None:
        """Refuse everything that can be refused before anything is stopped.

        The processes to be stopped are searched only if something is in use. Raises LauncherError: 2 for an unknown
        repo or a shared cache without the user's consent, 65 for damage, 75 for a repo that another process reads or
        downloads, 78 for a root from which nothing may be removed.
        """
        context, dry_run = self._context, self._context.arguments.dry_run
        if self._requests:
            roots.refuse_unsafe(context.roots, context.settings.app_dir, context.home)
        self._observe = observe
        self._planned = self._plan(again=False)
        self._probe()
        if context.arguments.verify and not dry_run:
            going = {item.folder for plan in self._planned for item in plan.items if item.kind == "repo"}
            verification.refuse_damaged(verification.check(context, besides=going), context.console)

    def _plan(self, *, again: bool) -> tuple[Plan, ...]:
        """Return the plan of every request, and refuse what cannot be removed now; ask only the first time."""
        context, dry_run = self._context, self._context.arguments.dry_run
        planned: list[Plan] = []
        sizes = dry_run or not all(root.inside for root in context.roots)
        for asked in self._requests:
            request = asked._replace(sizes=sizes)
            plans = planning.plan(request, context.roots, again=again)
            if any(skipped.kind == "in use" for plan in plans for skipped in plan.skipped):
                gone = self._observe().to_stop(take_port=context.arguments.take_port)
                plans = planning.plan(request._replace(spare=frozenset(gone)), context.roots, again=again)
            self._refuse_skipped(plans)
            if not again:
                removal.confirm(plans, request.kind, context, ask=not dry_run)
            planned += plans
        self._looked_at = time.monotonic()
        return tuple(planned)

    def prepare(self) -> None:
        """Do nothing: a removal is fast, and the old instance may still read the files."""

    def rehearse(self) -> None:
        """Check that the files can be moved away, without moving them: the old instance may still read them.

        A pull, or `APP_PRESTART`, may have changed the cache or its users since the check. Raises LauncherError (74, or
        75 for a repo in use).
        """
        self._planned = self._plan(again=True)
        for plan in self._planned:
            paths = [item.path for item in plan.items]
            if not paths or self._context.arguments.force:
                continue
            try:
                with renames.probe(plan.root.real, mount_points(plan.root.real)) as probe:
                    for path in paths:
                        _try(probe, path)
            except OSError as error:
                where = os.fsdecode(error.filename or plan.root.path)
                raise LauncherError(
                    f"{where} cannot be removed: {reason(error)}; nothing was stopped or removed",
                    f"ls -ld {quoted(os.path.dirname(where))} {quoted(where)}; lsattr -d {quoted(where)}; "
                    "--force continues without it",
                    ExitStatus.IO,
                ) from error

    def close(self) -> None:
        """Do nothing: nothing is held."""

    def apply(self, changed: bool) -> bool:
        """Remove the files, after our instances are stopped; if the app starts, delete the trash in the background.

        `changed` means that something was stopped or pulled since the check.

        Raises LauncherError if a requested removal failed: the app would load exactly that.
        """
        context, background = self._context, not self._context.arguments.no_launch
        # A survey from a moment ago is still valid if nothing was stopped or pulled since.
        fresh = not changed and len(self._requests) == 1 and time.monotonic() - self._looked_at < _FRESH_SECONDS
        for asked in self._requests:
            request = asked._replace(sizes=not background)
            planned = self._planned if fresh else planning.plan(request, context.roots, again=True)
            result = planning.condemn(planned, removal.console_teller(context.console))
            if not background:
                with context.console.bar("freeing", sum(plan.size for plan in planned)) as progress:
                    result = planning.finish(planned, result, progress)
            self.done.append({**removal.result_document(planned, result), "freed_later": background})
            removal.record(context.settings, request.kind, result, later=background)
            removal.tell(planned, result, context.console, later=background)
            if background:
                self._finish_later(planned, more=result.freed > 0)
            self._refuse_failed(result)
        return bool(self._requests)

    def lines(self) -> tuple[str, ...]:
        """Return the lines of a dry run."""
        return (
            *(("would verify the cache",) if self._context.arguments.verify else ()),
            *planning.plan_lines(self._planned),
        )

    def document(self) -> Sequence[Mapping[str, Any]]:
        """Return the dry run's part of `--json`."""
        return [planning.plan_document(plan) for plan in self._planned]

    def _refuse_skipped(self, plans: Sequence[Plan]) -> None:
        """Refuse if any requested path cannot be removed, and name all of them."""
        skipped = [skip for plan in plans for skip in plan.skipped if skip.kind in ("in use", "blocked")]
        if not skipped or self._context.arguments.force:
            return
        busy = any(skip.kind == "in use" for skip in skipped)
        for skip in skipped[1:_NAMED_AT_MOST]:
            self._context.console.warn(f"{skip.path} stays: {skip.reason}")
        more = len(skipped) - _NAMED_AT_MOST
        rest = f", and {more} more" if more > 0 else ""
        raise LauncherError(
            f"{skipped[0].path} stays: {skipped[0].reason}{rest}; nothing was stopped or removed",
            "try again when it is done; --force removes it anyway" if busy else "--force continues without it",
            ExitStatus.RETRY if busy else ExitStatus.IO,
        )

    def _probe(self) -> None:
        """Refuse if nothing can be removed at all, for example on a disk that is mounted read-only."""
        for plan in self._planned:
            if not plan.items or self._context.arguments.dry_run:
                continue
            try:
                trash.probe(plan.root.real)
            except OSError as error:
                raise LauncherError(
                    f"cannot remove anything from {plan.root.path}: {reason(error)}; nothing was stopped",
                    f"ls -ld {quoted(plan.root.path)}",
                    ExitStatus.IO,
                ) from error

    def _refuse_failed(self, result: planning.Result) -> None:
        busy = [skip for skip in result.skipped if skip.kind == "in use"]
        if result.failures or busy:
            raise LauncherError(
                "the app was not started, because it would load what could not be removed",
                "start_app.py cache list shows the rest; start_app.py starts the app without removing it",
                ExitStatus.IO if result.failures else ExitStatus.RETRY,
            )

    def _finish_later(self, planned: Sequence[Plan], *, more: bool) -> None:
        touched = [plan.root.real for plan in planned if plan.items]
        if not touched:
            return
        try:
            trash.finish_later(touched, quiet=self._context.console.quiet, more=more)
        except OSError as error:
            self._context.console.warn(
                f"cache: the removed files are in the trash until the next run: {error.strerror}"
            )


def _try(probe: renames.Probe, path: str) -> None:
    """Raise the OSError that moving this path would raise, unless it no longer exists or is removed file by file."""
    try:
        probe.leave(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EXDEV):
            raise
