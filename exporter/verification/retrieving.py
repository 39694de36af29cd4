"""The loss in retrieval of one artifact, at its own size: what several candidates are compared by.

The texts are those of `golden/judging/`, which no recipe and no search has seen. Embeddings are
kept in the user's cache, under the digests of the artifact's files: the same artifact is not run
again.
"""

from __future__ import annotations

import hashlib

from goldfold.exporter.artifact.bundle import Bundle
from goldfold.exporter.artifact.encoder import open_encoder
from goldfold.exporter.progress import Stages
from goldfold.exporter.verification.judging import Judges, embed_of
from goldfold.golden.judging import reference
from goldfold.golden.judging.judge import Sets, judge
from goldfold.golden.metrics import RETRIEVAL, Metric


def loss_of(opened: Bundle, judges: Judges, stages: Stages) -> Metric:
    """Returns nDCG@10 of an artifact and of the source in fp32, the loss, and the upper end of its
    interval. `judges` have pairs, and the source.

    Raises Unrankable for an embedding that is not finite.
    """
    assert judges.fp32 is not None and judges.pairs is not None
    judges.fp32.check(opened)
    encoder = open_encoder(opened, proof=True)
    origin = opened.manifest.origin.fingerprint
    ours = reference.cached(_digest(opened), embed_of(encoder, stages), judges.cache, judges.log)
    theirs = reference.cached(origin, judges.fp32.embed, judges.cache, judges.log, stages.step)
    found = judge(
        ours, theirs, Sets(None, None, judges.pairs),
        dims=(opened.manifest.contract.dim,), notice=stages.detail,
    )  # fmt: skip
    return next(one for one in found.metrics if one.name == RETRIEVAL)


def _digest(opened: Bundle) -> str:
    """Returns a digest of everything that decides the artifact's embeddings here."""
    manifest, state = opened.manifest, hashlib.sha256()
    for name, entry in sorted(manifest.files.items()):
        if not name.startswith("golden"):
            state.update(f"{name} {entry.sha256}\n".encode())
    state.update(f"{manifest.contract} {manifest.floating} {manifest.versions}".encode())
    return state.hexdigest()
