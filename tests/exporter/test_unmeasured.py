"""An artifact that takes longer texts than were measured: it says so wherever its verdict is."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from typer.testing import CliRunner

from goldfold import load
from goldfold.exporter.artifact import bundle
from goldfold.exporter.cli.app import app
from goldfold.exporter.report.junit import LENGTHS
from goldfold.golden import measured
from goldfold.golden.compare import reading
from tests import models

LONG = "The lighthouse keeper counted the ships that passed before dawn. " * 200
SAID = (
    "Texts of up to 1,000 tokens were measured; it takes 2,000, and longer texts were not measured."
)


def test_longer_texts_are_exported_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "WHOLE", 1500)
    monkeypatch.setattr(measured, "CAPPED", 1000)
    folder, out = tmp_path / "m", tmp_path / "out"
    models.build("bert", folder, max_seq_length=2000, max_position_embeddings=2000)
    run = CliRunner()
    done = run.invoke(
        app, ["export", str(folder), "--target", "onnxruntime", "--out", str(out), "--json"]
    )
    assert done.exit_code == 0, done.output
    (entry,) = json.loads(done.stdout)
    assert entry["status"] == "passed" and entry["unmeasured"] == SAID

    path = out / "onnxruntime-fp32"
    opened = bundle.open_bundle(path)
    assert opened.manifest.contract.max_length == 2000
    assert SAID in opened.manifest.notes
    assert opened.verdict is not None
    assert max(row.tokens for row in opened.verdict.measurement.rows) == 1000
    assert SAID in (out / "report.html").read_text()
    cases = ElementTree.parse(out / "junit.xml").getroot().iter("testcase")
    (skipped,) = (case.find("skipped") for case in cases if case.get("name") == LENGTHS)
    assert skipped is not None and skipped.get("message") == SAID
    again = run.invoke(app, ["verify", str(path)])
    assert SAID in " ".join(again.output.split())

    encoder, model = load(path), SentenceTransformer(str(folder), device="cpu")
    assert len(encoder.tokenize([LONG])[0]) == 2000
    ours, theirs = (np.asarray(f(LONG), np.float64).ravel() for f in (encoder.embed, model.encode))
    assert reading(ours, theirs).distance < 1e-8


def test_the_sentence_is_there_for_long_artifacts_alone() -> None:
    assert measured.unmeasured(258, 300) == ""
    assert measured.unmeasured(measured.WHOLE, measured.WHOLE) == ""
    assert "4,096 tokens were measured; it takes 32,768" in measured.unmeasured(4096, 32_768)
