"""What a container's engine gives to a process, without an engine: a root, a pid namespace and a user of its own.

The root is this machine's with a layer above it, so nothing in there changes anything out here; /app is the app's
folder, with the launcher in it as the Dockerfile puts it there, and /models the cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.apps import ROOT, WEBUI, AppFolder, Done, Processes, Running, clean_environment, eventually, make_app

USER = 1000
NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts", "--cgroup")

START = r"""
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$layer"
mkdir "$layer/upper" "$layer/work" "$layer/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$layer/upper,workdir=$layer/work" "$layer/root"
root=$layer/root
mkdir -p "$root/app" "$root/models"
mount --bind "$app" "$root/app"
mount --bind "$models" "$root/models"
[ "$writable" = yes ] || mount -o remount,bind,ro "$root/models"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
for folder in $passed; do chmod o+x "$root$folder"; done
exec chroot --userspec=$user:$user --groups=$user "$root" sh -c 'cd /app && exec "$@"' sh "$@"
"""


@dataclass(frozen=True)
class Image:
    """Hold what containers are started from: an app's folder with the launcher in it, and the shared cache."""

    app: AppFolder
    models: Path
    layer: Path
    processes: Processes

    def environment(self, **changes: str) -> dict[str, str]:
        told = {"HF_HOME": "/models", "GRADIO_SERVER_PORT": str(self.app.port), "HOME": "/app"}
        return clean_environment(PATH=f"{sys.prefix}/bin:{os.environ['PATH']}", **{**told, **changes})

    def start(self, words: Sequence[str], *, writable: bool = True, **environment: str) -> Container:
        python = Path(sys.executable)
        closed = {*python.parents, *python.resolve().parents, *Path(sys.base_prefix).parents}
        given = {
            "layer": str(self.layer),
            "app": str(self.app.path),
            "models": str(self.models),
            "writable": "yes" if writable else "no",
            "passed": " ".join(sorted(str(path) for path in closed)),
            "user": str(USER),
        }
        command = (*NAMESPACES, "bash", "-c", START, "start", *words)
        running = self.processes.start(command, env={**self.environment(**environment), **given})
        return Container(running, self)

    def run(self, words: Sequence[str], *, writable: bool = True, **environment: str) -> Done:
        running = self.start(words, writable=writable, **environment).running
        return Done(running.wait(60), running.out, running.err)


@dataclass(frozen=True)
class Container:
    """Hold a started container by the process that its namespaces hang on."""

    running: Running
    image: Image

    @property
    def first(self) -> int:
        """Return the pid that the container's pid 1 has out here, once it is what was asked for."""

        def found() -> int:
            assert self.running.process.poll() is None, self.running.err
            children = Path(f"/proc/{self.running.pid}/task/{self.running.pid}/children").read_text().split()
            ready = children and Path(f"/proc/{children[0]}/comm").read_text().strip() not in ("unshare", "bash", "sh")
            return int(children[0]) if ready and "chroot" not in _comm(children[0]) else 0

        return eventually(found, what="pid 1")

    def run(self, words: Sequence[str]) -> Done:
        """Run a command in the container, as an engine runs its health check."""
        into = (
            "nsenter",
            "-t",
            str(self.first),
            "-m",
            "-p",
            "-i",
            "-u",
            "-C",
            "-r",
            "-w",
            "-S",
            str(USER),
            "-G",
            str(USER),
        )
        done = subprocess.run((*into, *words), env=self.image.environment(), capture_output=True, text=True, timeout=60)
        return Done(done.returncode, done.stdout, done.stderr)

    def signal(self, number: int) -> None:
        os.kill(self.first, number)


def _comm(pid: str) -> str:
    return Path(f"/proc/{pid}/comm").read_text()


def why_not() -> str | None:
    """Return why no container can be imitated here, or None."""
    if os.geteuid() != 0:
        return "needs root for namespaces"
    if any(shutil.which(program) is None for program in ("unshare", "nsenter", "chroot")):
        return "unshare, nsenter and chroot are not all installed"
    layers = "lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w"
    probe = f"mount -t tmpfs t /mnt && mkdir /mnt/u /mnt/w /mnt/r && mount -t overlay o -o {layers} /mnt/r"
    done = subprocess.run((*NAMESPACES, "sh", "-c", probe), capture_output=True, text=True)
    return f"no overlay in namespaces here: {done.stderr.strip()}" if done.returncode else None


def make_image(tmp_path: Path, processes: Processes, script: str = WEBUI, *, name: str = "app") -> Image:
    """Make what containers are started from, or skip the test where that is impossible.

    Those of another name are another host's: only the cache is the same.
    """
    reason = why_not()
    if reason:
        pytest.skip(reason)
    app = make_app(tmp_path / name, script)
    shutil.copy(ROOT / "start_app.py", app.path)
    shutil.copytree(ROOT / "launcher", app.path / "launcher", ignore=shutil.ignore_patterns("__pycache__"))
    models, layer = tmp_path / "models", tmp_path / f"layer of {name}"
    models.mkdir(exist_ok=True)
    layer.mkdir()
    for path in (app.path, *app.path.rglob("*"), models):
        os.chown(path, USER, USER)
    return Image(app, models, layer, processes)
