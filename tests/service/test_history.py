"""The history: one line for all that was done or refused, whole whatever happens, and never in the way of a launch."""

from __future__ import annotations

import getpass
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.config import settings
from launcher.service import history
from tests.support.apps import START_APP, AppFolder, Processes, clean_environment, eventually, get, launcher
from tests.support.hub import Hub
from tests.support.removal import V22, V23, Cached

SECRET = "hf_" + "s" * 34


def path_of(app: AppFolder) -> Path:
    return app.path / ".start_app" / history.NAME


def entries(app: AppFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path_of(app).read_text().splitlines()]


def actions(app: AppFolder) -> list[str]:
    return [entry["action"] for entry in entries(app)]


def loaded(app: AppFolder) -> settings.Settings:
    return settings.load({"APP_DIR": str(app.path), "GRADIO_SERVER_PORT": str(app.port)}, {}, settings.Call(app.path))


@pytest.mark.slow
def test_a_start_and_a_stop_are_told_with_who_and_from_where(app: AppFolder, processes: Processes) -> None:
    env = clean_environment(SUDO_USER="alice")
    running = processes.launch(*app.arguments, "--", "--load", "0", env=env)
    eventually(lambda: get(app.port), what="page")
    replaced = processes.launch(*app.arguments)
    eventually(lambda: get(app.port) == f"pid {replaced.pid}", what="page")
    assert launcher("stop", *app.arguments).status == 0
    start, stop, again, end = entries(app)
    assert start["action"] == again["action"] == "start"
    assert (start["port"], start["user"], start["sudo_user"]) == (app.port, getpass.getuser(), "alice")
    assert start["pid"] == running.pid
    assert "pytest" in start["parent"] or "python" in start["parent"]
    assert start["what"] == f"pid {running.pid}, {sys.executable} webui.py --port {app.port} --load 0"
    assert start["result"] == "exec"
    assert (stop["action"], stop["pid"], stop["sudo_user"]) == ("stop", replaced.pid, None)
    assert stop["what"].startswith(f"pid {running.pid}, ")
    assert stop["result"].startswith("terminated after ")
    assert end["action"] == "stop"
    assert end["what"].startswith(f"pid {replaced.pid}, ")


@pytest.mark.slow
def test_a_kill_a_refusal_and_what_only_looks(app: AppFolder, processes: Processes) -> None:
    processes.launch(*app.arguments, "--", "--ignore-term")
    eventually(lambda: get(app.port), what="page")
    assert launcher("stop", "--stop-timeout", "0.2", *app.arguments).status == 0
    assert entries(app)[-1]["action"] == "kill"
    assert entries(app)[-1]["result"] == "killed after 0.2 s"
    server = processes.start((sys.executable, "-m", "http.server", str(app.port), "--bind", "127.0.0.1"))
    eventually(lambda: get(app.port), what="page")
    assert launcher(*app.arguments).status == 69
    assert actions(app) == ["start", "kill", "refuse"]
    refused = entries(app)[-1]
    assert refused["what"] == "launch"
    assert refused["result"].startswith(f"exit status 69: port {app.port} is held")
    assert str(server.pid) in refused["result"]
    for looking in (("-n",), ("status",), ("stop", "-n"), ("wait", "--timeout", "0"), ("cache", "list"), ("logs",)):
        launcher(*looking, *app.arguments)
    assert len(entries(app)) == 3


@pytest.mark.slow
def test_the_table_and_the_json_of_history(app: AppFolder, processes: Processes) -> None:
    done = launcher("history", *app.arguments)
    assert (done.status, done.out) == (0, "")
    assert done.err == f"history: nothing was done to {app.path} yet\n"
    for status in (0, 1, 2):
        launcher(*app.arguments, "--", "--exit", str(status))
    lines = launcher("history", *app.arguments).out.splitlines()
    assert lines[0].split() == ["TIME", "ACTION", "PORT", "WHO", "FROM", "WHAT", "RESULT"]
    assert [line.split()[1] for line in lines[1:]] == ["start", "fail"] * 3
    assert "--exit 2" in lines[-2]
    assert "nobody saw how" in lines[-1]
    assert len(launcher("history", "--lines", "1", *app.arguments).out.splitlines()) == 2
    document = launcher("history", "--lines", "4", "--json", *app.arguments).json
    starts = [entry["what"] for entry in document["entries"] if entry["action"] == "start"]
    assert [what.rpartition(" ")[2] for what in starts] == ["1", "2"]
    app.script.unlink()  # an app that has gone still has a past
    assert len(launcher("history", *app.arguments).out.splitlines()) == 7


