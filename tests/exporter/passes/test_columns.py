"""Which columns of a fused linear map a value holds."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from goldfold.exporter.ir.program import infer_shapes
from goldfold.exporter.passes import docstring
from goldfold.exporter.passes.rewriting.columns import columns

THIRD = "q, k, v = Split <axis: int = -1, num_outputs: int = 3> (p)"
HEADS = """
    five = Constant <value_ints: ints = [0, 0, 3, 2, 4]> ()
    r = Reshape(p, five)
    start = Constant <value_ints: ints = [1]> ()
    end = Constant <value_ints: ints = [2]> ()
    axis = Constant <value_ints: ints = [2]> ()
    s = Slice(r, start, end, axis)
    m = Squeeze(s, axis)
    q = Transpose <perm: ints = [0, 2, 1, 3]> (m)
"""
BY_HEAD = """
    four = Constant <value_ints: ints = [0, 0, 2, 12]> ()
    r = Reshape(p, four)
    q, k, v = Split <axis: int = -1, num_outputs: int = 3> (r)
"""
EVERY_OTHER = """
    start = Constant <value_ints: ints = [0]> ()
    end = Constant <value_ints: ints = [9999]> ()
    axis = Constant <value_ints: ints = [-1]> ()
    two = Constant <value_ints: ints = [2]> ()
    q = Slice(p, start, end, axis, two)
"""
GATHERED = """
    five = Constant <value_ints: ints = [0, 0, 3, -1]> ()
    r = Reshape(p, five)
    last = Constant <value_int: int = 2> ()
    q = Gather <axis: int = 2> (r, last)
"""
SQUARED = "q = Mul(p, p)"
UNKNOWN = """
    size = ReduceMax <keepdims: int = 0> (ids)
    sizes = Expand(size, ids)
    q = Reshape(p, sizes)
"""


def graph(body: str) -> dict[str, ir.Value]:
    """The values of p = x w, and of what `body` makes of it."""
    text = f"""
        f (float[batch,tokens,8] x, float[8,24] w, int64[n] ids) => (float q)
        {{ p = MatMul(x, w) {body} }}
    """
    model = docstring.graph(text)
    infer_shapes(model)
    return {v.name: v for node in model.graph for v in node.outputs if v.name}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (THIRD, range(8)),
        (HEADS, range(8, 16)),
        (BY_HEAD, [*range(4), *range(12, 16)]),
        (EVERY_OTHER, range(0, 24, 2)),
        (GATHERED, range(16, 24)),
        (SQUARED, None),
        (UNKNOWN, None),
    ],
    ids=["third", "heads", "by head", "every other", "gathered", "squared", "unknown"],
)
def test_columns_are_followed_through_what_moves_them(body: str, expected: range | None) -> None:
    values = graph(body)
    found = columns(values["q"], values["p"])
    assert found == (None if expected is None else frozenset(expected))


def test_a_split_s_other_outputs_hold_the_rest() -> None:
    values = graph(THIRD)
    parts = [columns(values[name], values["p"]) for name in "qkv"]
    assert parts == [frozenset(range(at, at + 8)) for at in (0, 8, 16)]
