from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import pytest
from dotenv.main import DotEnv
from hypothesis import assume, example, given
from hypothesis import strategies as st

from launcher.config import env_file
from launcher.errors import ExitStatus, LauncherError
from tests.support.apps import AppFolder, Processes, clean_environment, launcher
from tests.support.fuzz import dotenv_agrees
from tests.support.launched import received

PATH = Path("/app/.env")
ENVIRON = {"A": "from the environment", "AB": "x y", "PATH": "/usr/bin:/bin"}


def values(text: str, environ: Mapping[str, str] = {}) -> dict[str, str]:  # noqa: B006
    return dict(env_file.parse(PATH, text, environ).values)


def as_dotenv_says(text: str, environ: Mapping[str, str]) -> dict[str, str]:
    with mock.patch.dict(os.environ, environ, clear=True):
        found = DotEnv(None, stream=io.StringIO(text), override=False).dict()
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=1", {"A": "1"}),
        ("export A=1", {"A": "1"}),
        ("A = 1 # comment", {"A": "1"}),
        ("A='one # two'", {"A": "one # two"}),
        ('A="one\\ntwo"', {"A": "one\ntwo"}),
        ("A='one\\ntwo'", {"A": "one\\ntwo"}),
        ('A="one\ntwo"', {"A": "one\ntwo"}),
        ("A=", {"A": ""}),
        ("A", {}),
        ("A=1\nA=2", {"A": "2"}),
        ("A=1\nA", {}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("A=1\nB=${A}/x", {"A": "1", "B": "1/x"}),
        ("B=${A:-none}\nA=1", {"B": "none", "A": "1"}),
        ("B=$A", {"B": "$A"}),
        ("MODEL=模型", {"MODEL": "模型"}),
        ("# only a comment\n\n", {}),
    ],
)
def test_a_file_means_what_python_dotenv_says(text: str, expected: dict[str, str]) -> None:
    assert values(text) == expected
    assert as_dotenv_says(text, {}) == expected


def test_the_environment_wins_inside_an_interpolation_too() -> None:
    text = "ROOT=/file\nHF_HOME=${ROOT}/cache"
    assert values(text, {"ROOT": "/environment"})["HF_HOME"] == "/environment/cache"


def test_a_blank_in_the_environment_does_not_hide_the_files_value_in_an_interpolation() -> None:
    assert values("ROOT=/file\nHF_HOME=${ROOT}/cache", {"ROOT": "  "})["HF_HOME"] == "/file/cache"


HOSTILE = st.text(st.sampled_from("AB=$ {}:-'\"#\\\n\r\t\x0b\x0c\x85\u2028éexport"), max_size=60)
ATOM = st.sampled_from(
    ["1", " ", "x y", "${A}", "${B}", "${B:-d}", "${NO:-d}", "${", "}", "$A", "#", " # c", "\\n", "\\", "é", "'", '"']
)
VALUE = st.lists(ATOM, max_size=5).map("".join)
LINE = st.one_of(
    st.builds("{}={}".format, st.sampled_from(["A", "B", "C", "export B", "'D'", "B "]), VALUE),
    st.builds("{}='{}'".format, st.sampled_from(["B", "C"]), VALUE),
    st.builds('{}="{}"'.format, st.sampled_from(["B", "C"]), VALUE),
    st.sampled_from(["", "  ", "# comment", "B", "export", "; ini comment", "[section]", "not a line", "="]),
)
FILE = st.lists(LINE, max_size=8).flatmap(
    lambda lines: st.sampled_from(["\n", "\r\n", "\r"]).map(lambda n: n.join(lines))
)


@given(text=st.one_of(FILE, HOSTILE))
@example("B=1\nB\nC=${B:-d}")
def test_any_text_gives_the_values_that_dotenv_gives(text: str) -> None:
    assume(dotenv_agrees(text))
    expected = as_dotenv_says(text, ENVIRON)
    assume(not any(not name or "=" in name for name in expected))  # no environment can hold those
    assert values(text, ENVIRON) == expected


def test_a_real_load_dotenv_sets_what_the_app_would_get() -> None:
    texts = [
        "B=${A}\nA=file",
        "B=1\nB\nC=${B:-d}",
        "B='${A}' # c\nC=\"${B} ${NO:-d}\"",
        "export B=x\\\nC=y",
        "B=\nC=${B}${NO}",
        "; B=1\nC=2\nD = ' 3 '",
    ]
    program = (
        "import io, json, os, sys\nfrom dotenv import load_dotenv\nresult = []\n"
        "before = dict(os.environ)\n"
        "for text in json.load(sys.stdin):\n"
        "    os.environ.clear(); os.environ.update(before)\n"
        "    load_dotenv(stream=io.StringIO(text), override=False)\n"
        "    result.append({k: v for k, v in os.environ.items() if before.get(k) != v})\n"
        "print(json.dumps(result))\n"
    )
    done = subprocess.run(
        (sys.executable, "-c", program),
        input=json.dumps(texts),
        env=ENVIRON,
        capture_output=True,
        text=True,
        check=True,
    )
    ours = [{n: v for n, v in values(text, ENVIRON).items() if n not in ENVIRON} for text in texts]
    assert ours == json.loads(done.stdout)


BLOCKS = st.sampled_from(["\n", "  \n", "# c\n", "A=1\n", 'B="1\n2"\n', "\x0c\n", "export C='\n\n'\r\n"])


