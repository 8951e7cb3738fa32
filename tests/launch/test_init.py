"""`init` writes what starts the app, with reasons: it asks on a terminal, keeps every line and shows no secret."""

from __future__ import annotations

import os
import pty
import shlex
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.apps import (
    START_APP,
    WEBUI,
    AppFolder,
    Done,
    Processes,
    clean_environment,
    eventually,
    free_port,
    get,
    launcher,
)
from tests.support.families import PAGE

LAUNCHED = f'{PAGE}if __name__ == "__main__":\n    demo.launch()\n'
SECRET = "hf_abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "app"
    path.mkdir()
    (path / "gradio_app.py").write_text(LAUNCHED)
    return path


def init(folder: Path, *words: str) -> Done:
    return launcher("--app-dir", folder, "init", *words)


def test_without_a_terminal_it_shows_the_lines_and_writes_none_until_it_may(folder: Path) -> None:
    for words, status in (((), 2), (("-n",), 0)):
        done = init(folder, *words)
        assert done.status == status
        assert done.out == (
            "# gradio_app.py imports gradio and launches a page in line 5\nAPP_SCRIPT=gradio_app.py\n"
            "# gradio_app.py: it has no option for the port, Gradio takes it from the environment\nAPP_PORT_FLAG=none\n"
        )
        assert not (folder / ".env").exists()
    assert " init --yes\n" in init(folder).err
    refused = init(folder, "--json").json
    assert (refused["written"], refused["exit_status"]) == (False, 2)
    assert refused["error"] == "nothing was written: there is no terminal to ask on"
    assert refused["hint"].endswith(" init --yes")
    done = init(folder, "--yes")
    assert done.status == 0
    assert f"wrote 2 lines into {folder}/.env\n" in done.err
    assert (folder / ".env").read_text() == done.out
    done = init(folder, "--yes")
    assert (done.status, done.out) == (0, "")
    assert "nothing to write" in done.err
    assert launcher("--app-dir", folder, "-n").status == 0


def test_a_line_that_is_there_stays_even_a_blank_one(folder: Path) -> None:
    (folder / ".env").write_text("APP_PORT_FLAG=\n# mine\nHF_HOME=/mine")
    (folder / ".env").chmod(0o640)
    (folder / "run.sh").write_text("export HF_HOME=./theirs HF_ENDPOINT=https://hf-mirror.com\n")
    done = init(folder, "--yes")
    assert done.status == 0
    assert f"kept: HF_HOME is in {folder}/.env already\n" in done.err
    assert (folder / ".env").read_text() == (
        "APP_PORT_FLAG=\n# mine\nHF_HOME=/mine\n# run.sh exports it\nHF_ENDPOINT=https://hf-mirror.com\n"
        "# gradio_app.py imports gradio and launches a page in line 5\nAPP_SCRIPT=gradio_app.py\n"
    )
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o640


def test_what_a_start_script_says_is_taken_and_what_only_a_shell_can_know_is_named(folder: Path) -> None:
    (folder / "run.sh").write_text(
        "#!/bin/bash\ncd \"$(dirname \"$0\")\"\nexport HF_HOME=./cache_hub NOW=$(date)\nexport NAME=\"it's mine\"\n"
        "PORT=${PORT:-7861}\npgrep -f gradio_app.py | xargs kill\n"
        'CUDA_VISIBLE_DEVICES=1 nohup nice -n 5 python -u gradio_app.py --share "$@" >log 2>&1 &\n'
    )  # fmt: skip
    done = init(folder, "--yes")
    assert "note: run.sh computes NOW or sets it under a condition: not proposed\n" in done.err
    lines = [line for line in (folder / ".env").read_text().splitlines() if not line.startswith("#")]
    assert sorted(lines) == sorted([
        "APP_ARGS=--share",
        "APP_PREFIX=nice -n 5",
        "CUDA_VISIBLE_DEVICES=1",
        "HF_HOME=./cache_hub",
        "NAME='it\\'s mine'",
        "APP_SCRIPT=gradio_app.py",
        "APP_PORT_FLAG=none",
    ])  # fmt: skip
    shown = launcher("--app-dir", folder, "-n", "-v").out
    assert "environment: NAME=it's mine" in shown


