"""What texts lose of which a cut vocabulary makes other tokens: measured on the goldens of such
texts, and reported. No gate applies to them."""

from __future__ import annotations

import numpy as np

from goldfold.exporter.artifact.bundle import OUTSIDE
from goldfold.exporter.artifact.encoder import Encoder
from goldfold.exporter.errors import ArtifactError
from goldfold.exporter.progress import Stages
from goldfold.exporter.proofs import Outside
from goldfold.golden import compare, store
from goldfold.golden.errors import GoldenError


def of(encoder: Encoder, stages: Stages) -> Outside | None:
    """Returns the figures of an artifact on goldens of texts that may lose their tokens; None where
    it has none. Raises ArtifactError where they cannot be read."""
    opened, contract = encoder.bundle, encoder.contract
    if contract.cut is None or not (opened.path / OUTSIDE).is_dir():
        return None
    try:
        goldens = store.load(opened.path / OUTSIDE).within(contract.max_length)
    except GoldenError as error:
        raise ArtifactError(f"{opened.path} is damaged: {error}") from None
    if not goldens.cases:
        return None
    with stages(f"outside {opened.name}"):
        found = compare.measure(
            encoder.call,
            goldens,
            pad_id=contract.pad_id,
            progress=lambda what, done, total: stages.step(done, total),
            dims=contract.dim,
        )
        distances = {row.id: row.alone.distance for row in found.rows}
        worst = max(distances, key=lambda name: distances[name])
        record = Outside(
            texts=len(distances),
            worst=distances[worst],
            worst_id=worst,
            mean=float(np.mean(list(distances.values()))),
            median=float(np.median(list(distances.values()))),
            rows=distances,
        )
        stages.note(record.sentence)
    return record
