"""What lies beside an artifact's own files: it says the artifact's length, in every layout, and is
what the model's digests are of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
from tokenizers import Tokenizer

from goldfold import export
from goldfold.exporter.artifact import sidecars
from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.artifact.layout import lay_out
from goldfold.exporter.contract import Contract, limited, unlimited
from goldfold.exporter.driver import exporting
from goldfold.exporter.errors import ModelError
from goldfold.exporter.frontend.source import open_model
from goldfold.golden import make as golden_make
from goldfold.golden import store
from goldfold.golden.store import Goldens
from tests.conftest import Exported

SHORT = 40
LONG_TEXT = "the lighthouse keeper counted ships " * 40


@pytest.fixture(scope="module")
def model(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with everything that is copied."""
    folder = Path(shutil.copytree(tiny, tmp_path_factory.mktemp("cut") / "tiny-gemma3"))
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    settings |= {"max_length": 512, "padding_side": "left", "chat_template": "…"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    (folder / "special_tokens_map.json").write_text('{"pad_token": "<pad>"}')
    (folder / "LICENSE").write_text("terms")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# card\n")
    return folder


@pytest.fixture(scope="module")
def cut(
    exported: Exported, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Artifacts of `model` for SHORT tokens, by target."""
    goldens = store.load(exported.artifacts["onnxruntime"] / "golden").within(SHORT)

    def traced(*args: Any) -> Any:
        program = exported.copy()
        program.contract = program.contract.with_(max_length=SHORT)
        return program

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "obtain_goldens", lambda *args: goldens)
        patch.setattr(exporting, "traced", traced)
        patch.setattr(exporting, "rewrite", lambda *args: None)
        out = tmp_path_factory.mktemp("cut-artifacts")
        results = export(model, ["openvino", "onnxruntime"], ["fp32"], out, max_length=SHORT)
    assert all(result.passed for result in results)
    return {result.bundle.manifest.target: result.path for result in results}


def check(folder: Path, length: int) -> None:
    """Every file of `folder` that says how long a text may be says `length`."""
    said = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    assert (said["model_max_length"], said["max_length"]) == (length, length)
    assert said["padding_side"] == "right" and said["chat_template"] == "…"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.truncation["max_length"] == length
    assert tokenizer.truncation["direction"] == "right" and tokenizer.padding is None
    assert len(tokenizer.encode(LONG_TEXT).ids) == length
    for name, key in (
        ("sentence_bert_config.json", "max_seq_length"),
        ("config.json", "max_position_embeddings"),
    ):
        if (folder / name).exists():
            assert json.loads((folder / name).read_text("utf-8"))[key] == length, name


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_the_files_beside_an_artifact_say_its_own_length(target: str, cut: dict[str, Path]) -> None:
    assert open_bundle(cut[target]).manifest.contract.max_length == SHORT
    check(cut[target], SHORT)


@pytest.mark.parametrize("layout", ["ovms", "sentence-transformers"])
def test_every_layout_says_it_as_well(layout: str, cut: dict[str, Path], tmp_path: Path) -> None:
    out = lay_out(cut["openvino"], layout, tmp_path / "out").path
    place = out / open_bundle(cut["openvino"]).manifest.contract.model if layout == "ovms" else out
    check(place, SHORT)


def test_another_client_cuts_where_the_artifact_does(cut: dict[str, Path]) -> None:
    """With the Rust tokenizer as the file is, which is what most of them do."""
    from goldfold import load

    encoder = load(cut["onnxruntime"])
    theirs = Tokenizer.from_file(str(cut["onnxruntime"] / "tokenizer.json")).encode(LONG_TEXT).ids
    assert encoder.tokenize([LONG_TEXT]) == [theirs]


def test_what_is_copied_bears_names_that_any_system_takes(
    model: Path, exported: Exported, tmp_path: Path
) -> None:
    odd = Path(shutil.copytree(model, tmp_path / "odd"))
    for name in ("LICENSE-a:b.txt", "license", "NOTICE.", "terms-\x1b[2J.txt", "COPYING — ü.md"):
        (odd / name).write_text(name)
    folder = tmp_path / "artifact"
    folder.mkdir()
    source = open_model(odd)
    goldens = store.load(exported.artifacts["onnxruntime"] / "golden")
    sidecars.write(source, exported.program, exported.program.contract, goldens, folder)
    assert {path.name for path in folder.iterdir()} == {
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "golden",
        "MODEL_CARD.md", "LICENSE", "license-2", "LICENSE-a-b.txt", "NOTICE", "terms--[2J.txt",
        "COPYING — ü.md", "card.json",
    }  # fmt: skip
    (odd / "LICENSE").write_text("other terms")
    with pytest.raises(ModelError, match=r"LICENSE: changed while the model was exported"):
        sidecars.write(source, exported.program, exported.program.contract, goldens, folder)


def test_a_model_without_settings_gets_some(
    model: Path, exported: Exported, tmp_path: Path
) -> None:
    bare = Path(shutil.copytree(model, tmp_path / "bare"))
    (bare / "tokenizer_config.json").unlink()
    folder = tmp_path / "artifact"
    folder.mkdir()
    contract: Contract = exported.program.contract
    goldens = store.load(exported.artifacts["onnxruntime"] / "golden")
    sidecars.write(open_model(bare), exported.program, contract, goldens, folder)
    said = json.loads((folder / "tokenizer_config.json").read_text())
    assert said == {
        "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>",
        "model_max_length": contract.max_length, "padding_side": "right",
        "truncation_side": "right",
    }  # fmt: skip


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_are_cut_on_the_side_that_the_contract_says(
    side: Literal["left", "right"], model: Path, exported: Exported, tmp_path: Path
) -> None:
    contract = exported.program.contract.with_(truncation_side=side)
    goldens = store.load(exported.artifacts["onnxruntime"] / "golden")
    sidecars.write(open_model(model), exported.program, contract, goldens, tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.truncation["direction"] == side
    said = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    assert said["truncation_side"] == side


def test_a_limit_is_put_in_and_taken_out_again(exported: Exported) -> None:
    text = exported.program.tokenizer
    assert '"truncation":null' in text
    once = limited(text, 7, "Left")
    assert Tokenizer.from_str(once).truncation["direction"] == "left"
    assert unlimited(limited(once, 9)) == text
    assert limited(limited(text, 7), 9) == limited(text, 9)


# --- a model that changes while it is exported


def swap(model: Path) -> None:
    """Other weights in their place, of the same size and time."""
    file = model / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 1
    (model / "fresh").write_bytes(raw)
    shutil.copystat(file, model / "fresh")
    (model / "fresh").rename(file)


@pytest.mark.parametrize("when", ["goldens", "trace", "build"])
def test_weights_that_are_replaced_meanwhile_are_in_no_artifact(
    when: str, exported: Exported, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Path(shutil.copytree(tiny, tmp_path / "tiny-gemma3"))
    goldens = store.load(exported.artifacts["onnxruntime"] / "golden").within(60)

    def at(moment: str, result: Any) -> Any:
        if when == moment:
            swap(model)
        return result

    def obtain(*args: Any) -> Goldens:
        return at("goldens", goldens)

    monkeypatch.setattr(exporting, "obtain_goldens", obtain)
    monkeypatch.setattr(exporting, "traced", lambda *args: at("trace", exported.copy()))
    monkeypatch.setattr(exporting, "rewrite", lambda *args: at("build", None))
    with pytest.raises(ModelError, match=r"model\.safetensors: changed while the model was used"):
        export(model, ["onnxruntime"], ["fp32"], tmp_path / "out")
    assert not [p for p in (tmp_path / "out").iterdir() if p.is_dir()]


def test_goldens_are_not_stored_of_weights_that_were_replaced(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: Exported
) -> None:
    from functools import partial

    from goldfold.exporter.cli import app

    model = Path(shutil.copytree(tiny, tmp_path / "tiny-gemma3"))
    goldens = store.load(exported.artifacts["onnxruntime"] / "golden")

    def make(*args: Any, **options: Any) -> Goldens:
        swap(model)
        return goldens

    monkeypatch.setattr(golden_make, "make", make)
    words = ["golden", "make", str(model), "--out", str(tmp_path / "store"), "--quiet"]
    assert app.guarded(partial(app.app, args=words), False) == 3
    assert not (tmp_path / "store").exists()
