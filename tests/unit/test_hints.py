"""Every hint can be pasted: what comes from outside is quoted for the shell."""

from __future__ import annotations

import ast
import errno
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher import cli
from launcher.system import requirements
from tests.support.apps import ROOT, AppFolder, launcher, make_app

PACKAGE = ROOT / "launcher"
# Numbers, words of our own, and text that was made to be pasted already.
SAFE = re.compile(
    r"PROGRAM|REPEAT|^ANOTHER$|_elsewhere|self\.prog|port|pid\b|_another|_sudo|flag|asked|command|quoted|shlex|join|again|supervisor|ADVICE|COMMANDS"
    r"|misplaced|min\(listening\)|^error\.hint$|^(name|what|more|ways|meant|hint|user|packages|locked|shown|uid|here|line|first|other|beside)$|_meant"
)


def hints(tree: ast.AST) -> Iterator[ast.JoinedStr]:
    """Yield every formatted hint: the second argument of an error, what a console hints, what is called a hint."""
    for node in ast.walk(tree):
        value: ast.expr | None = None
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.endswith(("LauncherError", "_refused")) and len(node.args) > 1:
                value = node.args[1]
            elif called.endswith(".hint") and node.args:
                value = node.args[0]
        elif isinstance(node, ast.Assign) and "hint" in ast.unparse(node.targets[0]):
            value = node.value
        if value:
            yield from (part for part in ast.walk(value) if isinstance(part, ast.JoinedStr))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_a_hint_takes_from_outside_is_quoted(path: Path) -> None:
    values = [
        ast.unparse(value.value)
        for hint in hints(ast.parse(path.read_text()))
        for value in hint.values
        if isinstance(value, ast.FormattedValue)
    ]
    assert [value for value in values if not SAFE.search(value)] == []


@pytest.mark.parametrize("name", ["a;touch pwned #", "a $(touch pwned)", "a'b\"c", "a\nb"])
def test_a_hint_never_runs_the_name_of_a_folder(tmp_path: Path, name: str) -> None:
    app: AppFolder = make_app(tmp_path / name)
    done = launcher("--app-dir", app.path, "--background", "--log-file", app.path / "no" / "x.log")
    assert done.status == 2
    (hint,) = [line.removeprefix("hint: ") for line in done.err.splitlines() if line.startswith("hint: ")]
    empty = tmp_path / "empty"
    empty.mkdir()
    subprocess.run(("bash", "-c", hint), cwd=empty, capture_output=True, timeout=60)
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("path", ["/a b", "/a $(touch pwned)", b"/\xff'"])
def test_the_path_of_an_error_that_nothing_else_explains_is_one_word(path: str | bytes) -> None:
    words = shlex.split(cli._space_hint(OSError(errno.EIO, "Input/output error", path)).replace(";", " ; "))
    assert len(words) == 7


def test_the_python_of_an_install_command_is_one_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/my apps/.venv/bin/python")
    assert sys.executable in shlex.split(requirements.install_command(["psutil>=6"]))
