"""`models.lock` says one thing in one way, and what was edited into nonsense is refused with the place."""

from __future__ import annotations

import copy
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.errors import ExitStatus, LauncherError
from launcher.models import lockfile, repo_id
from launcher.models.lockfile import LockedFile, LockedModel
from tests.support.apps import ROOT
from tests.support.caches import A, B
from tests.support.fuzz import examples, json_values

SHA256, SHA1 = "5" * 64, "6" * 40
BYTES = b"""\
{
  "version": 2,
  "models": [
    {
      "repo": "datasets/koge/voices",
      "revision": "refs/pr/1",
      "commit": "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
      "exclude": ["*.md"],
      "files": {
        "anna.wav": {"size": 0, "git_sha1": "6666666666666666666666666666666666666666"}
      }
    },
    {
      "repo": "koge/index-tts-v23",
      "revision": "main",
      "commit": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
      "local_dir": "checkpoints",
      "include": ["*.pth", "qwen/"],
      "files": {
        "gpt.pth": {"size": 3, "sha256": "5555555555555555555555555555555555555555555555555555555555555555"},
        "qwen/\xe6\xa8\xa1\xe5\x9e\x8b.json": {"size": 1, "git_sha1": "6666666666666666666666666666666666666666"}
      }
    }
  ]
}
"""
VOICES = LockedModel("datasets/koge/voices", "refs/pr/1", B, None, (), ("*.md",), {"anna.wav": LockedFile(0, SHA1)})
V23 = LockedModel(
    "koge/index-tts-v23",
    "main",
    A,
    "checkpoints",
    ("*.pth", "qwen/"),
    (),
    {"qwen/模型.json": LockedFile(1, SHA1), "gpt.pth": LockedFile(3, SHA256)},
)

often = examples(100)
hashes = st.sampled_from((SHA1, SHA256))
files = st.builds(LockedFile, st.integers(0, 1 << 50), hashes, st.just(""))
printable = st.characters(exclude_categories=["C", "Z"])
writable = st.text(st.one_of(printable, st.just(" ")), min_size=1, max_size=12)
commits = st.text("0123456789abcdef", min_size=40, max_size=40)
paths = st.one_of(
    st.sampled_from(("a.bin", "b/c.json", "ä ö/模型.bin", '"quoted".txt')),
    st.lists(writable, min_size=1, max_size=3).map("/".join).filter(repo_id.is_path),
)
revisions = st.text(st.sampled_from("aZ0_./+@=-分é"), min_size=1, max_size=20).filter(repo_id.is_revision)
repos = st.sampled_from(("gpt2", "koge/voices", "datasets/koge/voices", "spaces/a/b.c", "kernels/a/b_c"))


@st.composite
def models(draw: st.DrawFn) -> LockedModel:
    commit = draw(commits)
    revision = draw(st.one_of(st.sampled_from(("main", "refs/pr/1", "分支", commit)), revisions))
    folder = draw(st.one_of(st.none(), paths.filter(repo_id.is_local_dir)))
    allowed = paths.filter(lambda path: not path.startswith(".cache/")) if folder else paths
    return LockedModel(
        draw(repos),
        commit if repo_id.COMMIT.fullmatch(revision) else revision,
        commit,
        folder,
        tuple(draw(st.lists(writable, max_size=2))),
        tuple(draw(st.lists(writable, max_size=2))),
        draw(st.dictionaries(allowed, files, max_size=4)),
    )


single = st.dictionaries(paths.filter(lambda path: not path.startswith(".")), files, max_size=3)
locks = st.builds(
    lockfile.Lock, st.lists(models(), max_size=4, unique_by=lambda model: model.key), single, frozen=st.booleans()
)


def refused(text: str | bytes) -> str:
    """Return with which words a lock file's bytes are refused."""
    with pytest.raises(Exception) as caught:
        lockfile.parse(text.encode() if isinstance(text, str) else text)
    assert type(caught.value).__module__ == lockfile.__name__, repr(caught.value)
    return str(caught.value)


