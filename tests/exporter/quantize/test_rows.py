"""Rows of activations that are rounded at run time: how far off they may be, that a row depends on
no other, and that no sum of 16 bits is cut."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goldfold import export, load
from goldfold.exporter.artifact.encoder import Encoder
from goldfold.exporter.passes.rewriting.grid import PAIR, Grid, nearest, paired
from goldfold.exporter.passes.round_rows import RoundRows
from goldfold.exporter.quantize.gptq import Order, compensated
from goldfold.golden import make as golden_make
from goldfold.targets.onnxruntime.run import census
from tests.conftest import GOLDEN_TEXTS
from tests.exporter.passes import harness

_INPUTS, _CHANNELS = 16, 5
_TEXT = """f (float[B,T,16] x, int8[16,5] w, float[5] s) => (float[B,T,5] y)
{
    d = DequantizeLinear <axis: int = 1> (w, s)
    y = MatMul(x, d)
}"""


def _weights(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    wide = rng.integers(-127, 128, (_CHANNELS, _INPUTS)).astype(np.int8)
    scale = rng.uniform(0.001, 0.1, _CHANNELS).astype(np.float32)
    return {"w": np.ascontiguousarray(paired(wide).T), "s": scale}


def _rounded(law: RoundRows, weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    model = harness.build(_TEXT, weights)
    assert law.rewrite(model).applied
    return harness.runtime(model, {"x": x})[0]


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("kept", [(), (3, 7)])
@given(seed=st.integers(0, 1 << 20), size=st.sampled_from([1e-20, 1.0, 1e20]))
@settings(max_examples=10, deadline=None)
def test_an_error_is_half_a_step_of_its_row(parts: int, kept, seed: int, size: float) -> None:
    weights, rng = _weights(seed), np.random.default_rng(seed)
    x = (rng.standard_normal((2, 3, _INPUTS)) * rng.lognormal(size=(2, 3, 1)) * size).astype("f")
    x[..., 3] *= 100
    law = RoundRows(always=True, kept={"x": kept}, parts={"w": parts})
    got = _rounded(law, weights, x).astype(np.float64)
    matrix = weights["w"].astype(np.float64) * weights["s"]
    exact = x.astype(np.float64) @ matrix
    left = np.delete(np.arange(_INPUTS), kept)
    step = np.abs(x[..., left]).max(axis=-1, keepdims=True) / 127
    bound = step / 2 / (254 if parts == 2 else 1) * np.abs(matrix[left]).sum(axis=0)
    slack = 1e-5 * (np.abs(x).astype(np.float64) @ np.abs(matrix))
    assert (np.abs(got - exact) <= bound + slack).all()


def test_a_row_depends_on_no_other() -> None:
    weights, rng = _weights(1), np.random.default_rng(1)
    x = rng.standard_normal((4, 7, _INPUTS)).astype(np.float32)
    law = RoundRows(always=True, kept={"x": (2,)}, parts={"w": 2})
    alone = _rounded(law, weights, x[:1])
    x[1:] *= 1e6
    x[0, 5:] = 0
    among = _rounded(law, weights, x)
    assert np.array_equal(alone[0, :5], among[0, :5])
    assert not among[0, 5:].any()  # rows of zeros, and no NaN


@given(seed=st.integers(0, 1 << 20), inputs=st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_no_sum_of_two_products_leaves_16_bits(seed: int, inputs: int) -> None:
    rng = np.random.default_rng(seed)
    wide = rng.integers(-127, 128, (4, inputs)).astype(np.int8)
    found = paired(wide).astype(np.int64)
    ends = np.stack([np.where(found > 0, 255, 0), np.where(found < 0, 255, 0)])
    products = (ends * found)[..., : inputs // 2 * 2].reshape(2, 4, -1, 2).sum(axis=-1)
    assert products.max(initial=0) <= 32_767 and products.min(initial=0) >= -32_768
    fits = np.abs(found).sum() == np.abs(wide.astype(np.int64)).sum()
    assert fits == np.array_equal(found, wide) and np.array_equal(paired(found), found)


@pytest.mark.parametrize("inputs", [64, 63])
def test_the_error_of_paired_weights_goes_to_the_others(inputs: int) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((32, inputs)).astype(np.float32)
    x = rng.standard_normal((1000, 16)) @ rng.standard_normal((16, inputs))  # few directions
    grid = Grid(8, pairs=True)
    near = nearest(matrix, grid, search=False)
    moved = compensated(matrix, grid, Order.of(x.T @ x / len(x)))
    for found in (near, moved):
        assert np.array_equal(paired(found.numbers), found.numbers)
        both = (
            np.abs(found.numbers.astype(int)[:, : inputs // 2 * 2]).reshape(32, -1, 2).sum(axis=-1)
        )
        assert both.max() > 100  # the room is used
    errors = [np.linalg.norm(x @ (found.dense() - matrix).T) for found in (near, moved)]
    assert errors[1] < 0.7 * errors[0]
    assert PAIR * 255 < 1 << 15


@pytest.fixture(scope="module")
def exported(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden_make, "make", partial(golden_make.make, only=GOLDEN_TEXTS))
        out = tmp_path_factory.mktemp("rows") / "out"
        found = export(tiny, ["onnxruntime"], ["int8", "int8-weights"], out, locate=False)
    return {one.bundle.name.removeprefix("onnxruntime-"): one.path for one in found}


def test_a_session_without_options_computes_what_was_verified(exported: dict[str, Path]) -> None:
    ids = np.random.default_rng(0).integers(5, 200, (3, 9))
    mask = np.ones_like(ids)
    for path in exported.values():
        file = str(path / "model.onnx")
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        plain = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        assert np.array_equal(plain, np.concatenate(list(_called(path, [ids]))))


def test_integers_are_multiplied_or_unpacked_when_the_file_is_opened(
    exported: dict[str, Path],
) -> None:
    rounded = census(exported["int8"])
    assert rounded["MatMulInteger"] > 5 and "com.microsoft.MatMulNBits" not in rounded
    floats = census(exported["int8-weights"])
    assert floats["MatMul"] > 5
    assert not {"MatMulInteger", "com.microsoft.MatMulNBits"} & floats.keys()


def test_a_text_does_not_depend_on_its_neighbours(exported: dict[str, Path]) -> None:
    """Integer sums are exact. The rest are float kernels, which add in another order for another
    shape: components are at most 1, so 1e-6 is 16 roundings of 2^-24; 4e-8 was seen."""
    ids = np.random.default_rng(1).integers(5, 200, (8, 12))
    together = next(_called(exported["int8"], [ids]))
    alone = np.concatenate(list(_called(exported["int8"], [row[None] for row in ids])))
    assert np.abs(together - alone).max() < 1e-6


def _called(path: Path, batches: list[np.ndarray]) -> Iterator[np.ndarray]:
    encoder = load(path)
    assert isinstance(encoder, Encoder)
    for ids in batches:
        yield encoder.call(ids, np.ones_like(ids))
