"""Ask a program that may never answer: a hanging driver must not hang the launcher."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

_BLOCK = 1 << 16


def output_within(
    command: Sequence[str],
    seconds: float,
    *,
    most: int = 1 << 20,
    environment: Mapping[str, str] | None = None,
    folder: str | None = None,
) -> bytes | None:
    """Return a program's output, or None if it cannot be run, fails, takes longer than `seconds`, or prints too much.

    It gets our environment and folder unless others are given.

    It runs in a process group of its own, which is killed as a whole and not waited for: a process that hangs in a
    driver does not end on SIGKILL either.
    """
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
            cwd=folder,
        )
    except (OSError, ValueError):
        return None
    deadline = time.monotonic() + seconds
    try:
        data = _read(child, deadline, most)
        status = _end(child, deadline) if len(data) < most else None
    finally:
        with suppress(ProcessLookupError, PermissionError):
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)  # noqa: TID251 - its leader is our child, and not yet collected
        if child.poll() is None:
            child.returncode = -signal.SIGKILL  # do not wait for it, and suppress Python's warning
        if child.stdout:
            child.stdout.close()
    return data if status == 0 else None


def _read(child: subprocess.Popen[bytes], deadline: float, most: int) -> bytes:
    assert child.stdout
    data = b""
    poll = select.poll()
    poll.register(child.stdout, select.POLLIN)
    while len(data) < most and poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        block = os.read(child.stdout.fileno(), _BLOCK)
        if not block:
            break
        data += block
    return data


def _end(child: subprocess.Popen[bytes], deadline: float) -> int | None:
    with suppress(subprocess.TimeoutExpired):
        return child.wait(max(0.0, deadline - time.monotonic()))
    return None
