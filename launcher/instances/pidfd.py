"""Hold a process by pidfd: checked once, it cannot become another process with the same pid.

Without pidfds in Python or the kernel, pid and start are compared at each act instead.
"""

from __future__ import annotations

import os
import select
import signal
import time

from ..errors import ExitStatus, LauncherError
from .describe import describe
from .process import Process, look
from .proof import pidfd as open_pidfd
from .proof import start_of

_POLL_SECONDS = 0.02
# The pidfd of a zombie that a debugger keeps never becomes readable.
_PIDFD_SECONDS = 0.2


class Handle:
    """Hold one process; `descriptor` is its pidfd, if any."""

    def __init__(self, process: Process, *, pidfd: bool = True) -> None:
        self.process = process
        self.descriptor: int | None = None
        self._ended = False
        if pidfd:
            try:
                self.descriptor = open_pidfd(process.pid)
            except ProcessLookupError:
                self._ended = True
        if start_of(process.pid) != process.start:
            self._ended = True

    def ended(self) -> bool:
        """Return whether the process has ended; a zombie counts as ended."""
        if not self._ended and self.descriptor is not None:
            poller = select.poll()
            poller.register(self.descriptor, select.POLLIN)
            self._ended = bool(poller.poll(0))
        if not self._ended:
            # Without a pidfd this is the only check. With one it detects the zombie that a debugger keeps: see proof.
            vanished = self.descriptor is None and start_of(self.process.pid) != self.process.start
            now = look(self.process.pid)
            self._ended = vanished or (now is not None and now.start == self.process.start and now.gone)
        return self._ended

    def reused(self) -> bool:
        """Return whether another process has the pid now."""
        return self.ended() and start_of(self.process.pid) not in (None, self.process.start)

    def send(self, number: signal.Signals) -> None:
        """Signal the process if it still exists.

        Raises LauncherError if that is not permitted.
        """
        if self.ended():
            return
        try:
            if self.descriptor is not None:
                signal.pidfd_send_signal(self.descriptor, number)
            else:
                _send_checked(self.process, number)
        except ProcessLookupError:
            self._ended = True
        except PermissionError as error:
            raise LauncherError(
                f"not permitted to stop {describe(self.process)}", f"sudo kill {self.process.pid}", ExitStatus.DENIED
            ) from error

    def close(self) -> None:
        """Release the process."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def wait_for_any(handles: list[Handle], seconds: float) -> None:
    """Return as soon as one of these processes ends, or after `seconds`."""
    descriptors = [handle.descriptor for handle in handles if handle.descriptor is not None]
    if len(descriptors) < len(handles):
        seconds = min(seconds, _POLL_SECONDS)
    if not handles:
        return
    if not descriptors:
        time.sleep(max(0.0, seconds))
        return
    poller = select.poll()
    for descriptor in descriptors:
        poller.register(descriptor, select.POLLIN)
    poller.poll(max(1, int(min(seconds, _PIDFD_SECONDS) * 1000)))


def exists(pid: int) -> bool:
    """Return whether a process with this pid exists, visible or hidden."""
    try:
        os.kill(pid, 0)  # signal 0 only checks: kill(2)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _send_checked(process: Process, number: signal.Signals) -> None:
    import psutil

    try:
        checked = psutil.Process(process.pid)
        if start_of(process.pid) != process.start:
            raise ProcessLookupError
        checked.send_signal(number)
    except psutil.NoSuchProcess as error:
        raise ProcessLookupError from error
    except psutil.AccessDenied as error:
        raise PermissionError from error
