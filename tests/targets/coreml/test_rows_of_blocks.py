"""Rows that blocks beside attention need: a router's choice, and short convolutions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("coremltools")

from goldfold.exporter.errors import RewriteError
from goldfold.targets.coreml.evaluate import TABLE
from tests.targets.coreml.mil import lowered, model_of
from tests.targets.coreml.test_rows import _EXAMPLES, Draw, check, run


@given(st.data())
@_EXAMPLES
def test_the_largest_and_their_places(data: st.DataObject) -> None:
    draw = Draw(data)
    a, k = draw.floats(*draw.shape(2), 5), draw.size()
    how = {"axis": -1, "largest": draw.of(0, 1)}
    check(*run("TopK", ({"a": a}, {"b": np.array([k])}, how), outputs=2))


@given(st.data())
@_EXAMPLES
def test_convolutions_along_one_axis(data: st.DataObject) -> None:
    draw = Draw(data)
    groups, width, within = draw.size(most=3), draw.size(most=3), draw.size(most=2)
    weights = draw.floats(groups * draw.size(most=2), within, width)
    bias = draw.of({}, {"c": draw.floats(len(weights))})
    how = {"group": groups, "pads": [draw.size(0, 2), draw.size(0, 2)]}
    how |= {"strides": [draw.size(most=2)], "dilations": [draw.size(most=2)]}
    a = draw.floats(2, groups * within, 4 + draw.size())
    check(*run("Conv", ({"a": a}, {"b": weights, **bias}, how)))


def test_other_convolutions_are_refused() -> None:
    a, weights = np.zeros((1, 2, 4, 4), np.float32), np.zeros((2, 2, 1, 1), np.float32)
    with pytest.raises(RewriteError, match="or it has not one axis"):
        lowered(model_of("Conv", {"a": a}, {"b": weights}), {"a": a})
    a, weights = np.zeros((1, 2, 4), np.float32), np.zeros((2, 2, 3), np.float32)
    with pytest.raises(RewriteError, match="its padding is not said in numbers"):
        lowered(model_of("Conv", {"a": a}, {"b": weights}, auto_pad="SAME_UPPER"), {"a": a})
    with pytest.raises(NotImplementedError, match="padding by a word"):
        TABLE["conv"](lambda name, default=None: {"x": a, "weight": weights}.get(name, default))
