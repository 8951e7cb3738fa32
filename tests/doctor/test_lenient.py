"""Invalid settings are ignored, the others are loaded, and each problem is reported once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.config import lenient, settings
from launcher.config.settings import CHECKED_NAMES, Call
from launcher.errors import LauncherError

NAMES = st.sampled_from((*CHECKED_NAMES, "HF_TOKEN", "PATH", "OTHER"))
VALUES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ("7860", "many", "'", "https://x y", "./a", "$NO/x", "\0", "yes", "-m no.module", "-1", "/dev/null")
    ),
)
# No environment can hold a NUL.
POSSIBLE = VALUES.filter(lambda value: "\0" not in value)
LINES = st.one_of(st.tuples(NAMES, st.sampled_from(("=", ": ", "")), VALUES).map("".join), st.text(max_size=20))


@given(lines=st.lists(LINES, max_size=8), names=st.dictionaries(NAMES.filter("APP_DIR".__ne__), POSSIBLE, max_size=3))
def test_every_problem_is_told_once_and_the_rest_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], names: dict[str, str]
) -> None:
    folder = tmp_path_factory.mktemp("app")
    (folder / "webui.py").write_text("")
    (folder / ".env").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    environ = {"HOME": str(folder), "PATH": "/usr/bin:/bin", **names}
    call = Call(folder, (folder,))
    try:
        settings.load({}, environ, call)
        refused = None
    except LauncherError as error:
        refused = error.message
    loaded, problems = lenient.load({}, environ, call)
    messages = [problem.message for problem in problems]
    assert messages[:1] == ([refused] if refused else [])
    assert len(messages) == len(set(messages))
    assert isinstance(loaded.port, int)
    assert isinstance(loaded.app_dir, Path)


def test_two_wrong_values_and_a_missing_script_are_three_problems(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GRADIO_SERVER_PORT=x\nHF_ENDPOINT=y\nHF_HOME=./hf\n")
    loaded, problems = lenient.load({}, {"HOME": "/"}, Call(tmp_path, (tmp_path,)))
    assert len(problems) == 3
    assert loaded.variables["HF_HOME"].value == str(tmp_path / "hf")
    assert loaded.port == 7860