def test_a_long_command_line_does_not_push_the_rest_out_of_sight(app: AppFolder) -> None:
    found = loaded(app)
    history.record(found, "start", "a", "done")
    (entry,) = history.read(app.path)
    entry = entry._replace(unit=None, tty=None, parent="bash -c " + "x" * 300)
    head, row = history.rows([entry])
    assert row[head.index("FROM")] == "bash -c " + "x" * 32 + "…"


@pytest.mark.slow
def test_the_life_of_one_in_the_background(app: AppFolder, processes: Processes) -> None:
    assert launcher("--background", *app.arguments).status == 0
    pid = app.lock_holder()
    assert pid
    processes.end_also(pid)
    assert launcher("--background", "--no-rollback", *app.arguments, "--", "--exit", "4").status == 75
    assert actions(app) == ["start", "ready", "stop", "start", "fail"]
    assert entries(app)[1]["what"] == f"pid {pid}"
    assert entries(app)[1]["result"].startswith(f"http://127.0.0.1:{app.port} answers after ")
    ended = "has ended with exit status 4 before its page answered; last line: "
    assert entries(app)[4]["result"].startswith(ended)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a pid namespace")
def test_a_death_in_a_container_is_told_outside_of_it(app: AppFolder, processes: Processes) -> None:
    flags = ("unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc")
    if subprocess.run((*flags, "true"), capture_output=True, check=False).returncode:
        pytest.skip("pid namespaces cannot be made here")
    running = processes.start((*flags, sys.executable, str(START_APP), *app.arguments))
    eventually(lambda: get(app.port), 60, what=running.err)
    assert launcher("history", *app.arguments).status == 0
    assert actions(app) == ["start"]  # it lives, although its process is another one here
    running.process.kill()
    eventually(lambda: "\n" in launcher("history", *app.arguments).out and actions(app)[1:] == ["fail"], 60, what="end")
    assert entries(app)[-1]["result"].startswith("has ended before its page answered, nobody saw how")
    assert launcher("status", *app.arguments).out.count("ended: ") == 1


def test_what_was_removed_from_the_cache(cached: Cached) -> None:
    app = cached.app
    assert launcher("cache", "remove", V22, *app.arguments).status == 0
    assert launcher("--remove-model", V23, *app.arguments, "--", "--exit", "0").status == 0
    assert launcher("cache", "clear", "-n", *app.arguments).status == 0
    assert launcher("cache", "clear", *app.arguments).status == 0
    assert launcher("cache", "remove", "nobody/nothing", *app.arguments).status == 2
    removed, launched, start, cleared, refused = entries(app)
    assert (removed["action"], removed["what"]) == ("remove", V22)
    assert removed["result"].startswith("freed ")
    assert (launched["action"], launched["what"], launched["result"]) == ("remove", V23, "freed in the background")
    assert start["action"] == "start"
    assert cleared["action"] == "clear"
    assert (refused["action"], refused["what"]) == ("refuse", "cache remove")
    assert refused["result"].startswith("exit status 2: ")


@pytest.mark.slow
def test_what_was_pulled_and_locked(app: AppFolder, hub: Path) -> None:
    pytest.importorskip("huggingface_hub")
    with Hub() as served:
        served.commit("koge/tiny", {"model.bin": b"weights"})
        env = clean_environment(HF_ENDPOINT=served.endpoint, HF_OFFICIAL_ENDPOINT=served.endpoint)
        assert launcher("models", "lock", "koge/tiny", *app.arguments, env=env).status == 0
        done = launcher("models", "pull", *app.arguments, env=env)
        assert done.status == 0, done.err
        assert launcher("models", "pull", *app.arguments, env=env).status == 0
    lock, pull = entries(app)
    assert lock["action"] == "lock"
    assert "koge/tiny" in lock["what"]
    assert pull["action"] == "pull"
    assert pull["what"].startswith("koge/tiny @ ")
    assert pull["result"].endswith(f"from {served.endpoint}, verified")


def test_it_holds_no_secret(app: AppFolder) -> None:
    env = clean_environment(HF_TOKEN=SECRET, APP_NOTIFY_URL="http://127.0.0.1:9/services/" + SECRET)
    launcher(*app.arguments, "--", "--exit", "0", "--hf-token", SECRET, f"--auth=me:{SECRET}", env=env)
    assert entries(app)
    assert SECRET not in path_of(app).read_text()


