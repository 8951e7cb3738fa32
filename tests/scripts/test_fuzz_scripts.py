"""Files that nobody meant as an app's are read without an error, and without being run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.config import settings
from launcher.operations.proposal import propose
from launcher.scripts import module, shell
from launcher.scripts.options import commands, options
from tests.support.families import APPS

LONG = 200_000
NASTY = {
    "brackets": b"(" * LONG,
    "signs": b"x = " + b"-" * LONG + b"1",
    "attributes": b"import gradio\nx" + b".a" * LONG + b".launch()",
    "calls": b"import gradio\nx" + b".a()" * LONG + b".launch()",
    "sums": b"x=" + b"1+" * LONG + b"1",
    "items": b"x=a" + b"[0]" * LONG,
    "branches": b"if 1:\n pass\n" + b"elif 1:\n pass\n" * 20_000,
    "a long number": b"import gradio\ngradio.x.launch(server_port=" + b"9" * 20_000 + b")",
    "a NUL": b"import gradio\0",
    "UTF-16": "import gradio".encode("utf-16"),
    "an unknown encoding": b"# coding: nonsense\nimport gradio",
    "itself": b"import gradio\na=b\nb=a\na=a\ngradio.x.launch(**a, server_port=a)\na['server_port']=a\n",
    "a class in itself": b"import tyro\nclass A:\n x: A = 1\n y: A = 2\ntyro.cli(A)\n",
    "functions that call one another": b"def a(): b()\ndef b(): a()\n@app.command()\ndef c(): a()\n",
}  # fmt: skip


@pytest.mark.parametrize("name", NASTY)
def test_a_nasty_file_is_read_or_left_out(name: str) -> None:
    read = module.read(Path("/app.py"), NASTY[name])
    if read:
        assert isinstance(options(read), tuple)
        assert isinstance(dict(commands(read)), dict)


def test_a_file_in_an_encoding_of_its_own_is_read() -> None:
    data = "# coding: gb18030\nimport gradio as gr\ntitle = '网页'\ngr.Blocks().launch()\n".encode("gb18030")
    read = module.read(Path("/app.py"), data)
    assert read
    assert (read.gradio, len(read.launches)) == (True, 1)


SOURCES = [text.encode() for app in APPS.values() for name, text in app.files.items() if name.endswith(".py")]


@given(st.sampled_from(SOURCES), st.data())
def test_an_apps_file_that_was_cut_and_mixed_raises_nothing(source: bytes, data: st.DataObject) -> None:
    lines = source.splitlines(keepends=True)
    mixed = data.draw(st.permutations(lines))
    for text in (b"".join(mixed), source[data.draw(st.integers(0, len(source))) :], data.draw(st.binary(max_size=80))):
        read = module.read(Path("/app.py"), text)
        if read:
            options(read)


WORDS = st.sampled_from(
    ["export", "A=1", "A=$B", "${A:-x}", "python", "app.py", "--port", "7", "&&", ";", "|", ">", "2>&1", "'", '"',
     "$(id)", "`id`", "cd", "source", "x/bin/activate", "conda", "activate", "\\", "\n", "<<EOF", "EOF", "#", "if",
     "then", "fi", "nohup", "&", "(", ")", "\0", "${", "uv", "run", "-m", "$@", "é"]
)  # fmt: skip


@given(st.lists(WORDS, max_size=30))
def test_a_start_script_of_any_words_raises_nothing(words: list[str]) -> None:
    read = shell._Reader(Path("/app/run.sh")).read(" ".join(words))
    assert all(isinstance(value, str) for value in read.exports.values())


LINES = {
    "negations": "! " * 3000 + "python app.py",
    "branches": "then A=1 " * 10_000,
    "assignments": "A=1 " * 20_000,
    "the folder": "$(cd $()" + "pwd" * 30_000,
}


@pytest.mark.parametrize("name", LINES)
def test_a_long_line_of_a_start_script_is_read_or_left_out_at_once(name: str) -> None:
    begun = time.process_time()
    shell._Reader(Path("/app/run.sh")).read(LINES[name])
    assert time.process_time() - begun < 2


def test_imports_that_never_end_are_looked_at_in_a_moment() -> None:
    begun = time.process_time()
    module.glance(b"from a import (\n" * 20_000)
    assert time.process_time() - begun < 3


def test_a_folder_full_of_them_is_proposed_for(tmp_path: Path) -> None:
    for number, data in enumerate(NASTY.values()):
        (tmp_path / f"app{number}.py").write_bytes(data)
    (tmp_path / "webui.py").write_bytes(b"import gradio\n" * 200_000)  # too large for a source file
    for name in ("pyproject.toml", "run.sh"):
        (tmp_path / name).write_bytes(bytes(range(256)) * 10)
    (tmp_path / "a\udcff.py").write_text("import gradio\ngradio.Blocks().launch()\n")
    loaded = settings.load({"APP_DIR": str(tmp_path)}, {}, settings.Call(tmp_path), needs_script=False)
    assert propose(loaded).lines
