"""`--max-length`: shorter texts, fewer kinds of attention, smaller tables, the same embeddings."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from goldfold import export, load
from goldfold.exporter.errors import UsageError
from goldfold.golden import make as golden_make
from goldfold.golden.compare import reading
from tests.conftest import GOLDEN_TEXTS

LENGTH = 257
"""The longest text that EmbeddingGemma's window, |i − j| < 257, does not touch."""


ANY_LENGTH = tuple(name for name in GOLDEN_TEXTS if not name.startswith("length-"))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    only = (*ANY_LENGTH, f"length-{LENGTH}")
    monkeypatch.setattr(golden_make, "make", partial(golden_make.make, only=only))


@pytest.mark.usefixtures("few")
def test_windows_that_cannot_bite_vanish_and_tables_shrink(
    tiny: Path, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    (result,) = export(tiny, ["onnxruntime"], ["fp32"], tmp_path, max_length=LENGTH)
    manifest = result.bundle.manifest
    assert result.passed
    assert manifest.contract.max_length == LENGTH
    assert manifest.attention == {"all": 6}
    assert max(row.tokens for row in result.measurement.rows) == LENGTH
    graph = onnx.load(result.path / "model.onnx", load_external_data=False).graph
    tables = [t.dims[0] for t in graph.initializer if t.name.startswith("rotary")]
    assert tables and set(tables) == {LENGTH}
    assert sum(node.op_type == "Where" for node in graph.node) == 2  # one mask, and the pooling's

    encoder, whole = load(result.path), load(artifacts["onnxruntime"])
    ids = np.random.default_rng(2).integers(4, 390, (2, LENGTH))
    for one, other in zip(encoder.run(ids, ids > 0), whole.run(ids, ids > 0), strict=True):
        assert reading(one, other).distance <= 1e-8  # the gate of fp32
    with pytest.raises(UsageError, match=f"takes {LENGTH}"):
        encoder.run(np.ones((1, LENGTH + 1), dtype=np.int64), np.ones((1, LENGTH + 1), dtype=int))
    assert len(encoder.tokenize(["word " * 2 * LENGTH])[0]) == LENGTH


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("kind", "rows"), [("bert", LENGTH), ("roberta", LENGTH + 1)])
def test_learned_positions_end_with_the_longest_text(kind: str, rows: int, tmp_path: Path) -> None:
    from tests import models  # here, so that collecting tests does not load torch

    source = models.build(kind, tmp_path / kind)
    (result,) = export(source, ["onnxruntime"], ["fp32"], tmp_path / "out", max_length=LENGTH)
    assert result.passed
    assert max(row.tokens for row in result.measurement.rows) == LENGTH
    graph = onnx.load(result.path / "model.onnx", load_external_data=False).graph
    tables = [t.dims[0] for t in graph.initializer if "position_embeddings" in t.name]
    assert tables == [rows]  # RoBERTa counts from the one behind its padding token, 0 here


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("length", "says"), [(0, "begin at 1"), (601, "1 … 600")])
def test_a_length_that_cannot_be_is_refused(
    length: int, says: str, tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=says):
        export(tiny, ["onnxruntime"], ["fp32"], tmp_path, max_length=length)
