"""The losses in retrieval of a quantized artifact: measured, compared with the gate, recorded and
reported.

Rank agreement among the goldens costs nothing, since the verification has their embeddings. The Lee
corpus and retrieval take minutes and are judged only on request. Only retrieval has a limit
(golden/gate.py says why).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from goldfold.exporter.artifact.encoder import Encoder
from goldfold.exporter.progress import Stages
from goldfold.exporter.records import Loss, Losses
from goldfold.golden import gate
from goldfold.golden.compare import Measurement
from goldfold.golden.errors import GoldenError, Unrankable
from goldfold.golden.gate import Verdict
from goldfold.golden.judging.judge import RANKS, rank_metrics
from goldfold.golden.judging.pairs import LEAST
from goldfold.golden.metrics import RETRIEVAL, Metric
from goldfold.golden.reasons import Reason
from goldfold.golden.store import Goldens

if TYPE_CHECKING:
    from goldfold.exporter.verification.judging import Judges

UNJUDGED = "Retrieval and the Lee corpus were not judged; goldfold verify --judge does that."


def of(
    encoder: Encoder,
    goldens: Goldens,
    measurement: Measurement,
    stages: Stages,
    judges: Judges | None = None,
) -> Losses | None:
    """Returns the artifact's losses; None for an artifact without integers.

    Without `judges`, an earlier verdict's figures of retrieval are kept: the files are the same.
    Raises GoldenError where a reference is needed and none is at hand.
    """
    opened, manifest = encoder.bundle, encoder.bundle.manifest
    if manifest.recipe is None or manifest.contract.task != "embedding":
        return None
    limit = gate.gate_for(manifest.gate).loss
    figures, missing = _ranks(measurement, goldens)
    if judges is None:
        old = None if opened.verdict is None else opened.verdict.losses
        if old is None or old.judged is None:
            return Losses(figures=figures, limit=limit, missing=(*missing, UNJUDGED))
        kept = tuple(one for one in old.figures if one.name not in RANKS)
        return old.with_(figures=(*figures, *kept), limit=limit)
    digest, unusable = "", ""
    with stages(f"judge {opened.name}"):
        try:
            judgement = judges.judge(encoder, stages)
        except Unrankable as error:
            unusable = f"{error}."
        else:
            digest = judgement.pairs_digest
            # The loss of embeddings in fewer bits comes from the model, not from the artifact.
            figures += _losses(m for m in judgement.metrics if "embeddings" not in m.name)
        fresh = Losses(
            figures=figures,
            limit=limit,
            judged=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            pairs_digest=digest,
            unusable=unusable,
            missing=(*missing, *judges.missing_of(opened)),
        )
        stages.note(sentence(fresh))
    return fresh


def hold(verdict: Verdict, losses: Losses | None, precision: str) -> Verdict:
    """Returns the verdict with the gate on retrieval, where retrieval was judged. Embeddings that
    are not finite fail even where there is no limit."""
    if losses is None or losses.judged is None:
        return verdict
    verdict = verdict.also(*gate.judge_losses(_metrics(losses), precision))
    if losses.unusable:
        note = f"Nothing could be judged: {losses.unusable}"
        verdict = verdict.also(Reason("retrieval", precision, note=note))
    return verdict


def sentence(losses: Losses) -> str:
    """Returns the loss in retrieval and its limit, in one line for the console."""
    if losses.judged is None:
        return "retrieval was not judged (--judge)"
    return said_of(_metrics(losses), losses.limit)


def said_of(metrics: Iterable[Metric], limit: float | None) -> str:
    """Returns the same line for a judgement that is in no verdict."""
    found = [metric for metric in metrics if metric.name == RETRIEVAL]
    if not found:
        return "retrieval was left out"
    lost = ", ".join(f"{_percent(one.upper)} at {one.dims} dims" for one in found)
    bound = "no limit" if limit is None else f"the limit is {limit:.2%}"
    few = "" if found[0].count >= LEAST else f", over {found[0].count} pairs instead of {LEAST}"
    return f"retrieval nDCG@10 loses at most {lost}{few}; {bound}"


def _percent(share: float | None) -> str:
    return f"{share:.2%}" if share is not None and math.isfinite(share) else "an unknown share"


def _ranks(measurement: Measurement, goldens: Goldens) -> tuple[tuple[Loss, ...], tuple[str, ...]]:
    """Returns the figures of rank agreement, and why there are none."""
    if measurement.embeddings is None:
        return (), ()
    try:
        return _losses(rank_metrics(goldens.embeddings, measurement.embeddings)), ()
    except GoldenError as error:
        return (), (f"No rank agreement: {error}.",)


def _losses(metrics: Iterable[Metric]) -> tuple[Loss, ...]:
    return tuple(Loss(**asdict(one)) for one in metrics)


def _metrics(losses: Losses) -> Sequence[Metric]:
    """Returns the figures in the form that the gate takes."""
    return [Metric(**msgspec.structs.asdict(one)) for one in losses.figures]
