"""The reference of token vectors: sentence-transformers' MultiVectorEncoder in fp32 on the CPU.

Each text goes in alone, as in make.py. The goldens hold the vectors of all its tokens, and say
which of them count: a skip list leaves tokens of documents out, and the tokens that fill up a query
count although attention may not see them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from goldfold.golden import reference
from goldfold.golden.errors import GoldenError
from goldfold.golden.scoring import Asked
from goldfold.golden.store import LIMITS, Case, Goldens, fingerprint
from goldfold.golden.tasks import MULTI
from goldfold.golden.texts import STRIDE, Draft, drafts, sentences
from goldfold.golden.tokenizer_file import Ids
from goldfold.golden.tokenwise import DOCUMENT, QUERY, RANKED, figures

_WORDS, _DOCUMENTS = (7, 4, 1), 20
"""The words of each query, taken from one of the documents, and the documents that it ranks."""
_COMPANY = 1e-3
"""1-cos of a token beside a longer text, above which the model's padding counts."""
_ROOM = LIMITS["embeddings.npy"] // 8
"""Numbers of all token vectors together: half of what a file of goldens may hold."""


def make(asked: Asked, progress: reference.Progress | None = None) -> Goldens:
    """Run the reference over the golden texts of a model. Raises GoldenError as make.make does."""
    model = reference.open_reference(asked.model_dir, asked.trust_remote_code, MULTI)
    reference.settle(model, asked.name, asked.max_length)
    with reference.quiet():  # of queries that are cut
        lengths = reference.lengths_of(model)
    _check_company(model, asked)
    plan = [*(_fitting(model, lengths) if asked.usual else ()), *asked.further]
    cases: list[Case] = []
    rows: list[np.ndarray] = []
    for done, draft in enumerate(plan, start=1):
        if reference.count(model, draft.prompt + draft.text):
            case, vectors = _embedded(model, draft, asked)
            cases.append(case)
            rows.append(vectors)
        elif draft.place:
            raise GoldenError(f"{draft.place}: {asked.name} makes no token of this text")
        if progress is not None:
            progress(draft.id, done, len(plan))
    embeddings = np.concatenate(rows)
    return Goldens(
        model=asked.name,
        fingerprint=fingerprint(asked.digests),
        dim=embeddings.shape[1],
        max_length=max(lengths.values()),
        normalized=reference.is_unit(embeddings),
        provenance=reference.provenance_of(model, asked.digests),
        cases=tuple(cases),
        embeddings=embeddings,
        prompts={name: prompt or "" for name, prompt in model.prompts.items()},
        task=MULTI,
    )


def _fitting(model: Any, lengths: Mapping[str, int]) -> list[Draft]:
    """Returns the drafts of all cases. Where their vectors would take too much room, texts of exact
    lengths are left out, the longest first; the one beyond the model's length stays."""
    calls = dict(lengths)
    plain = calls.pop("")
    prompts = {name: prompt for name, prompt in model.prompts.items() if prompt}
    own = drafts(prompts, lambda text: reference.count(model, text), plain, calls)
    plan = [*_ranked(), *own]
    dim = len(encode(model, Draft("", "", "one"))[2][0])

    def tokens(draft: Draft) -> int:
        read = reference.count(model, draft.prompt + draft.text)
        return min(read, lengths.get(draft.call, plain))

    sizes = {draft.id: tokens(draft) for draft in plan}
    while sum(sizes[draft.id] for draft in plan) * dim > _ROOM:
        exact = [draft for draft in plan if draft.kind == "length"]
        if not exact:
            break
        plan.remove(max(exact, key=lambda draft: sizes[draft.id]))
    return plan


def _ranked() -> Iterator[Draft]:
    """Yields the queries and the documents that they rank."""
    pool = sentences()
    documents = [pool[(STRIDE * at) % len(pool)] for at in range(_DOCUMENTS)]
    for number, words in enumerate(_WORDS):
        query = " ".join(documents[5 * number + 2].split()[:words]).rstrip(".,;")
        yield Draft(f"query-{number}", RANKED, query, call=QUERY)
    yield Draft("query-empty", "call", "", call=QUERY)
    for at, document in enumerate(documents):
        yield Draft(f"document-{at}", RANKED, document, call=DOCUMENT)


def _embedded(model: Any, draft: Draft, asked: Asked) -> tuple[Case, np.ndarray]:
    try:
        with reference.one_thread(), reference.quiet():
            prompt, features, vectors, counts = encode(model, draft)
    except GoldenError:
        raise
    except Exception as error:
        raise GoldenError(
            f"sentence-transformers cannot run {asked.model_dir} on {draft.id!r}: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}; --max-length shortens "
            "its texts"
        ) from error
    ids, seen = features
    unseen = len(ids) - sum(seen)
    if any(seen[len(ids) - unseen :]):
        raise GoldenError(f"the reference padded {draft.id!r}, although it went in alone")
    if not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
        raise GoldenError(
            f"{asked.model_dir}: a token vector of {draft.id!r} in the reference is not finite, or "
            "zero"
        )
    skipped = tuple(at for at, counted in enumerate(counts) if not counted)
    found = Case(
        draft.id,
        draft.kind,
        draft.text,
        prompt,
        ids,
        draft.call,
        unseen=unseen,
        skipped=skipped,
    )
    return found, vectors


