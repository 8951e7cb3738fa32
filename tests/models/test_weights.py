"""Every weights file of an app with folders of its own is listed, frozen and watched, with or without a hub."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.models import lockfile
from launcher.system import page_cache
from tests.support.apps import WEBUI, AppFolder, Done, Processes, Running, eventually, get, launcher
from tests.support.caches import A, B, make_repo
from tests.support.hub_cache import Library
from tests.support.pulled import FOLDER, MODEL, NEW, OTHER, Pulled, pulled_app
from tests.support.removal import everything

GPT, CODEC = "checkpoints/gpt.pth", "checkpoints/hf_cache/codec.safetensors"
FILES = {GPT: b"gpt" * 5_000, CODEC: b"codec" * 3_000, "checkpoints/hf_cache/bigvgan/g.bin": b"g" * 999}
MAPPING = WEBUI.replace(
    "time.sleep(args.load)", f"import mmap\nkept = mmap.mmap(os.open('{GPT}', os.O_RDONLY), 0, prot=1)\n"
)
NO_HUB = "HF_HOME=./hf\nHF_ENDPOINT=http://127.0.0.1:9\nHF_OFFICIAL_ENDPOINT=http://127.0.0.1:9\n"


@pytest.fixture
def flat(app: AppFolder) -> AppFolder:
    """Return an app that keeps its weights as IndexTTS2 does, and has no hub."""
    app.write_env(NO_HUB)
    for path, data in {**FILES, "checkpoints/config.yaml": b"v: 2\n"}.items():
        (app.path / path).parent.mkdir(parents=True, exist_ok=True)
        (app.path / path).write_bytes(data)
    return app


@pytest.fixture
def pulled(app: AppFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulled]:
    with pulled_app(app, tmp_path_factory.getbasetemp()) as made:
        yield made


def run(app: AppFolder, *arguments: str) -> Done:
    return launcher(*app.arguments, *arguments)


def start(app: AppFolder, processes: Processes, *arguments: str) -> Running:
    running = processes.launch(*app.arguments, *arguments)
    eventually(lambda: get(app.port) == f"pid {running.pid}", what=running.err)
    return running


def listed(done: Done) -> dict[str, tuple[str, str, str | None]]:
    """Return of each file what it is, whether it is loaded, and how it has changed."""
    return {one["file"]: (one["what"], one["loaded"], one["changed"]) for one in done.json["files"]}


def in_place(path: Path) -> None:
    """Change one byte of a file, as nobody sees by its size and its time."""
    before = path.stat()
    with path.open("r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes((byte[0] ^ 1,)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def by_replacement(path: Path) -> None:
    """Put another file in its place that differs in one byte."""
    before, data = path.stat(), path.read_bytes()
    new = path.with_name("new")
    new.write_bytes(bytes((data[0] ^ 1,)) + data[1:])
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(path)


EXCHANGES = (in_place, by_replacement)


def test_what_is_flat_is_listed_frozen_and_refused_when_it_has_changed(flat: AppFolder) -> None:
    assert listed(run(flat, "models", "list", "--json")) == dict.fromkeys(FILES, ("unknown", "unknown", None))
    done = run(flat, "models", "lock", "--freeze")
    assert done.status == 0, done.err
    lock = lockfile.read(flat.path)
    assert lock is not None
    assert (len(lock), set(lock.files), lock.frozen) == (0, set(FILES), True)
    assert run(flat, "--locked", "--", "--exit", "0").status == 0
    in_place(flat.path / CODEC)
    refused = run(flat, "--locked", "--", "--exit", "0")
    assert refused.status == 65
    assert f"{CODEC} has another content" in refused.err
    assert "models lock --freeze" in refused.err


def test_weights_that_nothing_pins_are_refused_where_the_lock_is_frozen_else_named(flat: AppFolder) -> None:
    run(flat, "models", "lock", "--freeze")
    (flat.path / "weights").mkdir()
    (flat.path / "weights" / "lora.safetensors").write_bytes(b"lora")
    done = run(flat, "--locked", "--", "--exit", "0")
    assert (done.status, "not pinned by models.lock: weights/lora.safetensors" in done.err) == (65, True)
    flat.write_env(f"{NO_HUB}APP_UNPINNED=weights/lora*\n")
    assert run(flat, "--locked", "--", "--exit", "0").status == 0
    flat.write_env(NO_HUB)
    lock = lockfile.read(flat.path)
    assert lock is not None
    lockfile.write(flat.path, lockfile.Lock(lock, lock.files))
    done = run(flat, "--locked", "--", "--exit", "0")
    assert (done.status, "weights/lora.safetensors; the app can load it" in done.err) == (0, True)


@pytest.mark.slow
def test_what_is_no_complete_file_is_not_frozen_and_a_pinned_pointer_is_incomplete(flat: AppFolder) -> None:
    """A lock of a Git LFS pointer made `models check` say that everything is as pinned."""
    mark = flat.path / f"{GPT}.aria2"
    mark.write_bytes(b"x")
    told = run(flat, "models", "check")
    assert told.status == 80 and "models lock REPO --local-dir checkpoints" in told.err
    refused = run(flat, "models", "lock", "--freeze")
    assert (refused.status, f"{GPT} is not complete" in refused.err) == (65, True), refused.err
    mark.unlink()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 9\n" % 0
    (flat.path / GPT).write_bytes(pointer)
    refused = run(flat, "models", "lock", "--freeze")
    assert (refused.status, f"{GPT} is a Git LFS pointer" in refused.err) == (65, True), refused.err
    assert lockfile.read(flat.path) is None
    pinned = lockfile.LockedFile(len(pointer), hashlib.sha256(pointer).hexdigest())
    lockfile.write(flat.path, lockfile.Lock((), {GPT: pinned}))
    told = run(flat, "models", "check")
    assert told.status == 80 and "it is a Git LFS pointer" in told.out


@pytest.mark.slow
def test_the_hint_for_an_old_commit_in_a_cache_of_a_model_folder_helps(flat: AppFolder) -> None:
    """No ref leads to it, so `models lock --freeze` does not pin it; that alone was the hint."""
    cache = flat.path / "checkpoints" / "hf_cache"
    make_repo(cache, "models--koge--old", {A: {"new.pth": b"new"}, B: {"old.pth": b"old"}})
    run(flat, "models", "lock", "--freeze")
    done = run(flat, "--locked", "--", "--exit", "0")
    assert (done.status, f"cache remove koge/old@{B} removes it" in done.err) == (65, True), done.err
    assert run(flat, "cache", "remove", f"koge/old@{B}").status == 0
    assert run(flat, "--locked", "--", "--exit", "0").status == 0


@pytest.mark.slow
def test_other_folders_are_looked_into_where_a_setting_names_them(flat: AppFolder, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "voice.onnx").write_bytes(b"voice")
    (flat.path / "assets" / "own").mkdir(parents=True)
    (flat.path / "assets" / "own" / "hubert.pt").write_bytes(b"hubert")
    flat.write_env(f"{NO_HUB}APP_MODEL_DIRS=assets/own:{tmp_path}/far\n")
    files = listed(run(flat, "models", "list", "--json"))
    assert set(files) - set(FILES) == {"assets/own/hubert.pt", f"{tmp_path}/far/voice.onnx"}
    assert run(flat, "models", "lock", "--freeze").status == 0
    assert run(flat, "--locked", "--", "--exit", "0").status == 0
    by_replacement(tmp_path / "far" / "voice.onnx")
    assert run(flat, "--locked", "--", "--exit", "0").status == 65


@pytest.mark.slow
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_what_is_exchanged_while_it_runs_is_told(
    exchange: Callable[[Path], None], flat: AppFolder, processes: Processes
) -> None:
    flat.script.write_text(MAPPING)
    start(flat, processes)
    assert listed(run(flat, "models", "list", "--json"))[GPT] == ("unknown", "yes", None)
    assert "weights: 3 weights files, 3 unknown" in run(flat, "status").out
    for path in (GPT, CODEC):
        exchange(flat.path / path)
        assert f"changed: {path} was " in run(flat, "status").out
    files = listed(run(flat, "models", "list", "--json"))
    assert files[GPT][1:] != ("yes", None)
    (flat.path / CODEC).unlink()
    assert f"changed: {CODEC} is gone" in run(flat, "status").out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_exchanges_of_a_byte_are_all_noticed(flat: AppFolder, processes: Processes) -> None:
    run(flat, "models", "lock", "--freeze")
    start(flat, processes, "--locked")
    for number in range(100):
        path = list(FILES)[number % len(FILES)]
        data = (flat.path / path).read_bytes()
        EXCHANGES[number % 2](flat.path / path)
        if number % 4 < 2:
            told = run(flat, "status").out
            assert f"changed: {path} was " in told, (number, told)
        done = run(flat, "--locked", "--no-launch")
        assert done.status == 65 and f"{path} has another content" in done.err, (number, done.err)
        assert get(flat.port)
        (flat.path / path).write_bytes(data)
    assert run(flat, "--locked", "--no-launch").status == 0


@pytest.mark.slow
def test_what_came_from_a_hub_is_frozen_by_its_repo(pulled: Pulled) -> None:
    """A download to a folder leaves a ref in the cache, and the notes in the folder say of which commit a file is."""
    with Library(pulled.hub, env={"HF_HUB_CACHE": str(pulled.cache)}) as library:
        library.ask("download_to", str(pulled.folder), MODEL, pulled.new)
        library.download(pulled.cache, MODEL)
    (pulled.folder / "own.pth").write_bytes(b"own")
    pulled.set(HF_HUB_OFFLINE="1")
    done = pulled.run("models", "lock", "--freeze")
    assert done.status == 0, done.err
    lock = lockfile.read(pulled.app.path)
    assert lock is not None
    assert {(one.repo, one.commit, one.local_dir) for one in lock} >= {
        (OTHER, pulled.other, None),
        (MODEL, pulled.new, FOLDER),
    }
    assert set(lock.files) == {f"{FOLDER}/own.pth"}
    assert set(next(one for one in lock if one.local_dir).files) == set(NEW)
    assert pulled.run("--locked", "--", "--exit", "0").status == 0


@pytest.mark.slow
def test_what_was_copied_by_hand_is_known_by_its_hash(pulled: Pulled) -> None:
    for path, data in NEW.items():
        (pulled.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (pulled.folder / path).write_bytes(data)
    (pulled.folder / "renamed.safetensors").write_bytes(NEW["gpt.safetensors"])
    assert pulled.run("models", "lock", "--freeze", MODEL).status == 0
    lock = lockfile.read(pulled.app.path)
    assert lock is not None
    own = next(one for one in lock if one.local_dir)
    assert (own.repo, own.commit, own.local_dir, set(own.files)) == (MODEL, pulled.new, FOLDER, set(NEW))
    assert lock.files[f"{FOLDER}/renamed.safetensors"].origin == f"{MODEL}@{pulled.new}/gpt.safetensors"


@pytest.mark.slow
def test_what_is_damaged_does_not_take_the_place_of_its_pin(pulled: Pulled) -> None:
    pulled.lock(pulled.locked(pulled.old))
    before = (pulled.app.path / "models.lock").read_bytes()
    shutil.rmtree(pulled.repo() / "trees", ignore_errors=True)  # huggingface_hub before 1.22 has none
    (pulled.repo() / "snapshots" / pulled.old / "config.json").resolve().write_bytes(b"{}")
    done = pulled.run("models", "lock", "--freeze")
    assert done.status == 65, done.err
    assert "config.json is damaged" in done.err
    assert (pulled.app.path / "models.lock").read_bytes() == before


@pytest.mark.slow
def test_two_revisions_of_a_repo_are_frozen_and_shown_to_a_locked_app(pulled: Pulled) -> None:
    pulled.hub.tag(MODEL, "fp16", pulled.new)
    with Library(pulled.hub) as library:
        library.download(pulled.cache, MODEL, "fp16")
    assert pulled.run("models", "lock", "--freeze").status == 0
    lock = lockfile.read(pulled.app.path)
    assert lock is not None
    assert {(one.revision, one.commit) for one in lock if one.repo == MODEL} == {
        ("main", pulled.old),
        ("fp16", pulled.new),
    }
    done = pulled.run("--locked", "--", "--exit", "0")
    assert done.status == 0, done.err
    told = json.loads(done.out.splitlines()[0])["env"]
    view = Path(told["HF_HUB_CACHE"])
    assert pulled.library.load(view, MODEL, "fp16") == dict(NEW)
    assert json.loads(told["START_APP_MODELS"])[f"{MODEL}@fp16"] in (pulled.new, pulled.old)
    assert told["USE_MODELSCOPE"] == "false"


@pytest.mark.slow
def test_what_the_running_instance_has_loaded_and_the_lock_does_not_pin_is_told_before_the_stop(
    pulled: Pulled, processes: Processes
) -> None:
    blob = next((pulled.repo(OTHER) / "snapshots" / pulled.other).glob("*.safetensors"))
    pulled.app.script.write_text(WEBUI.replace("time.sleep(args.load)", f"kept = open({str(blob)!r}, 'rb')"))
    running = start(pulled.app, processes)
    pulled.lock(pulled.locked(pulled.old))
    done = pulled.run("--locked", "--dry-run")
    assert done.status == 65
    assert f"has loaded what models.lock does not pin: {OTHER}" in done.err
    done = pulled.run("--locked", "--no-launch")
    assert done.status == 65
    assert f"the running instance has loaded what models.lock does not pin: {OTHER}" in done.err
    assert running.process.poll() is None
    assert pulled.run("--locked", "--no-launch", "--force").status == 0
    assert running.wait() is not None


@pytest.mark.parametrize("what", ["changed", "unpinned"])
def test_a_dry_run_shows_what_a_locked_launch_refuses_and_changes_nothing(what: str, flat: AppFolder) -> None:
    run(flat, "models", "lock", "--freeze")
    assert run(flat, "--locked", "--dry-run").status == 0
    if what == "changed":
        in_place(flat.path / GPT)
    else:
        (flat.path / GPT).with_name("new.pth").write_bytes(b"new")
    before = everything(flat.path)
    told = [run(flat, "--locked", *words) for words in (("--dry-run",), ("--no-launch",))]
    assert [done.status for done in told] == [65, 65]
    assert told[0].err.splitlines()[-2:] == told[1].err.splitlines()[-2:]
    shutil.rmtree(flat.path / ".start_app")
    assert run(flat, "--locked", "--dry-run").status == 65
    assert everything(flat.path) == before
    assert not (flat.path / ".start_app").exists()


def check(pulled: Pulled, *arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Return the exit status of `models check`, and of each name the verdict and the words behind it."""
    done = pulled.run("models", "check", "--json", *arguments)
    return done.status, {one["name"]: (one["verdict"], one["detail"] or "") for one in done.json["models"]}


