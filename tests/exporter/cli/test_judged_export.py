"""Retrieval as part of an export's gate: passed, missed, kept by a verification, or not judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from goldfold import export, verify
from goldfold.exporter.artifact.bundle import VERDICT, open_bundle
from goldfold.exporter.artifact.encoder import Encoder
from goldfold.exporter.records import Losses, read_json
from goldfold.exporter.report import Report
from goldfold.exporter.verification.losses import UNJUDGED
from goldfold.golden import gate
from goldfold.golden.judging.judge import RANKS
from goldfold.golden.metrics import RETRIEVAL
from goldfold.golden.store import Goldens
from tests.exporter.cli.outcome import Run, names, refused

pytestmark = pytest.mark.usefixtures("few_pairs")

RECIPE = """
around = "close"
gains = "keep"
[weights]
bits = 8
block = 8
rounding = "gptq"
[table]
bits = 8
"""
LOOSE = 0.2
EMBED = Encoder.embed
ONE = ("--target", "onnxruntime", "--no-locate", "--no-cache", "--quiet")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "mine.toml").write_text(RECIPE)
    return tmp_path / "mine.toml"


def limit(monkeypatch: pytest.MonkeyPatch, loss: float) -> None:
    """Forty pairs and a random model want another limit than three thousand and a trained one."""
    own = replace(gate.GATES["int8-weights"], loss=loss)
    monkeypatch.setitem(gate.GATES, "int8-weights", own)


def spoil(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> None:
    """Change what texts give, with noise at hand; what token ids give stays as it is."""
    random = np.random.default_rng(1)

    def spoilt(self: Encoder, texts: Sequence[str], **options) -> np.ndarray:
        rows = EMBED(self, texts, **options)
        return change(rows, random.standard_normal(rows.shape))

    monkeypatch.setattr(Encoder, "embed", spoilt)


@pytest.fixture
def loose(quick: Goldens, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that honest integers hold, and no Lee corpus: a second of resampling less."""
    limit(monkeypatch, LOOSE)
    monkeypatch.setattr("goldfold.golden.judging.lee._folder", lambda: None)


def losses_of(path: Path) -> Losses:
    verdict = open_bundle(path, unverified=True).verdict
    assert verdict is not None and verdict.losses is not None
    return verdict.losses


