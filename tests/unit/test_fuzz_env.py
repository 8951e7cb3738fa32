"""A `.env` of any bytes launches an app with the environment that python-dotenv's rules and the README's give it."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

from dotenv.main import DotEnv
from hypothesis import assume, example, given
from hypothesis import strategies as st

from launcher.app import command
from launcher.config import settings
from launcher.config.settings import HUB_CACHE_NAMES, PATH_NAMES
from launcher.errors import ExitStatus, LauncherError
from tests.support.apps import AppFolder, clean_environment, launcher, make_app
from tests.support.fuzz import dotenv_agrees, examples

NAMES = (
    "A", "B", "LONG_NAME", "a.b", "HF_HOME", "HF_HUB_CACHE", "TORCH_HOME", "HF_TOKEN", "HF_ENDPOINT", "APP_ARGS",
    "APP_PORT_FLAG", "APP_HOST_FLAG", "GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "APP_LOCKED", "CUDA_VISIBLE_DEVICES",
    "PATH", "HOME", "PWD", "VIRTUAL_ENV", "http_proxy", "no_proxy", "XDG_CACHE_HOME", "APP_SCRPT", "APP_NOTIFY_URL",
)  # fmt: skip
PARTS = (
    "1", "x", " ", "\t", "#", " # c", "${A}", "${B}", "${B:-d}", "${NO:-}", "${NO:-${A}}", "${", "}", "$A", "~", "~/x",
    "/", "./c", "..", "\\n", "\\", "\\'", '\\"', "'", '"', "=", "é", "模型", "\x85", "\u2028", "\x0b", "\x1b[0m",
    "none", "7860", "07860", "https://h", "https://u:p@h:1/x", "--port", "true", "0.0.0.0",
)  # fmt: skip
ENVIRONS: tuple[Mapping[str, str], ...] = (
    {},
    {"A": "from the environment", "B": " ", "HF_HOME": ""},
    {"HF_HOME": "/e/hf", "CUDA_VISIBLE_DEVICES": "", "APP_ARGS": "--env"},
    {"TORCH_HOME": "t", "HF_ENDPOINT": "  ", "NO": "yes", "GRADIO_SERVER_PORT": "7861"},
)
value = st.lists(st.sampled_from(PARTS), max_size=4).map("".join)
quoted = st.one_of(value, value.map("'{}'".format), value.map('"{}"'.format), value.map('"{}\n2"'.format))
assignment = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(("", "", "", "export ", "  ", "\t")),
    st.one_of(st.sampled_from(NAMES), st.sampled_from(NAMES).map("'{}'".format)),
    st.sampled_from(("=", "=", "=", " = ", "")),
    quoted,
    st.sampled_from(("", "", " # comment", "#", " ")),
)
line = st.one_of(assignment, assignment, st.sampled_from(("", "# c", "; c", "[s]", "no line", "=", "'", '"', "export")))
texts = st.builds(
    lambda lines, end, mark: (mark + end.join(lines)).encode(),
    st.lists(line, max_size=7),
    st.sampled_from(("\n", "\n", "\r\n", "\r")),
    st.sampled_from(("", "", "\ufeff")),
)


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """Return such a file with some bytes that are no text in it."""
    data = draw(texts)
    at = draw(st.integers(0, len(data)))
    return data[:at] + draw(st.sampled_from((b"\0", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc3"))) + data[at:]


files = st.one_of(texts, texts, texts, spoiled(), st.binary(max_size=60))


def by_the_rules(data: bytes, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what python-dotenv reads of a file: the environment wins, and a blank in it is unset."""
    present = {name: text for name, text in environ.items() if text.strip()}
    with mock.patch.dict(os.environ, present, clear=True):
        found = DotEnv(None, stream=io.StringIO(data.decode("utf-8-sig")), override=False).dict()
    return {name: text for name, text in found.items() if text is not None and name and not {*name} & {"=", "\0"}}


