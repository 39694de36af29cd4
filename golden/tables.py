"""A static embedding model as the reference: a table of one vector a token, and their mean.

Its module has a tokenizer of the library `tokenizers` alone, which adds no special tokens, and cuts
a text only where its tokenizer.json says so. A reference needs an end: the tokenizer's own, or
`UNDECLARED` tokens, beyond which sentence-transformers would read on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

UNDECLARED = 1 << 15
"""The most tokens of a text where the tokenizer names no number: some 50 pages."""

_SIDES = ("right", "left")


def is_static(model: Any) -> bool:
    """Whether a SentenceTransformer begins with a table in place of a transformer."""
    return type(model[0]).__name__ == "StaticEmbedding"


def declared(model: Any) -> int | None:
    """Returns the tokens at which the tokenizer of a static model cuts texts; None for nowhere."""
    cut = model[0].tokenizer.truncation
    return None if cut is None else int(cut["max_length"])


def limit(model: Any, asked: int | None) -> int | None:
    """Returns the length to which texts are cut: the one asked for, or a static model's."""
    if asked is not None or not is_static(model):
        return asked
    return declared(model) or UNDECLARED


def cut(model: Any, length: int) -> None:
    """Let a static model cut texts to `length` tokens at most, on its tokenizer's own side."""
    most = min(length, declared(model) or length)
    model[0].tokenizer.enable_truncation(most, direction=side(model))


def side(model: Any) -> str:
    """Returns the side on which a text that is too long loses tokens."""
    found = str((model[0].tokenizer.truncation or {}).get("direction", "right")).lower()
    return found if found in _SIDES else "right"


def count(model: Any, text: str) -> int:
    """Returns the number of a text's tokens, uncut."""
    with uncut(model) as tokenizer:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)


def read(features: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """Returns the ids of each text of a static model's input, which has all in one row."""
    ids, starts = features["input_ids"].tolist(), features["offsets"].tolist()
    ends = [*starts[1:], len(ids)]
    return [tuple(ids[start:end]) for start, end in zip(starts, ends, strict=True)]


def made(model: Any, texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Returns the uncut ids of each text as they reach the table, by sentence-transformers."""
    with uncut(model):
        return dict(zip(texts, read(model.preprocess(list(texts))), strict=True))


@contextmanager
def uncut(model: Any) -> Iterator[Any]:
    """Yields the tokenizer of a static model, which cuts nothing while this is open."""
    tokenizer = model[0].tokenizer
    kept = tokenizer.truncation
    tokenizer.no_truncation()
    try:
        yield tokenizer
    finally:
        if kept is not None:
            tokenizer.enable_truncation(**kept)


def plain(tokenizer: Any) -> str:
    """Returns the tokenizer as its module calls it: without the step that adds special tokens."""
    from tokenizers import Tokenizer

    copy: Any = Tokenizer.from_str(tokenizer.to_str())
    copy.post_processor = None
    return copy.to_str(pretty=False)


def facts(model: Any) -> dict[str, Any]:
    """Returns what a contract says of a static model's tokens."""
    return {
        "pad_id": pad_id(model[0].tokenizer, model[0].num_embeddings),
        "vocab_size": int(model[0].num_embeddings),
        "truncation_side": side(model),
    }


def pad_id(tokenizer: Any, rows: int) -> int:
    """Returns the id that fills a batch; the mask hides it, so that any row will do. It is the
    special token that is called so, or the first row."""
    added = tokenizer.get_added_tokens_decoder()
    called = (i for i in sorted(added) if added[i].special and "pad" in added[i].content.lower())
    return next((i for i in called if i < rows), 0)
