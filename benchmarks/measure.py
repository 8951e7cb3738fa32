"""Report a speed only with its alternative: both measured in turn, in one run, on one machine, by their medians.

Absolute times say as much about the machine and its neighbours as about the program; a ratio of neighbours says less.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
START_APP = ROOT / "start_app.py"
# Whatever a launcher, an app or Python itself would listen to. PYTHONDONTWRITEBYTECODE is among it: without .pyc files
# every import is measured as a compilation.
_UNWANTED = ("HF_", "HUGGINGFACE_", "APP_", "GRADIO_", "PYTHON", "VIRTUAL_ENV", "CONDA_", "UV_", "XDG_", "NO_COLOR")

Comparison = Literal["ratio", "difference", "value"]
Unit = Literal["s", "us", "MB", "modules"]
Say = Callable[[str], None]


class BenchmarkError(Exception):
    """Hold why something could not be measured: no number is better than a wrong one."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Hold how much is measured: repetitions of what takes milliseconds, of what takes seconds, and the sizes.

    `repos` is the size of the cache of many repos, `big_bytes` of each of the large files, `huge_files` of the cache
    that is to be listed without much memory, and beside a tenth of it.
    """

    repetitions: int
    slow_repetitions: int
    processes: int
    repos: int
    big_bytes: int
    huge_files: int


FULL = Scale(repetitions=41, slow_repetitions=9, processes=5000, repos=500, big_bytes=512 << 20, huge_files=1_000_000)
QUICK = Scale(repetitions=9, slow_repetitions=3, processes=2000, repos=200, big_bytes=64 << 20, huge_files=40_000)


@dataclass(frozen=True, slots=True)
class Claim:
    """Hold what is claimed: `ours` against `beside`, compared as a ratio, a difference or alone, at most `bar`.

    Without a bar it is not a claim, but a number that helps to understand the other claims.
    """

    name: str
    ours: str
    beside: str
    comparison: Comparison
    bar: float | None
    unit: Unit = "s"

    def judge(self, ours: Sequence[float], beside: Sequence[float]) -> Result:
        """Return the claim with what was measured for it."""
        return Result(self, tuple(ours), tuple(beside))


@dataclass(frozen=True, slots=True)
class Result:
    """Hold a claim with its samples, in the claim's unit."""

    claim: Claim
    ours: tuple[float, ...]
    beside: tuple[float, ...]

    @property
    def median(self) -> float:
        """Return the median of what is claimed."""
        return statistics.median(self.ours)

    @property
    def median_beside(self) -> float:
        """Return the median of the alternative."""
        return statistics.median(self.beside)

    @property
    def value(self) -> float:
        """Return what is held against the bar."""
        if self.claim.comparison == "ratio":
            return self.median / self.median_beside
        return self.median - self.median_beside if self.claim.comparison == "difference" else self.median

    @property
    def passed(self) -> bool:
        """Tell whether the bar is met, if there is one."""
        return self.claim.bar is None or self.value <= self.claim.bar

    def cells(self) -> tuple[str, ...]:
        """Return the result as a row of the table."""
        claim = self.claim
        return (
            claim.name,
            claim.ours,
            _amount(self.median, claim.unit),
            claim.beside,
            _amount(self.median_beside, claim.unit),
            _compared(self.value, claim),
            "–" if claim.bar is None else f"≤ {_compared(claim.bar, claim)}",
            "–" if claim.bar is None else "pass" if self.passed else "NOT PASS",
        )

    def document(self) -> Mapping[str, Any]:
        """Return the result for `--json`."""
        claim = self.claim
        return {
            "claim": claim.name,
            "unit": claim.unit,
            "ours": {"what": claim.ours, "median": self.median, "samples": self.ours},
            "beside": {"what": claim.beside, "median": self.median_beside, "samples": self.beside},
            "comparison": claim.comparison,
            "value": self.value,
            "bar": claim.bar,
            "passed": self.passed,
        }


HEADINGS = ("claim", "measured", "median", "alternative", "median", "result", "bar", "verdict")
NUMBERS = frozenset(("median", "result", "bar"))


def in_turn(repetitions: int, *takes: Callable[[], float]) -> tuple[tuple[float, ...], ...]:
    """Return the samples of each: all once to warm up, then in turn, so that what disturbs the machine hits them all.

    Every other round goes backwards, or each would always run in the wake of the same other one.
    """
    for take in takes:
        take()
    samples: list[list[float]] = [[] for _ in takes]
    for repetition in range(repetitions):
        order = list(zip(takes, samples, strict=True))
        for take, into in order if repetition % 2 == 0 else reversed(order):
            into.append(take())
    return tuple(tuple(one) for one in samples)


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a measured process: this one, without what would change what is measured."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_UNWANTED) and not name.lower().endswith("_proxy")
    }
    return {**kept, "PWD": str(folder)}


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder that is gone afterwards, in memory where that is possible: a disk's moods are not measured."""
    with tempfile.TemporaryDirectory(prefix="start_app_benchmark_", dir=_memory()) as name:
        yield Path(name).resolve()


