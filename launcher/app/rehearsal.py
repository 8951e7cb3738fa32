"""Rehearse the start while the old instance still serves: with the app's own Python and environment.

A child is started like the app, in the same folder, with arguments of the same lengths. It compiles the script, which
is Python's own first step, and runs none of it. It can then stay as a placeholder for the app's process: if no more
processes can be started, the launcher knows before it stops anything.
"""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

from ..errors import REPEAT, ExitStatus, LauncherError, quoted
from ..system import marker
from ..ui import text
from .command import Command

SECONDS = 30.0
_END_SECONDS = 2.0
# Linux: one string has at most 32 pages, including its final NUL, execve(2).
_STRING_BYTES = 32 * os.sysconf("SC_PAGE_SIZE")
_KEPT_BYTES = 4096
# As long as the name of the marker, which the child must not have: it is not one of the app's processes.
_NO_MARKER = "START_APP_REHEARSE"
_MARK = b"\0rehearsed\0"
# A script that is a zip file, a folder with a `__main__`, or a `.pyc` is not compiled.
_CODE = r"""
import os, sys
path = b""
while not path.endswith(b"\0"):
    block = os.read(0, 65536)
    if not block:
        os._exit(1)
    path += block
path = os.fsdecode(path[:-1])
said = ""
try:
    if path:
        with open(path, "rb") as file:
            source = file.read()
        if source[2:4] != b"\r\n":
            compile(source, path, "exec", dont_inherit=True)
except (SyntaxError, ValueError) as error:
    try:
        import zipimport
        zipimport.zipimporter(path)
    except Exception:
        line = getattr(error, "lineno", None)
        said = "{}: {}{}".format(type(error).__name__, getattr(error, "msg", error), ", line %d" % line if line else "")
except PermissionError as error:
    said = error.strerror
except (OSError, RecursionError):
    pass
os.write(1, b"\0rehearsed\0%d.%d %s\0" % (*sys.version_info[:2], said.encode("utf-8", "replace")))
os.read(0, 1)
os._exit(0)
"""
# One word without a blank: a wrapper that passes its arguments unquoted must not split it.
_WORD = f"exec(bytes.fromhex('{_CODE.encode().hex()}'))"
_LOADER = re.compile(rb"/[\x21-\x7e]*/ld[\x21-\x7e]*(?=\0)")


class Answer(NamedTuple):
    """Hold a child's report: its Python's version, blank if that did not run, and why the script cannot be run."""

    version: str
    reason: str


class Placeholder:
    """Hold the child that has proven the start, and that reserves a process slot for the app."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Return the child's pid."""
        return self._process.pid

    def close(self) -> None:
        """End the child, which frees its process slot."""
        process = self._process
        for pipe in (process.stdin, process.stdout):
            if pipe:
                with suppress(OSError):
                    pipe.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # noqa: TID251  # our child, which nobody has collected yet
            process.wait()


def rehearse(command: Command, origins: Mapping[str, str], seconds: float = SECONDS) -> Placeholder | None:
    """Start the app's Python as the app will be started, and return the child after it has compiled the script.

    `origins` name the sources of environment variables. Returns None if no process can be started. Raises
    LauncherError: 78 if the kernel refuses the exec, or Python the script; 75 if Python does not answer in time.
    """
    script = "" if command.script[0].startswith("-") else command.script[0]
    # A wrapper before the Python is tried too; a program in place of the Python would run the script.
    at = command.argv.index(command.interpreter) if command.interpreter in command.argv else None
    before, words = (command.argv[:at], command.argv[at + 1 :]) if at is not None else ((), command.argv)
    program = command.program if before else command.interpreter
    called = text.command_line((*before, command.interpreter))
    argv = (*before, command.interpreter, "-c", _WORD, *("x" * len(os.fsencode(word)) for word in words))
    environment = {_NO_MARKER if name == marker.NAME else name: value for name, value in command.environment.items()}
    try:
        process = subprocess.Popen(
            argv,
            executable=program,
            env=environment,
            cwd=command.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.ENOMEM):
            return None
        raise _refused(command, origins, error) from error
    child = Placeholder(process)
    try:
        answer = _hear(process, os.fsencode(script), seconds)
        if answer is None:
            raise LauncherError(
                f"{called} is not up after {seconds:g} s",
                f"time {text.command_line((*before, command.interpreter, '-c', 'pass'))}",
                ExitStatus.RETRY,
            )
        if not answer.version:
            raise LauncherError(f"{called} does not run: {answer.reason}", f"start_app.py --python PATH{REPEAT}")
        if answer.reason:
            raise _no_script(command, script, answer)
    except BaseException:
        child.close()
        raise
    return child


