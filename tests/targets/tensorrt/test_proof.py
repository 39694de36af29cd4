"""The search for weights in an engine's bytes: found as they are, in rows, and not otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from goldfold.exporter.passes import docstring
from goldfold.targets.tensorrt import proof

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
    ir.save(docstring.graph(TEXT, weights), path, external_data="model.onnx.data")
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


NARROW = """
f (int64[B] ids, float[B,1024] x, float16[30000,1] s, float[1024,4] w, float[1024,6] v)
    => (float16[B,1] r, float[B,4] y, float[B,6] z)
{
    r = Gather(s, ids)
    y = MatMul(x, w)
    z = MatMul(x, v)
}
"""


def test_rows_of_a_few_bytes_are_found_whole_or_merged(tmp_path: Path) -> None:
    """A scale a token: any two bytes of it stand in many places."""
    rng = np.random.default_rng(4)
    weights = {
        "s": rng.integers(1, 40, (30000, 1)) / 64, "w": rng.normal(size=(1024, 4)),
        "v": rng.normal(size=(1024, 6)),
    }  # fmt: skip
    path = tmp_path / "model.onnx"
    ir.save(docstring.graph(NARROW, weights), path, external_data="model.onnx.data")
    found = weights_of(path)
    merged = np.concatenate([found["w"], found["v"]], axis=1)
    held = proof.look(engine(tmp_path, merged.tobytes(), found["s"].tobytes()), path)
    assert held.missing == () and held.found == sum(array.nbytes for array in found.values())
    other = found["s"].copy()
    other[29999] += 1
    held = proof.look(engine(tmp_path, merged.tobytes(), other.tobytes()), path)
    assert held.missing == (("s", 60000),)


def test_what_is_looked_up_with_is_no_weight(tmp_path: Path) -> None:
    text = """
    f (int64[B,T] at, int64[1,512] types) => (int64[B,T] y)
    {
        y = GatherElements <axis: int = 1> (types, at)
    }
    """
    model = docstring.graph(text, {"types": np.arange(512, dtype=np.int64)[None]})
    path = tmp_path / "model.onnx"
    ir.save(model, path, external_data="model.onnx.data")
    held = proof.look(engine(tmp_path, b"folded"), path)
    assert held.missing == () and held.weights == 0


def test_a_flipped_bit_a_transposed_and_a_widened_weight_are_not_found(
    tmp_path: Path, onnx_file: Path
) -> None:
    found = weights_of(onnx_file)
    w, v = found["w"], found["v"]
    flipped = w.copy()
    flipped.view(np.uint32)[63, 31] ^= 1
    for reference_run in (flipped, w.T.copy(), w.astype(np.float64), w.astype(np.float16)):
        held = proof.look(engine(tmp_path, reference_run.tobytes(), v.tobytes()), onnx_file)
        assert held.missing == (("w", w.nbytes),)
        assert held.found == v.nbytes


INTEGERS = """
f (float16[B,64] x, int4[64,256] w, float16[2,256] s, int8[64,128] v, float[128] t, float[B,64] z,
   float step) => (float16[B,256] y, float[B,128] u)
{
    d = DequantizeLinear <axis: int = 0, block_size: int = 32> (w, s)
    y = MatMul(x, d)
    q = QuantizeLinear(z, step)
    r = DequantizeLinear(q, step)
    e = DequantizeLinear <axis: int = 1> (v, t)
    u = MatMul(r, e)
}
"""


def test_integers_are_found_as_the_compiler_lays_them_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "LEAST", 512)  # so that the scales are looked for
    rng, step = np.random.default_rng(3), np.float32(0.0625)
    fours, bytes_ = rng.integers(-8, 8, (64, 256)), rng.integers(-127, 128, (64, 128))
    blocks = rng.uniform(0.1, 1, (2, 256)).astype(np.float16)
    channels = rng.uniform(0.1, 1, 128).astype(np.float16).astype(np.float32)
    weights = {"w": fours, "s": blocks, "v": bytes_, "t": channels, "step": step}
    path = tmp_path / "model.onnx"
    ir.save(docstring.graph(INTEGERS, weights), path, external_data="model.onnx.data")

    def packed(array: np.ndarray) -> bytes:
        pairs = (array.reshape(-1, 2) & 15).astype(np.uint8)
        return (pairs[:, 0] | pairs[:, 1] << 4).tobytes()

    whole = {
        "w": packed(fours.T),
        "s": blocks.T.tobytes(),
        "v": bytes_.astype(np.int8).tobytes(),
        "t": (channels * step).tobytes(),
    }
    held = proof.look(engine(tmp_path, *whole.values()), path)
    assert held.missing == ()
    assert held.integers == 64 * 256 // 2 + 64 * 128
    # Not what the compiler multiplies by, and not integers but what they stand for.
    dense = (bytes_ * channels).astype(np.float16)
    for name, other in (("t", channels.tobytes()), ("v", dense.tobytes())):
        held = proof.look(engine(tmp_path, *(whole | {name: other}).values()), path)
        assert [missing for missing, _ in held.missing] == [name]


def test_a_missing_weight_and_bytes_too_many_are_faults() -> None:
    size, code = 30_000_000, 9_000_000
    assert proof.Holding(size + code, size, ()).fault(1) is None
    missing = proof.Holding(size + code, size, (("w", 5000),)).fault(1)
    assert missing is not None and "first w (5,000 bytes)" in missing
    more = proof.Holding(2 * size, size, ()).fault(1)
    assert more is not None and "neither weights nor code" in more
