"""The text sets that recipes learn from, as token ids: the calibration texts, on which ranges and
statistics are recorded, and the corpus, for GPTAQ."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from goldfold.exporter.ir.program import Program
from goldfold.exporter.quantize.recipe import Recipe

Own = str | tuple[str, str]
"""A calibration text of a user's own, or a pair of texts."""

_LENGTHS = (300, 700, 2048)
"""Tokens of the long calibration texts, made of all the others in turn; cut at the model's own
maximum."""

SHORT = 1024
"""Tokens of the longest text whose activations are all recorded (exporter/quantize/): enough to
leave the window, and memory stays flat."""

LETTERS = 1 << 16
"""Characters of the long texts that are made of a user's own: more than 2,048 tokens."""

_PROMPTED = 3
"""One text of the corpus in this many stands behind a prompt, as in use."""

_TOKENS = 512
"""The most tokens of a corpus text; a longer one would weigh as much as twenty short ones."""


def authored(file: Path) -> tuple[str, ...]:
    """The texts of one set, in the file's order."""
    with file.open("rb") as opened:
        return tuple(tomllib.load(opened)["texts"])


def calibration_texts() -> tuple[str, ...]:
    """The authored calibration texts."""
    return authored(Path(__file__).with_name("calibration.toml"))


def corpus_texts() -> tuple[str, ...]:
    """The authored texts of the corpus."""
    return authored(Path(__file__).with_name("corpus.toml"))


def calibration(
    program: Program, own: Sequence[Own] = (), most: int | None = None
) -> list[list[int]]:
    """Token ids of every calibration text, alone and behind the model's prompts in turn, and of a
    few long texts. `own` are a user's, instead of the authored ones; each is cut at `most`
    tokens."""
    known = tuple(singles(own)) or calibration_texts()
    long = " ".join(known * 8)[: LETTERS if own else None]
    lengths = [length for length in _LENGTHS if most is None or length <= most]
    if program.contract.task == "scores":
        pairs = [one for one in own if not isinstance(one, str)] or paired(known)
        return token_ids(program, (pairs, most), *(([(known[0], long)], n) for n in lengths))
    drafts = [*known, *prompted(program, known)]
    return token_ids(program, (drafts, most), *(([long], length) for length in lengths))


def short(program: Program, own: Sequence[Own] = ()) -> list[list[int]]:
    """`calibration` of up to SHORT tokens; of a user's own texts the longer ones are cut."""
    if own:
        return calibration(program, own, SHORT)
    return [ids for ids in calibration(program) if len(ids) <= SHORT]


def singles(own: Sequence[Own]) -> Iterator[str]:
    """Yields texts, and the two texts of each pair."""
    for one in own:
        yield from (one,) if isinstance(one, str) else one


def corpus(program: Program) -> list[list[int]]:
    """Token ids of every text of the corpus once, every third behind one of the model's prompts in
    turn."""
    if program.contract.task == "scores":
        return token_ids(program, (paired(corpus_texts()), _TOKENS))
    prompts = list(dict.fromkeys(program.contract.prompts.values())) or [""]
    drafts = [
        (prompts[at // _PROMPTED % len(prompts)] if at % _PROMPTED == 0 else "") + text
        for at, text in enumerate(corpus_texts())
    ]
    return token_ids(program, (drafts, _TOKENS))


def steering(recipe: Recipe, program: Program, own: Sequence[Own] = ()) -> list[list[int]]:
    """The texts whose statistics steer the integers of `recipe`: a user's own stand for both
    sets."""
    return short(program, own) + (corpus(program) if recipe.chains and not own else [])


def paired(drafts: Sequence[str]) -> list[tuple[str, str]]:
    """Each text beside the next one, and every third beside itself, as a query beside a document
    that has its words."""
    pairs = zip(drafts, (*drafts[1:], *drafts[:1]), strict=True)
    return [(one, one if at % _PROMPTED == 0 else other) for at, (one, other) in enumerate(pairs)]


def prompted(program: Program, drafts: Iterable[str]) -> list[str]:
    """Each text behind no prompt or one of the model's, in turn."""
    prompts = ["", *dict.fromkeys(program.contract.prompts.values())]
    return [prompts[at % len(prompts)] + text for at, text in enumerate(drafts)]


def token_ids(program: Program, *groups: tuple[Sequence[Any], int | None]) -> list[list[int]]:
    """Token ids of all texts or pairs of texts, each sequence once and none empty. A group's texts
    are cut at its number of tokens, if it has one, and at the model's own maximum."""
    tokenizer, most = Tokenizer.from_str(program.tokenizer), program.contract.max_length
    tokenizer.no_padding()
    found: dict[tuple[int, ...], None] = {}
    framed = None if program.contract.task == "scores" else program.contract.frame
    for drafts, length in groups:
        tokenizer.enable_truncation(most if length is None else min(length, most))
        if framed is not None:
            drafts = [framed.about(text) for text in drafts]
        found |= dict.fromkeys(tuple(one.ids) for one in tokenizer.encode_batch(list(drafts)))
    return _filled(program, [list(ids) for ids in found if ids])


def _filled(program: Program, rows: list[list[int]]) -> list[list[int]]:
    """Returns every third row filled up as a query of the model is."""
    how = program.contract.tokenwise
    if how is None or how.filler is None:
        return rows
    return [
        ids + [how.filler] * (0 if at % _PROMPTED else how.query_tokens - len(ids))
        for at, ids in enumerate(rows)
    ]
