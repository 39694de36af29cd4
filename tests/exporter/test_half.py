"""fp16 and bf16: the emulator rounds, the disease exists, and scale-residual cures it exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goldfold.exporter.contract import Contract, Run
from goldfold.exporter.evaluate import emulate, interpret, ranges
from goldfold.exporter.frontend.simplify import simplify
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.frontend.trace import trace
from goldfold.exporter.ir.program import Program, constant
from goldfold.exporter.passes import docstring, pipeline
from goldfold.exporter.passes.scale_residual import EXPONENT, ScaleResidual
from goldfold.exporter.passes.set_precision import SetPrecision
from goldfold.exporter.quantize import texts
from goldfold.golden import texts as golden_texts
from goldfold.golden.compare import reading
from tests import models
from tests.conftest import Exported

SIXTY_THOUSAND = """
f (float16[batch,tokens] x) => (float[batch,tokens] y)
{
    s = Add(x, x)
    y = Cast <to: int = 1> (s)
}
"""


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> np.ndarray:
    return interpret.Session(model, optimise=False).run([model.graph.outputs[0].name or ""], feeds)[
        0
    ]


def program_of(model: ir.Model) -> Program:
    contract = Contract(
        model="example", dim=1, max_length=8, vocab_size=8, pad_id=0, normalized=False
    )
    return Program(model, contract)


def test_sixty_thousand_twice_is_infinite_in_fp16_and_the_emulator_says_so() -> None:
    model = docstring.graph(SIXTY_THOUSAND)
    emulated = emulate.emulated(program_of(model)).model
    x = np.array([[60000.0, 1.0]], dtype=np.float32)
    emulated.graph.inputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    assert run(emulated, {"x": x}).tolist() == [[np.inf, 2.0]]


@given(st.lists(st.floats(-6e4, 6e4, width=32), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_the_emulator_rounds_to_nearest_even_as_numpy_does(numbers: list[float]) -> None:
    text = """
    f (float[tokens] x) => (float[tokens] y)
    {
        h = Cast <to: int = 10> (x)
        y = Cast <to: int = 1> (h)
    }
    """
    emulated = emulate.emulated(program_of(docstring.graph(text))).model
    x = np.array(numbers, dtype=np.float32)
    expected = x.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(run(emulated, {"x": x}), expected)


# --- the real thing, small


def loud(exported: Exported, factor: float) -> Program:
    """The tiny EmbeddingGemma whose stream is `factor` times as large, and means the same: gains of
    the post-norms and the embedding grow, and so do the epsilons of what reads the stream."""
    program = exported.copy()
    stream = ScaleResidual(tuple(ranges.record(program, sequences(program)).items()))
    peaks = dict.fromkeys((name for name, _ in stream.peaks), 0.0)
    # Scaling down by the inverse is scaling up: the law itself, run backwards.
    adds = [n.outputs[0].name or "" for n in program.graph if n.op_type == "Add"]
    peaks[adds[-1]] = 1.0
    plan = replace(stream, peaks=((adds[-1], 65504.0),))
    match = next(m for n in program.graph if (m := plan.match(n)) is not None)
    match.exponent = -int(np.log2(factor))
    plan.construct(match, {})
    for node in program.graph:
        for value in node.outputs:
            value.metadata_props.pop(EXPONENT, None)
    return program


def sequences(program: Program) -> list[list[int]]:
    rng = np.random.default_rng(5)
    return [[2, *rng.integers(4, 390, n), 1] for n in (1, 3, 9, 30, 260, 300)]


def outputs(run: Run, program: Program) -> np.ndarray:
    rows = []
    for ids in sequences(program):
        row = np.array([ids], dtype=np.int64)
        rows.append(run(row, np.ones_like(row))[0])
    return np.stack(rows)


def worst(found: np.ndarray, expected: np.ndarray) -> float:
    return max(reading(e, g).distance for e, g in zip(found, expected, strict=True))


def test_the_disease_and_its_exact_cure(exported: Exported, half_stream: None) -> None:
    expected = outputs(interpret.runner(exported.copy()), exported.copy())
    sick = loud(exported, 2.0**16)
    in_f32 = outputs(interpret.runner(sick), sick)
    assert worst(in_f32, expected) < 1e-12, "a loud stream must mean the same in f32"

    typed = sick.copy()
    SetPrecision("fp16").rewrite(typed.model)
    assert not np.isfinite(outputs(emulate.runner(typed), typed)).all(), "no disease to cure"

    peaks = ranges.record(sick, sequences(sick))
    assert max(peaks.values()) > 65504
    healed = sick.copy()
    (report, *_) = pipeline.run(healed, pipeline.half("fp16", peaks, typed=False))
    assert report.applied == 1
    np.testing.assert_array_equal(outputs(interpret.runner(healed), healed), in_f32)
    after = ranges.record(healed, sequences(healed))
    assert max(after.values()) * 8 <= 65504 * 2  # 8× headroom where the stream is largest
    typed = healed.copy()
    pipeline.run(typed, (SetPrecision("fp16"),))
    assert worst(outputs(emulate.runner(typed), typed), expected) <= 2e-5


def test_a_healed_stream_in_f32_is_within_the_gate(exported: Exported) -> None:
    expected = outputs(interpret.runner(exported.copy()), exported.copy())
    sick = loud(exported, 2.0**16)
    peaks = ranges.record(sick, sequences(sick))
    pipeline.run(sick, pipeline.half("fp16", peaks, typed=True))
    assert worst(outputs(emulate.runner(sick), sick), expected) <= 2e-5


def test_a_forgotten_epsilon_is_seen(exported: Exported) -> None:
    """The bug that the law exists to avoid: scale the stream, keep the norms' epsilon."""
    sick = loud(exported, 2.0**12)
    expected = outputs(interpret.runner(sick), sick)
    peaks = tuple(ranges.record(sick, sequences(sick)).items())
    epsilons = {n.name: n.attributes["epsilon"] for n in sick.graph if "epsilon" in n.attributes}
    assert ScaleResidual(peaks).rewrite(sick.model).applied
    for node in sick.graph:
        if node.name in epsilons:
            node.attributes["epsilon"] = epsilons[node.name]
    assert worst(outputs(interpret.runner(sick), sick), expected) > 1e-6


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_half_precision_keeps_its_islands(exported: Exported, kind: str) -> None:
    program = exported.copy()
    SetPrecision(kind).rewrite(program.model)
    half = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}[kind]
    low = {n.op_type for n in program.graph if n.outputs[0].dtype == half}
    high = {n.op_type for n in program.graph if n.outputs[0].dtype == ir.DataType.FLOAT}
    assert {"MatMul", "BandAttention", "Gelu"} <= low
    assert {"RMSNormalization", "RotaryEmbedding", "Add"} <= high
    assert {"ReduceSum", "Div", "ReduceL2", "Gemm"} <= high
    assert not {"MatMul", "BandAttention", "Gelu"} & high
    weights = [v for v in program.graph.initializers.values() if (v.const_value or v).dtype == half]
    assert sum(v.const_value.size for v in weights if v.const_value) > 0.8 * program.parameters()


