"""Memory and GPU memory of an instance."""

from __future__ import annotations

import subprocess

NVIDIA_SMI_SECONDS = 5.0


def memory(pids: tuple[int, ...]) -> int:
    """Return the resident bytes of these processes."""
    import psutil

    total = 0
    for pid in pids:
        try:
            total += psutil.Process(pid).memory_info().rss
        except psutil.Error:
            continue  # gone since, or hidden
    return total


def gpu_memory(pids: tuple[int, ...]) -> int | None:
    """Return the bytes that these processes use on NVIDIA GPUs, or None where `nvidia-smi` cannot tell."""
    command = ("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    total = 0
    for line in result.stdout.splitlines():
        pid, _, used = (part.strip() for part in line.partition(","))
        if pid.isdigit() and int(pid) in pids and used.isdigit():
            total += int(used) * 1024 * 1024
    return total
