"""What an app's own words tell of its port and its command, in every spelling that people use."""

from __future__ import annotations

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.instances.app_arguments import Told, command_words, told_port
from tests.support.fuzz import examples

LAUNCHERS_OWN = ("--port", "--host")


@pytest.mark.parametrize(
    "line",
    [
        "--port 7861",
        "--port=7861",
        "-port 7861",
        "--por 7861",
        "--po=7861",
        "--p 7861",
        "-p 7861",
        "-p7861",
        "-p=7861",
        "--server_port 7861",
        "--server-port=7861",
        "--server-po 7861",
        "--listen-port 7861",
        "--gradio_port 7861",
        "--webui-port 7861",
        "--listen 0.0.0.0:7861",
        "--host=[::]:7861",
        "7861",
        "run 7861",
        "--fp16=yes 7861",
        "0.0.0.0:7861",
        "localhost:7861",
        "http://127.0.0.1:7861/",
        "server.port=7861",
        "server_port=7861",
        "--port 7860 --por 7861",
        "-p 7860 --port 7861",
        "7860 --port 7861",
    ],
)
def test_a_port_is_told_in_many_spellings(line: str) -> None:
    assert told_port(line.split(), {"GRADIO_SERVER_PORT": "7999", "PORT": "7998"}).port == 7861


@pytest.mark.parametrize(
    "line",
    [
        "",
        "--seed 42",
        "--ser 42",
        "--portable 7861x",
        "--max_tokens 8192",
        "-p models/large",
        "-p 99999",
        "16:9",
        "512",
        "--proxy 127.0.0.1:7890",
        "-- --port 7861",
        "٧٨٦١",
    ],
)
def test_other_numbers_are_no_port(line: str) -> None:
    assert told_port(line.split(), {}) == Told()


@pytest.mark.parametrize(
    "line", ["--port auto", "--port", "--server-port=$PORT", "--port 99999", f"--port {'9' * 5000}"]
)
def test_a_port_that_is_no_number_is_in_doubt(line: str) -> None:
    told = told_port(line.split(), {"GRADIO_SERVER_PORT": "7861"})
    assert told.port is None
    assert told.doubt.endswith("does not give a port number")


def test_a_port_behind_an_option_that_may_take_no_value_is_in_doubt() -> None:
    assert told_port(("--share", "7861"), {}) == Told(doubt="--share 7861 may be its port")
    assert told_port(("--share", "7861", "--port", "7862"), {}).port == 7862


def test_the_environment_counts_where_no_word_tells_a_port() -> None:
    assert told_port((), {"GRADIO_SERVER_PORT": "7861", "PORT": "7862"}).port == 7861
    assert told_port((), {"PORT": "7862"}).by == "PORT=7862"
    assert told_port((), {"MY_PORT": "7862", "PORT": "7863"}, variables=("MY_PORT",)).port == 7862
    assert told_port((), {"GRADIO_SERVER_PORT": " "}) == Told()


def test_a_variable_that_may_be_the_port_leaves_it_in_doubt_unless_everybody_has_it() -> None:
    environ = {"WEBUI_PORT": "7861", "REDIS_PORT": "tcp://10.0.0.1:6379"}
    assert told_port((), environ) == Told(doubt="WEBUI_PORT=7861 may be its port")
    assert told_port((), environ, own_environ=environ) == Told()


def test_an_environment_that_cannot_be_read_leaves_the_port_in_doubt() -> None:
    assert told_port((), None) == Told(doubt="its environment cannot be read")
    assert told_port(("--port", "7861"), None).port == 7861


def test_the_apps_own_option_is_read_like_the_usual_ones() -> None:
    assert told_port(("--my_port", "7861"), {}, ("--my-port",)).port == 7861
    assert told_port(("--my-po", "7861"), {}, ("--my-port",)).port == 7861
    assert told_port(("--my-port", "7861"), {}).port is None


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("", ()),
        ("run", ("run",)),
        ("run --share", ("run",)),
        ("--port 7860 --host 0.0.0.0 run --share", ("run",)),
        ("--port=7860 run", ("run",)),
        ("-p 7860 run", ("run",)),
        ("train config.yaml", ("train",)),
        ("train here", ("train",)),
        ("db:migrate", ("db:migrate",)),
        ("serve webui", ("serve", "webui")),
        ("7860", ()),
        ("Qwen/Qwen2-7B", ()),
        ("--share run", ()),
        ("中文", ()),
    ],
)
def test_the_command_is_the_words_before_the_first_option_that_are_no_file_and_no_port(
    line: str, command: tuple[str, ...]
) -> None:
    assert command_words(line.split(), LAUNCHERS_OWN, lambda word: word == "here") == command


spelled = st.sampled_from(("--port", "--por", "--po", "--p", "-p"))


@given(
    before=st.lists(st.sampled_from(("run", "--share", "--seed=3", "--name=x")), max_size=3),
    options=st.lists(st.tuples(spelled, st.integers(1024, 65535), st.booleans()), min_size=1, max_size=3),
)
@examples(200)
def test_argparse_itself_is_told_the_same_port(before: list[str], options: list[tuple[str, int, bool]]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-p", "--port", type=int)
    words = list(before)
    for option, port, joined in options:
        words += [f"{option}={port}"] if joined else [option, str(port)]
    known, _ = parser.parse_known_args(words)
    assert told_port(words, {}).port == known.port


@given(
    words=st.lists(st.text(max_size=8), max_size=6), environ=st.dictionaries(st.text(max_size=8), st.text(max_size=8))
)
@examples(200)
def test_any_words_are_read_without_a_fault(words: list[str], environ: dict[str, str]) -> None:
    told = told_port(words, environ)
    assert told.port is None or 0 <= told.port < 1 << 16
    assert set(command_words(words, LAUNCHERS_OWN, lambda word: False)) <= set(words)
