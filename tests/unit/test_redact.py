from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.ui import redact, text
from tests.support.apps import AppFolder, Processes, clean_environment, eventually, launcher

SECRET = "hf_AbCdEfGhIjKlMnOpQrSt"


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_FOR_MIRROR", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY",
        "DB_PASSWORD", "PGPASSWD", "GRADIO_AUTH", "--auth", "--gradio-auth", "--hf-token", "--hf_token", "--api-key",
        "SMTP_PASS", "APP_NOTIFY_URL", "SLACK_WEBHOOK", "SSH_PRIVATE_KEY", "LICENSE_KEY", "SESSION_COOKIE",
        "GOOGLE_CREDENTIALS", "--pw",
    ],
)  # fmt: skip
def test_the_name_of_a_secret_is_known(name: str) -> None:
    assert redact.value(name, "whatever") == redact.MASK


@pytest.mark.parametrize(
    "name",
    ["HF_HOME", "HF_ENDPOINT", "GRADIO_SERVER_PORT", "HF_TOKEN_PATH", "--auth-path", "AUTHOR", "KEYBOARD",
     "MONKEY", "BYPASS", "--model_dir", "COMPASS", "PASSAGE",
     "--max_new_tokens", "TOKENIZERS_PARALLELISM", "--tokenizer"],
)  # fmt: skip
def test_a_harmless_name_keeps_its_value(name: str) -> None:
    assert redact.value(name, "/some/value") == "/some/value"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (f"token is {SECRET}.", "token is ***."),
        ("https://user:pw@mirror.example/x", "https://***@mirror.example/x"),
        ("https://token@mirror.example", "https://***@mirror.example"),
        ("https://user:p@ss@mirror.example", "https://***@mirror.example"),
        ("https://user:p/w@mirror.example", "https://***@mirror.example"),
        ("http_proxy=user:pw@proxy:3128", "http_proxy=***@proxy:3128"),
        ("https://hub.example/x?token=abc&page=2", "https://hub.example/x?token=***&page=2"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("github_pat_11AAAAAAAAAAAAAAAAAAAA", "***"),
        ("sk-proj-AAAAAAAAAAAAAAAAAAAAAAAA", "***"),
        ("AKIAABCDEFGHIJKLMNOP", "***"),
        ("python webui.py --auth user:pw --port 1", "python webui.py --auth *** --port 1"),
        ("--auth=user:pw --fp16", "--auth=*** --fp16"),
        ("--auth 'user:a long one' --fp16", "--auth *** --fp16"),
        ("--auth user:a\\ long\\ one --fp16", "--auth *** --fp16"),
        ("--auth 'user:unclosed", "--auth ***"),
        ("--auth --share", "--auth --share"),
        ("unknown option --auth=user:pw", "unknown option --auth=***"),
        ("bash -c 'A=1 DB_PASSWORD=hunter2 python webui.py'", "bash -c 'A=1 DB_PASSWORD=*** python webui.py'"),
        ("export A=1; export DB_PASSWORD=hunter2; x", "export A=1; export DB_PASSWORD=***; x"),
        ("DB_PASSWORD='two words' x", "DB_PASSWORD=*** x"),
        ("curl -H 'Authorization: Basic dXNlcg==' x", "curl -H 'Authorization: Basic ***' x"),
    ],
)
def test_the_form_of_a_secret_is_masked_within_any_text(shown: str, expected: str) -> None:
    assert redact.scrub(shown) == expected


