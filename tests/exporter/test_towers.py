"""Models of images and text: the text's side alone, as sentence-transformers embeds a text."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from goldfold import export, load
from goldfold.exporter.errors import ModelError
from goldfold.exporter.frontend.source import open_model
from goldfold.golden import make as golden_make
from tests import towers

FEW = ("card-query", "german-query", "empty", "code-python", "length-16", "call-encode-query")
TEXTS = (
    "The lighthouse keeper and the ships.",
    "on",
    "an end <|endoftext|> in the middle",
    "a text that is cut, " * 12,
    "https://example.org/picture.jpg",
)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden_make, "make", partial(golden_make.make, only=FEW))


def reference(folder: Path) -> SentenceTransformer:
    """What users open; a text that is an address would be fetched, were it not told otherwise."""
    model = SentenceTransformer(str(folder), device="cpu")
    model[0].input_formatter.supported_modalities = ["text"]
    return model


def same(folder: Path, out: Path, target: str = "onnxruntime", precision: str = "fp32") -> Path:
    """Exports a model, and compares its vectors with sentence-transformers', norms included."""
    (result,) = export(folder, [target], [precision], out, cache=False)
    assert result.passed, result.verdict.sentences
    model = reference(folder)
    wanted = np.stack([model.encode(text) for text in TEXTS])
    within = 3e-6 if precision == "fp32" else 3e-2
    for batch_size in (1, len(TEXTS)):
        found = load(result.path).embed(list(TEXTS), batch_size=batch_size)
        assert np.abs(found - wanted).max() < within * np.abs(wanted).max()
    return result.path


@pytest.mark.parametrize(
    "build",
    [
        towers.clip,
        partial(towers.clip, form="saved", end="new"),
        partial(towers.clip, form="hub"),
        towers.siglip,
    ],
    ids=["CLIPModel", "saved", "hub", "SigLIP"],
)
def test_texts_are_embedded(build: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = build(tmp_path / "m")
    path = same(folder, tmp_path / "out")
    manifest = json.loads((path / "manifest.json").read_text())
    assert any("the text's side is exported" in note for note in manifest["notes"])
    assert manifest["contract"]["max_length"] == towers.LONGEST


@pytest.mark.parametrize("target", ["openvino", "coreml", "tensorrt"])
def test_padding_that_is_read_on_targets(target: str, tmp_path: Path) -> None:
    folder = towers.siglip(tmp_path / "m")
    results = export(folder, [target], ["fp32", "fp16"], tmp_path / "out", cache=False)
    assert [r.passed for r in results] == [True, True], [r.verdict.sentences for r in results]


def test_the_eyes_are_not_needed(tmp_path: Path) -> None:
    folder = towers.clip(tmp_path / "m")
    file = folder / "0_CLIPModel" / "model.safetensors"
    kept = {name: t for name, t in load_file(file).items() if not name.startswith("vis")}
    save_file(kept, file, {"format": "pt"})
    path = same(folder, tmp_path / "out")
    held = onnx.load(path / "model.onnx", load_external_data=False).graph.initializer
    assert sum(int(np.prod(one.dims)) for one in held) < sum(t.numel() for t in kept.values()) + 999


def test_padding_that_depends_on_neighbours_is_refused(tmp_path: Path) -> None:
    folder = towers.siglip(tmp_path / "m", padded=False)
    with pytest.raises(ModelError, match=r"no attention_mask.*max_length") as caught:
        export(folder, ["onnxruntime"], ["fp32"], tmp_path / "out", cache=False)
    assert len(str(caught.value).splitlines()) == 1


def test_a_shorter_text_would_be_another_models(tmp_path: Path) -> None:
    folder = towers.siglip(tmp_path / "m")
    with pytest.raises(ModelError, match="pads every text to 24 tokens and reads the padding"):
        export(folder, ["onnxruntime"], out=tmp_path / "out", max_length=16, cache=False)


def test_pooling_behind_an_embedding_is_refused(tmp_path: Path) -> None:
    folder = towers.clip(tmp_path / "m")
    file = folder / "modules.json"
    more = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.Pooling"}
    file.write_text(json.dumps([*json.loads(file.read_text()), more]))
    with pytest.raises(ModelError, match="which its Pooling does not read"):
        open_model(folder)
