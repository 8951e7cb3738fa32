"""The playground is what it says: a real hub cache, a real Gradio app, whole or not there."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher.demo import HUB_CACHE, MARKER, make_playground
from launcher.errors import ExitStatus, LauncherError

ROOT = Path(__file__).resolve().parents[1]
NEWEST, OLDER = "koge/index-tts-v23", "koge/index-tts-v22"
DEADLINE_S = 60.0
# The lines that python-dotenv and systemd's EnvironmentFile= read in the same way.
PORTABLE_LINE = re.compile(r"^(#.*|[A-Z_][A-Z0-9_]*=[A-Za-z0-9_./:@%+,=-]+)?$")

needs_hub = pytest.mark.skipif(not importlib.util.find_spec("huggingface_hub"), reason="huggingface_hub is not there")
needs_gradio = pytest.mark.skipif(not importlib.util.find_spec("gradio"), reason="gradio is not there")


@pytest.fixture
def playground(tmp_path: Path) -> Path:
    folder = tmp_path / "playground"
    assert make_playground(folder)
    return folder


def tree(folder: Path) -> dict[str, bytes | str]:
    """Read a folder whole: the bytes of its files, the text of its symlinks, `dir` for folders."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else ("dir" if path.is_dir() else path.read_bytes())
        for path in folder.rglob("*")
    }


def repo_folder(playground: Path, repo: str) -> Path:
    return playground / HUB_CACHE / f"models--{repo.replace('/', '--')}"


