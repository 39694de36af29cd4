"""`goldfold embed`: tasks, and texts that cannot be embedded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from goldfold import load
from goldfold.exporter.artifact.encoder import Encoder
from goldfold.exporter.errors import ArtifactError, UsageError
from tests import models
from tests.exporter.cli.outcome import Run, refused
from tests.exporter.model.refusing import edit
from tests.torture.tortures.damage import reseal


@pytest.fixture
def no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a tokenizer that adds nothing to a text."""
    tokenize = Encoder._read

    def read(self: Encoder, texts: list[str], task: str) -> object:
        found, odd = tokenize(self, texts, task)  # type: ignore[arg-type]
        return found, {**odd, **{n: "has no tokens at all" for n, t in enumerate(texts) if not t}}

    monkeypatch.setattr(Encoder, "_read", read)


def test_task_takes_its_prompt(goldfold: Run, artifacts: dict[str, Path]) -> None:
    folder = artifacts["onnxruntime"]
    found = json.loads(goldfold("embed", folder, "words", "--task", "query", "--json").out)
    expected = load(folder).embed("words", prompt="query")
    assert np.array_equal(np.array(found, np.float32), expected)
    refused(goldfold("embed", folder, "words", "--task", "title"), 2, "'title'")


@pytest.mark.usefixtures("no_tokens")
def test_a_text_that_cannot_be_embedded_is_named(
    goldfold: Run, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    folder = artifacts["onnxruntime"]
    refused(goldfold("embed", folder, "a", "", "c"), 2, "text 1 ('') has no tokens at all")
    outcome = goldfold("embed", folder, "a", "", "c", "--errors", "nan", "--json")
    assert outcome.code == 0 and "warning: rows of NaN: text 1" in outcome.err
    found = json.loads(outcome.out)  # JSON has no NaN
    assert found[1] is None and len(found[2]) == 48
    file = tmp_path / "rows.npy"
    assert goldfold("embed", folder, "a", "", "--errors", "nan", "--save", file).code == 0
    assert np.isnan(np.load(file)).any(axis=1).tolist() == [False, True]


def test_a_tokenizer_that_gives_up_is_one_line(tmp_path: Path) -> None:
    """Rust prints a page to standard error first, whoever catches what it raises."""
    folder = models.build("bert", tmp_path / "m")
    endless = {"type": "Split", "pattern": {"Regex": "([a-z ]+[a-z ]+)+7"}, "behavior": "Isolated"}
    tokenizer = {"pre_tokenizer": {**endless, "invert": False}}
    edit(folder / "tokenizer.json", lambda said: said.update(tokenizer))
    words = ["export", str(folder), "--target", "onnxruntime", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "goldfold", *words, "--quiet", "--no-cache"],
        capture_output=True, text=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "its tokenizer gives up on a text" in done.stderr


def _no_such_token(folder: Path) -> None:
    edit(
        folder / "tokenizer.json",
        lambda said: said.update(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}}],
                "pair": [{"SpecialToken": {"id": "[X]", "type_id": 0}}],
                "special_tokens": {},
            }
        ),
    )


def _odd_prefix(folder: Path) -> None:
    odd = {"continuing_subword_prefix": "\x1b]0;owned\x07"}
    edit(folder / "tokenizer.json", lambda said: said["model"].update(odd))


@pytest.mark.parametrize("spoil", [_no_such_token, _odd_prefix])
def test_a_tokenizer_that_is_none_is_the_artifact_s_fault(spoil, artifact: Path) -> None:
    """Rust panics, at the tokenizer's making or at its first text."""
    spoil(artifact)
    reseal(artifact)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        load(artifact)
    for command in (["embed", str(artifact), "hi"], ["verify", str(artifact)]):
        done = subprocess.run(
            [sys.executable, "-m", "goldfold", *command],
            capture_output=True, text=True, cwd=Path(__file__).parents[3],
        )  # fmt: skip
        assert done.returncode == 6
        assert "\x1b]" not in done.stderr and "panicked" not in done.stderr
        assert len([line for line in done.stderr.splitlines() if "error:" in line]) == 1


def test_standard_input_stands_alone(goldfold: Run, artifacts: dict[str, Path]) -> None:
    refused(goldfold("embed", artifacts["onnxruntime"], "-", "hi"), 2, "give it alone")


def test_a_name_that_no_system_takes_is_the_caller_s(goldfold: Run, tmp_path: Path) -> None:
    long = "x" * 300
    for words in (("inspect", long), ("verify", long), ("embed", long, "hi"), ("report", long)):
        refused(goldfold(*words), 2, "name too long", "give another path")


@pytest.mark.parametrize("texts", [np.array("hello"), 7, b"hello", None])
def test_what_is_no_text_is_said(texts, artifacts: dict[str, Path]) -> None:
    encoder = load(artifacts["onnxruntime"])
    with pytest.raises(UsageError, match="embed takes a text"):
        encoder.embed(texts)
    with pytest.raises(UsageError, match="prompt is list"):
        encoder.embed(["a"], prompt=["query"])  # type: ignore[arg-type]
