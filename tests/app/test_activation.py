"""What activating an environment sets reaches the app, and a shell runs only where there is a script."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from launcher.app import activation
from launcher.errors import LauncherError
from tests.support.apps import AppFolder, clean_environment, launcher
from tests.support.environments import make_venv
from tests.support.launched import hello

PATH = {"PATH": os.environ["PATH"]}


def conda(folder: Path, **scripts: str) -> str:
    """Make what looks like an environment of conda's with these activation scripts."""
    (folder / "conda-meta").mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
    (folder / "etc" / "conda" / "activate.d").mkdir(parents=True)
    for name, text in scripts.items():
        (folder / "etc" / "conda" / "activate.d" / f"{name}.sh").write_text(text)
    return str(folder)


def test_what_the_scripts_export_is_added_in_their_order_and_a_failing_one_keeps_none_from_running(
    tmp_path: Path,
) -> None:
    prefix = conda(
        tmp_path / "an env[1]",
        a="export A=1\nlocal_only=1\necho noise\n",
        b='export B="$A two\nlines"\nfalse\nreturn 3\n',
        c='export LIBS="/env/lib${LIBS:+:$LIBS}" KEPT=theirs\nunset PYTHONHOME\n',
    )
    environment = {**PATH, "LIBS": "/mine", "KEPT": "mine"}
    got = activation.activated(environment, prefix, ("LIBS", "KEPT"))
    added = {name: value for name, value in got.items() if environment.get(name) != value}
    assert added == {"A": "1", "B": "1 two\nlines", "LIBS": "/env/lib:/mine"}


def test_no_shell_runs_where_there_is_no_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation, "_run", None)
    prefix = conda(tmp_path / "env")
    assert activation.activated(PATH, prefix, ()) == PATH
    state = {"env_vars": {"CUDA_HOME": "/cuda", "GONE": "***unset***", "KEPT": "theirs", "N": 1}}
    (tmp_path / "env" / "conda-meta" / "state").write_text(json.dumps(state))
    got = activation.activated({**PATH, "KEPT": "mine"}, prefix, ("KEPT",))
    assert got == {**PATH, "KEPT": "mine", "CUDA_HOME": "/cuda"}
    (tmp_path / "env" / "conda-meta" / "state").write_text("[" * 100_000)
    assert activation.variables(prefix) == {}


def test_a_plain_venv_has_nothing_to_run_and_one_with_a_line_of_the_users_has(tmp_path: Path) -> None:
    make_venv(tmp_path / "venv")
    assert activation.scripts(str(tmp_path / "venv")) == ()
    activate = tmp_path / "venv" / "bin" / "activate"
    activate.write_text(f"{activate.read_text()}\nexport EXTRA=1\n")
    assert activation.scripts(str(tmp_path / "venv")) == (str(activate),)
    assert activation.activated(PATH, str(tmp_path / "venv"), ())["EXTRA"] == "1"


def test_scripts_that_hang_are_given_up(tmp_path: Path) -> None:
    prefix = conda(tmp_path / "env", a="sleep 60 & sleep 60\n")
    begun = time.monotonic()
    with pytest.raises(LauncherError, match="not done after 0.3 s") as caught:
        activation.activated(PATH, prefix, (), seconds=0.3)
    assert (caught.value.status, time.monotonic() - begun < 10) == (75, True)


def test_the_app_gets_what_its_environment_sets_and_a_dry_run_runs_no_script(app: AppFolder, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    prefix = conda(tmp_path / "env", a=f"export ADDED=1 FROM_ENV=theirs\ntouch {touched}\n")
    app.write_env("FROM_ENV=mine\nAPP_UNSET=NOT_WANTED\n")
    words = (*app.arguments, "--python", sys.executable)
    assert "would activate" not in launcher(*words, "-n").out
    app.write_env(
        f"FROM_ENV=mine\nAPP_PYTHON={prefix}\nPYTHONPATH={os.pathsep.join(path for path in sys.path if path)}\n"
    )
    done = launcher(*app.arguments, "-n")
    assert f"would activate: {prefix}\n" in done.out
    assert not touched.exists()
    got = hello(launcher(*app.arguments, "--", "--exit", "0"))["env"]
    assert (got["ADDED"], got["FROM_ENV"], got["CONDA_PREFIX"]) == ("1", "mine", prefix)
    touched.unlink()
    active = clean_environment(CONDA_PREFIX=prefix)
    assert "ADDED" not in hello(launcher(*app.arguments, "--", "--exit", "0", env=active))["env"]
