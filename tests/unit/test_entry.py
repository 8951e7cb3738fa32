from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.apps import (
    ROOT,
    START_APP,
    AppFolder,
    Done,
    Processes,
    alive,
    clean_environment,
    eventually,
    get,
    launcher,
)
from tests.support.environments import DOTENV, PSUTIL, make_venv, skip_where_unreachable
from tests.support.launched import hello

EXIT = ("--", "--exit", "0")


def launched(app: AppFolder, done: Done) -> None:
    seen = hello(done)
    assert seen["cwd"] == str(app.path)
    assert seen["argv"][:3] == ["webui.py", "--port", str(app.port)]


@pytest.fixture
def copied(app: AppFolder) -> AppFolder:
    """Have the launcher lie in the app's own folder, as the README says to put it there."""
    shutil.copy(START_APP, app.path)
    shutil.copytree(ROOT / "launcher", app.path / "launcher", ignore=shutil.ignore_patterns("__pycache__"))
    return app


@pytest.mark.parametrize("where", ["/", "app", "elsewhere"])
def test_a_copy_in_the_apps_folder_works_from_any_folder(copied: AppFolder, tmp_path: Path, where: str) -> None:
    cwd = {"/": Path("/"), "app": copied.path, "elsewhere": tmp_path}[where]
    start_app = Path("start_app.py") if where == "app" else copied.path / "start_app.py"
    launched(copied, launcher("-p", str(copied.port), *EXIT, cwd=cwd, start_app=start_app))


