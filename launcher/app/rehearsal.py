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

from ..errors import ExitStatus, LauncherError, quoted
from ..system import marker
from ..ui import text
from .command import Command
from .interpreter import ANOTHER

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
def files(name):
    where = None
    full = ""
    for part in [*name.split("."), "__main__"]:
        full = full + "." + part if full else part
        specs = (finder.find_spec(full, where) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next((one for one in specs if one), None)
        if spec is None:
            if where is None:
                raise ImportError("No module named %r" % full)
            return
        if spec.has_location and spec.origin.endswith(".py"):
            yield spec.origin
        where = spec.submodule_search_locations
        if where is None:
            return
        sys.modules[full] = type(sys)(full)  # a namespace package asks its parent, which is not imported
        sys.modules[full].__path__ = where
try:
    for path in files(path[3:]) if path.startswith("-m ") else [path] if path else []:
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
        said = path + "\0" + said
except ImportError as error:
    said = "\0ImportError: %s" % error
except PermissionError as error:
    said = path + "\0" + error.strerror
except Exception:
    pass
os.write(1, b"\0rehearsed\0%d.%d\0%s\0\0" % (*sys.version_info[:2], said.encode("utf-8", "replace")))
os.read(0, 1)
os._exit(0)
"""
# One word without a blank: a wrapper that passes its arguments unquoted must not split it.
_WORD = f"exec(bytes.fromhex('{_CODE.encode().hex()}'))"
_LOADER = re.compile(rb"/[\x21-\x7e]*/ld[\x21-\x7e]*(?=\0)")


class Answer(NamedTuple):
    """Hold a child's report: its Python's version, blank if that did not run, and why which file cannot be run."""

    version: str
    reason: str
    file: str = ""


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
    script = _told(command)
    # A wrapper before the Python is tried too; a program in place of the Python would run the script.
    if command.interpreter not in command.argv and (problem := _obstacle(command.program)):
        raise LauncherError(f"cannot start {command.program}: {problem}", f"ls -l {quoted(command.program)}")
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
            raise LauncherError(f"{called} does not run: {answer.reason}", ANOTHER)
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
        if mark and said.endswith(b"\0\0"):
            version, file, reason = said.decode(errors="replace").split("\0")[:3]
            return Answer(version, reason, file)
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


def _told(command: Command) -> str:
    """Return what the child is to compile: a path, or `-m` and a module; blank if an option may change its search."""
    if not command.script[0].startswith("-"):
        return command.script[0]
    at = command.argv.index(command.interpreter) + 1 if command.interpreter in command.argv else 0
    is_plain = at and command.argv[at : at + 2] == command.script and command.script[0] == "-m"
    return f"-m {command.script[1]}" if is_plain else ""


def _no_script(command: Command, script: str, problem: Answer) -> LauncherError:
    if script.startswith("-m "):
        shown = f"{problem.file}: {problem.reason}" if problem.file else problem.reason
        return LauncherError(
            f"Python {problem.version} cannot run {script}: {shown}",
            text.command_line((command.interpreter, "-m", "py_compile", problem.file))
            if problem.file
            else f"cd {quoted(command.folder)}; {text.command_line((command.interpreter, *command.script))}",
        )
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
    program = command.program if command.interpreter in command.argv else command.interpreter
    reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
    if isinstance(error, FileNotFoundError) and os.path.exists(program):
        missing = _obstacle(program) or "its loader is missing"
        reason = missing if os.path.isdir(command.folder) else f"no {command.folder}"
    own = ANOTHER if program == command.interpreter else f"ls -l {quoted(program)}"
    return LauncherError(f"cannot start {program} in {command.folder}: {reason}", own)


def _obstacle(program: str) -> str:
    """Return why the kernel cannot run a program that exists: execve(2); blank if nothing is known against it."""
    try:
        with open(program, "rb") as file:
            head = file.read(_KEPT_BYTES)
    except OSError:
        return ""
    if head.startswith(b"#!"):
        words = head[2:].partition(b"\n")[0].split(None, 1)
        named = os.fsdecode(words[0]) if words else ""
        is_missing = os.path.isabs(named) and not os.path.exists(named)
        return f"there is no {named}, which its first line names" if is_missing else ""
    loader = _LOADER.search(head) if head.startswith(b"\x7fELF") else None
    if loader:
        return "" if os.path.exists(loader[0]) else f"its loader {loader[0].decode()} is missing"
    return "" if b"\0" in head else "it is neither a program nor a script with a first line such as #!/bin/sh"


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
