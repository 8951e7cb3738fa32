"""What the shell offers is what the command line takes: the scripts run in a real bash and a real zsh."""

from __future__ import annotations

import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from launcher.arguments.table import COMMANDS, GROUPS, OPTIONS, TABLE
from tests.support.apps import START_APP, clean_environment, eventually, launcher

needs_zsh = pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
SHELLS = ("bash", pytest.param("zsh", marks=needs_zsh))


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Write the completion scripts, made without a site-packages folder: they need no package."""
    folder = tmp_path_factory.mktemp("scripts")
    for shell in ("bash", "zsh"):
        done = launcher("--print-completion", shell, python=(sys.executable, "-S"))
        assert (done.status, done.err) == (0, "")
        (folder / shell).write_text(done.out)
    return {shell: folder / shell for shell in ("bash", "zsh")}


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """Have a folder with an app, two cached repos and the launcher on PATH under both of its names."""
    folders = ("models--koge--index-tts-v22", "datasets--koge--voices", "models--e--$(touch pwned)", "models--x;y", "x")
    for name in folders:
        (tmp_path / "app" / "cache_hub" / name).mkdir(parents=True)
    (tmp_path / "app" / "webui.py").touch()
    (tmp_path / "bin").mkdir()
    for name in ("start-app", "start_app.py"):
        path = tmp_path / "bin" / name
        path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(START_APP))} "$@"\n')
        path.chmod(0o755)
    (tmp_path / "app" / "start_app.py").symlink_to(tmp_path / "bin" / "start_app.py")
    return tmp_path / "app"


def in_bash(scripts: Mapping[str, Path], box: Path, words: Iterable[str]) -> set[str]:
    """Return what bash offers for the last of these words, by calling the function that it was given for the first."""
    words = list(words)
    ask = (
        f"set -u; source {shlex.quote(str(scripts['bash']))}\n"
        f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; COMPREPLY=()\n"
        f"$(complete -p {shlex.quote(os.path.basename(words[0]))} | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n"
        'printf "%s\\n" ${COMPREPLY[@]+"${COMPREPLY[@]}"}\n'
    )
    done = subprocess.run(
        ("bash", "-c", ask), cwd=box, env=environment(box), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split("\n")) - {""}


class Zsh:
    """Hold an interactive zsh on a terminal; what it offers is written to a file."""

    def __init__(self, script: Path, box: Path) -> None:
        self.offered = box.parent / "offered"
        pid, self.terminal = pty.fork()
        if pid == 0:
            os.chdir(box)
            os.execvpe("zsh", ("zsh", "-f", "-i"), {**environment(box), "TERM": "dumb"})
        self.pid = pid
        log = shlex.quote(str(self.offered))
        self.type(
            f"PS1='> '; autoload -Uz compinit; compinit -u -D; source {shlex.quote(str(script))}\n"
            # Everything that is offered goes through compadd, which has what matches from it in `hits`.
            f'compadd() {{ local -a hits; builtin compadd -O hits "$@"; print -rl -- $hits >>{log}; '
            'builtin compadd "$@"; }\n'
            f"tried() {{ zle list-choices; print -r -- done >>{log}; zle kill-buffer }}\n"
            "zle -N tried; bindkey '^T' tried\n"
        )

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def offers(self, line: str) -> set[str]:
        self.offered.unlink(missing_ok=True)
        self.type(line + "\x14")
        eventually(self._is_done, timeout=60, what=line)
        return set(self.offered.read_text().split("\n")) - {"", "done"}

    def _is_done(self) -> bool:
        while select.select((self.terminal,), (), (), 0)[0]:
            os.read(self.terminal, 65536)  # who reads nothing keeps zsh waiting
        return self.offered.exists() and self.offered.read_text().endswith("done\n")

    def close(self) -> None:
        os.close(self.terminal)
        os.waitpid(self.pid, 0)


def environment(box: Path) -> dict[str, str]:
    return clean_environment(PATH=f"{box.parent / 'bin'}:{os.environ['PATH']}", HOME=str(box.parent))


@pytest.fixture
def offered(request: pytest.FixtureRequest, scripts: Mapping[str, Path], box: Path):  # type: ignore[no-untyped-def]
    """Return what asks the shell of the test: a call with the typed words returns what is offered for the last."""
    if request.param == "bash":
        yield lambda *words: in_bash(scripts, box, words)
        return
    zsh = Zsh(scripts["zsh"], box)
    yield lambda *words: zsh.offers(" ".join(words))
    zsh.close()


either = pytest.mark.parametrize("offered", SHELLS, indirect=True)


@either
def test_commands_are_offered_for_every_name_of_the_launcher(offered) -> None:  # type: ignore[no-untyped-def]
    firsts = {name.partition(" ")[0] for name in COMMANDS}
    for program in ("start-app", "start_app.py", "./start_app.py"):
        assert offered(program, "") == firsts
    assert offered("start_app.py", "st") == {"status", "stop"}
    for group in GROUPS:
        within = {name.split()[1] for name in COMMANDS if name.startswith(f"{group} ")}
        assert offered("start_app.py", group, "") == offered("start_app.py", "--port", "1", group, "") == within
        assert offered("start_app.py", "help", group, "") == within
    assert offered("start_app.py", "status", "") == set()


@either
@pytest.mark.parametrize("name", ["", "stop", "unit", "cache prune", "models lock"])
def test_the_options_of_a_command_are_offered_and_no_other(offered, name: str) -> None:  # type: ignore[no-untyped-def]
    options = {n for option in TABLE[name or "launch"].options for n in option.names if n.startswith("--")}
    assert offered("start_app.py", *name.split(), "--") == options
    assert offered("start_app.py", *name.split(), "--ver") == {
        option for option in options if option.startswith("--ver")
    }


@either
def test_the_value_of_an_option_is_offered_where_it_can_be_known(offered, box: Path) -> None:  # type: ignore[no-untyped-def]
    (box / "webui.log").touch()
    (box / "my models").mkdir()
    assert offered("start_app.py", "--print-completion", "") == {"bash", "zsh"}
    assert offered("start_app.py", "--port", "") == set()
    assert offered("start_app.py", "--log-file", "webui.l") == {"webui.log"}
    assert {name.rstrip("/") for name in offered("start_app.py", "--app-dir", "cache")} == {"cache_hub"}
    assert offered("start_app.py", "models", "lock", "--local-dir", "webui") == set()
    found = {name.rstrip("/") for name in offered("start_app.py", "--local-dir", "my")}
    assert {name.replace("\\", "") for name in found} == {"my models"}
    assert "webui.log" in offered("start_app.py", "--", "")


@pytest.mark.slow
@either
def test_the_names_of_cached_repos_are_offered_where_a_repo_can_stand(offered, box: Path) -> None:  # type: ignore[no-untyped-def]
    repos = {"koge/index-tts-v22", "datasets/koge/voices"}
    app = ("--app-dir", str(box))
    for words in (("cache", "remove"), ("cache", "rm"), ("cache", "list"), ("models", "pull"), ("--remove-model",)):
        assert offered("start_app.py", *app, *words, "") == repos
    assert offered("./start_app.py", "cache", "remove", "ko") == {"koge/index-tts-v22"}
    assert offered("start-app", *app, "cache", "remove", "x/y", "-n", "data") == {"datasets/koge/voices"}
    assert offered("start-app", *app, "--remove-model", "x/y", "data") == {"datasets/koge/voices"}
    assert offered("start-app", "--app-dir", "~/app", "cache", "remove", "ko") == {"koge/index-tts-v22"}
    assert offered("start-app", *app, "cache", "prune", "--keep", "ko") == {"koge/index-tts-v22"}
    assert offered("start-app", *app, "cache", "clear", "") == set()
    assert offered("start-app", *app, "help", "cache", "remove", "") == set()
    assert not list(box.parent.rglob("pwned"))


@either
def test_a_cache_that_cannot_be_asked_offers_nothing_and_says_nothing(offered, box: Path) -> None:  # type: ignore[no-untyped-def]
    assert offered("start-app", "--app-dir", "/nowhere", "cache", "remove", "") == set()
    (box / ".env").write_text("HF_HOME ./x\nAPP_LOCKED=perhaps\n")
    assert offered("start-app", "--app-dir", str(box), "cache", "remove", "") == set()
    assert not (box / ".start_app").exists()


def test_python_keeps_the_completion_of_its_own(scripts: Mapping[str, Path]) -> None:
    text = scripts["bash"].read_text()
    assert [line for line in text.splitlines() if line.startswith("complete ")] == [
        "complete -F _start_app start-app start_app.py ./start_app.py"
    ]
    assert "python" not in text.replace("--python", "")


@needs_zsh
def test_zsh_loads_its_script_from_a_folder_of_functions_too(scripts: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    shutil.copy(scripts["zsh"], tmp_path / "functions" / "_start_app")
    ask = (
        f"fpath=({shlex.quote(str(tmp_path / 'functions'))} $fpath); autoload -Uz compinit; compinit -u -D; "
        "print -r -- $_comps[start-app] $_comps[start_app.py]"
    )
    done = subprocess.run(("zsh", "-f", "-c", ask), capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("_start_app _start_app\n", "")


def test_a_name_is_completed_from_the_cache_of_the_app_that_was_typed(scripts: Mapping[str, Path], box: Path) -> None:
    words = ("start-app", "--app-dir", str(box), "cache", "remove", "ko")
    assert in_bash(scripts, box, words) == {"koge/index-tts-v22"}


def test_the_names_come_from_the_cache_and_the_lock_without_huggingface_hub(box: Path) -> None:
    (box / "models.lock").write_text('{"version": 1, "models": []}\n')
    done = launcher("cache", "names", "--app-dir", box, python=(sys.executable, "-X", "importtime"))
    assert done.status == 0
    assert done.out.split() == ["datasets/koge/voices", "koge/index-tts-v22"]
    imported = {line.rsplit("|", 1)[1].strip() for line in done.err.splitlines() if line.startswith("import time:")}
    assert not [name for name in imported if name.startswith(("huggingface_hub", "psutil", "gradio"))]
    (box / "models.lock").write_text("not json")
    assert launcher("cache", "names", "--app-dir", box).out.split() == ["datasets/koge/voices", "koge/index-tts-v22"]
    assert "names" not in launcher("cache").out


def test_every_option_that_takes_a_repo_a_file_or_a_folder_says_so() -> None:
    for name, option in OPTIONS.items():
        metavar = option.keywords.get("metavar")
        kind = {"REPO": "repo", "DIR": "dir", "FILE": "file", "PATH": "file"}.get(str(metavar), "")
        assert option.completes == kind, name
