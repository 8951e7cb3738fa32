"""What init proposes for each family of apps."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from launcher.config import settings
from launcher.operations.proposal import Proposal, propose
from launcher.scripts import presets
from tests.support.families import APPS, App

NUMBER = "31860"


def make(folder: Path, app: App, port: str = NUMBER) -> Path:
    """Write an app's files, and its console scripts into a `.venv`."""
    for name, text in app.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(with_port(text, port))
    for name, target in app.installed.items():
        module, _, function = target.partition(":")
        path = folder / ".venv" / "bin" / name
        path.parent.mkdir(parents=True)
        code = f"sys.path.insert(0, {str(folder)!r})\nfrom {module} import {function}\nsys.exit({function}())\n"
        path.write_text(f"#!{sys.executable}\nimport sys\n{code}")
        path.chmod(0o755)
        (path.parent / "python").symlink_to(sys.executable)
    return folder


def with_port(text: str, port: str) -> str:
    return re.sub(r"(?<![\w'])PORT(?![\w'])", port, text)


def proposed(folder: Path) -> Proposal:
    loaded = settings.load({"APP_DIR": str(folder)}, {}, settings.Call(folder), needs_script=False)
    return propose(loaded)


@pytest.mark.parametrize("name", APPS)
def test_init_reads_off_how_an_app_is_started(name: str, tmp_path: Path) -> None:
    app = APPS[name]
    proposal = proposed(make(tmp_path, app))
    lines = {line.name: line.value for line in proposal.lines}
    expected = {
        key: with_port(value, NUMBER) if key == "GRADIO_SERVER_PORT" else value for key, value in app.lines.items()
    }
    if app.by_hand:
        assert any("yourself" in note for note in proposal.notes)
    assert lines == expected, proposal
    assert all(line.reason for line in proposal.lines)


def test_there_are_families_enough_and_few_need_a_line_by_hand() -> None:
    assert len(APPS) >= 30
    assert len([app for app in APPS.values() if app.by_hand]) <= 2


# What the entry scripts declare, as read in the projects' own files.
DECLARED = {
    "Stable Diffusion web UI, and what was made from it": ("--port", "--server-name", "--listen"),
    "Fooocus": ("--port", "--listen"),
}


@pytest.mark.parametrize("preset", presets.presets(), ids=lambda preset: preset.name)
def test_a_preset_is_recognized_and_its_lines_are_settings(preset: presets.Preset, tmp_path: Path) -> None:
    assert presets.recognized(tmp_path) is None
    for name in (*preset.files, *preset.lines["APP_SCRIPT"].split()):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert presets.recognized(tmp_path) == preset
    lines = {line.name: line.value for line in proposed(tmp_path).lines}
    usual = {"APP_PORT_FLAG": "--port", "APP_HOST_FLAG": "--host"}
    assert lines == {name: value for name, value in preset.lines.items() if usual.get(name) != value}
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
    loaded = settings.load({"APP_DIR": str(tmp_path)}, {}, settings.Call(tmp_path))
    flags = (*loaded.form.port_flags, *loaded.form.host_flags)
    assert set(flags) <= set(DECLARED.get(preset.name, ()))