def settings_of(playground: Path) -> dict[str, str]:
    lines = (playground / ".env").read_text("ascii").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def run_python(code: str, cwd: Path, settings: Mapping[str, str]) -> str:
    """Run `code` in a new Python in `cwd`, as the app would be; return its stdout."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, **settings, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# the cache on disk


def test_every_blob_is_named_by_the_hash_of_its_content(playground: Path) -> None:
    for repo in (NEWEST, OLDER):
        blobs = list((repo_folder(playground, repo) / "blobs").iterdir())
        assert sorted(len(blob.name) for blob in blobs) == [40, 40, 64]
        for blob in blobs:
            data = blob.read_bytes()
            git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            assert blob.name == (hashlib.sha256(data).hexdigest() if len(blob.name) == 64 else git)


def test_the_snapshot_of_main_links_to_every_blob(playground: Path) -> None:
    for repo in (NEWEST, OLDER):
        folder = repo_folder(playground, repo)
        commit = (folder / "refs/main").read_text()
        assert re.fullmatch(r"[0-9a-f]{40}", commit)
        snapshot = folder / "snapshots" / commit
        assert {path.name for path in snapshot.iterdir()} == {"README.md", "config.json", "model.safetensors"}
        assert {path.readlink().parts[:3] for path in snapshot.iterdir()} == {("..", "..", "blobs")}
        assert {path.resolve() for path in snapshot.iterdir()} == {blob.resolve() for blob in folder.glob("blobs/*")}


def test_only_the_newest_model_has_emotions(playground: Path) -> None:
    def config(repo: str) -> dict[str, Any]:
        (path,) = repo_folder(playground, repo).glob("snapshots/*/config.json")
        loaded: dict[str, Any] = json.loads(path.read_bytes())
        return loaded

    assert len(config(NEWEST)["emotion"]["dimensions"]) == 8
    assert "emotion" not in config(OLDER)


@pytest.mark.parametrize("repo", [NEWEST, OLDER])
def test_the_weights_are_a_valid_safetensors_file(playground: Path, repo: str) -> None:
    (path,) = repo_folder(playground, repo).glob("snapshots/*/model.safetensors")
    data = path.read_bytes()
    assert 10_000 < len(data) < 100_000
    start = 8 + int.from_bytes(data[:8], "little")
    assert start % 8 == 0
    header = json.loads(data[8:start])
    end = 0
    for tensor in (tensor for name, tensor in header.items() if name != "__metadata__"):
        size = 4
        for dimension in tensor["shape"]:
            size *= dimension
        assert tensor["dtype"] == "F32"
        assert tensor["data_offsets"] == [end, end + size]
        end += size
    assert start + end == len(data)


@needs_hub
def test_huggingface_hub_reads_the_cache_without_a_warning(playground: Path) -> None:
    output = run_python(
        "import json, huggingface_hub as hub\n"
        "report = hub.scan_cache_dir('cache_hub/hub')\n"
        "print(json.dumps([hub.__version__, {r.repo_id: sorted(r.refs) for r in report.repos},"
        " [str(w) for w in report.warnings]]))",
        playground,
        {},
    )
    version, repos, warnings = json.loads(output)
    assert repos == {NEWEST: ["main"], OLDER: ["main"]}
    if tuple(map(int, version.split(".")[:2])) < (1, 9):
        # Older ones take every file in the cache for a broken repo, also the CACHEDIR.TAG of their successors.
        warnings = [warning for warning in warnings if "CACHEDIR.TAG" not in warning]
    assert warnings == []


@needs_hub
def test_huggingface_hub_resolves_both_models_offline(playground: Path) -> None:
    output = run_python(
        "import json, sys, huggingface_hub as hub\n"
        f"for repo in {[NEWEST, OLDER]}:\n"
        "    print(hub.snapshot_download(repo, local_files_only=True, cache_dir='cache_hub/hub'))\n"
        "    print(hub.snapshot_download(repo, local_files_only=True))\n"
        "    print(hub.try_to_load_from_cache(repo, 'config.json'))",
        playground,
        settings_of(playground),
    )
    for repo, (given, default, config) in zip((NEWEST, OLDER), _threes(output.splitlines()), strict=True):
        commit = (repo_folder(playground, repo) / "refs/main").read_text()
        snapshot = repo_folder(playground, repo) / "snapshots" / commit
        assert (playground / given).samefile(snapshot)
        assert (playground / default).samefile(snapshot)
        assert (playground / config).samefile(snapshot / "config.json")


def _threes(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    return zip(lines[0::3], lines[1::3], lines[2::3], strict=True)


def test_cachedir_tag_is_the_one_that_backup_programs_know(playground: Path) -> None:
    # https://bford.info/cachedir/: the first 43 bytes decide.
    tag = (playground / HUB_CACHE / "CACHEDIR.TAG").read_bytes()
    assert tag.startswith(b"Signature: 8a477f597d28d172789f06886806bc55\n")


def test_env_lines_are_portable_and_each_says_why(playground: Path) -> None:
    lines = (playground / ".env").read_text("ascii").splitlines()
    assert [line for line in lines if not PORTABLE_LINE.match(line)] == []
    assert all(before.startswith("# ") for before, line in itertools.pairwise(lines) if "=" in line)
    settings = settings_of(playground)
    assert settings["HF_HOME"] == "./cache_hub"
    assert settings["HF_ENDPOINT"] == "https://hf-mirror.com"
    assert settings["HF_HUB_OFFLINE"] == "1"
    assert settings["GRADIO_ANALYTICS_ENABLED"] == "False"


def test_two_playgrounds_are_the_same_to_the_byte(playground: Path, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from launcher.demo import make_playground as m; m(Path(sys.argv[1]))"
    other = tmp_path / "other"
    # Another process with another hash seed: no order of a set or a dict may leak into the bytes.
    subprocess.run(
        [sys.executable, "-c", code, other], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "4242"}, check=True
    )
    assert tree(other) == tree(playground)


# what is there already


def test_a_playground_that_is_there_stays_as_its_user_left_it(playground: Path) -> None:
    shutil.rmtree(repo_folder(playground, NEWEST))
    (playground / ".env").write_text("HF_HOME=./elsewhere\n")
    before = tree(playground)
    assert make_playground(playground) is False
    assert tree(playground) == before


def test_an_alien_folder_is_refused_untouched(tmp_path: Path) -> None:
    folder = tmp_path / "my-app"
    folder.mkdir()
    (folder / "webui.py").write_text("print('mine')\n")
    before = tree(tmp_path)
    with pytest.raises(LauncherError) as caught:
        make_playground(folder)
    assert str(folder) in caught.value.message
    assert caught.value.hint is not None
    assert caught.value.status is ExitStatus.CONFIG
    assert tree(tmp_path) == before


def test_a_marker_of_somebody_else_makes_no_playground(tmp_path: Path) -> None:
    folder = tmp_path / "my-app"
    folder.mkdir()
    (folder / MARKER).write_text("mine\n")
    with pytest.raises(LauncherError):
        make_playground(folder)
    assert tree(folder) == {MARKER: b"mine\n"}


@pytest.mark.parametrize("kind", ["file", "fifo", "broken link to a file's inside", "link loop"])
def test_what_is_no_folder_is_refused_untouched(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing"
    if kind == "file":
        path.write_text("mine\n")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link loop":
        path.symlink_to(path)
    else:
        (tmp_path / "file").write_text("mine\n")
        path.symlink_to(tmp_path / "file/inside")
    before = sorted((entry.name, os.lstat(entry).st_ino) for entry in tmp_path.iterdir())
    with pytest.raises(LauncherError) as caught:
        make_playground(path)
    assert caught.value.status is ExitStatus.CONFIG
    assert sorted((entry.name, os.lstat(entry).st_ino) for entry in tmp_path.iterdir()) == before


def test_an_empty_folder_is_used_and_keeps_its_mode(tmp_path: Path, playground: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    folder.chmod(0o750)
    assert make_playground(folder)
    assert tree(folder) == tree(playground)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


def test_the_current_folder_is_not_pulled_from_under_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(LauncherError, match="current folder"):
        make_playground(Path())
    assert list(tmp_path.iterdir()) == [folder]
    assert folder.samefile(os.curdir)


def test_a_link_to_a_folder_is_followed_and_missing_parents_are_made(tmp_path: Path, playground: Path) -> None:
    target = tmp_path / "disk/demos/one"
    link = tmp_path / "link"
    link.symlink_to(target)
    assert make_playground(link)
    assert link.is_symlink()
    assert tree(target) == tree(playground)
    assert make_playground(link) is False


# what cannot be written


def test_a_parent_that_takes_no_folder_is_named_with_the_reason() -> None:
    # /proc refuses new entries to everybody, root included.
    with pytest.raises(LauncherError) as caught:
        make_playground(Path("/proc/playground"))
    assert "/proc/playground" in caught.value.message
    assert "No such file or directory" in caught.value.message
    assert caught.value.status is ExitStatus.CONFIG


def test_a_parent_that_is_a_file_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine\n")
    with pytest.raises(LauncherError, match="file"):
        make_playground(tmp_path / "file/playground")
    assert tree(tmp_path) == {"file": b"mine\n"}


def test_a_parent_without_write_permission_is_named_with_the_reason() -> None:
    # Not in tmp_path: that is closed to the user which root becomes here, as root may write anywhere.
    code = (
        "import os, sys; from pathlib import Path\n"
        "from launcher.demo import make_playground; from launcher.errors import LauncherError\n"
        "warm, locked = map(Path, sys.argv[1:])\n"
        "make_playground(warm)\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "try: make_playground(locked / 'playground')\n"
        "except LauncherError as error: print(error.status.name, error.message)\n"
    )
    with tempfile.TemporaryDirectory() as parent:
        locked = Path(parent) / "locked"
        locked.mkdir()
        locked.chmod(0o555)
        Path(parent).chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-c", code, Path(parent) / "warm", locked],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert list(locked.iterdir()) == []
    assert done.stdout.startswith(f"CONFIG cannot make the playground {locked}/playground: Permission denied")


def test_a_build_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    # A real limit on the size of files: the small ones are written, the weights are not.
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from launcher.demo import make_playground; from launcher.errors import LauncherError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
        "try: make_playground(Path(sys.argv[1]))\n"
        "except LauncherError as error: print(error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "playground"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []


# kill -9

MAKE = """
import os, sys, time
from pathlib import Path
from launcher.demo import make_playground
folder, warm = map(Path, sys.argv[1:])
make_playground(warm)  # pays for the imports
start = time.perf_counter()
make_playground(warm.with_name("timed"))
print(time.perf_counter() - start, flush=True)
sys.stdin.readline()
make_playground(folder)
"""

# Kills itself at its n-th step on the file system; says "whole" when it had fewer.
MAKE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from launcher.demo import make_playground
left = int(sys.argv[2])
def step(event, arguments):
    global left
    if event in {"open", "os.mkdir", "os.rename", "os.symlink", "os.chmod", "os.scandir"}:
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(step)
make_playground(Path(sys.argv[1]))
left = 1 << 30
print("whole")
"""


