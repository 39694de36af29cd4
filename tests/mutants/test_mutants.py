"""A few mutants of every kind: each must die, and those that nothing kills yet are named with the
reason. `python -m benchmarks.mutants` draws hundreds, over all targets."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.mutants import drawing, stages
from tests.mutants.bases import Base
from tests.mutants.change import Change, Subject

# (kind, stage, artifact, seed, why it survives)
CASES: tuple[tuple[str, str, str, int, str], ...] = ()


def _parameter(case: tuple[str, str, str, int, str]):
    kind, stage, artifact, seed, why = case
    marks = [pytest.mark.xfail(strict=True, reason=why)] if why else []
    return pytest.param(*case[:4], id=f"{kind}-{stage}-{artifact}-{seed}", marks=marks)


@pytest.mark.parametrize(("kind", "stage", "artifact", "seed"), map(_parameter, CASES))
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
    first, again = (drawing.draw(16, bases, tmp_path) for _ in range(2))
    assert first == again


def test_the_same_function_is_known_by_a_proof(sound: dict[str, Base], tmp_path: Path) -> None:
    """A bias of the keys cannot matter, nor a row that is exchanged with its equal."""
    from tests.mutants.constants import _put
    from tests.mutants.graph import opened

    base = sound["bert-wide/onnxruntime-fp32"]
    import shutil

    folder = tmp_path / "artifact"
    shutil.copytree(base.folder, folder)
    subject, rng = Subject(base, folder), np.random.default_rng(0)
    graph = opened(folder, base.target)
    key, query = (
        next(c for n, c in graph.constants.items() if f"{word}.bias" in n)
        for word in ("key", "query")
    )
    assert "softmax" in _put(rng, subject, graph, key, 2 * key.array, "").same
    assert not _put(rng, subject, graph, query, 2 * query.array, "").same
    assert "not a bit" in _put(rng, subject, graph, query, query.array.copy(), "").same