def test_a_judged_artifact_says_what_it_loses_and_keeps_it(
    quick: Goldens, tiny: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gensim")
    limit(monkeypatch, LOOSE)
    out = tmp_path / "out"
    (result,) = export(
        tiny, ["onnxruntime"], [str(recipe)], out, locate=False, cache=False, judge=True
    )
    assert result.passed and result.path == out / "onnxruntime-mine"
    losses = losses_of(result.path)
    assert losses.judged is not None and losses.limit == LOOSE
    names = (*RANKS, "Lee corpus, Pearson", "Lee corpus, Spearman", RETRIEVAL)
    assert {(one.name, one.dims) for one in losses.figures} == {
        (name, dims) for name in names for dims in (48, 12)
    }
    assert all(0.3 < one.reference < 1 for one in losses.figures if one.name == RETRIEVAL)
    report = read_json(Report, (out / "report.json").read_text("utf-8"))
    assert report.artifacts[0].losses == losses
    shown = (out / "report.html").read_text("utf-8")
    assert "quantization costs" in shown and f"{LOOSE:.2%}" in shown and "not judged" not in shown

    kept = losses_of(verify(result.path).path)  # nobody judged again
    assert (kept.judged, kept.figures) == (losses.judged, losses.figures)
    limit(monkeypatch, -1.0)
    for _ in range(2):  # what was judged decides, and goes on deciding
        again = verify(result.path)
        assert not again.passed
        assert {reason.split()[0] for reason in again.verdict.sentences} == {"Retrieval"}
        assert len(again.verdict.sentences) == 2  # one a size
    limit(monkeypatch, LOOSE)
    assert verify(result.path).passed


def test_artifact_that_finds_less_fails_the_build_though_its_goldens_are_right(
    goldfold: Run,
    loose: None,
    tiny: Path,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil(monkeypatch, lambda rows, drawn: rows + 0.4 * drawn)
    out = tmp_path / "out"
    outcome = goldfold("export", tiny, *ONE, "--precision", recipe, "--out", out, "--judge")
    failed = out / "onnxruntime-mine.failed"
    assert outcome.code == 1 and names(out) == {failed.name}, outcome
    *reasons, last = outcome.err.splitlines()
    assert last == f"error: missed the golden gate: {failed}"
    assert any("Retrieval at 48 dims loses up to" in reason for reason in reasons)
    verdict = json.loads((failed / VERDICT).read_text())
    assert verdict["status"] == "failed"
    assert all(reason["kind"] == "retrieval" for reason in verdict["reasons"])
    report = read_json(Report, (out / "report.json").read_text("utf-8"))
    assert report.artifacts[0].state == "failed"
    assert "Retrieval at 48 dims" in (out / "junit.xml").read_text("utf-8")
    assert 'class="n over"' in (out / "report.html").read_text("utf-8")

    spoil(monkeypatch, lambda rows, drawn: rows * np.nan)
    refused = verify(failed, judge=True, model=str(tiny))
    assert not refused.passed
    assert "Retrieval was not judged" in refused.verdict.sentences[0]
    unusable = losses_of(failed).unusable
    assert "not finite" in unusable and unusable in refused.verdict.sentences[1]


def test_unjudged_is_said_until_a_verification_judges(
    goldfold: Run,
    loose: None,
    tiny: Path,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    outcome = goldfold("export", tiny, *ONE, "--precision", recipe, "--out", out)
    assert outcome.code == 0, outcome
    assert "onnxruntime-mine: retrieval was not judged (--judge)" in outcome.out
    folder = out / "onnxruntime-mine"
    losses = losses_of(folder)
    assert losses.judged is None and losses.missing == (UNJUDGED,)
    assert [one.name for one in losses.figures] == [*RANKS, *RANKS]  # these cost nothing
    assert all(one.artifact > 0.9 for one in losses.figures)
    shown = (out / "report.html").read_text("utf-8")
    assert UNJUDGED in shown and "Lee corpus, Pearson" not in shown  # no column of dashes
    assert "was not judged" in goldfold("inspect", folder).out

    asked = ("verify", folder, "--quiet")
    refused(goldfold(*asked, "--judge"), 3, "--model")
    assert goldfold(*asked, "--model", tiny).code == 0  # compared, and not judged
    assert losses_of(folder).judged is None
    refused(goldfold(*asked, "--model", tiny, "--judge", "--pairs", 2999), 2, "--pairs", 3000)
    outcome = goldfold(*asked, "--judge", "--model", tiny)
    assert outcome.code == 0, outcome
    assert "loses at most" in outcome.out and "over 40 pairs instead of 3000" in outcome.out
    losses = losses_of(folder)
    assert losses.judged is not None and "gensim" in losses.missing[0]
    assert "left out: the Lee corpus comes with gensim" in outcome.err
    limit(monkeypatch, -1.0)
    outcome = goldfold("judge", folder, "--quiet", "--skip", "lee")
    assert outcome.code == 0  # it says, and --limit decides
    assert "the gate of int8-weights is missed" in outcome.out


def test_only_integers_are_judged_and_never_by_a_few(
    goldfold: Run, untraced: None, tiny: Path, tmp_path: Path
) -> None:
    asked = ("--precision", "fp16", "--out", tmp_path / "out", "--judge")
    refused(goldfold("export", tiny, *ONE, *asked), 2, "--judge", "fp16")
    asked = ("--precision", "int8", "--out", tmp_path / "out", "--judge", "--pairs", 100)
    refused(goldfold("export", tiny, *ONE, *asked), 2, "--pairs", 3000)


def test_a_verification_judges_only_integers(goldfold: Run, artifacts: dict[str, Path]) -> None:
    floating = artifacts["onnxruntime"]
    refused(goldfold("verify", floating, "--judge"), 2, "--judge", floating.name, "not quantized")
    refused(goldfold("verify", floating, "--pairs", 5000), 2, "--pairs", "--judge")