def start_make(folder: Path, warm: Path) -> tuple[subprocess.Popen[str], float]:
    """Start a child that makes `folder` on go(); return it with the seconds that the same took elsewhere."""
    child = subprocess.Popen(
        [sys.executable, "-c", MAKE, folder, warm / "first"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    return child, float(child.stdout.readline())


def go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def assert_whole_or_absent_then_made(folder: Path, whole: dict[str, bytes | str]) -> None:
    if folder.exists():
        assert tree(folder) == whole
    make_playground(folder)
    assert tree(folder) == whole
    assert list(folder.parent.iterdir()) == [folder]


def test_kill_9_at_a_random_instant_leaves_no_half_playground(tmp_path: Path, playground: Path) -> None:
    whole = tree(playground)
    half_way = 0
    for attempt in range(20):
        folder = tmp_path / f"here-{attempt}" / "playground"
        child, duration = start_make(folder, tmp_path / f"warm-{attempt}")
        with child:
            go(child)
            try:
                child.wait(random.uniform(0, duration * 1.25))
            except subprocess.TimeoutExpired:
                child.kill()
        half_way += folder.parent.exists() and not folder.exists()
        assert_whole_or_absent_then_made(folder, whole)
    assert half_way, "no kill came between the start and the end: this has shown nothing"


def test_kill_9_at_every_step_leaves_no_half_playground(tmp_path: Path, playground: Path) -> None:
    """Each step is a system call that changes or reads the disk; imports count too, and do no harm."""
    whole = tree(playground)

    def die_at(step: int, folder: Path) -> bool:
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{MAKE_AND_DIE}"
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code, str(folder), str(step)],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert done.returncode in {0, -signal.SIGKILL}, done.stderr
        return done.returncode == 0

    step = 0
    while not die_at(step, folder := tmp_path / f"step-{step}" / "playground"):
        if folder.parent.exists():
            assert_whole_or_absent_then_made(folder, whole)
        step += 1
    assert step > len(whole) // 2


def test_what_a_killed_build_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    ours, begun, empty = (tmp_path / f".start_app_demo-building-{n}" for n in ("00000001", "00000002", "00000003"))
    alien, link = tmp_path / ".start_app_demo-building-mine", tmp_path / ".start_app_demo-building-link"
    victim = tmp_path / "victim"
    assert make_playground(ours)
    assert make_playground(victim)
    begun.mkdir()
    (begun / MARKER).touch()
    empty.mkdir()
    alien.mkdir()
    (alien / "thesis.txt").write_text("mine\n")
    link.symlink_to(victim)
    assert make_playground(tmp_path / "playground")
    assert {path.name for path in tmp_path.iterdir()} == {alien.name, link.name, "victim", "playground"}
    assert tree(alien) == {"thesis.txt": b"mine\n"}
    assert tree(victim) == tree(tmp_path / "playground")


def test_leftovers_stay_while_another_launcher_may_be_building(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.demo._LOCK_PATIENCE_S", 0.05)
    theirs = tmp_path / ".start_app_demo-building-00000001"
    assert make_playground(theirs)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert make_playground(tmp_path / "playground")
    finally:
        os.close(descriptor)
    assert theirs.exists()


def test_of_many_launchers_at_once_exactly_one_makes_it(tmp_path: Path, playground: Path) -> None:
    folder = tmp_path / "race/playground"
    children = [start_make(folder, tmp_path / f"warm-{n}")[0] for n in range(8)]
    for child in children:
        go(child)
    for child in children:
        with child:
            assert child.wait(DEADLINE_S) == 0
    assert tree(folder) == tree(playground)
    assert list(folder.parent.iterdir()) == [folder]


# the app


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def get(url: str, data: bytes | None = None) -> bytes:
    """Fetch `url` past any proxy of the environment."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} if data else {})
    with opener.open(request, timeout=DEADLINE_S) as response:
        body: bytes = response.read()
        return body


def poll(probe: Callable[[], bytes], alive: Callable[[], bool]) -> bytes:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline and alive():
        try:
            return probe()
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the app died or never answered")


def component(config: dict[str, Any], elem_id: str) -> dict[str, Any]:
    (found,) = (each for each in config["components"] if each["props"].get("elem_id") == elem_id)
    return dict(found)


def call_refresh(base: str) -> list[Any]:
    """Press the button by Gradio's HTTP API: https://www.gradio.app/guides/querying-gradio-apps-with-curl."""
    event = json.loads(get(f"{base}/gradio_api/call/refresh", b'{"data": []}'))["event_id"]
    stream = get(f"{base}/gradio_api/call/refresh/{event}").decode()
    assert "event: complete" in stream, stream
    result: list[Any] = json.loads(stream.split("data: ", 1)[1].splitlines()[0])
    return result


def bars(plot: dict[str, Any]) -> dict[str, str]:
    repo, state = plot["columns"].index("repo"), plot["columns"].index("state")
    return {row[repo]: row[state] for row in plot["data"]}


@needs_gradio
def test_the_page_says_which_model_runs_and_what_lies_in_the_cache(playground: Path) -> None:
    commit = (repo_folder(playground, NEWEST) / "refs/main").read_text()
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    app = subprocess.Popen(
        [sys.executable, "webui.py", "--port", str(port)],
        cwd=playground,
        env={**os.environ, **settings_of(playground)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        poll(lambda: get(f"{base}/"), lambda: app.poll() is None)
        config = json.loads(get(f"{base}/config"))
        card = component(config, "version")["props"]["value"]
        assert f"running {NEWEST} @ {commit[:7]}" in card
        assert "emotion control: happy" in card
        process = component(config, "process")["props"]["value"]
        for fact in (str(app.pid), "https://hf-mirror.com", "./cache_hub"):
            assert fact in process
        table = component(config, "cache-table")
        assert table["type"] == "dataframe"
        assert [row[:2] for row in table["props"]["value"]["data"]] == [[OLDER, "main"], [NEWEST, "main"]]
        assert table["props"]["value"]["data"][1][2:] == [commit[:7], "70.5 kB"]
        chart = component(config, "cache-chart")
        assert chart["type"] == "nativeplot"
        assert bars(chart["props"]["value"]) == {OLDER: "not loaded", NEWEST: "running here"}

        shutil.rmtree(repo_folder(playground, NEWEST))
        card, rows, plot, _ = call_refresh(base)
        assert f"running {NEWEST} @ {commit[:7]}" in card
        assert "a restart runs another model" in card
        assert [row[0] for row in rows["data"]] == [OLDER]
        assert bars(plot) == {OLDER: "not loaded"}

        shutil.rmtree(playground / "cache_hub")
        _, rows, plot, _ = call_refresh(base)
        assert rows["data"] == []
        assert bars(plot) == {}

        app.send_signal(signal.SIGINT)
        output, _ = app.communicate(timeout=DEADLINE_S)
    finally:
        if app.poll() is None:
            app.kill()
            app.communicate()
    # Gradio ends with 0, the app with 130 when SIGINT came before Gradio was ready for it.
    assert app.returncode in {0, 130}
    assert output.splitlines()[0] == f"model: {NEWEST} @ {commit[:7]}"
    assert "Traceback" not in output


def load_in(playground: Path) -> str:
    """Load the model as the app does, without the page that costs seconds."""
    code = (
        "import webui\n"
        "try: model = webui.load_newest_model()\n"
        "except webui.DamagedModelError as error: print('damaged:', error)\n"
        "else: print(webui.version_card(model, 7861, webui.scan_cache()[0]))"
    )
    return run_python(code, playground, settings_of(playground))


@needs_hub
def test_without_the_newest_model_the_older_one_runs(playground: Path) -> None:
    shutil.rmtree(repo_folder(playground, NEWEST))
    card = load_in(playground)
    assert f"running {OLDER} @ " in card
    assert "emotion control not available" in card


@needs_hub
def test_without_a_model_the_page_says_so_and_names_the_command(playground: Path) -> None:
    shutil.rmtree(playground / "cache_hub")
    card = load_in(playground)
    assert "no model" in card
    assert "python start_app.py --demo --app-dir new-playground --port 7862" in card


@needs_hub
def test_a_truncated_model_is_not_loaded(playground: Path) -> None:
    (weights,) = repo_folder(playground, NEWEST).glob("snapshots/*/model.safetensors")
    os.truncate(weights, 40_000)
    assert load_in(playground).startswith(f"damaged: {NEWEST} @ ")


@needs_hub
def test_a_newer_commit_in_the_cache_is_announced(playground: Path) -> None:
    folder = repo_folder(playground, NEWEST)
    commit = (folder / "refs/main").read_text()
    code = (
        "import os, webui\n"
        "model = webui.load_newest_model()\n"
        f"os.rename('{folder}/snapshots/{commit}', '{folder}/snapshots/{'f' * 40}')\n"
        f"open('{folder}/refs/main', 'w').write('{'f' * 40}')\n"
        "print(webui.version_card(model, 7861, webui.scan_cache()[0]))"
    )
    card = run_python(code, playground, settings_of(playground))
    assert f"running {NEWEST} @ {commit[:7]}" in card
    assert "another <code>main</code>" in card


def test_an_option_that_the_app_does_not_know_is_rejected(playground: Path) -> None:
    done = subprocess.run(
        [sys.executable, "webui.py", "--no-such-option"],
        cwd=playground,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 2
    assert "unrecognized arguments: --no-such-option" in done.stderr


def test_the_app_knows_nothing_of_the_launcher(playground: Path) -> None:
    source = (playground / "webui.py").read_text("utf-8")
    assert not re.search(r"^\s*(from|import)\s+(launcher|\.)", source, re.MULTILINE)
