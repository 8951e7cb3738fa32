"""The cache as a step of a launch: refused while the old instance serves, done when it is gone, never in the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support.apps import WEBUI, AppFolder, Processes, Running, alive, clean_environment, eventually, get, launcher
from tests.support.caches import condemn, make_repo, make_trash
from tests.support.removal import CODEC, V22, V23, VOICES, Cached, everything, on_terminal, trash

FLAGS = (("--clear-cache",), ("--remove-model", V22, CODEC), ("--prune-cache",))
GONE = {"--clear-cache": (V22, V23, CODEC, VOICES), "--remove-model": (V22, CODEC), "--prune-cache": ()}


def serving(app: AppFolder, processes: Processes, *flags: str, **keywords: object) -> Running:
    """Launch the app and wait for its page."""
    running = processes.launch(*app.arguments, *flags, **keywords)
    eventually(lambda: get(app.port) == f"pid {running.pid}", what=running.err)
    return running


def left_of(cached: Cached, flag: str) -> set[str]:
    if flag == "--prune-cache":
        return cached.all_but(f"{V23}@{cached.old(V23)}")
    return cached.all_but(*GONE[flag])


@pytest.mark.slow
@pytest.mark.parametrize("flags", FLAGS)
def test_a_launch_does_to_the_cache_what_the_command_does(
    flags: tuple[str, ...], cached: Cached, processes: Processes, tmp_path: Path
) -> None:
    reference = tmp_path / "reference"
    shutil.copytree(cached.home, reference, symlinks=True)
    command = {"--clear-cache": ("clear",), "--remove-model": ("remove", V22, CODEC), "--prune-cache": ("prune",)}
    env = clean_environment(HF_HOME=str(reference))
    done = launcher("cache", *command[flags[0]], "-y", "--app-dir", cached.app.path, env=env)
    assert done.status == 0, done.err
    old = serving(cached.app, processes)
    new = serving(cached.app, processes, *flags)
    assert not alive(old.pid)
    eventually(lambda: not trash(cached.hub), what=new.err)
    eventually(lambda: everything(cached.home) == everything(reference), what="the same end")
    assert cached.loading() == left_of(cached, flags[0])
    order = [line.split(":")[0] for line in new.err.splitlines()]
    assert order.index("stale") < order.index("cache", order.index("stale")) < order.index("exec")
    eventually(lambda: "cache: freed " in new.err, what=new.err)
    assert "cache: freed 0 B" not in new.err


# It looks at its model when it is told to end, and again when it really ends.
WITNESS = WEBUI.replace(
    "class Page",
    """\
def whole():
    files = [os.path.join(place, name) for place, _, names in os.walk(os.environ["HF_HOME"]) for name in names]
    return len([path for path in files if os.path.exists(path)])
def end(*_):
    with open("witness", "w") as file:
        file.write(f"{before} {whole()} ")
        file.flush()
        time.sleep(0.4)
        file.write(f"{whole()}")
    os._exit(0)
before = whole()
signal.signal(signal.SIGTERM, end)


class Page""",
    1,
)


@pytest.mark.slow
def test_the_cache_is_whole_as_long_as_the_old_instance_lives(cached: Cached, processes: Processes) -> None:
    cached.app.script.write_text(WITNESS)
    serving(cached.app, processes)
    serving(cached.app, processes, "--clear-cache")
    at_start, at_term, at_end = (cached.app.path / "witness").read_text().split()
    assert int(at_start) == int(at_term) == int(at_end) > 30
    assert not any(cached.loads().values())


@pytest.mark.parametrize("flags", FLAGS)
def test_a_refused_launch_clears_nothing(flags: tuple[str, ...], cached: Cached, processes: Processes) -> None:
    before = everything(cached.home)
    stranger = processes.start((sys.executable, "-m", "http.server", str(cached.app.port), "--bind", "127.0.0.1"))
    eventually(lambda: get(cached.app.port), what=stranger.err)
    for more in ((), ("--no-launch",), ("-n",)):
        done = launcher(*cached.app.arguments, *flags, *more, timeout=20)
        assert done.status == 69, done.err
        assert everything(cached.home) == before
    assert alive(stranger.pid)


# Before it dies of SIGTERM, it leaves a fork of itself in a session of its own.
PHOENIX = """\
import os, signal, time
def rise(number, frame):
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.read(read, 1)
        with open("children", "a") as file:
            file.write(f"{pid}\\n")
        os._exit(0)
    os.setsid()
    os.write(write, b"x")
