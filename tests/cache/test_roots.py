from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from launcher.app import command
from launcher.cache import roots
from launcher.config import settings
from tests.support.apps import AppFolder, clean_environment, launcher, make_app

# Python's own start and the import are paid once for all environments: each is asked in a fork of this program.
ASK = """\
import json, os, sys
question = json.load(sys.stdin)
for environ, folder in question:
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.environ.clear()
        os.environ.update(environ)
        os.chdir(folder)
        from huggingface_hub import constants
        print(json.dumps([os.path.abspath(constants.HF_HUB_CACHE), constants.ENDPOINT]), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""

ENVIRONMENTS: tuple[dict[str, str], ...] = (
    {},
    {"HF_HOME": "/data/hf"},
    {"HF_HOME": "cache_hub"},
    {"HF_HOME": "./cache_hub/"},
    {"HF_HOME": "~/hf"},
    {"HF_HOME": "~"},
    {"HF_HOME": "$DATA/hf", "DATA": "/data"},
    {"HF_HOME": "${DATA}/hf", "DATA": "/data"},
    {"HF_HOME": "$NONE/hf"},
    {"HF_HOME": "$TILDE", "TILDE": "~/hf"},
    {"HF_HOME": "$ONE", "ONE": "$TWO", "TWO": "/two"},
    {"HF_HOME": "~/$DATA", "DATA": "x"},
    {"HF_HOME": "/data/$é", "é": "x"},
    {"HF_HOME": "/data/../other"},
    {"HF_HUB_CACHE": "/data/hub", "HF_HOME": "/data/hf"},
    {"HF_HUB_CACHE": "./hub"},
    {"HF_HUB_CACHE": "~/hub"},
    {"HF_HUB_CACHE": "$HF_HOME/own", "HF_HOME": "/data/hf"},
    {"HUGGINGFACE_HUB_CACHE": "/data/old"},
    {"HUGGINGFACE_HUB_CACHE": "/data/old", "HF_HUB_CACHE": "/data/new"},
    {"HUGGINGFACE_HUB_CACHE": "~/$DATA/old", "HF_HOME": "/data/hf", "DATA": "x"},
    {"XDG_CACHE_HOME": "/xdg"},
    {"XDG_CACHE_HOME": "xdg"},
    {"XDG_CACHE_HOME": "~/xdg"},
    {"XDG_CACHE_HOME": "/xdg", "HF_HOME": "/data/hf"},
    {"HOME": "/"},
    {"HOME": "/", "HF_HOME": "~/hf"},
    {"HOME": "/home/somebody/", "HF_HOME": "~/hf"},
    {"HF_HOME": "~root/hf"},
    {"HF_HOME": "~nosuchuser/hf"},
    {"HF_HOME": "/data/模型"},
    {"HF_HOME": "/data/two words"},
)


def ask(questions: list[tuple[Mapping[str, str], Path]]) -> list[list[str]]:
    pytest.importorskip("huggingface_hub")
    done = subprocess.run(
        (sys.executable, "-c", ASK),
        input=json.dumps([(dict(environ), str(folder)) for environ, folder in questions]),
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(questions), done.stderr
    return answers


def test_the_hub_cache_is_where_huggingface_hub_itself_looks(tmp_path: Path) -> None:
    environments = [{"HOME": "/home/somebody", **environ} for environ in ENVIRONMENTS]
    expected = [answer[0] for answer in ask([(environ, tmp_path) for environ in environments])]
    ours = [os.path.abspath(roots.hub_cache(environ, tmp_path)) for environ in environments]
    assert list(zip(environments, ours, strict=True)) == list(zip(environments, expected, strict=True))
    assert not [path for path in ours if path.startswith("//")]


def test_without_a_home_the_password_database_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/the/launchers/own")
    assert [[str(roots.hub_cache({}, tmp_path)), "https://huggingface.co"]] == ask([({}, tmp_path)])


FILES = (
    "",
    "HF_HOME=./cache_hub\n",
    "HF_HOME=\n",
    "HF_HOME=~/hf\n",
    "HF_HUB_CACHE=own\nHF_HOME=hf\n",
    "ROOT=/data\nHF_HOME=${ROOT}/hf\n",
    "ROOT=/data\nHF_HOME=$ROOT/hf\n",
    "HUGGINGFACE_HUB_CACHE=./old\n",
    "XDG_CACHE_HOME=./xdg\n",
    "HF_ENDPOINT=https://hf-mirror.com\n",
    "HF_ENDPOINT=\n",
)
OUTSIDE: tuple[dict[str, str], ...] = (
    {},
    {"HF_HOME": "/environment"},
    {"HF_HOME": "relative"},
    {"HF_HOME": "", "HF_HUB_CACHE": " "},
    {"ROOT": "/environment"},
    {"HF_ENDPOINT": "https://hub.example/"},
    {"HF_ENDPOINT": ""},
)


@pytest.mark.slow
def test_what_a_launch_tells_of_cache_and_endpoint_is_what_the_apps_library_then_uses(tmp_path: Path) -> None:
    told, questions = [], []
    for file in FILES:
        for convention in (False, True):
            folder = tmp_path / str(len(questions))
            (folder / "cache_hub").mkdir(parents=True) if convention else folder.mkdir()
            (folder / "webui.py").touch()
            (folder / ".env").write_text(file)
            for outside in OUTSIDE:
                environ = {"HOME": "/home/somebody", "PATH": "/usr/bin:/bin", **outside}
                found = settings.load({"APP_DIR": str(folder)}, environ, settings.Call(tmp_path))
                environment = command.build(found, environ, sys.executable).environment
                endpoint = found.variables.get("HF_ENDPOINT")
                told.append(
                    [
                        str(roots.hub_cache(environment, folder)),
                        endpoint.value.rstrip("/") if endpoint else "https://huggingface.co",
                    ]
                )
                questions.append((environment, folder))
    assert told == ask(questions)


def test_a_launch_and_status_name_the_same_cache(app: AppFolder) -> None:
    app.write_env("HF_HOME=./cache_hub\n")
    planned = launcher(*app.arguments, "-n")
    shown = launcher("status", *app.arguments)
    assert f"cache: {app.path}/cache_hub/hub (.env line 1)\n" in planned.out
    assert f"cache: {app.path}/cache_hub/hub (does not exist)\n" in shown.out


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("cache_hub/hub/models--koge--index-tts-v22", "cache_hub/hub"),
        ("cache_hub/models--koge--index-tts-v22", "cache_hub"),
        ("cache_hub/datasets--a--b", "cache_hub"),
    ],
)
def test_a_cache_hub_in_the_apps_folder_is_the_cache_in_either_shape(app: AppFolder, entry: str, expected: str) -> None:
    (app.path / entry).mkdir(parents=True)
    done = launcher(*app.arguments, "-n")
    assert f"cache: {app.path}/{expected} (default: cache_hub in the app's folder)\n" in done.out


def test_a_named_cache_wins_over_the_folders_convention(app: AppFolder, tmp_path: Path) -> None:
    (app.path / "cache_hub" / "models--a--b").mkdir(parents=True)
    done = launcher(*app.arguments, "-n", env=clean_environment(HF_HOME=str(tmp_path)))
    assert f"cache: {tmp_path}/hub (environment)\n" in done.out


def test_caches_in_the_apps_folder_are_roots_only_where_they_hold_hub_entries(tmp_path: Path) -> None:
    environ = {"HF_HUB_CACHE": "/elsewhere"}
    for name in ("cache_hub/xet", "checkpoints/hf_cache/w2v-bert-2.0", "checkpoints/models--none"):
        (tmp_path / name).mkdir(parents=True)
    assert roots.folders(environ, tmp_path) == (Path("/elsewhere"),)
    for name in ("cache_hub/models--a--b", "cache_hub/hub/datasets--a--b", "checkpoints/hf_cache/models--c--d"):
        (tmp_path / name).mkdir(parents=True)
    assert roots.folders(environ, tmp_path) == (
        Path("/elsewhere"),
        tmp_path / "cache_hub",
        tmp_path / "cache_hub" / "hub",
        tmp_path / "checkpoints" / "hf_cache",
    )


def test_one_cache_under_two_names_is_one_root(tmp_path: Path) -> None:
    (tmp_path / "cache_hub" / "hub" / "models--a--b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("cache_hub")
    found = roots.folders({"HF_HOME": str(tmp_path / "link")}, tmp_path)
    assert [os.path.realpath(root) for root in found] == [os.path.realpath(tmp_path / "cache_hub" / "hub")]


# An app that asks the library itself where its cache is, and what is in it.
ASKING = """\
import json
from huggingface_hub import constants, scan_cache_dir
import os
cache = constants.HF_HUB_CACHE
print(json.dumps({"pid": os.getpid(), "cache": os.path.realpath(cache), "entries": sorted(os.listdir(cache))}))
"""
ORIGINS: tuple[tuple[str, dict[str, str], str, bool], ...] = (
    ("HF_HOME=./cache_hub\n", {}, "app/cache_hub/hub", True),
    ("HF_HUB_CACHE=./cache_hub\n", {}, "app/cache_hub", True),
    ("HF_HOME=../outside\n", {}, "outside/hub", True),
    ("HUGGINGFACE_HUB_CACHE=../old\n", {}, "old", True),
    ("", {}, "app/cache_hub", True),
    ("", {}, "app/cache_hub/hub", True),
    ("", {"HF_HOME": "/named"}, "named/hub", False),
    ("HF_HOME=./cache_hub\n", {"HF_HUB_CACHE": "/named"}, "named", False),
    ("", {"XDG_CACHE_HOME": "/xdg"}, "xdg/huggingface/hub", False),
    ("", {"HOME": "/home"}, "home/.cache/huggingface/hub", False),
    ("HF_HOME=~/.cache/huggingface\n", {"HOME": "/home"}, "home/.cache/huggingface/hub", False),
)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "outside", "folder", "owned"), ORIGINS, ids=[origin[2] for origin in ORIGINS])
def test_what_the_launcher_clears_is_what_the_app_then_uses(
    tmp_path: Path, file: str, outside: dict[str, str], folder: str, owned: bool
) -> None:
    pytest.importorskip("huggingface_hub")
    app = make_app(tmp_path / "app", ASKING)
    app.write_env(file)
    cache = tmp_path / folder
    (cache / "models--koge--index-tts-v22" / "snapshots").mkdir(parents=True)
    (cache / "models--koge--index-tts-v22" / "refs").mkdir()
    environ = {"HOME": str(tmp_path / "home"), **{name: f"{tmp_path}{value}" for name, value in outside.items()}}
    env = clean_environment(**environ)
    kept = launcher(*app.arguments, env=env)
    assert kept.json == {**kept.json, "cache": str(cache), "entries": ["models--koge--index-tts-v22"]}
    if not owned:
        refused = launcher(*app.arguments, "--clear-cache", env=env)
        assert refused.status == 2, refused.err
        assert f"{cache} " in refused.err
        assert "is shared with other programs: koge/index-tts-v22 would be removed" in refused.err
        assert (cache / "models--koge--index-tts-v22").is_dir()
    cleared = launcher(*app.arguments, "--clear-cache", *(() if owned else ("--yes",)), env=env)
    assert cleared.json["cache"] == str(cache)
    assert [entry for entry in cleared.json["entries"] if not entry.startswith(".start_app-trash-")] == []


@pytest.mark.parametrize("place", ["cache_hub", "cache_hub/hub", "checkpoints/hf_cache"])
def test_caches_that_the_articles_show_go_beside_the_one_in_use(app: AppFolder, tmp_path: Path, place: str) -> None:
    app.write_env("HF_HOME=../elsewhere\n")
    (app.path / place / "models--a--b" / "refs").mkdir(parents=True)
    (app.path / "checkpoints").mkdir(exist_ok=True)
    (app.path / "checkpoints" / "gpt.pth").write_text("weights")
    done = launcher("cache", "clear", *app.arguments)
    assert done.status == 0, done.err
    assert os.listdir(app.path / place) == []
    assert (app.path / "checkpoints" / "gpt.pth").read_text() == "weights"
