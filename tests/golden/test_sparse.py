"""Sparse goldens: their form on disk, and what the gate says of wrong sparse encoders."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from goldfold.golden import calling, store, triplets
from goldfold.golden.batching import crowd_of, mixed_batches, tokens_of
from goldfold.golden.compare import measure
from goldfold.golden.errors import GoldenError
from goldfold.golden.gate import judge
from goldfold.golden.make import Opening, make
from goldfold.golden.reference import open_reference
from goldfold.golden.store import Goldens
from goldfold.golden.tasks import NOTHING, SPARSE, least_of, level, strays
from tests import sparse_models

Run = Callable[[np.ndarray, np.ndarray], np.ndarray]
ROWS = np.array([[0, 1.5, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, -2, 0]], np.float32)


def test_triplets_are_the_array_again() -> None:
    packed = triplets.pack(ROWS)
    assert packed is not None and packed.tolist() == [[0, 1, 1.5], [1, 6, -2]]
    assert np.array_equal(triplets.unpack(packed, 2, 8), ROWS)
    assert triplets.pack(np.ones((2, 8), np.float32)) is None


@pytest.mark.parametrize(
    ("spoil", "culprit"),
    [
        (lambda t: t[::-1], "order"),
        (lambda t: t[[0, 0]], "order"),
        (lambda t: np.add(t, [0, 8, 0]), "outside"),
        (lambda t: t - [1, 0, 0], "outside"),
        (lambda t: np.add(t, [0, 0.5, 0]), "outside"),
        (lambda t: np.add(t, [np.nan, 0, 0]), "outside"),
        (lambda t: t * [1, 1, 0], "zero"),
        (lambda t: t * [1, 1, np.inf], "not finite"),
        (lambda t: t.astype(np.float64), "float64"),
        (lambda t: t[:, :2], "not float32"),
    ],
)
def test_triplets_that_nobody_packed(spoil, culprit: str) -> None:
    packed = triplets.pack(ROWS)
    assert packed is not None
    spoilt = spoil(packed)
    kind = np.float64 if culprit == "float64" else np.float32
    with pytest.raises(ValueError, match=culprit):
        triplets.unpack(np.asarray(spoilt, kind), 2, 8)


def test_triplets_of_more_than_goldens_hold() -> None:
    packed = triplets.pack(ROWS)
    assert packed is not None
    for rows, columns in ((1 << 20, 1 << 20), (1 << 16, 1 << 12), (1, 1 << 21), (1, 0)):
        with pytest.raises(ValueError, match="more than any goldens"):
            triplets.unpack(packed, rows, columns)


def test_strays_are_zero_on_one_side_alone() -> None:
    golden = np.array([0.0, 0.0, 2e-6, 0.5e-6, 1.0])
    assert strays(golden, golden, NOTHING) == 0
    assert strays(np.array([0.0, 1e-7, 0.0, 0.0, 1.0]), golden, NOTHING) == 1
    assert strays(np.array([2e-6, 1e-7, 2e-6, 0.0, 0.0]), golden, NOTHING) == 2


def test_units_that_are_nearly_equal_may_change_places() -> None:
    golden = np.array([0.9, 0.5, 0.3, 0.0, 0.0])  # of [0.9, 0.5, 0.3, 0.3 − 1e-7, 0.1] the first 3
    near = np.array([0.9, 0.5, 0.0, 0.3, 0.0])
    e, g = level(near, golden, 3)
    assert np.array_equal(e, [0.9, 0.5, 0.3, 0.3, 0.0]) and np.array_equal(g, e)
    assert strays(near, golden, 1e-6, 3) == 0 and strays(near, golden, 1e-6) == 2
    for far in ([0.9, 0.0, 0.3, 0.3, 0.0], [0.9, 0.5, 0.0, 0.4, 0.0], [0.9, 0.5, 0.3, 0.3, 0.0]):
        e, g = level(np.array(far), golden, 3)
        assert not np.allclose(e, g, atol=0.09) and strays(np.array(far), golden, 1e-6, 3) == 1
    # Fewer than three are positive: what is missing was zero at most.
    e, g = level(np.array([0.9, 0.5, 0.0, 0.0, 0.0]), golden, 3)
    assert np.array_equal(g, golden) and e[2] == 0
    assert level(near, golden, 0)[1] is golden


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sparse_models.build("bert", tmp_path_factory.mktemp("sparse") / "splade")


@pytest.fixture(scope="module")
def goldens(folder: Path) -> Goldens:
    return make(folder, name="splade", digests={"a": "b"}, opening=Opening(task=SPARSE))


def test_goldens_are_rounded_weights_of_a_text(goldens: Goldens) -> None:
    assert goldens.dim == 400 and goldens.task == SPARSE and not goldens.normalized
    assert 0 < goldens.rounding < 1e-5
    assert (goldens.embeddings >= 0).all() and 0.2 < (goldens.embeddings > 0).mean() < 0.8


def test_goldens_are_stored_and_read(goldens: Goldens, tmp_path: Path) -> None:
    few = np.where(goldens.embeddings > 2.0, goldens.embeddings, 0).astype(np.float32)
    kept = np.flatnonzero(few.any(axis=1))
    thin = replace(goldens, embeddings=few[kept], cases=tuple(goldens.cases[at] for at in kept))
    for number, one in enumerate((goldens, thin)):
        store.save(one, tmp_path / str(number))
        found = store.load(tmp_path / str(number))
        assert np.array_equal(found.embeddings, one.embeddings)
        assert (found.task, found.rounding) == (SPARSE, one.rounding)
    sizes = [(tmp_path / str(n) / "embeddings.npy").stat().st_size for n in (0, 1)]
    assert sizes[1] < sizes[0] / 2


def test_triplets_belong_to_sparse_goldens(goldens: Goldens, tmp_path: Path) -> None:
    few = np.where(goldens.embeddings > goldens.embeddings.max(1, keepdims=True) - 0.1, 1, 0)
    store.save(replace(goldens, embeddings=few.astype(np.float32)), tmp_path / "g")
    file = tmp_path / "g" / "golden.json"
    text = file.read_text("utf-8")
    file.write_text(text.replace('"task": "sparse"', '"task": "scores"'), "utf-8")
    with pytest.raises(GoldenError, match="sparse vectors alone"):
        store.load(tmp_path / "g")
    file.write_text(text, "utf-8")
    numbers = tmp_path / "g" / "embeddings.npy"
    raw = numbers.read_bytes()
    numbers.write_bytes(raw[:-4] + np.float32(np.nan).tobytes())
    spoilt = hashlib.sha256(numbers.read_bytes()).hexdigest()
    file.write_text(text.replace(hashlib.sha256(raw).hexdigest(), spoilt), "utf-8")
    with pytest.raises(GoldenError, match="not finite"):
        store.load(tmp_path / "g")


def torch_run(folder: Path, change: Callable[[object], None] = lambda model: None) -> Run:
    import torch

    model = open_reference(folder, False, SPARSE)
    change(model)

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        given = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        with torch.inference_mode():
            return model(given)["sentence_embedding"].numpy()

    return run


def kinds(run: Run, goldens: Goldens, precision: str = "fp32") -> set[str]:
    found = judge(measure(run, goldens), [], precision, goldens).reasons
    assert all(reason.sentence for reason in found)
    ways = calling.judge(calling.measure(run, goldens, threads=0), precision)
    assert found or not ways  # the latter sees fewer texts
    return {reason.kind for reason in found}


def test_the_model_passes(folder: Path, goldens: Goldens) -> None:
    assert not kinds(torch_run(folder), goldens)


def test_a_column_that_is_lost(folder: Path, goldens: Goldens) -> None:
    run = torch_run(folder)
    column = int(goldens.embeddings.max(0).argmax())

    def without(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        rows = run(ids, mask).copy()
        rows[:, column] = 0
        return rows

    assert {"distance", "nonzeros"} <= kinds(without, goldens)


def test_weights_too_small_for_the_cosine(folder: Path, goldens: Goldens) -> None:
    run, least = torch_run(folder), least_of(goldens.embeddings, goldens.rounding)
    weights = np.sort(goldens.embeddings[goldens.embeddings > least])
    smallest = 1.5 * weights[0]
    assert 1e-6 < least < weights[0] < 3e-3

    def without(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        rows = run(ids, mask).copy()
        rows[rows < smallest] = 0
        return rows

    def more(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return run(ids, mask) + np.float32(1.1 * least)

    for wrong in (without, more):
        assert kinds(wrong, goldens) == {"nonzeros"}
        assert not kinds(wrong, goldens, "fp16")


def test_sum_for_max(folder: Path, goldens: Goldens) -> None:
    def change(model) -> None:
        model[1].pooling_strategy = "sum"

    assert "distance" in kinds(torch_run(folder, change), goldens, "int8-weights")


def test_a_logarithm_too_few_and_too_many(folder: Path, goldens: Goldens) -> None:
    run = torch_run(folder)
    assert "distance" in kinds(lambda ids, mask: np.expm1(run(ids, mask)), goldens, "fp16")
    assert "distance" in kinds(lambda ids, mask: np.log1p(run(ids, mask)), goldens, "fp16")


@pytest.fixture(scope="module")
def csr(tmp_path_factory: pytest.TempPathFactory) -> tuple[Goldens, Run]:
    scratch = tmp_path_factory.mktemp("csr")
    made = sparse_models.csr("bert", scratch / "model", scratch / "dense")
    return make(
        made, name="csr", digests={"a": "b"}, opening=Opening(task=SPARSE), only=FEW
    ), torch_run(made)


FEW = ("card-query", "german-query", "chinese", "one-letter", "length-16")


def test_goldens_of_units_are_stored_and_read(csr: tuple[Goldens, Run], tmp_path: Path) -> None:
    goldens, _ = csr
    assert goldens.units == 16 and ((goldens.embeddings > 0).sum(1) == 16).all()
    assert 0 < goldens.rounding < 1e-5
    store.save(goldens, tmp_path / "g")
    found = store.load(tmp_path / "g")
    assert found.units == 16 and np.array_equal(found.embeddings, goldens.embeddings)
    file = tmp_path / "g" / "golden.json"
    file.write_text(file.read_text("utf-8").replace('"units": 16', '"units": 15'), "utf-8")
    with pytest.raises(GoldenError, match="'units' is 15"):
        store.load(tmp_path / "g")


def test_a_unit_too_many_another_and_a_smaller_one(csr: tuple[Goldens, Run]) -> None:
    goldens, run = csr
    assert not kinds(run, goldens)

    def changed(change: Callable[[np.ndarray, np.ndarray], None]) -> Run:
        def made(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            rows = run(ids, mask).copy()
            for row in rows:
                change(row, np.argsort(-row))
            return rows

        return made

    def more(row: np.ndarray, order: np.ndarray) -> None:
        row[order[-1]] = row[order[15]]

    def fewer(row: np.ndarray, order: np.ndarray) -> None:
        row[order[15]] = 0

    def other(row: np.ndarray, order: np.ndarray) -> None:
        row[order[0]], row[order[-1]] = 0, row[order[0]]

    def rounded(row: np.ndarray, order: np.ndarray) -> None:
        row[order[15]], row[order[-1]] = 0, row[order[15]]

    for wrong in (more, fewer, other):
        assert {"distance", "nonzeros"} <= kinds(changed(wrong), goldens)
        assert "distance" in kinds(changed(wrong), goldens, "fp16")
    assert not kinds(changed(rounded), goldens)  # its place is taken by an equal one


def test_batches_of_a_large_vocabulary_are_small(goldens: Goldens) -> None:
    lengths = [len(case.token_ids) for case in goldens.cases]
    room = tokens_of(replace(goldens, dim=1 << 20))
    assert room == 128
    for rows in mixed_batches(lengths, most=room):
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= room
    crowd = crowd_of(lengths, room)
    assert len(crowd) > 1 and len(crowd) * max(lengths[row] for row in crowd) <= room
    for _, rows in calling.batches(lengths, room):
        most = max(lengths[row] for row in rows)
        assert len(rows) * most <= max(room, len(rows) * min(lengths)) or len(set(rows)) == 1
    assert tokens_of(replace(goldens, task="embedding")) is None
