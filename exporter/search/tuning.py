"""The tuning texts as token ids: what recipes are compared on before one is chosen."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tokenizers import Tokenizer

from goldfold.exporter.ir.program import Program

_LENGTHS = (120, 400, 1000)
"""Tokens of the long texts, made of the others in turn; cut at the model's own maximum."""


def texts() -> tuple[str, ...]:
    """The authored texts, in the file's order."""
    with Path(__file__).with_suffix(".toml").open("rb") as file:
        return tuple(tomllib.load(file)["texts"])


def sequences(program: Program) -> list[list[int]]:
    """Token ids of every text once, behind no prompt or one of the model's in turn, then those of
    three long texts. Fewer than calibration has, since a search runs them at every trial."""
    tokenizer = Tokenizer.from_str(program.tokenizer)
    tokenizer.no_padding()
    tokenizer.enable_truncation(program.contract.max_length)
    prompts = ["", *dict.fromkeys(program.contract.prompts.values())]
    authored = texts()
    drafts = [prompts[i % len(prompts)] + text for i, text in enumerate(authored)]
    found = [encoding.ids for encoding in tokenizer.encode_batch(drafts)]
    for number, length in enumerate(_LENGTHS):
        tokenizer.enable_truncation(min(length, program.contract.max_length))
        begin = number * len(authored) // len(_LENGTHS)
        found.append(tokenizer.encode(" ".join((*authored[begin:], *authored[:begin]))).ids)
    return [list(ids) for ids in dict.fromkeys(map(tuple, found)) if ids]
