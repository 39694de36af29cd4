"""The verification of one artifact: it is measured against its goldens, and its verdict is
written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from goldfold.exporter.artifact import bundle
from goldfold.exporter.artifact.bundle import Bundle, VerdictRecord
from goldfold.exporter.artifact.encoder import Encoder, open_encoder
from goldfold.exporter.artifact.result import Result, standing
from goldfold.exporter.errors import OutputError
from goldfold.exporter.frontend.given import Text
from goldfold.exporter.progress import Listener, Stages
from goldfold.exporter.verification import yours
from goldfold.exporter.verification.goldens import goldens_of, ours
from goldfold.exporter.verification.judging import Judges, check_pairs, convene, fp32_of
from goldfold.exporter.verification.measure import executes, measure_all, record
from goldfold.exporter.verification.sourced import SourceModel
from goldfold.exporter.verification.yours import Files
from goldfold.golden.gate import Verdict
from goldfold.golden.judging.pairs import LEAST
from goldfold.golden.reasons import Reason
from goldfold.golden.store import Goldens


@ours()
def verify(
    folder: str | Path,
    *,
    threads: int | None = None,
    judge: bool | Judges = False,
    model: str | Path | SourceModel | None = None,
    pairs: int = LEAST,
    trust_remote_code: bool = False,
    texts: Files | Sequence[Text] = (),
    listener: Listener | None = None,
) -> Result:
    """Check every digest of an artifact folder, run its goldens again, and renew its verdict.json.

    `model` is the artifact's source, with which its tokenizer, the companions of that and its
    contract are compared; without it they are compared with the record of the export. A
    `SourceModel(model, unseen=1000)` compares embeddings of a thousand unseen texts as well
    (goldfold.exporter.verification.unseen); without it, earlier figures of such texts stay.
    `judge` measures a quantized artifact on the Lee corpus and the retrieval of `pairs` pairs, and
    compares it with its limit (goldfold.exporter.verification.losses); several verifications may
    share the result of goldfold.exporter.verification.judging.convene. Judging needs `model` until
    the source's fp32 embeddings are in the cache. Without `judge`, an earlier judgement stays
    in the verdict.

    `texts` are files of private texts of the export, or what `yours.read` read of them: those that
    the artifact has a digest of are run as well (docs/your-texts.md). `.private` says what was not.

    `verify` works on artifacts that missed their gate as well, and where nothing can be written:
    then `.unrecorded` gives the reason. `.otherwise` says where integers are rounded otherwise than
    when the verdict was made, by another runtime or processor. A missed gate does not raise: look
    at `.passed`, and at `.status` for whether the artifact itself ran here. Raises ArtifactError,
    naming the file, for a damaged folder; UsageError for a model that is not the artifact's;
    ModelError where judging needs a model and none is given.
    """
    path = Path(folder)
    if judge is True:
        check_pairs(pairs)
    stages = Stages(listener)
    with stages("open"):
        opened, goldens, encoder = bundle.steadily(path, lambda: _open(path, threads))
        stages.note(f"{len(opened.manifest.files)} files, every digest right")
    own = yours.joined(opened, goldens, yours.given_of(texts), encoder)
    known = None if model is None else _model(model, trust_remote_code)
    judges = None if isinstance(judge, bool) else judge
    if judge is True and opened.manifest.recipe is not None:
        name = None if known is None else str(known.model)
        judges = convene(stages, fp32_of(name, stages, trust_remote_code), count=pairs)
    given = None if known is None else known.given(opened, goldens, stages)
    found = measure_all(encoder, own.goldens, stages, judges=judges, threads=threads, given=given)
    verdict = found.verdict.also(*own.reasons)
    if opened.verdict is not None:
        verdict = verdict.also(*yours.carried(own, opened.verdict.reasons, verdict.reasons))
    verdict, fresh = _carry(opened, verdict, record(opened, found, stages.timings))
    unrecorded = _record(path, fresh)
    seconds = sum(timing.seconds for timing in stages.timings)
    renewed = Bundle(path, opened.manifest, fresh)
    return Result(
        path,
        renewed,
        found.measurement,
        verdict,
        seconds,
        unrecorded,
        otherwise=found.otherwise,
        private=own.said,
    )


def _model(model: str | Path | SourceModel, trusted: bool) -> SourceModel:
    return model if isinstance(model, SourceModel) else SourceModel(model, trusted)


def _open(path: Path, threads: int | None) -> tuple[Bundle, Goldens, Encoder]:
    """Returns an artifact, its goldens and its runtime, all from the files that were checked."""
    opened = bundle.open_bundle(path, unverified=True)
    goldens = goldens_of(opened)
    return opened, goldens, open_encoder(opened, threads, proof=True)


def _record(path: Path, fresh: VerdictRecord) -> str:
    """Write a verdict where that is possible; otherwise returns the reason why not."""
    try:
        bundle.write_verdict(path, fresh)
    except OutputError as error:
        return str(error)
    return ""


def _carry(opened: Bundle, verdict: Verdict, fresh: VerdictRecord) -> tuple[Verdict, VerdictRecord]:
    """Keep the measurements that only an export can make: the emulation of half precision, and the
    drift."""
    old, manifest = opened.verdict, opened.manifest
    kept = {} if old is None else _kept(old)
    if old is not None and old.emulated is not None:
        emulated = tuple(reason for reason in old.reasons if reason.emulated)
        verdict = verdict.also(*emulated)
        kept |= {"emulated": old.emulated, "emulated_heads": old.emulated_heads}
        verdict = standing(opened, verdict, emulated=True)
    elif not executes(manifest):
        # The runtime computes in fp32 here: that proves the weights, not the precision.
        note = f"nothing proves {manifest.floating} here; export it again."
        verdict = verdict.also(Reason("unproved", manifest.gate, emulated=True, note=note))
    if verdict.passed:
        kept["location"] = None
    if old is not None and (fresh.canaries is None or not verdict.passed):
        kept["canaries"] = old.canaries  # a failed run is nothing to compare with
    judged = {name: getattr(verdict, name) for name in ("status", "stand_in", "not_run", "reasons")}
    return verdict, fresh.with_(**judged, **kept)


def _kept(old: VerdictRecord) -> dict[str, Any]:
    """Returns the fields that no verification measures: drift, ranges, speed, and the location of a
    fault."""
    return {name: getattr(old, name) for name in ("drift", "layers", "ranges", "speed", "location")}
