"""Unseen texts: the same everywhere, of many scripts and kinds; and what their figures mean."""

from __future__ import annotations

import math
import random
import unicodedata

import numpy as np
import pytest
from scipy.stats import binom

from goldfold.golden.errors import GoldenError
from goldfold.golden.gate import GATES
from goldfold.golden.judging import installed, unseen
from goldfold.golden.judging.order_statistics import least, percentile, ranks
from goldfold.golden.judging.scripts import SCRIPTS
from goldfold.golden.judging.unseen import MOST, Unseen, distances, drawn, figures, judge
from goldfold.golden.judging.unseen_kinds import KINDS

DIGEST = "268b0715956daea7c03498f4245b269913f09d88ee9b22e57c9d9a47ef412dea"


def test_a_thousand_texts_are_the_same_under_every_version() -> None:
    texts = drawn(1000, seed=0)
    assert unseen.digest(texts) == DIGEST
    assert drawn(100, seed=0) == texts[:100]
    assert drawn() == texts
    assert unseen.digest(drawn(1000, seed=1)) != DIGEST
    assert len(drawn(MOST)) == MOST


def test_texts_are_of_every_kind_and_can_be_embedded() -> None:
    texts = drawn()
    kinds = {one.kind for one in texts}
    assert kinds >= set(KINDS)
    assert sum(kind.startswith("script:") for kind in kinds) >= 40
    assert kinds - set(KINDS) <= {f"script:{one.name}" for one in SCRIPTS}
    for one in drawn(MOST):
        one.text.encode()  # no half of a character
        assert one.text.strip() and len(one.text) < 8000
    by_kind = {kind: [one.text for one in texts if one.kind == kind] for kind in KINDS}
    assert max(map(len, by_kind["short"])) <= 2
    assert min(len(text.split()) for text in by_kind["long"] if " " in text) > 20
    assert any("\u200d" in text for text in by_kind["emoji"])
    assert all(any(unicodedata.category(c) == "Co" for c in t) for t in by_kind["private-use"])
    assert all(any(unicodedata.category(c) == "Mn" for c in t) for t in by_kind["combining"])
    marks = [{unicodedata.category(c) for c in text} for text in by_kind["controls"]]
    assert all(found & {"Cc", "Cf", "Cn", "So"} for found in marks)


def test_letters_are_those_of_their_scripts() -> None:
    assert len({one.name for one in SCRIPTS}) == len(SCRIPTS) >= 60
    for one in SCRIPTS:
        assert len(one.letters) >= 10
        for letter in (*one.letters, *one.marks):
            name = unicodedata.name(letter, "unassigned")
            assert name.replace("-", " ").split()[0] == one.name.upper(), (one.name, name)


def test_installed_texts_are_those_of_the_installation() -> None:
    texts = unseen.installed(30, seed=0)
    assert texts == unseen.installed(30, seed=0)
    assert texts != unseen.installed(30, seed=1)
    assert {one.kind for one in texts} >= {"docstrings", "metadata"}
    assert len(texts) <= 30 and all(len(one.text.split()) >= 4 for one in texts)


def test_a_manual_page_is_read_as_prose() -> None:
    page = '.SH NAME\nx \\- \\fBgo\\fR there\n.\\" aside\nand back\\&.\n.PP\nIt is \\(aqso\\(aq.\n'
    paragraphs = [text.strip() for text in installed._plain(page).split("\n\n") if text.strip()]
    assert paragraphs == ["x - go there", "and back.", "It is 'so'."]


@pytest.mark.parametrize("count", [0, -1, MOST + 1])
def test_a_count_that_cannot_be_drawn_is_refused(count: int) -> None:
    for draw in (drawn, unseen.installed):
        with pytest.raises(GoldenError, match=f"^{count} unseen texts cannot be drawn"):
            draw(count)


# --- the percentile


def test_three_thousand_texts_bound_the_percentile_by_their_worst() -> None:
    assert least() == 2995
    for count, worst in ((3000, 2999.0), (2995, 2994.0), (2994, None), (1000, None), (1, None)):
        assert percentile([float(i) for i in range(count)]).upper == worst, count
    found = percentile([float(i) for i in range(MOST)])
    assert found.value == 9989 and found.upper is not None and found.lower is not None
    assert found.lower < found.value < found.upper < MOST - 1


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("count", [1, 20, 700, 4000])
def test_ends_are_the_tightest_that_the_binomial_allows(share: float, count: int) -> None:
    lower, upper = ranks(count, share, 0.95)
    at_least = binom.sf(np.arange(-1, count), count, share)  # P(at least k), k = 0 …
    assert lower == np.flatnonzero(at_least >= 0.95).max()
    at_most = binom.cdf(np.arange(count), count, share)
    assert upper == (1 + np.flatnonzero(at_most >= 0.95).min() if at_most[-1] >= 0.95 else 0)


