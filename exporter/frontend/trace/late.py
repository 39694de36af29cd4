"""Models that give a vector for each token (late interaction): their modules as traced stages, and
which tokens count.

The graph gives the vectors of all tokens. Which of them take part in scores depends on whether a
text is a query, which no input of the graph says, so that is left to the artifact's contract.
"""

from __future__ import annotations

from typing import Any

import torch

from goldfold.exporter.contract import Tokenwise
from goldfold.exporter.errors import ModelError
from goldfold.exporter.frontend.trace.modules import Dense, Normalize

_TOKENS = "token_embeddings"
PROJECTION = {"linear.weight"}
"""The tensor of Stanford's ColBERT that is no part of its transformer, and is read as a Dense."""


def stages_of(model: Any) -> list[torch.nn.Module]:
    """Returns the stages behind the Transformer, each (hidden [B,S,D], mask [B,S]) → [B,S,D].
    Raises ModelError for a module that goldfold does not know, or that works on something else."""
    found: list[torch.nn.Module] = []
    for index in range(1, len(model)):
        module, kind = model[index], type(model[index]).__name__
        if kind == "MultiVectorMask":
            continue
        if kind not in ("Dense", "Normalize"):
            raise ModelError(f"module {index} ({kind}) is not one goldfold knows of token vectors")
        for key in ("module_input_name", "module_output_name"):
            if (name := getattr(module, key, None) or _TOKENS) != _TOKENS:
                raise ModelError(
                    f"module {index} ({kind}) has {key} {name!r}; {_TOKENS!r} is supported"
                )
        found.append(Dense(module) if kind == "Dense" else Normalize())
    return found


def facts_of(model: Any) -> Tokenwise:
    """Returns which tokens of a MultiVectorEncoder count. Raises ModelError for settings that the
    contract cannot say."""
    masks = [module for module in model if type(module).__name__ == "MultiVectorMask"]
    skipped: dict[str, set[int]] = {"query": set(), "document": set()}
    for mask in masks:
        if mask.keep_only_token_ids:
            raise ModelError(
                "its MultiVectorMask has keep_only_token_ids, which are for images; not supported"
            )
        unknown = sorted(set(mask.skiplist_tasks) - set(skipped))
        if unknown:
            raise ModelError(
                f"its MultiVectorMask skips tokens of the task {unknown[0]!r}; query and document "
                "are supported"
            )
        listed = mask._skiplist_ids
        for task in mask.skiplist_tasks:
            skipped[task] |= set() if listed is None else set(listed.tolist())
    size = model[0].auto_model.get_input_embeddings().num_embeddings
    queries, documents = (
        tuple(sorted(one for one in skipped[task] if one < size)) for task in ("query", "document")
    )
    filling = model[0].query_expansion
    if filling is None:
        return Tokenwise(skipped_in_queries=queries, skipped_in_documents=documents)
    if not masks:
        raise ModelError(
            "it fills queries up (query_expansion) and has no MultiVectorMask, without which the "
            "fillers do not count; add one"
        )
    words = model.tokenizer
    filler = (
        words.convert_tokens_to_ids(filling["token"])
        if filling["token"] is not None
        else words.eos_token_id
        if words.mask_token_id is None
        else words.mask_token_id
    )
    return Tokenwise(
        query_tokens=filling["length"],
        filler=filler,
        filler_seen=filling["attend"],
        skipped_in_queries=queries,
        skipped_in_documents=documents,
    )
