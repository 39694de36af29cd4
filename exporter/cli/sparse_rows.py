"""What `goldfold embed` prints of sparse vectors: `token:value` pairs, of units `index:value`, or
JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from goldfold.exporter.cli.embed_flags import EmbedFlags
from goldfold.exporter.errors import UsageError

if TYPE_CHECKING:
    from goldfold.exporter.artifact.sparse_encoder import SparseEncoder


def check_dense(asked: EmbedFlags) -> None:
    """Refuse options of sparse vectors for an artifact of dense ones. Raises UsageError."""
    for flag, value in (("--top-k", asked.top_k), ("--threshold", asked.threshold)):
        if value is not None:
            raise UsageError(f"{flag} is for sparse vectors; this artifact gives dense ones")


def show(encoder: SparseEncoder, texts: list[str], asked: EmbedFlags) -> None:
    """Print the sparse vectors of texts, or save them as dense rows."""
    import numpy as np

    from goldfold.exporter.system.writing import write_file

    others = (
        ("--dims", asked.dims is not None),
        ("--output", asked.output != "float32"),
        ("--errors", asked.errors != "raise"),
    )
    for flag, given in others:
        if given:
            raise UsageError(f"{flag} is for dense vectors; this artifact gives sparse ones")
    how: dict[str, Any] = {"batch_size": asked.batch_size, "task": asked.task}
    if asked.save is not None:
        if asked.threshold is not None:
            raise UsageError("--threshold is for printing; --save writes whole rows")
        rows = encoder.encode(texts, asked.prompt, max_active_dims=asked.top_k, **how)
        write_file(asked.save, lambda file: np.save(file, rows, allow_pickle=False))
        return
    found = encoder.embed(texts, asked.top_k, asked.threshold, asked.prompt, **how)
    named: list[Any] = [encoder.tokens(weights) for weights in found if not encoder.contract.units]
    named = named or [[*zip(at.tolist(), v.tolist(), strict=True)] for at, v in found]
    if asked.as_json:
        print(json.dumps(named, ensure_ascii=False))
        return
    for one in named:
        print(" ".join(f"{token}:{value:.7g}" for token, value in one))
