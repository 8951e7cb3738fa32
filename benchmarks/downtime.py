"""A restart with weights that are not in memory is down hardly longer than one with warm ones: they are read before."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from pathlib import Path

from .launch import App, temporary_app
from .measure import Claim, Result, Scale, in_turn, running

# It maps its weights, and reads them whole before its port opens, as an app does that loads a model. It reads the file
# and not the mapping: pages that a process has touched in a mapping cannot be dropped.
LOADS = """\
import mmap, os, signal, socket, sys

signal.alarm(900)
kept = []
for name in sorted(os.listdir("checkpoints")):
    descriptor = os.open(f"checkpoints/{name}", os.O_RDONLY)
    kept.append(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))
    while os.read(descriptor, 1 << 20):
        pass
listener = socket.create_server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])))
print("running", flush=True)
while True:
    listener.accept()[0].close()
"""
_FILES = 4
_POLL_SECONDS = 0.002


def downtime(scale: Scale) -> Result:
    """Measure how long nobody listens in a restart with weights that the page cache has dropped, and with warm ones.

    The weights are on a disk: what is in memory cannot be dropped from it.
    """
    claim = Claim(
        f"downtime of a restart, {scale.big_bytes >> 20} MiB of weights not in memory",
        "start_app.py",
        "the same in memory",
        "ratio",
        1.1,
    )
    with temporary_app(LOADS) as app, tempfile.TemporaryDirectory(dir="/var/tmp") as disk:
        (app.folder / "checkpoints").symlink_to(disk)
        for number in range(_FILES):
            Path(disk, f"{number}.safetensors").write_bytes(os.urandom(scale.big_bytes // _FILES))
        os.sync()
        return claim.judge(
            *in_turn(
                scale.slow_repetitions,
                lambda: _down(app, Path(disk), cold=True),
                lambda: _down(app, Path(disk), cold=False),
            )
        )


def _down(app: App, weights: Path, *, cold: bool) -> float:
    with running(app.start, app.folder) as old:
        old.line()
        for path in weights.iterdir():
            descriptor = os.open(path, os.O_RDONLY)
            advice = os.POSIX_FADV_DONTNEED if cold else os.POSIX_FADV_WILLNEED
            os.posix_fadvise(descriptor, 0, 0, advice)
            os.close(descriptor)
        watch = _Watch(app.port)
        with running(app.start_app(), app.folder) as new:
            new.line()
            return watch.down()


class _Watch:
    """Watch a port, and tell for how long nobody listened on it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._gap = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        since = None
        while not self._stop.is_set():
            now = time.perf_counter()
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
            except OSError:
                since = since or now
            else:
                if since:
                    self._gap = now - since
                    return
            time.sleep(_POLL_SECONDS)

    def down(self) -> float:
        """Return the seconds of the first gap."""
        self._thread.join(5)
        self._stop.set()
        return self._gap
