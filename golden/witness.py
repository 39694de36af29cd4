"""A source model as a witness: its own tokenizer and settings, read by sentence-transformers.

The witness shares nothing with the tracer: the folder is loaded a second time, and each text goes
through the call that users make.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from goldfold.golden import filling, late, scoring, sparse, tables
from goldfold.golden.errors import GoldenError
from goldfold.golden.framing import is_framed, plain, plain_tokenizer, tokenizer_of
from goldfold.golden.reference import lengths_of, open_reference, quiet, shorten, unpooled_of
from goldfold.golden.tasks import EMBEDDING, MULTI, SCORES, SPARSE
from goldfold.golden.tokenizer_file import Ids, TokenizerFile, first_difference

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

T = TypeVar("T", str, tuple[str, str])

_BATCH = 256
"""Texts in one call of sentence-transformers, which pads them."""
_PAIRS, _PAIRED = 2_000, 200
"""Number of drawn pairs, and the letters of their longest text."""
_IDENTITY = ("Dropout", "MultiVectorMask")
"""Modules that change no number at inference."""
_CALLED = 400
"""Number of drawn texts that go through the calls of queries and documents."""


@dataclass(frozen=True)
class Witness:
    """The facts about texts and embeddings that a source model states itself."""

    tokenizer: TokenizerFile
    """Its tokenizer, as the library writes it."""
    drawn: Mapping[str, Ids]
    """The drawn texts (token_texts.py), and the ids that reach the model, uncut."""
    lengths: Mapping[str, int]
    """The most tokens of a text: "" for `encode`, "query", "document"."""
    dim: int
    pairs: Mapping[tuple[str, str], Ids]
    """Drawn pairs of texts and their ids, uncut, where the model takes pairs."""
    facts: Mapping[str, Any]
    """The fields of an artifact's contract that do not depend on what an export asks for."""
    called: Mapping[str, Mapping[str, Ids]] = field(default_factory=dict)
    """Of token vectors: drawn texts and the ids that `encode_query` and `encode_document` make of
    them, by call."""

    @property
    def longest(self) -> int:
        """The tokens of the longest text of any call."""
        return max(self.lengths.values())

    def contract(self, max_length: int, dims: Sequence[int] = ()) -> dict[str, Any]:
        """Returns the fields of the contract of an artifact for texts of at most `max_length`
        tokens, with the outputs `dims` (the whole embedding, if none are named)."""
        most = min(max_length, self.longest)
        dim, *heads = sorted(dims, reverse=True) or [self.dim]
        return {
            **self.facts,
            "max_length": most,
            "lengths": {task: n for task, n in self.lengths.items() if n < most},
            "dim": min(dim, self.dim),
            "heads": [head for head in heads if head < self.dim],
        }

    def differs(self, file: TokenizerFile) -> str | None:
        """Returns in what an artifact's tokenizer differs from the source's, in words; None where
        it is the same.

        Where the library writes both alike, they are one function; the drawn texts then show that
        sentence-transformers calls it as it is. Otherwise every entry of the vocabulary is compared
        as well, and the ids of its text.
        """
        if file.canonical != self.tokenizer.canonical:
            mine, theirs = self.tokenizer.vocabulary, file.vocabulary
            wrong = sorted(i for i in mine.keys() | theirs if mine.get(i) != theirs.get(i))
            if wrong:
                pair = mine.get(wrong[0]), theirs.get(wrong[0])
                return (
                    f"{len(wrong):,} of {len(mine):,} entries of the vocabulary differ, "
                    f"first that of id {wrong[0]}: expected {pair[0]!r}, found {pair[1]!r}"
                )
            texts = self.tokenizer.spelt
            if said := first_difference(self.tokenizer.made(texts), file.made(texts)):
                return f"it gives {said}"
        said = first_difference(self.drawn, file.made(list(self.drawn)))
        return said and f"it gives {said}"


