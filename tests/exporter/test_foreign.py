"""Models whose classes keep to no convention: an attention table of their own, code that comes with
the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from goldfold import export, load
from goldfold.exporter.errors import ModelError
from goldfold.exporter.frontend.readiness import ready
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.frontend.trace import reasons, trace
from goldfold.exporter.progress import Stages
from tests import models
from tests.exporter.model.refusing import edit

TEXTS = ["a lighthouse", "ships that passed before dawn", "the keeper counted them twice"]


def bare(name: str, folder: Path, **settings: Any) -> Path:
    """A folder with transformers' class `name` and a tokenizer, and nothing of
    sentence-transformers'."""
    config = getattr(transformers, f"{name}Config")(vocab_size=400, **settings)
    torch.manual_seed(1)
    getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
    models._make_tokenizer(True, 64).save_pretrained(folder)
    return folder


def off(artifact: Path, folder: Path, **how: Any) -> float:
    from sentence_transformers import SentenceTransformer

    expected = np.asarray(SentenceTransformer(str(folder), device="cpu", **how).encode(TEXTS))
    return float(abs(load(artifact).embed(TEXTS) - expected).max() / abs(expected).max())


GPT_NEO = {"num_layers": 2, "hidden_size": 48, "num_heads": 3, "max_position_embeddings": 128,
           "attention_types": [[["global", "local"], 1]], "window_size": 8}  # fmt: skip
GPT_J = {"n_layer": 2, "n_embd": 48, "n_head": 3, "rotary_dim": 8, "n_positions": 128}
FALCON = {"num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 3}


@pytest.mark.parametrize(
    ("name", "settings"), [("GPTNeo", GPT_NEO), ("GPTJ", GPT_J), ("Falcon", FALCON)]
)
def test_a_class_that_knows_no_attention_of_ours_is_traced_with_its_own(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    folder = bare(name, tmp_path / name, **settings)
    (result,) = export(folder, ["onnxruntime"], ["fp32"], tmp_path / "out")
    assert result.passed
    assert any("traced with eager attention" in one for one in result.bundle.manifest.notes)
    assert off(result.path, folder) < 1e-4


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("\x1b[31mFailed\x1b[0m here:\n\n the cause\nNext steps:\n ask", "Failed here: the cause"),
        ("=====\n----\n", "RuntimeError"),
        ("", "RuntimeError"),
        ("x" * 9000, "x" * 300),
    ],
)  # fmt: skip
def test_an_error_of_torch_becomes_its_first_sentence(said: str, wanted: str) -> None:
    assert reasons.why(RuntimeError(said)) == wanted


