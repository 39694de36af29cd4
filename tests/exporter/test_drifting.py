"""Looks at artifacts that pass: the drift after every layer, and how large each kind of value
gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from goldfold import export
from goldfold.exporter.artifact import bundle
from goldfold.exporter.artifact.bundle import VerdictRecord
from goldfold.exporter.diagnose import layer_drift
from goldfold.exporter.driver import exporting
from goldfold.exporter.evaluate import ranges, value_roles
from goldfold.exporter.ir.program import MODULE, Program
from goldfold.exporter.passes import docstring
from goldfold.exporter.passes.rewriting.headroom import FP16_MAX
from goldfold.exporter.passes.scale_residual import ScaleResidual
from goldfold.exporter.records import read_json
from goldfold.exporter.verification.verifying import verify
from goldfold.golden import store
from tests.conftest import Exported
from tests.exporter import small


@pytest.fixture
def quick(exported: Exported, traced: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare an export its trace and its reference."""
    goldens = store.load(exported.artifacts["onnxruntime"] / "golden").within(40)
    monkeypatch.setattr(exporting, "obtain_goldens", lambda *args: goldens)
    monkeypatch.setattr(exporting, "traced", lambda *args: traced.copy())


@pytest.mark.usefixtures("quick")
def test_drift_after_every_layer_and_ranges_are_recorded(tiny: Path, tmp_path: Path) -> None:
    whole, half = export(tiny, ["onnxruntime"], ["fp32", "fp16"], tmp_path, verify_each=True)
    records = [result.bundle.verdict for result in (whole, half)]
    assert all(record is not None for record in records)
    exact, rounded = (record for record in records if record is not None)
    *names, last = [look.layer for look in exact.layers]
    assert last == "sentence_embedding"
    assert names == [f"transformer.layers.{i}" for i in range(len(names))] and len(names) > 1
    assert all(look.worst < 1e-11 for look in exact.layers)
    assert [look.layer for look in rounded.layers] == [*names, last]
    assert all(1e-10 < look.worst < 1e-4 for look in rounded.layers)
    assert exact.ranges == ()
    found = {row.kind: row for row in rounded.ranges}
    assert {
        value_roles.STREAM,
        value_roles.ATTENTION_SCORES,
        "MLP product",
        "norms",
    } <= found.keys()
    assert "other" not in found or found["other"].values < sum(r.values for r in rounded.ranges) / 4
    assert all(0 < row.peak < FP16_MAX and row.scaled == row.peak for row in rounded.ranges)
    assert not found[value_roles.STREAM].half and found["MLP product"].half
    again = verify(half.path).bundle.verdict  # a verification measures neither, and keeps both
    assert again is not None and (again.layers, again.ranges) == (rounded.layers, rounded.ranges)


@pytest.mark.usefixtures("quick")
def test_artifact_is_not_lost_to_a_look(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args, **kwargs):
        raise ValueError("no torch today")

    monkeypatch.setattr("goldfold.exporter.frontend.trace.watch", broken)
    (result,) = export(tiny, ["onnxruntime"], ["fp32"], tmp_path, verify_each=True)
    assert result.passed and result.bundle.verdict is not None
    assert result.bundle.verdict.layers == ()


def test_wrong_layer_shows_in_the_drift(
    tiny: Path, tmp_path: Path, traced: Program, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = traced.copy()
    norms = [
        node
        for node in wrong.graph
        if node.op_type == "RMSNormalization"
        and ".layers.1." in node.metadata_props.get(MODULE, "")
    ]
    norms[-1].attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.5)
    monkeypatch.setattr(exporting, "traced", lambda *args: wrong.copy())
    (result,) = export(tiny, ["onnxruntime"], ["fp32"], tmp_path, verify_each=True)
    record = read_json(VerdictRecord, (result.path / bundle.VERDICT).read_bytes())
    drift = {look.layer: look.worst for look in record.layers}
    assert drift["transformer.layers.0"] < 1e-11 < 1e-9 < drift["transformer.layers.1"]


def test_scores_are_bounded_and_the_stream_is_scaled(exported: Exported) -> None:
    program = exported.copy()
    sequences = [list(range(2, 40)), [5, 6]]
    peaks = ranges.record(program, sequences)
    scores = [name for name in peaks if name.endswith(ranges.SCORES)]
    assert len(scores) == sum(program.attention().values())
    _holds_for_one_attention(program, scores[0], peaks[scores[0]], sequences[0])
    named = value_roles.named(program)
    large = {n: p * 1e5 if named.get(n) == value_roles.STREAM else p for n, p in peaks.items()}
    ScaleResidual(tuple(large.items())).rewrite(program.model)
    stream = next(
        row
        for row in value_roles.summary(named, large, program, False)
        if row.kind == value_roles.STREAM
    )
    assert stream.peak > FP16_MAX > stream.scaled * 7.9
    assert np.log2(stream.peak / stream.scaled) % 1 == 0


def _holds_for_one_attention(program: Program, key: str, bound: float, ids: list[int]) -> None:
    """The bound against the scores themselves, from the very queries and keys."""
    from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS
    from goldfold.exporter.evaluate import interpret
    from goldfold.exporter.ir import dialect

    copy = program.copy()
    node = next(n for n in copy.graph if n.outputs[0].name == key.removesuffix(ranges.SCORES))
    operands = [value for value in node.inputs[:2] if value is not None]
    copy.graph.outputs.extend(operands)
    session = interpret.Session(copy.model)
    row = np.array([ids], dtype=np.int64)
    names = [value.name or "" for value in operands]
    q, k = session.run(names, {INPUT_IDS: row, ATTENTION_MASK: np.ones_like(row)})
    k = np.repeat(k, q.shape[1] // k.shape[1], axis=1)
    scores = abs(dialect.Band.of(node).scale) * np.abs(q @ k.swapaxes(-1, -2))
    assert 0 < scores.max() <= bound * (1 + 1e-5)


def test_names_of_numbered_layers() -> None:
    assert layer_drift.numbered("transformer.layers.3.mlp.up") == "transformer.layers.3"
    assert layer_drift.numbered("transformer.embeddings.word") == ""
    assert layer_drift.numbered("stages.1.linear") == ""


@pytest.mark.parametrize("between", ["nothing", "cast", "norm"])
def test_layer_whose_gain_went_behind_the_pooling_is_left_out(between: str) -> None:
    middle = {
        "nothing": "c = Identity(a)",
        "cast": "c = Cast <to: int = 1> (a)",
        "norm": "c = LayerNormalization(a, g)",
    }[between]
    model = docstring.graph(
        f"""
        f (float[batch,tokens,4] x, float[4,4] w, float[4] g) => (float[batch,4] y)
        {{
            a = MatMul(x, w)
            {middle}
            axis = Constant <value: tensor = int64[1] {{1}}> ()
            y = ReduceMean <keepdims: int = 0> (c, axis)
        }}
        """
    )
    places = {"a": "transformer.layers.0.out", "c": "stages.0", "y": "stages.0"}
    if between == "norm":
        places["c"] = "transformer.norm"
    if between == "cast":
        places["c"] = "transformer"
    for node in model.graph:
        node.metadata_props[MODULE] = places.get(node.outputs[0].name or "", "")
    program = Program(model, small.program().contract)
    trail = [("sink-linear-past-mean", "stages.0")]
    expected = [] if between == "norm" else ["transformer.layers.0"]
    assert layer_drift.moved(trail, program) == expected
    assert layer_drift.moved([], program) == []
