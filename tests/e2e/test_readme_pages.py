"""README and the pages of docs/ are short, lead to one another, and say the same in both languages."""

from __future__ import annotations

import re

import pytest

from tests.support import readme
from tests.support.apps import ROOT

PAGES = (*readme.PAGES, *readme.TRANSLATED, *(name for name in readme.GENERATED if (ROOT / name).exists()))
HABITS = ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
pairs = pytest.mark.parametrize(("english", "chinese"), readme.PAIRS)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_read_in_minutes(name: str) -> None:
    lines = len(readme.read(name).splitlines())
    assert lines <= (150 if name in readme.READMES else 200)


@pytest.mark.parametrize("name", (*PAGES, *HABITS))
def test_every_link_leads_to_a_file_and_a_heading(name: str) -> None:
    folder = (ROOT / name).parent
    for path, anchor in readme.links(name):
        if path.startswith("http"):
            continue
        target = (folder / path).resolve() if path else ROOT / name
        assert target.exists(), f"{name}: {path}"
        if anchor:
            assert anchor in readme.anchors(target.relative_to(ROOT).as_posix()), f"{name}: {path}#{anchor}"


@pytest.mark.parametrize("name", PAGES)
def test_a_list_of_contents_has_every_heading(name: str) -> None:
    contents = re.findall(r"^- \[[^]]+\]\(#([^)]+)\)$", readme.read(name), re.MULTILINE)
    if contents:
        text = re.sub(r"^```.*?^```$", "", readme.read(name), flags=re.MULTILINE | re.DOTALL)
        assert len(contents) == len(re.findall(r"^## ", text, re.MULTILINE))


def test_the_table_of_contents_has_every_page() -> None:
    contents = {path for path, _ in readme.links("docs/README.md")}
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages - {"README.md"} <= contents


@pytest.mark.parametrize("name", readme.READMES)
def test_the_readme_leads_to_every_page(name: str) -> None:
    linked = {path for path, _ in readme.links(name)}
    own, other = ("docs/zh-CN/", "docs/") if name == readme.CHINESE else ("docs/", "docs/")
    for page in readme.PAGES:
        here = page.replace("docs/", own)
        assert page in linked or here in linked or page in (*readme.READMES, f"{other}README.md", "docs/security.md")


@pytest.mark.parametrize("name", [*readme.PAGES, "CONTRIBUTING.md", "SECURITY.md"])
def test_no_line_of_prose_is_wider_than_a_terminal(name: str) -> None:
    prose = re.sub(r"^```.*?^```$", "", readme.read(name), flags=re.MULTILINE | re.DOTALL).splitlines()
    assert [line for line in prose if len(line) > 120 and not line.startswith("|")] == []


@pairs
def test_a_translation_has_the_same_blocks_and_the_same_code_in_each_section(english: str, chinese: str) -> None:
    ours, theirs = readme.sections(english), readme.sections(chinese)
    assert len(ours) == len(theirs)
    for section, translated in zip(ours, theirs, strict=True):
        heading = translated.splitlines()[0]
        assert set(readme.spans(section)) - set(readme.spans(translated)) == set(), heading
        # A sentence may name what stands in a block or in another sentence of the other language.
        more = set(readme.spans(translated)) - set(readme.spans(section))
        assert {span for span in more if span not in readme.read(english)} == set(), heading
    assert readme.blocks(english) == readme.blocks(chinese)


@pairs
def test_a_translation_has_the_same_rows_in_each_table(english: str, chinese: str) -> None:
    ours, theirs = readme.tables(english), readme.tables(chinese)
    assert len(ours) == len(theirs)
    for table, translated in zip(ours, theirs, strict=True):
        assert len(table) == len(translated)
        for row, other in zip(table, translated, strict=True):
            assert len(row) == len(other)
            assert set(readme.spans(row[0])) - set(readme.spans(other[0])) == set(), other


def test_a_chinese_reader_finds_the_readme_by_the_words_of_the_trouble() -> None:
    text = readme.read(readme.CHINESE)
    for words in (
        "端口被占用",
        "清理缓存",
        "镜像",
        "模型没有更新",
        "磁盘空间",
        "后台运行",
        "双开",
        "重启",
        "start_app.sh",
    ):
        assert words in text


def test_the_picture_of_the_rooms_has_every_room_and_every_file_that_it_names() -> None:
    text = readme.read("docs/architecture.md") + readme.read("CONTRIBUTING.md")
    rooms = {path.parent.name for path in (ROOT / "launcher").glob("*/__init__.py")}
    drawn = set(re.findall(r"\b(\w+)\[\"\1<br/>", text))
    assert rooms - drawn == set()
    for path in set(re.findall(r"`((?:launcher|tests)/[^`]*)`", text)) - {"launcher/commands/NAME.py"}:
        assert (ROOT / path).exists(), path
