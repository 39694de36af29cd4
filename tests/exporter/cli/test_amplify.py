"""`goldfold amplify`: what it prints of a text, what it refuses, and when it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from goldfold.exporter.driver import amplifying, preparing
from goldfold.exporter.ir.program import Program
from goldfold.golden import store
from goldfold.golden.gate import Gate
from tests.conftest import Exported
from tests.exporter.cli.outcome import Run, refused


@pytest.fixture(autouse=True)
def traced_already(
    traced: Program, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> store.Goldens:
    goldens = store.load(exported.artifacts["onnxruntime"] / "golden")
    monkeypatch.setattr(preparing, "traced", lambda *args, **options: traced.copy())
    monkeypatch.setattr(amplifying, "obtain_goldens", lambda *args: goldens)
    return goldens


def test_places_of_a_text_and_a_golden_are_printed(tiny: Path, goldfold: Run) -> None:
    asked = ("amplify", tiny, "--text", "A small engine.", "--golden", "one-letter", "--top", 3)
    shown = goldfold(*asked, "--quiet")
    assert shown.code == 0 and not shown.err
    assert "text 1: " in shown.out and "one-letter: " in shown.out
    said = " ".join(shown.out.split())
    assert "by derivatives" in said and "through" in said
    found = json.loads(goldfold(*asked, "--quiet", "--json").out)
    assert [text["id"] for text in found["texts"]] == ["text 1", "one-letter"]
    for text in found["texts"]:
        assert len(text["places"]) == 3 and text["places"][0]["token"] < text["tokens"]


def test_texts_that_all_amplify_too_much_fail(
    tiny: Path, goldfold: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(amplifying.GATES, "int8", Gate(worst=1e-9, mean=1e-9))
    outcome = goldfold("amplify", tiny, "--text", "A small engine.", "--quiet", "--json")
    assert outcome.code == 1 and json.loads(outcome.out)["texts"]
    assert "cannot hold 1−cos 1e-09" in outcome.err and "text 1" in outcome.err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), ["no text to look at", "--text", "--golden"]),
        (("--golden", "klingon"), ["no golden 'klingon'", "blank-spaces", "16 in all"]),
        (("--text", "a", "--precision", "fp16"), ["'fp16' has no rounding", "int8-weights"]),
    ],
)
def test_what_is_not_there_is_refused(
    flags: tuple[str, ...], says: list[str], tiny: Path, goldfold: Run
) -> None:
    refused(goldfold("amplify", tiny, *flags, "--quiet"), 2, *says)
