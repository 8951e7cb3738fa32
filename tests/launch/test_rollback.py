"""A start that fails where nobody looks leads back to what ran well; a person is told how to go back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.service import outcomes
from tests.support.apps import (
    ROOT,
    START_APP,
    WEBUI,
    AppFolder,
    Done,
    Processes,
    alive,
    clean_environment,
    eventually,
    get,
    launcher,
)

SECRET = "sk-0123456789abcdef0123456789abcdef"


@pytest.fixture
def app(app: AppFolder) -> AppFolder:
    app.script.write_text(WEBUI.replace("args = ", 'parser.add_argument("--api-key")\nargs = ', 1))
    return app


def background(app: AppFolder, processes: Processes, *words: str, env: dict[str, str] | None = None) -> Done:
    done = launcher("--background", *app.arguments, *words, env=env)
    pid = app.lock_holder()
    if pid:
        processes.end_also(pid)
    return done


def known(app: AppFolder) -> outcomes.Outcomes:
    return outcomes.read(app.path, app.port)


def serving(app: AppFolder) -> list[str]:
    """Return the command line of what serves."""
    page = get(app.port)
    assert page
    return Path(f"/proc/{page.split()[1]}/cmdline").read_bytes().decode().split("\0")[:-1]


def actions(app: AppFolder) -> list[str]:
    return [entry["action"] for entry in launcher("history", "--json", *app.arguments).json["entries"]]


def test_an_upgrade_that_fails_in_the_background_is_rolled_back(app: AppFolder, processes: Processes) -> None:
    assert background(app, processes, "--", "--api-key", SECRET).status == 0
    done = background(app, processes, "--json", "--", "--api-key", SECRET, "--exit", "3")
    assert done.status == 75, done.err
    assert (done.json["rolled_back"], done.json["exit_status"]) == (True, 75)
    assert "start_app.py " in done.json["hint"]
    assert "the app has ended with exit status 3 before its page answered" in done.err
    assert "the last good set serves again" in done.err
    assert serving(app)[-2:] == ["--api-key", SECRET]
    assert actions(app) == ["start", "ready", "stop", "start", "fail", "rollback", "ready"]
    state = "".join(path.read_text(errors="replace") for path in (app.path / ".start_app").glob("outcomes*"))
    assert SECRET not in state
    assert SECRET not in done.err
    shown = launcher("status", *app.arguments).out
    assert "rolled back:" in shown
    assert "last failed start:" in shown


@pytest.mark.slow
def test_a_roll_back_does_not_depend_on_an_env_that_was_edited_meanwhile(app: AppFolder, processes: Processes) -> None:
    app.script.write_text("import sys\n'--exit' in sys.argv and open('.env', 'a').write('# edited\\n')\n" + WEBUI)
    assert background(app, processes).status == 0
    done = background(app, processes, "--", "--exit", "3")
    assert (done.status, bool(get(app.port))) == (75, True), done.err
    assert (app.path / ".env").read_text() == "# edited\n"


@pytest.mark.slow
def test_nothing_is_substituted_where_that_is_refused_or_in_the_foreground(
    app: AppFolder, processes: Processes
) -> None:
    assert background(app, processes).status == 0
    done = background(app, processes, "--no-rollback", "--", "--exit", "3")
    assert done.status == 75
    assert "rollback starts the last good set" in done.err
    assert get(app.port) is None
    assert launcher(*app.arguments, "--", "--exit", "5").status == 5
    assert get(app.port) is None
    shown = launcher("status", *app.arguments)
    assert " has ended before its page answered, nobody saw how\n" in shown.out
    assert "last failed start:" not in shown.out  # it is the one that has ended
    assert "rollback starts what ran well before" in shown.err
    again = launcher(*app.arguments, "--", "--exit", "5").err
    assert "note: the last start failed: pid " in again
    assert "rollback starts what ran well before" in again
    done = launcher("rollback", "--background", *app.arguments)
    processes.end_also(app.lock_holder() or 0)
    assert done.status == 0, done.err
    assert get(app.port)


def test_the_status_tells_that_somebody_stopped_it(app: AppFolder, processes: Processes) -> None:
    assert background(app, processes).status == 0
    pid = app.lock_holder()
    assert launcher("stop", *app.arguments).status == 0
    shown = launcher("status", *app.arguments).out
    (ended,) = [line for line in shown.splitlines() if line.startswith("ended: ")]
    assert ended.endswith(f", pid {pid} was stopped")


def test_the_last_line_of_a_file_that_others_write_too_is_not_the_last_of_the_app(
    app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    log = tmp_path / "cron.log"
    with log.open("w") as file:
        command = (sys.executable, str(ROOT / "start_app.py"), *app.arguments)
        subprocess.run((*command, "--", "--exit", "5"), stdout=file, stderr=file, timeout=60)
        print("what the script around it says", file=file, flush=True)
        subprocess.run((*command, "status"), stdout=file, stderr=file, timeout=60)
    (ended,) = [line for line in log.read_text().splitlines() if line.startswith("ended: ")]
    assert ended.endswith("nobody saw how")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_signal_at_load_is_a_failure_and_what_a_person_ends_is_none(
    app: AppFolder, processes: Processes, number: signal.Signals
) -> None:
    assert background(app, processes).status == 0
    app.script.write_text(WEBUI.replace("time.sleep(args.load)", "args.load and os.kill(os.getpid(), int(args.load))"))
    done = background(app, processes, "--", "--load", str(int(number)))
    assert (done.status, "last good set serves again" in done.err) == (75, True), done.err
    assert get(app.port)
    done = background(app, processes, "--", "--load", str(int(signal.SIGTERM)))
    assert (done.status, "serves again" in done.err) == (75, False), done.err
    assert get(app.port) is None


@pytest.mark.slow
def test_rollback_goes_to_the_set_before_and_back_again(app: AppFolder, processes: Processes) -> None:
    assert launcher("rollback", *app.arguments).status == 78
    assert background(app, processes, "--", "--load", "0.01").status == 0
    assert background(app, processes, "--", "--load", "0.02").status == 0
    for load in ("0.01", "0.02"):
        plan = launcher("rollback", "-n", *app.arguments)
        assert f"--load {load}" in plan.out, plan
        done = launcher("rollback", "--background", "--json", *app.arguments)
        processes.end_also(app.lock_holder() or 0)
        assert done.status == 0, done.err
        assert serving(app)[-1] == load


@pytest.mark.slow
def test_a_variable_that_kills_the_app_is_taken_back_and_a_secret_one_is_not_recorded(
    app: AppFolder, processes: Processes
) -> None:
    load = "time.sleep(args.load)\nif os.environ.get('MODEL') == 'v3':\n    sys.exit(os.environ['MY_API_KEY'])\n"
    app.script.write_text(WEBUI.replace("time.sleep(args.load)\n", load))
    app.write_env(f"MODEL=v2\nMY_API_KEY={SECRET}\n")
    assert background(app, processes).status == 0
    app.write_env(f"MODEL=v3\nMY_API_KEY={SECRET}x\nNEW=1\n")
    done = background(app, processes)
    assert (done.status, "serves again" in done.err) == (75, True), done.err
    page = get(app.port)
    assert page
    environment = Path(f"/proc/{page.split()[1]}/environ").read_bytes().decode().split("\0")
    assert {"MODEL=v2", f"MY_API_KEY={SECRET}x"} <= set(environment)
    assert "NEW=1" not in environment
    assert [dict(good.variables)["MODEL"] for good in known(app).good] == ["v2"]  # what ran, not what `.env` has now
    os.kill(int(page.split()[1]), signal.SIGKILL)
    eventually(lambda: get(app.port) is None, what="death")
    done = background(app, processes, "--if-down")
    assert (done.status, "rolling back" in done.err) == (0, True), done.err
    record = (app.path / ".start_app" / f"outcomes-{app.port}.json").read_text()
    assert "v2" in record
    assert SECRET not in record
    assert SECRET not in done.err.replace(f"| {SECRET}", "")


@pytest.mark.slow
def test_if_down_starts_only_what_does_not_run(app: AppFolder, processes: Processes) -> None:
    assert background(app, processes, "--if-down").status == 0
    pid = app.lock_holder()
    done = background(app, processes, "--if-down", "--json")
    assert (done.status, done.json["launched"]) == (0, False)
    assert app.lock_holder() == pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid), what="death")
    assert "death" in actions(app)
    assert "ended" in launcher("status", *app.arguments).out
    assert background(app, processes, "--if-down").status == 0
    assert app.lock_holder() != pid
    assert get(app.port)


@pytest.mark.slow
def test_five_doomed_starts_are_parked_until_something_changes(app: AppFolder, processes: Processes) -> None:
    app.write_env("APP_ARGS=--exit 4\n")
    for _ in range(5):
        assert background(app, processes, "--if-down").status == 75
    assert known(app).doomed == 5
    for _ in range(2):
        done = background(app, processes, "--if-down")
        assert done.status == 75
        assert "the last 5 unattended starts failed, and nothing has changed since" in done.err
        assert "exit status 4" in done.err
    for command in "status", "doctor":
        shown = launcher(command, *app.arguments)
        assert "the last 5 unattended starts failed, so further ones are refused" in shown.out
        assert "a start by hand always tries: " in shown.out + shown.err
        assert shown.out.count("unattended starts") == 1 + (command == "status")
    assert actions(app).count("start") == 5
    assert actions(app).count("refuse") == 1
    assert "exit status 4" in background(app, processes).err  # by hand it is tried
    assert actions(app).count("start") == 6
    app.write_env("APP_ARGS=--load 0\n")
    assert background(app, processes, "--if-down").status == 0
    assert known(app).doomed == 0
    assert get(app.port)


@pytest.mark.slow
def test_an_unattended_start_does_not_repeat_what_has_failed(app: AppFolder, processes: Processes) -> None:
    app.write_env("APP_ARGS=--load 0\n")
    assert background(app, processes, "--if-down").status == 0
    assert launcher("stop", *app.arguments).status == 0
    app.write_env("APP_ARGS=--exit 4\n")
    assert background(app, processes, "--if-down").status == 75
    pid = app.lock_holder()
    assert pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid), what="death")
    done = background(app, processes, "--if-down")
    assert done.status == 0, done.err
    assert "rolling back to what ran well" in done.err
    assert "exit status 4" in done.err
    assert serving(app)[-2:] == ["--load", "0"]
    done = background(app, processes, "--if-down", "-q")
    assert (done.status, done.err) == (0, "")  # cron would send a mail each minute
    assert launcher("stop", *app.arguments).status == 0
    done = background(app, processes, "--if-down")  # a person has stopped it, and may want to see the new set once more
    assert (done.status, "exit status 4" in done.err) == (75, True)
    assert get(app.port)


@pytest.mark.slow
def test_what_a_foreground_start_ran_is_good_once_somebody_has_seen_its_page(
    app: AppFolder, processes: Processes
) -> None:
    first = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what="page")
    done = background(app, processes, "--", "--exit", "2")
    assert (done.status, "serves again" in done.err) == (75, True), done.err
    assert get(app.port) not in (None, f"pid {first.pid}")


@pytest.mark.slow
def test_a_record_that_somebody_has_spoiled_is_none(app: AppFolder, processes: Processes) -> None:
    assert background(app, processes).status == 0
    path = app.path / ".start_app" / f"outcomes-{app.port}.json"
    assert path.stat().st_mode & 0o777 == 0o600
    document: dict[str, Any] = json.loads(path.read_text())
    sets = [{}, *({**document["good"][0], name: value} for name in ("argv", "script") for value in ([], "word"))]
    odd = [json.dumps({**document, "good": [one]}).encode() for one in sets]
    for spoiled in (b"", b"[]", b"\xff", *odd, b"{" * 10_000):
        path.write_bytes(spoiled)
        assert known(app) == outcomes.Outcomes()
    assert launcher("status", *app.arguments).status == 0
    assert background(app, processes, "--", "--exit", "2").status == 75


@pytest.mark.slow
def test_what_only_systemd_has_seen_is_left_to_systemd(app: AppFolder, processes: Processes) -> None:
    run = clean_environment(INVOCATION_ID="0123456789abcdef")
    unit = ("sh", "-c", 'SYSTEMD_EXEC_PID=$$ exec "$@"', "sh", sys.executable, START_APP, *app.arguments)
    dead = processes.start((*unit, "--", "--exit", "3"), env=run)
    assert dead.wait(60) == 3, dead.err
    assert launcher("wait", "--timeout", "1", "--pid", str(dead.pid), *app.arguments, env=run).status != 0
    facts = {"EXIT_CODE": "exited", "EXIT_STATUS": "3", "SERVICE_RESULT": "exit-code"}
    assert launcher("ended", *app.arguments, env={**run, **facts}).status == 0
    entries = launcher("history", "--json", *app.arguments).json["entries"]
    ended = [(entry["action"], entry["result"]) for entry in entries if entry["action"] != "start"]
    assert [action for action, _ in ended] == ["fail"]
    assert ended[0][1].startswith("has ended with exit status 3 before its page answered")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["service.md", "recipes.md", "zh-CN/service.md", "zh-CN/recipes.md"])
def test_the_documented_line_for_cron_keeps_the_app_alive(page: str, app: AppFolder, processes: Processes) -> None:
    lines = (ROOT / "docs" / page).read_text().splitlines()
    (line,) = {line.removeprefix("* * * * * ") for line in lines if line.startswith("* * * * * ")}
    line = line.replace("/root/index-tts", str(app.path))
    line = line.replace(".venv/bin/python start_app.py", f"{sys.executable} {START_APP}")
    app.write_env(f"GRADIO_SERVER_PORT={app.port}\n")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(app.path), "SHELL": "/bin/sh", "LOGNAME": "root"}
    pids = []
    for killed in (True, False, False):
        done = subprocess.run(("/bin/sh", "-c", line), env=environment, capture_output=True, timeout=90)
        pids.append(processes.end_also(app.lock_holder() or 0))
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), done
        assert get(app.port) == f"pid {pids[-1]}"
        if killed:
            os.kill(pids[-1], signal.SIGKILL)
            eventually(lambda: get(app.port) is None, 30, what="death")
    assert pids[0] != pids[1] == pids[2]