signal.signal(signal.SIGTERM, rise)
print("{}", flush=True)
while True:
    time.sleep(600)
"""


def test_a_failed_stop_clears_nothing(cached: Cached, processes: Processes) -> None:
    cached.app.script.write_text(PHOENIX)
    running = processes.start((sys.executable, "webui.py", "--port", str(cached.app.port)), cwd=cached.app.path)
    running.hello()
    before = everything(cached.home)
    done = launcher(*cached.app.arguments, "--clear-cache", timeout=20)
    for line in (cached.app.path / "children").read_text().split():
        processes.end_also(int(line))
    assert done.status == 75, done.err
    assert "as fast as they are stopped" in done.err
    assert everything(cached.home) == before


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        (("--remove-model", "koge/index-tts-v24"), 2),
        (("--remove-model", V22, "koge/none"), 2),
        (("--prune-cache", "--keep", "koge/none"), 2),
        (("--clear-cache", "--prune-cache"), 2),
        (("--older-than", "30d"), 2),
    ],
)
def test_a_mistake_stops_and_removes_nothing(
    flags: tuple[str, ...], status: int, cached: Cached, processes: Processes
) -> None:
    old = serving(cached.app, processes)
    before = everything(cached.home)
    for more in ((), ("-n",), ("--no-launch",)):
        done = launcher(*cached.app.arguments, *flags, *more, timeout=20)
        assert done.status == status, done.err
    assert get(cached.app.port) == f"pid {old.pid}"
    assert everything(cached.home) == before


@pytest.mark.slow
@pytest.mark.parametrize("flags", FLAGS)
def test_a_shared_cache_without_a_yes_stops_nothing(
    flags: tuple[str, ...], cached: Cached, processes: Processes, tmp_path: Path
) -> None:
    (cached.app.path / ".env").unlink()
    home = tmp_path / "hf"
    shutil.move(cached.home, home)
    shared = Cached(cached.app, home, cached.written)
    env = clean_environment(HF_HOME=str(home))
    old = serving(cached.app, processes, env=env)
    before = everything(home)
    for more in ((), ("--json",), ("--no-launch",)):
        done = launcher(*cached.app.arguments, *flags, *more, env=env, timeout=20)
        assert done.status == 2, done.err
        assert "is shared with other programs" in done.err
    status, shown = on_terminal(*cached.app.arguments, *flags, answer="n", env=env)
    assert status == 130, shown
    assert get(cached.app.port) == f"pid {old.pid}"
    assert everything(home) == before
    new = serving(cached.app, processes, *flags, "--yes", env=env)
    assert not alive(old.pid)
    assert shared.loading() == left_of(shared, flags[0]), new.err


@pytest.mark.slow
def test_damage_is_found_while_the_old_instance_serves_on(cached: Cached, processes: Processes) -> None:
    old = serving(cached.app, processes)
    blob = max((cached.repo(V23) / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    real = blob.resolve()
    real.chmod(0o644)
    real.write_bytes(real.read_bytes()[:-1] + b"?")
    before = everything(cached.home)
    for flags in (("--verify",), ("--verify", "--prune-cache"), ("--verify", "--remove-model", V22)):
        done = launcher(*cached.app.arguments, *flags, timeout=20)
        assert done.status == 65, done.err
        assert get(cached.app.port) == f"pid {old.pid}"
        assert everything(cached.home) == before
    new = serving(cached.app, processes, "--verify", "--remove-model", V23)
    assert not alive(old.pid), new.err
    assert cached.loading() == cached.all_but(V23)


@pytest.mark.slow
def test_what_is_whole_is_verified_and_the_app_launched(cached: Cached, processes: Processes) -> None:
    old = serving(cached.app, processes)
    serving(cached.app, processes, "--verify")
    assert not alive(old.pid)
    assert cached.loading() == cached.all_but()


@pytest.mark.parametrize("flags", [*FLAGS, ("--verify",)])
def test_a_dry_run_shows_the_cache_in_the_plan_and_changes_nothing(
    flags: tuple[str, ...], cached: Cached, processes: Processes
) -> None:
    old = serving(cached.app, processes)
    before = everything(cached.home)
    shown = launcher(*cached.app.arguments, *flags, "-n")
    assert shown.status == 0, shown.err
    document = launcher(*cached.app.arguments, *flags, "-n", "--json")
    assert document.out.count("\n") == 1
    items = [item for root in document.json["cache"] for item in root["remove"]]
    assert bool(items) == (flags != ("--verify",))
    lines = shown.out.splitlines()
    for item in items:
        assert any(line.startswith(f"would remove {item['path']}") for line in lines)
    terminate = next(number for number, line in enumerate(lines) if line.startswith("would terminate "))
    what = "would verify" if flags == ("--verify",) else "would remove"
    assert terminate < next(number for number, line in enumerate(lines) if line.startswith(what))
    assert lines[-1].startswith("would exec: ")
    assert everything(cached.home) == before
    assert get(cached.app.port) == f"pid {old.pid}"


@pytest.mark.parametrize("flags", FLAGS)
def test_without_a_launch_the_cache_is_cleared_before_the_end(
    flags: tuple[str, ...], cached: Cached, processes: Processes
) -> None:
    old = serving(cached.app, processes)
    done = launcher(*cached.app.arguments, *flags, "--no-launch")
    assert done.status == 0, done.err
    assert not alive(old.pid)
    assert trash(cached.hub) == []
    assert cached.loading() == left_of(cached, flags[0])
    assert "cache: freed " in done.err
    assert "in the background" not in done.err


def test_without_a_launch_what_could_not_go_is_in_the_exit_status(cached: Cached) -> None:
    repo = cached.repo(V23)
    if not shutil.which("chattr") or subprocess.run(("chattr", "+i", repo), capture_output=True).returncode:
        pytest.skip("folders cannot be made immutable here")
    try:
        assert cached.run("clear").status == 74
        assert launcher(*cached.app.arguments, "--clear-cache", "--no-launch").status == 74
    finally:
        subprocess.run(("chattr", "-i", repo), check=True)


def test_json_of_a_launch_is_one_line_before_the_apps_own(cached: Cached, processes: Processes) -> None:
    running = serving(cached.app, processes, "--clear-cache", "--json")
    first, second, *rest = running.out.splitlines()
    document = json.loads(first)
    assert document["launched"] is True
    assert json.loads(second)["pid"] == running.pid
    assert not rest
    done = launcher(*cached.app.arguments, "--clear-cache", "--no-launch", "--json")
    assert done.out.count("\n") == 1
    assert done.json["launched"] is False


def _many(hub: Path, files: int) -> None:
    repo = make_repo(hub, "models--koge--many", {"a" * 40: {}})
    (repo / "blobs").mkdir()
    for number in range(files):
        (repo / "blobs" / f"{number:040x}").touch()


def test_the_app_does_not_wait_for_the_deleting(app: AppFolder, processes: Processes) -> None:
    hub = app.path / "cache_hub"
    _many(hub, 4000)
    running = processes.launch(*app.arguments, "--clear-cache")
    running.hello()
    assert not (hub / "models--koge--many").exists()
    assert "the disk space is freed in the background" in running.err
    eventually(lambda: not trash(hub))
    eventually(lambda: "cache: freed " in running.err)
    assert os.listdir(hub) in ([], [".locks"])


# The process that deletes stops itself just before it does, so that it can be looked at.
STOP_BEFORE_DELETING = """
import os, signal
from os import fork

