"""Identify a process by facts that psutil does not report, read directly from Linux's /proc.

- psutil splits a process title into words, so the raw argument list is read here.
- psutil before 7.1 derives the start from the clock, which can change; the start in ticks since boot never does.
- psutil drops the ` (deleted)` of a removed current folder.
- psutil does not report ignored signals, the start of threads, and the pid in a process's own namespace.
- psutil signals by pid, which another process can receive; a pidfd always means the same process.

On systems without /proc, psutil is used.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator

LINUX = sys.platform.startswith("linux")
DELETED = " (deleted)"
_BLOCK = 1 << 17


def pids() -> Iterator[int]:
    """Yield every visible pid."""
    if LINUX:
        yield from (int(name) for name in os.listdir("/proc") if name.isdigit())
    else:
        import psutil

        yield from psutil.pids()


def command_lines() -> Iterator[tuple[int, bytes]]:
    """Yield every visible process with a command line, as NUL-terminated bytes: the cheapest possible scan."""
    for pid in pids():
        line = _command_line(pid)
        if line:
            yield pid, line


def words(line: bytes) -> tuple[str, ...]:
    """Return the arguments of a NUL-terminated command line."""
    return tuple(os.fsdecode(word) for word in line.removesuffix(b"\0").split(b"\0")) if line else ()


def arguments(pid: int) -> tuple[str, ...]:
    """Return a process's argument list; empty if it has none or it cannot be read."""
    return words(_command_line(pid))


def start_of(pid: int) -> float | None:
    """Return the start of a process, or None if it has ended; a zombie still has one.

    In clock ticks since boot (proc_pid_stat(5), field 22), elsewhere in seconds since 1970.
    """
    if not LINUX:
        import psutil

        try:
            return float(psutil.Process(pid).create_time())
        except psutil.Error:
            return None
    try:
        return float(_stat(f"/proc/{pid}/stat")[19])
    except (OSError, ValueError, IndexError):
        return None


def age(start: float) -> float:
    """Return the seconds since a start in the unit of `start_of`."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME) - start / os.sysconf("SC_CLK_TCK") if LINUX else time.time() - start
    return max(0.0, now)


def owner_of(pid: int) -> int | None:
    """Return the user that a process belongs to, without psutil."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def executable(pid: int) -> str | None:
    """Return the path of a process's executable as seen from here, None if it is hidden."""
    if not LINUX:
        import psutil

        try:
            return str(psutil.Process(pid).exe()) or None
        except psutil.Error:
            return None
    try:
        return os.readlink(f"/proc/{pid}/exe").removesuffix(DELETED)
    except OSError:
        return None


def own_namespace() -> tuple[str, str]:
    """Return the boot and the pid namespace in which this process's pid and start are valid.

    Both are blank if they cannot be read (macOS, a unit with ProcSubset=pid): a record from there proves nothing.
    """
    try:
        boot_id = _read("/proc/sys/kernel/random/boot_id").decode().strip()
        return boot_id, os.readlink("/proc/self/ns/pid")
    except OSError:
        return "", ""


def namespace_depth(pid: int) -> int:
    """Return the number of pid namespaces of a process as seen from here, NSpid of proc_pid_status(5); 0 if unknown."""
    try:
        fields = _read(f"/proc/{pid}/status").split(b"\n")
    except OSError:
        return 0
    return next((len(field.split()) - 1 for field in fields if field.startswith(b"NSpid:")), 0)


def network(pid: int | None = None) -> str:
    """Return the network namespace of a process, of this one by default; blank if it cannot be read."""
    try:
        return os.readlink(f"/proc/{pid or 'self'}/ns/net")
    except OSError:
        return ""


def current_folder(pid: int) -> str | None:
    """Return a process's current folder as seen from here, with ` (deleted)` if it was deleted."""
    if not LINUX:
        import psutil

        try:
            return str(psutil.Process(pid).cwd())
        except psutil.Error:
            return None
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return None


def pidfd(pid: int) -> int | None:
    """Return a pidfd, or None if Python or the kernel has none, or no descriptor is free.

    Raises ProcessLookupError if the process does not exist.
    """
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except (AttributeError, OSError):
        return None


def ignores_interrupts(pid: int) -> bool:
    """Return whether a process ignores both SIGINT and SIGQUIT, as a script's background jobs (`&`) do (POSIX).

    psutil does not report this; see proc_pid_status(5).
    """
    try:
        status = _read(f"/proc/{pid}/status")
        ignored = int(status.partition(b"\nSigIgn:")[2].split(None, 1)[0], 16)
    except (OSError, ValueError, IndexError):
        return False
    return all(ignored >> (number - 1) & 1 for number in (signal.SIGINT, signal.SIGQUIT))


def ran_since(pid: int) -> float | None:
    """Return the start of the oldest additional thread of a process, None without one.

    In the unit of its own start. An exec ends all threads except one (execve(2)), and the kernel does not report its
    time.
    """
    starts = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            if int(thread) != pid:
                starts.append(float(_stat(f"/proc/{pid}/task/{thread}/stat")[19]))
    except (OSError, ValueError, IndexError):
        pass  # a thread has ended since, or there is no /proc: the threads that were read are enough
    return min(starts, default=None)


def marked(variable: str) -> Iterator[tuple[int, str]]:
    """Yield every process that has this variable in its environment, with its value: the cheapest possible scan."""
    name = f"\0{variable}=".encode()
    for pid in pids() if LINUX else ():
        try:
            environment = b"\0" + _read(f"/proc/{pid}/environ")
        except OSError:
            continue
        position = environment.find(name)
        if position >= 0:
            yield pid, os.fsdecode(environment[position + len(name) :].partition(b"\0")[0])


def innermost_pid(pid: int) -> tuple[str, int]:
    """Return the number of a process's own pid namespace, and its pid there (proc_pid_status(5), NSpid)."""
    try:
        namespace = os.readlink(f"/proc/{pid}/ns/pid").removeprefix("pid:[").removesuffix("]")
        status = _read(f"/proc/{pid}/status")
        return namespace, int(status.partition(b"\nNSpid:")[2].split(b"\n", 1)[0].split()[-1])
    except (OSError, ValueError, IndexError):
        return "", pid


def ticks_now() -> float:
    """Return the current time in the unit of a process's start."""
    if not LINUX:
        return time.time()
    return time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")


def all_threads_ended(pid: int) -> bool:
    """Return whether all threads of a zombie have ended: its main thread can end before the others.

    A debugger can keep the threads of a killed process as zombies, and its pidfd never becomes readable (ptrace(2)).
    """
    if not LINUX:
        return True
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return True
    for thread in threads:
        try:
            if _stat(f"/proc/{pid}/task/{thread}/stat")[0] not in (b"Z", b"X"):
                return False
        except (OSError, IndexError):
            continue  # it has ended since
    return True


def _command_line(pid: int) -> bytes:
    if not LINUX:
        import psutil

        try:
            return b"\0".join(os.fsencode(word) for word in psutil.Process(pid).cmdline() or ())
        except psutil.Error:
            return b""
    try:
        return _read(f"/proc/{pid}/cmdline")
    except OSError:
        return b""


def _stat(path: str) -> list[bytes]:
    # The name in parentheses may contain blanks and parentheses: proc_pid_stat(5).
    return _read(path).rpartition(b")")[2].split()


def _read(path: str) -> bytes:
    """Return the whole content of a file in /proc, which does not report its size."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        blocks = []
        while block := os.read(descriptor, _BLOCK):
            blocks.append(block)
            if len(block) < 1 << 12:
                break
        return b"".join(blocks)
    finally:
        os.close(descriptor)
