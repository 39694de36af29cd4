"""What `open_model` and `check_finite` refuse of weights: pickles, cut files, headers, NaN."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from goldfold.exporter.frontend.source import check_finite, open_model
from tests.exporter.model.refusing import edit, refuse

ROOT = Path(__file__).parents[3]


# --- weights


@pytest.mark.parametrize("module", ["", "2_Dense", "3_LayerNorm"])
def test_pickled_weights_count_and_are_left_unread(folder: Path, module: str) -> None:
    file = folder / module / "model.safetensors"
    file.rename(file.with_name("pytorch_model.bin"))
    pickle = f"{module}/pytorch_model.bin".strip("/")
    source = open_model(folder)
    assert source.pickles == (folder / pickle,)
    assert pickle in source.defining
    check_finite(source)


def test_refuses_no_weights(folder: Path) -> None:
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "weights.pt")
    refuse(("2_Dense", "neither model.safetensors nor pytorch_model.bin", "weights.pt"), folder)


def test_the_file_that_transformers_would_load_is_the_one_that_is_scanned(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("query.weight"))
    tensors[name][0, 0] = np.nan
    save_file(tensors, folder / "other.safetensors")
    check_finite(open_model(folder))
    edit(folder / "config.json", lambda c: c.update(transformers_weights="other.safetensors"))
    refuse(("other.safetensors", "NaN"), folder)
    for wrong in ("missing.safetensors", "../other.safetensors", "other.bin", 3):
        edit(folder / "config.json", lambda c, wrong=wrong: c.update(transformers_weights=wrong))
        refuse((str(wrong),), folder)


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
