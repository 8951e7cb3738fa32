"""What goes with an instance, and what is left and named: the rules over made-up tables, and real processes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.instances.family import Bounds, Family, Start, family, leftovers
from launcher.instances.record import instance_name, read
from launcher.system import marker
from launcher.system.marker import Marker, parse
from tests.support.apps import (
    START_APP,
    AppFolder,
    Processes,
    Running,
    alive,
    clean_environment,
    eventually,
    free_port,
    get,
    launcher,
    make_app,
)
from tests.support.fuzz import examples
from tests.support.table import HERE, Box, MadeUp, one

APP = "python webui.py --port 7860"
OURS = Marker("a1", 7860, 100, 100, HERE, 110, "", "/app/webui.py")
OTHERS = Marker("b2", 7860, 300, 300, HERE, 310, "", "/other/webui.py")
BOUNDS = Bounds(("/app",), own=900, uid=os.geteuid(), spare=frozenset((1, 900, 901)))
INIT = one(1, 0, "/sbin/init")
LAUNCHED = one(100, 1, APP, 100, marker=OURS)
BY_HAND = one(100, 50, APP, 50)


def of(
    *processes: MadeUp, scripts: Mapping[int, str] | None = None, threads: Mapping[int, float] | None = None
) -> Family:
    return family((100,), Box(INIT, *processes, scripts=scripts, threads=threads), BOUNDS)


def pids(found: Family) -> set[int]:
    return {process.pid for process in found.own}


def reasons(found: Family) -> dict[int, str]:
    return {process.pid: why for process, why in found.left}


def test_what_has_the_instances_marker_goes_wherever_it_is() -> None:
    below = one(120, 100, "sleep 9", marker=OURS)
    orphan = one(130, 1, "node server.js", 130, marker=OURS)
    assert pids(of(LAUNCHED, below, orphan)) == {120, 130}


def test_a_copy_of_the_apps_environment_proves_nothing() -> None:
    shell = one(200, 1, "bash", 200, environ={"PATH": "/bin"})
    job = one(210, 200, "python debug.py", 200, marker=OURS)
    found = of(LAUNCHED, shell, job)
    assert (pids(found), [*reasons(found)]) == (set(), [210])
    assert "a copy of the app's environment" in reasons(found)[210]
    dead = leftovers(Box(INIT, shell, job), Start(7860, (), {210: OURS}, frozenset()), BOUNDS, ())
    assert (pids(dead), [*reasons(dead)]) == (set(), [210])
    # A title has overwritten the leader's environment, or the app itself is in the session of a shell.
    assert pids(of(LAUNCHED, one(200, 1, "ray: head", 200), job)) == {210}
    in_shell = OURS._replace(session=50)
    app, below = one(100, 50, APP, 50, marker=in_shell), one(110, 100, "sh", 50, marker=in_shell)
    assert pids(of(one(50, 1, "bash", 50, environ={"PATH": "/bin"}), app, below)) == {110}


def test_a_child_that_has_inherited_the_listening_socket_goes_by_hand_too() -> None:
    held = frozenset(("4711",))
    app, worker, job = (
        BY_HAND.but(listeners=held),
        one(120, 100, "worker: 1", 50, listeners=held),
        one(105, 100, "ssh", 50),
    )
    found = of(app, worker, job)
    assert (pids(found), [*reasons(found)]) == ({120}, [105])
    # Whoever has passed the socket to the app may have passed it to the child too.
    assert pids(of(app, worker, one(50, 1, "inetd", 50, listeners=held))) == set()
    assert pids(of(app.but(environ={"LISTEN_FDS": "1"}), worker)) == set()


def test_a_job_of_the_shell_that_became_the_app_is_left_and_named() -> None:
    job, inside = one(105, 100, "ssh -N tunnel", 100), one(106, 105, "ssh", 100)
    for app in (LAUNCHED, BY_HAND):
        found = of(app, job, inside)
        assert pids(found) == set()
        assert reasons(found) == {105: "nothing proves that the app has started it"}


def test_a_child_with_a_cleared_environment_goes_when_it_is_younger_than_the_exec() -> None:
    assert pids(of(LAUNCHED, one(111, 100, "ffmpeg"), one(112, 111, "sh"), one(110, 100, "tunnel"))) == {111, 112}


def test_by_hand_what_is_younger_than_a_thread_of_the_app_goes() -> None:
    processes = (BY_HAND, one(105, 100, "tunnel"), one(121, 100, "node"), one(122, 121, "sh"))
    assert pids(of(*processes)) == set()
    assert pids(of(*processes, threads={100: 120.0})) == {121, 122}


@pytest.mark.parametrize(
    "worker",
    [
        APP,
        "python -c from·multiprocessing.spawn·import·spawn_main;·x --multiprocessing-fork",
        "python -s -c from·multiprocessing.forkserver·import·main;·main(1)",
        "python -c from·multiprocessing.resource_tracker·import·main;main(6)",
        "python -m joblib.externals.loky.backend.popen_loky_posix --process-name x",
    ],
)
def test_by_hand_a_worker_of_the_same_program_goes(worker: str) -> None:
    argv = tuple(word.replace("·", " ") for word in worker.split())
    assert pids(of(BY_HAND, one(105, 100, "python", argv=argv), one(106, 105, "sh"))) == {105, 106}


def test_another_app_that_inherited_the_marker_is_left_with_all_below_it() -> None:
    elsewhere = one(120, 100, "python other.py", marker=OURS)
    worker = one(121, 120, "python -c x", marker=OURS)
    inside = one(130, 100, "python tools/webui.py", marker=OURS)
    tool = one(140, 100, "python tensorboard", marker=OURS)
    own_start = one(150, 100, "python webui.py", marker=OURS._replace(token="c", pid=150, ticks=160))
    starting = one(160, 100, "python /x/start_app.py", marker=OURS)
    scripts = {120: "/other/webui.py", 130: "/app/tools/webui.py", 140: "/env/bin/tensorboard"}
    found = of(LAUNCHED, elsewhere, worker, inside, tool, own_start, starting, scripts=scripts)
    assert pids(found) == {130, 140}
    assert reasons(found) == {
        120: "it runs /other/webui.py, which is not in the app's folder",
        150: "a launcher has started it, as an instance of its own",
        160: "it is a launcher",
    }


def test_another_user_is_left_and_named() -> None:
    found = of(LAUNCHED, one(120, 100, "sleep 9", uid=65534, marker=OURS), one(121, 120, "sleep 8", marker=OURS))
    assert pids(found) == {121}
    assert set(reasons(found)) == {120}


def test_the_launcher_its_ancestors_and_other_instances_are_never_of_the_family() -> None:
    launcher_, shell = one(900, 901, "python start_app.py", marker=OURS), one(901, 100, "bash", marker=OURS)
    sibling, its = one(500, 100, "python webui.py --port 1", marker=OURS), one(501, 500, "sh", marker=OURS)
    bounds = BOUNDS._replace(apart=frozenset((500,)))
    found = family((100,), Box(INIT, LAUNCHED, launcher_, shell, sibling, its), bounds)
    assert (found.own, found.left) == ((), ())


def test_who_comes_up_in_a_session_that_was_the_familys_alone_goes_when_its_parent_is_dead() -> None:
    app = one(100, 50, APP, 100)
    first = family((100,), Box(INIT, app), BOUNDS)
    assert first.known.sealed == {100}
    late = one(1100, 1, "sleep 9", 100)
    assert pids(family((), Box(INIT, late), BOUNDS, first.known)) == {1100}
    # With a stranger in it, the session proves nothing.
    job = one(90, 1, "tunnel", 100)
    mixed = family((100,), Box(INIT, app, job), BOUNDS)
    assert set(reasons(mixed)) == {90}
    assert family((), Box(INIT, late, job), BOUNDS, mixed.known).own == ()


def test_what_is_younger_than_an_earlier_look_goes() -> None:
    first = family((100,), Box(INIT, BY_HAND), BOUNDS)
    found = family((100,), Box(INIT, BY_HAND, one(105, 100, "tunnel"), one(1001, 100, "sleep")), BOUNDS, first.known)
    assert pids(found) == {1001}
    # Those that go are known, and so is what they start.
    known = first.known._replace(pids=frozenset((105,)))
    assert pids(family((100,), Box(INIT, BY_HAND, one(105, 100, "x"), one(106, 105, "y")), BOUNDS, known)) == {106}


ATTENDED = Start(7860, (), {}, frozenset())


def marked(table: Box) -> Mapping[int, Marker]:
    """Return the processes that have a marker of this app."""
    return {pid: mark for pid, mark in table.marked.items() if mark.script == "/app/webui.py"}


def left_over(
    *processes: MadeUp, start: Start = ATTENDED, known: Collection[int] = (), **more: Mapping[int, str]
) -> Family:
    table = Box(INIT, *processes, **more)
    return leftovers(table, start._replace(marked=marked(table)), BOUNDS, known)


def test_what_a_dead_instance_has_left_is_a_leftover() -> None:
    worker, foreign = one(120, 1, "sleep 9", 100, marker=OURS), one(130, 1, "sleep 8", marker=OTHERS)
    found = left_over(worker, foreign)
    assert pids(found) == {120}
    assert found.left == ()


def test_what_a_living_process_has_started_is_none() -> None:
    # Of another command, it may be no instance of this app.
    train = one(100, 1, "python webui.py train", marker=OURS)
    found = left_over(train, one(120, 100, "sleep 9", marker=OURS))
    assert pids(found) == set()
    assert set(reasons(found)) == {100, 120}
    # The pid has passed to another process since.
    late = one(100, 1, "vim", start=500.0)
    assert pids(left_over(late, one(120, 1, "sleep 9", marker=OURS))) == {120}


def test_a_leftover_of_another_port_is_ended_only_where_it_holds_ours() -> None:
    other = one(120, 1, "sleep 9", marker=OURS._replace(port=7861))
    found = left_over(other)
    assert pids(found) == set()
    assert "start_app.py stop --port 7861" in reasons(found)[120]
    assert pids(left_over(other, start=ATTENDED._replace(holding=frozenset((120,))))) == {120}


def test_an_unattended_launch_spares_what_has_a_session_of_its_own_and_no_port_of_ours() -> None:
    worker, job = one(120, 1, "sleep 9", 100, marker=OURS), one(130, 1, "python train.py", 130, marker=OURS)
    unit = ATTENDED._replace(attended=False)
    found = left_over(worker, job, start=unit)
    assert pids(found) == {120}
    assert set(reasons(found)) == {130}
    assert pids(left_over(worker, job, start=unit._replace(holding=frozenset((130,))))) == {120, 130}
    assert pids(left_over(worker, job)) == {120, 130}


def test_what_another_command_of_the_script_has_left_is_left() -> None:
    found = left_over(one(120, 1, "sleep 9", 100, marker=OURS._replace(command="train")))
    assert pids(found) == set()
    assert "another command" in reasons(found)[120]


def test_another_container_whose_app_cannot_be_seen_is_left() -> None:
    found = left_over(one(120, 1, "sleep 9", marker=OURS._replace(namespace="17")))
    assert pids(found) == set()
    assert "cannot be seen" in reasons(found)[120]


COMMANDS = (APP, "bash", "sleep 9", "python other.py", "python train.py", "python start_app.py", "node x.js")
MARKS = (None, None, OURS, OURS._replace(token="dead", pid=77), OTHERS, OURS._replace(port=7861))
SCRIPTS = (None, "/app/train.py", "/other/webui.py", "/env/lib/python3.11/site-packages/x.py")


@st.composite
def tables(draw: st.DrawFn) -> Box:
    """Make a table with the app as pid 100, the launcher as 900 and its shell as 901, and any others."""
    processes = [INIT, draw(st.sampled_from((LAUNCHED, BY_HAND)))]
    numbers = draw(st.lists(st.integers(2, 199).filter(lambda n: n not in (77, 100)), unique=True, max_size=12))
    scripts = {}
    for number in (*numbers, 901, 900):
        # 50 is the parent of an app started by hand: no process is its own ancestor.
        parents = {900: [901], 50: [1]}.get(number) or [process.pid for process in processes]
        parent = draw(st.sampled_from(parents))
        mark, script = draw(st.sampled_from(MARKS)), draw(st.sampled_from(SCRIPTS))
        session = draw(st.sampled_from((1, 50, 100, number)))
        command = "python start_app.py" if number == 900 else draw(st.sampled_from(COMMANDS))
        uid = draw(st.sampled_from((os.geteuid(), os.geteuid(), 4242)))
        processes.append(one(number, parent, command, session, marker=mark, uid=uid))
        if script and command.startswith("python"):
            scripts[number] = script
    threads = draw(st.sampled_from(({}, {100: 150.0})))
    return Box(*processes, threads=threads, scripts=scripts)


@given(table=tables(), attended=st.booleans())
@examples(300)
def test_nothing_without_proof_is_a_target_and_every_marked_process_is_one_or_is_named(
    table: Box, attended: bool
) -> None:
    found = family((100,), table, BOUNDS)
    known = {100, *pids(found), *reasons(found)}
    dead = leftovers(table, ATTENDED._replace(attended=attended, marked=marked(table)), BOUNDS, known)
    targets = pids(found) | pids(dead)
    named = {*reasons(found), *reasons(dead)}
    assert not targets & named
    assert not targets & (BOUNDS.spare | {100})
    below_left = table.below([pid for pid in named if pid not in BOUNDS.spare])
    launched = table.processes[100].marker == OURS
    for pid in targets:
        process = table.processes[pid]
        assert process.process.uid == os.geteuid()
        assert table.scripts.get(pid) != "/other/webui.py"
        line = [pid]
        while (parent := table.processes[line[-1]].ppid) in table.processes:
            line.append(parent)
        proofs = [
            one
            for one in line
            if (mark := table.processes[one].marker)
            and mark.script == "/app/webui.py"
            or (table.processes[one].ppid == 100 and (one > (110 if launched else 150) or one in workers(table)))
        ]
        assert proofs, process
    for pid, process in table.processes.items():
        mark = process.marker
        if pid in (100, 900) or mark is None or mark.script != "/app/webui.py":
            continue
        assert pid in targets or pid in named or pid in below_left or pid in table.below((900,)), process


def workers(table: Box) -> Iterator[int]:
    return (pid for pid, process in table.processes.items() if process.argv == tuple(APP.split()))


words = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=8)


@given(text=st.one_of(words, st.lists(words, min_size=7, max_size=9).map(":".join), st.just(OURS.text() + ":x")))
@examples(200)
def test_a_variable_of_any_text_is_a_marker_or_none(text: str) -> None:
    found = parse(text)
    assert found is None or parse(found.text()) == found


def test_a_marker_is_read_as_it_was_written() -> None:
    mark = marker.new(7860, "/a:b/webui.py", ("a:b", "c %d")).stamped()
    assert parse(mark.text()) == mark
    assert mark.pid == os.getpid()
    assert parse(None) is parse("") is parse("1:2:3") is parse("a:" + "9" * 5000 + ":1:1:1:1:/x") is None


# A UI that opens another one, keeps a job in a session of its own, a pool, and what has no environment.
BUSY = """\
import multiprocessing, os, subprocess, sys, time

