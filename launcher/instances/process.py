"""What can be seen of a process, read through its own eyes where a path is concerned.

A container's `/app/webui.py` is another file than ours of the same name, so paths are looked up under the process's
own root and current folder, link by link: the kernel would follow an absolute link into *our* root.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from .match import ScriptArgument

if TYPE_CHECKING:
    import psutil

T = TypeVar("T")
LINUX = sys.platform.startswith("linux")
_MAX_LINKS = 40  # as in the kernel, path_resolution(7)
_DELETED = " (deleted)"


class Process(NamedTuple):
    """Hold one process as it was seen: `pid` and `start` (clock ticks since boot) name it for ever.

    `uid` is None when the real, effective and saved user differ or cannot be read. `exe` is None where it is hidden.
    """

    pid: int
    ppid: int
    start: float
    uid: int | None
    name: str
    state: str
    argv: tuple[str, ...]
    exe: str | None

    @property
    def gone(self) -> bool:
        """Tell whether it is a zombie: dead, and only waiting for its parent to notice."""
        return self.state in ("Z", "X", "zombie", "dead")

    @property
    def age(self) -> float:
        """Return the seconds since its start."""
        if LINUX:
            return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - self.start / os.sysconf("SC_CLK_TCK"))
        return max(0.0, time.time() - self.start)


class FileIdentity(NamedTuple):
    """Hold which file a script is, and in which folder: a hard-linked copy of a checkout is another checkout."""

    file: tuple[int, int]
    folder: tuple[int, int]


def look(pid: int) -> Process | None:
    """Return the process as it is now, or None when it is gone or cannot be seen at all."""
    return _look_linux(pid) if LINUX else _look_psutil(pid)


def pids() -> Iterator[int]:
    """Yield every visible pid."""
    if LINUX:
        yield from (int(name) for name in os.listdir("/proc") if name.isdigit())
    else:
        import psutil

        yield from psutil.pids()


def command_lines() -> Iterator[tuple[int, bytes]]:
    """Yield every visible process that has a command line, as NUL-terminated bytes; the cheapest look there is."""
    for pid in pids():
        if LINUX:
            try:
                descriptor = os.open(f"/proc/{pid}/cmdline", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                line = os.read(descriptor, 1 << 17)
            except OSError:
                continue
            finally:
                os.close(descriptor)
        else:
            process = _look_psutil(pid)
            line = b"\0".join(os.fsencode(word) for word in process.argv) if process else b""
        if line:
            yield pid, line


def environment(pid: int) -> Mapping[str, str]:
    """Return a process's environment as it was at its exec; empty where it cannot be read."""
    if not LINUX:
        return _ask_psutil(pid, lambda process: process.environ()) or {}
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    return {name: value for name, _, value in (os.fsdecode(item).partition("=") for item in data.split(b"\0")) if name}


def cgroup(pid: int) -> str:
    """Return the text of proc_pid_cgroup(5), blank where there is none."""
    try:
        return Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""


def current_folder(pid: int) -> str | None:
    """Return a process's current folder as the kernel names it from here."""
    if not LINUX:
        return _ask_psutil(pid, lambda process: process.cwd())
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return None


def own_file(path: str) -> FileIdentity | None:
    """Return the identity of a file by our own eyes, links resolved."""
    real = os.path.realpath(path)
    try:
        file, folder = os.stat(real), os.stat(os.path.dirname(real))
    except OSError:
        return None
    return FileIdentity((file.st_dev, file.st_ino), (folder.st_dev, folder.st_ino))


def files_run(pid: int, argument: ScriptArgument) -> tuple[FileIdentity, ...]:
    """Return the files that a process's script argument can mean, by that process's own eyes.

    Raises PermissionError when its folder may not be looked at.
    """
    return _files_in(pid, argument, argument.folders(environment(pid) if argument.kind == "module" else {}))


def _files_in(pid: int, argument: ScriptArgument, folders: Iterable[str]) -> tuple[FileIdentity, ...]:
    # Of a module, the first folder that has it counts, and in that a package goes before a file.
    for folder in folders:
        paths = [os.path.join(folder, path) for path in argument.paths()]
        found = {path: there for path in paths if (there := _look_up(pid, path) or _in_replaced_folder(pid, path))}
        if argument.kind == "script":
            return tuple(found.values())
        package, module, main = paths
        if found:
            return tuple(found[path] for path in ((main,) if package in found else (module, main)) if path in found)
    return ()


