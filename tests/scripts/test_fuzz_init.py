"""`init` in any folder: it runs nothing, and every line that it writes is read back as it was meant."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from pathlib import Path
from unittest import mock

from dotenv import dotenv_values
from hypothesis import assume, example, given
from hypothesis import strategies as st

from launcher import cli
from launcher.config import settings
from launcher.config.settings import Settings
from launcher.errors import LauncherError
from launcher.operations.proposal import propose
from tests.support.apps import clean_environment
from tests.support.fuzz import dotenv_agrees, examples

RAN = "ran"
"""A file that any code here writes when somebody runs it."""
ODD = st.one_of(
    st.sampled_from(
        ("--port", "-p", "--server-port", "--listen port", "port", "", "$PORT", "${PORT}", "${A:-x}", "a'b", 'a"b',
         "a#b", " #", "a\\", "\\'", "a\nb", "{port}", "none", "7861", "0", "99999", "0.0.0.0", "é", "模型", "~", "%",
         "=", "A=1", "\u2028", "\x85", "\r", "'", "-", "--", "--=", "a b", "`id`", "$(id)", "\\n", "*",
         "{python} {script}")
    ),
    st.text(max_size=8),
)  # fmt: skip
NAMES = st.sampled_from(
    ("PORT", "GRADIO_SERVER_PORT", "MY_HOST", "HF_HOME", "HF_ENDPOINT", "CUDA_VISIBLE_DEVICES", "é")
)
IMPORTS = st.sampled_from(
    ("import gradio as gr", "from gradio import Blocks", "import argparse", "import os, sys", "import click",
     "import typer", "from .ui import demo", "import fire", "import tyro", "from app import *")
)  # fmt: skip


def quoted(text: str) -> str:
    return repr(text)


LITERAL = ODD.map(quoted)
VALUE = st.one_of(
    LITERAL,
    st.integers(-1, 70_000).map(str),
    st.builds("os.environ.get({!r}, {})".format, NAMES, LITERAL),
    st.builds("int(os.getenv({!r}, {}))".format, NAMES, LITERAL),
    st.sampled_from(
        ("args.port", "args.host", "port", "None", "sys.argv[1]", "int(sys.argv[1])", "cmd_opts.port", "a()")
    ),
)
STATEMENT = st.one_of(
    IMPORTS,
    st.builds("parser.add_argument({}, type=int, default={})".format, LITERAL, VALUE),
    st.builds("parser.add_argument({}, {}, dest={})".format, LITERAL, LITERAL, LITERAL),
    st.builds("demo.launch(server_port={}, server_name={})".format, VALUE, VALUE),
    st.builds("uvicorn.run(app, host={}, port={})".format, VALUE, VALUE),
    st.builds("port = {}".format, VALUE),
    st.builds("os.environ[{!r}] = {}".format, NAMES, LITERAL),
    st.builds("@click.option({}, default={})\ndef main(port): demo.launch(server_port=port)".format, LITERAL, VALUE),
    st.builds("def main():\n    parser.add_argument({})\n    demo.launch(server_port=args.port)".format, LITERAL),
    st.builds("sub = parser.add_subparsers(dest={}); web = sub.add_parser({})".format, LITERAL, LITERAL),
    st.builds("web.add_argument({}, default={})".format, LITERAL, VALUE),
    st.sampled_from(
        ("parser = argparse.ArgumentParser()", "args = parser.parse_args()", "if __name__ == '__main__': main()",
         "if __name__ == '__main__':\n    demo.launch()", "demo = gr.Blocks()", "def", "x = (", "app = typer.Typer()")
    ),
)  # fmt: skip
PYTHON = st.lists(STATEMENT, max_size=10).map(lambda lines: "\n".join((f"open({RAN!r}, 'w')", *lines, "")))
WORD = st.one_of(
    ODD,
    st.sampled_from(
        ("export", "A=1", "HF_HOME=./m", "HF_ENDPOINT='https://x y'", 'PORT="7 8"', "python", "app.py", "webui.py",
         "&&", ";", "\n", "nohup", "&", "if", "fi", "$@", "--port", "$PORT", "APP_ARGS=x", "taskset -c 0", "-m",
         "uv run")
    ),
    st.builds("export {}={}\n".format, NAMES, ODD),
    st.builds("export {}='{}'\n".format, NAMES, ODD),
)  # fmt: skip
SHELL = st.lists(WORD, max_size=14).map(lambda words: f"touch {RAN}\n" + " ".join(words))
FILES = st.dictionaries(
    st.sampled_from(("app.py", "webui.py", "ui/__init__.py", "ui/main.py", "a b'c.py", "é$x.py", "train.py")), PYTHON,
    min_size=1, max_size=3,
)  # fmt: skip
ENV = st.one_of(
    st.just(""),
    st.builds("{}={}\n".format, NAMES, st.sampled_from(("1", "'x'", "'x", '"x', "x\\", "x # c", "", "'a\nb'"))),
    st.lists(st.builds("{}={}".format, NAMES, ODD), max_size=3).map("\n".join),
)

PAGE = "import gradio, os\ngradio.Blocks().launch({})\n"


@given(files=FILES, script=SHELL, env=ENV)
@examples(25)
@example(files={"app.py": PAGE.format("")}, script="", env="HF_HOME='x")
@example(files={"app.py": PAGE.format("")}, script="", env="HF_HOME=x\\")
@example(files={"app.py": PAGE.format("server_name=os.environ.get('é')")}, script="", env="HF_HOME=./hf")
def test_what_init_writes_is_read_back_and_nothing_is_run(
    files: dict[str, str], script: str, env: str, tmp_path: Path
) -> None:
    folder = tmp_path / "app"
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in {**files, "run.sh": script}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8", "surrogatepass")
    path = folder / ".env"
    path.write_text(env, "utf-8", "surrogatepass")
    assume(dotenv_agrees(env))
    loaded = load(folder)
    assume(loaded)
    assert loaded
    wanted = {line.name: line.value for line in propose(loaded).lines}
    before, data = read(path), path.read_bytes()

    status, err = init(folder)
    assert status in (0, 78), err
    assert not (folder / RAN).exists() and not Path(RAN).exists()
    after = read(path)
    assert {name: after.get(name) for name in before} == before
    written = after.keys() - before.keys()
    assert {name: after[name] for name in written} == {name: wanted.get(name) for name in written}
    assert path.read_bytes().startswith(data)
    if status:
        assert path.read_bytes() == data
        return
    assert load(folder), f"no command can read what was written: {path.read_text()}"
    assert wanted.keys() - after.keys() == not_held(wanted, err)


def load(folder: Path) -> Settings | None:
    try:
        return settings.load({"APP_DIR": str(folder)}, {}, settings.Call(folder), needs_script=False)
    except LauncherError:
        return None


def read(path: Path) -> dict[str, str]:
    values = dotenv_values(path, interpolate=True)
    return {name: value for name, value in values.items() if value is not None}


def not_held(wanted: dict[str, str], err: str) -> set[str]:
    """Return the settings of which init says that it has not written them."""
    told = ("has a value that .env cannot hold", "is not proposed: ")
    return {name for name in wanted if any(f"note: {name} {one}" in err for one in told)}


def init(folder: Path) -> tuple[int, str]:
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, clean_environment(), clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = cli.main(["init", "--yes", "--app-dir", str(folder)])
    return int(status), err.getvalue()
