"""The cut of a tokenizer's vocabulary: what stays, what is refused, and that a fault is found."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import regex
from tokenizers import Tokenizer

from goldfold.exporter.errors import RewriteError, UsageError
from goldfold.exporter.frontend import (
    characters,
    normal_forms,
    vocabulary,
    vocabulary_corpus,
    vocabulary_drawn,
    vocabulary_kinds,
)
from tests.exporter.model import tokenizers_of
from tests.exporter.model.tokenizers_of import KINDS, trained

IDS = 20_000
"""Drawn ids per tokenizer and set here; benchmarks/vocabulary.py draws a million."""
SETS = (("latin",), ("han", "hiragana", "katakana"), ("hangul", "cyrillic"))


@cache
def latin(kind: str) -> vocabulary.Cut:
    return vocabulary.by_scripts(trained(kind), ("latin",))


def plain(text: str) -> Tokenizer:
    return Tokenizer.from_str(text)


# --- characters


def test_characters_of_scripts_are_those_of_another_library() -> None:
    found = characters.of_scripts(("latin",))
    latin = regex.compile(r"[\p{Script=Latin}\p{Script=Common}\p{Script=Inherited}]")
    both = [one for one in map(chr, range(0x110000)) if regex.match(r"\p{Assigned}", one)]
    wrong = [
        one
        for one in both
        if one in characters.assigned() and bool(latin.match(one)) != (one in found)
    ]
    assert not wrong
    assert {"a", "é", "ﬁ", "0", " ", "\u0301", "\u200d", "😀", "。"} <= found
    assert not {"ж", "漢", "\u0378"} & found


def test_ranges_say_the_set() -> None:
    from goldfold.exporter.contract import spans_of

    found = characters.of_scripts(("greek",))
    starts, ends = spans_of(characters.ranges(found))
    assert sum(b - a + 1 for a, b in zip(starts, ends, strict=True)) == len(found)
    assert all(chr(a) in found and chr(b) in found for a, b in zip(starts, ends, strict=True))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("latni", "did you mean latin?"),
        ("cyrilic", "did you mean cyrillic?"),
        ("", "no script of Unicode"),
        ("common", "no script of Unicode"),
    ],
)
def test_unknown_script_is_refused(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        characters.canonical([name])


def test_names_are_those_of_unicode() -> None:
    assert characters.canonical([" Latin", "Grek", "old-italic"]) == (
        "greek",
        "latin",
        "old_italic",
    )


# --- the proof


@pytest.mark.parametrize("scripts", SETS, ids="-".join)
@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_drawn_texts_stay(kind: str, scripts: tuple[str, ...]) -> None:
    cut = vocabulary.by_scripts(trained(kind), scripts)
    assert len(cut.kept) < cut.of
    assert vocabulary_drawn.compare(trained(kind), cut, IDS) >= IDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_too_few_is_found(kind: str) -> None:
    """The drawn texts see what the proof forbids: one common token is left out."""
    settings = json.loads(trained(kind))
    whole = latin(kind)
    read = plain(trained(kind))
    known = read.encode("the", add_special_tokens=False).ids
    token = read.id_to_token(known[0])
    kept = [read.id_to_token(int(id_)) for id_ in whole.kept]
    lacking = vocabulary.cut_to(settings, [one for one in kept if one != token])
    if token in plain(lacking.tokenizer).get_vocab():
        pytest.skip(f"{token!r} is a part of another")
    with pytest.raises(RewriteError, match="other tokens than the source's"):
        vocabulary_drawn.compare(trained(kind), replace(lacking, inside=whole.inside), IDS)


@pytest.mark.parametrize("kind", ["bpe", "bytes", "prefixed"])
def test_parts_of_every_kept_merge_are_kept(kind: str) -> None:
    model = json.loads(trained(kind))["model"]
    cut = json.loads(latin(kind).tokenizer)["model"]
    kept = [m for m in vocabulary_kinds.merges(model) if m[2] in cut["vocab"]]
    assert kept and all(part in cut["vocab"] for merge in kept for part in merge)
    assert list(vocabulary_kinds.merges(cut)) == kept  # in their order


def test_a_merge_whose_result_is_special_keeps_its_parts() -> None:
    settings = json.loads(trained("bpe"))
    odd = next(m for m in vocabulary_kinds.merges(settings["model"]) if "ж" in m[2] or "и" in m[2])
    id_ = settings["model"]["vocab"][odd[2]]
    cut = vocabulary.by_scripts(trained("bpe"), ("latin",), fixed=[id_])
    known = plain(cut.tokenizer).get_vocab()
    assert {*odd} <= known.keys()


def test_bytes_and_special_tokens_stay() -> None:
    known = plain(vocabulary.by_scripts(trained("bpe"), ("hangul",)).tokenizer).get_vocab()
    assert {*tokenizers_of.GEMMA} <= known.keys()
    letters = vocabulary_kinds._byte_letters()
    known = plain(vocabulary.by_scripts(trained("bytes"), ("hangul",)).tokenizer).get_vocab()
    assert {*letters} <= known.keys() and len({*letters}) == 256


def test_added_tokens_stay_where_a_text_can_spell_them() -> None:
    cut = latin("bpe")
    added = {one.content for one in plain(cut.tokenizer).get_added_tokens_decoder().values()}
    assert "state-of-the-art" in added and "мир!" not in added


def test_ids_are_dense_and_every_place_that_names_one_follows() -> None:
    text = trained("unigram")
    settings = json.loads(text)
    first = next(p for p, _ in settings["model"]["vocab"] if "и" in p)
    settings["padding"] = {
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 1, "pad_type_id": 0, "pad_token": "<pad>",
    }  # fmt: skip
    cut = vocabulary.by_scripts(json.dumps(settings), ("latin",))
    made = plain(cut.tokenizer)
    assert sorted(made.get_vocab().values()) == list(range(len(cut.kept)))
    assert made.token_to_id(first) is None
    assert made.encode("a").ids[0] == made.token_to_id("<s>")
    assert made.padding["pad_id"] == made.token_to_id("<pad>")
    old = plain(text).encode("to be or not to be").ids
    assert cut.renumbered(old) == tuple(made.encode("to be or not to be").ids)
    assert cut.renumbered([plain(text).token_to_id(first)]) is None


def test_unigram_keeps_a_piece_of_the_least_score() -> None:
    """The score of the unknown token is the least score of all pieces, less ten."""
    settings = json.loads(trained("unigram"))
    vocab = settings["model"]["vocab"]
    at = next(i for i, (piece, _) in enumerate(vocab) if "и" in piece and len(piece) > 2)
    vocab[at][1] = -100.0
    text = json.dumps(settings)
    cut = vocabulary.by_scripts(text, ("latin",))
    assert vocab[at][0] in plain(cut.tokenizer).get_vocab()
    assert vocabulary_drawn.compare(text, cut, IDS)


# --- normalisers


def test_normal_forms_are_closed() -> None:
    """What a normaliser makes of drawn texts of a set lies in what `reached` says."""
    for kind in KINDS:
        settings = json.loads(trained(kind))
        inside = characters.of_scripts(("latin",))
        reached = normal_forms.reached(settings, inside)
        run = normal_forms.normaliser(settings)
        draws = random.Random(3)
        letters = sorted(inside)
        marks = [one for one in letters if 0x300 <= ord(one) < 0x370]
        for _ in range(5_000):
            text = "".join(draws.choices(letters, k=3) + draws.choices(marks, k=2))
            assert reached.issuperset(run(text)), (kind, ascii(text))


def test_composites_are_reached() -> None:
    settings = {"normalizer": {"type": "NFC"}}
    jamo = frozenset("\u1100\u1161")
    assert "\uac00" in normal_forms.reached(settings, jamo)
    assert "\u1e69" in normal_forms.reached(settings, frozenset("s\u0323\u0307"))


def test_precompiled_map_is_read_as_the_library_reads_it() -> None:
    part = {
        "type": "Precompiled",
        "precompiled_charsmap": tokenizers_of.charsmap(tokenizers_of.NFKC),
    }
    assert dict(normal_forms._mappings(part["precompiled_charsmap"])) == tokenizers_of.NFKC
    run = normal_forms.normaliser({"normalizer": part})
    assert run("ﬁ½Ж") == "fi1/2ж"
    assert normal_forms.reached({"normalizer": part}, frozenset("Ж")) == frozenset("Жж")
    assert "á" in normal_forms.reached({"normalizer": part}, frozenset("a\u0301"))


def test_characters_that_are_mapped_into_the_set_are_said() -> None:
    (said,) = vocabulary.by_scripts(trained("unigram"), ("greek",)).notes
    assert "outside of the set into it, first U+00AA" in said  # ⒜, which is Common, needs a


# --- what cannot be cut


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"type": "Magic", "vocab": {}}}, "of the kind 'Magic'"),
        ({"model": {"type": "BPE", "vocab": {}, "merges": [], "dropout": 0.1}}, "by chance"),
        ({"normalizer": {"type": "Rot13"}}, "the normaliser 'Rot13'"),
        ({"pre_tokenizer": {"type": "Oracle"}}, "the pre-tokenizer 'Oracle'"),
        (
            {"normalizer": {"type": "Sequence", "normalizers": [
                {"type": "ByteLevel"}, {"type": "Lowercase"}]}},
            "what it has written as bytes",
        ),
    ],
)  # fmt: skip
def test_tokenizer_without_a_proof_is_refused(change: dict, said: str) -> None:
    text = json.dumps({**json.loads(trained("bpe")), **change})
    with pytest.raises(UsageError, match=said):
        vocabulary.by_scripts(text, ("latin",))


# --- a corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "corpus.txt"
    file.write_text("\n".join(tokenizers_of.lines()), encoding="utf-8")
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_texts_of_kept_tokens_keep_them(kind: str, corpus: Path) -> None:
    text = trained(kind)
    lines = corpus.read_text("utf-8").split("\n")
    few = corpus.with_name("few.txt")
    few.write_text("\n".join([*lines[::2], *lines[1::2][:300]]), encoding="utf-8")
    cut, held = vocabulary_corpus.by_corpus(text, few)
    assert len(cut.kept) < cut.of and cut.inside == frozenset()
    old, new = plain(text), plain(cut.tokenizer)
    unknown = vocabulary_kinds.unknown(json.loads(text))
    same = 0
    for line in lines:
        ids = old.encode(line).ids
        kept = cut.renumbered(ids)
        if kept is None or unknown in ids:
            continue
        same += 1
        assert list(kept) == new.encode(line).ids
    assert same > 100
    assert 0 < held.same <= len(held.lines) and held.kept <= held.ids
    assert cut.notes == (held.sentence,)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "holds 0 lines of text, and needs 5 or more"),
        (b"\n \n\n", "holds 0 lines"),
        (b"fine\n\xff\xfe\nfine\n", "line 2 is not UTF-8"),
        (b"a\nb\nc\nd\ne\nf\n", r"leaves [\d,]+ of 4,002 tokens, fewer than 1,000"),
    ],
)
def test_file_that_is_no_corpus_is_refused(raw: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "corpus.txt"
    file.write_bytes(raw)
    with pytest.raises(UsageError, match=said):
        vocabulary_corpus.by_corpus(trained("wordpiece"), file)


def test_corpus_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        vocabulary_corpus.by_corpus(trained("bpe"), tmp_path / "none.txt")


def test_digest_is_of_the_kept_ids() -> None:
    cut = latin("bpe")
    again = vocabulary.by_scripts(trained("bpe"), ("latin",))
    assert cut.digest == again.digest == vocabulary.digest(np.array(cut.kept))
    assert cut.digest != vocabulary.by_scripts(trained("bpe"), ("greek",)).digest