def fork_and_stop():
    pid = fork()
    if pid == 0 and os.getcwd() == "/":
        os.kill(os.getpid(), signal.SIGSTOP)
    return pid

os.fork = fork_and_stop
"""


@pytest.mark.parametrize("flags", [(), ("--remove-model", "koge/a")])
def test_what_deletes_in_the_background_holds_nothing_of_the_apps(
    flags: tuple[str, ...], app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    hub = app.path / "cache_hub"
    make_repo(hub, "models--koge--a")
    make_trash(hub)
    (tmp_path / "sitecustomize.py").write_text(STOP_BEFORE_DELETING)
    running = processes.launch(*app.arguments, *flags, env=clean_environment(PYTHONPATH=str(tmp_path)))
    process = eventually(lambda: _deleting(app, running.pid, stopped=True))
    processes.end_also(process.pid)
    try:
        folder = f"/proc/{process.pid}/fd"
        fds = {number: os.readlink(f"{folder}/{number}") for number in os.listdir(folder)}
        assert fds["0"] == fds["1"] == "/dev/null"
        assert not [target for target in fds.values() if ".start_app/" in target or "socket:" in target]
        assert os.getsid(process.pid) != os.getsid(running.pid)
        eventually(lambda: process not in psutil.Process(running.pid).children(recursive=True))
        eventually(lambda: get(app.port), what=running.err)
        assert app.lock_holder() == running.pid
        again = launcher(*app.arguments, "--no-launch")
        assert again.status == 0, again.err
        assert not alive(running.pid)
    finally:
        process.resume()
    eventually(lambda: not trash(hub), what=running.err)


def _deleting(app: AppFolder, pid: int, *, stopped: bool = False) -> psutil.Process | None:
    """Return the process that the launcher left behind to delete; `stopped` is not the one that has forked it."""
    for process in psutil.process_iter(["cmdline", "pid"]):
        words = process.info["cmdline"] or []
        if str(app.path) in words and process.pid != pid and words[-1] != "--no-launch":
            with suppress(psutil.NoSuchProcess):
                if process.cwd() == "/" and (not stopped or process.status() == psutil.STATUS_STOPPED):
                    return process
    return None


@pytest.mark.slow
def test_a_plain_launch_finishes_what_an_interrupted_removal_has_left(cached: Cached, processes: Processes) -> None:
    folder = make_trash(cached.hub)
    cached.repo(V22).rename(folder / cached.repo(V22).name)
    serving(cached.app, processes)
    eventually(lambda: not trash(cached.hub))
    assert cached.loading() == cached.all_but(V22)


def test_a_plain_launch_finishes_an_interrupted_removal_of_a_revision_too(cached: Cached, processes: Processes) -> None:
    old = cached.old(V22)
    (cached.repo(V22) / "refs" / "v1").unlink()
    condemn(cached.hub, cached.repo(V22).name, old)
    serving(cached.app, processes)
    eventually(lambda: not trash(cached.hub))
    assert cached.loading() == cached.all_but(f"{V22}@v1", f"{V22}@{old}")


def test_a_plain_launch_without_trash_starts_no_other_process(cached: Cached, processes: Processes) -> None:
    before = everything(cached.home)
    running = serving(cached.app, processes)
    assert _deleting(cached.app, running.pid) is None
    assert everything(cached.home) == before
    assert "cache: freed" not in running.err


# It loads its model as the app does, through huggingface_hub, and tells which files it found.
LOADING = WEBUI.replace(
    "class Page",
    """\
from huggingface_hub import constants
found = sorted(os.listdir(constants.HF_HUB_CACHE))
with open("found", "w") as file:
    json.dump([constants.HF_HUB_CACHE, found], file)


class Page""",
    1,
)


@pytest.mark.parametrize("line", ["HF_HOME=./hf", "HF_HUB_CACHE=./hf/hub", "HUGGINGFACE_HUB_CACHE=hf/hub", ""])
def test_the_cache_that_is_cleared_is_the_one_that_the_app_uses(
    line: str, cached: Cached, processes: Processes
) -> None:
    if not line:
        shutil.move(cached.home, cached.app.path / "cache_hub")
    cached.app.write_env(f"{line}\n")
    cached.app.script.write_text(LOADING)
    hub = cached.app.path / ("hf/hub" if line else "cache_hub/hub")
    serving(cached.app, processes, "--clear-cache")
    used, found = json.loads((cached.app.path / "found").read_text())
    assert os.path.realpath(cached.app.path / used) == os.path.realpath(hub)
    assert [name for name in found if name.startswith(("models--", "datasets--"))] == [
        cached.repo(V22).name
    ]  # its notes
