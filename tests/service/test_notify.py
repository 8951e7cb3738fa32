"""A webhook is told what happened, in its own words, by a process that nobody waits for and that carries no secret."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.config import settings
from launcher.errors import ExitStatus, LauncherError
from launcher.service import notify
from tests.support.apps import AppFolder, Processes, clean_environment, eventually, get, launcher

SECRET = "T0000-very-secret-path"


class Webhook:
    """Take posts on loopback, also as a proxy for any host; `answer` holds a post back until it is set."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, dict[str, Any]]] = []
        self.answer = threading.Event()
        self.answer.set()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.headers["Content-Type"].startswith("application/json")
                outer.posts.append((self.path, body))
                outer.answer.wait(30)
                if self.path.startswith("/moved"):
                    self.send_response(302)
                    self.send_header("Location", f"{outer.url}/elsewhere")
                else:
                    self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                outer.posts.append((f"GET {self.path}", {}))
                self.send_error(404)

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def texts(self) -> list[str]:
        return sorted(body["text"] for _, body in self.posts)

    def close(self) -> None:
        self.answer.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    made = Webhook()
    yield made
    made.close()


@pytest.mark.slow
def test_started_ready_and_failed_are_told(app: AppFolder, processes: Processes, webhook: Webhook) -> None:
    app.write_env(f"APP_NOTIFY_URL={webhook.url}/{SECRET}\n")
    done = launcher("--background", *app.arguments)
    assert done.status == 0, done.err
    pid = app.lock_holder()
    assert pid
    processes.end_also(pid)
    eventually(lambda: len(webhook.posts) == 2, what="posts")
    ready, started = webhook.texts
    assert {path for path, _ in webhook.posts} == {f"/{SECRET}"}
    assert ready.startswith("webui.py on ")
    assert f", port {app.port}: ready: pid {pid}, http://127.0.0.1:{app.port} answers after " in ready
    assert started.endswith(f", port {app.port}: started: pid {pid}")
    webhook.posts.clear()
    assert launcher("--background", *app.arguments, "--", "--exit", "9").status == 75
    eventually(lambda: len(webhook.posts) == 4, what="posts")  # what was good before is started again
    again = processes.end_also(app.lock_holder() or 0)
    failed, ready, *started = webhook.texts
    assert ": failed: " in failed and failed.endswith(", has ended with exit status 9 before its page answered")
    assert f": ready: pid {again}, " in ready
    assert any(text.endswith(f": started: pid {again}") for text in started)


def test_a_refusal_is_told_and_a_dry_run_is_not(app: AppFolder, webhook: Webhook, tmp_path: Path) -> None:
    env = clean_environment(APP_NOTIFY_URL=f"{webhook.url}/x")
    arguments = (*app.arguments, "--log-file", tmp_path / "missing" / "x.log")
    assert launcher("-n", *arguments, env=env).status == 2
    assert launcher(*arguments, env=env).status == 2
    eventually(lambda: webhook.posts, what="post")
    (text,) = webhook.texts
    assert text.endswith(f", port {app.port}: refused: there is no folder {tmp_path}/missing (--log-file)")


def test_a_webhook_that_never_answers_delays_no_launch(app: AppFolder, processes: Processes, webhook: Webhook) -> None:
    webhook.answer.clear()
    running = processes.launch(*app.arguments, env=clean_environment(APP_NOTIFY_URL=f"{webhook.url}/x"))
    eventually(lambda: get(app.port) and webhook.posts, what="page and post")
    assert not webhook.answer.is_set()
    # It is nobody's child, and has nothing of the app's.
    from launcher.system import lock as locks

    assert locks.holders(app.path / ".start_app" / f"instance-{app.port}.lock") == (running.pid,)
    import psutil

    assert psutil.Process(running.pid).children() == []


