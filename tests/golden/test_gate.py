from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from goldfold.golden import report
from goldfold.golden.compare import Measurement, TokenFault, measure
from goldfold.golden.errors import GoldenError
from goldfold.golden.gate import GATES, judge, judge_losses
from goldfold.golden.metrics import RETRIEVAL, Metric
from goldfold.golden.store import Goldens
from tests.golden.golden_toys import goldens_of


def measured(goldens: Goldens, embeddings: np.ndarray) -> Measurement:
    return measure(lambda ids, mask: embeddings[ids[:, 0] - 1], goldens)


def turned(goldens: Goldens, row: int, distance: float) -> np.ndarray:
    """The goldens in f64 with one row turned to a 1-cos of `distance`, norms kept."""
    out = goldens.embeddings.astype(np.float64)
    norm = np.linalg.norm(out[row])
    across = np.random.default_rng(1).standard_normal(out.shape[1])
    across -= out[row] * (across @ out[row]) / norm**2
    across *= norm / np.linalg.norm(across)
    angle = 2.0 * math.asin(math.sqrt(distance / 2.0))
    out[row] = math.cos(angle) * out[row] + math.sin(angle) * across
    return out


def test_the_goldens_themselves_pass_everywhere(toy: Goldens) -> None:
    for precision in GATES:
        verdict = judge(measured(toy, toy.embeddings), [], precision, toy)
        assert verdict.passed and verdict.sentences == ()


@pytest.mark.parametrize("precision", GATES)
def test_the_limit_separates(toy: Goldens, precision: str) -> None:
    worst = GATES[precision].worst
    assert judge(measured(toy, turned(toy, 4, 0.99 * worst)), [], precision, toy).passed
    verdict = judge(measured(toy, turned(toy, 4, 1.01 * worst)), [], precision, toy)
    assert not verdict.passed and len(verdict.sentences) == 2
    assert all("text-4" in reason and precision in reason for reason in verdict.sentences)
    assert "(alone)" in verdict.sentences[0] and "(padded)" in verdict.sentences[1]


@given(st.floats(1e-9, 1.0), st.integers(0, 2**32 - 1))
def test_similarities_stay_within_what_is_derived(distance: float, seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((4, 6))
    goldens = goldens_of(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    found = measured(goldens, turned(goldens, seed % 4, distance))
    # 1e-12 covers the f64 rounding of the products themselves.
    assert found.similarity_alone <= 2.0 * math.sqrt(2.0 * found.worst) + 1e-12


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_non_finite_number_fails(toy: Goldens, value: float) -> None:
    broken = toy.embeddings.copy()
    broken[2, 3] = value
    verdict = judge(measured(toy, broken), [], "bf16", toy)
    assert "The embedding of text-2 (alone) is not finite, or zero." in verdict.sentences


def test_two_swapped_texts_fail(toy: Goldens) -> None:
    order = [0, 2, 1, *range(3, 9)]
    verdict = judge(measured(toy, toy.embeddings[order]), [], "bf16", toy)
    assert not verdict.passed
    assert {"text-1", "text-2"} <= {reason.split()[2] for reason in verdict.sentences}


def test_a_changed_norm_fails_although_every_cosine_is_one(toy: Goldens) -> None:
    verdict = judge(measured(toy, 1.001 * toy.embeddings.astype(np.float64)), [], "bf16", toy)
    assert not verdict.passed
    assert all("norm" in reason for reason in verdict.sentences)


def test_norms_of_f32_normalisation_pass() -> None:
    rows = np.random.default_rng(3).standard_normal((5, 768)).astype(np.float32)
    goldens = goldens_of(rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64)))
    assert not judge(measured(goldens, rows), [], "fp32", goldens).passed
    unit = rows / np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    exact = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    goldens = goldens_of(exact)
    assert judge(measured(goldens, unit), [], "fp32", goldens).passed


def test_free_norms_may_err_along_as_far_as_across() -> None:
    rows = 5.0 * np.random.default_rng(5).standard_normal((6, 16))
    goldens = goldens_of(rows, normalized=False)
    limit = math.sqrt(2.0 * GATES["fp16"].worst)
    exact = goldens.embeddings.astype(np.float64)
    assert judge(measured(goldens, (1 + 0.99 * limit) * exact), [], "fp16", goldens).passed
    assert not judge(measured(goldens, (1 + 1.01 * limit) * exact), [], "fp16", goldens).passed


def test_token_drift_fails_whatever_the_embeddings_say(toy: Goldens) -> None:
    fault = TokenFault("text-3", 2, (4, 4), ())
    verdict = judge(measured(toy, toy.embeddings), [fault], "fp32", toy)
    assert verdict.sentences == (
        "The tokens of text-3 differ from position 2 on: expected 4 4, found the end.",
    )


def test_missing_extra_doubled_foreign_and_empty_measurements_fail(toy: Goldens) -> None:
    full = measured(toy, toy.embeddings)
    for rows, says in (
        (full.rows[:-1], "1 golden texts were not measured, among them text-8."),
        ((*full.rows, full.rows[0]), "doubled, among them text-0."),
        ((), "Nothing was measured."),
    ):
        verdict = judge(replace(full, rows=rows), [], "bf16", toy)
        assert not verdict.passed and says in verdict.sentences[0]
    assert not judge(replace(full, model="other"), [], "bf16", toy).passed


