"""Which file a Python runs is told by that Python itself; the matcher must say the same of it, whatever its words."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.instances.app_arguments import told_port
from launcher.instances.candidates import App, candidates
from launcher.instances.command_line import script_argument, wrapped_argument
from launcher.instances.script import Entry, own_file
from tests.support.apps import Processes, clean_environment, eventually
from tests.support.fuzz import examples

# Tells the file that it was run from, and waits until nobody holds the other end of a pipe. One Python skips its first
# line, another gets it on its standard input.
SCRIPT = """\
# the first line
if __name__ == "__main__":
    import json, os
    path = globals().get("__file__")
    with open(os.environ["HELLO"] + ".new", "w") as file:
        json.dump({"pid": os.getpid(), "file": path and os.path.realpath(path)}, file)
    os.rename(os.environ["HELLO"] + ".new", os.environ["HELLO"])
    os.read(int(os.environ["HOLD"]), 1)
"""
CODE = SCRIPT.partition("\n")[2] + "\n'webui.py'"


class Line(NamedTuple):
    """Hold one command line to be started: where, what stands before the interpreter, and all behind it."""

    cwd: str
    before: tuple[str, ...]
    python: str
    words: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    stdin: bool


def options() -> st.SearchStrategy[tuple[str, ...]]:
    alone = [
        "-u",
        "-B",
        "-E",
        "-s",
        "-O",
        "-OO",
        "-q",
        "-b",
        "-i",
        "-x",
        "-d",
        "-uB",
        "-S",
        "-V",
        "--version",
        "-h",
        "-Z",
    ]
    alone += ["-I", "-P"] if sys.version_info >= (3, 11) else ["-I"]
    value = st.sampled_from(("ignore", "dev", "utf8", "webui.py", "-c", "-m", "--", "-", "default", ""))
    with_value = st.sampled_from(("-W", "-X", "-uW", "-BX", "--check-hash-based-pycs"))
    return st.one_of(
        st.sampled_from(alone).map(lambda word: (word,)),
        st.tuples(with_value, value),
        st.builds("{}{}".format, st.sampled_from(("-W", "-X", "-uX")), value).map(lambda word: (word,)),
        st.builds("--check-hash-based-pycs={}".format, value).map(lambda word: (word,)),
    )


TARGETS = (
    ("webui.py",), ("./webui.py",), ("{app}/webui.py",), ("link.py",), ("sub/../webui.py",), ("../app/webui.py",),
    ("linked/webui.py",), ("linked/sub/../webui.py",), ("{other}/webui.py",), ("{hard}/webui.py",), ("pkg",), ("pkg/",),
    (".",), ("app.zip",), ("pkg/webui.py",), ("missing.py",), ("-m", "webui"), ("-mwebui",), ("-um", "webui"),
    ("-m", "pkg"), ("-m", "pkg.webui"), ("-m", "pkg.__main__"), ("-m", "webui.py"), ("-m", ".webui"), ("-m", ""),
    ("-m",), ("-m", "sub"), ("-c", CODE), ("-c" + CODE,), ("-Bc", CODE), ("-",), (), ("--", "webui.py"),
    ("--", "-"), ("--", "-m", "webui"), ("-", "webui.py"),
)  # fmt: skip
# None of them is a command of the script: which one runs is another question than which file.
ARGUMENTS = ("webui.py", "{app}/webui.py", "--port", "7861", "-m", "./webui", "-", "--", "")
VARIABLES = (("PYTHONPATH", "{lib}"), ("PYTHONPATH", "{other}"), ("PYTHONPATH", "{lib}:"), ("PYTHONPATH", ":{app}/pkg"))
if sys.version_info >= (3, 11):
    VARIABLES += (("PYTHONSAFEPATH", "1"), ("PYTHONSAFEPATH", ""))
lines = st.builds(
    Line,
    cwd=st.sampled_from(("{app}", "{app}", "{app}/pkg", "{other}", "linked")),
    before=st.sampled_from(((), (), ("env",), ("timeout", "100"), ("sh", "-c", '"$@"; exit', "webui.py"), ("nice",))),
    python=st.sampled_from(("{python}", "{python}", "{bin}/python3", "{bin}/Python-webui.py")),
    words=st.tuples(
        st.lists(options(), max_size=3), st.sampled_from(TARGETS), st.lists(st.sampled_from(ARGUMENTS), max_size=2)
    ).map(lambda parts: (*(word for option in parts[0] for word in option), *parts[1], *parts[2])),
    environment=st.lists(st.sampled_from(VARIABLES), max_size=2).map(tuple),
    stdin=st.booleans(),
)


class Tree:
    """Hold two checkouts of an app, and all that leads to a script in them."""

    def __init__(self, folder: Path) -> None:
        self.app, self.other, self.hard, self.lib, bin_ = (
            folder / name for name in ("app", "other", "hard", "lib", "bin")
        )
        for path in (self.app, self.other):
            (path / "pkg").mkdir(parents=True)
            (path / "sub").mkdir()
            (path / "pkg" / "__init__.py").touch()
            for script in ("webui.py", "pkg/__main__.py", "pkg/webui.py"):
                (path / script).write_text(SCRIPT)
            (path / "link.py").symlink_to("webui.py")
            (path / "linked").symlink_to(self.app)
        for path in (self.hard, self.lib, bin_):
            path.mkdir()
        os.link(self.app / "webui.py", self.hard / "webui.py")
        (self.lib / "webui.py").write_text(SCRIPT)
        with zipfile.ZipFile(self.app / "app.zip", "w") as archive:
            archive.writestr("__main__.py", SCRIPT)
        for name in ("python3", "Python-webui.py"):
            (bin_ / name).symlink_to(sys.executable)
        self.names = {
            "app": str(self.app),
            "other": str(self.other),
            "hard": str(self.hard),
            "lib": str(self.lib),
            "bin": str(bin_),
            "python": sys.executable,
        }

    def filled(self, text: str) -> str:
        """Return a word with the folders in it."""
        return re.sub(r"\{(\w+)\}", lambda match: self.names.get(match[1], match[0]), text)


def claimed(script: Path) -> set[int]:
    """Return the processes that are taken for instances of the app whose script this is."""
    identity = own_file(str(script))
    assert identity
    return set(candidates(App((Entry(str(script), identity),)), None).proven)


def check(started: list[Line], folder: Path, decoy: bool) -> None:
    """Start these command lines, ask each what it runs, and compare."""
    shutil.rmtree(folder, ignore_errors=True)
    tree = Tree(folder)
    if decoy:  # a package goes before a module of its name
        (tree.app / "webui").mkdir()
        (tree.app / "webui" / "__init__.py").touch()
        (tree.app / "webui" / "__main__.py").write_text(SCRIPT)
    (folder / "output").mkdir()
    processes = Processes(folder / "output")
    held, hold = os.pipe()
    os.set_inheritable(held, True)
    hellos = []
    try:
        for number, line in enumerate(started):
            hello = folder / f"hello-{number}"
            cwd = str(tree.other / tree.filled(line.cwd))
            variables = {name: tree.filled(value) for name, value in line.environment}
            with open(tree.app / "webui.py" if line.stdin else os.devnull) as stdin:
                running = processes.start(
                    [*line.before, tree.filled(line.python), *map(tree.filled, line.words)],
                    cwd=Path(cwd),
                    env=clean_environment(PWD=cwd, HELLO=str(hello), HOLD=str(held), **variables),
                    stdin=stdin,
                    pass_fds=(held,),
                )
            hellos.append((running, hello))
        truth = {}
        for running, hello in hellos:
            eventually(lambda hello=hello, running=running: hello.exists() or running.process.poll() is not None)
            if hello.exists():
                told = json.loads(hello.read_text())
                truth[told["pid"]] = told["file"]
        for script in (tree.app / "webui.py", tree.app / "pkg" / "__main__.py", tree.other / "webui.py"):
            wanted = {pid for pid, file in truth.items() if file == os.path.realpath(script)}
            found = claimed(script)
            assert found == wanted, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in found ^ wanted]
    finally:
        os.close(hold)
        os.close(held)
        processes.close()


@pytest.mark.slow
@given(started=st.lists(lines, min_size=8, max_size=8), decoy=st.sampled_from((False, False, True)))
@examples(12, shrink=False)
def test_a_process_is_claimed_when_and_only_when_its_own_python_says_that_it_runs_the_script(
    started: list[Line], decoy: bool, tmp_path: Path
) -> None:
    check(started, tmp_path / "tree", decoy)


def line(*words: str, cwd: str = "{app}", **environment: str) -> Line:
    return Line(cwd, (), "{python}", words, tuple(environment.items()), stdin=False)


def test_a_module_is_looked_for_where_that_python_looks_for_it(tmp_path: Path) -> None:
    started = [
        line("-m", "webui", PYTHONPATH="{lib}"),
        line("-m", "webui", cwd="/", PYTHONPATH="{lib}:{app}"),
        line("-m", "webui", cwd="/", PYTHONPATH="{app}:{lib}"),
        line("-I", "-m", "webui", PYTHONPATH="{lib}"),
        line("-E", "-m", "webui", cwd="{other}", PYTHONPATH="{app}", PYTHONSAFEPATH="1"),
    ]
    if sys.version_info >= (3, 11):
        started += [
            line("-P", "-m", "webui", PYTHONPATH="{lib}"),
            line("-m", "webui", PYTHONPATH="{lib}", PYTHONSAFEPATH="1"),
            line("-m", "webui", cwd="{other}", PYTHONPATH="{app}", PYTHONSAFEPATH="1"),
        ]
    check(started, tmp_path / "tree", decoy=False)


def test_a_package_is_run_and_not_the_module_of_its_name_beside_it(tmp_path: Path) -> None:
    check([line("-m", "webui"), line("webui.py"), line("webui")], tmp_path / "tree", decoy=True)


def test_a_port_of_thousands_of_digits_is_none() -> None:
    assert told_port(("--port", "9" * 5000), {}).port is None
    assert told_port((), {"GRADIO_SERVER_PORT": "9" * 5000}).port is None
    assert wrapped_argument(("gradio", ""), False) is None


words = st.one_of(
    st.sampled_from(
        ("webui.py", "/app/webui.py", "run", "launch", "-m", "-c", "-", "--", "-W", "-Xx", "-mwebui", "--port", "uv",
         "accelerate", "gradio", "python", "python3.11", "--with", "-q", "--port=7860", "9" * 5000, "٣", "vim")
    ),
    st.binary(max_size=6).map(lambda data: os.fsdecode(data.replace(b"\0", b""))),
)  # fmt: skip


@given(argv=st.lists(words, max_size=8), environ=st.dictionaries(st.just("GRADIO_SERVER_PORT"), words))
@examples(400)
def test_any_words_are_a_command_line_and_nothing_is_read_out_of_them_that_is_not_in_them(
    argv: list[str], environ: dict[str, str]
) -> None:
    for python in (True, False):
        for found in (script_argument(argv), wrapped_argument(argv, python)):
            if found is not None:
                assert found.text and any(word.endswith(found.text) for word in argv[1:])
                assert all(path for path in found.paths())
    port = told_port(argv, environ, ("-p",)).port
    assert port is None or 0 <= port < 1 << 16


@given(
    options=st.lists(st.sampled_from(("-u", "-B", "-Wx", "-Xdev", "-I", "-uE")), max_size=3),
    program=st.sampled_from((("-c", "import webui"), ("-cimport webui",), ("-Bc", "x"), ("-",), ("-m",), ())),
    rest=st.lists(words, max_size=4),
)
@examples(100)
def test_a_python_without_a_script_runs_none_whatever_else_it_is_told(
    options: list[str], program: tuple[str, ...], rest: list[str]
) -> None:
    argv = ["python", *options, *program, *(rest if program and program != ("-m",) else [])]
    assert script_argument(argv) is None
    assert wrapped_argument(argv, True) is None


@given(
    editor=st.sampled_from(
        ("vim", "nano", "less", "tail", "grep", "bash", "sh", "emacs", "code", "tmux", "cat", "ssh")
    ),
    rest=st.lists(words, max_size=6),
)
@examples(100)
def test_another_program_is_no_wrapper_whatever_it_is_told(editor: str, rest: list[str]) -> None:
    assert wrapped_argument([f"/usr/bin/{editor}", *rest], False) is None
