"""Transformers that no graph computes for every text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from goldfold.exporter.frontend.source import check_finite, open_model
from tests.exporter.model.refusing import edit, refuse


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model_type": "xlnet"}, "XLNet shifts its scores"),
        ({"model_type": "longformer"}, "Longformer cuts a text into windows"),
        ({"model_type": "fnet"}, "FNet mixes all positions by a Fourier transform, padding"),
        ({"model_type": "big_bird"}, "random blocks in texts of more than 704 tokens"),
        (
            {"model_type": "big_bird", "block_size": 16, "num_random_blocks": 1},
            "random blocks in texts of more than 112 tokens",
        ),
    ],
)
def test_refused_by_name(folder: Path, settings: dict[str, Any], said: str) -> None:
    edit(folder / "config.json", lambda config: config.update(settings))
    refuse(("config.json", said, "give a"), folder)


def test_big_bird_that_attends_to_all_is_opened(folder: Path) -> None:
    full = {"model_type": "big_bird", "attention_type": "original_full"}
    edit(folder / "config.json", lambda config: config.update(full))
    check_finite(open_model(folder))