class Measured:
    """Hold a process in a session of its own, and when it was started."""

    def __init__(
        self,
        command: Sequence[str | Path],
        folder: Path,
        *,
        stdin: int = subprocess.DEVNULL,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.command = [str(word) for word in command]
        self.output = ""
        self.peak = 0.0
        with tempfile.TemporaryFile(dir=_memory()) as errors:
            self._errors = os.dup(errors.fileno())
        whole = {**environment(folder), **(variables or {})}
        self.begun = time.perf_counter()
        self.process = subprocess.Popen(
            self.command,
            cwd=folder,
            env=whole,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )

    @property
    def errors(self) -> str:
        """Return what it has written to stderr."""
        size = os.fstat(self._errors).st_size
        return os.pread(self._errors, size, 0).decode(errors="replace")

    def line(self) -> str:
        """Wait for a line on its stdout and return it.

        Raises BenchmarkError when it ends without one.
        """
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise BenchmarkError(f"{' '.join(self.command)} has printed nothing:\n{self.errors.rstrip()}")
        return line.decode().rstrip("\n")

    def first_line_after(self) -> float:
        """Return the seconds from its start to its first line on stdout."""
        self.line()
        return time.perf_counter() - self.begun

    def end_after(self, expected: int = 0) -> float:
        """Return the seconds from its start to its end, and keep what it prints in `output`, its peak memory in `peak`.

        That is in MB, and by Linux at least what this process held when it started the other: measure from a small one.
        Raises BenchmarkError when its status is not the expected one: what a failure costs is of no interest.
        """
        assert self.process.stdout
        data = self.process.stdout.read()
        _, raw, usage = os.wait4(self.process.pid, 0)
        seconds = time.perf_counter() - self.begun
        status = self.process.returncode = os.waitstatus_to_exitcode(raw)
        self.peak = usage.ru_maxrss * 1024 / 1e6
        self.output = data.decode(errors="replace")
        if status != expected:
            raise BenchmarkError(f"{' '.join(self.command)} ended with {status}:\n{self.errors.rstrip()}")
        return seconds

    def close(self) -> None:
        """Kill its whole session and reap it; unreaped, its number cannot have passed to others."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with suppress(OSError):
                    pipe.close()
        os.close(self._errors)


@contextmanager
def running(
    command: Sequence[str | Path],
    folder: Path,
    *,
    stdin: int = subprocess.DEVNULL,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Measured]:
    """Start a process that is ended, with all that it started in its session, whatever happens."""
    measured = Measured(command, folder, stdin=stdin, variables=variables)
    try:
        yield measured
    finally:
        measured.close()


def to_first_line(command: Sequence[str | Path], folder: Path) -> float:
    """Return the seconds that a command takes to its first line, and end it."""
    with running(command, folder) as measured:
        return measured.first_line_after()


def to_end(
    command: Sequence[str | Path],
    folder: Path,
    expected: str = "",
    *,
    status: int = 0,
    variables: Mapping[str, str] | None = None,
) -> float:
    """Return the seconds that a command takes.

    Raises BenchmarkError when it does not print what is expected or ends with another status.
    """
    with running(command, folder, variables=variables) as measured:
        seconds = measured.end_after(status)
        if expected not in measured.output:
            raise BenchmarkError(f"no {expected!r} in what {command[0]} {command[1]} prints:\n{measured.output}")
        return seconds


def machine() -> Mapping[str, Any]:
    """Return what the numbers depend on."""
    return {
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        **{name: version(name) for name in ("huggingface_hub", "psutil")},
        "kernel": os.uname().release,
        "date": time.strftime("%Y-%m-%d"),
        "load": round(os.getloadavg()[0], 1),
    }


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _amount(value: float, unit: Unit) -> str:
    if unit == "us":
        return f"{value:.2f} µs"
    if unit != "s":
        return f"{value:.0f} {unit}"
    if abs(value) >= 10:
        return f"{value:.1f} s"
    return f"{value * 1000:.{1 if abs(value) < 0.01 else 0}f} ms"


def _compared(value: float, claim: Claim) -> str:
    if claim.comparison == "ratio":
        return f"{value:.2f} ×" if value >= 0.1 else f"{value:.2g} ×"
    amount = _amount(value, claim.unit)
    return f"+{amount}" if claim.comparison == "difference" and value > 0 else amount