class Chooses(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum().tolist() > 0 else -x


def test_code_that_looks_at_values_is_said_to() -> None:
    with pytest.raises(Exception) as caught:
        torch.export.export(Chooses(), (torch.ones(2, 3),))
    said = reasons.why(caught.value)
    assert said.startswith("its Python code chooses what to compute by the values of its input")
    assert "\n" not in said and "\x1b" not in said


# --- code that comes with the model

_OWN = """
from transformers import BertModel as Theirs


class BertModel(Theirs):
    def forward(self, *given, **named):
        out = super().forward(*given, **named)
        out.last_hidden_state = out.last_hidden_state.flip(-1)
        return out
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    folder = models.build("bert", tmp_path / "bert")
    (folder / "own.py").write_text(_OWN)
    edit(folder / "config.json", lambda c: c.update(auto_map={"AutoModel": "own.BertModel"}))
    return folder


@pytest.mark.parametrize("trust", [False, True])
def test_code_in_the_folder_runs_where_it_is_trusted(
    trust: bool, own: Path, tmp_path: Path
) -> None:
    """As sentence-transformers takes it, asked the same."""
    (result,) = export(own, ["onnxruntime"], ["fp32"], tmp_path / "out", trust_remote_code=trust)
    assert result.passed
    assert off(result.path, own, trust_remote_code=trust) < 1e-4
    assert off(result.path, own, trust_remote_code=not trust) > 0.1
    said = " ".join(result.bundle.manifest.notes)
    assert ("it was not run" in said) is not trust


def test_code_elsewhere_is_not_asked_for_where_the_class_is_known(tmp_path: Path) -> None:
    """Reference and trace without the hub, whatever is trusted."""
    folder = models.build("bert", tmp_path / "bert")
    roles = {"AutoConfig": "org/x--c.BertConfig", "AutoModel": "org/x--m.BertModel"}
    edit(folder / "config.json", lambda c: c.update(auto_map=roles))
    for trust in (False, True):
        source = ready(open_model(folder, trust_remote_code=trust), Stages())
        assert trace(source).contract.dim == 48


@pytest.mark.parametrize(
    ("place", "advice"),
    [("own.BertModel", "pass --trust-remote-code"), ("org/x--m.BertModel", "put the code")],
)
def test_weights_of_another_class_say_that_there_is_code(
    place: str, advice: str, tmp_path: Path
) -> None:
    folder = models.build("bert", tmp_path / "bert")
    edit(
        folder / "config.json",
        lambda c: c.update(auto_map={"AutoModel": place}, num_hidden_layers=4),
    )
    with pytest.raises(ModelError, match=f"do not belong together.*{advice}"):
        trace(ready(open_model(folder), Stages()))


# --- which files are the model


def test_weights_count_wherever_a_setting_has_them(tmp_path: Path) -> None:
    folder = models.build("bert", tmp_path / "bert")
    (folder / "onnx").mkdir()
    file = (folder / "model.safetensors").rename(folder / "onnx" / "w.safetensors")
    edit(folder / "config.json", lambda c: c.update(transformers_weights="onnx/w.safetensors"))
    one = open_model(folder)
    assert "onnx/w.safetensors" in one.defining
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    assert open_model(folder).fingerprint != one.fingerprint


def test_only_a_transformer_names_its_weights(tmp_path: Path) -> None:
    """Dense passes the setting over, and loads model.safetensors."""
    folder = models.build("bert-dense-tanh", tmp_path / "bert")
    edit(folder / "2_Dense/config.json", lambda c: c.update(transformers_weights="x.safetensors"))
    assert folder / "2_Dense/model.safetensors" in open_model(folder).weights


# --- settings that no artifact could follow


def _post(folder: Path) -> None:
    edit(
        folder / "tokenizer.json",
        lambda c: c["post_processor"]["single"][1]["Sequence"].update(type_id=1),
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    edit(folder / "tokenizer_config.json", lambda c: c.update(model_input_names=names))


def _sentence(**settings: Any) -> Any:
    return lambda folder: edit(folder / "sentence_bert_config.json", lambda c: c.update(**settings))


def _text(**settings: Any) -> Any:
    return _sentence(processing_kwargs={"text": settings})


def _words(**settings: Any) -> Any:
    return lambda folder: edit(folder / "tokenizer_config.json", lambda c: c.update(**settings))


def _dims(value: Any) -> Any:
    file = "config_sentence_transformers.json"
    return lambda folder: edit(folder / file, lambda c: c.update(truncate_dim=value))


def _modules(change: Any) -> Any:
    return lambda folder: edit(folder / "modules.json", change)


def _swap(modules: list[Any]) -> None:
    modules[1], modules[2] = modules[2], modules[1]


SETTINGS = {
    "another config.json": (
        lambda folder: edit(
            folder / "config.json", lambda c: c.update(configuration_files=["config.4.0.0.json"])
        ),
        r"config\.json: configuration_files",
    ),
    "no mask": (_text(return_attention_mask=False), "its padding counts"),
    "no mask among the inputs": (_words(model_input_names=["input_ids"]), "its padding counts"),
    "padding before absolute positions": (_words(padding_side="left"), "its padding counts"),
    "no dimensions": (_dims(0), "truncate_dim is 0"),
    "dimensions in words": (_dims("16"), "truncate_dim is '16'"),
    "a length in words": (_sentence(query_length="8"), "query_length is '8'"),
    "no length": (_sentence(max_seq_length=0), "max_seq_length is 0"),
    "a pair is cut": (_text(truncation="only_second"), "makes no tokens of .*only_second"),
    "a multiple": (_text(pad_to_multiple_of=16), "makes no tokens of .*pad_to_multiple_of"),
    "specials as letters": (_words(split_special_tokens=True), "other tokens than"),
    "token types": (_post, "types other than 0"),
    "names twice": (_modules(lambda m: m[1].update(name=m[0]["name"])), "two modules are called"),
    "modules out of order": (_modules(_swap), "Normalize comes before Pooling"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_setting_that_no_artifact_could_follow_is_refused(case: str, tmp_path: Path) -> None:
    change, why = SETTINGS[case]
    folder = models.build("bert", tmp_path / "bert", max_seq_length=40)
    change(folder)
    with pytest.raises(ModelError, match=why) as caught:
        export(folder, ["onnxruntime"], ["fp32"], tmp_path / "out")
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_padding_on_the_left_is_no_matter_where_positions_are_relative(tmp_path: Path) -> None:
    folder = models.build("qwen3", tmp_path / "qwen3", max_seq_length=40)
    _words(padding_side="left")(folder)
    (result,) = export(folder, ["onnxruntime"], ["fp32"], tmp_path / "out")
    assert result.passed