def test_ends_hold_as_often_as_they_say() -> None:
    """For 1−cos of a heavy tail whose percentile is known, and for one with ties."""
    generator, runs = np.random.default_rng(5), 1500
    for draw, truth in (
        (lambda: np.exp(2 * generator.standard_normal(3100)), math.exp(2 * 3.090232306167813)),
        (lambda: generator.choice([0.0, 1.0, 7.0], 3100, p=[0.5, 0.4985, 0.0015]), 7.0),
    ):
        found = [percentile(draw().tolist()) for _ in range(runs)]
        # Three standard errors below 95 %.
        fewest = runs * 0.95 - 3 * math.sqrt(runs * 0.95 * 0.05)
        assert sum(one.lower is not None and one.lower <= truth for one in found) >= fewest
        assert sum(one.upper is not None and one.upper >= truth for one in found) >= fewest
        assert any(one.value < truth for one in found)  # the estimate alone promises nothing


def test_no_values_and_no_share_are_refused() -> None:
    for values, share in (([], 0.9), ([1.0], 1.0), ([1.0], 0.0)):
        with pytest.raises(GoldenError, match="no percentile"):
            percentile(values, share)


# --- figures and their gate


def test_figures_are_of_all_texts_and_of_each_kind() -> None:
    kinds = ["words"] * 990 + ["emoji"] * 9 + ["noise"]
    found = figures([1e-4] * 990 + [2e-4] * 9 + [5e-4], kinds)
    assert (found.texts, found.worst, found.worst_kind, found.worst_number) == (
        1000, 5e-4, "noise", 999,
    )  # fmt: skip
    assert found.percentile.value == 2e-4 and found.percentile.upper is None
    assert [one.kind for one in found.kinds] == ["noise", "emoji", "words"]
    assert [one.texts for one in found.kinds] == [1, 9, 990]
    assert found.mean == pytest.approx(1.013e-4)


def test_what_is_no_number_is_infinite() -> None:
    for odd in (math.nan, math.inf, -math.inf):
        found = figures([1e-4, odd], ["a", "b"])
        assert math.isinf(found.worst) and found.worst_kind == "b" and math.isinf(found.mean)
    rows = np.array([[1.0, 0.0], [0.0, 0.0], [np.nan, 1.0], [2.0, 0.0]])
    assert distances(rows, np.array([[3.0, 0.0]] * 4)).tolist() == [0, math.inf, math.inf, 0]
    for values, kinds in (([], []), ([1.0], ["a", "b"])):
        with pytest.raises(GoldenError, match="texts"):
            figures(values, kinds)


def test_the_percentile_and_the_mean_are_held_to_the_gate() -> None:
    limit, mean = GATES["int8"].worst, GATES["int8"].mean
    assert mean is not None
    good = [mean / 2] * 2000
    assert judge(figures(good, ["words"] * 2000), "int8") == ()
    outliers = [mean / 2] * 1998 + [10 * limit] * 2
    assert judge(figures(outliers, ["words"] * 2000), "int8") == ()  # 2 of 2,000 are 0.1 %
    kinds = ["words"] * 1997 + ["emoji", "noise", "script:thai"]
    (reason,) = judge(figures([mean / 2] * 1997 + [2 * limit] * 3, kinds), "int8")
    assert reason.kind == "unseen" and reason.value == 2 * limit and reason.limit == limit
    assert reason.sentence == (
        "The 99.9th percentile of 1-cos over 2,000 unseen texts, in emoji, noise, script:thai, is "
        "1.00e-02, over the int8 limit of 5e-03."
    )
    (reason,) = judge(figures([1.5 * mean] * 2000, ["words"] * 2000), "int8")
    assert reason.sentence.startswith("The mean of 1-cos over 2,000 unseen texts is 1.50e-03, over")
    assert judge(figures([1e-9] * 9, ["words"] * 9), "fp32") == ()  # no limit of the mean
    (reason,) = judge(figures([math.nan] * 9, list("abcdefghi")), "fp16")
    assert "in a, b, c and 6 kinds more, is not finite" in reason.sentence


def test_a_text_is_named_shortly_and_in_ascii() -> None:
    text = "".join(chr(random.Random(1).randrange(0x900, 0x930)) for _ in range(300))
    said = unseen.named(Unseen("script:thai", text), 17)
    assert said.startswith("unseen text 17 (script:thai: '\\u09") and said.isascii()
    assert len(said) < 300
