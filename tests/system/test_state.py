"""The state folder: whole or made whole by the next launcher, and never a gift of what is somebody else's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.system import state

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make folders of other users")
ALICE = 2001


def opened(app_dir: Path) -> os.stat_result:
    folder = app_dir / state.FOLDER
    os.close(state.open_folder(folder, app_dir))
    return folder.stat()


def test_a_state_folder_of_a_launcher_that_was_killed_after_mkdir_is_ignored_by_git(tmp_path: Path) -> None:
    (tmp_path / state.FOLDER).mkdir()
    opened(tmp_path)
    assert (tmp_path / state.FOLDER / ".gitignore").read_text() == "*\n"


@as_root
def test_a_state_folder_that_root_has_half_made_goes_to_the_apps_owner(tmp_path: Path) -> None:
    os.chown(tmp_path, ALICE, ALICE)
    (tmp_path / state.FOLDER).mkdir()
    assert opened(tmp_path).st_uid == ALICE
    assert (tmp_path / state.FOLDER / ".gitignore").stat().st_uid == ALICE


@as_root
def test_a_folder_of_roots_with_something_in_it_is_never_given_away(tmp_path: Path) -> None:
    os.chown(tmp_path, ALICE, ALICE)
    (tmp_path / state.FOLDER).mkdir(0o700)
    (tmp_path / state.FOLDER / "secret").write_text("root's alone")
    assert opened(tmp_path).st_uid == 0