@given(before=st.lists(BLOCKS, max_size=6), between=st.lists(BLOCKS, max_size=6))
def test_every_line_that_cannot_be_parsed_is_numbered_as_an_editor_numbers_it(
    before: list[str], between: list[str]
) -> None:
    head, middle = "".join(before), "".join(between)
    text = f"{head}not a line\n{middle}HERE=1\n; nor this\n"
    found = env_file.parse(PATH, text, {})
    first = head.count("\n") + 1
    here = first + 1 + middle.count("\n")
    assert tuple(found.unparsable) == (first, here + 1)
    assert found.lines["HERE"] == here


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(b"\xef\xbb\xbfHF_HOME=cache\n")
    assert env_file.read(path, {}).values == {"HF_HOME": "cache"}


def test_a_name_that_no_environment_can_hold_is_named_by_its_line() -> None:
    found = env_file.parse(PATH, "GOOD=1\n'BAD=NAME'=2\n''=3\n", {})
    assert found.values == {"GOOD": "1"}
    assert tuple(found.unparsable) == (2, 3)


def test_a_nul_byte_is_refused_with_its_line_and_without_the_value() -> None:
    with pytest.raises(LauncherError, match=r"HF_TOKEN holds a NUL byte \(/app/.env line 2\)") as caught:
        env_file.parse(PATH, "A=1\nHF_TOKEN=secret\0\n", {})
    assert "secret" not in str(caught.value.message)
    assert caught.value.status == ExitStatus.CONFIG


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"A=1\nB=\xff\xfe\n", "line 2 is not UTF-8 text"),
        ("A=1\n".encode("utf-16"), "line 1 is not UTF-8 text"),
        (b"A=" + b"x" * env_file.MAX_BYTES, "a .env has at most 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / ".env"
    path.write_bytes(data)
    with pytest.raises(LauncherError, match=said) as caught:
        env_file.read(path, {})
    assert caught.value.status == ExitStatus.CONFIG
    assert caught.value.hint


@pytest.mark.parametrize("bad", [ExitStatus.USAGE, ExitStatus.CONFIG])
def test_a_folder_or_nothing_at_all_is_refused_with_the_status_of_who_named_it(tmp_path: Path, bad: ExitStatus) -> None:
    for path, said in ((tmp_path, "it is a folder"), (tmp_path / "none", "No such file")):
        with pytest.raises(LauncherError, match=said) as caught:
            env_file.read(path, {}, bad=bad)
        assert caught.value.status == bad


def test_a_fifo_is_read_as_a_password_manager_serves_it(app: AppFolder, processes: Processes) -> None:
    fifo = app.path / ".env"
    os.mkfifo(fifo)
    processes.start(("sh", "-c", 'printf "SERVED=1\\n" > "$1"', "sh", fifo))
    assert received(app)["env"]["SERVED"] == "1"


def test_a_line_nobody_can_parse_is_named_by_number_and_never_shown(app: AppFolder) -> None:
    app.write_env("A=1\n\nHF_TOKEN hf_abcdefghijklmnopqrstuvwxyz\nB=2\n")
    done = launcher(*app.arguments, "--", "--exit", "0")
    assert done.status == 0
    assert f"{app.path}/.env line 3 cannot be parsed and is ignored\n" in done.err
    assert "hf_abc" not in done.err + done.out
    assert '"B": "2"' in done.out


def test_a_file_written_by_systemds_rules_is_read_as_far_as_it_can_and_the_rest_is_named(app: AppFolder) -> None:
    # systemd.exec(5): `;` begins a comment, a backslash at the end of a line continues it, quotes are taken off.
    app.write_env('; from a unit\nONE=first value\nTWO="quoted"\nLONG=begin \\\nend of it\nTHREE=3\n')
    done = launcher(*app.arguments, "--", "--exit", "0")
    assert done.status == 0
    assert [line for line in done.err.splitlines() if "cannot be parsed" in line] == [
        f"{app.path}/.env line 1 cannot be parsed and is ignored",
        f"{app.path}/.env line 5 cannot be parsed and is ignored",
    ]
    env = json.loads(done.out.splitlines()[0])["env"]
    assert (env["ONE"], env["TWO"], env["THREE"]) == ("first value", "quoted", "3")


def test_a_value_reaches_the_app_as_the_files_own_bytes_under_any_locale(app: AppFolder) -> None:
    app.write_env("MODEL=模型\nHF_HOME=缓存\n")
    for locale in ({"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        env = received(app, env=clean_environment(**locale))["env"]
        assert os.fsencode(env["MODEL"]) in ("模型".encode(), os.fsencode("模型"))
        assert os.fsencode(env["HF_HOME"]) == os.fsencode(app.path / "缓存")


@pytest.mark.parametrize("line", ["A= # comment", "A =  # comment", "export A= # comment", "A=\t# comment"])
def test_a_comment_in_place_of_a_value_is_a_blank_with_every_dotenv(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import dotenv.parser

    real = dotenv.parser.parse_stream

    def before_1_2_4(stream: io.StringIO) -> list[dotenv.parser.Binding]:
        return [binding._replace(value="# comment") for binding in real(stream)]

    assert values(line) == {"A": ""}
    monkeypatch.setattr(dotenv.parser, "parse_stream", before_1_2_4)
    assert values(line) == {"A": ""}
    assert values("A=#comment") == {"A": "# comment"}  # which is what the stand-in for the old parser says
