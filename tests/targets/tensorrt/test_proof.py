"""The search for weights in an engine's bytes: found as they are, in rows, and not otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from exporter.passes import law
from targets.tensorrt import proof

TEXT = """
f (float[B,64] x, float[64,32] w, float[64,48] v) => (float[B,32] y, float[B,48] z)
{
    y = MatMul(x, w)
    z = MatMul(x, v)
}
"""


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    weights = {"w": rng.normal(size=(64, 32)), "v": rng.normal(size=(64, 48))}
    path = tmp_path / "model.onnx"
    ir.save(law.graph(TEXT, weights), path, external_data="model.onnx.data")
    return path


def weights_of(onnx_file: Path) -> dict[str, np.ndarray]:
    model = ir.load(onnx_file)
    return {n: v.const_value.numpy() for n, v in model.graph.initializers.items() if v.const_value}


def engine(tmp_path: Path, *parts: bytes) -> Path:
    path = tmp_path / "model.engine"
    path.write_bytes(b"code" * 500 + b"\0".join(parts) + b"code" * 500)
    return path


def test_whole_weights_are_found(tmp_path: Path, onnx_file: Path) -> None:
    parts = [array.tobytes() for array in weights_of(onnx_file).values()]
    held = proof.look(engine(tmp_path, *parts), onnx_file)
    assert held.missing == ()
    assert held.found == held.weights == 64 * 80 * 4
    assert held.fault(1) is None


def test_merged_weights_are_found_row_by_row(tmp_path: Path, onnx_file: Path) -> None:
    merged = np.concatenate(list(weights_of(onnx_file).values()), axis=1)
    held = proof.look(engine(tmp_path, merged.tobytes()), onnx_file)
    assert held.missing == ()


def test_a_flipped_bit_a_transposed_and_a_widened_weight_are_not_found(
    tmp_path: Path, onnx_file: Path
) -> None:
    found = weights_of(onnx_file)
    w, v = found["w"], found["v"]
    flipped = w.copy()
    flipped.view(np.uint32)[63, 31] ^= 1
    for stand_in in (flipped, w.T.copy(), w.astype(np.float64), w.astype(np.float16)):
        held = proof.look(engine(tmp_path, stand_in.tobytes(), v.tobytes()), onnx_file)
        assert held.missing == (("w", w.nbytes),)
        assert held.found == v.nbytes


def test_a_missing_weight_and_bytes_too_many_are_faults() -> None:
    size, code = 30_000_000, 9_000_000
    assert proof.Holding(size + code, size, ()).fault(1) is None
    missing = proof.Holding(size + code, size, (("w", 5000),)).fault(1)
    assert missing is not None and "first w (5,000 bytes)" in missing
    more = proof.Holding(2 * size, size, ()).fault(1)
    assert more is not None and "neither weights nor code" in more