def contradicted(pid: int, argument: ScriptArgument, identity: FileIdentity) -> bool:
    """Tell whether the folder that a process was started in, by its `PWD`, names another file of the same name.

    A process that changed its folder since would otherwise be taken for the app of the folder it went to.
    """
    variables = environment(pid)
    folder = variables.get("PWD", "")
    if not os.path.isabs(folder) or os.path.isabs(argument.text):
        return False
    folders = argument.folders(variables if argument.kind == "module" else {})
    others = _files_in(pid, argument, [os.path.join(folder, one) for one in folders])
    return bool(others) and identity not in others


def same_mount_namespace(pid: int) -> bool:
    """Tell whether a process surely sees the same file systems under the same names as we do."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt") and os.path.samestat(
            os.stat(f"/proc/{pid}/root"), os.stat("/")
        )
    except OSError:
        return not LINUX


def _look_linux(pid: int) -> Process | None:
    try:
        stat_line = read(f"/proc/{pid}/stat")
        status = read(f"/proc/{pid}/status")
        argv = read(f"/proc/{pid}/cmdline")
    except OSError:
        return None
    name = stat_line[stat_line.index(b"(") + 1 : stat_line.rindex(b")")]
    after = stat_line[stat_line.rindex(b")") + 2 :].split()
    uids = status[status.index(b"\nUid:") :].split(b"\n", 2)[1].split()[1:4]
    try:
        exe = os.readlink(f"/proc/{pid}/exe").removesuffix(_DELETED)
    except OSError:
        exe = None
    return Process(
        pid=pid,
        ppid=int(after[1]),
        start=float(after[19]),
        uid=int(uids[0]) if len(set(uids)) == 1 else None,
        name=os.fsdecode(name),
        state=after[0].decode(),
        argv=tuple(os.fsdecode(word) for word in argv.removesuffix(b"\0").split(b"\0")) if argv else (),
        exe=exe,
    )


def _ask_psutil(pid: int, question: Callable[[psutil.Process], T]) -> T | None:
    import psutil

    try:
        return question(psutil.Process(pid))
    except (psutil.Error, OSError):
        return None


def _look_psutil(pid: int) -> Process | None:
    import psutil

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            uids = process.uids()
            return Process(
                pid=pid,
                ppid=process.ppid(),
                start=process.create_time(),
                uid=uids.real if uids.real == uids.effective == uids.saved else None,
                name=process.name(),
                state=process.status(),
                argv=tuple(process.cmdline() or ()),
                exe=process.exe(),
            )
    except psutil.AccessDenied:
        return Process(pid, process.ppid(), process.create_time(), None, process.name(), "?", (), None)
    except psutil.Error:
        return None


def read(path: str) -> bytes:
    """Return the whole of a file in /proc, whose size is not known beforehand."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        blocks = []
        while block := os.read(descriptor, 1 << 17):
            blocks.append(block)
            if len(block) < 1 << 12:
                break
        return b"".join(blocks)
    finally:
        os.close(descriptor)


def _look_up(pid: int, path: str) -> FileIdentity | None:
    if not LINUX:
        folder = current_folder(pid)
        return own_file(os.path.join(folder, path)) if folder else None
    root = f"/proc/{pid}/root"
    try:
        final = _resolve(root, root if path.startswith("/") else f"/proc/{pid}/cwd", path)
        file, folder_stat = os.stat(final), os.stat(os.path.dirname(final))
    except PermissionError:
        raise
    except OSError:
        return None
    return FileIdentity((file.st_dev, file.st_ino), (folder_stat.st_dev, folder_stat.st_ino))


def _resolve(root: str, start: str, path: str) -> str:
    # path_resolution(7) within another process's root: what os.path.realpath does, and openat2's RESOLVE_IN_ROOT.
    base, below, links = start, list[str](), 0
    pending = path.split("/")[::-1]
    while pending:
        part = pending.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if below:
                below.pop()
            elif base != root and not os.path.samestat(os.stat(base), os.stat(root)):
                base += "/.."
            continue
        here = "/".join((base, *below, part))
        try:
            target = os.readlink(here)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            below.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), here)
        if target.startswith("/"):
            base, below = root, []
        pending.extend(target.split("/")[::-1])
    return "/".join((base, *below))


def _in_replaced_folder(pid: int, path: str) -> FileIdentity | None:
    """Return the file that stands today where a process was started, when its folder was deleted and made anew."""
    folder = current_folder(pid)
    if folder is None or not folder.endswith(_DELETED) or os.path.isabs(path) or not same_mount_namespace(pid):
        return None
    if os.path.lexists(folder):
        return None  # a folder that really has this name
    return own_file(os.path.join(folder.removesuffix(_DELETED), path))
