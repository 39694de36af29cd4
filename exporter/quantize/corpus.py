"""The texts that a recipe learns from, as token ids: those of calibration, and for chained rounding
many more."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tokenizers import Tokenizer

from goldfold.exporter.ir.program import Program
from goldfold.exporter.quantize import calibration
from goldfold.exporter.quantize.recipe import Recipe

_PROMPTED = 3
"""Of so many texts one stands behind a prompt, as in use."""

_TOKENS = 512
"""A longer text would count for as much as twenty short ones."""


def texts() -> tuple[str, ...]:
    """The authored texts, in the file's order."""
    with Path(__file__).with_suffix(".toml").open("rb") as file:
        return tuple(tomllib.load(file)["texts"])


def sequences(program: Program) -> list[list[int]]:
    """Token ids of every text once, every third behind one of the model's prompts in turn."""
    tokenizer = Tokenizer.from_str(program.tokenizer)
    tokenizer.no_padding()
    tokenizer.enable_truncation(min(_TOKENS, program.contract.max_length))
    prompts = list(dict.fromkeys(program.contract.prompts.values())) or [""]
    drafts = [
        (prompts[at // _PROMPTED % len(prompts)] if at % _PROMPTED == 0 else "") + text
        for at, text in enumerate(texts())
    ]
    found = [encoding.ids for encoding in tokenizer.encode_batch(drafts)]
    return [list(ids) for ids in dict.fromkeys(map(tuple, found)) if ids]


def steering(recipe: Recipe, program: Program) -> list[list[int]]:
    """The texts whose statistics steer the integers of `recipe`."""
    return calibration.short(program) + (sequences(program) if recipe.chains else [])
