"""Pickled weights: read without running anything, converted to the bit, the same model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors

from goldfold.exporter.errors import ModelError
from goldfold.exporter.frontend.readiness import ready
from goldfold.exporter.frontend.source import Source, open_model
from goldfold.exporter.frontend.trace import trace
from goldfold.exporter.progress import Stages
from goldfold.exporter.system.cache import Cache


def pickled(folder: Path, *modules: str, **how: Any) -> None:
    for module in modules:
        file = folder / module / "model.safetensors"
        torch.save(load_tensors(file), folder / module / "pytorch_model.bin", **how)
        file.unlink()


def opened(folder: Path, cache: Cache | None = None) -> Source:
    return ready(open_model(folder), Stages(None), cache)


@pytest.mark.parametrize("form", [True, False], ids=["zip", "legacy"])
def test_weights_are_the_same_to_the_bit(folder: Path, form: bool) -> None:
    weights = {m: load_file(folder / m / "model.safetensors") for m in ("", "2_Dense")}
    pickled(folder, *weights, _use_new_zipfile_serialization=form)
    before = sorted(path.name for path in folder.rglob("*"))
    source = opened(folder)
    for module, expected in weights.items():
        found = load_file(source.loads / module / "model.safetensors")
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert sorted(path.name for path in folder.rglob("*")) == before  # nothing is left beside it
    assert {"pytorch_model.bin", "2_Dense/pytorch_model.bin"} <= source.defining.keys()
    assert "pickled" in source.notes[-1]
    assert trace(source).contract.dim == 32


def test_shards_of_pickles(folder: Path) -> None:
    state = load_tensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, places = sorted(state), {}
    for part in range(2):
        file = f"pytorch_model-{part + 1:05}-of-00002.bin"
        torch.save({name: state[name] for name in names[part::2]}, folder / file)
        places |= dict.fromkeys(names[part::2], file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    source = opened(folder)
    assert len(source.tensors) == 4  # two shards, a Dense, a LayerNorm
    assert trace(source).contract.dim == 32
    source.check_unchanged()


def test_conversion_is_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pickled(folder, "", "2_Dense")
    cache = Cache(tmp_path / "stages")
    first = opened(folder, cache)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it is converted once"))
    again = opened(folder, cache)
    assert again.loads != first.loads
    assert [os.path.realpath(a) for a in again.converted] == [
        os.path.realpath(b) for b in first.converted
    ]


class Planted:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("planted"),)


def test_nothing_that_is_pickled_runs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pickled(folder, "2_Dense")
    torch.save({"linear.weight": Planted()}, folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"2_Dense/pytorch_model\.bin: holds more than tensors"):
        opened(folder)
    assert not Path("planted").exists()


@pytest.mark.parametrize(
    "raw", [b"", b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(64), b"not a pickle", bytes(4096)]
)
def test_what_is_no_pickle_of_tensors_is_one_line(folder: Path, raw: bytes) -> None:
    pickled(folder, "2_Dense")
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(raw)
    with pytest.raises(ModelError) as caught:
        opened(folder)
    assert "2_Dense/pytorch_model.bin" in str(caught.value) and "\n" not in str(caught.value)


def test_a_pickle_cut_off_is_one_line(folder: Path) -> None:
    pickled(folder, "")
    file = folder / "pytorch_model.bin"
    with file.open("r+b") as handle:
        handle.truncate(file.stat().st_size // 2)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*damaged"):
        opened(folder)


def test_nan_in_a_pickle_is_found(folder: Path) -> None:
    state = load_tensors(folder / "2_Dense" / "model.safetensors")
    state["linear.weight"][1, 2] = float("nan")
    pickled(folder, "2_Dense")
    torch.save(state, folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"'linear\.weight' holds 1 value that is NaN"):
        opened(folder)


def test_shared_tensors_are_written_out(folder: Path) -> None:
    state = load_tensors(folder / "2_Dense" / "model.safetensors")
    pickled(folder, "2_Dense")
    both = torch.stack([state["linear.bias"], state["linear.bias"]])
    state["linear.bias"] = both[0]
    state["again"] = both[1]
    torch.save(state, folder / "2_Dense" / "pytorch_model.bin")
    found = load_file(opened(folder).loads / "2_Dense" / "model.safetensors")
    assert np.array_equal(found["again"], found["linear.bias"])
