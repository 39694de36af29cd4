"""The reference of scores: sentence-transformers' CrossEncoder in fp32 on the CPU.

Each pair goes in alone, as in make.py. The goldens are logits: the activation that `predict`
applies behind them is in the artifact's contract, and is left out here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from goldfold.golden import reference
from goldfold.golden.compare import RANKED
from goldfold.golden.errors import GoldenError
from goldfold.golden.measured import reach
from goldfold.golden.store import PREDICT, ROUNDING, Case, Goldens, fingerprint
from goldfold.golden.tasks import SCORES, scale_of
from goldfold.golden.texts import STRIDE, authored, fit, length_targets, sentences

_QUERIES, _DOCUMENTS = 3, 20
"""Queries, and the documents that each ranks."""
_WORDS = 7
"""Words of a query, taken from one of its documents."""
_COMPANY = 1e-3
"""Error of a logit beside a longer pair, above which the model's padding counts (make.py)."""
_EACH = 1 << 11
"""Tokens of the longest model that is measured on each kind of cut pair; a longer one on one
kind."""
_WIDE = 1 << 30
"""Parameters of the largest model that is run in f64: 8 GB."""

Pair = tuple[str, str]
Count = Callable[[str, str], int]
"""Pair -> number of its tokens, specials included, untruncated."""


@dataclass(frozen=True)
class Asked:
    """A model, and what is asked of its goldens (make.make)."""

    model_dir: Path
    name: str
    digests: Mapping[str, str]
    trust_remote_code: bool = False
    max_length: int | None = None
    further: tuple[Any, ...] = ()
    """Drafts of further goldens."""
    usual: bool = True
    """Whether the usual goldens are made as well."""


@dataclass(frozen=True)
class Draft:
    """A pair before the reference has run."""

    id: str
    kind: str
    pair: Pair
    place: str = ""
    """File and line of a user's own pair."""


def make(asked: Asked, progress: reference.Progress | None = None) -> Goldens:
    """Run the reference over the golden pairs of a model. Raises GoldenError as make.make does."""
    model = reference.open_reference(asked.model_dir, asked.trust_remote_code, SCORES)
    reference.settle(
        model, asked.name, asked.max_length, "model_max_length in its tokenizer_config.json"
    )
    longest = length_of(model)
    marks = tuple(model.tokenizer.all_special_tokens)
    usual = drafts(lambda a, b: _count(model, a, b), longest) if asked.usual else ()
    plan = [d for d in (*usual, *asked.further) if _plain(d.pair, marks)]
    for draft in asked.further:
        if not _plain(draft.pair, marks):
            raise GoldenError(
                f"{draft.place}: spells a special token of {asked.name}; leave it out"
            )
    _check_company(model, asked.model_dir)
    cases: list[Case] = []
    rows: list[np.ndarray] = []
    for done, draft in enumerate(plan, start=1):
        try:
            with reference.one_thread():
                ids, logits = score(model, draft.pair)
        except GoldenError:
            raise
        except Exception as error:
            raise GoldenError(
                f"sentence-transformers cannot run {asked.model_dir} on {draft.id!r} "
                f"({_count(model, *draft.pair)} tokens): {type(error).__name__}: "
                f"{' '.join(str(error).split())[:300]}; --max-length shortens its texts"
            ) from error
        if not np.isfinite(logits).all():
            raise GoldenError(
                f"{asked.model_dir}: the reference's logits of {draft.id!r} are not finite"
            )
        text, pair = draft.pair
        cases.append(Case(draft.id, draft.kind, text, "", ids, PREDICT, pair))
        rows.append(logits)
        if progress is not None:
            progress(draft.id, done, len(plan))
    logits = np.stack(rows)
    plain = [place for place, case in enumerate(cases) if case.kind == RANKED]
    rounding = _rounding(model, [(cases[at].text, cases[at].pair) for at in plain], logits[plain])
    return Goldens(
        model=asked.name,
        fingerprint=fingerprint(asked.digests),
        dim=logits.shape[1],
        max_length=longest,
        normalized=False,
        provenance=reference.provenance_of(model, asked.digests),
        cases=tuple(cases),
        embeddings=logits,
        task=SCORES,
        rounding=min(rounding / scale_of(logits), ROUNDING),
    )


def _rounding(model: Any, pairs: list[Pair], logits: np.ndarray) -> float:
    """Returns the largest difference between the model's logits and the same in f64; 0 for a model
    whose weights take too much memory in f64. The model is in f64 afterwards."""
    if sum(one.numel() for one in model.parameters()) > _WIDE:
        return 0.0
    if not pairs:
        return 0.0
    model.double()
    with reference.one_thread():
        wide = np.stack([score(model, pair, np.float64)[1] for pair in pairs])
    return float(np.abs(wide - logits).max(initial=0.0))