if __name__ == "__main__":
    kept = [
        subprocess.Popen(f"{sys.executable} tools/webui.py {os.environ['SECOND']}", shell=True),
        subprocess.Popen([sys.executable, "train.py"], start_new_session=True),
        subprocess.Popen(["sleep", "600"], env={}),
    ]
    context = multiprocessing.get_context(os.environ.get("METHOD", "spawn"))
    kept.append(context.Process(target=time.sleep, args=(600,)))
    kept[-1].start()
    open("children", "w").write("ready")
"""
SERVER = """\
import http.server, sys
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def make_busy(app: AppFolder) -> int:
    """Give the app a family, and return the port of its second UI."""
    (app.path / "tools").mkdir()
    (app.path / "tools" / "webui.py").write_text(SERVER)
    (app.path / "train.py").write_text("import time; time.sleep(600)")
    body = "".join(f"    {line}\n" for line in app.script.read_text().splitlines())
    app.script.write_text(f"{BUSY}{body}")
    return free_port()


def launch_busy(app: AppFolder, processes: Processes, method: str = "spawn") -> tuple[Running, set[int], int]:
    """Launch such an app, and return it with the pids of its family and the port of its second UI."""
    second = make_busy(app)
    running = processes.launch(*app.arguments, env=clean_environment(SECOND=str(second), METHOD=method))
    eventually(lambda: get(app.port) and get(second), what=running.err)
    below = {processes.end_also(process.pid) for process in psutil.Process(running.pid).children(recursive=True)}
    return running, below, second


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_dry_run_and_status_name_all_that_goes_and_a_restart_ends_it(
    method: str, app: AppFolder, processes: Processes
) -> None:
    running, below, second = launch_busy(app, processes, method)
    assert len(below) >= 5
    plan = launcher("-n", *app.arguments)
    status = launcher("status", *app.arguments)
    for pid in below:
        assert f"would terminate pid {pid}, " in plan.out
        assert f"goes with it: pid {pid}, " in status.out
    assert f", port {second}: below pid {running.pid}" in plan.out
    for command, key in ((("-n",), "terminate_along"), (("stop", "-n"), "terminate_along"), (("status",), "family")):
        named = launcher(*command, "--json", *app.arguments).json[key]
        assert {member["pid"] for member in named} == below
        assert [second] in [member["ports"] for member in named]
    done = launcher("--no-launch", *app.arguments)
    assert done.status == 0
    assert f"terminated pid {running.pid} and {len(below)} below it" in done.err
    assert not [pid for pid in below if alive(pid)]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["stop", "launch"])
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_what_a_killed_instance_leaves_is_named_by_status_and_ended_next(
    method: str, command: str, app: AppFolder, processes: Processes
) -> None:
    running, below, second = launch_busy(app, processes, method)
    running.process.kill()
    running.wait()
    # A pool's process may end by itself when it is alone. Nothing proves whose the one without an environment was.
    left = {pid for pid in below if alive(pid) and marker.NAME in psutil.Process(pid).environ()}
    assert left
    status = launcher("status", *app.arguments).out
    document = launcher("status", "--json", *app.arguments).json
    assert document["state"] == "not running"
    (ui,) = (member["pid"] for member in document["leftovers"] if member["ports"] == [second])
    assert f"left over: pid {ui}, " in status
    if command == "stop":
        done = launcher("stop", *app.arguments)
        err = done.err
        assert done.status == 0
    else:
        again = processes.launch(*app.arguments, env=clean_environment(SECOND=str(free_port())))
        eventually(lambda: get(app.port), what=again.err)
        err = again.err
    assert f"left over: pid {ui}, " in err
    eventually(lambda: not [pid for pid in left if alive(pid)], what="the end of all that was left")


