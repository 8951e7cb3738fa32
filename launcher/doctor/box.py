"""Check the machine: disk space, the folders that are written, GPUs, the container, and what systemd does with it."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from ..context import Context
from ..errors import ExitStatus, quoted
from ..instances.kin import INITS
from ..instances.process import look
from ..service.unit import name_of
from ..system import files, renames, state
from ..system.child import output_within
from ..ui import text
from .finding import Finding, fact, odd, problem, unusable

_FULL_BYTES = 100 << 20
_LOW_BYTES = 5 << 30
_FEW_FILES = 1000
_SECONDS = 1.5
_QUERY = "name,memory.total,memory.used,driver_version"
_BUSY = 0.9
_DEVICES = ("/dev/nvidia0", "/dev/nvidiactl")
_CONTAINER_FILES = ("/.dockerenv", "/run/.containerenv")
_SYSTEMD = "/run/systemd/system"
_ENTRIES_TRIED = 3


def disk(context: Context) -> Iterator[Finding]:
    """Yield the file systems that are full or nearly full: of the app, its caches and temporary files."""
    app_dir = context.settings.app_dir
    roots = [root.real for root in context.roots]
    shown: set[int] = set()
    for path in (*roots, str(app_dir), context.environment.get("TMPDIR", "/tmp")):
        place = files.existing_folder(os.path.abspath(path))
        device = os.stat(place).st_dev
        if device in shown:
            continue
        shown.add(device)
        space, free = os.statvfs(place), files.free_bytes(place)
        hint = "start_app.py cache prune" if path in roots else f"df -h {quoted(place)}"
        if free is not None:
            yield fact("disk", f"{text.size(free)} free for {place}")
            if free < _FULL_BYTES:
                yield problem("disk", f"only {text.size(free)} free for {place}", hint, ExitStatus.IO)
            elif free < _LOW_BYTES:
                yield odd("disk", f"only {text.size(free)} free for {place}", hint)
        if space.f_files and space.f_favail < _FEW_FILES:
            told = f"only {text.count(space.f_favail, 'more file')} can be created in {place}"
            yield problem("disk", told, f"df -i {quoted(place)}", ExitStatus.IO)


def folders(context: Context) -> Iterator[Finding]:
    """Yield the folders in which the app or the launcher cannot write, rename or lock."""
    own = next((str(one) for one in state.folders(context.settings.app_dir) if one.is_dir()), None)
    app_dir = own or str(context.settings.app_dir)
    caches = [root.real for root in context.roots if os.path.lexists(root.real)]
    for folder in dict.fromkeys((app_dir, *caches)):
        try:
            yield from _in_folder(folder)
        except OSError as error:
            error.filename = folder  # a probe is gone
            read_only = folder in caches and (context.offline or error.errno == errno.EROFS)
            finding = unusable("folders", error)
            yield odd("folders", finding.text, finding.hint) if read_only else finding


def _in_folder(folder: str) -> Iterator[Finding]:
    with os.scandir(folder) as entries:
        inside = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    try:
        with renames.probe(folder) as probe:
            for path in [path for path in inside if renames.PREFIX not in path][:_ENTRIES_TRIED]:
                with suppress(FileNotFoundError):
                    probe.leave(path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        told = (
            f"{folder} is in a lower layer of an overlay: its folders cannot be renamed, so removal goes file by file"
        )
        yield odd("folders", told, f"findmnt -T {quoted(folder)}")
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            files.try_lock(file.fileno())
        except OSError as error:
            told = f"{folder} has no flock ({(error.strerror or '').lower()}): two launchers or downloads can collide"
            yield odd("folders", told, f"findmnt -T {quoted(folder)}")


def gpu(context: Context) -> Iterator[Finding]:
    """Yield the GPUs and their memory, and why the app may not see them."""
    visible = context.environment.get("CUDA_VISIBLE_DEVICES", context.environ.get("CUDA_VISIBLE_DEVICES"))
    if visible is not None and visible.strip() in ("", "-1"):
        yield odd(
            "gpu",
            f"CUDA_VISIBLE_DEVICES={visible} hides every GPU from the app",
            "env -u CUDA_VISIBLE_DEVICES start_app.py",
        )
    for device in _DEVICES:
        if os.path.exists(device) and not os.access(device, os.R_OK | os.W_OK):
            yield problem("gpu", f"this user may not use {device}", f"ls -l {quoted(device)}; id", ExitStatus.DENIED)
    present = any(map(os.path.exists, (*_DEVICES, "/proc/driver/nvidia/version")))
    if shutil.which("nvidia-smi", path=context.environment.get("PATH")) is None:
        if present:
            yield odd("gpu", "there is an NVIDIA GPU, but no nvidia-smi: its memory is unknown", "ls -l /dev/nvidia0")
        else:
            yield fact("gpu", "no NVIDIA GPU is visible")
        return
    command = ("nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits")
    output = output_within(command, _SECONDS, environment=context.environment)
    if output is None:
        yield odd("gpu", "nvidia-smi fails or does not answer: the driver may be broken", "nvidia-smi")
        return
    for line in output.decode(errors="replace").splitlines():
        yield from _gpu(line)


def _gpu(line: str) -> Iterator[Finding]:
    fields = [field.strip() for field in line.split(",")]
    if len(fields) < 4:
        return
    name, total, used, driver = fields[-4:]
    most, taken = text.whole_number(total), text.whole_number(used)
    if most is None or taken is None:
        yield fact("gpu", f"{name}, driver {driver}")
        return
    yield fact("gpu", f"{name}, driver {driver}: {text.size(taken << 20)} of {text.size(most << 20)} in use")
    if taken > _BUSY * most > 0:
        told = f"{name}: {text.size(taken << 20)} of {text.size(most << 20)} are in use"
        yield odd("gpu", told, "nvidia-smi; start_app.py status")


def container(context: Context) -> Iterator[Finding]:
    """Yield what a container or a hidden /proc changes."""
    kind = container_of(context.environ)
    first = look(1)
    name = first.name if first else "unknown"
    yield fact("container", f"{kind or 'none'}; pid 1 is {name}")
    if kind and first and name.startswith("python") and first.name not in INITS:
        told = f"pid 1 of this container is {name}, which collects no ended processes and can ignore SIGTERM"
        yield odd("container", told, "docker run --init")
    if not os.path.isdir("/proc/self"):
        yield odd(
            "processes", "there is no /proc: the port shows what runs, and nothing else does", "mount | grep proc"
        )
    elif first is None:
        told = "other processes are hidden (hidepid or ProcSubset=pid): an instance of another user cannot be named"
        yield odd("processes", told, "grep ' /proc ' /proc/self/mounts")


def container_of(environ: Mapping[str, str]) -> str | None:
    """Return the container that this process runs in, None outside of one, as far as that is visible."""
    if environ.get("container"):
        return environ["container"]
    if environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    present = next((path for path in _CONTAINER_FILES if os.path.exists(path)), None)
    if present:
        return "docker" if "docker" in present else "podman"
    with suppress(OSError):
        mounts = Path("/proc/self/mounts").read_text(errors="replace")
        if any(line.split()[1:3] == ["/", "overlay"] for line in mounts.splitlines()):
            return "a root of overlayfs"
    return None


def systemd(context: Context) -> Iterator[Finding]:
    """Yield what systemd knows of the app's unit."""
    if not os.path.isdir(_SYSTEMD):
        yield fact("systemd", "does not run here")
        return
    unit = f"{name_of(context.settings.app_dir)}.service"
    command = ("systemctl", "show", "--property=LoadState,ActiveState,Result,UnitFileState", unit)
    output = output_within(command, _SECONDS)
    if output is None:
        yield odd("systemd", "systemctl does not answer", "systemctl status")
        return
    known = dict(line.partition("=")[::2] for line in output.decode(errors="replace").splitlines())
    if known.get("LoadState") != "loaded":
        yield fact("systemd", f"has no {unit}")
        return
    yield fact("systemd", f"{unit} is {known.get('ActiveState')}, {known.get('UnitFileState')}")
    if known.get("ActiveState") == "failed":
        told = f"{unit} has failed: {known.get('Result')}"
        yield odd("systemd", told, f"systemctl status {quoted(unit)}; journalctl -u {quoted(unit)} -n 50")
    if known.get("UnitFileState") == "disabled":
        yield odd("systemd", f"{unit} does not start at boot", f"systemctl enable {quoted(unit)}")
