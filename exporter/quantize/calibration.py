"""The calibration texts as token ids: what ranges are recorded on."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tokenizers import Tokenizer

from goldfold.exporter.ir.program import Program

_LENGTHS = (300, 700, 2048)
"""Tokens of the long texts, made of all the others in turn; cut at the model's own maximum."""


def texts() -> tuple[str, ...]:
    """The authored texts."""
    with Path(__file__).with_suffix(".toml").open("rb") as file:
        return tuple(tomllib.load(file)["texts"])


SHORT = 1024
"""Tokens of the longest text whose every activation is looked at (exporter/quantize/): enough to
leave the window, and memory stays flat."""


def short(program: Program) -> list[list[int]]:
    """`sequences` of up to SHORT tokens."""
    return [ids for ids in sequences(program) if len(ids) <= SHORT]


def sequences(program: Program) -> list[list[int]]:
    """Token ids of every text, alone and behind the model's prompts in turn, and of a few long
    texts."""
    tokenizer = Tokenizer.from_str(program.tokenizer)
    tokenizer.enable_truncation(program.contract.max_length)
    prompts = ["", *dict.fromkeys(program.contract.prompts.values())]
    authored = texts()
    drafts = [*authored, *(prompts[i % len(prompts)] + text for i, text in enumerate(authored))]
    found = [encoding.ids for encoding in tokenizer.encode_batch(drafts)]
    for length in _LENGTHS:
        tokenizer.enable_truncation(min(length, program.contract.max_length))
        found.append(tokenizer.encode(" ".join(authored * 8)).ids)
    return [ids for ids in dict.fromkeys(map(tuple, found)) if ids]  # type: ignore[misc]