def test_a_helper_of_a_killed_instance_that_holds_the_port_is_no_stranger(app: AppFolder, processes: Processes) -> None:
    (app.path / "server.py").write_text(SERVER)
    app.script.write_text(
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, 'server.py', '{app.port}'])\n"
        "time.sleep(600)\n"
    )
    first = processes.launch(*app.arguments)
    (helper,) = eventually(lambda: psutil.Process(first.pid).children(), what="helper")
    eventually(lambda: get(app.port), what="page")
    first.process.kill()
    first.wait()
    processes.end_also(helper.pid)
    plan = launcher("-n", *app.arguments).out
    assert f"would terminate pid {helper.pid}, " in plan
    assert f", port {app.port}, left over by an instance that has ended\n" in plan
    second = processes.launch(*app.arguments)
    eventually(lambda: not alive(helper.pid) and get(app.port), what=second.err)
    for child in psutil.Process(second.pid).children():
        processes.end_also(child.pid)


@pytest.mark.parametrize("how", ["by hand", "launched"])
def test_jobs_of_the_shell_that_became_the_app_are_left_and_named(
    how: str, app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    other = make_app(tmp_path / "other")
    python = sys.executable
    last = f"{python} webui.py --port {app.port}" if how == "by hand" else f"{python} {START_APP} --port {app.port}"
    script = f"cd {other.path}; {python} webui.py --port {other.port} & sleep 600 & cd {app.path}; {last}"
    running = processes.start(("bash", "-c", script))
    eventually(lambda: get(app.port) and get(other.port), what=running.err)
    jobs = {processes.end_also(process.pid) for process in psutil.Process(running.pid).children()}
    assert len(jobs) == 2
    for command in (("-n",), ("stop", "-n"), ("--no-launch",)):
        done = launcher(*command, *app.arguments)
        assert done.status == 0
        for pid in jobs:
            assert f"left: pid {pid}, " in done.out + done.err
    assert {left["pid"] for left in launcher("status", "--json", *app.arguments).json["left"]} <= jobs
    assert not alive(running.pid)
    assert all(alive(pid) for pid in jobs)
    assert get(other.port)


def test_another_checkout_that_was_started_from_within_the_app_is_left_and_named(
    app: AppFolder, processes: Processes, tmp_path: Path
) -> None:
    other = make_app(tmp_path / "other")
    app.script.write_text(
        "import subprocess, sys\n"
        f"subprocess.Popen([sys.executable, 'webui.py', '--port', '{other.port}'], cwd={str(other.path)!r})\n"
        + app.script.read_text()
    )
    running = processes.launch(*app.arguments)
    eventually(lambda: get(app.port) and get(other.port), what=running.err)
    (child,) = psutil.Process(running.pid).children()
    processes.end_also(child.pid)
    done = launcher("stop", *app.arguments)
    assert done.status == 0
    assert f"left: pid {child.pid}, " in done.err
    assert f"it runs {other.script}, which is not in the app's folder" in done.err
    assert get(other.port) == f"pid {child.pid}"
    # Its marker is that of a dead instance now, and it is left all the same.
    again = launcher("stop", *app.arguments)
    assert f"left: pid {child.pid}, " in again.err
    assert get(other.port) == f"pid {child.pid}"


def test_a_launcher_that_the_app_has_sent_away_restarts_it_and_passes_no_marker_on(
    app: AppFolder, processes: Processes
) -> None:
    words = [sys.executable, str(START_APP), *app.arguments, "--background"]
    later = 'setsid bash -c \'sleep 0.5; exec "$@"\' - "$@" &'
    app.script.write_text(
        "import os, subprocess\n"
        "if os.environ.get('AGAIN') == '1':\n"
        "    environ = {**os.environ, 'AGAIN': '2'}\n"
        f"    subprocess.Popen(['bash', '-c', {later!r}, '-', *{words!r}], env=environ)\n" + app.script.read_text()
    )
    first = processes.launch(*app.arguments, env=clean_environment(AGAIN="1"))
    new = eventually(lambda: (body := get(app.port)) and body != f"pid {first.pid}" and body, 30, what=first.err)
    pid = processes.end_also(int(new.split()[1]))
    assert not alive(first.pid)
    mark = parse(psutil.Process(pid).environ()[marker.NAME])
    assert mark and (mark.pid, mark.port, mark.script) == (pid, app.port, str(app.script))


def test_an_app_that_starts_itself_anew_keeps_its_family(app: AppFolder, processes: Processes) -> None:
    app.script.write_text(
        "import os, subprocess, sys, time\n"
        "if not os.path.exists('anew'):\n"
        "    open('anew', 'w').close()\n"
        "    kept = subprocess.Popen(['sleep', '600'])\n"
        "    open('kept', 'w').write(str(kept.pid))\n"
        "    subprocess.Popen([sys.executable, *sys.argv], start_new_session=True)\n"
        "    os._exit(0)\n" + app.script.read_text()
    )
    processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what="page")
    pid = processes.end_also(int((get(app.port) or "").removeprefix("pid ")))
    kept = processes.end_also(int((app.path / "kept").read_text()))
    document = launcher("status", "--json", *app.arguments).json
    assert document["instance"]["pid"] == pid
    assert [member["pid"] for member in document["family"]] == [kept]
    assert document["leftovers"] == []
    done = launcher("stop", *app.arguments)
    assert done.status == 0
    assert f"terminated pid {pid} and 1 below it" in done.err
    assert not alive(kept)


