"""The cache as a step of a launch: all that can be refused is refused while the old instance still serves.

What other processes do is looked at twice: before the stop, where it refuses, and after it, where what has come into
use meanwhile is left and named.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..cache import planning, roots, trash
from ..cache.dirs import reason
from ..cache.plan import Plan
from ..config import settings
from ..errors import ExitStatus, LauncherError
from ..operations import removal, verification

if TYPE_CHECKING:
    from ..arguments import Arguments
    from ..ui.console import Console

_FRESH_SECONDS = 1.0


class Cleaning:
    """Hold what the flags of a launch ask of the cache, and do it in two steps: check, then carry out."""

    def __init__(
        self, arguments: Arguments, found: settings.Settings, environ: Mapping[str, str], console: Console
    ) -> None:
        self._requests = removal.requests(arguments, found.app_dir)
        self._arguments = arguments
        self._settings = found
        self._console = console
        self._home = environ.get("HOME")
        self._roots = roots.roots(found, settings.app_environment(found, environ))
        self._planned: tuple[Plan, ...] = ()
        self._looked_at = 0.0
        self.done: list[Mapping[str, Any]] = []

    def check(self, to_stop: Callable[[], Collection[int]]) -> None:
        """Refuse whatever can be refused before anything is stopped.

        `to_stop` returns the pids that will be gone by then; it is asked only where something is in use. Raises
        LauncherError: 2 for an unknown repo or a shared cache that nobody said yes to, 65 for damage, 75 for a repo
        that another process reads or downloads, 78 for a root that is no place to remove anything from.
        """
        dry_run = self._arguments.dry_run
        planned: list[Plan] = []
        if self._requests:
            roots.refuse_unsafe(self._roots, self._settings.app_dir, self._home)
        for request in self._requests:
            found = planning.plan(request, self._roots, sizes=dry_run)
            if any(left.busy for one in found for left in one.left):
                found = planning.plan(request, self._roots, spare=to_stop(), sizes=dry_run)
            planned += found
        self._planned = tuple(planned)
        self._looked_at = time.monotonic()
        self._refuse_left()
        self._probe()
        removal.confirm_shared(self._planned, self._console, yes=self._arguments.yes, ask=not dry_run)
        if self._arguments.verify and not dry_run:
            going = {item.folder for one in planned for item in one.items if item.kind == "repo"}
            verification.refuse_damaged(
                verification.check(self._settings, self._roots, (), self._console, besides=going), self._console
            )

    def carry_out(self, *, background: bool, changed: bool) -> None:
        """Do it, now that nothing of ours runs any more; in the background only the deleting is left to be done.

        Raises LauncherError when something asked for could not go: the app would load just what was to be gone.
        """
        # What was looked at a moment ago, with nothing stopped or pulled since, need not be looked at once more.
        fresh = not changed and len(self._requests) == 1 and time.monotonic() - self._looked_at < _FRESH_SECONDS
        if not fresh or any(item.kind == "trash" for one in self._planned for item in one.items):
            planning.restore(self._roots)
        for request in self._requests:
            planned = self._planned if fresh else planning.plan(request, self._roots, sizes=not background, again=True)
            result = planning.condemn(planned, removal.console_teller(self._console))
            if not background:
                with self._console.bar("freeing", sum(one.size for one in planned)) as progress:
                    result = planning.finish(planned, result, progress)
            self.done.append({**removal.result_document(planned, result), "freed_later": background})
            removal.record(self._settings, request.what, result, later=background)
            removal.tell(planned, result, self._console, later=background)
            if background:
                self._finish_later(planned)
            self._refuse_failed(result)

    def lines(self) -> tuple[str, ...]:
        """Return what a dry run tells of it."""
        return (*(("would verify the cache",) if self._arguments.verify else ()), *planning.plan_lines(self._planned))

    def document(self) -> Sequence[Mapping[str, Any]]:
        """Return what a dry run tells of it for `--json`."""
        return [planning.plan_document(one) for one in self._planned]

    def _refuse_left(self) -> None:
        left = [one for plan in self._planned for one in plan.left if not one.unknowable]
        if not left or self._arguments.force:
            return
        more = f", and {len(left) - 1} more" if len(left) > 1 else ""
        busy = any(one.busy for one in left)
        raise LauncherError(
            f"{left[0].path} stays: {left[0].reason}{more}; nothing was stopped or removed",
            "try again when it is done; --force removes it all the same" if busy else "--force goes on without it",
            ExitStatus.RETRY if busy else ExitStatus.IO,
        )

    def _probe(self) -> None:
        """Refuse where nothing could be removed anyway, such as on a disk that is mounted read-only."""
        for one in self._planned:
            if not one.items or self._arguments.dry_run:
                continue
            try:
                trash.probe(one.root.real)
            except OSError as error:
                raise LauncherError(
                    f"cannot remove anything from {one.root.path}: {reason(error)}; nothing was stopped",
                    f"ls -ld {one.root.path}",
                    ExitStatus.IO,
                ) from error

    def _refuse_failed(self, result: planning.Result) -> None:
        busy = [left for left in result.left if left.busy]
        if result.failures or busy:
            raise LauncherError(
                "not everything could be removed, and the app would load it; it was not started",
                "start_app.py cache list; start_app.py starts it as it is",
                ExitStatus.IO if result.failures else ExitStatus.RETRY,
            )

    def _finish_later(self, planned: Sequence[Plan]) -> None:
        touched = [one.root.real for one in planned if one.items]
        if not touched:
            return
        try:
            trash.finish_later(touched, quiet=self._console.quiet)
        except OSError as error:
            self._console.warn(f"cache: what was removed lies in the trash until the next run: {error.strerror}")
