"""Attention that a model spells by hand: what its mask may look like, and a whole MPNet and T5."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from goldfold.exporter.evaluate import bounds, emulate, interpret, ranges
from goldfold.exporter.frontend.simplify import simplify
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.frontend.trace import trace
from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.expand_band_attention import ExpandBandAttention
from goldfold.exporter.passes.raise_attention import RaiseAttention
from goldfold.exporter.passes.spell_attention import SpellAttention
from goldfold.golden.compare import reading
from tests import models
from tests.exporter.passes import harness

RAISE = RaiseAttention()
LENGTHS = (1, 4, 40, 290)


def spelt(**changed: str) -> str:
    """Attention with a bias as MPNet spells it, with some lines changed."""
    lines = {
        "constants": """
            zero = Constant <value_float: float = 0.0> ()
            hidden = Constant <value_float: float = -30000.0> ()
            half = Constant <value_float: float = 0.5> ()
            none = Constant <value: tensor = int64 {0}> ()
            one = Constant <value: tensor = int64 {1}> ()
            two = Constant <value: tensor = int64 {2}> ()
            first = Constant <value_ints: ints = [0]> ()
            middle = Constant <value_ints: ints = [1, 2]> ()
            outer = Constant <value_ints: ints = [1, 3]> ()
            behind = Constant <value_ints: ints = [1, 2, 3]> ()
            front = Constant <value_ints: ints = [0, 1, 2]> ()
            third = Constant <value_ints: ints = [0, 1, 3]> ()
            last = Constant <value_ints: ints = [-1]> ()
            n = Shape <start: int = 1, end: int = 2> (padding)
            b = Shape <start: int = 0, end: int = 1> (padding)
            nn = Squeeze(n)
            bb = Squeeze(b)
            tokens = Range(none, nn, one)
            texts = Range(none, bb, one)""",
        "product": "product = MatMul(q, k)",
        "scores": "scores = Mul(product, half)",
        "biased": "biased = Add(scores, bias)",
        "seen": "seen = Unsqueeze(padding, middle)",
        "mask": "m = Where(seen, zero, hidden)",
        "masked": "masked = Add(biased, m)",
        "weights": "weights = Softmax <axis: int = -1> (masked)",
        "y": "y = MatMul(weights, v)",
    }
    body = "\n".join({**lines, **changed}.values())
    return f"""
    f (float[B,2,T,8] q, float[B,2,8,T] k, float[B,2,T,8] v, bool[B,T] padding,
       int64[B,T] whole, float[1,2,T,T] bias)
        => (float[B,2,T,8] y) <int64[T] tokens, int64[B] texts>
    {{ {body} }}
    """


def looked_up(texts: str = "behind", keys: str = "front", start: str = "none") -> str:
    """The mask as transformers looks it up, by indices along these axes."""
    return f"""
        own = Range({start}, nn, one)
        t4 = Unsqueeze(texts, {texts})
        k4 = Unsqueeze({"tokens" if start == "none" else "own"}, {keys})
        both = Max(t4, k4)
        sizes = Shape(both)
        ts = Expand(t4, sizes)
        ks = Expand(k4, sizes)
        t5 = Unsqueeze(ts, last)
        k5 = Unsqueeze(ks, last)
        pairs = Concat <axis: int = -1> (t5, k5)
        seen = GatherND(padding, pairs)"""


READ = {
    "booleans": spelt(),
    "numbers": spelt(seen="w = Unsqueeze(whole, middle) seen = Cast <to: int = 9> (w)"),
    "booleans as numbers": spelt(
        seen="p = Cast <to: int = 7> (padding) w = Unsqueeze(p, middle)"
        " seen = Cast <to: int = 9> (w)"
    ),
    "an axis that goes again": spelt(
        seen="a = Unsqueeze(padding, behind) i = Constant <value_ints: ints = [1]> ()"
        " f = Squeeze(a, i) seen = And(f, f)"
    ),
    "indices": spelt(seen=looked_up()),
    "always and padding": spelt(
        seen="i = Unsqueeze(tokens, third) a = GreaterOrEqual(i, none)"
        " p = Unsqueeze(padding, middle) seen = And(a, p)"
    ),
    "a row a query": spelt(
        seen="p = Unsqueeze(padding, middle) h = Constant <value_ints: ints = [1]> ()"
        " wide = Concat <axis: int = 0> (b, h, n, n) seen = Expand(p, wide)"
    ),
    "bias and mask summed first": spelt(
        biased="", masked="both2 = Add(m, bias) masked = Add(scores, both2)"
    ),
    "a quotient": spelt(
        scores="two2 = Constant <value_float: float = 2.0> () scores = Div(product, two2)"
    ),
}


@pytest.mark.parametrize("text", READ.values(), ids=READ)
def test_a_mask_is_known_however_it_is_spelt(text: str) -> None:
    rng = np.random.default_rng(3)
    feeds: dict[str, np.ndarray] = {
        name: rng.normal(size=size).astype(np.float32)
        for name, size in {"q": (2, 2, 5, 8), "k": (2, 2, 8, 5), "v": (2, 2, 5, 8)}.items()
    }
    padding = np.array([[True] * 5, [True] * 3 + [False] * 2])
    feeds |= {"bias": rng.normal(size=(1, 2, 5, 5)).astype(np.float32), "padding": padding}
    feeds["whole"] = padding.astype(np.int64)
    harness.assert_holds(RAISE, text, {}, feeds)
    model = harness.build(text)
    assert len(RAISE.rewrite(model).applied) == 1
    (node,) = dialect.band_attentions(model.graph)
    assert dialect.Band.of(node) == dialect.Band(0.5, 0, False, 0.0)
    bias = dialect.bias_of(node)
    assert bias is not None and bias.name == "bias"


UNREAD = "which tokens its mask hides does not follow from one mask of padding"
LEFT = {
    "padding of the queries": (spelt(seen="seen = Unsqueeze(padding, outer)"), UNREAD),
    "padding of keys and queries": (
        spelt(seen="a = Unsqueeze(padding, middle) c = Unsqueeze(padding, outer) seen = And(a, c)"),
        UNREAD,
    ),
    "indices along other axes": (spelt(seen=looked_up(keys="third")), UNREAD),
    "indices from the second token": (spelt(seen=looked_up(start="one")), UNREAD),
    "a comparison with the second token": (
        spelt(
            seen="i = Unsqueeze(tokens, third) a = GreaterOrEqual(i, one)"
            " p = Unsqueeze(padding, middle) seen = And(a, p)"
        ),
        UNREAD,
    ),
    "the other way round": (spelt(mask="m = Where(seen, hidden, zero)"), UNREAD),
    "two masks": (
        spelt(
            seen="w = Cast <to: int = 9> (whole) a = Unsqueeze(w, middle)"
            " c = Unsqueeze(padding, middle) seen = And(a, c)"
        ),
        UNREAD,
    ),
    "a mask that hides little": (
        spelt(mask="few = Constant <value_float: float = -9.0> () m = Where(seen, zero, few)"),
        "nothing hides its padding",
    ),
    "a scaled bias": (
        spelt(scores="", biased="s = Add(product, bias) biased = Mul(s, half)"),
        "it scales scores and bias together",
    ),
    "scores that others read": (
        spelt(masked="r = ReduceMax <keepdims: int = 1> (biased) c = Sub(biased, r) d = Add(c, r)"
              " e = Add(biased, d) masked = Add(e, m)"),
        "also reads the inner",
    ),
    "a bias for each token alone": (
        spelt(biased="k2 = ReduceSum <keepdims: int = 1> (bias, last) biased = Add(scores, k2)"),
        "no row a token",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), LEFT.values(), ids=LEFT)
def test_what_is_no_band_attention_is_left_and_said(text: str, reason: str) -> None:
    harness.assert_said(harness.assert_left_alone(RAISE, text), reason)


# Whole models -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["mpnet", "t5"])
def early(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """A tiny model as it is traced: attention in arithmetic."""
    folder = models.build(request.param, tmp_path_factory.mktemp("raise") / request.param)
    program = trace(open_model(folder))
    simplify(program)
    return program


def raised(program: Program) -> Program:
    """With the passes for every target."""
    own = program.copy()
    pipeline.run(own, (*pipeline.EARLY, *pipeline.common(own.contract)))
    return own


def texts() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    mask = np.zeros((len(LENGTHS), max(LENGTHS)), np.int64)
    for row, length in enumerate(LENGTHS):
        mask[row, :length] = 1
    return np.where(mask, rng.integers(5, models.VOCAB_SIZE - 5, mask.shape), 0), mask


def test_all_layers_share_one_bias(early: Program) -> None:
    program = raised(early)
    nodes = list(dialect.band_attentions(program.graph))
    assert len(nodes) == 3
    (bias,) = {dialect.bias_of(node) for node in nodes}
    assert bias is not None and bias.shape is not None and bias.shape[0] == 1  # of all texts
    assert "GatherND" not in program.census()  # the mask's index arithmetic is gone
    pipeline.run(program, (ExpandBandAttention(),))
    (softmax, *others) = [node for node in program.graph if node.op_type == "Softmax"]
    sums = {node.inputs[0].producer().inputs[1] for node in (softmax, *others)}  # type: ignore[union-attr]
    assert len(others) == 2 and len(sums) == 1


def test_attention_in_one_op_means_attention_written_out(early: Program) -> None:
    ids, mask = texts()
    plain = early.copy()
    without = [this for this in pipeline.EARLY if not isinstance(this, RaiseAttention)]
    pipeline.run(plain, without)
    expected = interpret.runner(plain)(ids, mask)
    for spell in (ExpandBandAttention(), SpellAttention()):
        program = raised(early)
        pipeline.run(program, (spell,))
        run = interpret.runner(program)
        padded = run(ids, mask)
        for row, length in enumerate(LENGTHS):
            (own,) = run(ids[row : row + 1, :length], np.ones((1, length), np.int64))
            assert reading(padded[row], expected[row]).distance <= 1e-10
            assert reading(own, expected[row]).distance <= 1e-10


def test_half_precision_keeps_the_bias(early: Program) -> None:
    ids, mask = texts()
    program = raised(early)
    expected = interpret.runner(program)(ids, mask)
    half = program.copy()
    pipeline.run(half, pipeline.half("fp16", {}, typed=True, bounds=bounds.of(program).largest))
    nodes = list(dialect.band_attentions(half.graph))
    (bias,) = {dialect.bias_of(node) for node in nodes}
    assert bias is not None and bias.dtype == ir.DataType.FLOAT16
    found = emulate.runner(half)(ids, mask)
    assert max(reading(a, b).distance for a, b in zip(found, expected, strict=True)) <= 2e-5


def test_bounds_on_scores_hold_the_bias(early: Program) -> None:
    program = raised(early)
    sequences = [list(row[:length]) for row, length in zip(texts()[0], LENGTHS, strict=True)]

    def scores(one: Program) -> tuple[list[float], list[float]]:
        seen = ranges.record(one.copy(), sequences)
        known = bounds.of(one).largest
        names = [name for name in seen if name.endswith(ranges.SCORES)]
        assert len(names) == 3
        return [seen[name] for name in names], [known[name] for name in names]

    seen, proved = scores(program)
    assert all(a <= b < np.inf for a, b in zip(seen, proved, strict=True))
    (table,) = {dialect.bias_of(node) for node in dialect.band_attentions(program.graph)}
    while table is not None and table.const_value is None:  # behind Unsqueeze, Transpose, Gather
        table = table.producer().inputs[0]  # type: ignore[union-attr]
    assert table is not None and table.const_value is not None
    # A bias that is the same for all tokens changes no weight, and so no other score.
    found = []
    for number in (0.0, 100.0):
        held = np.full(table.const_value.numpy().shape, number, np.float32)
        table.const_value = ir.tensor(held, name=table.name)
        found.append(scores(program))
    for before, after in zip(*found, strict=True):
        np.testing.assert_allclose(after, np.add(before, 100.0), rtol=1e-3)