def test_by_hand_what_a_running_thread_proves_goes_and_the_rest_is_left(app: AppFolder, processes: Processes) -> None:
    app.script.write_text(
        "import subprocess, threading, time\n"
        "early = subprocess.Popen(['sleep', '601'])\n"
        "time.sleep(0.05)\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "time.sleep(0.05)\n"
        "late = subprocess.Popen(['sleep', '602'])\n" + app.script.read_text()
    )
    running = processes.start((sys.executable, "webui.py", "--port", str(app.port)), cwd=app.path)
    eventually(lambda: get(app.port), what=running.err)
    early, late = sorted(psutil.Process(running.pid).children(), key=lambda process: process.cmdline())
    processes.end_also(early.pid)
    done = launcher("stop", *app.arguments)
    assert done.status == 0
    assert f"left: pid {early.pid}, sleep 601" in done.err
    assert alive(early.pid)
    assert not alive(late.pid)


def test_the_record_names_the_marker_and_one_without_stays_valid(app: AppFolder, processes: Processes) -> None:
    running = processes.launch(*app.arguments)
    eventually(lambda: get(app.port), what=running.err)
    path = app.path / ".start_app" / instance_name(app.port)
    record = read(path)
    mark = parse(psutil.Process(running.pid).environ()[marker.NAME])
    assert record and mark and record.marker == mark.token
    document = json.loads(path.read_text())
    del document["marker"]
    path.write_text(json.dumps(document) + "\n")
    assert read(path) == record._replace(marker=None)
    assert launcher("stop", *app.arguments).status == 0
    assert not alive(running.pid)
