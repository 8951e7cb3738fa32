"""Root in another user's folder: what that user has written decides nothing for root, and gets nothing of root's."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from launcher.config import settings
from launcher.models import endpoints
from launcher.system import state
from tests.support.apps import AppFolder, clean_environment, launcher
from tests.support.removal import Cached, everything

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act in another user's folder")
ALICE = 4711
TOKEN = "hf_AbCdEfGhIjKlMnOpQrSt"


def give(folder: Path, uid: int = ALICE) -> None:
    """Give a folder and what is in it to another user."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, uid, uid, follow_symlinks=False)


def loaded(app: AppFolder, **environ: str) -> settings.Settings:
    return settings.load({"APP_DIR": str(app.path)}, environ, settings.Call(app.path))


HOSTILE = """\
PYTHONPATH=/evil
LD_PRELOAD=/evil.so
HF_ENDPOINT=https://evil.example
HF_OFFICIAL_ENDPOINT=https://evil.example
HF_TOKEN_FOR_MIRROR=1
HF_TOKEN_PATH=/root/.cache/huggingface/token
HF_HOME=./hf
"""


def test_another_users_env_names_a_hub_and_neither_code_nor_where_a_token_goes(app: AppFolder) -> None:
    app.write_env(HOSTILE)
    give(app.path)
    own = settings.own_environment(loaded(app), {"HF_TOKEN": TOKEN})
    assert not own.keys() & {"PYTHONPATH", "LD_PRELOAD", "HF_TOKEN_PATH", "HF_HOME", "HF_TOKEN_FOR_MIRROR"}
    hubs = endpoints.of(own)
    assert (hubs.used.url, hubs.used.token) == ("https://evil.example", False)
    assert hubs.official.url == endpoints.OFFICIAL


@pytest.mark.parametrize("sudo", [False, True], ids=["root", "behind sudo"])
@pytest.mark.parametrize("named", [False, True], ids=["found", "named"])
def test_a_file_of_ones_own_decides(app: AppFolder, sudo: bool, named: bool) -> None:
    path = app.write_env(HOSTILE)
    give(app.path)
    environ = {"SUDO_UID": str(ALICE)} if sudo else {}
    flag = str(path) if named else None
    held = settings.load({"APP_DIR": str(app.path)}, environ, settings.Call(app.path, env_file=flag))
    assert (settings.own_environment(held, {}).get("PYTHONPATH") == "/evil") == (sudo or named)
    assert (held.foreign is None) == (sudo or named)


def test_the_app_itself_gets_its_users_settings(app: AppFolder) -> None:
    app.write_env(HOSTILE)
    give(app.path)
    assert settings.app_environment(loaded(app), {})["PYTHONPATH"] == "/evil"
    plan = launcher(*app.arguments, "-n")
    assert f"owner: {app.script} belongs to {ALICE}, and runs as root" in plan.out


def test_another_users_env_makes_no_cache_the_apps_own(cached: Cached, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    cached.hub.rename(theirs)
    env_file = cached.app.write_env(f"HF_HUB_CACHE={theirs}\n")
    give(cached.app.path)
    before = everything(theirs)
    refused = launcher(*cached.app.arguments, "cache", "clear")
    assert refused.status == 2
    assert "nothing was changed" in refused.err
    assert everything(theirs) == before
    done = launcher(*cached.app.arguments, "--env-file", env_file, "cache", "clear")
    assert done.status == 0
    assert not list(theirs.glob("models--*/snapshots")), done.err


def test_a_file_of_roots_that_was_moved_into_the_state_folder_is_neither_given_away_nor_written(app: AppFolder) -> None:
    folder = app.path / state.FOLDER
    folder.mkdir()
    give(app.path)
    secret = folder / "history.jsonl"
    secret.write_text("root's own\n")
    secret.chmod(0o600)
    home = clean_environment(HOME="/nonexistent")
    assert launcher(*app.arguments, "--python", "/nonexistent", env=home).status == 2
    assert secret.stat().st_uid == 0
    assert secret.read_text() == "root's own\n"


def test_a_state_folder_that_is_a_link_is_not_used(app: AppFolder, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "switch-precious").write_text("precious")
    (app.path / state.FOLDER).symlink_to(mine)
    give(app.path)
    assert launcher(*app.arguments, "--no-launch").status == 0
    assert [path.name for path in mine.iterdir()] == ["switch-precious"]


def test_only_roots_sudo_user_is_believed(app: AppFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert loaded(app, SUDO_USER="bob").sudo_user == "bob"
    monkeypatch.setattr(os, "geteuid", lambda: ALICE)
    assert loaded(app, SUDO_USER="bob").sudo_user is None


def test_a_unit_holds_no_secret_and_names_the_file_that_may(app: AppFolder) -> None:
    arguments = (*app.arguments, "unit")
    plain = launcher(*arguments, "--", "--auth", "admin:pw1secret")
    document = json.loads(launcher(*arguments, "--json", "--", "--auth", "admin:pw1secret").out)
    assert plain.status == 0
    assert plain.out == document["unit"]
    assert "pw1secret" not in plain.out + plain.err and "--auth" not in plain.out
    assert "APP_ARGS" in document["left_out"]
    assert f"{app.path / '.env'}" in plain.err


def test_a_view_of_locked_models_is_writable_for_its_owner_alone(tmp_path: Path) -> None:
    from launcher.models import locked_view

    mask = os.umask(0o002)
    try:
        view = locked_view.make(tmp_path, 7860, ())
    finally:
        os.umask(mask)
    assert not stat.S_IMODE(view.stat().st_mode) & 0o022