def test_a_python_of_an_environment_whose_name_only_begins_like_the_usual_one_is_named(folder: Path) -> None:
    for name, lines in (("venv310", 1), (".venv-gpu", 1), ("venv", 0), (".venv", 0)):
        (folder / "run.sh").write_text(f"{name}/bin/python gradio_app.py\n")
        assert init(folder, "-n").out.count(f"APP_PYTHON={name}/bin/python\n") == lines


def test_what_is_exported_under_a_condition_or_by_an_installer_is_not_taken(folder: Path) -> None:
    (folder / "run.sh").write_text(
        "export ALWAYS=1\nif [ -d /usr/lib/wsl ]; then\n  export WSL=1\nfi\nf() {\n  export INSIDE=1\n}\n"
        "[ -d lib ] && export TESTED=1\ncd . && export LISTED=1\n"
        'if [ -n "$FAST" ]; then\n  python gradio_app.py --fast\nfi\nexec python gradio_app.py --slow\n'
    )
    (folder / "install.sh").write_text("export INSTALLER=1\npython setup.py install\n")
    (folder / "webui-user.sh").write_text("export COMMANDLINE_ARGS=--medvram\n")
    done = init(folder, "-n")
    lines = {line for line in done.out.splitlines() if not line.startswith("#")}
    assert lines == {
        "ALWAYS=1", "LISTED=1", "COMMANDLINE_ARGS=--medvram", "APP_ARGS=--slow", "APP_SCRIPT=gradio_app.py",
        "APP_PORT_FLAG=none",
    }  # fmt: skip
    assert "note: run.sh computes WSL, INSIDE or sets it under a condition: not proposed\n" in done.err


def test_an_instance_that_runs_is_the_best_witness(tmp_path: Path, processes: Processes) -> None:
    folder, port = tmp_path / "app", free_port()
    folder.mkdir()
    (folder / "server.py").write_text(
        WEBUI.replace('"--port"', '"--web-port", "--port"').replace("args.port", "args.web_port")
    )
    (folder / "run.sh").write_text("export HF_HOME=/older\n")
    env = clean_environment(HF_HOME="/models", HF_TOKEN=SECRET, OTHER="1")
    words = (sys.executable, "server.py", "--web-port", str(port), "--host", "127.0.0.1", "two words")
    processes.start(words, cwd=folder, env=env)
    eventually(lambda: get(port), what="page")
    done = init(folder, "--yes")
    assert done.status == 0
    assert SECRET not in done.out + done.err
    lines = [line for line in (folder / ".env").read_text().splitlines() if not line.startswith("#")]
    assert set(lines) == {
        "APP_SCRIPT=server.py", "APP_PORT_FLAG=--web-port", f"GRADIO_SERVER_PORT={port}",
        "GRADIO_SERVER_NAME=127.0.0.1", "APP_ARGS='two\\\\ words'", f"APP_PYTHON={sys.executable}", "HF_HOME=/models",
        f"HF_TOKEN={SECRET}",
    }  # fmt: skip
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
    document = init(folder, "--json", "-n").json
    assert (document["written"], document["lines"]) == (False, [])
    plan = launcher("--app-dir", folder, "-n").out
    assert f"would terminate pid {processes.started[0].pid}" in plan
    assert f"would exec: {sys.executable} server.py --web-port {port} --host 127.0.0.1 'two words'" in plan


