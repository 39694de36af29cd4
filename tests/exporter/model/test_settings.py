"""Settings that would run code of somebody else's, or load other files than were checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from goldfold.exporter.errors import ModelError
from goldfold.exporter.frontend.readiness import ready
from goldfold.exporter.frontend.source import check_finite, open_model
from goldfold.exporter.progress import Stages
from tests.exporter.model.refusing import edit, refuse

KERNEL = "kernels-community/flash-attn"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attn_implementation", KERNEL),
        ("_attn_implementation", "flash_attention_2"),
        ("experts_implementation", KERNEL),
        ("text_config", {"attn_implementation": KERNEL}),
        ("attn_implementation", {"": KERNEL}),
    ],
)
def test_attention_from_elsewhere_is_refused(folder: Path, name: str, value: Any) -> None:
    edit(folder / "config.json", lambda c: c.update({name: value}))
    refuse(("config.json", "implementation", "remove it"), folder)


@pytest.mark.parametrize("value", ["eager", "sdpa", None])
def test_attention_of_transformers_own_is_no_matter(folder: Path, value: Any) -> None:
    edit(folder / "config.json", lambda c: c.update(attn_implementation=value))
    file = folder / "sentence_bert_config.json"
    edit(file, lambda c: c.update(model_args={"attn_implementation": value, "torch_dtype": "auto"}))
    check_finite(open_model(folder))


@pytest.mark.parametrize(
    ("group", "choice", "value"),
    [
        ("model_args", "attn_implementation", KERNEL),
        ("model_kwargs", "gguf_file", "x.gguf"),
        ("model_kwargs", "use_kernels", True),
        ("model_kwargs", "device_map", "auto"),
        ("model_kwargs", "adapter_kwargs", {}),
        ("tokenizer_args", "tokenizer_file", "/etc/passwd"),
        ("processor_kwargs", "subfolder", "other"),
        ("config_args", "auto_map", {"AutoModel": "a.B"}),
        ("config_kwargs", "quantization_config", {}),
        ("config_kwargs", "revision", "main"),
    ],
)
def test_choice_of_other_weights_or_files_is_refused(
    folder: Path, group: str, choice: str, value: Any
) -> None:
    file = folder / "sentence_bert_config.json"
    edit(file, lambda c: c.update({group: {choice: value}}))
    refuse((file.name, group, choice, "remove it"), folder)
    check_finite(open_model(folder, trust_remote_code=True))


def test_tokenizer_elsewhere_is_refused(folder: Path) -> None:
    file = folder / "sentence_bert_config.json"
    edit(file, lambda c: c.update(tokenizer_name_or_path="google-bert/bert-base-uncased"))
    refuse((file.name, "google-bert/bert-base-uncased", "outside"), folder)


# --- code of the model's own


def opened(folder: Path, **how: bool) -> Any:
    return ready(open_model(folder, **how), Stages(None))


@pytest.mark.parametrize("trust", [False, True])
def test_code_is_not_needed_where_transformers_has_the_class(folder: Path, trust: bool) -> None:
    roles = {
        "AutoConfig": "org/x--configuration.BertConfig",
        "AutoModel": "org/x--modeling.BertModel",
        "AutoModelForMaskedLM": "org/x--modeling.SomethingElse",
    }
    edit(folder / "config.json", lambda c: c.update(auto_map=roles))
    source = opened(folder, trust_remote_code=trust)
    assert not source.trusted  # or sentence-transformers would go to the hub for it
    assert "BertModel" in source.notes[-1]


@pytest.mark.parametrize(
    ("file", "role", "named", "why"),
    [
        ("config.json", "AutoModel", "jinaai/x--m.JinaBertModel", "asks for JinaBertModel"),
        ("config.json", "AutoConfig", "m.NewConfig", "asks for NewConfig"),
        ("tokenizer_config.json", "AutoTokenizer", [None, "t.OddTokenizer"], "no OddTokenizer"),
    ],
)
def test_code_of_another_class_is_refused_unless_trusted(
    folder: Path, file: str, role: str, named: Any, why: str
) -> None:
    edit(folder / file, lambda c: c.update(auto_map={role: named}))
    with pytest.raises(ModelError, match=f"{file}.*auto_map.*{why}.*--trust-remote-code"):
        opened(folder)
    assert opened(folder, trust_remote_code=True).trusted


def test_a_type_that_transformers_lacks_needs_its_code(folder: Path) -> None:
    edit(
        folder / "config.json",
        lambda c: c.update(model_type="no-such-type", auto_map={"AutoModel": "m.NewModel"}),
    )
    with pytest.raises(ModelError, match="no model of the type 'no-such-type'"):
        opened(folder)


def test_malformed_auto_map_is_one_line(folder: Path) -> None:
    edit(folder / "config.json", lambda c: c.update(auto_map=["x"]))
    refuse(("config.json", "auto_map"), folder)


def test_trust_is_not_taken_where_nothing_asks_for_it(folder: Path) -> None:
    assert not open_model(folder, trust_remote_code=True).trusted


# --- a module's folder counts, whatever its name


@pytest.mark.parametrize("name", ["onnx", "openvino", ".dense", "sub/onnx"])
def test_module_in_a_folder_of_any_name_is_part_of_the_model(folder: Path, name: str) -> None:
    def move(modules: list[dict[str, Any]]) -> None:
        modules[2]["path"] = name

    edit(folder / "modules.json", move)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / "2_Dense").rename(folder / name)
    source = open_model(folder)
    assert {f"{name}/config.json", f"{name}/model.safetensors"} <= source.defining.keys()
    edit(folder / name / "config.json", lambda c: c.update(further=1))
    assert open_model(folder).fingerprint != source.fingerprint
    before = open_model(folder).fingerprint
    (folder / name / "onnx").mkdir(exist_ok=True)  # the same in another format, as elsewhere
    (folder / name / "onnx" / "config.json").write_text("{}")
    assert open_model(folder).fingerprint == before
