"""A few mutants of every kind: each must die. `python -m benchmarks.mutants` draws hundreds, over
all targets."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.mutants import drawing, stages
from tests.mutants.bases import Base
from tests.mutants.change import Change, Subject
from tests.mutants.conftest import FEW
from tests.mutants.constants import put
from tests.mutants.graph import opened

FLAT, SEVEN, OPENVINO, WORDY = (base.name for base in FEW)

CASES: tuple[tuple[str, str, str, int], ...] = (
    ("rows", "writer", WORDY, 6),
    ("rows", "model", WORDY, 2),
    ("columns", "writer", FLAT, 1),
    ("columns", "model", SEVEN, 0),
    ("heads", "model", OPENVINO, 0),
    ("heads", "alone", SEVEN, 3),
    ("blocks", "writer", SEVEN, 2),
    ("blocks", "alone", SEVEN, 1),
    ("scales", "writer", SEVEN, 0),
    ("zero-points", "writer", SEVEN, 0),
    ("biases", "writer", WORDY, 0),
    ("biases", "model", WORDY, 2),
    ("gains", "alone", FLAT, 0),
    ("positions", "writer", OPENVINO, 0),
    ("positions", "model", WORDY, 1),
    ("axes", "alone", OPENVINO, 0),
    ("windows", "writer", FLAT, 0),
    ("windows", "model", SEVEN, 1),
    ("epsilons", "writer", FLAT, 0),
    ("activations", "writer", WORDY, 0),
    ("activations", "alone", FLAT, 1),
    ("pooling", "alone", OPENVINO, 0),
    ("ids", "writer", WORDY, 0),
    ("batches", "writer", FLAT, 1),
    ("batches", "alone", OPENVINO, 2),
    ("prompts", "writer", FLAT, 4),
    ("prompts", "alone", FLAT, 2),
    ("tokenizer", "writer", WORDY, 7),
    ("tokenizer", "model", WORDY, 4),
    ("companions", "writer", OPENVINO, 3),
    ("companions", "model", OPENVINO, 4),
    ("contract", "model", FLAT, 4),
    ("contract", "writer", FLAT, 2),
)  # fmt: skip


@pytest.mark.parametrize(("kind", "stage", "artifact", "seed"), CASES)
def test_a_mutant_dies(
    kind: str,
    stage: str,
    artifact: str,
    seed: int,
    sound: dict[str, Base],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = sound[artifact]
    monkeypatch.setitem(os.environ, "GOLDFOLD_CACHE", str(base.room / "cache"))

    def mutate(subject: Subject) -> Change:
        return drawing.KINDS[kind](np.random.default_rng(seed), subject)

    found = stages.run(stage, kind, base, mutate, tmp_path)
    assert found.change is not None and not found.change.same, "it is no wrong artifact"
    assert found.killed, f"{found.change.what}: {found.how} {found.said}"


@pytest.mark.parametrize("stage", ["model", "alone"])
def test_an_artifact_that_is_only_sealed_anew_passes(
    stage: str, sound: dict[str, Base], tmp_path: Path
) -> None:
    for name, base in sound.items():
        place = tmp_path / base.name.replace("/", "-")
        place.mkdir()
        found = stages.run(stage, "none", base, lambda subject: Change("nothing"), place)
        assert found.how == "passed", f"{name}: {found.said}"


def test_every_kind_is_tried() -> None:
    assert {case[0] for case in CASES} == set(drawing.KINDS)


def test_a_number_says_everything(sound: dict[str, Base], tmp_path: Path) -> None:
    bases = tuple(sound.values())
    first, again = (drawing.draw(56, bases, tmp_path) for _ in range(2))
    assert first == again


def test_the_same_function_is_known_by_a_proof(sound: dict[str, Base], tmp_path: Path) -> None:
    """A bias of the keys cannot matter, nor a row that is exchanged with its equal."""
    base = sound[WORDY]
    folder = tmp_path / "artifact"
    shutil.copytree(base.folder, folder)
    subject, rng = Subject(base, folder), np.random.default_rng(0)
    graph = opened(folder, base.target)
    key, query = (
        next(c for n, c in graph.constants.items() if f"{word}.bias" in n)
        for word in ("key", "query")
    )
    assert "softmax" in put(rng, subject, graph, key, 2 * key.array, "").same
    assert not put(rng, subject, graph, query, 2 * query.array, "").same
    assert "not a bit" in put(rng, subject, graph, query, query.array.copy(), "").same
