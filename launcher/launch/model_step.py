"""The models as a step of a launch: pulled and verified while the old instance serves, and switched after its stop.

A plain launch only reads each model's commit, and passes it to the app and the log. A locked one makes the disk match
`models.lock` first and shows the app only the pinned models.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cache.roots import folders, hf_home, roots
from ..config.sources import Setting
from ..context import Context
from ..errors import ExitStatus, LauncherError, quoted
from ..models import JOURNAL, endpoints, versions
from ..models.versions import Current
from ..operations.instance import Observed, observe
from ..system import state
from ..ui import text

if TYPE_CHECKING:
    from ..app.command import Command
    from ..cache.roots import Root
    from ..models.lockfile import Lock, LockedModel
    from ..models.placement import Memories, Placed
    from ..models.switch import Unfinished
    from ..models.task import Survey


class ModelStep:
    """Carry out the model part of a launch: check, pull the missing files, switch to them, and report."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock: Lock | None = None
        self._survey: Survey | None = None
        self._memories: Memories | None = None
        self._pin = False
        self._settled = False
        self._verified = False
        self._unfinished: tuple[Unfinished, ...] = ()
        self._view: Path | None = None
        self._roots: tuple[Root, ...] = ()
        self._placed: tuple[Placed, ...] = ()
        self._held = ExitStack()
        self.models: tuple[Current, ...] = ()
        self.loadable: tuple[Current, ...] = ()
        """Every model that the app can load: a part of what runs, also if `models.lock` does not pin it."""
        self.locked = context.settings.locked

    @property
    def lock(self) -> Lock | None:
        """Return the content of `models.lock`, before and after the check; None if it is missing or invalid."""
        if self._lock is None:
            with suppress(LauncherError):
                return self._context.lockfile
        return self._lock

    @property
    def asked(self) -> bool:
        """Return whether the launch needs files that may be missing."""
        return self.locked or self._context.arguments.force_refresh

    def check(self, observe: Callable[[], Observed]) -> None:  # noqa: ARG002
        """Refuse invalid requests before anything is stopped or fetched; a plain launch ignores an invalid lock.

        Raises LauncherError: 78 for a missing or invalid lock, 2 or 78 for flags that would remove pinned models.
        """
        try:
            self._lock = self._context.lockfile
        except LauncherError as error:
            if self.asked:
                raise
            self._context.console.warn(f"{error.message}; this launch ignores the file")
        if self.locked:
            self._check_locked(self._context.settings.origins["APP_LOCKED"])

    def _check_locked(self, origin: Setting) -> None:
        if not self._lock:
            asked = origin.origin if origin.origin.startswith("-") else f"APP_LOCKED ({origin.origin})"
            raise LauncherError(
                f"no models.lock in {self._context.settings.app_dir}: {asked} needs one",
                "start_app.py models lock REPO creates one",
                origin.bad,
            )
        if endpoints.is_true(self._context.environment.get("USE_MODELSCOPE")):
            raise LauncherError(
                "USE_MODELSCOPE is set: models.lock cannot pin what the app loads from ModelScope",
                "USE_MODELSCOPE=false in .env",
            )
        if self._context.arguments.clear_cache or self._context.arguments.force_refresh:
            flag = "--clear-cache" if self._context.arguments.clear_cache else "--force-refresh"
            raise LauncherError(
                f"{flag} and APP_LOCKED ({origin.origin}) cannot be used together",
                f"APP_LOCKED=0 start_app.py {flag}",
                ExitStatus.USAGE,
            )
        for target in self._context.arguments.remove_model or ():
            if self._is_pinned(target):
                raise LauncherError(
                    f"{target} is pinned by models.lock",
                    f"start_app.py models lock --remove {quoted(target.partition('@')[0])}",
                    ExitStatus.USAGE,
                )

    def _is_pinned(self, target: str) -> bool:
        from ..cache import targets
        from ..models import repo_id

        pinned = {repo_id.folder(model.repo): model.commit for model in self._lock or () if not model.local_dir}
        repo, _, revision = target.partition("@")
        if not targets.matching((repo,), pinned):
            return any(commit.startswith(target) for commit in pinned.values())
        commits = {pinned[folder] for folder in targets.matching((repo,), pinned)}
        by_ref = {model.revision for model in self._lock or () if model.commit in commits}
        return not revision or revision in by_ref or any(commit.startswith(revision) for commit in commits)

    def prepare(self) -> None:
        """Pull the missing files while the old instance serves, after all possible refusals."""
        if self.locked:
            from ..operations import locked

            assert self._lock is not None
            self._verified = locked.refuse_changed(self._context, self._lock, self._places())
        if self.asked and not self._in_place():
            refused = observe(self._context.settings).launch_refusal(self._context.arguments.take_port)
            if refused:
                raise refused
            self._fetch()
        elif state.listed(self._context.settings.app_dir, JOURNAL):
            self._look_at_unfinished()
        if self.locked:
            assert self._lock is not None
            locked.refuse_unpinned(self._context, self._lock)
        self._show()

    def _look_at_unfinished(self) -> None:
        """Survey, while the old instance still serves, the unfinished switches of killed pulls."""
        from ..models import switch
        from ..operations import pull as pulling

        try:
            self._held.enter_context(pulling.pull_lock(self._context))
        except LauncherError as error:
            self._context.console.warn(f"{error.message}; what an interrupted one had begun is left to it")
        else:
            self._unfinished = switch.unfinished(self._context.settings.app_dir)

    def _fetch(self) -> None:
        """Download and verify all needed files; no ref or file moves until `apply`.

        No other pull for this app runs in between. Raises LauncherError as a pull does.
        """
        from ..models import verified
        from ..models.task import spare_all, spare_none
        from ..operations import pull as pulling

        context = self._context
        self._held.enter_context(pulling.pull_lock(context))
        pulling.recover(context)
        refresh = context.arguments.force_refresh
        spare = pulling.spare_refused if refresh else spare_none
        wanted = pulling.wanted(context, newest=refresh, spare=spare)
        pulling.tell_skipped(wanted.skipped, context.console)
        self._pin = wanted.by_lock
        self._memories = verified.load(context.settings.app_dir)
        try:
            survey = pulling.survey(wanted.models, context, self._memories, spare_all if refresh else spare_none)
            changed = self._changed(survey)  # of what is here now, before anything arrives
            try:
                self._survey, _ = pulling.fetch(survey, context, self._memories, spare)
            except LauncherError as error:
                raise _of_the_disk(error, changed) from error
            pulling.tell_skipped(self._survey.skipped, context.console)
            self._placed = ()  # the pull may have created a cache, and a model may have another placement now
        finally:
            verified.save(self._context.settings.app_dir, self._memories, self._context.console.detail)

    def _changed(self, survey: Survey) -> tuple[str, ...]:
        """Return the pinned files of a locked launch that have another content on the disk."""
        return tuple(
            f"{task.model.name}: {path}"
            for task in survey.tasks
            for path in (task.lacking if self.locked else ())
            if os.path.lexists(f"{task.place.base(task.model.commit)}/{path}")
            and (task.place.root or task.before == task.model.commit)
        )

    def _show(self) -> None:
        """Create the view of a locked launch while the launch can still be refused.

        Raises LauncherError (74).
        """
        if not self.locked:
            return
        from ..models import locked_view, placement

        shown = self._shown()
        others = versions.others([root.path for root in self._roots], {model.repo for model, _ in shown})
        if others:
            self._context.console.say(f"not locked, so the app cannot load it: {text.some(others, 5)}")
        try:
            self._view = locked_view.make(self._context.settings.app_dir, self._context.settings.port, shown)
        except OSError as error:
            raise LauncherError(
                f"cannot make a view of the locked models: {(error.strerror or str(error)).lower()}",
                f"df -h {quoted(self._context.settings.app_dir)}",
                ExitStatus.IO,
            ) from error
        for model, place in shown:
            for root in self._roots if len(self._roots) > 1 else ():
                other = placement.Place(root, f"{root.real}/{os.path.basename(place.path)}")
                commit = placement.commit_of(other, model.revision) if other.path != place.path else None
                if commit and commit != model.commit:
                    copy = f"{model.repo} @ {commit[:7]} is in {root.path} too"
                    self._context.console.warn(f"{copy}: an app that names that cache itself may load it")

    def refuse_hidden(self, pids: Sequence[int]) -> None:
        """Refuse, right before the stop, files that these processes have loaded and a locked launch would not see.

        Raises LauncherError (65).
        """
        if self.locked:
            from ..operations import locked

            assert self._lock is not None
            locked.refuse_hidden(self._context, self._lock, pids)

    def foresee(self, pids: Sequence[int]) -> None:
        """Refuse in a dry run what a launch refuses before it stops these processes; files are read, nothing is saved.

        Raises LauncherError: 65, or 74 for an unreadable file.
        """
        if self.locked:
            from ..operations import locked

            assert self._lock is not None
            locked.refuse_changed(self._context, self._lock, self._places())
            locked.refuse_unpinned(self._context, self._lock)
            self.refuse_hidden(pids)

    def warm(self, pids: Sequence[int]) -> None:
        """Read the files that will be loaded into the page cache while these processes still serve."""
        arguments = self._context.arguments
        if arguments.no_warm or arguments.no_launch or arguments.clear_cache:
            return
        from ..models.lockfile import Lock
        from ..operations import warm

        warm.warm(self._context, (self._lock if self.locked else None) or Lock(), pids)

    def rehearse(self) -> None:
        """Write everything that the switch needs, and try its renames.

        Raises LauncherError (74).
        """
        if self._survey:
            from ..models import pull

            self._survey = pull.rehearse(self._survey, self._context.settings.app_dir)

    def close(self) -> None:
        """Remove unused rehearsal files, and let other pulls continue."""
        if self._survey and not self._settled:
            from ..models import pull

            pull.abandon(self._survey, self._context.settings.app_dir)
            self._survey = None
        self._held.close()

    def apply(self, changed: bool) -> bool:  # noqa: ARG002
        """Switch to the fetched commits, after our instances are stopped; return whether anything changed.

        Raises LauncherError (74).
        """
        switched = False
        try:
            if self._survey and self._memories:
                from ..models import pull, verified

                self._settled = True
                try:
                    pull.settle(
                        self._survey, self._context.settings.app_dir, self._memories, pin=self._pin, keep=self._keep()
                    )
                finally:
                    verified.save(self._context.settings.app_dir, self._memories, self._context.console.detail)
                switched = True
            elif self._unfinished:
                from ..operations import pull as pulling

                pulling.recover(self._context, self._unfinished)
                switched = True
        finally:
            self._held.close()
        return switched

    def _keep(self) -> Collection[str]:
        """Return the folders in which replaced files stay until the new instance is ready."""
        from ..operations import pull as pulling

        return pulling.kept_folders(self._context.settings.app_dir)

    def command(self, command: Command) -> Command:
        """Return the command with the models in its environment; a locked app sees only these.

        Raises LauncherError if a pinned model was removed meanwhile: 74 by this launch itself, else 75.
        """
        if self._view:
            from ..models import locked_view

            self._refuse_lost(self._view)
            locked_view.forget_others(self._context.settings.app_dir, self._context.settings.port, self._view)
        return self.expected(command)

    def expected(self, command: Command) -> Command:
        """Return the command with the models as they are now."""
        added: Mapping[str, str] = {}
        if self._view:
            from ..models import locked_view

            added = locked_view.environment(self._view, command.environment)
            self.models = self.loadable = self._seen()
        else:
            paths = folders(command.environment, self._context.settings.app_dir)
            self.models = versions.current(paths, self._context.settings.app_dir, self.lock)
            self.loadable = self.models if self.lock is None else versions.loadable(paths, self.models)
        told = {versions.VARIABLE: versions.variable(self.models)}
        line = versions.shown(self.models, locked=self.locked) or self._counted()
        told |= {versions.TEXT_VARIABLE: line} if line else {}
        inherited = {name: value for name, value in command.environment.items() if name != versions.TEXT_VARIABLE}
        return command._replace(environment={**inherited, **told, **added})

    def tell(self, environment: Mapping[str, str]) -> None:
        """Write to the log the models of the start, and the third party that the app will send a token to."""
        say = self._context.console.say
        for line in versions.lines(self.models, locked=self.locked):
            say(line)
        home = str(hf_home(environment, self._context.settings.app_dir))
        url = endpoints.sends_token(environment, home)
        if url:
            self._context.console.warn(f"token: the app will send your token to {url}, which is not the official Hub")
            self._context.console.warn(
                "hint: HF_HUB_DISABLE_IMPLICIT_TOKEN=1 in .env keeps it here; HF_TOKEN_FOR_MIRROR=1 allows it"
            )

    def lines(self) -> tuple[str, ...]:
        """Return the lines of a dry run."""
        if not self.asked:
            return ()
        if self._context.arguments.force_refresh:
            return ("would pull the newest commit of every model: start_app.py models check compares them",)
        held = [f"would pull {name}: {count} files" for name, count in self._lacking() if count]
        return (*held, "would start locked: HF_HUB_OFFLINE=1, and nothing in the cache but what models.lock pins")

    def _counted(self) -> str:
        """Return how many weights files the app's own folders have, where no model is known by its repo."""
        count = len(self.stamps())
        return f"{text.count(count, 'weights file')}{' (locked)' if self.locked else ''}" if count else ""

    def stamps(self) -> Mapping[str, str]:
        """Return the fingerprints of the weights that the app may load, so that `status` can show later changes."""
        own = versions.own_folders(self._context.settings, self._lock or ())
        if not own:
            return {}
        from ..instances.record import WEIGHTS
        from ..models import weights

        return weights.stamps(self._context.settings.app_dir, own, WEIGHTS)

    def document(self) -> Sequence[Mapping[str, Any]]:
        """Return the models for `--json`."""
        return [{"repo": model.repo, "revision": model.revision, "commit": model.commit} for model in self.models]

    def _in_place(self) -> bool:
        """Return whether the disk matches the lock, without reading the files."""
        if not self.locked or state.listed(self._context.settings.app_dir, JOURNAL):
            return False
        from ..cache.names import PIN
        from ..models import placement, verified

        memories = verified.load(self._context.settings.app_dir)
        for model, place in self._places():
            if not self._verified:
                held = placement.held(place.base(model.commit), model.files, memories.of(place))
                if held.lacking or held.unread:
                    return False
            if os.path.islink(place.path):
                return False
            if place.root is None:
                if not self._is_noted(model, place.path):
                    return False
            elif placement.commit_of(place, model.revision) != model.commit or placement.named_by(place, PIN) not in {
                m.commit for m in self._lock or () if m.repo == model.repo
            }:
                return False
        return True

    def _is_noted(self, model: LockedModel, folder: str) -> bool:
        """Return whether a folder of the app's was switched to this commit: its last note proves the whole switch."""
        from ..models import placement

        noted = (placement.noted_of(folder, path) for path in model.files)
        return all(note is not None and note.commit == model.commit for note in noted)

    def _places(self) -> tuple[Placed, ...]:
        """Return the placement of each locked model; it is searched once, unless something was pulled since."""
        from ..models import placement

        if not self._placed:
            self._roots = roots(self._context.settings, self._context.environment)
            self._placed = placement.placed(self._lock or (), self._roots, self._context.settings.app_dir)
        return self._placed

    def _shown(self) -> tuple[Placed, ...]:
        return tuple(placed for placed in self._places() if placed.place.root)

    def _seen(self) -> tuple[Current, ...]:
        """Return the models of a locked launch: its view shows exactly the lock, so no ref is read."""
        from ..models.lockfile import Lock

        own = Lock(model for model in self._lock or () if model.local_dir)
        models = [Current(m.repo, m.revision, m.commit, place.path) for m, place in self._shown()]
        return versions.in_order((*models, *versions.current((), self._context.settings.app_dir, own)))

    def _refuse_lost(self, view: Path) -> None:
        """Refuse a model that the app cannot load: it may have been removed after its view was made."""
        from ..cache.memory import Memory
        from ..models import locked_view, placement

        removed = self._context.arguments.remove_model or self._context.arguments.prune_cache
        for model, place in self._places():
            lost = locked_view.lost(view, model) if place.root else None
            if removed and not lost:
                lost = next(iter(placement.held(place.base(model.commit), model.files, Memory()).lacking), None)
            if lost:
                raise LauncherError(
                    f"{model.name} @ {model.commit[:7]} was pinned, and {lost} is gone from the disk",
                    "start_app.py --locked pulls it again",
                    ExitStatus.IO if removed else ExitStatus.RETRY,
                )

    def _lacking(self) -> list[tuple[str, int]]:
        from ..cache.memory import Memory
        from ..models import placement

        counts = []
        for model, place in self._places():
            held = placement.held(place.base(model.commit), model.files, Memory())
            counts.append((f"{model.name} @ {model.commit[:7]}", len(held.lacking)))
        return counts


def _of_the_disk(error: LauncherError, changed: Sequence[str]) -> LauncherError:
    """Return the error of a pull; if a pinned file has changed and no hub can repair it, that is the error."""
    if not changed or error.status != ExitStatus.RETRY:
        return error
    told = f"not what models.lock pins: {text.some(changed, 5)}; nothing was stopped; {error.message}"
    return LauncherError(told, error.hint, ExitStatus.DAMAGED)