@pytest.mark.parametrize("flags", [("-I",), ("-P",), ("-s", "-E"), ("-B",), ("-OO",), ("-W", "error")])
def test_a_copy_works_under_any_flag_of_the_interpreter(
    copied: AppFolder, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    if flags == ("-P",) and sys.version_info < (3, 11):
        pytest.skip("-P came with Python 3.11")
    python = (sys.executable, *flags)
    launched(copied, launcher("-p", str(copied.port), *EXIT, cwd=tmp_path, python=python,
                              start_app=copied.path / "start_app.py"))  # fmt: skip


def test_a_safe_path_does_not_hide_the_launchers_own_package(copied: AppFolder, tmp_path: Path) -> None:
    env = clean_environment(PYTHONSAFEPATH="1")
    done = launcher("-p", str(copied.port), *EXIT, cwd=tmp_path, env=env, start_app=copied.path / "start_app.py")
    launched(copied, done)


def test_a_package_of_the_same_name_in_the_current_folder_is_not_taken(app: AppFolder, tmp_path: Path) -> None:
    (tmp_path / "launcher").mkdir()
    (tmp_path / "launcher" / "__init__.py").write_text("raise SystemExit('the wrong launcher')")
    launched(app, launcher(*app.arguments, *EXIT, cwd=tmp_path, env=clean_environment(PYTHONPATH=str(tmp_path))))


@pytest.mark.parametrize("absolute", [True, False])
def test_a_link_in_the_apps_folder_starts_the_app_beside_the_link(
    app: AppFolder, tmp_path: Path, absolute: bool
) -> None:
    link = app.path / "start_app.py"
    link.symlink_to(START_APP if absolute else os.path.relpath(START_APP, app.path))
    launched(app, launcher("-p", str(app.port), *EXIT, cwd=tmp_path, start_app=link))
    launched(app, launcher("-p", str(app.port), *EXIT, cwd=tmp_path, python=(sys.executable, "-I"), start_app=link))


def test_a_link_on_the_path_starts_the_app_beside_the_real_file(copied: AppFolder, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    link = tmp_path / "bin" / "start_app.py"
    link.symlink_to(copied.path / "start_app.py")
    launched(copied, launcher("-p", str(copied.port), *EXIT, cwd=tmp_path, start_app=link))


def test_the_current_folder_is_the_apps_where_the_launcher_lies_beside_no_app(app: AppFolder) -> None:
    launched(app, launcher("-p", str(app.port), *EXIT, cwd=app.path))


def test_it_runs_as_a_module_too(app: AppFolder) -> None:
    env = clean_environment(PYTHONPATH=str(ROOT))
    done = subprocess.run(
        (sys.executable, "-m", "launcher", *app.arguments, *EXIT), env=env, cwd=app.path, capture_output=True, text=True
    )
    launched(app, Done(done.returncode, done.stdout, done.stderr))


def test_it_is_executable_by_its_own_first_line(app: AppFolder) -> None:
    first = START_APP.read_text().splitlines()[0]
    assert first == "#!/usr/bin/env python3"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the project into an environment of its own, as a user does, and return its start-app."""
    installers = {"uv": ("uv", "pip", "install", "--python"), "pip": ("pip", "--python")}
    found = next((name for name in installers if find_spec(name)), None)
    if found is None:
        pytest.skip("neither uv nor pip is here to install with")
    folder = tmp_path_factory.mktemp("installed")
    source, python = folder / "source", folder / "venv" / "bin" / "python"
    shutil.copytree(ROOT / "launcher", source / "launcher", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", source)
    (source / "README.md").touch()
    make_venv(folder / "venv", (PSUTIL, DOTENV))
    words = (*installers[found], python, *(("install",) if found == "pip" else ()), "--no-deps", source)
    done = subprocess.run((sys.executable, "-m", *words), capture_output=True, text=True)
    if done.returncode:
        skip_where_unreachable(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    return python.parent / "start-app"


def run_installed(start_app: Path, *arguments: str, cwd: Path) -> Done:
    done = subprocess.run((start_app, *arguments), cwd=cwd, env=clean_environment(), capture_output=True, text=True)
    return Done(done.returncode, done.stdout, done.stderr)


def test_an_installed_command_starts_the_app_that_it_is_told(app: AppFolder, installed: Path, tmp_path: Path) -> None:
    launched(app, run_installed(installed, *app.arguments, *EXIT, cwd=tmp_path))


def test_an_installed_command_starts_the_app_of_the_current_folder(app: AppFolder, installed: Path) -> None:
    launched(app, run_installed(installed, "-p", str(app.port), *EXIT, cwd=app.path))
    done = run_installed(installed, cwd=Path("/proc"))
    assert (done.status, done.err.splitlines()[0]) == (78, "no webui.py in /proc")


def test_an_installed_command_carries_every_package_of_the_launcher(installed: Path, tmp_path: Path) -> None:
    site = next(installed.parent.parent.glob("lib/python*/site-packages/launcher"))
    assert {str(path.relative_to(ROOT / "launcher")) for path in (ROOT / "launcher").rglob("*.py")} == {
        str(path.relative_to(site)) for path in site.rglob("*.py")
    }
    installed_version = run_installed(installed, "--version", cwd=tmp_path).out
    assert installed_version == launcher("--version").out.replace("start_app.py", "start-app")


def old_python(version: str) -> str:
    pattern = os.path.join(os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv"), "versions", version + ".*")
    found = [*glob.glob(os.path.join(pattern, "bin", "python")), shutil.which(f"python{version}")]
    for path in found:
        if path and subprocess.run((path, "-c", ""), capture_output=True).returncode == 0:
            return path
    return pytest.skip(f"no Python {version} on this machine")


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.7", "3.8", "3.9"])
def test_an_old_python_is_told_which_one_is_needed(app: AppFolder, version: str) -> None:
    python = old_python(version)
    done = launcher(*app.arguments, python=(python, "-B"))
    assert (done.status, done.out) == (78, "")
    assert done.err.splitlines() == [
        f"start_app.py needs Python 3.10 or newer, and {python} is Python {version}",
        "hint: run it with the app's own interpreter: .venv/bin/python start_app.py",
    ]


def bare(tmp_path: Path, *packages: Path) -> tuple[Path, Path]:
    return tmp_path / "venv" / "bin" / "python", make_venv(tmp_path / "venv", packages)


def test_psutil_and_dotenv_are_all_that_a_launch_needs(app: AppFolder, tmp_path: Path) -> None:
    python, _ = bare(tmp_path, PSUTIL, DOTENV)
    app.write_env("A=1\n")
    launched(app, launcher(*app.arguments, *EXIT, python=(python,)))
    assert launcher("status", *app.arguments, python=(python,)).status == 0


@pytest.mark.parametrize(
    ("present", "names", "packages"),
    [
        ((), "psutil>=6 and python-dotenv>=1.0", "'psutil>=6' 'python-dotenv>=1.0'"),
        ((PSUTIL,), "python-dotenv>=1.0", "'python-dotenv>=1.0'"),
        ((DOTENV,), "psutil>=6", "'psutil>=6'"),
    ],
)
@pytest.mark.parametrize("with_pip", [True, False])
def test_a_missing_dependency_is_one_line_with_the_command_that_installs_it(
    app: AppFolder, tmp_path: Path, present: tuple[Path, ...], names: str, packages: str, with_pip: bool
) -> None:
    python, site = bare(tmp_path, *present)
    if with_pip:
        (site / "pip").mkdir()
    command = f"{python} -m pip install" if with_pip else f"uv pip install --python {python}"
    for arguments in ((), ("status",), ("stop",), ("-n",)):
        done = launcher(*app.arguments, *arguments, python=(python,))
        assert (done.status, done.out) == (78, "")
        assert done.err.splitlines() == [f"{names}: not installed for {python}", f"hint: {command} {packages}"]
    assert launcher("--version", python=(python,)).status == 0
    assert launcher("--help", python=(python,)).status == 0
    assert not (app.path / ".start_app").exists()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ImportError('wrong architecture')", "not usable (wrong architecture)"),
        ("version_info = (5, 9, 8); __version__ = '5.9.8'", "version 5.9.8 is too old"),
    ],
)
def test_a_dependency_that_is_broken_or_too_old_is_found_before_anything_is_stopped(
    app: AppFolder, processes: Processes, tmp_path: Path, code: str, said: str
) -> None:
    running = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what="page")
    python, site = bare(tmp_path, DOTENV)
    (site / "psutil").mkdir()
    (site / "psutil" / "__init__.py").write_text(code)
    for arguments in ((), ("-n",), ("stop",), ("status",), ("wait",)):
        done = launcher(*app.arguments, *arguments, python=(python,))
        assert done.status == 78, (arguments, done.err)
        message, hint = done.err.splitlines()[-2:]
        assert "psutil>=6" in message
        assert said in message
        assert hint.startswith("hint: uv pip install")
    assert alive(running.pid)


def test_a_start_app_copied_without_its_folder_says_what_is_missing(tmp_path: Path) -> None:
    shutil.copy(START_APP, tmp_path)
    done = launcher("-n", start_app=tmp_path / "start_app.py", cwd=tmp_path)
    assert done.status == 78
    assert done.err == (
        f"the folder launcher/ is missing beside {tmp_path / 'start_app.py'}\n"
        f"hint: copy it from where start_app.py came from: cp -r launcher {tmp_path}\n"
    )


def test_the_wrong_python_is_told_of_the_apps_own(app: AppFolder, tmp_path: Path) -> None:
    wrong, _ = bare(tmp_path)
    make_venv(app.path / ".venv", (PSUTIL, DOTENV))
    python = app.path / ".venv" / "bin" / "python"
    done = launcher(*app.arguments, "-n", python=(wrong,), cwd=tmp_path)
    assert done.status == 78
    hint = done.err.splitlines()[-1]
    command = hint.removeprefix("hint: run it with the app's own Python: ").partition("; or ")[0]
    assert command.startswith(f"{python} ")
    again = subprocess.run(("bash", "-c", command), cwd=tmp_path, env=clean_environment(), stdout=subprocess.PIPE)
    assert again.returncode == 0
    assert f"--port {app.port}" in again.stdout.decode()


def test_the_apps_own_python_is_not_told_to_be_itself(copied: AppFolder) -> None:
    make_venv(copied.path / ".venv")
    words = {"cwd": copied.path, "python": (".venv/bin/python",), "start_app": Path("start_app.py")}
    done = launcher("-p", str(copied.port), **words)
    assert done.status == 78
    python = copied.path / ".venv" / "bin" / "python"
    assert done.err.splitlines()[1] == f"hint: uv pip install --python {python} 'psutil>=6' 'python-dotenv>=1.0'"
