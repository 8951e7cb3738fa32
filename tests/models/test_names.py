"""A repo's name, folder, revision and globs mean here what they mean to huggingface_hub, and lead nowhere else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import pytest
from huggingface_hub.constants import REPO_TYPES
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import HFValidationError, filter_repo_objects, validate_repo_id
from hypothesis import example, given
from hypothesis import strategies as st

from launcher.cache.names import name as name_of_folder
from launcher.config.paths import HUB_ENTRY
from launcher.models import repo_id
from launcher.models.repo_id import Target
from tests.support.caches import A
from tests.support.fuzz import examples

often = examples(100)
plain = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,8}", fullmatch=True)
owned = st.builds("/".join, st.tuples(plain, plain))
typed = st.builds("/".join, st.tuples(st.sampled_from(tuple(repo_id.TYPES)), owned))
PATHS = (
    "config.json", "gpt.pth", "s2mel.pth", "qwen/model.safetensors", "qwen/deep/er/model.bin", ".gitattributes",
    "README.md", "模型/a b.json", "[x].bin", "Config.JSON", "qwen.md", "a*b",
)  # fmt: skip
GLOBS = (
    "*", "*.pth", "*.json", "qwen/", "qwen", "qwen/*", "*/model.*", "?onfig.json", "[cg]*", "[!c]*", "[[]x].bin",
    "**/*.bin", ".*", "README.md", "模型/", "QWEN/", "config.json", "a[*]b", "",
)  # fmt: skip
globs = st.lists(st.sampled_from(GLOBS[:-1]), max_size=3)


def valid(repo: str) -> bool:
    """Tell whether huggingface_hub takes this for the id of a repo."""
    try:
        validate_repo_id(repo)
    except HFValidationError:
        return False
    return True


def traps(chosen: Iterable[str], cached: Iterable[str] = ()) -> list[str]:
    return list(repo_id.traps(tuple(chosen), cached))


@given(st.one_of(plain, owned, st.text("ab-._/", min_size=1, max_size=8)))
@example("koge/x.git")
@example("koge-/x")
@example("koge/" + "x" * 96)
@often
def test_what_huggingface_hub_takes_for_a_name_is_one_and_what_it_does_not_is_none(repo: str) -> None:
    assert repo_id.is_name(repo) == (valid(repo) and repo.isascii())


@pytest.mark.parametrize(
    "text",
    ["", "a/b/c", "../b", "a/..", "a/.", "/a", "a/", "a//b", "a--b/c", "a/b--c", "a..b", "-a/b", ".a", "a b", "a/b\n",
     "a\\b", "a/b@main", "a:b", "~/b", "$HOME/b", "koge/模型", "datasets/", "datasets/a/b/c", "a/b ", "*", "a/*",
     "x" * 97],
)  # fmt: skip
def test_what_leads_elsewhere_or_nowhere_is_no_name(text: str) -> None:
    assert not repo_id.is_name(text)
    assert not repo_id.is_name(f"datasets/{text}") or text in ("",)


@given(
    st.one_of(plain, owned, typed).filter(lambda repo: repo_id.is_name(repo) and valid(repo_id.kind_and_id(repo)[1]))
)
@often
def test_a_name_and_its_folder_are_told_from_each_other_as_huggingface_hub_does(repo: str) -> None:
    kind, identifier = repo_id.kind_and_id(repo)
    folder = repo_id.folder(repo)
    assert folder == repo_folder_name(repo_id=identifier, repo_type=kind)
    assert kind in {*REPO_TYPES, "kernel"} - {None}
    assert HUB_ENTRY.match(folder)
    assert name_of_folder(folder) == repo
    assert os.path.basename(folder) == folder
    assert repo_id.target(repo) == repo_id.target(folder) == Target(repo, None)
    assert repo_id.target(f"{repo}@v1") == repo_id.target(f"{folder}@v1") == Target(repo, "v1")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("gpt2", Target("gpt2", None)),
        ("koge/voices@main", Target("koge/voices", "main")),
        ("koge/voices@refs/pr/1", Target("koge/voices", "refs/pr/1")),
        (f"koge/voices@{A}", Target("koge/voices", A)),
        ("koge/voices@a@b", Target("koge/voices", "a@b")),
        ("koge/voices@分支", Target("koge/voices", "分支")),
        ("datasets/koge/voices@v1.0", Target("datasets/koge/voices", "v1.0")),
        ("models--koge--voices@main", Target("koge/voices", "main")),
        ("datasets--koge--voices", Target("datasets/koge/voices", None)),
        ("spaces--koge--voices", Target("spaces/koge/voices", None)),
        ("koge/voices@", None),
        ("@main", None),
        ("", None),
        ("koge/voices@../../main", None),
        ("koge/voices@a/../../b", None),
        ("koge/voices@-x", None),
        ("koge/voices@a b", None),
        ("koge/voices@a\n", None),
        ("koge/voices@/etc", None),
        ("koge/voices@a//b", None),
        ("models--..--voices", None),
        ("models--", None),
        ("https://huggingface.co/koge/voices", None),
        ("koge/*", None),
    ],
)
def test_a_target_is_a_repo_by_name_or_folder_and_perhaps_a_revision_or_it_is_nothing(
    text: str, meant: Target | None
) -> None:
    assert repo_id.target(text) == meant


@given(st.text(max_size=12))
@example("../x")
@example("a/..")
@example("a/./b")
@example("a\x00b")
@example("a\\..\\b")
@example("//")
@often
def test_what_is_taken_for_a_path_or_a_revision_stays_below_its_folder(text: str) -> None:
    for taken in (repo_id.is_path, repo_id.is_revision):
        if taken(text):
            joined = os.path.normpath(f"/base/{text}")
            assert joined == f"/base/{text}"
            assert text.isprintable() and "\\" not in text
            text.encode()


@given(st.lists(st.sampled_from(PATHS), unique=True), globs, globs)
@often
def test_globs_take_what_allow_patterns_and_ignore_patterns_take(
    paths: list[str], include: list[str], exclude: list[str]
) -> None:
    by_library = filter_repo_objects(paths, allow_patterns=include or None, ignore_patterns=exclude)
    assert list(repo_id.wanted(paths, include, exclude)) == list(by_library)


@given(st.text("a*?[]!./-模", max_size=5), st.text("a*?[]!./-模", min_size=1, max_size=5))
@often
def test_any_glob_takes_of_any_path_what_it_takes_there(path: str, glob: str) -> None:
    by_library = filter_repo_objects([path], allow_patterns=[glob])
    assert list(repo_id.wanted([path], [glob], ())) == list(by_library)


@pytest.mark.parametrize(
    ("include", "exclude", "wanted"),
    [
        (("*.pth",), (), {"gpt.pth", "s2mel.pth"}),
        (("qwen/",), (), {"qwen/model.safetensors", "qwen/deep/er/model.bin"}),
        (("qwen",), (), set()),
        (("*.bin",), ("qwen/",), {"[x].bin"}),
        (("*.JSON",), (), {"Config.JSON"}),
        (("*",), ("*",), set()),
        (("",), (), set()),
    ],
)
def test_a_star_takes_slashes_a_folder_all_in_it_and_case_counts(
    include: tuple[str, ...], exclude: tuple[str, ...], wanted: set[str]
) -> None:
    assert set(repo_id.wanted(PATHS, include, exclude)) == wanted


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("koge/index-tts", "koge/index-tts-v23"),
        ("koge/index-tts", "koge/index-tts_v2"),
        ("IndexTeam/IndexTTS", "IndexTeam/IndexTTS-2"),
        ("IndexTeam/IndexTTS", "IndexTeam/IndexTTS-1.5"),
        ("koge/index-tts", "koge/index-tts-V2.5"),
        ("koge/index", "koge/index.v2"),
        ("datasets/koge/voices", "datasets/koge/voices-v2"),
        ("w2v-bert", "w2v-bert-2.0"),
    ],
)
def test_a_name_without_a_version_beside_one_with_it_is_a_trap_whichever_is_chosen(one: str, other: str) -> None:
    for chosen, cached in (([one], [other]), ([other], [one]), ([one, other], [])):
        (told,) = traps(chosen, cached)
        assert told.startswith(f"{one} names no version, and {other} is there too")


def test_two_versions_of_one_family_are_a_trap_and_a_third_is_named_with_them() -> None:
    (told,) = traps(["koge/index-tts-v23"], ["koge/index-tts-v22", "koge/index-tts-v2.1", "koge/codec"])
    assert told.startswith("3 versions of koge/index-tts are there: ")
    assert re.findall(r"koge/index-tts-v[\d.]+\d", told) == [f"koge/index-tts-v{one}" for one in ("2.1", "22", "23")]


@pytest.mark.parametrize(
    ("chosen", "cached"),
    [
        (["koge/index-tts-v23"], ["koge/codec", "other/index-tts-v22"]),
        (["koge/index-tts-v23"], ["koge/index-tts-v23"]),
        (["koge/codec"], ["koge/index-tts-v22", "koge/index-tts-v23", "koge/index-tts"]),
        (["koge/voices-v2"], ["datasets/koge/voices-v1"]),
        (["gpt2"], ["gpt"]),
        (["koge/index-tts"], ["koge/index-tts-onnx", "koge/index-tts-v2-onnx"]),
        (["koge/v2"], ["amphion/v1"]),
        ([], ["koge/index-tts", "koge/index-tts-v2"]),
    ],
)
def test_what_is_no_version_of_the_same_is_no_trap(chosen: list[str], cached: list[str]) -> None:
    assert traps(chosen, cached) == []


@given(st.lists(st.one_of(plain, owned), max_size=5), st.lists(st.one_of(plain, owned), max_size=5))
@often
def test_whatever_is_chosen_and_cached_a_trap_is_told_once_and_of_what_is_there(
    chosen: list[str], cached: list[str]
) -> None:
    told = traps(chosen, cached)
    assert len(told) == len(set(told)) <= len(set(chosen))
    assert told == traps(chosen[::-1], cached[::-1])
    everything = {*chosen, *cached}
    assert all(sum(repo in line for repo in everything) >= 2 for line in told)
