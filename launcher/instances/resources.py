"""Memory and GPU memory of an instance."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Literal

from ..system.child import output_within
from ..ui.text import whole_number

NVIDIA_SMI_SECONDS = 5.0
# The initial pid namespace has a fixed number: PROC_PID_INIT_INO in linux/include/linux/proc_ns.h.
_INITIAL_NAMESPACE = "pid:[4026531836]"


def memory(pids: Collection[int]) -> int:
    """Return the resident bytes of these processes."""
    import psutil

    total = 0
    for pid in pids:
        try:
            total += psutil.Process(pid).memory_info().rss
        except psutil.Error:
            continue  # it has ended since, or is hidden
    return total


def cpu_seconds(pids: Collection[int]) -> float:
    """Return the processor time that these processes have used."""
    import psutil

    total = 0.0
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def gpu_memory(pids: Collection[int]) -> int | Literal["unknown"] | None:
    """Return the bytes that these processes use on NVIDIA GPUs, None without `nvidia-smi`.

    They are unknown if `nvidia-smi` does not answer, does not report them (WSL: `[N/A]`), or runs in a container, where
    it shows the host's pids or none.
    """
    import shutil

    if shutil.which("nvidia-smi") is None:
        return None
    command = ("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
    output = output_within(command, NVIDIA_SMI_SECONDS)
    if output is None:
        return "unknown"
    # One line for each process and GPU.
    lines = (line.partition(",") for line in output.decode(errors="replace").splitlines())
    used = [(whole_number(pid.strip()), whole_number(amount.strip())) for pid, _, amount in lines]
    own = [amount for pid, amount in used if pid in pids]
    known = [amount for amount in own if amount is not None]
    if len(known) < len(own) or not (own or _sees_all([pid for pid, _ in used if pid is not None])):
        return "unknown"
    return sum(amount << 20 for amount in known)


def _sees_all(pids: Collection[int]) -> bool:
    """Return whether these pids are valid as this process sees them."""
    if pids:
        return all(os.path.exists(f"/proc/{pid}") for pid in pids)
    try:
        return os.readlink("/proc/self/ns/pid") == _INITIAL_NAMESPACE
    except OSError:
        return False
