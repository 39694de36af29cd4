"""Adapters: merged where peft is installed, and refused in one line where it is not."""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from goldfold.exporter.frontend.source import open_model
from tests import models
from tests.exporter.model.refusing import refuse

ABSENT = pytest.mark.skipif(find_spec("peft") is not None, reason="peft is installed")


@ABSENT
@pytest.mark.parametrize("with_config", [True, False])
def test_without_peft_it_is_named(folder: Path, with_config: bool) -> None:
    (folder / "adapter_config.json").write_text("{}")
    if not with_config:
        for name in ("config.json", "modules.json", "model.safetensors"):
            (folder / name).unlink()
    refuse(("adapter_config.json", "pip install peft", "merge_and_unload"), folder)


@ABSENT
def test_without_peft_an_adapter_of_a_module_is_named(folder: Path) -> None:
    (folder / "2_Dense" / "adapter_model.safetensors").write_bytes(b"")
    refuse(("2_Dense/adapter_model.safetensors", "pip install peft"), folder)


class _Merging:
    """What the tests need of peft's PeftModel: one matrix and what is added to it."""

    def __init__(self, below: Any, folder: str) -> None:
        self.below, self.state = below, load_file(f"{folder}/adapter_model.safetensors")

    @classmethod
    def from_pretrained(cls, below: Any, folder: str, **how: Any) -> _Merging:
        return cls(below, folder)

    def merge_and_unload(self) -> Any:
        with torch.no_grad():
            for name, (a, b) in {"encoder.layer.0.attention.self.query": ("a", "b")}.items():
                matrix = self.below.get_submodule(name).weight
                matrix += self.state[b] @ self.state[a]
        return self.below


def adapted(folder: Path, base: Path) -> Path:
    """A folder with an adapter of rank 2 upon the transformer of `base`, and all else of that."""
    models.build("bert", folder)
    for name in ("model.safetensors", "config.json"):
        (folder / name).unlink()
    torch.manual_seed(3)
    state = {"a": torch.randn(2, 48), "b": torch.randn(48, 2)}
    save_file(state, folder / "adapter_model.safetensors")
    said = json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(base)})
    (folder / "adapter_config.json").write_text(said, "utf-8")
    return folder


def test_with_peft_the_merged_model_is_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peft = ModuleType("peft")
    peft.__spec__ = ModuleSpec("peft", None)
    peft.PeftModel = _Merging  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "peft", peft)
    base = models.build("bert", tmp_path / "base")
    folder = adapted(tmp_path / "adapted", base)
    source = open_model(folder)
    assert source.name == "adapted" and source.path != folder
    assert "peft merged the two" in source.notes[0]
    assert not any(name.rpartition("/")[2].startswith("adapter_") for name in source.digests)
    (weights,) = source.weights
    found, below = load_file(weights), load_file(base / "model.safetensors")
    changed = [name for name in below if not torch.equal(found[name], below[name])]
    assert changed == ["encoder.layer.0.attention.self.query.weight"]
    state = load_file(folder / "adapter_model.safetensors")
    torch.testing.assert_close(found[changed[0]] - below[changed[0]], state["b"] @ state["a"])
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "no/such"}', "utf-8")
    refuse(("does not merge the adapter into 'no/such'", "must lie on this machine"), folder)
    (folder / "adapter_config.json").write_text("{}", "utf-8")
    refuse(("needs adapter_model.safetensors and base_model_name_or_path",), folder)