def encode(
    model: Any, draft: Draft
) -> tuple[str, tuple[Ids, tuple[int, ...]], np.ndarray, tuple[bool, ...]]:
    """(prompt, ids and attention mask that the first module received, float32 [tokens, D], whether
    each token counts) of one text alone."""
    caught: list[dict[str, Any]] = []
    prompts: list[str | None] = []
    own = model.preprocess

    def preprocess(texts: Any, prompt: str | None = None, **how: Any) -> Any:
        prompts.append(prompt)
        return own(texts, prompt=prompt, **how)

    hook = model[0].register_forward_pre_hook(lambda _, given: caught.append(dict(given[0])))
    model.preprocess = preprocess
    try:
        (made,) = getattr(model, draft.call or "encode")(
            [draft.text],
            prompt=None if draft.call else draft.prompt,
            batch_size=1,
            output_value=None,
            show_progress_bar=False,
        )
    finally:
        del model.preprocess
        hook.remove()
    if len(caught) != 1 or "input_ids" not in caught[0]:
        raise GoldenError("the model's first module takes no token ids: nothing to compare with")
    ids, seen = (
        tuple(int(one) for one in caught[0][name][0]) for name in ("input_ids", "attention_mask")
    )
    vectors = made["token_embeddings"].cpu().numpy().astype(np.float32)
    counts = tuple(bool(one) for one in made["attention_mask"].bool())
    if not len(ids) == len(vectors) == len(counts):
        raise GoldenError(
            f"the model makes {len(vectors)} vectors of {len(ids)} tokens; one a token is supported"
        )
    return prompts[-1] or "", (ids, seen), vectors, counts


def facts_of(model: Any) -> dict[str, Any]:
    """Returns the contract's facts about token vectors, as the model's own calls show them."""
    query = model.preprocess(["one"], task="query")
    filled = query.get("query_expansion_positions")
    places = [] if filled is None else filled[0].nonzero().flatten().tolist()
    fill: dict[str, Any] = {"query_tokens": 0, "filler": None, "filler_seen": False}
    if places:
        fill = {
            "query_tokens": int(query["input_ids"].shape[1]),
            "filler": int(query["input_ids"][0, places[0]]),
            "filler_seen": bool(query["attention_mask"][0, places[0]]),
        }
    size = int(model[0].auto_model.get_input_embeddings().num_embeddings)
    every = query["input_ids"].new_tensor([list(range(size))])
    left_out = {}
    for task in ("query", "document"):
        features = {"input_ids": every, "attention_mask": 0 * every + 1}
        for module in model:
            if type(module).__name__ == "MultiVectorMask":
                features = module(dict(features), task=task)
        left_out[task] = every[~features["attention_mask"].bool()].tolist()
    return {
        **fill,
        "skipped_in_queries": left_out["query"],
        "skipped_in_documents": left_out["document"],
    }


def called(model: Any, texts: Iterable[str]) -> dict[str, dict[str, Ids]]:
    """Returns the ids that `encode_query` and `encode_document` make of drawn texts, by call: they
    are caught on their way into the model, which does not run."""

    class Caught(Exception):
        pass

    own, ids = model.preprocess, []

    def preprocess(*given: Any, **how: Any) -> Any:
        ids.append(tuple(own(*given, **how)["input_ids"][0].tolist()))
        raise Caught

    found: dict[str, dict[str, Ids]] = {QUERY: {}, DOCUMENT: {}}
    model.preprocess = preprocess
    try:
        for call, made in found.items():
            for text in texts:
                with suppress(Caught):
                    getattr(model, call)([text], show_progress_bar=False)
                made[text] = ids.pop()
    finally:
        del model.preprocess
    return found


def _check_company(model: Any, asked: Asked) -> None:
    """Refuse a model that gives a token another vector beside a longer text. Raises GoldenError."""
    short, long = "one", " ".join(sentences()[:2])
    how: Any = {"convert_to_numpy": True, "show_progress_bar": False}
    try:
        with reference.one_thread():
            alone = model.encode_document([short], **how)[0]
            beside = model.encode_document([short, long], batch_size=2, **how)[0]
    except Exception:  # the model cannot run on these: the golden texts give the reason
        return
    apart = figures(beside.astype(np.float64), alone.astype(np.float64))[0]
    if not apart <= _COMPANY:
        raise GoldenError(
            f"{asked.model_dir}: sentence-transformers gives a token another vector beside a "
            f"longer text, 1-cos {apart:.1e} apart: its padding counts; correct padding_side or "
            "model_input_names in its settings"
        )
