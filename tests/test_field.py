"""benchmarks/field.py: a real run without peers, what its tables say, and where names are put."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import harness
from benchmarks.speed import field_plot, field_report, peers, roster
from benchmarks.speed.fast_embed import drawn
from benchmarks.speed.worker import _pooled, _weights
from tests.conftest import Exported

ROOT = Path(__file__).parents[1]
SIDE = {
    "label": "llama.cpp-Q8_0", "ours": False, "note": "", "size": 334e6, "load_s": 0.51,
    "loaded": {"resident": 300e6, "own": 1e6}, "called": {"resident": 401e6, "own": 2e6},
    "goldens": {"worst": 5.7e-4, "mean": 3.3e-4}, "unseen": None, "ways": {"8x128": "together"},
    "shapes": {"8x128": {"median": 756.04, "least": 740.0}},
}  # fmt: skip


def record(**sides: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": "tiny", "machine": {"cpu": "a processor", "threads": 1}, "others": 0.021,
        "shapes": ["1x16", "8x128"], "sides": sides,
        "absent": ["fastembed: it has no dense layers"],
    }  # fmt: skip


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.field", *map(str, arguments)], text=True, cwd=ROOT,
        capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
    )  # fmt: skip


def test_artifacts_of_both_targets_are_measured_in_one_run(
    exported: Exported, tiny: Path, tmp_path: Path
) -> None:
    written, picture = tmp_path / "field.json", tmp_path / "field.png"
    options = [word for path in exported.artifacts.values() for word in ("--artifact", path)]
    ended = run(
        tiny, *options, "--peer", "none", "--shape", "2x8", "--threads", 1, "--rounds", 1,
        "--seconds", 0.01, "--unseen", 3, "--json", written, "--picture", picture, "--at", "2x8",
    )  # fmt: skip
    assert not ended.returncode, ended.stderr
    found = harness.read(written)
    assert set(found["sides"]) == {f"goldfold {path.name}" for path in exported.artifacts.values()}
    assert not found["absent"]
    for row in found["sides"].values():
        assert row["shapes"]["2x8"]["least"] <= row["shapes"]["2x8"]["median"]
        assert row["goldens"]["worst"] < 1e-8 and not row["goldens"]["not_finite"]
        assert row["unseen"]["texts"] == 3 and row["unseen"]["worst"] < 1e-8
    weights = exported.artifacts["onnxruntime"]
    size = sum((weights / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    assert found["sides"]["goldfold onnxruntime-fp32"]["size"] == size
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = run("--record", written, "--markdown").stdout
    assert "| OpenVINO fp32 |" in shown and "|  | 2 × 8 |" in shown


def test_what_is_no_run_is_said_in_a_line(exported: Exported, tmp_path: Path) -> None:
    ended = run(tmp_path)
    assert ended.stderr == "error: name the model's folder and an --artifact, or a --record\n"
    ended = run(tmp_path, "--artifact", tmp_path)
    assert ended.returncode and ended.stderr.count("\n") == 1 and str(tmp_path) in ended.stderr
    ended = run(tmp_path, "--artifact", exported.artifacts["openvino"], "--shape", "8by128")
    assert ended.stderr == "error: a shape is batch x tokens, as 8x128, not '8by128'\n"


def test_cells_are_never_empty_and_reasons_are_listed() -> None:
    missed = {**SIDE, "label": "OpenVINO bf16", "ours": True, "note": "missed its gate"}
    found = record(one=SIDE, two=missed)
    facts, speeds = field_report.facts(found), field_report.speeds(found)
    assert facts[1] == ["llama.cpp-Q8_0", "334", "0.5", "401", "5.7e-04", "3.3e-04", "—", "—"]
    assert speeds[1:] == [
        ["llama.cpp-Q8_0", "—", "756.0 (740.0)"],
        ["OpenVINO bf16 *", "—", "756.0 (740.0)"],
    ]
    assert field_report.as_markdown(speeds).splitlines()[:2] == [
        "|  | 1 × 16 | 8 × 128 |",
        "|---|---:|---:|",
    ]
    assert field_report.notes(found) == [
        "OpenVINO bf16 missed its gate",
        "others used 2% of the processors during the timing",
        "not measured: fastembed: it has no dense layers",
    ]


def test_a_batch_that_was_computed_text_by_text_is_told() -> None:
    side = {**SIDE, "ways": {"8x128": "together", "32x64": "a call a text"}}
    (said, *_) = field_report.notes(record(one=side))
    assert said == "llama.cpp-Q8_0: a call a text was faster than one of all, at 32 × 64"


@pytest.mark.parametrize("crowd", [1, 3, 8])
def test_names_lie_inside_and_touch_neither_each_other_nor_a_point(crowd: int) -> None:
    rng = np.random.default_rng(crowd)
    middles = rng.uniform(150, 550, (24 // crowd, 2))
    points = [tuple(p + rng.uniform(-4, 4, 2)) for p in middles for _ in range(crowd)]
    sizes = [(60.0 + 5 * (at % 8), 11.0) for at in range(len(points))]
    inside = (0.0, 0.0, 700.0, 700.0)
    corners = field_plot.places(points, sizes, inside)
    boxes = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(corners, sizes, strict=True)]
    for at, box in enumerate(boxes):
        assert field_plot._within(box, inside)
        assert not any(field_plot._overlap(box, other) for other in boxes[:at])
        assert not any(box[0] < x < box[2] and box[1] < y < box[3] for x, y in points)


def test_a_text_of_so_many_tokens_has_so_many() -> None:
    words = ["apple", "bridge", "candle", "never"]

    def count(text: str) -> int:  # two specials; "never" falls into two pieces; at most 12
        return min(12, 2 + sum(2 if word == "never" else 1 for word in text.split()))

    texts = drawn(count, {word: at for at, word in enumerate(words)}, 3, 9)
    assert len(texts) == 3 and {count(text) for text in texts} == {9}
    assert not any("never" in text for text in texts)
    with pytest.raises(ValueError, match="a text of 20 tokens has 12 here"):
        drawn(count, {word: at for at, word in enumerate(words)}, 1, 20)
    with pytest.raises(ValueError, match="no text has 2 tokens"):
        drawn(count, {word: at for at, word in enumerate(words)}, 1, 2)


def test_the_tail_of_optimum_s_file_is_the_model_s(tiny: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny), device="cpu")
    dense = [_weights(path) for path in roster.Model(tiny, 1, 0).dense]
    assert dense
    text = "one text, and its tokens"
    tokens = model.encode([text], output_value="token_embeddings")[0].numpy()
    padded = np.concatenate([tokens, np.ones_like(tokens)])[None]
    mask = np.repeat([1, 0], len(tokens))[None]
    found = _pooled(padded, mask, dense)
    assert np.abs(found - model.encode([text])).max() < 1e-6


def test_a_peer_that_cannot_be_installed_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "CACHE", tmp_path)
    for name in ("PIP_NO_INDEX", "PIP_ISOLATED"):
        monkeypatch.setenv(name, "1")
    pins = tmp_path / "pins.txt"
    pins.write_text("# pins\nno-such-package-of-goldfold==1\n")
    monkeypatch.setattr(peers, "FASTEMBED", peers.Environment("venv-none", pins))
    with pytest.raises(peers.PeerError, match=r"^venv-none cannot be installed: .*such-package"):
        peers.prepare(peers.FASTEMBED)
    assert not (tmp_path / "venv-none" / "pins.sha256").exists()


def test_a_level_that_optimum_refuses_is_listed_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = roster.Model(tmp_path / "model-x", 1, 8)
    folder = tmp_path / "model-x-optimum-onnx"
    (folder / "onnx").mkdir(parents=True)
    model.folder.mkdir()
    (model.folder / "modules.json").write_text("[]")
    (folder / "refused.json").write_text('{"O1": "NotImplementedError: gemma3_text"}')
    monkeypatch.setattr(peers, "CACHE", tmp_path)  # where both are made already
    (tmp_path / peers.ONNX.name).mkdir()
    (tmp_path / peers.ONNX.name / "pins.sha256").write_text(peers.ONNX.digest)
    done = {"pins": peers.ONNX.digest, "seconds": 0.0}
    (folder / "goldfold-peer.json").write_text(json.dumps(done))
    found, absent = roster.peers_of(model, ["optimum-O?"])
    assert not found
    assert absent[0] == "optimum-O1: NotImplementedError: gemma3_text"
    assert absent[1] == "optimum-O2: optimum wrote no model_O2.onnx"