def refused_file(folder: Path, data: bytes) -> str:
    """Return with which words a lock file on the disk is refused."""
    (folder / "models.lock").write_bytes(data)
    with pytest.raises(LauncherError) as caught:
        lockfile.read(folder)
    assert caught.value.status == ExitStatus.CONFIG
    assert caught.value.hint
    return caught.value.message


def test_the_bytes_follow_from_the_models_alone_a_line_a_file_in_the_order_of_names() -> None:
    assert lockfile.dump([V23, VOICES]) == BYTES
    assert lockfile.dump([VOICES, V23]) == BYTES
    assert lockfile.parse(BYTES) == (VOICES, V23)
    assert lockfile.dump([]) == b'{\n  "version": 2,\n  "models": []\n}\n'


@pytest.mark.slow
@given(locks)
@often
def test_what_is_written_is_read_again_whatever_the_models(found: lockfile.Lock) -> None:
    data = lockfile.dump(found)
    read = lockfile.parse(data)
    assert read == tuple(sorted(found, key=lambda model: model.key))
    assert (read.files, read.frozen) == (found.files, found.frozen)
    assert lockfile.dump(lockfile.parse(data)) == data
    assert data.endswith(b"\n") and b"\r" not in data.replace(b"\\r", b"")
    json.loads(data)


values = json_values(("\ud800", "\x1b[31m", "../x", "x" * 5000, A, SHA256, 10**400, 1 << 63), 8)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, item in inner for place in places(item, (*at, key)))]