def test_neither_the_url_nor_a_token_is_told_to_anybody(app: AppFolder, webhook: Webhook) -> None:
    token = "hf_" + "s" * 34
    env = clean_environment(APP_NOTIFY_URL=f"{webhook.url}/{SECRET}?key={SECRET}", HF_TOKEN=token)
    told = []
    for arguments in (("-n", "-v"), ("-n", "--json"), ("-v",), ("status", "--json"), ("history", "--json")):
        words = ("--", "--exit", "0", "--hf-token", token) if arguments[0].startswith("-") else ()
        done = launcher(*arguments, *app.arguments, *words, env=env)
        told += [line for line in (done.out + done.err).splitlines() if not line.startswith('{"pid"')]
    assert "APP_NOTIFY_URL=***" in "".join(told)
    eventually(lambda: webhook.posts, what="post")
    told += [json.dumps(body) for _, body in webhook.posts]
    told += [file.read_text() for file in (app.path / ".start_app").iterdir()]
    assert not [line for line in told if SECRET in line or token in line]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("open.feishu.cn", {"msg_type": "text", "content": {"text": "T"}}),
        ("open.larksuite.com", {"msg_type": "text", "content": {"text": "T"}}),
        ("oapi.dingtalk.com", {"msgtype": "text", "text": {"content": "T"}}),
        ("hooks.slack.com", {"text": "T"}),
        ("notdingtalk.com", {"text": "T"}),
    ],
)
def test_each_chat_is_spoken_to_in_its_own_words_through_the_proxy(
    host: str, expected: dict[str, Any], app: AppFolder, webhook: Webhook
) -> None:
    # The proxy is named in .env only: the app's environment is what counts.
    app.write_env(f"APP_NOTIFY_URL=http://{host}/hook?access_token=x\nhttp_proxy={webhook.url}\n")
    launcher(*app.arguments, "--", "--exit", "0")
    eventually(lambda: webhook.posts, what="post")
    ((path, body),) = webhook.posts
    assert path == f"http://{host}/hook?access_token=x"
    text = body.get("text", body.get("content"))
    text = text if isinstance(text, str) else next(iter(text.values()))
    assert f", port {app.port}: started: pid " in text
    assert body == json.loads(json.dumps(expected).replace('"T"', json.dumps(text)))


def test_no_proxy_is_heeded_and_a_redirect_is_not_followed(webhook: Webhook) -> None:
    environment = {"http_proxy": "http://127.0.0.1:9", "no_proxy": "localhost,127.0.0.1"}
    notify.post(f"{webhook.url}/x", {"text": "T"}, environment)
    assert webhook.posts == [("/x", {"text": "T"})]
    with pytest.raises(OSError, match="302"):
        notify.post(f"{webhook.url}/moved", {"text": "T"}, environment)
    assert [path for path, _ in webhook.posts] == ["/x", "/moved"]


@pytest.mark.parametrize(
    "value",
    [
        f"hooks.slack.com/{SECRET}",
        f"ftp://hooks.slack.com/{SECRET}",
        f"https:///{SECRET}",
        f"https://me:pw@hooks.slack.com/{SECRET}",
        f"https://hooks.slack.com/{SECRET} # ours",
        f"https://hooks.slack.com:99999/{SECRET}",
        f"https://hooks.slack.com/{SECRET}/ü",
    ],
)
def test_what_is_no_address_is_refused_without_being_shown(value: str, app: AppFolder) -> None:
    for level, where in (("environment", "environment"), ("file", ".env line 1")):
        if level == "file":
            app.write_env(f"APP_NOTIFY_URL='{value}'\n")
        env = clean_environment(**({"APP_NOTIFY_URL": value} if level == "environment" else {}))
        done = launcher("-n", *app.arguments, env=env)
        assert done.status == ExitStatus.CONFIG
        assert f"APP_NOTIFY_URL is not an http(s) address ({where}); it is a secret and not shown\n" in done.err
        assert SECRET not in done.err + done.out


def test_a_blank_one_is_none(app: AppFolder) -> None:
    found = settings.load({"APP_DIR": str(app.path)}, {"APP_NOTIFY_URL": " "}, settings.Call(app.path))
    assert found.notify_url is None
    with pytest.raises(LauncherError):
        settings.load({"APP_DIR": str(app.path)}, {"APP_NOTIFY_URL": "x"}, settings.Call(app.path))
