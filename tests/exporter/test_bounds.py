"""Bounds that hold for every text: no op's rule is beaten by drawn inputs, no model's bound by an
adversary, and no planted row overflows unseen."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.bound_search import search
from goldfold.exporter.artifact.bounded import bounds_sentence
from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS, Contract
from goldfold.exporter.driver import preparing
from goldfold.exporter.evaluate import bounds, emulate, interpret, ranges, value_bounds, value_roles
from goldfold.exporter.frontend.readiness import ready
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import Program, constant
from goldfold.exporter.passes import docstring, pipeline
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.passes.rewriting.headroom import FP16_MAX, demand
from goldfold.exporter.passes.scale_residual import EXPONENT
from goldfold.exporter.passes.set_precision import SetPrecision
from goldfold.exporter.progress import Stages
from goldfold.exporter.proofs import KindBounds
from goldfold.golden.compare import reading
from tests import models
from tests.conftest import Exported

ROWS, WIDE, LONGEST = 12, 6, 8

HEAD = """
f (int64[batch,tokens] input_ids, int64[batch,tokens] attention_mask,
   float[12,6] a, float[12,6] b, float[6,6] w, float[6,6] v, float[6] g, float[6] s, float[3,6] t)
    => (float sentence_embedding)
{
    last = Constant <value_ints: ints = [-1]> ()
    one = Constant <value_ints: ints = [1]> ()
    x = Gather(a, input_ids)
    z = Gather(b, input_ids)
    BODY
    sentence_embedding = ReduceMax <keepdims: int = 0> (r)
}
"""

BODIES = {
    "linear": "r = MatMul(x, w)",
    "linear with bias": "p = MatMul(x, w) r = Add(p, s)",
    "gain": "r = Mul(x, g)",
    "norm": "r = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (x, g)",
    "norm then linear": """
        n = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (x, g)
        r = MatMul(n, w)""",
    "layer norm then linear": """
        n = LayerNormalization <axis: int = -1, epsilon: float = 1e-6> (x, g, s)
        r = MatMul(n, w)""",
    "gated": """
        n = LayerNormalization <axis: int = -1, epsilon: float = 1e-6> (x, g, s)
        p = MatMul(n, w) h = Gelu(p) q = MatMul(n, v) r = Mul(h, q)""",
    "gated with silu": """
        n = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (x, g)
        p = MatMul(n, w) c = Sigmoid(p) h = Mul(p, c)
        q = MatMul(n, v) k = Add(q, s) r = Mul(h, k)""",
    "gated in one matrix": """
        n = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (x, g)
        p = MatMul(n, w)
        c, d = Split <axis: int = -1, num_outputs: int = 2> (p)
        h = Relu(c) r = Mul(h, d)""",
    "sums": "p = Add(x, z) q = Sub(p, g) m = Mul(q, z) r = Neg(m)",
    "sum of balls": """
        n = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (x, g)
        m = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (z, s)
        p = Add(n, m) r = MatMul(p, w)""",
    "square": "r = Mul(x, x)",
    "activations": "p = Tanh(x) q = Softplus(z) o = Erf(x) e = Exp(p) u = Add(q, o) r = Mul(u, e)",
    "bent": "p = LeakyRelu <alpha: float = 0.3> (x) q = Elu <alpha: float = 2.0> (z) r = Sub(p, q)",
    "roots": "p = Abs(x) q = Sqrt(p) o = Add(p, g) e = Floor(o) u = Max(e, q) r = Min(u, z)",
    "clip": "lo = Constant <value_float: float = -0.5> () r = Clip(x, lo)",
    "cubed": "three = Constant <value_float: float = 3.0> () r = Pow(x, three)",
    "softmax": "r = Softmax <axis: int = -1> (x)",
    "unit length": """
        l = ReduceL2 <keepdims: int = 1> (x, last)
        least = Constant <value_float: float = 1e-6> ()
        c = Clip(l, least) r = Div(x, c)""",
    "length": "r = ReduceL2 <keepdims: int = 1> (x, last)",
    "mean over the seen": """
        seen = Cast <to: int = 9> (attention_mask) two = Constant <value_ints: ints = [2]> ()
        wide = Unsqueeze(seen, two) zero = Constant <value_float: float = 0.0> ()
        k = Where(wide, x, zero) top = ReduceSum <keepdims: int = 0> (k, one)
        f = Cast <to: int = 1> (seen) n = ReduceSum <keepdims: int = 1> (f, one)
        least = Constant <value_float: float = 1e-9> () c = Clip(n, least) r = Div(top, c)""",
    "sum over tokens": "r = ReduceSum <keepdims: int = 0> (x, one)",
    "means": "p = ReduceMean <keepdims: int = 1> (x, last) r = Sub(x, p)",
    "columns": """
        from = Constant <value_ints: ints = [1]> () to = Constant <value_ints: ints = [4]> ()
        p = Slice(x, from, to, last) q = Slice(z, from, to, last)
        r = Concat <axis: int = -1> (p, q)""",
    "heads": """
        n = RMSNormalization <axis: int = -1, epsilon: float = 1e-6> (x, g)
        p = MatMul(n, w) shape = Constant <value_ints: ints = [0, 0, 2, 3]> ()
        h = Reshape(p, shape) k = Transpose <perm: ints = [0, 2, 1, 3]> (h)
        kt = Transpose <perm: ints = [0, 1, 3, 2]> (k)
        scores = MatMul(k, kt) weights = Softmax <axis: int = -1> (scores)
        m = MatMul(weights, k) back = Transpose <perm: ints = [0, 2, 1, 3]> (m)
        flat = Constant <value_ints: ints = [0, 0, 6]> () o = Reshape(back, flat)
        r = MatMul(o, v)""",
    "rounded to integers": """
        step = Constant <value_float: float = 0.0625> ()
        zero = Constant <value: tensor = int8 {0}> ()
        q = QuantizeLinear(x, step, zero) d = DequantizeLinear(q, step, zero)
        r = MatMul(d, w)""",
    "shares of experts": """
        p = MatMul(x, w) e = Softmax <axis: int = -1> (p) k = Constant <value_ints: ints = [2]> ()
        best, chosen = TopK <axis: int = -1> (e, k)
        n = ReduceSum <keepdims: int = 1> (best, last) d = Div(best, n)
        f = Cast <to: int = 1> (chosen) r = Add(d, f)""",
    "shares of gates": """
        p = MatMul(x, w) e = Sigmoid(p) k = Constant <value_ints: ints = [2]> ()
        best, chosen = TopK <axis: int = -1> (e, k)
        n = ReduceSum <keepdims: int = 1> (best, last)
        tiny = Constant <value_float: float = 1e-20> () m = Add(n, tiny) r = Div(best, m)""",
    "causal convolution": """
        rows = Transpose <perm: ints = [0, 2, 1]> (x)
        k = Constant <value: tensor = float[6,1,3] {1, -2, 3, 0.5, 0.25, -1, 4, 4, 4, -1, -1, -1,
            0, 0, 2, 0.1, -0.2, 0.3}> ()
        r = Conv <group: int = 6, pads: ints = [2, 2]> (rows, k, s)""",
    "full convolution": """
        rows = Transpose <perm: ints = [0, 2, 1]> (x)
        k = Constant <value: tensor = float[2,3,2] {1, -2, 3, 0.5, 0.25, -1, 4, 4, 4, -1, -1, 1}> ()
        r = Conv <group: int = 2, pads: ints = [0, 1]> (rows, k)""",
    "a quotient": "h = Tanh(z) e = Exp(h) r = Div(x, e)",
    "a row of a few": "place = Constant <value_int: int = 1> () p = Gather(t, place) r = Add(x, p)",
}  # fmt: skip


def drawn(body: str, data: np.random.Generator) -> Program:
    sizes = {"a": (12, 6), "b": (12, 6), "w": (6, 6), "v": (6, 6), "g": 6, "s": 6, "t": (3, 6)}
    loud = {name: np.exp2(data.integers(-8, 9)) for name in sizes}
    weights = {
        name: (data.standard_normal(size) * loud[name]).astype(np.float32)
        for name, size in sizes.items()
    }
    spoken = body.replace(") ", ")\n    ")
    model = docstring.graph(HEAD.replace("BODY", spoken), weights)
    contract = Contract(
        model="drawn", dim=1, max_length=LONGEST, vocab_size=ROWS, pad_id=0, normalized=False
    )
    return Program(model, contract)


def rows(data: np.random.Generator) -> list[list[int]]:
    lengths = [1, 2, 3, 5, LONGEST, LONGEST]
    return [[i] for i in range(ROWS)] + [data.integers(0, ROWS, n).tolist() for n in lengths]


def assert_bounded(program: Program, sequences: list[list[int]]) -> None:
    found = bounds.of(program)
    for name, peak in ranges.record(program, sequences).items():
        assert peak <= found.largest[name] or not math.isfinite(peak), (
            f"{name} reaches {peak}, bounded by {found.largest[name]}"
        )


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=12, deadline=None)
def test_no_drawn_input_beats_the_rule_of_an_op(body: str, seed: int) -> None:
    data = np.random.default_rng(seed)
    program = drawn(body, data)
    assert not bounds.of(program).over, "no rule for an op of this test"
    assert_bounded(program, rows(data))


@pytest.mark.parametrize("body", [BODIES["gated"], BODIES["heads"], BODIES["sums"]])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None)
def test_bounds_hold_with_every_value_rounded_to_fp16(body: str, seed: int) -> None:
    data = np.random.default_rng(seed)
    program = drawn(body, data)
    SetPrecision("fp16").rewrite(program.model)
    found = bounds.of(program)
    rounded = emulate.emulated(program)
    for name, peak in ranges.record(rounded, rows(data)).items():
        if found.largest.get(name, math.inf) < FP16_MAX:
            assert peak <= found.largest[name], name


@pytest.mark.parametrize(
    ("body", "exact"),
    [
        ("linear", None),
        ("norm", lambda w: math.sqrt(6) * abs(w["g"]).max()),
        ("gain", lambda w: (abs(w["a"]).max(0) * abs(w["g"])).max()),
        ("norm then linear",
         lambda w: math.sqrt(6) * np.linalg.norm(w["w"] * w["g"][:, None], axis=0).max()),
    ],
)  # fmt: skip
def test_a_bound_is_as_small_as_its_law_says(body: str, exact) -> None:
    program = drawn(BODIES[body], np.random.default_rng(7))
    held = {v.name: constant(v) for v in program.graph.initializers.values()}
    weights = {name: a.astype(np.float64) for name, a in held.items() if a is not None}
    bound = bounds.of(program).largest["r"]
    if exact is None:  # every row is a text: the bound over a box is no more than twice what is met
        assert bound <= 6 * abs(weights["a"] @ weights["w"]).max()
    else:
        assert exact(weights) <= bound <= exact(weights) * 1.0001


def test_an_op_without_a_rule_has_no_bound_and_says_so() -> None:
    program = drawn("k = Det(x) r = Neg(k)", np.random.default_rng(1))
    found = bounds.of(program)
    assert found.largest["r"] == math.inf
    assert found.over["r"] == "Det has no rule"


def test_a_division_by_what_may_be_zero_has_no_bound() -> None:
    found = bounds.of(drawn("r = Div(x, z)", np.random.default_rng(1)))
    assert found.over["r"] == "a division by what may be 0"


# --- models


def prepared(kind: str, folder: Path, **settings) -> Program:
    source = ready(open_model(models.build(kind, folder / kind, **settings)), Stages())
    return preparing.prepare(source, Stages(), Pipeline())


@pytest.mark.parametrize(
    "kind", ["gemma3", "bert", "modernbert", "t5", "mpnet", "qwen3", "qwen3_moe", "lfm2"]
)
def test_no_text_beats_a_bound(kind: str, tmp_path: Path) -> None:
    program = prepared(kind, tmp_path, max_seq_length=40)
    data = np.random.default_rng(2)
    vocabulary = program.contract.vocab_size
    texts = [data.integers(0, vocabulary, n).tolist() for n in (1, 2, 7, 40, 40)]
    assert_bounded(program, texts + [[i] * n for i in (0, 3, 77) for n in (1, 40)])


@pytest.mark.parametrize("kind", ["gemma3", "bert"])
def test_an_adversary_beats_no_bound(kind: str, tmp_path: Path) -> None:
    """Random draws and greedy ascent over tokens come near the bounds and never beyond."""
    program = prepared(kind, tmp_path, max_seq_length=40)
    named = value_roles.named(program)
    kinds = (value_roles.STREAM, "MLP projections", "norms", "queries, keys, values",
             "attention's projection", "embeddings")  # fmt: skip
    names = [next(n for n, k in reversed(named.items()) if k == kind) for kind in kinds]
    found = search(program, names, lengths=(1, 6), sweeps=2)
    assert len(found) == len(names)
    assert all(one.ratio <= 1 for one in found), [one for one in found if one.ratio > 1]
    assert max(one.ratio for one in found) > 0.4, "a weak adversary, or bounds that are no use"


# --- a row that no calibration text has

RARE = 333


def texts_without_the_rare(program: Program) -> list[list[int]]:
    data = np.random.default_rng(5)
    return [[2, *data.integers(4, RARE, n), 1] for n in (1, 3, 9, 30, 100)]


def planted(exported: Exported, where: str) -> Program:
    """The tiny EmbeddingGemma with one row of its table such that the token drives a value to 3e5:
    the stream itself, or the product inside an MLP."""
    program = exported.copy()
    lookup = next(n for n in program.graph if n.op_type == "Gather")
    table = np.array(constant(lookup.inputs[0]))
    width = table.shape[1]
    if where == "stream":
        table[RARE] = 3e5 / math.sqrt(width)  # the table's factor behind it is √width
    else:
        # The text is one token long: its stream before the MLP is its own, and so is its direction.
        direction = np.random.default_rng(8).standard_normal(width).astype(np.float32)
        direction /= np.linalg.norm(direction)
        # Nothing else has a part in that direction, so that calibration sees nothing of it.
        table -= np.outer(table @ direction, direction)
        table[RARE] = 40.0 * direction
        mixed = next(
            n for n in program.graph if n.op_type == "MatMul" and "o_proj" in (n.name or "")
        )
        weight = np.array(constant(mixed.inputs[1]))
        _replace(mixed.inputs[1], weight - np.outer(weight @ direction, direction))
        for which in ("gate_proj", "up_proj"):
            node = next(
                n for n in program.graph if n.op_type == "MatMul" and which in (n.name or "")
            )
            weight = np.array(constant(node.inputs[1]))
            weight[:, 0] = 80.0 * direction
            _replace(node.inputs[1], weight)
    _replace(lookup.inputs[0], table)
    program.derived = False  # what is planted follows from no model
    return program


def _replace(value: ir.Value | None, array: np.ndarray) -> None:
    assert value is not None
    value.const_value = ir.tensor(array, name=value.name)


@pytest.mark.parametrize("where", ["stream", "product"])
def test_a_rare_row_that_no_calibration_text_has_no_longer_overflows(
    exported: Exported, where: str
) -> None:
    program = planted(exported, where)
    calm = ranges.record(program, texts_without_the_rare(program))
    assert max(calm.values()) * 8 < FP16_MAX, "calibration must see nothing"
    rare = [[RARE]]
    assert max(ranges.record(program, rare).values()) > 2.5e5
    expected = embed(program, rare)

    blind = program.copy()
    pipeline.run(blind, pipeline.half("fp16", calm, typed=True))
    assert not np.isfinite(embed(blind, rare, rounded=True)).all(), "no disease to cure"
    said = rows_of(program, blind)
    assert any(row.calibrated for row in said), "the blind export must be told apart"
    assert "by calibration alone: " in bounds_sentence(said)

    seeing = program.copy()
    known = bounds.of(program, half=True).largest
    pipeline.run(seeing, pipeline.half("fp16", calm, typed=True, bounds=known))
    assert any(EXPONENT in v.metadata_props for n in seeing.graph for v in n.outputs)
    found = embed(seeing, rare, rounded=True)
    assert reading(expected[0], found[0]).distance <= 2e-5
    assert not any(row.calibrated for row in rows_of(program, seeing))
    assert "for every text" in bounds_sentence(rows_of(program, seeing))


def rows_of(program: Program, half: Program) -> tuple[KindBounds, ...]:
    return value_bounds.table(value_roles.named(program), bounds.of(half), half)


def embed(program: Program, texts: list[list[int]], rounded: bool = False) -> np.ndarray:
    run = (emulate if rounded else interpret).runner(program)
    ids = np.array(texts, dtype=np.int64)
    return run(ids, np.ones_like(ids))


def test_a_tiny_model_is_bounded_whole_and_says_so(exported: Exported) -> None:
    program = exported.copy()
    known = bounds.of(program, half=True)
    assert not known.over
    half = program.copy()
    pipeline.run(half, pipeline.half("fp16", {}, typed=True, bounds=known.largest))
    said = rows_of(program, half)
    values = [v for n in half.graph for v in n.outputs if v.dtype == ir.DataType.FLOAT16]
    scores = sum(1 for _ in dialect.band_attentions(half.graph))
    assert sum(len(row.proved) for row in said) == len(values) + scores
    assert not any(row.calibrated for row in said)
    assert all(0 < bound < FP16_MAX for row in said for bound in row.proved.values())


@pytest.mark.parametrize(
    ("peak", "bound", "exponent", "proved"),
    [
        (155e3, 762e3, 4, True),  # 762e3 / 16 < 65,504; calibration alone would ask for 5
        (9e3, 60e3, 0, True),  # the bound closes as it is, where 8× headroom would not
        (100.0, 250e3, 2, True),
        (100.0, math.inf, 0, False),
        (0.5, 1e9, 0, False),  # 2^-14 of 0.5 would lose digits
        (155e3, 1e30, 5, False),
        (None, 250e3, 2, True),
    ],
)
def test_the_bound_chooses_where_it_closes(peak, bound, exponent: int, proved: bool) -> None:
    found = demand(peak, bound)
    assert (found.exponent, found.proved) == (exponent, proved)


def test_inputs_are_what_the_contract_allows() -> None:
    program = drawn("f = Cast <to: int = 1> (input_ids) m = Cast <to: int = 1> (attention_mask) "
                    "k = Mul(f, m) e = Unsqueeze(k, last) r = Add(e, g)",
                    np.random.default_rng(3))  # fmt: skip
    found = bounds.of(program)
    assert ROWS - 1 <= found.largest["f"] <= (ROWS - 1) * 1.0001
    assert {INPUT_IDS, ATTENTION_MASK} <= {v.name for v in program.graph.inputs}
