"""Names that strangers chose: what becomes of them, and what is refused."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goldfold.exporter.system import names

TEXT = st.text(
    st.one_of(st.characters(), st.sampled_from("/\\.:-_ \n\x00\x1b\u202e\u2028*?\"<>|\xa0\u3000")),
    max_size=400,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("embeddinggemma-300m", "embeddinggemma-300m"),
        ("all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        ("org/name", "org-name"),
        ("../../lib/python3/site-packages", "lib-python3-site-packages"),
        ("..\\..\\evil", "evil"),
        ("C:evil", "C-evil"),
        ("..", "model"),
        ("", "model"),
        ("小模型", "model"),
        ("modèle", "modele"),
        ('a"\nnode {', "a-node"),
        ("CON", "model-CON"),
        ("lpt1.txt", "model-lpt1.txt"),
        ("v1.5.", "v1.5"),
        ("-x", "x"),
        ("a" * 300, "a" * 64),
    ],
)
def test_a_slug_is_a_plain_name(name: str, slug: str) -> None:
    assert names.slug(name) == slug


@given(TEXT)
def test_every_slug_is_a_name_and_no_path(text: str) -> None:
    slug = names.slug(text)
    assert names.is_name(slug) and names.fault(slug) is None
    assert names.slug(slug) == slug


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"), (" ", "empty"), (".", "folder's own"), ("..", "folder's own"),
        ("a/b", "it has /"), ("a\\b", "it has \\"), ("C:", "it has :"), ("a\0", "do not show"),
        ("a\nb", "do not show"), ("\x1b[2J", "do not show"), ("txt\u202egpj", "do not show"),
        ("\ud800", "do not show"), ("ü" * 128, "255 bytes"), ("a.", "ends in a dot"),
        ("a ", "ends in a dot or a space"), ("a\u3000", "ends in a dot or a space"),
        ("\xa0", "empty"), ("NUL", "device"), ("com1.json", "device"),
        ("aux .txt", "device"), ("COM¹", "device"), ("CONIN$", "device"),
    ],
)  # fmt: skip
def test_what_some_system_stumbles_over_is_no_files_name(name: str, why: str) -> None:
    assert why in (names.fault(name) or "")


@pytest.mark.parametrize(
    "name", ["NOTICE — ü.txt", "LICENSE", ".gitattributes", "console", "com10"]
)
def test_ordinary_names_are_kept(name: str) -> None:
    assert names.fault(name) is None
    assert names.file_name(name) == name


@given(TEXT)
def test_every_file_name_is_one_on_any_system(text: str) -> None:
    found = names.file_name(text)
    assert names.fault(found) is None, found
    assert unicodedata.is_normalized("NFC", found)


def test_a_name_that_is_cut_keeps_its_ending() -> None:
    assert names.file_name("LICENSE: " + "ü" * 200 + ".txt").endswith("ü.txt")
    assert names.file_name("LICENSE: MIT.txt") == "LICENSE- MIT.txt"


@pytest.mark.parametrize(("start", "cut"), [("con", "-con"), (".", "file"), ("a", "a")])
def test_what_a_cut_leaves_is_a_name_too(start: str, cut: str) -> None:
    assert names.file_name(start + " " * 300 + "x" * 20) == cut


@pytest.mark.parametrize("key", ["a//b", "/a", "a/", "a/../b", "./a", "a/b\n", "x" * 2000])
def test_a_key_that_leaves_or_blurs_its_folder_is_refused(key: str) -> None:
    assert names.key_fault(key) is not None


def test_keys_that_one_system_takes_for_one_are_folded() -> None:
    assert names.folded("a/LICENSE") == names.folded("A/license")
    assert names.folded("caf\u00e9") == names.folded("cafe\u0301")
    assert names.folded("a") != names.folded("b")


def test_what_is_shown_steers_no_terminal() -> None:
    assert names.shown("a\x1b[31mb\x9b2J\u202e\r\n字 🧀") == "a�[31mb�2J��\n字 🧀"
    assert names.line("a\n b\u2028c\x0bd") == "a b c d"
    assert names.line("\ud800") == "�"
    assert names.steers("a\tb") and names.steers("a\u2029") and not names.steers("字 \u202e")
