"""`goldfold judge`: figures of a good artifact and of a spoilt one, the limit, the cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from goldfold.exporter.artifact.encoder import Encoder
from tests import models
from tests.exporter.cli.outcome import Run, names, refused

FEW = ("--pairs", 40, "--threads", 1)


pytestmark = pytest.mark.usefixtures("few_pairs")


def test_good_artifacts_lose_nothing_and_the_reference_is_kept(
    goldfold: Run, artifacts: dict[str, Path], tiny: Path, tmp_path: Path
) -> None:
    pytest.importorskip("gensim")
    file = tmp_path / "judging.json"
    folders, before = list(artifacts.values()), [names(path) for path in artifacts.values()]
    outcome = goldfold(
        "judge", *folders, "--model", tiny, *FEW, "--json", file, "--quiet", "--limit", "3%"
    )
    assert (outcome.code, outcome.err) == (0, ""), outcome
    assert "retrieval nDCG@10" in outcome.out and "rank agreement" in outcome.out
    found = json.loads(file.read_text())
    assert [one["artifact"] for one in found] == [path.name for path in folders]
    for one in found:
        assert one["missing"] == []
        plain = [m for m in one["metrics"] if "embeddings" not in m["name"]]
        assert len(plain) == 10
        # Of a random model's near-zero correlation with people, a swapped pair is a visible share.
        assert all(abs(m["artifact"] - m["reference"]) < 1e-4 for m in plain)
        assert all(m["reference"] > 0.3 for m in plain if m["name"].startswith("retrieval"))
    assert [names(path) for path in folders] == before  # nothing is written beside the files
    again = goldfold("judge", folders[0], *FEW, "--quiet")  # no --model: the cache has it all
    assert again.code == 0


def test_spoilt_embeddings_exceed_the_limit(
    goldfold: Run, artifacts: dict[str, Path], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed, random = Encoder.embed, np.random.default_rng(1)

    def spoilt(self: Encoder, texts: Sequence[str], **options) -> np.ndarray:
        rows = embed(self, texts, **options)
        return rows + 0.2 * random.standard_normal(rows.shape)

    monkeypatch.setattr(Encoder, "embed", spoilt)
    folder = artifacts["onnxruntime"]
    asked = ("judge", folder, "--model", tiny, *FEW, "--quiet", "--skip", "lee")
    assert goldfold(*asked).code == 0
    outcome = goldfold(*asked, "--limit", "0.5%")
    assert outcome.code == 1
    assert outcome.err.startswith("error: more than 0.50% lost")
    assert str(folder) in outcome.err and len(outcome.err.splitlines()) == 1


def test_missing_lee_is_said(
    goldfold: Run, artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goldfold.golden.judging.lee._folder", lambda: None)
    outcome = goldfold("judge", artifacts["onnxruntime"], "--skip", "retrieval", "--quiet")
    assert outcome.code == 0
    assert "left out: the Lee corpus comes with gensim" in outcome.err
    assert "rank agreement" in outcome.out


def test_bad_input(goldfold: Run, artifacts: dict[str, Path], tmp_path: Path) -> None:
    folder, other = artifacts["onnxruntime"], models.build("bert", tmp_path / "bert")
    refused(goldfold("judge", folder, *FEW, "-q", "--skip", "lee"), 3, "--model")
    refused(goldfold("judge", folder, "-q", "--skip", "speed"), 2, "speed", "retrieval")
    refused(goldfold("judge", folder, "-q", "--pairs", 3), 2, "--pairs")
    refused(goldfold("judge", folder, "-q", "--limit", "little"), 2, "little")
    refused(goldfold("judge", tmp_path / "none", "-q"), 6, "none")
    missing = tmp_path / "no" / "file.json"
    refused(goldfold("judge", folder, "-q", "--json", missing), 5, missing.parent)
    refused(goldfold("judge", folder, "-q", "--model", other, *FEW), 2, folder, "not exported")
    only_ranks = ("--skip", "lee", "--skip", "retrieval", "--limit", "1%")
    outcome = goldfold("judge", folder, "-q", *only_ranks)
    assert outcome.code == 2 and "--limit" in outcome.err
