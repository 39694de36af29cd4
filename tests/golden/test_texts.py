from __future__ import annotations

import math
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goldfold.golden import texts
from goldfold.golden.errors import GoldenError
from goldfold.golden.measured import CAPPED, WHOLE


def words(text: str) -> int:
    """A tokenizer of one token a word, and two specials."""
    return len(text.split()) + 2


def test_texts_are_many_distinct_and_named_in_kebab_case() -> None:
    authored = texts.authored()
    assert len(authored) >= 60
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", t.id) for t in authored)
    assert len({(t.text, t.prompt, t.title) for t in authored}) == len(authored)


def test_texts_reach_the_corners() -> None:
    by_id = {t.id: t.text for t in texts.authored()}
    every = "".join(by_id.values())
    scripts = {unicodedata.name(c, "").split()[0] for c in every if c.isalpha()}
    wanted = "LATIN CYRILLIC GREEK ARABIC HEBREW DEVANAGARI BENGALI THAI CJK HIRAGANA HANGUL TAMIL"
    assert set(wanted.split()) <= scripts
    assert by_id["empty"] == "" and by_id["blank-spaces"] == "   "
    assert {"\u0000", "\u200b", "\u200d", "\u202e", "\r", "\t"} <= set(every)
    composed, decomposed = by_id["unicode-composed"], by_id["unicode-decomposed"]
    assert composed != decomposed == unicodedata.normalize("NFD", composed)
    assert by_id["markup-json"].count("\\u00e9") == 1


def test_no_two_length_texts_begin_alike() -> None:
    assert math.gcd(texts.STRIDE, len(texts.sentences())) == 1


@given(st.integers(8, WHOLE), st.integers(0, 5))
def test_targets_stay_within_the_model_but_for_one(length: int, floor: int) -> None:
    targets = texts.length_targets(length, floor)
    assert list(targets) == sorted(set(targets))
    assert [t for t in targets if t > length] == [targets[-1]]
    assert length in targets and min(targets) > floor
    if length > 1000:
        assert sum(t >= length - 7 for t in targets) == 3


@given(st.integers(WHOLE + 1, 1 << 17), st.integers(0, 5))
def test_targets_of_a_long_model_end_where_measurements_do(length: int, floor: int) -> None:
    targets = texts.length_targets(length, floor)
    assert list(targets) == sorted(set(targets))
    assert targets[-1] == CAPPED and targets[:-1] == texts.TARGETS


def test_no_draft_is_longer_than_what_is_measured() -> None:
    calls = {"encode": 32_768, "encode_query": 16_384, "encode_document": 300}
    drafts = texts.drafts({}, words, 32_768, calls)
    assert {d.id for d in drafts if d.kind == "beyond"} == {"beyond-encode-document"}
    assert max(words(draft.text) for draft in drafts) == CAPPED


@given(st.integers(3, 600), st.integers(0, 200))
def test_fit_is_exact_for_a_word_tokenizer(target: int, start: int) -> None:
    assert words(texts.fit(words, target, start)) == target


def test_fit_refuses_what_cannot_be_hit() -> None:
    with pytest.raises(GoldenError, match="exactly 15 tokens"):
        texts.fit(lambda text: 2 * len(text.split()), 15, 0)


def test_drafts_use_prompts_and_titles() -> None:
    prompts = {"query": "q: ", "document": "title: none | text: ", "Other": "q: ", "plain": ""}
    cases = {d.id: d for d in texts.drafts(prompts, words, 128)}
    assert cases["card-query"].prompt == "q: "
    assert cases["card-mars"].prompt == "title: none | text: "
    assert cases["english-titled"].prompt == "title: Sharpening a plane iron | text: "
    assert cases["code-search"].prompt == ""  # names a prompt that this model does not declare
    assert {i for i in cases if i.startswith("prompt-")} == {"prompt-query", "prompt-document"}


def test_drafts_without_prompts_are_bare() -> None:
    assert not any(draft.prompt for draft in texts.drafts({}, words, 128))


def test_lengths_hit_their_targets_with_a_real_tokenizer(minilm: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    drafts = texts.drafts({}, lambda text: len(tokenizer.encode(text).ids), 256)
    counts = {
        d.id: len(tokenizer.encode(d.text).ids) for d in drafts if d.kind in {"length", "beyond"}
    }
    assert counts == {f"length-{n}": n for n in (16, 64, 128, 249, 255, 256, 287)}
