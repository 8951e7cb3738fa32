"""What `logs` shows: the last lines of the right file, and with `-f` all that comes until the instance has ended."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from launcher.app import logs
from tests.support.apps import AppFolder, Processes, alive, eventually, get, launcher, program

CHATTY = """\
import os, sys, time
for number in range(200):
    print("line", number)
sys.stdout.flush()
while not os.path.exists("end"):
    if os.path.exists("say"):
        with open("say") as file:
            print(file.read(), flush=True)
        os.unlink("say")
    time.sleep(0.01)
print("the end")
"""


def log_of(app: AppFolder) -> Path:
    return app.path / ".start_app" / "logs" / f"webui-{app.port}.log"


def say(app: AppFolder, line: str) -> None:
    (app.path / "said").write_text(line)
    (app.path / "said").rename(app.path / "say")


def chatty(app: AppFolder, processes: Processes, *arguments: str | Path) -> int:
    """Start an app that never opens its port, with a log."""
    app.script.write_text(CHATTY)
    done = launcher("--background", "--timeout", "0", *app.arguments, *arguments)
    assert "left running" in done.err, done.err
    pid = app.lock_holder()
    assert pid
    return processes.end_also(pid)


def test_it_shows_the_last_lines(app: AppFolder, processes: Processes) -> None:
    chatty(app, processes)
    eventually(lambda: "line 199\n" in log_of(app).read_text(), what="lines")
    done = launcher("logs", *app.arguments)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == [f"line {number}" for number in range(150, 200)]
    assert launcher("logs", "--lines", "2", *app.arguments).out == "line 198\nline 199\n"
    assert launcher("logs", "--lines", "0", *app.arguments).out == ""
    assert launcher("logs", "--lines", "9999", *app.arguments).out == log_of(app).read_text()
    assert launcher("logs", "--lines", "1", "--json", *app.arguments).json == {
        "version": 1,
        "log": str(log_of(app)),
        "lines": ["line 199"],
    }


def test_the_log_is_the_one_that_the_instance_was_given_also_after_its_end(
    app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    log = tmp_path / "mine.log"
    chatty(app, processes, "--log-file", log)
    say(app, "to mine")
    eventually(lambda: "to mine" in log.read_text(), what="line")
    assert launcher("logs", "--lines", "1", *app.arguments).out == "to mine\n"
    assert not log_of(app).exists()
    (app.path / "end").touch()
    eventually(lambda: "the end" in log.read_text(), what="end")
    assert launcher("logs", "--lines", "1", *app.arguments).out == "the end\n"


def test_without_a_log_it_says_so(app: AppFolder, processes: Processes) -> None:
    done = launcher("logs", *app.arguments)
    assert done.status == 74
    assert done.err.splitlines() == [
        f"there is no log of webui.py on port {app.port}",
        f"hint: {program()} --app-dir {app.path} --port {app.port} --background starts the app with a log",
    ]
    running = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what="page")
    done = launcher("logs", *app.arguments)
    assert done.status == 74
    assert (
        f"the instance on port {app.port} has no log: "
        f"pid {running.pid} prints to the terminal or service that started it" in done.err
    )
    assert not (app.path / ".start_app" / "logs").exists()


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_what_is_no_log_is_not_shown(kind: str, app: AppFolder, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    log_of(app).parent.mkdir(parents=True)
    {
        "link": lambda: log_of(app).symlink_to(tmp_path / "secret"),
        "fifo": lambda: os.mkfifo(log_of(app)),
        "folder": log_of(app).mkdir,
    }[kind]()
    done = launcher("logs", "-f", *app.arguments, timeout=20)
    assert (done.status, done.out) == (74, "")


def test_follow_shows_what_comes_and_ends_with_the_instance(app: AppFolder, processes: Processes) -> None:
    chatty(app, processes)
    eventually(lambda: "line 199\n" in log_of(app).read_text(), what="lines")
    follower = processes.launch("logs", "-f", "--lines", "1", *app.arguments)
    eventually(lambda: follower.out == "line 199\n", what="tail")
    say(app, "more")
    eventually(lambda: follower.out == "line 199\nmore\n", what="more")
    os.truncate(log_of(app), 0)
    say(app, "after it was emptied")
    eventually(lambda: "after it was emptied\n" in follower.out, what="emptied")
    (app.path / "end").touch()
    assert follower.wait() == 0
    assert follower.out.endswith("emptied\nthe end\n")
    assert follower.err == ""


def test_follow_goes_on_with_the_log_of_the_next_start(app: AppFolder, processes: Processes) -> None:
    chatty(app, processes)
    eventually(lambda: "line 199\n" in log_of(app).read_text(), what="lines")
    follower = processes.launch("logs", "-f", "--lines", "1", *app.arguments)
    eventually(lambda: follower.out == "line 199\n", what="tail")
    say(app, "of the first")
    eventually(lambda: "of the first\n" in follower.out, what="first")
    chatty(app, processes)
    say(app, "of the second")
    eventually(lambda: "of the second\n" in follower.out, what="second")
    assert follower.out == "line 199\nof the first\n" + log_of(app).read_text()
    (app.path / "end").touch()
    assert follower.wait() == 0


def test_ctrl_c_ends_a_follow_without_a_word(app: AppFolder, processes: Processes) -> None:
    pid = chatty(app, processes)
    follower = processes.launch("logs", "-f", "--lines", "1", *app.arguments)
    eventually(lambda: follower.out, what="tail")
    follower.process.send_signal(signal.SIGINT)
    assert follower.wait() == 130
    assert follower.err == ""
    assert app.lock_holder() == pid


def test_a_tail_of_any_length_begins_at_a_line(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    for content in (b"", b"\n", b"a", b"a\n", b"a\nb", b"\n\n\n", b"x" * 70000 + b"\n" + b"y" * 70000 + b"\nz\n"):
        path.write_bytes(content)
        lines = content.splitlines(keepends=True)
        for number in range(5):
            descriptor = logs.open_log(path)
            logs.seek_tail(descriptor, number)
            assert b"".join(logs.blocks(descriptor)) == b"".join(lines[max(0, len(lines) - number) :]), (
                content,
                number,
            )
            os.close(descriptor)


def test_a_log_without_newlines_is_read_from_its_end_only(app: AppFolder, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        file.truncate(1 << 30)  # a hole of a gigabyte, in place of a progress bar's gigabyte
        file.seek(1 << 30)
        file.write(b"\r 99 %\r100 %\n")
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert logs.tail(log, 20) == ("100 %",)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun < 100_000  # KiB


def test_a_named_log_is_kept_beside_the_older_ones_and_never_replaces_a_file_of_the_users(
    app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    log = tmp_path / "results"
    own = {tmp_path / f"results{suffix}": f"own{suffix}\n" for suffix in (".1", ".2", ".4")}
    for path, text in own.items():
        path.write_text(text)
    app.script.write_text("import time\nprint('from the app', flush=True)\ntime.sleep(600)\n")
    for _ in range(5):
        done = launcher("--background", "--timeout", "0", *app.arguments, "--log-file", log)
        assert "left running" in done.err, done.err
        pid = app.lock_holder()
        assert pid
        processes.end_also(pid)
        eventually(lambda: "from the app" in log.read_text(), what="line")
    assert {path: path.read_text() for path in own} == own
    assert log.read_text().startswith(f"# start_app.py: {app.script} on port {app.port}, started 20")
    assert sorted(path.name for path in tmp_path.glob("results*")) == [
        "results",
        *(f"results.{number}" for number in range(1, 6)),
    ]
    # A file of that very name is refused while the old instance runs on.
    log.unlink()
    log.write_text("own")
    other = tmp_path / "other"
    other.write_text("own")
    refused = launcher(*app.arguments, "--log-file", other)
    assert refused.status == 2
    assert f"{other} was not written by the launcher, and stays as it is (--log-file)\n" in refused.err
    assert other.read_text() == "own"
    assert alive(pid)
    # Where the instance before prints to is the launcher's, whatever its version.
    assert launcher("--background", "--timeout", "0", *app.arguments, "--log-file", log).status == 75
    assert log.read_text().startswith("# start_app.py: ")
    processes.end_also(app.lock_holder() or pid)
