"""Tables fit the terminal they are printed to, also with East Asian letters, and lose nothing."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress

import pytest

from launcher.config import settings
from launcher.service import history
from launcher.ui import text
from launcher.ui.console import Console
from tests.support.apps import START_APP, clean_environment
from tests.support.removal import Cached

HEAD = ("MODEL", "REVISION", "SIZE", "VERDICT")
ROWS = (
    HEAD,
    ("koge/index-tts-v23", "main", "1.8 GB", "up to date"),
    ("组织/语音合成模型", "refs/pr/1", "70.5 kB", "incomplete: gpt.safetensors is not here, and neither is its blob"),
)


def test_without_a_terminal_a_row_is_a_line() -> None:
    lines = text.table(ROWS, right={2})
    assert len(lines) == len(ROWS)
    at = lines[0].index("REVISION")
    assert text.width(lines[2][: lines[2].index("refs")]) == at
    assert "  1.8 GB  " in lines[1] and " 70.5 kB  " in lines[2]


@pytest.mark.parametrize("columns", [30, 60, 80, 200])
def test_a_table_fits_the_terminal_and_keeps_every_word(columns: int) -> None:
    lines = text.table(ROWS, right={2}, columns=columns)
    assert all(text.width(line) <= columns for line in lines)
    assert "".join(lines).replace(" ", "") == "".join("".join(row) for row in ROWS).replace(" ", "")


def test_what_cannot_be_broken_is_kept_whole() -> None:
    lines = text.table((("A", "B"), ("x", "/a/path/that/is/longer/than/the/terminal")), columns=20)
    assert lines == ("A", "    B", "x", "    /a/path/that/is/longer/than/the/terminal")


def on_terminal(columns: int, *arguments: str) -> list[str]:
    """Return what the launcher prints on a terminal of this width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = (sys.executable, str(START_APP), *arguments)
    with subprocess.Popen(
        command, stdout=theirs, stderr=subprocess.DEVNULL, env=clean_environment(NO_COLOR="1")
    ) as child:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # EIO: nobody holds the other end any more
            while block := os.read(ours, 1 << 16):
                shown += block
        os.close(ours)
    assert child.returncode == 0, shown
    return shown.decode().splitlines()


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("arguments", [("history",), ("cache", "list")], ids=" ".join)
def test_what_is_printed_on_a_terminal_fits_it(cached: Cached, columns: int, arguments: tuple[str, ...]) -> None:
    app = cached.app
    loaded = settings.load({"APP_DIR": str(app.path)}, {}, settings.Call(app.path))
    for number in range(3):
        history.record(loaded, "start", f"pid {number}, python webui.py --port 7860", "exec " + "of an app " * 12)
    lines = on_terminal(columns, *arguments, *app.arguments)
    assert len(lines) > 3
    # Only a path or a command that is longer than the terminal may be wider.
    wide = [line for line in lines if text.width(line) > columns and str(app.path) not in line]
    assert wide == []


@pytest.mark.parametrize("columns", [60, 120])
def test_a_bar_names_the_file_at_work_and_fits_the_terminal(columns: int) -> None:
    pytest.importorskip("tqdm")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    names = ("weights/model-00001-of-00002.safetensors", "\x1b[2Jevil\n", "模型" * 40)
    with open(theirs, "w") as stream, Console(None, stream).bar("pulling", 3 << 20) as step:
        assert step
        for name in names:
            time.sleep(0.15)  # a bar is drawn ten times a second
            step(1 << 20, name)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "pulling:" in shown and "MB/s" in shown and "left, model-000" in shown
    assert "\x1b" not in shown and "\\x1b" in shown
    assert all(text.width(line.removesuffix("\x1b[A")) <= columns for line in re.split(r"[\r\n]", shown))
