"""Every law of every pass, as its docstring states it; and the harness, by breaking a toy pass."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import goldfold.targets.onnxruntime
import goldfold.targets.openvino
from goldfold.exporter.contract import Contract
from goldfold.exporter.ir.program import add_constant, constant, insert_before
from goldfold.exporter.passes import docstring
from goldfold.exporter.passes.base import Equality, Log, Pass
from goldfold.exporter.passes.expand_band_attention import ExpandBandAttention
from goldfold.exporter.passes.pipeline import every
from goldfold.exporter.passes.rewriting.writer import take_over
from tests.exporter.passes import drawing, harness

_TARGETS = (goldfold.targets.onnxruntime.TARGET, goldfold.targets.openvino.TARGET)
_NOTHING = Contract(model="", dim=1, max_length=1, vocab_size=1, pad_id=0, normalized=True)
_TAILS = (t.backend_passes(p, _NOTHING, {}) for t in _TARGETS for p in t.precisions)
_ALL = (*every(), *(this for tail in _TAILS for this in tail))
PASSES = list(dict.fromkeys(_ALL))
EXAMPLES = [
    pytest.param(
        dataclasses.replace(this, **example.options),
        example.before,
        example.after,
        id=f"{this.name}-{example.title or number}",
    )
    for this in PASSES
    for number, example in enumerate(docstring.read(this).examples)
]
LEFT_ALONE = [
    pytest.param(
        dataclasses.replace(this, **left.options),
        left.graph,
        left.reason,
        id=f"{this.name}-{left.title}",
    )
    for this in PASSES
    for read in [docstring.read(this)]
    for left in (*read.refusals, *read.ignored)
]


@pytest.mark.parametrize(("this", "before", "after"), EXAMPLES)
def test_before_becomes_after(this: Pass, before: str, after: str) -> None:
    harness.assert_structure(this, before, after)


@pytest.mark.parametrize(("this", "before", "after"), EXAMPLES)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_before_means_after(this: Pass, before: str, after: str, data: st.DataObject) -> None:
    weights, feeds = data.draw(drawing.draws(before))
    harness.assert_holds(this, before, weights, feeds)


def left_alone(this: Pass, text: str, reason: str | None) -> None:
    harness.assert_said(harness.assert_left_alone(this, text), reason)


@pytest.mark.parametrize(("this", "text", "reason"), LEFT_ALONE)
def test_graphs_are_left_alone_and_said_why(this: Pass, text: str, reason: str | None) -> None:
    left_alone(this, text, reason)


@pytest.mark.parametrize("this", PASSES, ids=lambda this: this.name)
def test_no_refusal_passes_where_nothing_matches(
    this: Pass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(this), "match", lambda self, node: None)
    for left in docstring.read(this).refusals:
        with pytest.raises(AssertionError, match=r"it says \[\], not"):
            left_alone(dataclasses.replace(this, **left.options), left.graph, left.reason)


@pytest.mark.parametrize("this", PASSES, ids=lambda this: this.name)
def test_a_bound_is_stated(this: Pass) -> None:
    if this.equality is not Equality.BOUND:
        assert this.unit() is None and not this.bound
    elif this.unit() is None:
        file, _, name = this.bound.partition("::")
        assert f"\ndef {name}(" in Path(file).read_text("utf-8")
    else:
        assert not this.bound


@pytest.mark.parametrize("this", PASSES, ids=lambda this: this.name)
def test_a_pass_is_one_file_and_one_frozen_dataclass(this: Pass) -> None:
    kind = type(this)
    assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen
    assert Path(inspect.getfile(kind)).stem == this.name.replace("-", "_")
    read = docstring.read(this)
    assert read.summary and read.holds and read.needs
    assert isinstance(this.equality, Equality)


@pytest.mark.parametrize("this", PASSES, ids=lambda this: this.name)
def test_a_budget_ends_a_pass(this: Pass) -> None:
    example = docstring.read(this).examples[0]
    this = dataclasses.replace(this, **example.options)
    model = harness.build(example.before)
    left = harness.serialized(model)
    assert this.rewrite(model, Log(budget=0)).applied == []
    assert harness.serialized(model) == left
    assert len(this.rewrite(model, Log(budget=1)).applied) == 1


# What rewrites of one sweep share -----------------------------------------------------------------


TWO_ATTENTIONS = """
f (float[B,4,T,8] q, float[B,1,T,8] k, float[B,4,T,8] r, float[B,2,T,8] l, bool[B,T] padding)
    => (float[B,4,T,8] y, float[B,4,T,8] z, float[B,4,T,8] w)
{
    y = goldfold.BandAttention <scale: float = 0.25, window: int = 2> (q, k, k, padding)
    p = Add(y, r)
    z = goldfold.BandAttention <scale: float = 0.5, window: int = 2> (p, k, k, padding)
    w = goldfold.BandAttention <scale: float = 0.5, window: int = 2, causal: int = 1>
        (z, l, l, padding)
}
"""


@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_attentions_that_see_alike_share_a_mask(data: st.DataObject) -> None:
    _, feeds = data.draw(drawing.draws(TWO_ATTENTIONS))
    harness.assert_holds(ExpandBandAttention(), TWO_ATTENTIONS, {}, feeds)


def test_shared_masks_are_made_before_their_first_reader() -> None:
    model = harness.build(TWO_ATTENTIONS)
    assert len(ExpandBandAttention().rewrite(model).applied) == 3
    harness.assert_legal(model)
    ops = [node.op_type for node in model.graph]
    assert ops.count("Where") == 2  # one for the two alike, one for the causal
    assert ops.count("Range") == ops.count("Less") == ops.count("Abs") == 1


# The harness itself -------------------------------------------------------------------------------

TOY = "f (float[B,3] x, float[3] c) => (float[B,3] y) { y = Mul(x, c) }"
TOY_AFTER = "f (float[B,3] x, float[3] c) => (float[B,3] y) { y = Div(x, c) }"


@dataclass(frozen=True)
class Toy(Pass):
    """x · c = x / (1/c) for a constant c without zeros; each field breaks it in one way."""

    equality: ClassVar[Equality] = Equality.REAL
    wrong_by: float = 0.0
    wrong_op: bool = False
    reads_late: bool = False
    litters: bool = False
    again: bool = False
    idle: bool = False
    talks: bool = False

    def match(self, node: ir.Node) -> ir.Node | None:
        ops = ("Mul", "Div") if self.again else ("Mul",)
        return None if self.idle or node.op_type not in ops else node

    def refuses(self, match: ir.Node) -> str | None:
        c = constant(match.inputs[1])
        if self.talks:
            return "never"
        return "c has a zero" if c is not None and not c.all() else None

    def construct(self, match: ir.Node, memo: dict) -> None:
        graph, x, c = match.graph, match.inputs[0], constant(match.inputs[1])
        assert graph is not None and x is not None and c is not None
        divisor = c if match.op_type == "Div" else (1.0 + self.wrong_by) / c
        op = "Mul" if self.wrong_op else "Div"
        node = ir.node(op, [x, add_constant(graph, "c", divisor)], name="new")
        node.outputs[0].name = "new"
        insert_before(match, [node])
        take_over(match.outputs[0], node.outputs[0])
        if self.reads_late:
            late = _append(graph, x)
            node.replace_input_with(0, late)

    def rewrite(self, model: ir.Model, log: Log | None = None) -> Log:
        log = super().rewrite(model, log)
        if self.litters and log.applied:
            _append(model.graph, model.graph.inputs[0])  # after the broom of `rewrite`
        return log


@dataclass(frozen=True)
class Rounds(Toy):
    """A toy that promises a bound and does not say which."""

    equality: ClassVar[Equality] = Equality.BOUND


def _append(graph: ir.Graph, x: ir.Value) -> ir.Value:
    node = ir.node("Identity", [x], name="last")
    node.outputs[0].name = "last"
    graph.append(node)
    return node.outputs[0]


def _inputs(c: list[float]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    x = np.random.default_rng(1).standard_normal((2, 3)).astype(np.float32)
    return {"c": np.array(c, np.float32)}, {"x": x}


def test_the_harness_accepts_a_right_pass() -> None:
    harness.assert_structure(Toy(), TOY, TOY_AFTER)
    harness.assert_holds(Toy(), TOY, *_inputs([3.0, -7.0, 1e-5]))


def structure(toy: Toy) -> None:
    harness.assert_structure(toy, TOY, TOY_AFTER)


BROKEN: dict[str, tuple[Callable[[], object], str]] = {
    "numbers off by 1e-11": (
        lambda: harness.assert_holds(Toy(wrong_by=1e-11), TOY, *_inputs([3.0, -7.0, 1e-5])),
        "rounding explains",
    ),
    "another op than promised": (lambda: structure(Toy(wrong_op=True)), "Div"),
    "read before made": (lambda: structure(Toy(reads_late=True)), "nothing before it makes"),
    "a node left over": (lambda: structure(Toy(litters=True)), "no output depends on"),
    "not settled": (lambda: structure(Toy(again=True)), "== \\[\\]"),
    "nothing done": (lambda: structure(Toy(idle=True)), "does not apply"),
    "refused example rewritten": (
        lambda: left_alone(Toy(), TOY, "c has a zero"),
        "== \\[\\]",
    ),
    "nothing refused": (
        lambda: left_alone(Toy(idle=True), TOY, "c has a zero"),
        "it says",
    ),
    "another reason": (
        lambda: left_alone(Toy(talks=True), TOY, "c has a zero"),
        "not 'c has a zero'",
    ),
    "an ignored example refused": (
        lambda: left_alone(Toy(talks=True), TOY, None),
        "should ignore",
    ),
    "a bound that nobody states": (
        lambda: harness.assert_holds(Rounds(wrong_by=0.5), TOY, *_inputs([3.0, -7.0, 1e-5])),
        "states its unit",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_the_harness_catches(fault: str) -> None:
    check, message = BROKEN[fault]
    with pytest.raises(AssertionError, match=message):
        check()


def test_the_harness_tells_zeros_by_their_sign() -> None:
    before = harness.build("f (float[B] x) => (float[B] y) { y = Neg(x) }")
    text = """
    f (float[B] x) => (float[B] y)
    {
        zero = Constant <value: tensor = float {0.0}> ()
        y = Sub(zero, x)
    }
    """
    after = harness.build(text)
    feeds = {"x": np.array([1.0, 0.0], np.float32)}
    with pytest.raises(AssertionError, match="other bits"):
        harness.assert_same_bits(before, after, feeds)
    harness.widen(before)
    harness.widen(after)
    harness.assert_close(before, after, feeds)
