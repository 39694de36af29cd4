"""Goldens of known geometry. Named so that no other module of the tests can shadow it."""

from __future__ import annotations

import numpy as np

from goldfold.golden import store
from goldfold.golden.store import Case, Goldens

DIGESTS = {"config.json": "0" * 64, "model.safetensors": "1" * 64}


def goldens_of(embeddings: np.ndarray, normalized: bool = True) -> Goldens:
    """Goldens around given rows; text i has i+1 tokens, all equal to i+1."""
    cases = tuple(
        Case(f"text-{i}", "test", f"words {i} \n", "query: " if i % 2 else "", (i + 1,) * (i + 1))
        for i in range(len(embeddings))
    )
    return Goldens(
        model="toy",
        fingerprint=store.fingerprint(DIGESTS),
        dim=embeddings.shape[1],
        max_length=64,
        normalized=normalized,
        provenance={"digests": DIGESTS},
        cases=cases,
        embeddings=embeddings.astype(np.float32),
    )