@pytest.mark.parametrize(
    "harmless",
    [
        "exec: .venv/bin/python webui.py --port 7860 --model_dir checkpoints",
        "endpoint: https://hf-mirror.com (.env line 3)",
        "http://127.0.0.1:7860/ answers 200",
        "model: koge/index-tts-v23 @ 1f2e3d4",
        "stale: pid 4242, python webui.py --port 7860, up 3h12m",
        "port held by: pid 1, on [::1]:7860",
        "unit app@gpu0.service",
    ],
)
def test_what_is_no_secret_is_left_as_it_is(harmless: str) -> None:
    assert redact.scrub(harmless) == harmless


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("--auth", "user:pw", "--fp16"), ("--auth", "***", "--fp16")),
        (("--auth=user:pw",), ("--auth=***",)),
        (("--hf-token", "x", "y"), ("--hf-token", "***", "y")),
        (("--auth", "--share"), ("--auth", "--share")),
        (("HF_TOKEN=x", "webui.py"), ("HF_TOKEN=***", "webui.py")),
        (("-c", f"login('{SECRET}')"), ("-c", "login('***')")),
        (("sh", "-c", "python webui.py --auth user:pw"), ("sh", "-c", "python webui.py --auth ***")),
    ],
)
def test_a_command_line_loses_the_values_of_its_secret_options(
    argv: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert redact.arguments(argv) == expected


@given(
    words=st.lists(
        st.sampled_from(["--port", "7860", "webui.py", "-v", "x y", "'", '"', "=", "http://h/"]), max_size=4
    ),
    password=st.text(st.sampled_from("ab1:@/'\" \\%é"), min_size=1, max_size=8).map(lambda rest: "S3cr3t" + rest),
    form=st.sampled_from(["--auth {}", "--auth={}", "HF_TOKEN={}"]),
)
def test_no_password_survives_in_a_command_line_however_it_is_quoted(
    words: list[str], password: str, form: str
) -> None:
    argument = form.format(password)
    argv = [*words, *(argument.split(" ", 1) if argument.startswith("--auth ") else [argument])]
    shown = text.clean(text.command_line(argv))
    assert "S3cr3t" not in shown
    assert redact.scrub(shown) == shown


@given(
    user=st.from_regex(r"[a-z]{0,5}", fullmatch=True), password=st.from_regex(r"[A-Za-z0-9:@/%!]{1,9}", fullmatch=True)
)
def test_no_password_survives_in_an_address(user: str, password: str) -> None:
    assert redact.scrub(f"https://{user}:Z{password}@mirror.example/x") == "https://***@mirror.example/x"


SECRETS = ("pw-of-auth", SECRET, "pw-of-url", "pw-of-mirror", "pw-of-hook")


def test_a_dry_run_shows_every_setting_and_no_secret(app: AppFolder) -> None:
    app.write_env(
        f"HF_TOKEN={SECRET}\nHF_ENDPOINT=https://me:pw-of-url@mirror.example\nAPP_ARGS=--auth me:pw-of-auth --fp16\n"
        "HTTPS_PROXY=me:pw-of-url@proxy:3128\nHF_TOKEN_FOR_MIRROR=pw-of-mirror\nAPP_NOTIFY_URL=https://hook/pw-of-hook\n"
    )
    for extra in (("-v",), ("--json",), ("-v", "--json"), ()):
        done = launcher(*app.arguments, "--dry-run", *extra, "--", "--hf-token", SECRET)
        assert done.status == 0, done.err
        assert not [secret for secret in SECRETS if secret in done.out + done.err]
        assert "https://***@mirror.example" in done.out
        assert "--fp16" in done.out


def test_neither_a_launch_nor_its_lock_file_nor_status_shows_a_secret(app: AppFolder, processes: Processes) -> None:
    app.write_env(f"HF_TOKEN={SECRET}\nHF_ENDPOINT=https://me:pw-of-url@mirror.example\n")
    app.script.write_text(app.script.read_text().replace('"rest", nargs="*"', '"--auth"'))
    running = processes.launch(*app.arguments, "-v", "--json", "--", "--auth", "me:pw-of-auth")
    lines = eventually(lambda: len(running.out.splitlines()) > 1 and running.out.splitlines(), what="hello")
    assert lines
    received = json.loads(lines[1])
    assert received["argv"][-1] == "me:pw-of-auth"
    assert received["env"]["HF_TOKEN"] == SECRET
    eventually(app.lock_holder)
    told = [lines[0], running.err, *(file.read_text() for file in (app.path / ".start_app").iterdir())]
    for extra in ((), ("--json",)):
        done = launcher("status", *app.arguments, *extra)
        assert done.status == 0, done.err
        told += [done.out, done.err]
    assert not [(secret, one) for one in told for secret in SECRETS if secret in one]
    assert "--auth" in "".join(told)


@pytest.mark.parametrize(
    "arguments", [("--auth", "me:pw-of-auth"), ("--auth=me:pw-of-auth",), ("--hf-token", SECRET), (SECRET,)]
)
def test_an_option_in_the_wrong_place_is_named_without_its_secret(app: AppFolder, arguments: tuple[str, ...]) -> None:
    for extra in ((), ("--json",)):
        done = launcher(*app.arguments, *arguments, *extra)
        assert done.status == 2
        assert not [secret for secret in SECRETS if secret in done.out + done.err]
        assert arguments[0].partition("=")[0] in done.err or arguments == (SECRET,)


@pytest.mark.parametrize(
    "variables",
    [
        {"HF_ENDPOINT": "https://me:pw-of-url@mirror.example # note"},
        {"HF_ENDPOINT": "me:pw-of-url@mirror.example"},
        {"HF_ENDPOINT": "https://me:pw-of-url/@mirror.example"},
        {"HF_ENDPOINT": "https//me:pw-of-url@mirror.example"},
        {"HF_ENDPOINT": "https:/me:pw-of-url@mirror.example"},
        {"HF_ENDPOINT": "https://me:my pw-of-url@mirror.example"},
        {"HF_ENDPOINT": "me:pw-of-url@"},
        {"GRADIO_SERVER_PORT": SECRET},
        {"GRADIO_SERVER_NAME": f"{SECRET} x"},
        {"APP_ARGS": "--auth 'me:pw-of-auth"},
        {"APP_PORT_FLAG": SECRET},
    ],
)
def test_a_bad_value_is_refused_without_its_secret(app: AppFolder, variables: dict[str, str]) -> None:
    for extra in ((), ("--json",)):
        done = launcher("--app-dir", app.path, *extra, env=clean_environment(**variables))
        assert done.status == 78
        assert not [secret for secret in SECRETS if secret in done.out + done.err]
        assert next(iter(variables)) in done.err


# Each way in which people hand secrets over; PW stands for what must not be seen.
FORMS = (
    ("--auth", "alice:PW", "bob:PW"),
    ("--auth=alice:PW",),
    ("--hf-tokens", "PW", "PW"),
    ("--passcode", "PW"),
    ("--cfg", '{"hf_token": "PW", "port": 7860}'),
    ("--cfg", "{'session': 'PW'}"),
    ("--header", "X-Api-Key: PW"),
    ("--header", "Authorization: Basic PW"),
    ("--url", "https://a.blob.core.windows.net/c?sv=1&sig=PW&x=1"),
    ("--url", "https://s3.example/x?X-Amz-Signature=PW"),
    ("--url", "https://user:PW@mirror.example/x"),
    ("--url", "https://hooks.slack.com/services/T0/B0/PW"),
    ("--url", "https://open.feishu.cn/open-apis/bot/v2/hook/PW"),
    ("--url", "https://oapi.dingtalk.com/robot/send?access_token=PW"),
    ("--url", "https://discord.com/api/webhooks/1/PW"),
    ("--url", "https://api.telegram.org/botPW/sendMessage"),
    ("--conn", "AccountName=a;AccountKey=PW=="),
    ("-u", "user:PW"),
    ("-p", "PW"),
    ("HF_TOKEN=PW",),
    ("APP_JWT=PW",),
    ("CREDENTIALS=PW",),
    ("OPENAI_KEY=PW",),
)
# One that begins like an option or a path, or is a number or one of a few words, is no more told from those by anybody.
LETTERS = "".join(map(chr, (*range(48, 58), *range(65, 91), *range(97, 123))))
PASSWORDS = st.text(LETTERS, min_size=9, max_size=24).filter(lambda text: not text.isdecimal())


@given(form=st.sampled_from(FORMS), password=PASSWORDS, before=st.sampled_from(("python", "--fp16", "webui.py")))
def test_no_form_of_a_secret_gets_through_a_door(form: tuple[str, ...], password: str, before: str) -> None:
    argv = (before, *(word.replace("PW", password) for word in form), "--port", "7860")
    assert password not in " ".join(redact.arguments(argv))
    assert password not in text.command_line(argv)
    # Within a sentence nobody can tell whether the word after a masked one is a second secret.
    assert password not in text.clean(" ".join(dict.fromkeys(argv)))
    assert redact.arguments(argv)[-2:] == ("--port", "7860")


@given(kind=st.sampled_from(("hf_", "hf_oauth_", "ghp_", "sk-")), password=st.text(LETTERS, min_size=16, max_size=40))
def test_a_token_is_known_by_its_form_anywhere(kind: str, password: str) -> None:
    assert password not in redact.scrub(f"error for {kind}{password}: not found")


@pytest.mark.parametrize(
    "line", ["HF_HUB_DISABLE_IMPLICIT_TOKEN=1 in .env", "HF_TOKEN_FOR_MIRROR=true", '"token": true']
)
def test_a_switch_is_no_secret(line: str) -> None:
    assert redact.scrub(line) == line


def test_numbers_of_tokens_and_our_own_words_stay() -> None:
    assert redact.arguments(("--max-tokens", "512", "-p", "7860")) == ("--max-tokens", "512", "-p", "7860")
    told = "token: the app will send your token to https://hf-mirror.com, which is not the official Hub"
    assert redact.scrub(told) == told
