"""The models of the last good set as a step of its launch: shown by their commits, whatever refs and the lock say.

No hub is asked for models in a cache: their commits are there, or the set cannot be started. Models in folders of the
app's are restored from the files that a switch has kept, and only missing files are pulled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from ..context import Context
from ..errors import ExitStatus, LauncherError
from ..models import lockfile, placement
from ..models.lockfile import Lock, LockedFile, LockedModel
from ..models.placement import ANY_SIZE, Place, Placed
from ..operations.instance import Observed
from ..service.outcomes import LaunchSet, Pinned
from .model_step import ModelStep

if TYPE_CHECKING:
    from ..cache.roots import Root


class GoodModels(ModelStep):
    """Hold the models of the last good set: refs, `.env` and `models.lock` stay as they are."""

    def __init__(self, context: Context, good: LaunchSet) -> None:
        super().__init__(context)
        self._good = good
        self._in_folders = Lock()
        self.locked = bool(good.models)

    @property
    def asked(self) -> bool:
        """Return that nothing is downloaded for its own sake."""
        return False

    def check(self, observe: Callable[[], Observed]) -> None:  # noqa: ARG002
        """Refuse a set whose models are gone.

        Raises LauncherError (75).
        """
        self._in_folders = lockfile.remembered(self._good.folders)
        self._lock = Lock((*(locked_model(one) for one in self._good.models), *self._in_folders))
        lost = next((one for one in self._good.models if not is_there(one)), None)
        if lost:
            raise LauncherError(
                f"{lost.repo} @ {lost.commit[:7]} of the last good set is no longer in {lost.path}",
                "start_app.py starts what the settings name",
                ExitStatus.RETRY,
            )

    def prepare(self) -> None:
        """Bring back what the folders of the app's own had, while the old instance serves."""
        changed = tuple(model for model in self._in_folders if not self._is_in_place(model))
        if changed:
            self._put_back(changed)
        self._show()

    def refuse_hidden(self, pids: Sequence[int]) -> None:
        """Refuse nothing: what runs now is what the set is to take the place of."""

    def foresee(self, pids: Sequence[int]) -> None:
        """Refuse nothing: what differs is brought back."""

    def _put_back(self, models: Sequence[LockedModel]) -> None:
        """Stage the files of these commits: from those that a switch has kept, or else from a hub.

        Raises LauncherError as a pull does.
        """
        from ..models import kept, verified
        from ..models.task import spare_none
        from ..operations import pull as pulling

        context = self._context
        self._held.enter_context(pulling.pull_lock(context))
        pulling.recover(context)
        for model in models:
            kept.gather(context.settings.app_dir, model)
        self._memories = verified.load(context.settings.app_dir)
        try:
            survey = pulling.survey(models, context, self._memories, spare_none)
            self._survey, _ = pulling.fetch(survey, context, self._memories, spare_none)
        finally:
            verified.save(context.settings.app_dir, self._memories, context.console.detail)

    def _keep(self) -> Collection[str]:
        """Return that nothing is kept: the restored files have been used before."""
        return ()

    def _is_in_place(self, model: LockedModel) -> bool:
        folder = str(self._context.settings.app_dir / (model.local_dir or ""))
        return self._is_noted(model, folder)

    def _places(self) -> tuple[Placed, ...]:
        """Return where each model of the set is: just where it was."""
        if not self._placed:
            roots = self._context.roots
            self._roots = roots
            cached = (Placed(locked_model(one), Place(_root(one, roots), one.path)) for one in self._good.models)
            own = (
                Placed(one, placement.place_of(one, roots, self._context.settings.app_dir)) for one in self._in_folders
            )
            self._placed = (*cached, *own)
        return self._placed


def is_there(model: Pinned) -> bool:
    """Return whether a commit is where it was, as far as a look at its folder tells."""
    try:
        return bool(os.listdir(f"{model.path}/snapshots/{model.commit}"))
    except OSError:
        return False


def locked_model(model: Pinned) -> LockedModel:
    """Return a cached model as a lock would have it, with the files that its snapshot has."""
    base = f"{model.path}/snapshots/{model.commit}"
    names = (os.path.relpath(f"{parent}/{name}", base) for parent, _, files in os.walk(base) for name in files)
    files = {name: LockedFile(ANY_SIZE, "") for name in names}
    return LockedModel(model.repo, model.revision, model.commit, None, (), (), files)


def _root(model: Pinned, roots: tuple[Root, ...]) -> Root:
    folder = os.path.dirname(model.path)
    return next((root for root in roots if folder in (root.real, str(root.path))), roots[0])