def read(
    model_dir: Path,
    *,
    trust_remote_code: bool = False,
    longest: int | None = None,
    task: str = EMBEDDING,
    route: str = "",
) -> Witness:
    """Load the model in `model_dir` and ask it for all that a Witness holds.

    `longest` shortens its texts to so many tokens, if it reads more, or does not say how many.
    `task` and `route` are as in make.make. Raises GoldenError for a model that cannot be loaded, or
    makes no token ids.
    """
    model = open_reference(model_dir, trust_remote_code, task, route)
    longest = tables.limit(model, longest)
    if longest is not None:
        shorten(model, longest)
    tokenizer: Any = model.tokenizer
    static = tables.is_static(model)
    backend, framed = getattr(tokenizer, "backend_tokenizer", tokenizer if static else None), False
    if backend is None:
        raise GoldenError(f"{model_dir}: its tokenizer has no tokenizer.json form")
    if task == SCORES:
        return _scoring(model, TokenizerFile(backend.to_str()))
    units = sparse.units(model) if task == SPARSE else 0
    if task == SPARSE and not units:
        file = TokenizerFile(sparse.tokenizer_of(model, backend.to_str()))
    elif static:
        file = TokenizerFile(tables.plain(backend))
    else:
        framed = task == EMBEDDING and is_framed(model)
        file = TokenizerFile(plain_tokenizer(model) if framed else tokenizer_of(model))
    with quiet():
        by_call = lengths_of(model)
    lengths = {
        "": by_call["encode"],
        "query": by_call["encode_query"],
        "document": by_call["encode_document"],
    }
    return Witness(
        tokenizer=file,
        drawn=plain(model, file.drawn) if framed else _readable(model, file),
        lengths=lengths,
        dim=int(_dim(model)),
        pairs={},
        facts={
            "similarity": model.similarity_fn_name or "cosine",
            "prompts": {name: prompt or "" for name, prompt in model.prompts.items()},
            "default_prompt_name": model.default_prompt_name,
            "unpooled": unpooled_of(model) if task == EMBEDDING else {},
            "normalized": _normalizes(model, task),
            **(tables.facts(model) if static else _facts(model)),
            **({"task": SPARSE, "units": units} if task == SPARSE else {}),
            "route": route,
            **({"task": MULTI, "tokenwise": late.facts_of(model)} if task == MULTI else {}),
        },
        called=_called(model, file) if task == MULTI else _in_frames(model, file) if framed else {},
    )


def _in_frames(model: Any, file: TokenizerFile) -> dict[str, dict[str, Ids]]:
    """Returns drawn texts and the ids that reach a model whose chat template stands around them."""
    texts = [text for text in file.drawn if len(text) < _PAIRED][:_PAIRS]
    return {"": _readable(model, file, texts)}


def _readable(
    model: Any, file: TokenizerFile, texts: Sequence[str] | None = None
) -> dict[str, Ids]:
    """Returns drawn texts, all if none are given, and their ids; texts that spell
    the place of an image, which the model refuses where there is none, have those of `file`, or are
    left out of the given ones."""
    kinds = ("image_token", "video_token", "audio_token")
    marks = [getattr(getattr(model[0], "processor", None), kind, None) for kind in kinds]
    marks = [mark for mark in marks if isinstance(mark, str)]
    left = {text for text in file.drawn if any(mark in text for mark in marks)}
    if texts is not None:
        return _drawn(model, [text for text in texts if text not in left])
    found = _drawn(model, [text for text in file.drawn if text not in left])
    found |= file.made(sorted(left))
    return {text: found[text] for text in file.drawn}


def _normalizes(model: Any, task: str) -> bool:
    """Returns whether the last module that changes the result is Normalize."""
    result = "token_embeddings" if task == MULTI else "sentence_embedding"
    ends = [
        type(module).__name__
        for module in model
        if type(module).__name__ not in _IDENTITY
        and (getattr(module, "module_output_name", None) or result) == result
    ]
    return ends[-1:] == ["Normalize"] and getattr(model, "truncate_dim", None) is None


