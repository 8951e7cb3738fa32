"""Define the input of every command, and its result.

A command asks the context for the parts that it needs; the others are never computed. It returns a Report, which cli
shows once, as text or as JSON.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .config.settings import Settings, app_environment, own_environment
from .errors import ExitStatus, LauncherError
from .models import LOCKFILE

if TYPE_CHECKING:
    from .arguments import Arguments
    from .cache.roots import Root
    from .models.endpoints import Endpoints
    from .models.lockfile import Lock
    from .ui.console import Console
    from .ui.invocation import Invocation


class Report(Protocol):
    """Define a command's result: its exit status, and its answer as lines and as one JSON object.

    `problem` is the refusal, if the report says more than it; `hint` is the command that helps.
    """

    @property
    def status(self) -> int:
        """Return the exit status."""

    @property
    def problem(self) -> LauncherError | None:
        """Return the error to show after the lines."""

    @property
    def hint(self) -> str | None:
        """Return the next step, shown after the lines."""

    def lines(self) -> Iterable[str]:
        """Return the lines for stdout."""

    def document(self) -> Mapping[str, Any] | None:
        """Return the document for `--json`; None prints nothing."""


class Answer(NamedTuple):
    """Hold a plain report: lines and a document from the command."""

    status: int = ExitStatus.DONE
    text: tuple[str, ...] = ()
    data: Mapping[str, Any] | None = None
    hint: str | None = None

    @property
    def problem(self) -> None:
        """Return None: an answer is not a refusal."""
        return None

    def lines(self) -> Iterable[str]:
        """Return the lines for stdout."""
        return self.text

    def document(self) -> Mapping[str, Any] | None:
        """Return the document for `--json`."""
        return self.data


class Context:
    """Hold the input of every command; expensive parts are computed on first use."""

    def __init__(
        self,
        arguments: Arguments,
        settings: Settings,
        environ: Mapping[str, str],
        console: Console,
        show: Callable[[Report], None],
        problems: tuple[LauncherError, ...] = (),
    ) -> None:
        self.arguments = arguments
        self.settings = settings
        self.environ = environ
        self.console = console
        self.show = show
        """Show a report now: for a command that does not return."""
        self.problems = problems
        """What was wrong with the settings: only `doctor` gets that far with any."""

    @property
    def invocation(self) -> Invocation:
        """Return the user's way of calling the launcher."""
        return self.console.invocation

    @property
    def python(self) -> str:
        """Return the launcher's own interpreter."""
        return sys.executable

    @property
    def home(self) -> str | None:
        """Return the user's home folder according to the environment."""
        return self.environ.get("HOME")

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """Return the variables that the app would use."""
        return app_environment(self.settings, self.environ)

    @cached_property
    def own_environment(self) -> Mapping[str, str]:
        """Return the environment of the launcher's own children: another user's `.env` decides nothing there."""
        return own_environment(self.settings, self.environ)

    @cached_property
    def roots(self) -> tuple[Root, ...]:
        """Return the hub caches of the app."""
        from .cache.roots import roots

        return roots(self.settings, self.environment)

    @cached_property
    def endpoints(self) -> Endpoints:
        """Return the hubs that the settings name."""
        from .models import endpoints

        return endpoints.of(self.own_environment)

    @cached_property
    def lockfile(self) -> Lock | None:
        """Return the content of `models.lock`, None without one.

        Raises LauncherError (78) for an invalid file.
        """
        if not os.path.lexists(self.settings.app_dir / LOCKFILE):
            return None  # most apps have no lock, and import nothing for it
        from .models import lockfile

        return lockfile.read(self.settings.app_dir)

    def forget_lockfile(self) -> None:
        """Read `models.lock` again on the next use: another run may have written it."""
        self.__dict__.pop("lockfile", None)

    @property
    def offline(self) -> bool:
        """Return whether the settings forbid requests to hubs."""
        from .models import endpoints

        return endpoints.is_offline(self.own_environment)

    def timeout(self, default: float) -> float:
        """Return the seconds of `--timeout`, or the default."""
        return default if self.arguments.timeout is None else self.arguments.timeout
