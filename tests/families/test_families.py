"""Every family through every target in fp32 and fp16, and docs/families.md says what was seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from goldfold.golden.tasks import MULTI
from tests.families import measure, page
from tests.families.families import FAMILIES, Family
from tests.families.tasks import SHOWN, Model, task_of


@pytest.mark.parametrize("family", SHOWN, ids=lambda family: family.kind)
def test_a_family_passes_everywhere_as_the_page_says(
    family: Family | Model, tmp_path: Path
) -> None:
    shown = measure.show(family, tmp_path)
    assert shown.figures.keys() == {(t, p) for t in measure.here() for p in measure.PRECISIONS}
    reads = task_of(family) != MULTI and "coreml" in measure.here()  # Swift's knows one vector
    assert any((tmp_path / "out").rglob("GoldfoldEncoder.swift")) == reads
    rows = {(row.task, row.name): row for row in page.parse(page.PAGE.read_text("utf-8"))}
    kept = rows.get((task_of(family), family.name))
    found = page.faults(family, shown, kept, measure.here())
    if found:
        lines = "\n".join(f"  {fault}" for fault in found)
        pytest.fail(
            f"docs/families.md is stale for {family.name}; make pages\n{lines}", pytrace=False
        )


def test_nothing_on_the_page_is_written_by_hand() -> None:
    text = page.PAGE.read_text("utf-8")
    rows = page.parse(text)
    assert [(row.task, row.name) for row in rows] == [(task_of(f), f.name) for f in SHOWN]
    assert page.render(rows) == text


@pytest.mark.parametrize(
    ("measured", "precision", "claim"),
    [
        (3e-14, "fp32", 1e-12),
        (9.9e-14, "fp32", 1e-12),
        (4e-7, "fp16", 1e-5),
        (3e-6, "fp16", 2e-5),
        (0.0, "fp32", 0.0),
    ],
)
def test_a_figure_is_a_bound_with_room(measured: float, precision: str, claim: float) -> None:
    assert page.claim(measured, precision) == pytest.approx(claim)


def test_a_page_that_is_wrong_is_told_so() -> None:
    (kept, *_) = page.parse(page.PAGE.read_text("utf-8"))
    figures = page.claimed(kept)
    worse = {**figures, ("openvino", "fp16"): 3e-5}
    shown = measure.Shown(worse, {}, (), {}, {}, {})
    assert page.faults(FAMILIES[0], shown, None, measure.here()) == ["there is no row for BERT"]
    (bound,) = page.faults(FAMILIES[0], shown, kept, ())
    assert bound.startswith("openvino in fp16 is off by 3.0e-05, the page says at most ")
    said = page.faults(FAMILIES[0], shown, kept, page.SHOWN)
    assert any(fault.startswith("attention: now 'none', not ") for fault in said)
    assert any(fault.startswith("no longer: applied: ") for fault in said)


def test_the_llama_sees_both_ways(tmp_path: Path) -> None:
    """In its file alone: changing the last token moves the first token's vector."""
    from sentence_transformers import SentenceTransformer

    (family,) = (family for family in FAMILIES if family.kind == "llama")
    model = SentenceTransformer(str(family.build(tmp_path / "llama")), device="cpu")
    ids = torch.tensor([[2, 9, 17, 30, 1], [2, 9, 17, 30, 5]])
    with torch.no_grad():
        tokens = model[0]({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    first = tokens["token_embeddings"][:, 0]
    assert (first[0] - first[1]).abs().max() > 1e-2