@pytest.mark.slow
def test_a_folder_that_was_filled_by_hand_is_judged_by_its_hashes(pulled: Pulled) -> None:
    for path, data in NEW.items():
        (pulled.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (pulled.folder / path).write_bytes(data)
    status, verdicts = check(pulled)
    assert (status, verdicts[FOLDER][0]) == (80, "unknown")  # 80: the cached model is behind
    name = f"{MODEL} in {FOLDER}"
    arguments = (MODEL, "--local-dir", FOLDER)
    assert check(pulled, *arguments) == (0, {name: ("up to date", "")})
    in_place(pulled.folder / "gpt.safetensors")
    status, verdicts = check(pulled, *arguments)
    assert (status, verdicts[name][0]) == (80, "incomplete locally")
    assert "1 of 5 files are not what" in verdicts[name][1]
    (pulled.folder / "gpt.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "Git LFS pointers" in check(pulled, *arguments)[1][name][1]
    (pulled.folder / "gpt.safetensors").write_bytes(NEW["gpt.safetensors"][:500])
    (pulled.folder / "gpt.safetensors.aria2").touch()
    assert "a download broke off" in check(pulled, *arguments)[1][name][1]


@pytest.mark.slow
def test_missing_and_extra_files_of_a_folder_are_named(pulled: Pulled) -> None:
    for path, data in NEW.items():
        (pulled.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (pulled.folder / path).write_bytes(data)
    for path in ("mine.txt", "loras/voice.pt", ".cache/huggingface/CACHEDIR.TAG", ".git/HEAD"):
        (pulled.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (pulled.folder / path).write_text("x")
    for path in ("hf_cache/models--koge--voices/refs/main", "other/.cache/huggingface/x", "other/y.bin"):
        (pulled.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (pulled.folder / path).write_text("x")
    small = next(path for path in NEW if path.endswith(".json"))
    (pulled.folder / small).unlink()
    done = pulled.run("models", "check", MODEL, "--local-dir", FOLDER, "--json")
    (model,) = done.json["models"]
    assert (done.status, model["verdict"], model["missing_files"]) == (0, "up to date", [small])
    assert sorted(model["extra_files"]) == ["loras/voice.pt", "mine.txt"]
    assert model["detail"] == f"4 of 5 files are here, without {small}; not in the repo: mine.txt, loras/voice.pt"
    (pulled.folder / "gpt.safetensors").unlink()
    done = pulled.run("models", "check", MODEL, "--local-dir", FOLDER)
    assert done.status == 80
    assert "files missing: gpt.safetensors; not in the repo: mine.txt, loras/voice.pt" in done.out


@pytest.mark.slow
def test_a_folder_that_was_downloaded_is_compared_with_the_hub_and_read(pulled: Pulled) -> None:
    with Library(pulled.hub, env={"HF_HUB_CACHE": str(pulled.cache)}) as library:
        library.ask("download_to", str(pulled.folder), MODEL, pulled.old)
    name = f"{MODEL} in {FOLDER}"
    assert check(pulled)[1][name][0] == "local behind"
    in_place(pulled.folder / "gpt.safetensors")
    assert check(pulled)[1][name][0] == "incomplete locally"


@pytest.mark.slow
def test_a_locked_folder_is_read_by_a_check(pulled: Pulled) -> None:
    pulled.lock_new(local_dir=FOLDER)
    pulled.pulled()
    name = f"{MODEL} in {FOLDER}"
    assert check(pulled) == (0, {name: ("up to date", "")})
    by_replacement(pulled.folder / "added/deep.bin")
    status, verdicts = check(pulled)
    assert (status, verdicts[name][0]) == (80, "incomplete locally")
    assert "added/deep.bin" in verdicts[name][1]


@pytest.mark.slow
def test_single_files_of_a_lock_are_read_by_a_check(flat: AppFolder) -> None:
    run(flat, "models", "lock", "--freeze")
    done = run(flat, "models", "check", "--json")
    assert (done.status, {one["verdict"] for one in done.json["models"]}) == (0, {"as pinned"})
    in_place(flat.path / GPT)
    done = run(flat, "models", "check", "--json")
    assert (done.status, next(one["verdict"] for one in done.json["models"] if one["name"] == GPT)) == (
        80,
        "incomplete locally",
    )


@pytest.mark.slow
def test_what_the_new_instance_loads_is_read_while_the_old_one_serves(flat: AppFolder, processes: Processes) -> None:
    flat.script.write_text(MAPPING)
    (flat.path / GPT).write_bytes(os.urandom(8 << 20))

    def drop() -> bool:
        descriptor = os.open(flat.path / GPT, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            return bool(list(page_cache.missing(descriptor, 8 << 20)))
        finally:
            os.close(descriptor)

    start(flat, processes)
    if not drop():
        pytest.skip("this file system keeps its files in memory")
    second = start(flat, processes)
    assert "warm: 8.4 MB read into memory" in second.err
    assert second.err.index("warm: ") < second.err.index("terminated pid")
    assert "warm: " not in start(flat, processes).err
    assert drop()
    assert "warm: " not in start(flat, processes, "--no-warm").err