def test_nothing_is_scaled_where_nothing_is_large(exported: Exported) -> None:
    program = exported.copy()
    peaks = ranges.record(program, sequences(program))
    assert ScaleResidual(tuple(peaks.items())).rewrite(program.model).applied == []


def test_ranges_are_those_of_the_values(exported: Exported) -> None:
    program = exported.copy()
    peaks = ranges.record(program, sequences(program)[:2])
    gathered = next(n for n in program.graph if n.op_type == "Gather")
    table = constant(gathered.inputs[0])
    assert table is not None
    rows = [np.abs(table[ids]).max() for ids in sequences(program)[:2]]
    assert peaks[gathered.outputs[0].name or ""] == pytest.approx(float(max(rows)))
    assert peaks["sentence_embedding"] <= 1.0


def test_calibration_texts_are_not_golden_texts() -> None:
    calibrated = {text.strip() for text in texts.calibration_texts()}
    assert len(calibrated) >= 40
    assert not calibrated & {text.text.strip() for text in golden_texts.authored()}
    assert not calibrated & set(golden_texts.sentences())


@pytest.mark.parametrize("kind", ["t5", "mpnet", "bert-pool"])
def test_other_families_hold_in_fp16(kind: str, tmp_path: Path) -> None:
    """Eager masks, position buckets with log(0), pooling by every mode: finite, and close."""
    program = trace(open_model(models.build(kind, tmp_path / kind)))
    simplify(program)
    pipeline.run(program, (*pipeline.EARLY, *pipeline.common(program.contract)))
    expected = outputs(interpret.runner(program), program)
    peaks = ranges.record(program, sequences(program))
    pipeline.run(program, pipeline.half("fp16", peaks, typed=True))
    assert worst(outputs(emulate.runner(program), program), expected) <= 2e-5


@pytest.mark.parametrize(
    ("number", "reason"), [("40000.0", ""), ("70000.0", "65,504"), ("1e-12", "rounded to 0")]
)
def test_a_constant_that_fp16_cannot_hold_is_refused(number: str, reason: str) -> None:
    text = f"""
    f (float[batch,tokens] x) => (float[batch,tokens] y)
    {{
        c = Constant <value_float: float = {number}> ()
        y = Div(x, c)
    }}
    """
    log = SetPrecision("fp16").rewrite(docstring.graph(text))
    assert bool(log.applied) is not bool(reason)
    assert [reason in refusal.reason for refusal in log.refused] == [True] * bool(reason)