def test_a_line_that_was_cut_short_is_left_out_and_spoils_no_other(app: AppFolder) -> None:
    assert launcher(*app.arguments, "--", "--exit", "0").status == 0
    with path_of(app).open("a") as file:
        file.write('{"time": "2026-11-2')
    assert launcher(*app.arguments, "--", "--exit", "0").status == 0
    with path_of(app).open("ab") as file:
        file.write(b"\n[]\nnull\n\xff\xfe\n{}\n")
    assert [entry.action for entry in history.read(app.path)] == ["start", "fail", "start"]


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_one_that_cannot_be_written_stops_nothing(kind: str, app: AppFolder, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    path_of(app).parent.mkdir()
    {
        "link": lambda: path_of(app).symlink_to(precious),
        "fifo": lambda: os.mkfifo(path_of(app)),
        "folder": path_of(app).mkdir,
    }[kind]()
    assert launcher(*app.arguments, "--", "--exit", "0", timeout=20).status == 0
    assert precious.read_text() == "keep me"
    assert launcher("history", *app.arguments).status == 0


def test_one_that_grows_too_long_becomes_the_older_one(app: AppFolder) -> None:
    loaded_settings = loaded(app)
    history.record(loaded_settings, "start", "the oldest")
    line = path_of(app).read_bytes()
    count = history.MAX_BYTES // len(line) + 1
    path_of(app).write_bytes(line * count)
    history.record(loaded_settings, "stop", "the newest")
    assert path_of(app).stat().st_size < 2 * len(line)
    assert path_of(app).with_name(history.OLDER).read_bytes() == line * count
    kept = history.read(app.path)
    assert kept[-1].what == "the newest"
    assert len(kept) == count + 1
    assert sorted(name for name in os.listdir(path_of(app).parent) if "history" in name) == [
        history.NAME,
        history.OLDER,
    ]


@pytest.mark.slow
def test_where_it_cannot_be_renamed_it_grows(app: AppFolder) -> None:
    history.record(loaded(app), "start", "the oldest")
    path_of(app).with_name(history.OLDER).mkdir()
    with path_of(app).open("ab") as file:
        file.write(b"{}\n" * (history.MAX_BYTES // 3))
    history.record(loaded(app), "stop", "the newest")
    assert [entry.what for entry in history.read(app.path)] == ["the oldest", "the newest"]


def _write(found: settings.Settings, name: str, count: int) -> None:
    for number in range(count):
        history.record(found, "start", f"{name} {number} " + "x" * 500)


@pytest.mark.slow
def test_two_writers_lose_nothing_of_one_another_while_it_is_rotated(app: AppFolder) -> None:
    found = loaded(app)
    context = multiprocessing.get_context("spawn")
    count = 1100  # enough for one rotation in the midst of it
    writers = [context.Process(target=_write, args=(found, name, count)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    lines = [
        line for name in (history.OLDER, history.NAME) for line in path_of(app).with_name(name).read_text().splitlines()
    ]
    assert path_of(app).stat().st_size <= history.MAX_BYTES
    for name in ("a", "b"):
        whats = [json.loads(line)["what"].split() for line in lines]
        numbers = [int(what[1]) for what in whats if what[0] == name]
        # Of each the newest, without a gap.
        assert numbers == list(range(count - len(numbers), count))
    assert len(lines) > 500


@pytest.mark.slow
def test_a_line_written_without_the_lock_outlives_the_rotation(app: AppFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    found = loaded(app)
    history.record(found, "start", "first")
    with path_of(app).open("ab") as file:
        file.write(b"{}\n" * (history.MAX_BYTES // 3))
    rename = os.rename
    writer = multiprocessing.get_context("spawn").Process(target=_write, args=(found, "other", 1))

    def late(source: Path, target: Path) -> None:
        writer.start()  # the lock is held by this process for longer than the other waits
        writer.join(60)
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    history.record(found, "start", "last")
    assert writer.exitcode == 0
    assert {entry.what.split()[0] for entry in history.read(app.path)} == {"first", "last", "other"}
    assert path_of(app).stat().st_size < history.MAX_BYTES


def test_a_line_for_a_file_that_was_just_replaced_goes_into_the_new_one(
    app: AppFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = loaded(app)
    history.record(found, "start", "first")
    path = path_of(app)
    replaced = []
    open_ = os.open

    def late(name: Any, *arguments: Any, **keywords: Any) -> int:
        descriptor = open_(name, *arguments, **keywords)
        if name == history.NAME and not replaced:
            replaced.append(path.with_name("new").write_bytes(path.read_bytes()))
            path.with_name("new").rename(path)
        return descriptor

    monkeypatch.setattr(os, "open", late)
    history.record(found, "start", "second")
    assert replaced
    assert [entry["what"] for entry in entries(app)] == ["first", "second"]


def test_a_halted_writer_delays_nobody_for_ever(app: AppFolder) -> None:
    import fcntl

    found = loaded(app)
    history.record(found, "start", "first")
    with path_of(app).open("rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert launcher(*app.arguments, "--", "--exit", "0", timeout=30).status == 0
    assert actions(app) == ["start", "start"]
