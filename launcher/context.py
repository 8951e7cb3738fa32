"""What every command is given, and what it returns.

A command asks the context for what it needs; the rest is never made. It returns a Report, which cli shows once, as
text or as JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .config.settings import Settings, app_environment, own_environment
from .errors import ExitStatus, LauncherError

if TYPE_CHECKING:
    from .arguments import Arguments
    from .cache.roots import Root
    from .models.endpoints import Endpoints
    from .models.lockfile import Lock
    from .ui.console import Console
    from .ui.invocation import Invocation


class Report(Protocol):
    """What a command returns: its exit status, and what it was asked for as lines and as one JSON object.

    `problem` is why it refuses, where it says more than the refusal; `hint` is the command that helps.
    """

    @property
    def status(self) -> int:
        """Return the exit status."""

    @property
    def problem(self) -> LauncherError | None:
        """Return the error to show after the lines."""

    @property
    def hint(self) -> str | None:
        """Return what to do next, shown after the lines."""

    def lines(self) -> Iterable[str]:
        """Return what a person reads on stdout."""

    def document(self) -> Mapping[str, Any] | None:
        """Return what `--json` prints; None prints nothing."""


class Answer(NamedTuple):
    """The plain report: lines and a document that were made by the command."""

    status: int = ExitStatus.DONE
    text: tuple[str, ...] = ()
    data: Mapping[str, Any] | None = None
    hint: str | None = None

    @property
    def problem(self) -> None:
        """Return None: an answer refuses nothing."""
        return None

    def lines(self) -> Iterable[str]:
        """Return what a person reads on stdout."""
        return self.text

    def document(self) -> Mapping[str, Any] | None:
        """Return what `--json` prints."""
        return self.data


class Context:
    """Hold what every command is given; what costs time is made when it is first asked for."""

    def __init__(
        self,
        arguments: Arguments,
        settings: Settings,
        environ: Mapping[str, str],
        console: Console,
        show: Callable[[Report], None],
    ) -> None:
        self.arguments = arguments
        self.settings = settings
        self.environ = environ
        self.console = console
        self.show = show
        """Show a report now: for a command that does not return."""

    @property
    def invocation(self) -> Invocation:
        """Return how the launcher was called."""
        return self.console.invocation

    @property
    def python(self) -> str:
        """Return the launcher's own interpreter."""
        return sys.executable

    @property
    def home(self) -> str | None:
        """Return the user's home folder as the environment names it."""
        return self.environ.get("HOME")

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """Return the variables that decide what the app would use."""
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
        """Return what `models.lock` pins, None where there is no such file.

        Raises LauncherError (78) for a file that is none.
        """
        from .models import lockfile

        return lockfile.read(self.settings.app_dir)

    def forget_lockfile(self) -> None:
        """Read `models.lock` once more when it is next asked for: another run may have written it."""
        self.__dict__.pop("lockfile", None)

    @property
    def offline(self) -> bool:
        """Return whether the settings say that no hub may be asked."""
        from .models import endpoints

        return endpoints.is_offline(self.own_environment)

    def timeout(self, default: float) -> float:
        """Return the seconds of `--timeout`, or the default."""
        return default if self.arguments.timeout is None else self.arguments.timeout
