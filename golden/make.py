"""The reference makes goldens: sentence-transformers in fp32 on the CPU, without code of ours.

Each text goes in alone, so that no golden depends on padding: the effect of padding on an artifact
is then measured against a value without any.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from goldfold.golden import filling, routes, sparse, tables
from goldfold.golden.errors import GoldenError
from goldfold.golden.reference import (
    Progress,
    count,
    is_unit,
    leading,
    lengths_of,
    one_thread,
    open_reference,
    provenance_of,
    settle,
    shorten,
    unpooled_of,
)
from goldfold.golden.store import Case, Goldens, fingerprint
from goldfold.golden.tasks import EMBEDDING, SPARSE, level
from goldfold.golden.texts import Draft, drafts, sentences

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


_COMPANY = 1e-3
"""A share of a vector's length. Measured: rounding in f32 moved it by at most 1.1e-6, on every kind
of tests/models.py, EmbeddingGemma-300M and all-MiniLM-L6-v2; padding that counts moved it by 0.4
and more, on BERT without a mask and padded on the left."""


@dataclass(frozen=True)
class Opening:
    """How a model is opened."""

    trust_remote_code: bool = False
    """Whether code that comes with the model may run."""
    task: str = EMBEDDING
    """What the model gives (tasks.py)."""
    route: str = ""
    """The route of a routed model (routes.py)."""
    further: tuple[Draft, ...] = ()
    """Further texts, each a golden beside the usual ones."""


def make(
    model_dir: Path,
    *,
    name: str,
    digests: Mapping[str, str],
    opening: Opening = Opening(),
    progress: Progress | None = None,
    only: Collection[str] | None = None,
    max_length: int | None = None,
) -> Goldens:
    """Run the reference over the golden texts of the model in `model_dir`.

    Args:
        model_dir: the folder that sentence-transformers loads.
        name: the name of the model.
        digests: sha256 of each file that defines the model (`store.defines`).
        opening: how the model is opened.
        progress: called for each text.
        max_length: cut texts to this many tokens, if the model's own length is not less.
        only: run these text ids alone (tests use it).

    Returns:
        One float32 row per text, as `encode` returns it without further normalisation. Texts
        without tokens are left out: the reference has no embedding of them. So are texts whose
        tokens all have zeros in a table: a direction cannot be compared with none.

    Raises:
        GoldenError: the model cannot be loaded, gives no maximum length, gives a non-finite or zero
            embedding, or knows none of the ids in `only`.
    """
    model = open_reference(model_dir, opening.trust_remote_code, opening.task, opening.route)
    max_length = tables.limit(model, max_length)
    filling.check(model, max_length)
    settle(model, name, max_length)
    _check_company(model, model_dir)
    cases: list[Case] = []
    rows: list[np.ndarray] = []
    try:
        _run(model, name, only, opening, progress, cases, rows)
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # Rust's error is no Exception
            raise GoldenError(f"{model_dir}: its tokenizer gives up on a text: {error}") from None
        if not isinstance(error, _Beyond):
            raise
        beyond = error
        # A table of positions may be shorter than the declared length: find the longest text.
        length = 0 if tables.is_static(model) else _bearable(model, beyond.tokens)
        if length < 1:
            raise _cannot_run(model_dir, beyond.error) from beyond.error
        shorten(model, length)
        cases.clear()
        rows.clear()
        try:
            _run(model, name, only, opening, progress, cases, rows)
        except _Beyond as again:
            raise _cannot_run(model_dir, again.error) from again.error
    if opening.task == SPARSE:  # a vector without any weight has no direction, and no cosine
        kept = [at for at, row in enumerate(rows) if row.any()]
        cases, rows = [cases[at] for at in kept], [rows[at] for at in kept]
        if not rows and only is None:
            raise GoldenError(f"{model_dir}: the reference gives every text a vector of zeros")
    made = {case.id for case in cases}
    for draft in opening.further:
        if draft.place and draft.id not in made:
            raise GoldenError(
                f"{draft.place}: {name} makes no token of this text, or a vector of zeros: there "
                "is nothing to compare; leave it out"
            )
    if not rows:
        raise GoldenError(f"{model_dir}: no golden text has an embedding that is not zero")
    for case, row in zip(cases, rows, strict=True):
        if not np.isfinite(row).all() or not row.any():
            raise GoldenError(
                f"{model_dir}: the reference's embedding of {case.id!r} is not finite, or zero"
            )
    embeddings = np.stack(rows)
    return Goldens(
        model=name,
        fingerprint=fingerprint(digests),
        dim=embeddings.shape[1],
        max_length=max(lengths_of(model).values()),
        normalized=is_unit(embeddings),
        provenance=provenance_of(model, digests),
        cases=tuple(cases),
        embeddings=embeddings,
        prompts={name: prompt or "" for name, prompt in model.prompts.items()},
        task=opening.task,
        units=sparse.units(model) if opening.task == SPARSE else 0,
        rounding=sparse.rounding(model, cases, rows) if opening.task == SPARSE else 0.0,
    )


def _check_company(model: SentenceTransformer, model_dir: Path) -> None:
    """Refuse a model that embeds a text differently beside a longer one: an artifact then has no
    fixed reference. Raises GoldenError."""
    short, long = "one", " ".join(sentences()[:2])
    if not all(count(model, text) for text in (short, long)):
        return
    how: Any = {"prompt": "", "show_progress_bar": False, **sparse.plain(model)}
    try:
        with one_thread():
            alone = np.asarray(model.encode([short], **how), np.float64)[0]
            beside = np.asarray(model.encode([short, long], batch_size=2, **how), np.float64)[0]
    except Exception:  # the model cannot run on these: the golden texts give the reason
        return
    if not np.isfinite([alone, beside]).all():  # likewise
        return
    alone, beside = level(alone, beside, sparse.units(model))
    size = float(np.linalg.norm(alone))
    if not float(np.linalg.norm(beside - alone)) <= _COMPANY * size:
        raise GoldenError(
            f"{model_dir}: sentence-transformers gives a text another vector beside a longer one, "
            f"{np.linalg.norm(beside - alone) / size:.1e} of its length apart: its padding counts; "
            f"{filling.remedy(model)}"
        )


class _Beyond(Exception):
    """The reference failed on a text of this many tokens."""

    def __init__(self, tokens: int, error: Exception) -> None:
        super().__init__(str(error))
        self.tokens, self.error = tokens, error


def _cannot_run(model_dir: Path, error: Exception) -> GoldenError:
    return GoldenError(
        f"sentence-transformers cannot run {model_dir}: {type(error).__name__}: {error}"
    )


def _run(
    model: SentenceTransformer,
    name: str,
    only: Collection[str] | None,
    opening: Opening,
    progress: Progress | None,
    cases: list[Case],
    rows: list[np.ndarray],
) -> None:
    """Encode every draft, in order, into `cases` and `rows`. Raises _Beyond for a failed text."""
    lengths = routes.served(lengths_of(model), opening.route)
    prompts = {key: value for key, value in model.prompts.items() if value}
    plain = lengths.pop("")
    texts = drafts(prompts, lambda text: count(model, text), plain, lengths)
    if only is not None:
        if unknown := sorted(set(only) - {draft.id for draft in texts}):
            raise GoldenError(f"{name} has no golden text called {unknown[0]!r}")
        texts = tuple(draft for draft in texts if draft.id in only)
    texts = (*texts, *opening.further)
    told = unpooled_of(model)
    for done, draft in enumerate(texts, start=1):
        tokens = count(model, draft.prompt + draft.text)
        # An artifact has outputs for the model's own prompts, where pooling leaves prompts out.
        if tokens and (not told or draft.prompt in ("", *prompts.values())):
            try:
                with one_thread():
                    prompt, ids, row, unpooled = _encode(model, draft)
            except GoldenError:
                raise
            except Exception as error:  # torch's, of sizes that do not fit, or a setting's effect
                raise _Beyond(min(tokens, max(plain, *lengths.values())), error) from error
            if len(ids) > lengths.get(draft.call, plain):
                raise GoldenError(f"the reference read {len(ids)} tokens of {draft.id!r} uncut")
            # Of tokens that are all a prompt's, or have rows of zeros, nothing is pooled.
            if unpooled < len(ids) and (row.any() or not tables.is_static(model)):
                made = Case(draft.id, draft.kind, draft.text, prompt, ids, draft.call)
                cases.append(replace(made, unpooled=unpooled))
                rows.append(row)
        if progress is not None:
            progress(draft.id, done, len(texts))


def _bearable(model: SentenceTransformer, length: int) -> int:
    """The most tokens, below `length`, that the model runs on."""
    import torch

    good, bad = 0, length
    while bad - good > 1:
        middle = (good + bad) // 2
        features = model.preprocess(["a b"])
        ids = features["input_ids"][:, :1].expand(1, middle)
        same = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if "token_type_ids" in features:
            same["token_type_ids"] = torch.zeros_like(ids)
        try:
            with torch.inference_mode(), one_thread():
                model({**features, **same})
            good = middle
        except Exception:
            bad = middle
    return good


def _encode(
    model: SentenceTransformer, draft: Draft
) -> tuple[str, tuple[int, ...], np.ndarray, int]:
    """(prompt, token ids that the first module received, float32 [D], leading tokens that are not
    pooled) of one text encoded alone.

    Prompt and ids are caught on their way into the model instead of being computed a second time:
    a second call could differ in prompt or truncation, and would then certify the wrong ids.
    """
    caught: list[Any] = []
    prompts: list[str | None] = []
    own = model.preprocess

    def preprocess(texts: Any, prompt: str | None = None, **how: Any) -> Any:
        prompts.append(prompt)
        return own(texts, prompt=prompt, **how)

    hook = model[0].register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    model.preprocess = preprocess  # type: ignore[method-assign]
    try:
        call = getattr(model, draft.call or "encode")
        rows = call(
            [draft.text],
            # An explicit prompt, "" included, keeps encode from falling back on the model's
            # default_prompt_name; None alone falls back, as in a call without a prompt.
            prompt=None if draft.call else draft.prompt,
            batch_size=1,
            show_progress_bar=False,
            **sparse.plain(model),
        )
    finally:
        del model.preprocess
        hook.remove()
    if len(caught) != 1 or "input_ids" not in caught[0]:
        raise GoldenError("the model's first module takes no token ids: nothing to compare with")
    features = caught[0]
    filled, mask = filling.is_filled(model), features.get("attention_mask")
    if not filled and mask is not None and not bool(mask.bool().all()):
        raise GoldenError(f"the reference padded {draft.id!r}, although it went in alone")
    ids = tuple(int(i) for i in features["input_ids"].reshape(-1))
    if filled:
        ids = filling.own(model, (prompts[-1] or "") + draft.text, ids)
    unpooled = leading(model, features)
    return prompts[-1] or "", ids, np.asarray(rows[0], dtype=np.float32), unpooled
