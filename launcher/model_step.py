"""The models as a step of a launch: pulled and verified while the old instance serves, and switched when it is gone.

A plain launch only reads which commit each model is, and tells the app and the log. A locked one makes the disk match
`models.lock` first and shows the app nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import state
from .cache.roots import folders, hf_home, roots
from .errors import ExitStatus, LauncherError
from .models import current, endpoints
from .models.current import Current
from .settings import Settings, app_environment

if TYPE_CHECKING:
    from .console import Console
    from .handoff.command import Command
    from .models.disk import Memories
    from .models.lockfile import Lock
    from .models.pull import Survey
    from .options import Arguments


class ModelStep:
    """Hold what a launch does about models: check what it may, fetch what is lacking, settle it, and tell of it."""

    def __init__(self, arguments: Arguments, settings: Settings, environ: Mapping[str, str], console: Console) -> None:
        self._arguments = arguments
        self._settings = settings
        self._environ = environ
        self._console = console
        self._lock: Lock | None = None
        self._survey: Survey | None = None
        self._memories: Memories | None = None
        self._pin = False
        self._read = False
        self.models: tuple[Current, ...] = ()
        self.locked = settings.locked

    @property
    def asked(self) -> bool:
        """Tell whether anything must be on the disk that may not be there."""
        return self.locked or self._arguments.force_refresh

    @property
    def lock(self) -> Lock | None:
        """Return what `models.lock` pins, None where there is none."""
        if not self._read:
            from .models import lockfile

            path = lockfile.path_of(self._settings.app_dir)
            self._lock = lockfile.read(self._settings.app_dir) if path.exists() or path.is_symlink() else None
            self._read = True
        return self._lock

    def check(self) -> None:
        """Refuse what cannot be, before anything is stopped or fetched.

        Raises LauncherError: 78 for a lock that is missing or nonsense, 2 or 78 for what would remove pinned models.
        """
        if not self.asked:
            return
        lock = self.lock
        if not self.locked:
            return
        origin = self._settings.origins["APP_LOCKED"]
        if lock is None or not lock:
            raise LauncherError(
                f"there is no models.lock in {self._settings.app_dir} to keep to (APP_LOCKED, {origin.origin})",
                "start_app.py models lock REPO makes one",
                origin.bad,
            )
        if self._arguments.clear_cache or self._arguments.force_refresh:
            flag = "--clear-cache" if self._arguments.clear_cache else "--force-refresh"
            raise LauncherError(
                f"{flag} and APP_LOCKED ({origin.origin}) exclude each other",
                f"APP_LOCKED=0 start_app.py {flag}",
                ExitStatus.USAGE,
            )
        if self._arguments.remove_model:
            from .cache import select
            from .models import names

            folders_ = tuple(names.folder(one.repo) for one in lock if not one.local_dir)
            for target in self._arguments.remove_model:
                if select.matching((target.partition("@")[0],), folders_):
                    raise LauncherError(
                        f"{target} is pinned by models.lock",
                        f"start_app.py models lock --remove {target.partition('@')[0]}",
                        ExitStatus.USAGE,
                    )

    def fetch(self) -> None:
        """Have everything on the disk and verified that is to be there; nothing moves yet.

        Raises LauncherError as a pull does.
        """
        from . import model_memory, pulling

        context = pulling.Context(self._settings, self._environ)
        with pulling.pull_lock(context):
            models, self._pin = pulling.wanted(context, self._console, newest=self._arguments.force_refresh)
            self._memories = model_memory.load(self._settings.app_dir)
            try:
                self._survey = pulling.survey(models, context, self._memories, self._console)
                pulling.fetch(self._survey, context, self._memories, self._console)
            finally:
                model_memory.save(self._settings.app_dir, self._memories, self._console.detail)

    def settle(self) -> None:
        """Switch to what was fetched, now that nothing of ours reads it any more.

        Raises LauncherError (74).
        """
        if state.listed(self._settings.app_dir, "switch-"):
            from . import pulling

            pulling.recover(pulling.Context(self._settings, self._environ), self._console)
        if self._survey and self._memories:
            from . import model_memory
            from .models import pull

            try:
                pull.settle(self._survey, self._settings.app_dir, self._memories, pin=self._pin)
            finally:
                model_memory.save(self._settings.app_dir, self._memories, self._console.detail)

    def command(self, command: Command) -> Command:
        """Return the command with what the app is told of its models; a locked one sees only these.

        Raises LauncherError (74) when the view of the cache cannot be made.
        """
        paths = folders(command.environment, self._settings.app_dir)
        self.models = current.current(paths, self._settings.app_dir, self.lock)
        added: dict[str, str] = {current.VARIABLE: current.variable(self.models)}
        if self.locked:
            added.update(self._view(command.environment))
        return command._replace(environment={**command.environment, **added})

    def tell(self, say: Callable[[str], None], environment: Mapping[str, str]) -> None:
        """Tell the log which models the app starts with, and whom the app will send a token."""
        for line in current.lines(self.models, locked=self.locked):
            say(line)
        home = str(hf_home(environment, self._settings.app_dir))
        url = endpoints.sends_token(environment, home)
        if url:
            self._console.warn(f"token: the app will send your token to {url}, which is not the official Hub")
            self._console.warn(
                "hint: HF_HUB_DISABLE_IMPLICIT_TOKEN=1 in .env keeps it here, HF_TOKEN_FOR_MIRROR=1 lets it go"
            )

    def lines(self) -> tuple[str, ...]:
        """Return what a dry run tells of it."""
        if not self.asked:
            return ()
        if self._arguments.force_refresh:
            return ("would pull the newest commit of every model: start_app.py models check compares them",)
        held = [f"would pull {name}: {count} files" for name, count in self._lacking() if count]
        return (*held, "would start locked: HF_HUB_OFFLINE=1, and nothing in the cache but what models.lock pins")

    def document(self) -> Sequence[Mapping[str, Any]]:
        """Return the models for `--json`."""
        return [{"repo": one.repo, "revision": one.revision, "commit": one.commit} for one in self.models]

    def in_place(self) -> bool:
        """Tell whether the disk is known to match the lock, by a look at each file and no more."""
        if not self.locked or state.listed(self._settings.app_dir, "switch-"):
            return False
        from . import model_memory
        from .models import disk

        memories = model_memory.load(self._settings.app_dir)
        present = roots(self._settings, app_environment(self._settings, self._environ))
        for model in self.lock or ():
            place = disk.place_of(model, present, self._settings.app_dir)
            held = disk.held(place.base(model.commit), model.files, memories.of(place))
            if held.lacking or held.unread:
                return False
            if place.root and disk.commit_of(place, model.revision) != model.commit:
                return False
        return True

    def _lacking(self) -> list[tuple[str, int]]:
        from .cache.memory import Memory
        from .models import disk

        present = roots(self._settings, app_environment(self._settings, self._environ))
        found = []
        for model in self.lock or ():
            place = disk.place_of(model, present, self._settings.app_dir)
            held = disk.held(place.base(model.commit), model.files, Memory())
            found.append((f"{model.name} @ {model.commit[:7]}", len(held.lacking)))
        return found

    def _view(self, environment: Mapping[str, str]) -> Mapping[str, str]:
        from .models import disk, view

        present = roots(self._settings, app_environment(self._settings, self._environ))
        shown = [
            view.Shown(model, disk.place_of(model, present, self._settings.app_dir))
            for model in self.lock or ()
            if not model.local_dir
        ]
        try:
            path = view.make(self._settings.app_dir, shown)
        except OSError as error:
            raise LauncherError(
                f"cannot make a view of the locked models: {(error.strerror or str(error)).lower()}",
                f"df -h {self._settings.app_dir}",
                ExitStatus.IO,
            ) from error
        view.forget_others(self._settings.app_dir, (path,))
        return view.environment(Path(path), environment)