def wanted(data: bytes, environ: Mapping[str, str], app: AppFolder) -> dict[str, str]:
    """Return what the README's "Settings" says of the environment that a launch makes of it, but for named paths."""
    file = by_the_rules(data, environ)
    merged = {**file, **{name: text for name, text in environ.items() if text.strip()}}
    hidden = environ.get("CUDA_VISIBLE_DEVICES")
    merged = {name: text for name, text in merged.items() if text.strip()}
    if hidden is not None:
        merged["CUDA_VISIBLE_DEVICES"] = hidden
    merged["GRADIO_SERVER_PORT"] = str(int(merged.get("GRADIO_SERVER_PORT", "7860")))
    return merged


# The launcher's own business, told elsewhere: the app's environment, folder and proxy.
OWN = frozenset(
    (
        "PATH",
        "PWD",
        "VIRTUAL_ENV",
        "CONDA_PREFIX",
        "PYTHONUNBUFFERED",
        "no_proxy",
        "NO_PROXY",
        "PYTHONHOME",
        "START_APP_INSTANCE",
    )
)


def check(found: Mapping[str, str], data: bytes, environ: Mapping[str, str], app: AppFolder) -> None:
    expected = wanted(data, environ, app)
    if not any(name in expected for name in HUB_CACHE_NAMES):
        found = {name: text for name, text in found.items() if name not in HUB_CACHE_NAMES}
    assert {name for name in found if name not in OWN} == {name for name in expected if name not in OWN}
    for name, text in expected.items():
        if name == "GRADIO_SERVER_NAME":
            assert found[name] == text.strip("[]")
        elif name in PATH_NAMES:
            assert os.path.isabs(found[name])
            if "$" not in text and "~" not in text and ".." not in text:
                assert found[name] == str(app.path / text)
        elif name not in OWN:
            assert os.fsencode(found[name]) == os.fsencode(text), name


@given(data=files, environ=st.sampled_from(ENVIRONS))
@example(data=b"GRADIO_SERVER_PORT=" + b"0" * 5000 + b"7860\n", environ={})
@examples(300)
def test_any_file_gives_the_environment_of_the_rules_or_a_refusal(
    data: bytes, environ: Mapping[str, str], tmp_path: Path
) -> None:
    assume(dotenv_agrees(data.decode("utf-8", "replace")))
    app = tmp_path / "app"
    shutil.rmtree(app, ignore_errors=True)
    folder = make_app(app)
    (app / ".env").write_bytes(data)
    environ = {"HOME": str(tmp_path), **environ}
    try:
        found = settings.load({}, environ, settings.Call(tmp_path, (app,)))
        built = command.build(found, environ, os.path.realpath("/proc/self/exe"))
    except LauncherError as error:
        assert error.status == ExitStatus.CONFIG
        assert error.message
        return
    assert not any("\0" in name + text for name, text in built.environment.items())
    check(built.environment, data, environ, folder)


@given(data=files, environ=st.sampled_from(ENVIRONS))
@examples(8, shrink=False)
def test_any_file_reaches_a_real_process_so_or_is_refused(
    data: bytes, environ: Mapping[str, str], app: AppFolder
) -> None:
    assume(dotenv_agrees(data.decode("utf-8", "replace")))
    (app.path / ".env").write_bytes(data)
    variables = clean_environment(**environ, HOME=str(app.path.parent))
    done = launcher("--app-dir", app.path, "--port", str(app.port), "--", "--exit", "0", env=variables)
    assert "Traceback" not in done.err
    told = next((line for line in done.out.splitlines() if line.startswith('{"pid"')), None)
    if told is None:
        assert done.status in (2, 78), done.err
        return
    # What the launcher itself tells the app besides.
    besides = {"START_APP_MODELS", "START_APP_MODELS_TEXT", "LC_CTYPE"}
    found = {name: text for name, text in json.loads(told)["env"].items() if name not in besides}
    check({**found, "GRADIO_SERVER_PORT": "1"}, data, {**variables, "GRADIO_SERVER_PORT": "1"}, app)