def drafts(count: Count, max_length: int) -> Iterator[Draft]:
    """Yields all pairs: documents ranked for a query, authored texts beside one another, and pairs
    of exact numbers of tokens, cut ones among them."""
    pool = sentences()
    for number in range(_QUERIES):
        documents = [pool[(STRIDE * number + at) % len(pool)] for at in range(_DOCUMENTS)]
        query = " ".join(documents[5 + number].split()[:_WORDS]).rstrip(".,;")
        for at, document in enumerate(documents):
            yield Draft(f"rank-{number}-{at}", RANKED, (query, document))
    texts = authored()
    for one, other in zip(texts, (*texts[1:], texts[0]), strict=True):
        yield Draft(f"pair-{one.id}", one.kind, (one.text, other.text))
    query = texts[0].text
    empty = count(query, "")
    for number, target in enumerate(length_targets(max_length, empty)):
        kind = "beyond" if target > max_length else "length"
        text = fit(lambda text: count(query, text), target, start=STRIDE * number + 3)
        yield Draft(f"length-{target}", kind, (query, text))
    if reach(max_length) < max_length:
        return  # no cut pair: each is as long as the model's own length
    # Both too long, and the first alone: the longer one of a pair loses tokens.
    half, whole = (fit(lambda text: count(text, ""), n, start=n) for n in _sizes(max_length, empty))
    yield Draft("beyond-both", "beyond", (whole, half))
    if max_length <= _EACH:
        yield Draft("beyond-first", "beyond", (whole, query))
        yield Draft("beyond-half", "beyond", (half, whole))


def _sizes(max_length: int, least: int) -> tuple[int, int]:
    """Tokens of two texts of which no pair is short enough."""
    return max(2 * max_length // 3, least + 2), max(max_length + 9, least + 9)


def score(model: Any, pair: Pair, kind: type = np.float32) -> tuple[tuple[int, ...], np.ndarray]:
    """(token ids that the first module received, logits [L] of `kind`) of one pair alone."""
    import torch

    caught: list[Any] = []
    hook = model[0].register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    try:
        made = model.predict(
            [pair],
            activation_fn=torch.nn.Identity(),
            batch_size=1,
            show_progress_bar=False,
            convert_to_tensor=True,
        )
    finally:
        hook.remove()
    if len(caught) != 1 or "input_ids" not in caught[0]:
        raise GoldenError("the model's first module takes no token ids: nothing to compare with")
    if not bool(caught[0]["attention_mask"].bool().all()):
        raise GoldenError("the reference padded a pair, although it went in alone")
    ids = tuple(int(one) for one in caught[0]["input_ids"][0])
    return ids, made.cpu().numpy().astype(kind).reshape(-1)


def length_of(model: Any) -> int:
    """The number of tokens that `predict` reads of an endless pair."""
    endless = " ".join(sentences())
    while (whole := _count(model, endless, endless)) <= model.max_seq_length:
        endless += f" {endless}"
    found = int(model.preprocess([(endless, endless)])["input_ids"].shape[1])
    if found >= whole:
        raise GoldenError(
            "the model cuts no pair: its settings (processing_kwargs in "
            "sentence_bert_config.json) turn truncation off"
        )
    return found


def _count(model: Any, text: str, pair: str) -> int:
    if "message" in model[0].modality_config:  # a chat template stands around the pair
        uncut: Any = {"text": {"truncation": False}}
        return int(model.preprocess([(text, pair)], processing_kwargs=uncut)["input_ids"].shape[1])
    return len(model.tokenizer(text, pair, truncation=False, verbose=False)["input_ids"])


def _plain(pair: Pair, marks: tuple[str, ...]) -> bool:
    """Whether no text spells a special token: what such a pair means is the tokenizer's whim."""
    return not any(mark in text for text in pair for mark in marks)


def _check_company(model: Any, model_dir: Path) -> None:
    """Refuse a model that scores a pair differently beside a longer one. Raises GoldenError."""
    import torch

    short, long = ("one", "two"), (sentences()[0], " ".join(sentences()[1:3]))
    how: Any = {"activation_fn": torch.nn.Identity(), "show_progress_bar": False}
    try:
        with reference.one_thread():
            alone = np.asarray(model.predict([short], **how), np.float64)[0]
            beside = np.asarray(model.predict([short, long], batch_size=2, **how), np.float64)[0]
    except Exception:  # the model cannot run on these: the golden pairs give the reason
        return
    apart = float(np.abs(beside - alone).max())
    if not apart <= _COMPANY * max(1.0, float(np.abs(alone).max())):
        raise GoldenError(
            f"{model_dir}: sentence-transformers gives a pair another score beside a longer one, "
            f"{apart:.1e} apart: its padding counts; correct padding_side, model_input_names or "
            "pad_token_id in its settings"
        )