def test_a_secret_is_not_written_where_others_can_read_it(folder: Path) -> None:
    (folder / "run.sh").write_text(f"export HF_TOKEN={SECRET} X=1\n")
    (folder / ".env").write_text("")
    (folder / ".env").chmod(0o644)
    done = init(folder, "--yes")
    assert f"note: not written, because other users can read {folder}/.env: HF_TOKEN\n" in done.err
    assert SECRET not in done.out + done.err + (folder / ".env").read_text()
    document = init(folder, "--json", "-n").json
    assert SECRET not in str(document)


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
def test_a_file_that_is_no_plain_file_is_left_alone(kind: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    path = shlex.quote(str(folder / ".env"))
    if kind == "link":
        (folder / ".env").symlink_to(tmp_path / "elsewhere")
    elif kind == "folder":
        (folder / ".env").mkdir()
    else:
        os.mkfifo(folder / ".env")
    with subprocess.Popen(("sh", "-c", f"[ ! -p {path} ] || echo X=1 >{path}")):
        done = init(folder, "--yes")
    assert done.status == 78
    assert (tmp_path / "elsewhere").read_text() == ""


def test_on_a_terminal_it_asks_and_nothing_but_a_yes_writes(folder: Path) -> None:
    for answers, written in (("\n\nn\n", False), ("\n\n\udcff\n", False), ("/models\n\ny\n", True)):
        parent, child = pty.openpty()
        env = clean_environment(NO_COLOR="1", PYTHONIOENCODING="utf-8:strict")  # as in a locale of UTF-8
        command = (sys.executable, START_APP, "--app-dir", folder, "init")
        process = subprocess.Popen(command, stdin=child, stdout=subprocess.PIPE, stderr=child, env=env)
        os.close(child)
        os.write(parent, os.fsencode(answers))
        out, _ = process.communicate(timeout=60)
        os.close(parent)
        assert process.returncode == 0
        assert (folder / ".env").exists() == written
        assert (b"HF_HOME=/models" in out) == written
    assert "# your answer\nHF_HOME=/models\n" in (folder / ".env").read_text()
    assert "HF_ENDPOINT" not in (folder / ".env").read_text()


def test_a_folder_without_a_page_gets_a_note(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("import torch\ntrain()\n")
    done = init(tmp_path, "--yes")
    assert done.status == 0
    assert "note: no script here imports gradio and launches a page: write APP_SCRIPT=FILE yourself\n" in done.err


def test_a_large_app_takes_half_a_second_at_most(folder: Path) -> None:
    body = "import torch\n" + "def f(x):\n    return x + 1\n" * 120
    for number in range(2000):
        path = folder / f"pkg{number % 40}" / f"m{number}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"import gradio as gr\n{body}demo = gr.Blocks()\n" if number % 20 == 0 else body)
    init(folder, "-n")
    taken = []
    for _ in range(5):
        begun = time.monotonic()
        assert "APP_SCRIPT=gradio_app.py" in init(folder, "-n").out
        taken.append(time.monotonic() - begun)
    print(f"init of 2,000 files: {min(taken):.3f} s")
    assert min(taken) < 2  # 0.5 s on a quiet machine


def test_what_was_given_as_a_flag_is_written(app: AppFolder) -> None:
    app.script.write_text(LAUNCHED)
    done = launcher(*app.arguments, "init", "--yes", "--host", "0.0.0.0")
    assert done.status == 0
    assert (
        f"# --port\nGRADIO_SERVER_PORT={app.port}\n# --host\nGRADIO_SERVER_NAME=0.0.0.0\n"
        in (app.path / ".env").read_text()
    )


INDEX_TTS = """\
#!/bin/bash
cd FOLDER || exit 1
source .venv/bin/activate
export HF_HOME="./cache_hub"
export HF_ENDPOINT="https://hf-mirror.com"
PIDS=$(pgrep -f "python.*webui.py")
if [ -n "$PIDS" ]; then
  echo "$PIDS" | xargs kill
fi
rm -rf cache_hub/
DEFAULT_PORT=7861
PORT="${1:-$DEFAULT_PORT}"
FP16=""
if [[ "$2" == "--fp16" ]]; then FP16="--fp16"; fi
[ -n "$3" ] && FP16="--fp32"
nohup python webui.py --port $PORT $FP16 --id "$(id)" --host 0.0.0.0 > webui.log 2>&1 &
"""


def test_the_script_that_the_launcher_takes_the_place_of_is_read(app: AppFolder) -> None:
    app.script.write_text(
        LAUNCHED.replace("launch()", "launch(server_name=args.host, server_port=args.port)")
        + "parser.add_argument('--port', type=int, default=7860)\nparser.add_argument('--host')\n"
    )
    (app.path / "start_app.sh").write_text(INDEX_TTS.replace("FOLDER", str(app.path)))
    done = init(app.path, "-n")
    assert [line for line in done.out.splitlines() if not line.startswith("#")] == [
        "GRADIO_SERVER_PORT=7861", "GRADIO_SERVER_NAME=0.0.0.0", "HF_HOME=./cache_hub",
        "HF_ENDPOINT=https://hf-mirror.com",
    ]  # fmt: skip