def test_unknown_precisions_have_no_gate(toy: Goldens) -> None:
    with pytest.raises(GoldenError, match="'fp64'; known: fp32, fp16, bf16"):
        judge(measured(toy, toy.embeddings), [], "fp64", toy)


def test_report_shows_verdicts_and_reasons(toy: Goldens) -> None:
    good, bad = measured(toy, toy.embeddings), measured(toy, turned(toy, 4, 0.1))
    rows = [
        report.Row("onnxruntime-fp32", 1_234_567, 2.5, good, judge(good, [], "fp32", toy)),
        report.Row("openvino-[fp16]", 617, 61.0, bad, judge(bad, [], "fp16", toy)),
    ]
    console = Console(file=io.StringIO(), width=140)
    console.print(report.table(rows))
    console.print(report.reasons(rows, most=1))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1.2 MB" in text and "617 B" in text and "PASS" in text and "FAIL" in text
    assert "openvino-[fp16] failed its gate:" in text and "1-cos of text-4 (alone)" in text
    assert "onnxruntime-fp32 failed" not in text and "more." in text


def test_a_verdict_is_one_of_three(toy: Goldens) -> None:
    good, bad = measured(toy, toy.embeddings), measured(toy, turned(toy, 4, 0.1))
    stood = {"stand_in": "its\nprogram", "not_run": "not run on its device: no [device]"}
    proved = replace(judge(good, [], "fp32", toy), **stood)
    failed = replace(judge(bad, [], "fp32", toy), **stood)
    passed = judge(good, [], "fp32", toy)
    found = [(one.status, one.word, one.passed) for one in (passed, proved, failed)]
    assert found == [
        ("passed", "PASS", True),
        ("proved", "PROVED", True),
        ("failed", "FAIL", False),  # whatever stood in
    ]
    also = proved.also(failed.reasons[0], head="h")
    assert (also.status, also.stand_in, also.not_run) == ("failed", *stood.values())
    rows = [report.Row("a", 1, 1.0, good, one) for one in (passed, proved, failed)]
    assert report.proofs(rows) == ["a: proved by its program; not run on its device: no [device]"]
    cells = list(report.table(rows).columns[-1].cells)
    assert [str(cell) for cell in cells] == ["PASS", "PROVED", "FAIL"]
    assert ["green" in str(cell.style) for cell in cells] == [True, False, False]  # type: ignore[union-attr]
    (texts,) = (one for one in report.table(rows).columns if one.header == "texts")
    assert set(texts.cells) == {str(len(toy.cases))}


@pytest.mark.parametrize("name", ["onnxruntime-fp32", "onnxruntime-int8-weights"])
def test_a_table_cuts_nothing_off_in_eighty_columns(toy: Goldens, name: str) -> None:
    good = measured(toy, toy.embeddings)
    verdict = replace(judge(good, [], "fp32", toy), stand_in="s", not_run="n")
    console = Console(file=io.StringIO(), width=80)
    console.print(report.table([report.Row(name, 618_300_000, 61.0, good, verdict)]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text and f"{name} 618.3 MB" in text and "PROVED" in text


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (5 * 10**12, "5000.0 GB")],
)
def test_sizes(size: int, shown: str) -> None:
    assert report.human_size(size) == shown


def lost(upper: float | None, dims: int = 768, name: str = RETRIEVAL, reference: float = 0.7):
    return Metric(name, dims, reference, reference, 0.0, upper, 3000)


def test_what_is_promised_of_retrieval_is_what_the_gate_holds() -> None:
    promised = {"int8-weights": 0.003, "int8": 0.005, "int4": 0.015}
    assert {name: own.loss for name, own in GATES.items() if own.loss is not None} == promised
    for precision, limit in promised.items():
        good = [lost(0.99 * limit), lost(-0.1, 256)]
        assert judge_losses(good, precision) == ()
        for dims in (768, 256):  # either size misses alone
            (reason,) = judge_losses([*good, lost(1.01 * limit, dims)], precision)
            assert f"at {dims} dims" in reason.sentence and f"{limit:.2%}" in reason.sentence


@pytest.mark.parametrize("upper", [None, math.nan, math.inf])
def test_a_loss_that_is_no_number_is_over_the_limit(upper: float | None) -> None:
    assert len(judge_losses([lost(upper)], "int8")) == 1


def test_no_retrieval_holds_no_limit_and_the_rest_bounds_nothing() -> None:
    (reason,) = judge_losses([lost(0.0, name="Lee corpus, Pearson")], "int8")
    assert "not judged" in reason.sentence
    assert judge_losses([lost(0.0), lost(0.9, name="Lee corpus, Pearson")], "int8") == ()
    (reason,) = judge_losses([lost(0.0, reference=0.0)], "int8")
    assert "finds nothing" in reason.sentence
    assert judge_losses([lost(0.9)], "small") == judge_losses([], "fp32") == ()
    with pytest.raises(GoldenError, match="int3"):
        judge_losses([], "int3")
