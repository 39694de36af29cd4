"""Unseen texts as part of the gate: measured, kept, missed by an artifact that is wrong on one kind
of texts, and refused where they say nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from goldfold import export, verify
from goldfold.exporter.artifact.bundle import VERDICT, open_bundle
from goldfold.exporter.artifact.encoder import Encoder, load
from goldfold.exporter.proofs import UnseenFigures
from goldfold.exporter.records import read_json
from goldfold.exporter.report import Report
from goldfold.exporter.verification import unseen as unseen_texts
from goldfold.exporter.verification.sourced import SourceModel
from goldfold.golden import gate
from goldfold.golden.judging import unseen
from goldfold.golden.judging.reference import Model
from goldfold.golden.store import Goldens
from tests.exporter.cli.outcome import Run, names, refused

COUNT = 100
ONE = ("--target", "onnxruntime", "--no-locate", "--no-cache", "--quiet")
RAN = Encoder._ran


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A cache of these tests' own, for all of them: the reference is made once."""
    folder = tmp_path_factory.getbasetemp() / "unseen-cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


def figures_of(path: Path) -> UnseenFigures:
    verdict = open_bundle(path, unverified=True).verdict
    assert verdict is not None and verdict.unseen is not None
    return verdict.unseen


def spoil(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    kind: str,
    change: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Let artifacts compute something else for the token ids of texts of one kind."""
    encoder = load(folder)
    some = [one.text for one in unseen.drawn(COUNT) if one.kind == kind]
    prompts = {"", *encoder.contract.prompts.values()}
    made = encoder.tokenize([prompt + text for prompt in prompts for text in some])
    wrong_ids = set(map(tuple, made))

    def spoilt(self: Encoder, ids: np.ndarray, mask: np.ndarray, output: str) -> np.ndarray:
        rows = RAN(self, ids, mask, output)
        read = [tuple(row[kept.astype(bool)]) for row, kept in zip(ids, mask, strict=True)]
        wrong = np.array([one in wrong_ids for one in read])
        rows[wrong] = change(rows[wrong])
        return rows

    monkeypatch.setattr(Encoder, "_ran", spoilt)


def test_figures_are_measured_kept_and_held_again(
    goldfold: Run, quick: Goldens, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    asked = ("export", tiny, *ONE, "--precision", "fp32", "--precision", "fp16", "--out", out)
    outcome = goldfold(*asked, "--unseen", COUNT)
    assert outcome.code == 0, outcome
    assert f"onnxruntime-fp32: {COUNT} unseen texts: 99.9th percentile of 1−cos" in outcome.out
    assert "no upper end below 2,995 texts" in outcome.out
    assert "onnxruntime-fp16 in fp16: this machine computes it in fp32" in outcome.err
    found = figures_of(out / "onnxruntime-fp32")
    assert (found.texts, found.digest) == (COUNT, unseen.digest(unseen.drawn(COUNT)))
    assert 0 < found.mean <= found.percentile <= found.worst < found.limit == 1e-8
    assert found.upper is None and found.left_out == 0 and not found.faults
    assert sum(one.texts for one in found.kinds) == COUNT
    assert sum(one.texts for one in found.installed) == COUNT // unseen_texts.INSTALLED
    half = figures_of(out / "onnxruntime-fp16")
    assert found.worst < half.worst < half.limit == 2e-5
    report = read_json(Report, (out / "report.json").read_text("utf-8"))
    assert [one.unseen for one in report.artifacts] == [half, found]
    shown = (out / "report.html").read_text("utf-8")
    assert "Unseen texts, by kind" in shown and "script:" in shown
    assert "unseen texts" in goldfold("inspect", out / "onnxruntime-fp32").out

    folder = out / "onnxruntime-fp32"
    assert figures_of(verify(folder).path) == found  # nobody measured again
    strict = replace(gate.GATES["fp32"], worst=found.percentile / 2)
    with monkeypatch.context() as patch:
        patch.setitem(gate.GATES, "fp32", strict)
        sentences = verify(folder).verdict.sentences
        assert any(f"of 1-cos over {COUNT} unseen texts" in one for one in sentences)
    again = verify(folder, model=SourceModel(tiny, unseen=2 * COUNT))
    assert again.passed and figures_of(folder).texts == 2 * COUNT
    outcome = goldfold("verify", folder, "--model", tiny, "--unseen", COUNT, "--json", "--quiet")
    (entry,) = json.loads(outcome.out)
    assert outcome.code == 0 and entry["unseen"]["texts"] == COUNT


@pytest.mark.parametrize("kind", ["emoji", "code"])
def test_an_artifact_that_is_wrong_on_one_kind_alone_is_found(
    goldfold: Run,
    quick: Goldens,
    artifacts: dict[str, Path],
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    spoil(
        monkeypatch,
        artifacts["onnxruntime"],
        kind,
        lambda rows: rows + 0.1 * np.roll(rows, 1, axis=1),
    )
    out = tmp_path / "out"
    asked = ("export", tiny, *ONE, "--precision", "fp32", "--out", out)
    assert goldfold(*asked).code == 0  # no golden text shows it
    outcome = goldfold(*asked, "--unseen", COUNT)
    failed = out / "onnxruntime-fp32.failed"
    assert outcome.code == 1 and failed.name in names(out), outcome
    verdict = json.loads((failed / VERDICT).read_text())
    assert {reason["kind"] for reason in verdict["reasons"]} == {"unseen"}
    assert f"over {COUNT} unseen texts, in {kind}, is" in outcome.err
    wrong = [one.kind for one in figures_of(failed).kinds if one.worst > 1e-8]
    assert wrong == [kind]


def test_nan_and_other_tokens_are_named_by_kind_and_number(
    artifacts: dict[str, Path], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = artifacts["onnxruntime"]
    stages = unseen_texts.Stages()
    source = SourceModel(tiny).source(stages)
    texts = unseen_texts.draw(source, COUNT)
    assert texts is not None
    number = next(n for n, one in enumerate(texts.drawn) if one.kind == "emoji")
    spoil(monkeypatch, folder, "emoji", lambda rows: rows * np.nan)
    encoder = load(folder)
    record = unseen_texts.of(encoder, stages, texts)
    assert record is not None and np.isinf(record.worst) and record.worst_kind == "emoji"
    assert all("(emoji: " in one and "is not finite" in one for one in record.faults[:10])
    verdict = unseen_texts.hold(gate.Verdict(), record, "fp32")
    assert not verdict.passed
    assert f"The embedding of unseen text {number} (emoji: '" in " ".join(verdict.sentences)

    tokenize = Encoder.tokenize
    monkeypatch.setattr(Encoder, "_ran", RAN)
    monkeypatch.setattr(
        Encoder, "tokenize", lambda self, some: [[*ids[:-1], 5] for ids in tokenize(self, some)]
    )
    record = unseen_texts.of(encoder, stages, texts)
    assert record is not None and record.worst < 1e-8
    assert len(record.faults) == 11 and record.faults[-1].endswith("have such faults.")
    assert record.faults[0].startswith("The tokens of unseen text 0 (")
    assert "differ from the source's." in record.faults[0]


def test_the_reference_has_the_prompts_of_the_model(artifacts: dict[str, Path], tiny: Path) -> None:
    stages = unseen_texts.Stages()
    source = SourceModel(tiny).source(stages)
    texts = unseen_texts.draw(source, 40)
    assert texts is not None
    encoder = load(artifacts["onnxruntime"])
    expected = texts.expected(encoder.contract, stages)
    assert texts.expected(encoder.contract, stages) is expected
    behind = {name for name in expected.prompts if name}
    assert len(behind) >= 2 and behind <= set(encoder.contract.prompts)
    prompted = sum(map(bool, expected.prompts))
    assert len(texts.all) / 6 < prompted < len(texts.all) / 2
    at = expected.prompts.index(next(iter(behind)))
    prompt = encoder.contract.prompts[expected.prompts[at]]
    assert list(expected.ids[at]) == encoder.tokenize([prompt + texts.all[at].text])[0]
    short = Model(source.loads, length=5)
    assert {len(ids) for ids in short.token_ids(["one two three four five six", "a"], "plain")} == {
        5, 3,
    }  # fmt: skip


def test_what_cannot_be_measured_is_refused_before_any_work(
    goldfold: Run, untraced: None, tiny: Path, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    asked = ("export", tiny, *ONE, "--out", tmp_path / "out", "--unseen")
    for count in (-1, 10_001, 1 << 40):
        refused(goldfold(*asked, count), 2, f"--unseen is {count}", "10,000")
    folder = artifacts["onnxruntime"]
    refused(goldfold("verify", folder, "--unseen", 100), 2, "--unseen", "--model")
    asked = ("verify", folder, "--model", tiny, "--quiet", "--unseen")
    refused(goldfold(*asked, 10_001), 2, "--unseen is 10001")
    assert not (tmp_path / "out").exists()


def test_another_task_than_embeddings_is_refused(
    goldfold: Run, untraced: None, tmp_path: Path
) -> None:
    from tests import rankers

    folder = rankers.build("bert", tmp_path / "ranker")
    asked = ("export", folder, *ONE, "--out", tmp_path / "out", "--unseen", 10)
    refused(goldfold(*asked), 2, "--unseen measures embeddings", "gives scores")


def test_python_asks_as_the_command_does(quick: Goldens, tiny: Path, tmp_path: Path) -> None:
    (result,) = export(
        tiny, ["onnxruntime"], ["fp32"], tmp_path / "out", locate=False, cache=False, unseen=20
    )
    assert result.passed and figures_of(result.path).texts == 20


def test_texts_without_tokens_are_left_out_and_counted(goldfold: Run, tmp_path: Path) -> None:
    from tests import static  # here, so that collecting tests does not load torch

    words = static.tokenizer(unknown=False, specials=False)
    folder = static.build(tmp_path / "model", words=words, prompts={"query": "find: "})
    out = tmp_path / "out"
    asked = ("export", folder, *ONE, "--precision", "fp32", "--out", out)
    outcome = goldfold(*asked, "--unseen", COUNT)
    assert outcome.code == 0, outcome
    found = figures_of(out / "onnxruntime-fp32")
    assert 0 < found.left_out < COUNT // 2 and found.worst < 1e-8 and not found.faults
    every = (*found.kinds, *found.installed)
    assert sum(one.texts for one in every) == COUNT + COUNT // 5 - found.left_out
    assert f"and {found.left_out} that have no reference" in outcome.out
