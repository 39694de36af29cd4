"""Five sets of texts: calibration for statistics, corpus for chained rounding, tuning for the
search, golden for the gate, unseen ones for its percentile. None may hold what another holds, and
each must be broad."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

import goldfold.golden.texts as golden_texts
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.frontend.trace import trace
from goldfold.exporter.quantize import texts
from goldfold.exporter.search import tuning
from goldfold.golden.judging import unseen
from tests import models

SHINGLE = 8


def golden_set() -> tuple[str, ...]:
    return (
        *(text.text for text in golden_texts.authored()),
        *golden_texts.sentences(),
        *golden_texts.passages(),
    )


def unseen_set() -> tuple[str, ...]:
    return tuple(one.text for one in unseen.drawn())


SETS: dict[str, Callable[[], tuple[str, ...]]] = {
    "golden": golden_set,
    "calibration": texts.calibration_texts,
    "tuning": tuning.texts,
    "corpus": texts.corpus_texts,
    "unseen": unseen_set,
}
PAIRS = tuple(itertools.combinations(SETS, 2))


def plain(text: str) -> str:
    """What two texts have in common that differ only in width, case or blanks."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def shingles(text: str) -> set[tuple[str, ...]]:
    """Every run of eight words. Runs of one repeated word say nothing."""
    words = re.findall(r"\w+", plain(text))
    runs = (tuple(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1))
    return {run for run in runs if len(set(run)) > 1}


def scripts(texts: tuple[str, ...]) -> set[str]:
    """Writing systems, by the first word of their letters' Unicode names."""
    letters = {c for text in texts for c in text if c.isalpha()}
    return {unicodedata.name(c, "?").split()[0] for c in letters}


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_no_text_stands_in_two_sets(one: str, other: str) -> None:
    assert not set(map(plain, SETS[one]())) & set(map(plain, SETS[other]()))


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_no_run_of_words_stands_in_two_sets(one: str, other: str) -> None:
    runs = [set().union(*map(shingles, SETS[name]())) for name in (one, other)]
    assert len(runs[0]) > 100 and len(runs[1]) > 100
    assert not runs[0] & runs[1]


@pytest.mark.parametrize("name", ["golden", "calibration", "tuning", "corpus"])
def test_no_other_set_holds_one_of_ten_thousand_unseen_texts(name: str) -> None:
    drawn = {plain(one.text) for one in unseen.drawn(unseen.MOST)}
    assert not drawn & set(map(plain, SETS[name]()))


def test_no_other_set_holds_what_is_installed() -> None:
    found = [one.text for one in unseen.installed(200)]
    runs = set().union(*map(shingles, found))
    assert len(runs) > 100
    for name, others in SETS.items():
        assert not set(map(plain, found)) & set(map(plain, others())), name
        assert not runs & set().union(*map(shingles, others())), name


@pytest.mark.parametrize("name", ["calibration", "tuning", "corpus"])
def test_no_text_stands_twice_in_a_set(name: str) -> None:
    texts = SETS[name]()
    assert len(set(map(plain, texts))) == len(texts)


@pytest.mark.parametrize(
    ("name", "least", "most"), [("calibration", 130, 200), ("tuning", 70, 100)]
)
def test_sets_are_broad(name: str, least: int, most: int) -> None:
    texts = SETS[name]()
    assert least <= len(texts) <= most
    assert len(scripts(texts)) >= 25
    assert sum(len(text) <= 3 for text in texts) >= 6
    assert any(len(text) > 350 for text in texts)
    assert any("def " in text or "=>" in text for text in texts)
    assert any(text.startswith(("{", "<")) for text in texts)
    assert any(unicodedata.category(c) in ("Cc", "Cf") for text in texts for c in text)


def test_the_corpus_is_many_times_as_large_as_calibration() -> None:
    many = texts.corpus_texts()
    assert sum(map(len, many)) > 10 * sum(map(len, texts.calibration_texts()))
    assert len(scripts(many)) >= 25
    assert any(len(text) > 350 for text in many)


def test_detectors_see_what_they_look_for() -> None:
    assert plain("…  ＦＵＬＬ\n") == plain("... full")
    long = "one two three four five six seven eight nine"
    assert shingles(long) & shingles(f"so: {long.upper()}!")
    assert not shingles("well " * 40)


def test_sequences_carry_prompts_and_stay_within_the_model(tmp_path: Path) -> None:
    program = trace(open_model(models.build("gemma3", tmp_path / "model")))
    longest = program.contract.max_length
    found = {
        "tuning": tuning.sequences(program),
        "calibration": texts.calibration(program),
        "corpus": texts.corpus(program),
    }
    for ids in itertools.chain.from_iterable(found.values()):
        assert 1 <= len(ids) <= longest
    assert {len(ids) for ids in found["tuning"]} >= {min(120, longest)}
    assert len(found["tuning"]) <= len(tuning.texts()) + 3
