"""Weights that the compiler cut: each is found in its real engine, and in none that was changed by
a block, a row or a bit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from goldfold.exporter.ir import onnx_file as onnxfile
from goldfold.targets.tensorrt import build, proof, vendor
from goldfold.targets.tensorrt.cuts import Piece
from tests.targets.tensorrt.compiling import compiled, twin

pytestmark = pytest.mark.skipif(
    vendor.builder() != vendor.RTX, reason="TensorRT for RTX, which needs no GPU, is not installed"
)

ATTENTION = """
f (F[B,T,64] x, F[64,192] w, F[192] b) => (F[B,T,64] y)
{
    p = MatMul(x, w)
    a = Add(p, b)
    five = Constant <value_ints: ints = [0, 0, 3, 2, 32]> ()
    r = Reshape(a, five)
    zero = Constant <value_int: int = 0> ()
    one = Constant <value_int: int = 1> ()
    two = Constant <value_int: int = 2> ()
    q0 = Gather <axis: int = 2> (r, zero)
    k0 = Gather <axis: int = 2> (r, one)
    v0 = Gather <axis: int = 2> (r, two)
    q = Transpose <perm: ints = [0, 2, 1, 3]> (q0)
    k = Transpose <perm: ints = [0, 2, 3, 1]> (k0)
    v = Transpose <perm: ints = [0, 2, 1, 3]> (v0)
    s = MatMul(q, k)
    e = Softmax <axis: int = -1> (s)
    m = MatMul(e, v)
    t = Transpose <perm: ints = [0, 2, 1, 3]> (m)
    three = Constant <value_ints: ints = [0, 0, 64]> ()
    y = Reshape(t, three)
}
"""
EXPERTS = """
f (F[B,T,64] x, F[3,64,96] w) => (F[B,T,48] y)
{
    zero = Constant <value_int: int = 0> ()
    one = Constant <value_int: int = 1> ()
    two = Constant <value_int: int = 2> ()
    w0 = Gather <axis: int = 0> (w, zero)
    w1 = Gather <axis: int = 0> (w, one)
    w2 = Gather <axis: int = 0> (w, two)
    h0 = MatMul(x, w0)
    h1 = MatMul(x, w1)
    h2 = MatMul(x, w2)
    a0, b0 = Split <axis: int = -1, num_outputs: int = 2> (h0)
    a1, b1 = Split <axis: int = -1, num_outputs: int = 2> (h1)
    a2, b2 = Split <axis: int = -1, num_outputs: int = 2> (h2)
    d0 = Mul(a0, b0)
    d1 = Mul(a1, b1)
    d2 = Mul(a2, b2)
    s = Add(d0, d1)
    y = Add(s, d2)
}
"""
TOGETHER = """
f (F[3,B,64] x, F[3,64,128] w) => (F[3,B,64] y)
{
    h = MatMul(x, w)
    a, b = Split <axis: int = -1, num_outputs: int = 2> (h)
    g = Gelu(a)
    y = Mul(g, b)
}
"""
COLUMNS = """
f (F[B,64] x, F[192,64] w, F[192] b) => (F[B,64] y)
{
    h = Gemm <transB: int = 1> (x, w, b)
    q, k, v = Split <axis: int = -1, num_outputs: int = 3> (h)
    m = Mul(q, k)
    y = Add(m, v)
}
"""
CUTS = {
    "attention, fp16": ATTENTION.replace("F[", "float16["),
    "attention, fp32": ATTENTION.replace("F[", "float["),
    "attention, bf16": ATTENTION.replace("F[", "bfloat16["),
    "experts, fp16": EXPERTS.replace("F[", "float16["),
    "experts, fp32": EXPERTS.replace("F[", "float["),
    "experts together, fp16": TOGETHER.replace("F[", "float16["),
    "columns, fp16": COLUMNS.replace("F[", "float16["),
}


@dataclass(frozen=True)
class Built:
    folder: Path
    twin: tuple[Path, Path]
    pieces: tuple[Piece, ...]

    def look(self, change: Callable[[bytearray], None]) -> tuple[tuple[str, int], ...]:
        """What is missing in a copy of the engine that was changed."""
        raw = bytearray((self.folder / build.ENGINE).read_bytes())
        change(raw)
        changed = self.folder / "changed.engine"
        changed.write_bytes(raw)
        onnx_file = self.folder / onnxfile.MODEL
        return proof.look(changed, onnx_file, lambda names: self.twin).missing


@pytest.fixture(scope="module", params=CUTS.values(), ids=list(CUTS))
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("cut")
    assert compiled(folder, request.param)["built"]
    second = twin(folder)
    held = proof.look(folder / build.ENGINE, folder / onnxfile.MODEL, lambda names: second)
    assert held.missing == ()
    return Built(folder, second, tuple(held.pieces["w"]))


def rows(piece: Piece) -> list[slice]:
    part = piece.part
    starts = [piece.place + at * piece.stride for at in range(part.bottom - part.top)]
    return [slice(start, start + part.right - part.left) for start in starts]


def bytes_of(raw: bytearray, piece: Piece) -> list[bytes]:
    return [bytes(raw[row]) for row in rows(piece)]


def lay(raw: bytearray, piece: Piece, lines: list[bytes]) -> None:
    for row, line in zip(rows(piece), lines, strict=True):
        raw[row] = line


def test_a_cut_weight_is_found_with_a_twin_and_not_without(built: Built) -> None:
    assert len(built.pieces) > 1
    assert built.look(lambda raw: None) == ()
    onnx_file = built.folder / onnxfile.MODEL
    (missing,) = proof.look(built.folder / build.ENGINE, onnx_file).missing
    assert missing[0] == "w"
    area = sum((p.part.bottom - p.part.top) * (p.part.right - p.part.left) for p in built.pieces)
    assert area == missing[1]  # every byte once


def is_lost(built: Built, change: Callable[[bytearray], None]) -> bool:
    return [name for name, _ in built.look(change)] == ["w"]


def test_a_flipped_bit_in_any_piece_is_seen(built: Built) -> None:
    rng = np.random.default_rng(0)
    for piece in built.pieces:
        for _ in range(4):
            row = rows(piece)[rng.integers(len(rows(piece)))]
            at, bit = int(rng.integers(row.start, row.stop)), int(rng.integers(8))

            def flip(raw: bytearray, at: int = at, bit: int = bit) -> None:
                raw[at] ^= 1 << bit

            assert is_lost(built, flip)


def test_a_piece_of_zeros_or_of_other_numbers_is_seen(built: Built) -> None:
    for piece in built.pieces:
        lines = len(rows(piece))
        width = piece.part.right - piece.part.left
        zeros = [bytes(width)] * lines
        others = [np.random.default_rng(at).bytes(width) for at in range(lines)]
        assert is_lost(built, lambda raw, piece=piece, new=zeros: lay(raw, piece, new))
        assert is_lost(built, lambda raw, piece=piece, new=others: lay(raw, piece, new))


def alike(built: Built) -> list[tuple[Piece, Piece]]:
    """Pairs of pieces of one size."""
    sizes = [(len(rows(p)), p.part.right - p.part.left) for p in built.pieces]
    pairs = pairwise(zip(built.pieces, sizes, strict=True))
    return [(a, b) for (a, of_a), (b, of_b) in pairs if of_a == of_b]


def test_two_pieces_that_changed_places_are_seen(built: Built) -> None:
    """Every byte of the weight is still there."""
    assert alike(built)
    for a, b in alike(built):

        def exchange(raw: bytearray, a: Piece = a, b: Piece = b) -> None:
            of_a, of_b = bytes_of(raw, a), bytes_of(raw, b)
            lay(raw, a, of_b)
            lay(raw, b, of_a)

        assert is_lost(built, exchange)


def test_a_doubled_piece_is_seen(built: Built) -> None:
    for a, b in alike(built):
        assert is_lost(built, lambda raw, a=a, b=b: lay(raw, a, bytes_of(raw, b)))
        assert is_lost(built, lambda raw, a=a, b=b: lay(raw, b, bytes_of(raw, a)))


def test_rows_that_changed_places_are_seen(built: Built) -> None:
    for piece in built.pieces:

        def turn(raw: bytearray, piece: Piece = piece) -> None:
            lines = bytes_of(raw, piece)
            lay(raw, piece, [*lines[1:], lines[0]])

        assert is_lost(built, turn)


def test_a_piece_that_stands_elsewhere_alone_is_lost(built: Built) -> None:
    """Its bytes are in the file, where nothing reads them."""
    piece = built.pieces[0]

    def move(raw: bytearray) -> None:
        lines = bytes_of(raw, piece)
        lay(raw, piece, [bytes(len(line)) for line in lines])
        body = b"".join(lines)
        raw[4096 : 4096 + len(body)] = body

    assert is_lost(built, move)


def test_the_engine_of_other_numbers_is_seen(built: Built) -> None:
    other = built.twin[0].read_bytes()

    def replace(raw: bytearray) -> None:
        raw[:] = other

    assert "w" in [name for name, _ in built.look(replace)]


@pytest.mark.parametrize("change", ["exchanged", "zeroed", "doubled"])
def test_an_onnx_file_whose_blocks_differ_from_the_engine_s_is_seen(
    built: Built, change: str, tmp_path: Path
) -> None:
    """The twin is built from that file, as an export would."""
    folder = Path(shutil.copytree(built.folder, tmp_path / "other"))
    tensor = ir.load(folder / onnxfile.MODEL).graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    raw = np.memmap(
        folder / onnxfile.DATA, np.uint8, "r+", tensor.offset or 0, (int(tensor.nbytes),)
    )
    held: np.ndarray = raw.view(tensor.dtype.numpy()).reshape(tensor.numpy().shape)
    if held.ndim == 3 or held.shape[0] > held.shape[1]:  # experts, or columns as rows
        first, last = held[: held.shape[0] // 3], held[-(held.shape[0] // 3) :]
    else:
        first, last = held[:, : held.shape[1] // 3], held[:, -(held.shape[1] // 3) :]
    was = first.copy()
    first[:] = 0 if change == "zeroed" else last
    if change == "exchanged":
        last[:] = was
    raw.flush()
    second = twin(folder)
    found = proof.look(folder / build.ENGINE, folder / onnxfile.MODEL, lambda names: second)
    assert [name for name, _ in found.missing] == ["w"]
