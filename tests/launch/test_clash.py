"""An app with a module `launcher` of its own is refused before anything is stopped, where a copy hides it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.apps import ROOT, START_APP, AppFolder, Done, Processes, alive, eventually, get, launcher


def copy_into(app: AppFolder) -> None:
    shutil.copy(START_APP, app.path)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "launcher", app.path / "launcher", ignore=ignored, dirs_exist_ok=True)


def launch(app: AppFolder, *words: str) -> Done:
    return launcher(*words, "-p", str(app.port), "--", "--exit", "0", start_app=app.path / "start_app.py")


def import_in(path: Path, line: str) -> None:
    path.write_text(f"{line}\n{path.read_text()}")


def test_a_module_of_the_apps_is_not_hidden_and_the_hint_puts_the_launcher_beside_it(
    app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    (app.path / "launcher.py").write_text("def name(): return 'own'\n")
    import_in(app.script, "import launcher; launcher.name()")
    old = processes.start((sys.executable, "webui.py", "--port", str(app.port)), cwd=app.path)
    eventually(lambda: get(app.port), what="page")
    copy_into(app)
    for words in ((), ("-n",), ("--background",)):
        done = launch(app, *words)
        assert done.status == 78, done.err
        assert (
            f"{app.path}/launcher.py is the app's, and the copy of this launcher in {app.path}/launcher hides"
            in done.err
        )
    assert alive(old.pid)
    hint = next(line.removeprefix("hint: ") for line in done.err.splitlines() if line.startswith("hint: "))
    move, start, _ = hint.split("; ")
    home = tmp_path / "home"
    home.mkdir()
    env = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    start = start.removeprefix("then ")
    command = f"{move} && {start} -p {app.port} -- --exit 0"
    started = subprocess.run(("bash", "-c", command), env=env, capture_output=True, text=True, timeout=60)
    assert started.returncode == 0, started.stderr
    assert f"terminated pid {old.pid}" in started.stderr
    assert shlex.quote(str(app.path)) in start


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("from launcher.core import name", 78),
        ("import launcher", 78),
        ("from launcher import (\n    core)", 78),
        ("from launcher import cli", 0),
        ("import launcher.cli", 0),
        ("import launchers", 0),
        ("# import launcher.core", 0),
    ],
)
def test_a_folder_of_the_apps_that_a_copy_was_merged_into_is_seen_by_what_the_app_imports(
    app: AppFolder, line: str, status: int
) -> None:
    (app.path / "launcher").mkdir()
    (app.path / "launcher" / "core.py").write_text("name = 'own'\n")
    copy_into(app)
    (app.path / "launcher" / "core.py").unlink()
    (app.path / "helper.py").write_text(f"{line}\n")
    done = launch(app)
    assert done.status == status, done.err
    if status:
        assert f"{app.path}/helper.py imports a module launcher of the app's" in done.err
        assert "start-app --app-dir" in done.err


def test_a_launcher_folder_that_is_another_programs_is_named_by_start_app_itself(app: AppFolder) -> None:
    shutil.copy(START_APP, app.path)
    (app.path / "launcher").mkdir()
    (app.path / "launcher" / "__init__.py").touch()
    done = launch(app)
    assert (done.status, done.out) == (78, "")
    assert f"{app.path}/launcher is another program's" in done.err
    assert "start-app --app-dir" in done.err
    assert "Traceback" not in done.err


def test_a_module_of_the_apps_is_in_nobodys_way_where_the_launcher_is_beside_the_app(app: AppFolder) -> None:
    (app.path / "launcher.py").write_text("def name(): return 'own'\n")
    import_in(app.script, "import launcher; launcher.name()")
    assert launcher(*app.arguments, "--", "--exit", "0").status == 0
