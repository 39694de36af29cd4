"""`goldfold export --fit`: one artifact of at most a size, or a sentence and nothing."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from goldfold.exporter.search import fit_candidates, fit_outcome, sizing
from goldfold.golden.judging.pairs import LEAST
from tests.conftest import Exported
from tests.exporter.cli.outcome import Run, names, refused

RECIPE = """
around = "close"
gains = "keep"
[weights]
bits = 8
block = 8
[table]
bits = 8
"""
ONE = ("--target", "onnxruntime", "--no-locate", "--quiet")
PEER = """
[[model]]
fingerprint = "{}"
[[model.peer]]
name = "other"
mb = 0.4
metric = "retrieval nDCG@10"
loss = 0.01
source = "a test"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "mine.toml").write_text(RECIPE)
    return tmp_path / "mine.toml"


@pytest.fixture
def traced(quick: object, few_pairs: None, exported: Exported, monkeypatch: pytest.MonkeyPatch):
    """Spare the fit its trace as well."""
    monkeypatch.setattr(fit_candidates, "traced", lambda *args, **options: exported.copy())
    monkeypatch.setattr(sizing, "rewrite", lambda *args: None)


@pytest.mark.usefixtures("traced")
def test_what_fits_is_written_and_its_figures_beside_it(
    goldfold: Run, tiny: Path, recipe: Path, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    whole = sum(file.stat().st_size for file in artifacts["onnxruntime"].glob("model.onnx*"))
    size = f"{0.7 * whole / 1e3:.0f}kB"
    given = ("--fit", size, "--precision", "fp32", "--precision", recipe)
    done = goldfold("export", tiny, *ONE, *given, "--out", out)
    assert done.code == 0, done.err
    assert names(out) == {"onnxruntime-mine", *fit_outcome.FILES}
    files = (out / "onnxruntime-mine").glob("model.onnx*")
    true = sum(file.stat().st_size for file in files)
    assert true <= 0.7 * whole + 500
    record = json.loads((out / "fit.json").read_text("utf-8"))
    by_name = {one["candidate"]: one for one in record["candidates"]}
    assert by_name["fp32"]["outcome"] == "too large"
    assert by_name["fp32"]["bytes_true"] is None
    chosen = by_name["mine"]
    assert chosen["outcome"] == "chosen"
    assert chosen["bytes_true"] == true
    assert abs(chosen["bytes_predicted"] - true) < 0.01 * true
    assert chosen["retrieval"]["loss"] <= chosen["retrieval"]["at_most"]
    assert record["pairs"] == LEAST
    drawn = ElementTree.fromstring((out / "fit.svg").read_text("utf-8"))
    circles = [one for one in drawn.iter() if one.tag.endswith("circle")]
    assert sum("chosen" in one.attrib["class"] for one in circles) == 2  # a dot and the key
    words = " ".join(done.out.split())
    assert "chosen" in words and "too large" in words


@pytest.mark.usefixtures("traced")
def test_a_fit_that_nothing_reaches_says_what_comes_nearest(
    goldfold: Run, tiny: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = goldfold("export", tiny, *ONE, "--fit", "9kB", "--out", out)
    refused(done, 1, "--fit 9kB: nothing reaches it; the nearest is", "MB for onnxruntime")
    assert "with --scripts latin it would be" in done.err
    assert not out.exists()
    again = goldfold("export", tiny, *ONE, "--fit", "9kB", "--precision", "fp32", "--out", out)
    refused(again, 1, "MB for onnxruntime, by fp32")


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--fit", "100"), "has no unit"),
        (("--fit", "1MB", "--stop-after", "3"), "leave out --skip, --stop-after and --dump"),
        (("--fit", "1MB", "--target", "tensorrt"), "tensorrt"),
        (("--fit", "1MB", "--precision", "int3"), "unknown precision 'int3'"),
        (("--fit", "1MB", "--pairs", "40"), "--pairs is 40"),
        (("--fit", "1MB", "--scripts", "latni"), "no script of Unicode"),
        (("--fit", "1MB", "--scripts", "latin", "--vocabulary", "a.txt"), "give one of them"),
        (("--state", "here"), "give both"),
    ],
)
def test_what_does_not_go_together_is_refused(
    goldfold: Run, tiny: Path, tmp_path: Path, given: tuple[str, ...], said: str
) -> None:
    done = goldfold("export", tiny, *given, "--quiet", "--out", tmp_path / "out")
    refused(done, 4 if "installed" in done.err or "cannot be used" in done.err else 2, said)
    assert not (tmp_path / "out").exists()


def test_peers_are_of_one_model_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "peers.toml").write_text(PEER.format("0" * 64))
    monkeypatch.setattr(fit_outcome, "PEERS", tmp_path / "peers.toml")
    assert [one["name"] for one in fit_outcome.peers("0" * 64)] == ["other"]
    assert fit_outcome.peers("1" * 64) == []
    record = {
        "candidates": [], "peers": fit_outcome.peers("0" * 64), "bytes": 10**6, "model": "tiny"
    }  # fmt: skip
    assert "other" in (fit_outcome.picture([record]) or "")


def test_every_peer_has_a_source() -> None:
    import tomllib

    known = tomllib.loads(fit_outcome.PEERS.read_text("utf-8"))
    for model in known.get("model", ()):
        assert len(model["fingerprint"]) == 64
        for one in model["peer"]:
            assert one["mb"] > 0 and one["source"] and one["metric"] and one["name"]