def _called(model: Any, file: TokenizerFile) -> dict[str, dict[str, Ids]]:
    texts = sorted((text for text in file.drawn if len(text) < _PAIRED), key=len)
    with quiet():
        return late.called(model, texts[:: max(1, len(texts) // _CALLED)])


def _scoring(model: Any, file: TokenizerFile) -> Witness:
    """Returns what a CrossEncoder states."""
    trunk, tokenizer = model[0].auto_model, model.tokenizer
    length = scoring.length_of(model)
    texts = [text for text in file.drawn if len(text) < _PAIRED][:_PAIRS]
    drawn = dict.fromkeys(zip(texts, reversed(texts), strict=True))
    pairs = [pair for pair in drawn if not any(mark in pair[0] for mark in file.special)]
    named = trunk.config.id2label or {}
    labels = [str(named[key]) for key in sorted(named)]
    known = len(labels) == model.num_labels and not all(n.startswith("LABEL_") for n in labels)
    return Witness(
        tokenizer=file,
        drawn=_plain(model, file.drawn),
        lengths={"": length, "query": length, "document": length},
        dim=int(model.num_labels),
        pairs=_drawn(model, pairs),
        facts={
            "task": SCORES,
            "labels": labels if known else [],
            "activation": type(model.activation_fn).__name__.lower(),
            "separator": _separator(model),
            "prompts": {},
            "default_prompt_name": None,
            "pad_id": int(tokenizer.pad_token_id or 0),
            "vocab_size": int(trunk.get_input_embeddings().num_embeddings),
            "normalized": False,
            "truncation_side": getattr(tokenizer, "truncation_side", "right"),
        },
    )


def _plain(model: Any, texts: Sequence[str]) -> dict[str, Ids]:
    """Returns the ids of each text alone; where a chat template stands around every input, those of
    the tokenizer without it."""
    if "message" not in model[0].modality_config:
        return _drawn(model, texts)
    with quiet():
        made = model.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
    return {text: tuple(ids) for text, ids in zip(texts, made, strict=True)}


def _separator(model: Any) -> int | None:
    """Returns the last token of the first text's segment, if the scores depend on segments."""
    import torch

    features = model.preprocess([("one", "two words")])
    if "token_type_ids" not in features or not features["token_type_ids"].any():
        return None
    with torch.inference_mode():
        found = [
            model({**features, "token_type_ids": kinds})["scores"]
            for kinds in (features["token_type_ids"], 0 * features["token_type_ids"])
        ]
    if torch.equal(*found):
        return None
    return int(features["input_ids"][0, int(features["token_type_ids"][0].argmax()) - 1])


def _facts(model: SentenceTransformer) -> dict[str, Any]:
    """Returns what a contract says of the tokens of a model with a transformer."""
    first: Any = model[0]
    tokenizer: Any = model.tokenizer
    return {
        "pad_id": int(tokenizer.pad_token_id or 0),
        "vocab_size": sparse.entries(first),
        "truncation_side": getattr(tokenizer, "truncation_side", "right"),
    }


def _dim(model: SentenceTransformer) -> int:
    """Returns the size of an embedding: of one, since settings of sizes may be wrong."""
    how: Any = {"prompt": "", "show_progress_bar": False, **sparse.plain(model)}
    return np.asarray(model.encode(["one"], **how)).shape[-1]


def _drawn(model: Any, texts: Sequence[T]) -> dict[T, Ids]:
    """Returns the ids of each text or pair as they reach the first module, in the order of
    `texts`."""
    found: dict[T, Ids] = {}
    order = sorted(texts, key=lambda one: len(one) if isinstance(one, str) else len("".join(one)))
    try:
        with quiet(), sparse.uncut(model):
            uncut: Any = {"text": filling.uncut(model)}
            for start in range(0, len(order), _BATCH):
                some = order[start : start + _BATCH]
                if tables.is_static(model):
                    found |= cast("dict[Any, Ids]", tables.made(model, cast("Any", some)))
                    continue
                made = model.preprocess(some, processing_kwargs=uncut)
                if "attention_mask" not in made:
                    raise GoldenError("there is no attention_mask to tell tokens from padding")
                ids, mask = (made[key].numpy() for key in ("input_ids", "attention_mask"))
                for text, row, kept in zip(some, ids, mask, strict=True):
                    found[text] = tuple(row[kept.astype(bool)].astype(int).tolist())
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = " ".join(str(error).split())[:300]
        raise GoldenError(
            f"sentence-transformers makes no tokens of drawn texts: {type(error).__name__}: {said}"
        ) from None
    return {text: found[text] for text in texts}
