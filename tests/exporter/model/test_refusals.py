"""What `open_model` refuses by a name, a path or a setting: one line that names the culprit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from goldfold.exporter.frontend import weights
from goldfold.exporter.frontend.source import open_model
from tests.exporter.model.refusing import edit, refuse, set_type

ROOT = Path(__file__).parents[3]


# --- names and paths


def test_refuses_a_missing_folder() -> None:
    refuse(("/nowhere/at/all", "no such folder"), "/nowhere/at/all")
    refuse(("just-a-name", "org/name"), "just-a-name")
    refuse(("not the name",), "")
    refuse(("org/name", "no such folder"), Path("org/name"))


def test_refuses_a_file(folder: Path) -> None:
    refuse(("model.safetensors", "is a file"), folder / "model.safetensors")


def test_refuses_a_folder_that_is_no_model(folder: Path, tmp_path: Path) -> None:
    (folder / "modules.json").unlink()
    (folder / "config.json").unlink()
    refuse((str(folder), "neither modules.json nor config.json"), folder)
    (tmp_path / "above").mkdir()
    shutil.copytree(folder / "1_Pooling", tmp_path / "above" / "model")
    refuse((str(tmp_path), "above/model", "is it that?"), tmp_path / "above")


@pytest.mark.parametrize("path", ["../x", "/etc", "a/../../b", "C:\\x", "..\\x", "\\\\host\\x"])
def test_refuses_a_module_path_that_escapes(folder: Path, path: str) -> None:
    edit(folder / "modules.json", lambda modules: modules[2].update(path=path))
    refuse(("modules.json", repr(path), "leaves the model's folder"), folder)


def test_hub_id_fetches_no_pickles(
    pristine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    calls: list[dict[str, Any]] = []

    def download(repo: str, **options: Any) -> str:
        calls.append({"repo": repo, **options})
        return str(pristine)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    source = open_model("some-org/some-model")
    assert (source.name, source.path) == ("some-model", pristine)
    repository = [
        "model.safetensors", "2_Dense/model.safetensors", "modules.json", "1_Pooling/config.json",
        "LICENSE", "README.md", "tokenizer.model", "vocab.txt", "pytorch_model.bin", "code.py",
        "onnx/model.onnx", "onnx/config.json", "openvino/openvino_model.xml", "tf_model.h5",
    ]  # fmt: skip
    kept = huggingface_hub.utils.filter_repo_objects(
        repository,
        allow_patterns=calls[0]["allow_patterns"],
        ignore_patterns=calls[0]["ignore_patterns"],
    )
    assert list(kept) == repository[:8]
    open_model("some-org/some-model", trust_remote_code=True)
    assert "*.py" in calls[1]["allow_patterns"]
    assert not any(pattern.endswith("bin") for pattern in calls[1]["allow_patterns"])


def test_hub_id_fetches_pickles_where_there_is_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    calls: list[list[str]] = []
    (folder / "2_Dense" / "model.safetensors").rename(tmp_path / "pickle")

    def download(repo: str, allow_patterns: list[str], **options: Any) -> str:
        calls.append(allow_patterns)
        if len(calls) == 2:
            (tmp_path / "pickle").rename(folder / "2_Dense" / "pytorch_model.bin")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    source = open_model("some-org/some-model")
    assert calls[1] == ["2_Dense/pytorch_model*"]
    assert source.pickles == (folder / "2_Dense" / "pytorch_model.bin",)


def test_refuses_an_unreachable_hub_id(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    def download(repo: str, **options: Any) -> str:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    refuse(("some-org/some-model", "ConnectionError: no route"), "some-org/some-model")


# --- modules.json and the configurations


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("{", "is not JSON"),
        ("{}", "must be a list"),
        ("[]", "must be a list"),
        ("[1]", "module 0"),
        ('[{"name": "0", "path": ""}]', "'type'"),
        ('[{"name": "0", "type": "sentence_transformers.models.Transformer"}]', "'path'"),
        ('[{"name": "0", "path": "", "path": "x", "type": "y"}]', "stands twice"),
        ("[" * 100_000, "is not JSON"),
        ("\udcff", "is not UTF-8"),
    ],
)
def test_refuses_a_malformed_modules_json(folder: Path, text: str, culprit: str) -> None:
    (folder / "modules.json").write_text(text, "utf-8", "surrogateescape")
    refuse(("modules.json", culprit), folder)


def test_refuses_huge_json(folder: Path) -> None:
    with (folder / "modules.json").open("r+b") as file:
        file.truncate(weights.JSON_LIMIT + 1)
    refuse(("modules.json", f"larger than {weights.JSON_LIMIT >> 20} MiB"), folder)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("CNN", "its convolutions read the padding"),
        ("LSTM", "which only WordEmbeddings says"),
        ("WordEmbeddings", "drops a word that is in no list"),
        ("BoW", "drops a word that is in no list"),
        ("MLP", "does not support; supported are"),
    ],
)
def test_refuses_a_module_it_does_not_know(folder: Path, kind: str, why: str) -> None:
    dotted = f"sentence_transformers.models.{kind}"
    set_type(folder, 3, dotted)
    supported = "Pooling, Dense, LayerNorm, Normalize, Dropout"
    refuse(("modules.json", dotted, why, supported), folder)
    refuse(("modules.json", dotted, why, supported), folder, trust_remote_code=True)


@pytest.mark.parametrize("kind", ["WeightedLayerPooling", "WordWeights"])
def test_refuses_a_module_of_tokens_behind_pooling(folder: Path, kind: str) -> None:
    set_type(folder, 2, f"sentence_transformers.models.{kind}")
    refuse(("modules.json", f"{kind} comes behind Pooling"), folder)


@pytest.mark.parametrize(
    "dotted", ["custom_st.Dense", "sentence_transformersx.Dense", "sentence_transformers", "Dense"]
)
def test_refuses_a_module_of_another_package(folder: Path, dotted: str) -> None:
    set_type(folder, 2, dotted)
    refuse((repr(dotted), "would run code"), folder)
    refuse((repr(dotted), "unknown type"), folder, trust_remote_code=True)


def test_a_refusal_stays_one_printable_line(folder: Path) -> None:
    set_type(folder, 2, "evil\n\x1b[31m.Dense")
    edit(folder / "modules.json", lambda modules: modules[2].update(name="a\nb\x1b"))
    refuse(("evil",), folder)


def test_refuses_another_order(folder: Path) -> None:
    edit(folder / "modules.json", lambda modules: modules[1:] + modules[:1])
    refuse(("modules.json", "one Transformer must come first"), folder)


def test_refuses_no_pooling(folder: Path) -> None:
    edit(folder / "modules.json", lambda modules: modules[:1] + modules[2:])
    refuse(("modules.json", "no Pooling"), folder)


def test_refuses_another_type_of_model(folder: Path) -> None:
    file = folder / "config_sentence_transformers.json"
    edit(file, lambda config: config.update(model_type="ImageEncoder"))
    refuse((file.name, "ImageEncoder"), folder)


def test_refuses_prompts_that_are_not_text(folder: Path) -> None:
    file = folder / "config_sentence_transformers.json"
    edit(file, lambda config: config.update(prompts={"query": 1}))
    refuse((file.name, "prompts"), folder)


def test_refuses_a_missing_config(folder: Path) -> None:
    (folder / "1_Pooling" / "config.json").unlink()
    refuse(("1_Pooling/config.json", "missing"), folder)


def test_refuses_settings_that_choose_other_weights(folder: Path) -> None:
    file = folder / "sentence_bert_config.json"
    edit(file, lambda config: config.update(model_args={"use_safetensors": False}))
    refuse((file.name, "'use_safetensors'"), folder)


def test_refuses_a_second_router(folder: Path) -> None:
    for place, name in ((2, "2_Dense"), (3, "3_Router")):
        set_type(folder, place, "sentence_transformers.base.modules.router.Router")
        edit(folder / "modules.json", lambda m, at=place, to=name: m[at].update(path=to))
        (folder / name).mkdir(exist_ok=True)
        router = '{"types": {"a": "x.Y"}, "structure": {"query": ["a"]}, "parameters": {}}'
        (folder / name / "router_config.json").write_text(router, "utf-8")
    refuse(("is a second Router; one is supported",), folder)


@pytest.mark.parametrize("name", ["evil.Act", "torchevil.Act", 7])
def test_refuses_a_foreign_activation(folder: Path, name: object) -> None:
    file = folder / "2_Dense" / "config.json"
    edit(file, lambda config: config.update(activation_function=name))
    refuse(("2_Dense/config.json", repr(name), "Tanh"), folder)