def _hear(process: subprocess.Popen[bytes], script: bytes, seconds: float) -> Answer | None:
    """Return the child's report, or how it ended without one; None if it is silent for too long."""
    assert process.stdin and process.stdout
    with suppress(BrokenPipeError):
        process.stdin.write(script + b"\0")
        process.stdin.flush()
    deadline = time.monotonic() + seconds
    data = b""
    for block in _blocks(process.stdout.fileno(), deadline):
        data += block
        _, mark, said = data.partition(_MARK)
        if mark and said.endswith(b"\0"):
            version, _, reason = said[:-1].decode(errors="replace").partition(" ")
            return Answer(version, reason)
        data = data if mark else data[-_KEPT_BYTES:]
    try:
        status = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None
    lines = [line.strip() for line in data.decode(errors="replace").splitlines() if line.strip()]
    end = f"exit status {status}" if status >= 0 else f"signal {-status}"
    telling = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "")
    return Answer("", f"{telling} ({end})" if telling else end)


def _blocks(descriptor: int, deadline: float) -> Iterator[bytes]:
    """Yield the output until its end, or the deadline."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        if poller.poll(left * 1000):
            block = os.read(descriptor, _KEPT_BYTES)
            if not block:
                return
            yield block


def _no_script(command: Command, script: str, problem: Answer) -> LauncherError:
    path = command.folder / script
    try:
        with open(path, "rb") as file:
            first = file.readline(200).decode(errors="replace").strip()
    except OSError:
        return LauncherError(
            f"cannot read {path}: {problem.reason.lower()}", f"ls -l {quoted(path)}", ExitStatus.CONFIG
        )
    if first.startswith("#!") and "python" not in first:
        return LauncherError(
            f"{path} is not a Python script: it begins with {first}",
            "APP_SCRIPT=FILE in .env, with the Python file that it starts",
            ExitStatus.CONFIG,
        )
    return LauncherError(
        f"Python {problem.version} cannot run {path}: {problem.reason}",
        f"{text.command_line((command.interpreter, '-m', 'py_compile', str(path)))}",
        ExitStatus.CONFIG,
    )


def _refused(command: Command, origins: Mapping[str, str], error: OSError | ValueError) -> LauncherError:
    if isinstance(error, OSError) and error.errno == errno.E2BIG:
        return _too_big(command, origins)
    reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
    if isinstance(error, FileNotFoundError) and os.path.exists(command.interpreter):
        reason = _missing_loader(command.interpreter) if os.path.isdir(command.folder) else f"no {command.folder}"
    return LauncherError(
        f"cannot start {command.interpreter} in {command.folder}: {reason}", f"start_app.py --python PATH{REPEAT}"
    )


def _missing_loader(interpreter: str) -> str:
    """Return why the kernel reports a missing file although it exists: its loader is missing, execve(2)."""
    try:
        with open(interpreter, "rb") as file:
            head = file.read(_KEPT_BYTES)
    except OSError:
        head = b""
    if head.startswith(b"#!"):
        return f"there is no {head[2:].split(None, 1)[0].decode(errors='replace')}, which its first line names"
    loader = _LOADER.search(head)
    return f"its loader {loader[0].decode()} is missing" if loader else "its loader is missing"


def _too_big(command: Command, origins: Mapping[str, str]) -> LauncherError:
    """Return what is too long for the kernel: one string, or all of them together."""
    words = {f"argument {number}": len(os.fsencode(word)) for number, word in enumerate(command.argv)}
    variables = {
        # The marker contains the first words of the arguments.
        "APP_ARGS" if name == marker.NAME else name: len(os.fsencode(f"{name}={value}"))
        for name, value in command.environment.items()
    }
    name, longest = max({**words, **variables}.items(), key=lambda item: item[1])
    variable = f"{name} ({origins[name]})" if name in origins else name
    hint = f"shorten {quoted(name if name in variables else 'APP_ARGS')} in .env"
    if longest >= _STRING_BYTES:
        most = f"has {longest:,} bytes, and the kernel takes {_STRING_BYTES - 1:,} in one string"
        return LauncherError(f"the app cannot be started: {variable} {most}", hint)
    total = sum(words.values()) + sum(variables.values())
    return LauncherError(
        f"the app cannot be started: arguments and environment have {total:,} bytes, more than the kernel takes; "
        f"the longest is {variable} with {longest:,}",
        f"{hint}; getconf ARG_MAX",
    )
