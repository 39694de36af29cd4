"""band-local-attention on traced models: the same embeddings at every length, and less work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from goldfold.exporter.evaluate import interpret
from goldfold.exporter.frontend.simplify import simplify
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.ir import legality
from goldfold.exporter.ir.program import Program, add_constant
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.band_local_attention import BandLocalAttention
from goldfold.exporter.passes.base import Log
from goldfold.exporter.passes.expand_band_attention import ExpandBandAttention
from goldfold.golden.compare import reading
from tests import models
from tests.conftest import Exported

BLOCKED = BandLocalAttention(models.MAX_LENGTH, block=100, start=300)
F32 = 1e-10
"""1−cos between two spellings of one function in f32. Sums in another order move a number by some
10 ulp of 6e-8 through six layers, and 1−cos is half the square of that, 2e-13; room for twenty
times the movement. `test_a_window_off_by_one_is_seen` says that it is not too much."""


def spelt(program: Program, *laws: BandLocalAttention) -> tuple[Program, Log]:
    """A copy without ops of ours, `laws` applied first; the log of the last."""
    own, log = program.copy(), Log()
    for law in laws:
        log = law.rewrite(own.model)
    legality.check(own, "band-local-attention")
    pipeline.run(own, (ExpandBandAttention(),))
    return own, log


def check(program: Program, law: BandLocalAttention, lengths: tuple[int, ...]) -> None:
    plain, _ = spelt(program)
    blocked, log = spelt(program, law)
    assert log.applied
    assert not log.refused
    one, other = interpret.runner(plain), interpret.runner(blocked)
    for length in lengths:
        ids, mask = texts_of((length, max(1, length // 3)))
        for wanted, found in zip(one(ids, mask), other(ids, mask), strict=True):
            assert np.isfinite(found).all()
            assert reading(wanted, found).distance <= F32, length


def test_gemma_at_every_kind_of_length(exported: Exported) -> None:
    """Below the start, at it, at whole and broken numbers of blocks, and at the longest text, whose
    padding stands beyond the rotary tables."""
    check(exported.program, BLOCKED, (1, 2, 299, 300, 301, 399, 500, 599, 600))


def test_a_window_off_by_one_is_seen(exported: Exported) -> None:
    plain, _ = spelt(exported.program)
    narrower = exported.copy()
    for node in narrower.graph:
        if node.attributes.get("window") and node.attributes["window"].value:
            node.attributes["window"] = ir.AttrInt64("window", 256)
    blocked, _ = spelt(narrower, BLOCKED)
    ids, mask = texts_of((600,))
    one, other = (interpret.runner(program)(ids, mask)[0] for program in (plain, blocked))
    assert reading(one, other).distance > F32


def test_short_texts_keep_their_bits(exported: Exported) -> None:
    plain, _ = spelt(exported.program)
    blocked, _ = spelt(exported.program, BLOCKED)
    ids, mask = texts_of((299, 20, 1))
    one, other = (interpret.runner(program)(ids, mask) for program in (plain, blocked))
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("kind", ["modernbert", "embeddinggemma2"])
def test_other_families(kind: str, tmp_path: Path) -> None:
    """As many key/value heads as heads; two heads to a group; windows shorter than a block."""
    program = _traced(kind, tmp_path)
    check(program, BandLocalAttention(models.MAX_LENGTH, 16, 64), (63, 64, 65, 100, 600))


def test_without_texts_long_enough_nothing_is_done(exported: Exported) -> None:
    _, log = spelt(exported.program, BandLocalAttention(299, 100, 300))
    assert not log.applied
    assert not log.refused


def test_multiply_adds_of_a_long_text(exported: Exported) -> None:
    """At 600 tokens: 6 blocks of 100 against 612 keys would save nothing with a window of 257; a
    window of 5 leaves 6 × 100 × 108 of 600 × 600."""
    program = exported.copy()
    for node in program.graph:
        if node.attributes.get("window") and node.attributes["window"].value:
            node.attributes["window"] = ir.AttrInt64("window", 5)
    blocked, _ = spelt(program, BLOCKED)
    made = [value for node in blocked.graph for value in node.outputs]
    scores = next(value for value in made if str(value.name).endswith(".scores"))
    scores.type = ir.TensorType(ir.DataType.FLOAT)
    blocked.graph.outputs.append(scores)
    found = interpret.runner(blocked)(*texts_of((600,)), output=str(scores.name))
    assert found.shape == (6, 3, 100, 108)


@pytest.mark.parametrize("op", ["Gather", "Slice"])
def test_a_table_of_positions_is_refused(op: str, exported: Exported) -> None:
    """Whatever reads its first rows, by numbers or as a slice: the padding has none."""
    program = exported.copy()
    graph = program.graph
    row = next(n for n in graph if n.op_type == "Range")
    positions = np.zeros((models.MAX_LENGTH, 4), np.float32)
    table = add_constant(graph, "positions", positions)
    end = next(n for n in graph if n.outputs[0] is row.inputs[1]).inputs[0]
    zero = add_constant(graph, "from", np.zeros(1, np.int64))
    inputs = [table, row.outputs[0]] if op == "Gather" else [table, zero, end, zero]
    graph.insert_after(row, ir.node(op, inputs, name="look_up"))
    log = BLOCKED.rewrite(program.model)
    assert not log.applied
    assert all("looks positions up" in refusal.reason for refusal in log.refused)
    assert len(log.refused) == 5


def texts_of(lengths: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Drawn ids, padded on the right to the longest, and their mask."""
    rng = np.random.default_rng(3)
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    return np.where(mask, rng.integers(4, 390, mask.shape), 0), mask.astype(np.int64)


def _traced(kind: str, folder: Path) -> Program:
    from goldfold.exporter.frontend.trace import trace

    program = trace(open_model(models.build(kind, folder / kind, num_hidden_layers=3)))
    simplify(program)
    pipeline.run(program, (*pipeline.EARLY, *pipeline.common(program.contract)))
    return program
