"""`APP_PRESTART`: a command that runs while the old instance serves; if it fails, nothing is stopped."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..app.background import told_end
from ..context import Context
from ..errors import REPEAT, ExitStatus, LauncherError, quoted
from ..system import marker
from ..system.signals import Guard

if TYPE_CHECKING:
    import subprocess

    from ..app.command import Command
    from ..operations.instance import Observed

_END_SECONDS = 5.0
_POLL_SECONDS = 0.02


class PrestartStep:
    """Run a check or a download of the user's own in the app's folder and environment by a shell."""

    def __init__(self, context: Context, command: Callable[[], Command]) -> None:
        self._context = context
        self._command = command
        self._setting = None if context.arguments.no_launch else context.settings.form.prestart

    def check(self, observe: Callable[[], Observed]) -> None:  # noqa: ARG002
        """Refuse to run a command from another user's `.env`.

        Raises LauncherError (78).
        """
        setting = self._setting
        if setting and setting.level == "foreign":
            raise LauncherError(
                f"APP_PRESTART ({setting.origin}) is another user's, and is not run for you",
                f"to trust that file: start_app.py --env-file {quoted(self._context.settings.env_file)}{REPEAT}",
            )

    def prepare(self) -> None:
        """Run the command; its output goes to stderr.

        Raises LauncherError (75) if it fails: nothing has been stopped then.
        """
        if self._setting is None:
            return
        console = self._context.console
        line, origin = self._setting.value, self._setting.origin
        console.say(f"running first: {line} ({origin})")
        console.flush()
        status = self._run(line)
        if status:
            raise LauncherError(
                f"APP_PRESTART {told_end(status)}: {line} ({origin})",
                f"cd {quoted(self._context.settings.app_dir)} && {line}",
                ExitStatus.RETRY,
            )

    def _run(self, line: str) -> int:
        # An exception within the call that starts the shell would leave it without anyone who knows it.
        guard = Guard(self._context.console.detail)
        guard.begin()
        try:
            child = self._start(line)
            try:
                guard.interrupt_at_once()
                return child.wait()
            except BaseException:  # a signal ends the command and its children too
                if child.returncode is None:
                    _end(child.pid)
                    child.wait()
                raise
        finally:
            guard.end()

    def _start(self, line: str) -> subprocess.Popen[bytes]:
        import shutil
        import subprocess

        command = self._command()
        environment = {name: value for name, value in command.environment.items() if name != marker.NAME}
        stderr = self._context.console.stderr
        try:
            output = stderr.fileno() if stderr else subprocess.DEVNULL
        except (OSError, ValueError):
            output = subprocess.DEVNULL
        return subprocess.Popen(
            (shutil.which("bash") or "sh", "-c", line),
            env=environment,
            cwd=command.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def rehearse(self) -> None:
        """Do nothing: the command has run."""

    def apply(self, changed: bool) -> bool:  # noqa: ARG002
        """Do nothing to the disk."""
        return False

    def close(self) -> None:
        """Do nothing: nothing was acquired."""

    def lines(self) -> Iterable[str]:
        """Return nothing: the plan itself shows the command."""
        return ()

    def document(self) -> Sequence[Mapping[str, Any]]:
        """Return nothing: the plan itself shows the command."""
        return ()


def _end(pid: int) -> None:
    """End our child, a shell that leads a process group, and whatever it has started.

    The rest of the group is killed when the shell has ended, and before anyone collects it, for until then the number
    is its own: a process that ignores SIGTERM would live on, and so would one that its shell had just forked.
    """
    deadline = time.monotonic() + _END_SECONDS
    try:
        os.killpg(pid, signal.SIGTERM)  # noqa: TID251  # our child, which nobody has collected yet
        while time.monotonic() < deadline and not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            time.sleep(_POLL_SECONDS)
    finally:
        os.killpg(pid, signal.SIGKILL)  # noqa: TID251  # the same
