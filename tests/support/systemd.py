"""A machine with a real systemd in it, booted in namespaces of its own in a fraction of a second and always ended.

It has this machine's files and network, and its own processes, cgroups, /run, /tmp and units. Apps, the launcher and
this environment lie in its /srv.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.apps import ROOT, AppFolder, Done, clean_environment, eventually, make_app

SYSTEMD = Path("/lib/systemd/systemd")
CGROUPS = Path("/sys/fs/cgroup")
# Where the machine has the launcher and this environment: its /tmp is its own, and they may lie in the one out here.
START_APP = "/srv/start_app/start_app.py"
PYTHON = f"/srv/python/bin/{Path(sys.executable).name}"
TARGETS = ("sysinit", "basic", "shutdown", "multi-user", "network-online", "umount", "final", "default")
JOURNAL = ("systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket")

# It runs as pid 1 of the new namespaces, and becomes systemd.
BOOT = r"""
set -e
mount --make-rprivate /
umount -R /sys/fs/cgroup
if [ "$unified" = yes ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
fi
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs tmpfs /var/log
mkdir /run/units /run/lock
mount --bind "$units" /run/units
mount --bind "$srv" /srv
mount --bind "$root" /srv/start_app
mount --bind "$prefix" /srv/python
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /var/tmp
exec env -i "PATH=$PATH" container=start-app-tests SYSTEMD_UNIT_PATH=/run/units \
    /lib/systemd/systemd --system --unit=test.target --show-status=no --log-target=console
"""


@dataclass(frozen=True)
class Machine:
    """Hold a booted machine by the pid that its systemd has out here."""

    pid: int
    folder: Path

    @property
    def inside(self) -> tuple[str, ...]:
        """Return the words that run a command in the machine."""
        return ("nsenter", "-t", str(self.pid), "-m", "-p", "-C", "-u", "-i", "--")

    def run(self, *command: str | Path, check: bool = True, timeout: float = 60) -> Done:
        done = subprocess.run(
            [*self.inside, *(str(word) for word in command)],
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
        )
        result = Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
        assert not check or result.status == 0, (command, result)
        return result

    def launcher(self, *arguments: str | Path, check: bool = False) -> Done:
        return self.run(PYTHON, START_APP, *arguments, check=check)

    def systemctl(self, *arguments: str, check: bool = True) -> Done:
        return self.run("systemctl", "--no-pager", *arguments, check=check)

    def show(self, unit: str, name: str) -> str:
        return self.systemctl("show", "--value", f"--property={name}", unit).out.strip()

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}", check=False).out

    def told(self, unit: str) -> str:
        """Return what there is to know when a test fails."""
        return f"{self.systemctl('status', unit, check=False).out}\n{self.journal(unit)}"

    def app(self, name: str, script: str, env: str = "") -> AppFolder:
        """Make an app that the machine sees as /srv/NAME; a unit gives it a second to be restarted in, not ten."""
        app = make_app(self.folder / "srv" / name, script)
        app.write_env(f"HF_HOME=./cache_hub\nGRADIO_SERVER_PORT={app.port}\n{env}")
        return app

    def install(self, app: AppFolder, *arguments: str, changes: Sequence[str] = ("RestartSec=0.1",)) -> str:
        """Have the launcher print the unit of an app, install what it printed, and return the unit's name."""
        printed = self.launcher("unit", "--json", "--app-dir", f"/srv/{app.path.name}", *arguments, check=True)
        name: str = printed.json["name"]
        self.write_unit(name, printed.json["unit"])
        self.write_unit(f"{name}.d/test.conf", "\n".join(("[Service]", *changes, "")))
        self.systemctl("daemon-reload")
        return name

    def write_unit(self, name: str, text: str) -> None:
        path = self.folder / "units" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, errors="surrogateescape")


def why_not() -> str | None:
    """Return why no systemd can be booted here, or None."""
    if os.geteuid() != 0:
        return "needs root to boot a systemd"
    for program in ("unshare", "nsenter", "systemctl"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if not SYSTEMD.exists():
        return f"{SYSTEMD} is not there"
    if not any((path / "cgroup.procs").exists() for path in _hierarchies()):
        return "no cgroup hierarchy of systemd's is mounted here"
    return None


def boot(folder: Path) -> Iterator[Machine]:
    """Boot a machine, yield it, and end it with everything in it; skip the test where that is impossible."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    units, log = folder / "units", folder / "boot.log"
    for path in (units, folder / "srv" / "start_app", folder / "srv" / "python"):
        path.mkdir(parents=True)
    _write_units(units)
    groups = [path / f"start-app-{os.getpid()}-{folder.name}" for path in _hierarchies()]
    try:
        for group in groups:
            group.mkdir()
    except OSError as error:
        pytest.skip(f"cgroups cannot be made here: {error.strerror}")
    process = _start(folder, groups, log)
    try:
        machine = Machine(_first(process, log), folder)
        state = eventually(
            lambda: machine.run("systemctl", "is-system-running", check=False).out.strip() in ("running", "degraded"),
            what=f"boot: {log.read_text()}",
        )
        assert state
        yield machine
    finally:
        process.kill()  # unshare takes pid 1 with it, and that one every process
        process.wait(10)
        for group in groups:
            eventually(lambda: _removed(group), what=f"empty {group}")  # noqa: B023


def _start(folder: Path, groups: list[Path], log: Path) -> subprocess.Popen[bytes]:
    enter = "".join(f"echo $$ > {group}/cgroup.procs; " for group in groups)
    namespaces = "--mount --pid --fork --kill-child --cgroup --uts --ipc"
    with log.open("wb") as output:
        return subprocess.Popen(
            ("bash", "-c", f'{enter} exec unshare {namespaces} bash -c "$boot"'),
            env={
                "PATH": os.environ["PATH"],
                "boot": BOOT,
                "srv": str(folder / "srv"),
                "root": str(ROOT),
                "prefix": sys.prefix,
                "units": str(folder / "units"),
                "unified": "yes" if _hierarchies() == (CGROUPS,) else "no",
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


def _first(process: subprocess.Popen[bytes], log: Path) -> int:
    """Return the pid of the machine's systemd, once it is no longer the shell that prepared it."""

    def found() -> int:
        assert process.poll() is None, f"no boot: {log.read_text()}"
        with suppress(OSError, IndexError):
            pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
            return pid if Path(f"/proc/{pid}/comm").read_text() == "systemd\n" else 0
        return 0

    return eventually(found, what="systemd")


def _hierarchies() -> tuple[Path, ...]:
    if (CGROUPS / "cgroup.controllers").exists():
        return (CGROUPS,)
    return tuple(path for path in (CGROUPS / "systemd", CGROUPS / "unified") if path.is_dir())


def _removed(group: Path) -> bool:
    for path, _, _ in os.walk(group, topdown=False):
        try:
            os.rmdir(path)
        except OSError:
            return False
    return not group.exists()


def _write_units(units: Path) -> None:
    # Nothing of this machine's own units is started: only a journal, and what every unit is ordered after.
    for name in TARGETS:
        (units / f"{name}.target").write_text(f"[Unit]\nDescription={name}\nDefaultDependencies=no\n")
    wanted = [name for name in JOURNAL if (SYSTEMD.parent / "system" / name).exists()]
    for name in wanted:
        shutil.copy(SYSTEMD.parent / "system" / name, units / name)
    (units / "test.target").write_text(
        f"[Unit]\nDescription=test\nDefaultDependencies=no\nWants={' '.join(wanted)}\nAfter={' '.join(wanted)}\n"
    )