@st.composite
def with_anything_anywhere(draw: st.DrawFn) -> bytes:
    """Return a lock in which any values, or their keys, are other ones."""
    document: Any = [json.loads(BYTES)]
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(places(document)[1:]))
        into = document
        for key in way:
            into = into[key]
        value = draw(st.one_of(st.just(into[last]), values))
        if isinstance(into, dict) and draw(st.booleans()):
            del into[last]
            last = draw(st.one_of(st.text(max_size=9), st.sampled_from(("../x", "a/b", "\x1b[0m", "local_dir"))))
        into[last] = value
    return json.dumps(document[0], ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@st.composite
def overwritten(draw: st.DrawFn) -> bytes:
    """Return a lock of which some bytes were cut out, overwritten or written twice."""
    data = BYTES
    for _ in range(draw(st.integers(1, 3))):
        start, length = draw(st.integers(0, len(data))), draw(st.integers(0, 40))
        spans = st.sampled_from((data[start : start + length], data[start : start + length] * 2))
        new = draw(st.one_of(st.binary(max_size=6), spans, st.sampled_from((b"NaN", b"-1", b"1e999", b"[" * 3000))))
        data = data[:start] + new + data[start + length :]
    return data


anything = st.one_of(
    st.binary(max_size=200),
    st.text().map(lambda text: text.encode("utf-8", "surrogatepass")),
    with_anything_anywhere(),
    overwritten(),
)


@given(data=anything)
@examples(300)
def test_any_bytes_are_a_lock_that_is_written_as_it_is_read_or_are_refused_in_a_few_words(
    data: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "models.lock"
    path.write_bytes(data)
    try:
        found = lockfile.read(tmp_path)
    except LauncherError as error:
        assert error.status == ExitStatus.CONFIG
        assert error.message.startswith(f"{path}: ")
        told = error.message.removeprefix(f"{path}: ")
        assert 0 < len(told) < 500
        assert told.isprintable()
        assert error.hint
        return
    assert found is not None
    written = lockfile.dump(found)
    assert lockfile.parse(written) == found
    assert lockfile.dump(lockfile.parse(written)) == written
    for model in found:
        folder = os.path.join("/app", model.local_dir or repo_id.folder(model.repo))
        for inside in (*model.files, f"refs/{model.revision}"):
            assert os.path.normpath(os.path.join(folder, inside)) == os.path.join(folder, inside)


LONG = b"x" * 1_000_000
ENDLESS = {
    "revision": BYTES.replace(b'"main"', b'"-' + LONG + b'"'),
    "repo": BYTES.replace(b'"koge/index', b'"-' + LONG + b"/index"),
    "owner": BYTES.replace(b'"koge/index', b'"' + LONG + b"/index"),
    "commit": BYTES.replace(b"a" * 40, LONG),
    "local_dir": BYTES.replace(b'"checkpoints"', b'"/' + LONG + b'"'),
    "file": BYTES.replace(b"gpt.pth", b"/" + LONG),
    "hidden file": BYTES.replace(b"gpt.pth", b".cache/" + LONG),
    "key": BYTES.replace(b'"include"', b'"\\u001b[31m' + LONG + b'"'),
    "key twice": BYTES.replace(b'"repo"', b'"' + LONG + b'": 1, "' + LONG + b'"'),
    "size": BYTES.replace(b'"size": 3', b'"size": ' + b"9" * 4000),
    "number": BYTES.replace(b'"size": 3', b'"size": ' + b"9" * 1_000_000),
    "version": BYTES.replace(b'"version": 2', b'"version": "' + LONG + b'"'),
    "nested": BYTES.replace(b'"version": 2', b'"version": ' + b"[" * 900 + b"]" * 900),
}


@pytest.mark.parametrize("data", ENDLESS.values(), ids=ENDLESS.keys())
def test_however_long_a_wrong_value_is_the_refusal_is_short(data: bytes, tmp_path: Path) -> None:
    message = refused_file(tmp_path, data).removeprefix(f"{tmp_path / 'models.lock'}: ")
    assert 0 < len(message) < 500
    assert message.isprintable()


def test_what_is_too_long_to_be_read_again_is_not_written(tmp_path: Path) -> None:
    many = {f"{number:0900}": LockedFile(1, SHA1) for number in range(lockfile.MAX_BYTES // 900)}
    with pytest.raises(LauncherError, match=f"larger than {lockfile.MAX_BYTES} bytes"):
        lockfile.write(tmp_path, [V23._replace(files=many)])
    assert os.listdir(tmp_path) == []


def edited(*place: Any) -> Callable[[Any], str]:
    def edit(value: Any) -> str:
        document = json.loads(BYTES)
        into = document
        for key in place[:-1]:
            into = into[key]
        into[place[-1]] = value
        return json.dumps(document)

    return edit


ONE = ("models", 1)
NAMED = r"models[1] (koge/index-tts-v23)"
NONSENSE: list[tuple[tuple[Any, ...], Any, str]] = [
    (("version",), 3, "version is 3, and this launcher knows versions 1 and 2"),
    (("version",), "1", "version is '1'"),
    (("version",), 1.0, "version is 1.0"),
    (("version",), True, "version is True"),
    (("version",), None, "version is None"),
    (("models",), {}, '{"version": 2, "models": […]}'),
    (("modles",), [], "modles is not a key of models.lock"),
    (("frozen",), 1, "frozen: 1 is neither true nor false"),
    (("files",), [], "files is not an object"),
    (("files",), {"a/../../x": {"size": 1, "sha256": SHA256}}, "files['a/../../x'] is not the path of a file"),
    (("files",), {".git/x": {"size": 1, "sha256": SHA256}}, "files['.git/x'] is not the path of a file"),
    (("files",), {"a/x": {"size": 1}}, "files['a/x'] is not a size and a hash"),
    (("files",), {"a/x": "x"}, "files['a/x'] is not a size and a hash"),
    (("files",), {"a/x": {"size": 1, "sha256": SHA256, "origin": "x"}}, "'x' is not REPO@COMMIT/PATH"),
    (("files",), {"a/x": {"size": 1, "sha256": SHA256, "origin": [1]}}, "[1] is not REPO@COMMIT/PATH"),
    (ONE, "koge/index-tts-v23", "models[1] is not an object"),
    (ONE, None, "models[1] is not an object"),
    ((*ONE, "hash"), A, "models[1].hash is not a key of"),
    ((*ONE, "repo"), None, "models[1].repo is not text"),
    ((*ONE, "repo"), "koge/../../etc", "models[1].repo: 'koge/../../etc' is not the name of a repo"),
    ((*ONE, "repo"), "../x", "not the name of a repo"),
    ((*ONE, "repo"), "/etc/passwd", "not the name of a repo"),
    ((*ONE, "repo"), "koge/a--b", "not the name of a repo"),
    ((*ONE, "repo"), "koge/a\n", "not the name of a repo"),
    ((*ONE, "repo"), "https://huggingface.co/koge/a", "not the name of a repo"),
    ((*ONE, "revision"), "../../main", f"{NAMED}.revision: '../../main' is not a branch"),
    ((*ONE, "revision"), "a/../b", "not a branch, tag or commit"),
    ((*ONE, "revision"), "", "not a branch, tag or commit"),
    ((*ONE, "revision"), 1, f"{NAMED}.revision is not text"),
    ((*ONE, "revision"), B, f"not the commit that is the revision, {B}"),
    ((*ONE, "commit"), A[:7], f"{NAMED}.commit: '{A[:7]}' is not a commit, which has 40 hex digits"),
    ((*ONE, "commit"), A.upper(), "40 hex digits"),
    ((*ONE, "commit"), f"{A}\n", "40 hex digits"),
    ((*ONE, "local_dir"), "..", f"{NAMED}.local_dir: '..' is not a folder"),
    ((*ONE, "local_dir"), "/root/checkpoints", f"{NAMED}.local_dir: "),
    ((*ONE, "local_dir"), ".", f"{NAMED}.local_dir: "),
    ((*ONE, "local_dir"), "", f"{NAMED}.local_dir: "),
    ((*ONE, "local_dir"), "a/../..", f"{NAMED}.local_dir: "),
    ((*ONE, "local_dir"), "a\\..\\..", f"{NAMED}.local_dir: "),
    ((*ONE, "local_dir"), "check\npoints", f"{NAMED}.local_dir: "),
    ((*ONE, "local_dir"), ".git/hooks", f"{NAMED}.local_dir: '.git/hooks' is not a folder"),
    ((*ONE, "local_dir"), "venv", f"{NAMED}.local_dir: "),
    ((*ONE, "local_dir"), ["checkpoints"], f"{NAMED}.local_dir: "),
    ((*ONE, "include"), "*.pth", f"{NAMED}.include is not a list of globs"),
    ((*ONE, "include"), [1], "include is not a list of globs"),
    ((*ONE, "exclude"), [""], f"{NAMED}.exclude is not a list of globs"),
    ((*ONE, "exclude"), None, "exclude is not a list of globs"),
    ((*ONE, "files"), [], f"{NAMED}.files is not an object"),
    ((*ONE, "files", "gpt.pth"), 3, f"{NAMED}.files['gpt.pth'] is not a size and a hash"),
    ((*ONE, "files", "gpt.pth"), {"size": 3}, "files['gpt.pth'] is not a size and a hash"),
    ((*ONE, "files", "gpt.pth", "git_sha1"), SHA1, "files['gpt.pth'] is not a size and a hash"),
    ((*ONE, "files", "gpt.pth", "size"), -1, f"{NAMED}.files['gpt.pth'].size: -1 is not a number of bytes"),
    ((*ONE, "files", "gpt.pth", "size"), 3.0, "size: 3.0 is not a number of bytes"),
    ((*ONE, "files", "gpt.pth", "size"), True, "size: True is not a number of bytes"),
    ((*ONE, "files", "gpt.pth", "size"), "3", "size: '3' is not a number of bytes"),
    ((*ONE, "files", "gpt.pth", "size"), 10**400, "is not a number of bytes"),
    ((*ONE, "files", "gpt.pth", "sha256"), SHA1, f"{NAMED}.files['gpt.pth'] has neither a sha256"),
    ((*ONE, "files", "gpt.pth", "sha256"), SHA256.replace("5", "A"), "has neither a sha256 of 64 hex digits"),
    (
        (*ONE, "files", "../webui.py"),
        {"size": 1, "git_sha1": SHA1},
        "files['../webui.py'] is not a path below a folder",
    ),
    ((*ONE, "files", "/etc/passwd"), {"size": 1, "git_sha1": SHA1}, "files['/etc/passwd'] is not a path"),
    ((*ONE, "files", "a//b"), {"size": 1, "git_sha1": SHA1}, "files['a//b'] is not a path"),
    ((*ONE, "files", "a\\b"), {"size": 1, "git_sha1": SHA1}, "is not a path below a folder"),
    ((*ONE, "files", "a\nb"), {"size": 1, "git_sha1": SHA1}, "is not a path below a folder"),
    ((*ONE, "files", ""), {"size": 1, "git_sha1": SHA1}, "files[''] is not a path"),
]


IDS = [f"{place[-1]}={value!r:.24}" for place, value, _ in NONSENSE]


@pytest.mark.parametrize(("place", "value", "words"), NONSENSE, ids=IDS)
def test_what_is_edited_into_nonsense_is_refused_with_its_place(place: tuple[Any, ...], value: Any, words: str) -> None:
    assert words in refused(edited(*place)(value))


@pytest.mark.parametrize("key", ["repo", "revision", "commit"])
def test_what_is_left_out_is_named(key: str) -> None:
    document = json.loads(BYTES)
    del document["models"][0][key]
    assert refused(json.dumps(document)).endswith(f" has no {key}")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "line 1 is not JSON"),
        (b"[]", 'it is not {"version": 2, "models": […]}'),
        (b"null", "it is not {"),
        (BYTES.replace(b'"main",', b'"main"'), "line 16 is not JSON"),
        (BYTES.replace(b"anna", b"\xff"), "line 10 is not UTF-8 text"),
        (b"<<<<<<< ours\n" + BYTES + b"=======\n>>>>>>> theirs\n", "line 1 is not JSON"),
        (BYTES.replace(b'      "rev', b'<<<<<<< HEAD\n      "rev', 1), "it contains merge conflict markers"),
        (b'{"models": ' + b"[" * 200_000, "nested too deeply"),
        (BYTES.replace(b'"revision"', b'"commit"', 1), "'commit' is in one object twice"),
        (BYTES.replace(b"gpt.pth", "qwen/模型.json".encode()), "'qwen/模型.json' is in one object twice"),
        (BYTES.replace(b'"size": 3', b'"size": ' + b"9" * 5000), "models.lock"),
    ],
    ids=["empty", "list", "null", "comma", "utf8", "merge", "marks", "deep", "key twice", "file twice", "digits"],
)
def test_what_is_no_lock_at_all_is_refused_with_the_line(data: bytes, words: str, tmp_path: Path) -> None:
    message = refused_file(tmp_path, data)
    assert message.startswith(f"{tmp_path / 'models.lock'}: ")
    assert words in message


def test_a_model_that_is_in_it_twice_is_refused_and_one_repo_in_two_places_is_not() -> None:
    twice = json.loads(BYTES)
    twice["models"].append(copy.deepcopy(twice["models"][1]))
    assert refused(json.dumps(twice)) == "koge/index-tts-v23 in checkpoints is in it twice"
    two = copy.deepcopy(twice)
    del two["models"][2]["local_dir"]
    assert [model.local_dir for model in lockfile.parse(json.dumps(two).encode())] == [None, None, "checkpoints"]


def test_a_lock_of_version_1_is_read_and_written_as_version_2(tmp_path: Path) -> None:
    old = BYTES.replace(b'"version": 2', b'"version": 1')
    (tmp_path / "models.lock").write_bytes(old)
    lock = lockfile.read(tmp_path)
    assert lock == (VOICES, V23)
    assert lockfile.write(tmp_path, lock)
    assert (tmp_path / "models.lock").read_bytes() == BYTES
    assert "files is not a key of" in refused(old.replace(b'"models": [', b'"files": {}, "models": ['))


def test_two_revisions_of_a_repo_and_single_files_are_pinned(tmp_path: Path) -> None:
    other = VOICES._replace(revision="fp16", commit=A)
    single = {
        "checkpoints/gpt.pth": LockedFile(3, SHA256, f"koge/index-tts-v23@{A}/gpt.pth"),
        "/d/x": LockedFile(1, SHA1),
    }
    lockfile.write(tmp_path, lockfile.Lock((VOICES, other), single, frozen=True))
    lock = lockfile.read(tmp_path)
    assert lock is not None
    assert (tuple(lock), lock.files, lock.frozen) == ((other, VOICES), single, True)
    # What a model of the folder has is the model's.
    assert set(lock.replaced((V23,)).files) == {"/d/x"}


def test_a_glob_that_no_file_could_hold_is_refused() -> None:
    assert "include" in refused(BYTES.replace(b'"*.pth"', rb'"\ud800"'))


def test_what_differs_in_form_alone_is_the_same_lock() -> None:
    loose = json.dumps(json.loads(BYTES)).encode()
    assert loose != BYTES
    assert lockfile.parse(loose) == lockfile.parse(BYTES)
    assert lockfile.dump(lockfile.parse(loose)) == BYTES


def test_no_lock_is_none_and_an_empty_one_pins_nothing(tmp_path: Path) -> None:
    assert lockfile.read(tmp_path) is None
    lockfile.write(tmp_path, [])
    assert lockfile.read(tmp_path) == ()


def test_writing_says_whether_anything_changed_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    assert lockfile.write(tmp_path, [V23])
    first = (tmp_path / "models.lock").stat()
    assert not lockfile.write(tmp_path, [V23])
    assert (tmp_path / "models.lock").stat().st_ino == first.st_ino
    assert stat.S_IMODE(first.st_mode) == 0o644
    assert lockfile.write(tmp_path, [V23, VOICES])
    assert os.listdir(tmp_path) == ["models.lock"]
    assert (tmp_path / "models.lock").read_bytes() == BYTES


def test_a_link_in_its_place_is_replaced_and_what_it_leads_to_is_left(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    for there in (BYTES, b"precious"):
        target.write_bytes(there)
        (tmp_path / "models.lock").unlink(missing_ok=True)
        (tmp_path / "models.lock").symlink_to(target)
        assert lockfile.write(tmp_path, [V23, VOICES])
        assert not (tmp_path / "models.lock").is_symlink()
        assert (target.read_bytes(), (tmp_path / "models.lock").read_bytes()) == (there, BYTES)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write for somebody else")
def test_what_root_writes_belongs_to_whom_the_apps_folder_belongs_to(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    lockfile.write(tmp_path, [V23])
    assert (tmp_path / "models.lock").stat().st_uid == 65534


@pytest.mark.parametrize("what", ["a folder", "a pipe", "a link to itself", "without end"])
def test_what_is_no_file_is_refused_and_hangs_nobody(what: str, tmp_path: Path) -> None:
    path = tmp_path / "models.lock"
    if what == "a folder":
        path.mkdir()
    elif what == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if what == "a link to itself" else "/dev/zero")
    code = (
        "import sys, pathlib\nfrom launcher.models import lockfile\nfrom launcher.errors import LauncherError\n"
        "try:\n    lockfile.read(pathlib.Path(sys.argv[1]))\nexcept LauncherError as error:\n    print(error.message)\n"
    )
    done = subprocess.run((sys.executable, "-c", code, tmp_path), cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert str(path) in done.stdout, done.stderr
