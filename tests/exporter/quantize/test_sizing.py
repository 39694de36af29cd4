"""Sizes before anything is rounded: as an export's, and the recipe that is chosen by them."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from goldfold.exporter import registry
from goldfold.exporter.driver import request
from goldfold.exporter.errors import UsageError
from goldfold.exporter.ir.program import Program
from goldfold.exporter.quantize import recipe as recipes
from goldfold.exporter.quantize import sites
from goldfold.exporter.quantize.recipe import Recipe
from goldfold.exporter.search import groups, knapsack, sizing
from goldfold.exporter.search.sizing import Sizer, parse


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("100MB", 100_000_000),
        (" 95.5 MiB ", 100_139_008),
        ("0.1gb", 100_000_000),
        (".5KiB", 512),
        ("2GiB", 1 << 31),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse(text) == size


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("100", "has no unit; say 100MB, 95MiB or 0.1GB"),
        ("", "is no size such as"),
        ("MB", "is no size such as"),
        ("-1MB", "is no size such as"),
        ("1e3MB", "is no size such as"),
        ("nanMB", "is no size such as"),
        ("١٠MB", "is no size such as"),
        ("10M", "is no size such as"),
        ("10MB 20MB", "is no size such as"),
        ("0MB", "is no size of a file"),
        ("0.0001kB", "is no size of a file"),
    ],
)
def test_what_is_no_size_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match="--fit") as caught:
        parse(text)
    assert said in str(caught.value)


@pytest.fixture
def sizer(legal_gemma: Program, tmp_path: Path) -> Sizer:
    return Sizer(legal_gemma, tmp_path, {}, legal_gemma.contract.max_length)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_the_size_of_an_export_is_predicted(
    target: str, sizer: Sizer, artifacts: dict[str, Path]
) -> None:
    found = sizer(target, "fp32", None)
    true = found.of(artifacts[target])
    assert abs(found.bytes - true) < 0.01 * true
    assert not any("token" in name for name in found.files)


def test_types_bits_and_blocks_count(sizer: Sizer) -> None:
    """On a model so small that scales of f32 a block, and the nodes that unpack, take more than
    bits save."""
    eight = recipes.made("eight", {"gains": "keep", "weights": {"bits": 8}, "table": {"bits": 8}})
    blocks = {"bits": 8, "block": 8}
    fine = recipes.made("fine", {"gains": "keep", "weights": blocks, "table": blocks})
    whole, half = (sizer("onnxruntime", name, None).bytes for name in ("fp32", "fp16"))
    coarse, finer = (sizer("onnxruntime", one.name, one).bytes for one in (eight, fine))
    assert coarse < finer < whole
    assert coarse < half < whole


def test_engines_are_refused() -> None:
    with pytest.raises(UsageError, match="known only once tensorrt has compiled it"):
        sizing.check_target("tensorrt")


def test_the_recipe_within_a_size_is_the_best_of_all(program: Program) -> None:
    """Against every choice, for a size that is the sum of its groups and 1,000 bytes."""
    takes = registry.target("openvino").quantizes
    found = groups.find(sites.find(program), "size", takes)[:3]
    draws = np.random.default_rng(3)
    errors = []
    for group in found:
        bits = np.array([c.bits or 32 for c in group.options])
        rows = draws.uniform(1, 2, (len(bits), 5)) * 4.0 ** -bits[:, None]
        errors.append(np.where(bits[:, None] == 32, 0, rows))

    def predict(made: Recipe) -> int:
        return 1000 + sum(
            group.bytes(made.choice(group.sites[0]).with_(rounding="nearest")) for group in found
        )

    every = [
        (sum(g.bytes(c) for g, c in zip(found, chosen, strict=True)) + 1000, error)
        for chosen, error in (
            (
                [g.options[o] for g, o in zip(found, picked, strict=True)],
                sum(rows[o].mean() for rows, o in zip(errors, picked, strict=True)),
            )
            for picked in product(*(range(len(g.options)) for g in found))
        )
    ]
    whole, least = max(size for size, _ in every), min(size for size, _ in every)
    for limit in (least, (3 * least + whole) // 4, (least + whole) // 2):
        made = knapsack.within(found, errors, limit, "fit-1MB", predict)
        assert made is not None
        assert predict(made) <= limit
        best = min(error for size, error in every if size <= limit)
        got = sum(
            rows[g.options.index(made.choice(g.sites[0]).with_(rounding="nearest"))].mean()
            for g, rows in zip(found, errors, strict=True)
        )
        assert got <= 1.002 * best
    assert knapsack.within(found, errors, least - 1, "fit-1MB", predict) is None
    assert knapsack.within(found, errors, whole, "fit-1MB", predict) is None  # floating point fits


def test_a_shipped_recipe_is_predicted_without_rounding(
    sizer: Sizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPTAQ's integers take minutes: none are made."""
    monkeypatch.setattr("goldfold.exporter.quantize.plan.chained", None)
    name, made = next(iter(request.recipes(["int4"]).items()))
    assert sizer("openvino", name, made).bytes > 0
