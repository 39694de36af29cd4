"""Matrices are found in an engine in every order in which compilers hold them, and only there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from goldfold.golden.proof.check import check
from tests.golden.proof import proof_toys as toys

RANDOM = np.random.default_rng(5)
MATRIX = RANDOM.normal(size=(48, 96)).astype(np.float16)
KERNEL = RANDOM.normal(size=(16, 48, 3)).astype(np.float32)
TABLE = RANDOM.integers(-128, 128, size=(64, 80)).astype(np.int8)
FOUR = RANDOM.integers(-8, 8, size=(64, 160)).astype(ml_dtypes.int4)
BESIDE = RANDOM.normal(size=(48, 24)).astype(np.float16)
GAP = RANDOM.bytes(100)


def apart(blocks: list[np.ndarray]) -> bytes:
    """Blocks with other bytes between."""
    return GAP.join(map(toys.raw, blocks))


ORDERS: dict[str, tuple[np.ndarray, Callable[[np.ndarray], bytes]]] = {
    "whole": (MATRIX, toys.raw),
    "transposed": (MATRIX, lambda a: toys.raw(a.T)),
    "beside another": (MATRIX, lambda a: toys.raw(np.concatenate([BESIDE, a, BESIDE], 1))),
    "columns of heads": (MATRIX, lambda a: apart(np.split(a, 3, 1))),
    "rows of heads": (MATRIX, lambda a: apart(np.split(a, 4, 0))),
    "transposed heads": (MATRIX, lambda a: apart([b.T for b in np.split(a, 6, 1)])),
    "kernel": (KERNEL, toys.raw),
    "kernel, channels last": (KERNEL, lambda a: toys.raw(a.transpose(0, 2, 1))),
    "integers": (TABLE, toys.raw),
    "integers, transposed": (TABLE, lambda a: toys.raw(a.T)),
    "four bits": (FOUR, toys.raw),
    "four bits, transposed": (FOUR, lambda a: toys.raw(a.T)),
}


def artifact(folder: Path, matrix: np.ndarray, held: bytes) -> Path:
    toys.write("onnx", folder, {"w": matrix, "bias": np.ones(5000, np.float32)})
    (folder / "model.engine").write_bytes(RANDOM.bytes(5001) + held + RANDOM.bytes(777))
    return folder


@pytest.mark.parametrize("order", ORDERS)
def test_matrices_are_found(tmp_path: Path, order: str) -> None:
    matrix, hold = ORDERS[order]
    assert not check(artifact(tmp_path, matrix, hold(matrix)), toys.text(), None).unfound


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("where", [0.0, 0.37, 0.9999])
def test_wrong_matrices_are_not_found(tmp_path: Path, order: str, where: float) -> None:
    matrix, hold = ORDERS[order]
    held = bytearray(hold(matrix))
    at = int(where * len(held))
    while not _within(held, at):
        at += 1 if where < 0.5 else -1
    held[at] ^= 1
    unfound = check(artifact(tmp_path, matrix, bytes(held)), toys.text(), None).unfound
    assert [one.constant for one in unfound] == ["w"] and "nowhere" in unfound[0].sentence


def _within(held: bytearray, at: int) -> bool:
    """Whether a byte is one of the matrix, and not of what stands between or beside."""
    between = held.find(GAP)
    while between >= 0:
        if between <= at < between + len(GAP):
            return False
        between = held.find(GAP, between + 1)
    beside, width = toys.raw(BESIDE), BESIDE.nbytes // len(BESIDE)
    return not any(
        held[max(0, at - shift) :][:width] == beside[row * width :][:width]
        for row in range(len(BESIDE))
        for shift in range(width)
    )


def test_zeros_are_found_where_there_are_as_many(tmp_path: Path) -> None:
    zeros = np.zeros((64, 64), np.float32)
    assert not check(artifact(tmp_path, zeros, bytes(zeros.nbytes)), toys.text(), None).unfound
    assert check(artifact(tmp_path, zeros, bytes(zeros.nbytes - 9)), toys.text(), None).unfound


@pytest.mark.parametrize("size", [1, 8, 16])
def test_rows_and_heads_that_changed_places_are_not_found(tmp_path: Path, size: int) -> None:
    for matrix in (MATRIX, MATRIX.T):
        swapped = matrix.copy()
        swapped[:size], swapped[2 * size : 3 * size] = (
            matrix[2 * size : 3 * size], matrix[:size],
        )  # fmt: skip
        held = toys.raw(swapped if matrix is MATRIX else swapped.T)
        assert check(artifact(tmp_path, MATRIX, held), toys.text(), None).unfound
