"""The drawn texts are the same everywhere, of every kind, and find what differs in a tokenizer."""

from __future__ import annotations

import hashlib
import json

import pytest

from goldfold.golden import source_record, token_texts
from goldfold.golden.errors import GoldenError
from goldfold.golden.source_record import SourceRecord, contract_faults
from goldfold.golden.token_texts import COUNT, drawn
from goldfold.golden.tokenizer_file import TokenizerFile, digest, first_difference

WORDS = ["\u2581the", "ing", "<0x41>", "<0x0A>", "\u6cb3", "a", "b", "Zwei", "<pad>", "<eos>"]
SPECIAL = ["<pad>", "<eos>"]
DIGEST = "4a83d84cbc72cf47"


def test_ten_thousand_different_texts_follow_from_the_vocabulary_alone() -> None:
    found = drawn(WORDS, SPECIAL)
    assert len(found) == len(set(found)) == COUNT == 10_000
    assert found == drawn(reversed(WORDS), reversed(SPECIAL))
    assert found != drawn(WORDS[1:], SPECIAL)
    assert hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16] == DIGEST


def test_every_kind_of_text_is_among_them() -> None:
    found = drawn(WORDS, SPECIAL)
    for text in (
        "", "a", "\t", "\x00", "<0x41>", "in <0x0A>word", "<eos>", "in<eos>words", "\u200d",
        "e\u0301x", "a" * 240, "\U0001f468\u200d\U0001f469\u200d\U0001f467", "a\u3000b",
    ):  # fmt: skip
        assert text in found, text
    assert sum("\u200d" in text for text in found) > 200
    assert sum("<eos>" in text for text in found) > 200
    assert sum(any(0x590 < ord(one) < 0x700 for one in text) for text in found) > 200
    assert sum(text != text.lower() and text != text.upper() for text in found) > 1000
    assert all(len(text) <= 480 and not any(map(is_half, text)) for text in found)


def is_half(one: str) -> bool:
    return 0xD800 <= ord(one) < 0xE000


def test_a_small_vocabulary_ends() -> None:
    assert len(drawn(["a"], [], 300)) == 300
    assert token_texts.drawn(["a"], [], 0) == []


def wordpieces(vocabulary: dict[str, int]) -> TokenizerFile:
    model = {
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": vocabulary,
    }  # fmt: skip
    parts = ("truncation", "padding", "normalizer", "post_processor", "decoder")
    said = {"version": "1.0", **dict.fromkeys(parts), "added_tokens": [], "model": model}
    return TokenizerFile(json.dumps({**said, "pre_tokenizer": {"type": "Whitespace"}}))


def test_digests_and_differences_see_one_id() -> None:
    one = wordpieces({"[UNK]": 0, "ship": 1, "##s": 2, "moon": 3})
    other = wordpieces({"[UNK]": 0, "ship": 3, "##s": 2, "moon": 1})
    assert one.vocabulary == {0: "[UNK]", 1: "ship", 2: "##s", 3: "moon"}
    assert one.spelt[1] == "ship" and one.id_of("moon") == 3 and one.id_of("sun") is None
    texts = ["ships", "the moon", ""]
    assert one.made(texts) == {"ships": (1, 2), "the moon": (0, 3), "": ()}
    assert digest(one.made(texts)) == digest(one.made(texts)) != digest(other.made(texts))
    assert digest({"a": (1,), "b": ()}) != digest({"a": (), "b": (1,)})
    assert first_difference(one.made(texts), one.made(texts)) is None
    assert first_difference(one.made(texts), dict.fromkeys(texts)) is None  # nobody was asked
    said = first_difference(one.made(texts), other.made(texts))
    assert said == "2 of 3 texts other ids, first 'ships' from token 0 on: expected 1 2, found 3 2"


@pytest.mark.parametrize("raw", [b"", b"{}", b"\xff", b"[]"])
def test_a_file_that_is_no_tokenizer_is_named(raw: bytes) -> None:
    with pytest.raises(GoldenError, match=r"tokenizer\.json that cannot be read"):
        TokenizerFile(raw)


def test_a_record_comes_back_as_it_was(tmp_path) -> None:
    assert source_record.load(tmp_path) is None
    record = SourceRecord("f", {"pad_id": 0, "prompts": {"q": "ü: "}}, "t", "d", "1", {"x": "y"})
    source_record.save(record, tmp_path)
    assert source_record.load(tmp_path) == record
    (tmp_path / "source.json").write_bytes(b" " * (5 << 20))
    with pytest.raises(GoldenError, match="larger than 4 MiB"):
        source_record.load(tmp_path)


def test_fields_of_a_contract_that_differ_are_named() -> None:
    proved = {"pad_id": 0, "prompts": {"q": "a: "}, "heads": [], "dim": 4}
    assert not list(contract_faults(dict(proved), proved))
    assert list(contract_faults({**proved, "pad_id": 3, "more": True}, proved)) == [
        "The manifest says more true; the source says null.",
        "The manifest says pad_id 3; the source says 0.",
    ]
    assert list(contract_faults({**proved, "pad_id": False}, proved))  # 0 == False in Python
