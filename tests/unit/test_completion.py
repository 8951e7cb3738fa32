"""What the shell offers is what the command line takes."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.arguments import COMMANDS, OPTIONS
from tests.support.apps import ROOT, launcher

needs_shtab = pytest.mark.skipif(importlib.util.find_spec("shtab") is None, reason="shtab is not installed")


def completed(*words: str) -> list[str]:
    """Return what bash offers for the last of these words."""
    script = launcher("--print-completion", "bash").out
    ask = (
        f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; COMPREPLY=()\n"
        "$(complete -p start_app.py | sed 's/.*-F \\([^ ]*\\).*/\\1/') start_app.py\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(("bash", "-c", script + "\n" + ask), capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@needs_shtab
def test_bash_offers_commands_and_the_options_that_go_with_each() -> None:
    firsts = {name.partition(" ")[0] for name in COMMANDS} - {"launch"}
    assert firsts <= set(completed("start_app.py", ""))
    assert completed("start_app.py", "st") == ["status", "stop"]
    assert set(completed("start_app.py", "models", "")) >= {"check", "lock", "pull"}
    offered = {word for word in completed("start_app.py", "unit", "--") if word.startswith("--")}
    assert offered == {name for o in OPTIONS if "unit" in o.commands for name in o.names if name.startswith("--")}
    assert completed("start_app.py", "--print-completion", "") == ["bash", "zsh"]


@needs_shtab
def test_zsh_takes_its_script(tmp_path: Path) -> None:
    done = launcher("--print-completion", "zsh")
    assert done.status == 0
    assert done.out.startswith("#compdef start_app.py\n")
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed: only what its script begins with was looked at")
    (tmp_path / "script").write_text(done.out)
    assert subprocess.run(("zsh", "-n", tmp_path / "script")).returncode == 0


def test_without_shtab_the_command_that_installs_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "shtab.py").write_text("raise ImportError\n")
    hidden = f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; sys.argv[0] = 'start_app.py'; "
    code = f"{hidden}from launcher.__main__ import main; sys.exit(main(sys.argv[0]))"
    done = subprocess.run(
        (sys.executable, "-c", code, "--print-completion", "bash"),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 78, done.stderr
    assert "shtab>=1.7: not installed, and completion is made by it, for " in done.stderr
    assert "'shtab>=1.7'" in done.stderr.splitlines()[1]
