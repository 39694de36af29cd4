"""Judge an artifact by what its users feel: ranking, people's judgements, code retrieval."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exporter import bundle, registry
from exporter.bundle import Bundle
from exporter.encoder import Encoder, open_encoder
from exporter.errors import UsageError
from exporter.stages import Listener, Stages
from exporter.verifying import goldens_of, measured
from golden import store
from golden.judging import Judgement, judge, lee, pairs, reference

PARTS = ("ranks", "lee", "retrieval")
"""What can be left out: rank agreement among the goldens, the Lee corpus, code retrieval."""


@dataclass(frozen=True)
class Judged:
    """One artifact's judgement. `missing` says in one line each what could not be measured, and
    where something else was judged in the artifact's place."""

    path: Path
    name: str
    judgement: Judgement
    missing: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        named = {"path": str(self.path), "artifact": self.name, "missing": list(self.missing)}
        return {**named, **self.judgement.to_json()}


def judge_artifacts(
    folders: Sequence[str | Path],
    *,
    model: str | None = None,
    count: int = pairs.LEAST,
    skip: Collection[str] = (),
    threads: int | None = None,
    trust_remote_code: bool = False,
    cache: Path | None = None,
    listener: Listener | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> list[Judged]:
    """Judge every artifact folder, one that missed its gate as well.

    `model` is where the fp32 reference comes from; it is not needed while `cache` (the user's by
    default) holds what the reference says of these texts. `count` is of retrieval pairs.

    Raises UsageError for an unknown part, too few pairs or a model that is not the artifact's;
    ArtifactError for a damaged folder; GoldenError where a reference is needed and none is at hand.
    """
    if unknown := sorted(set(skip) - set(PARTS)):
        raise UsageError(f"--skip {unknown[0]}: known parts are {', '.join(PARTS)}")
    if count < 20:
        raise UsageError(f"--pairs is {count}; fewer than 20 say nothing")
    stages, missing = Stages(listener), []
    bundles = [bundle.open_bundle(Path(folder), unverified=True) for folder in folders]
    make, fingerprint = _reference(model, trust_remote_code, stages)
    for opened in bundles:
        if fingerprint not in (None, opened.manifest.origin.fingerprint):
            raise UsageError(f"{opened.path} was not exported from {model}")
    corpus = retrieval = None
    if "lee" not in skip:
        reason = lee.unavailable()
        missing += [reason] if reason else []
        corpus = None if reason else lee.load()
    if "retrieval" not in skip:
        with stages("retrieval pairs"):
            retrieval = pairs.collect(count)
            stages.note(f"{count} docstrings and functions, digest {retrieval.digest[:12]}")
    found = []
    for opened in bundles:
        origin = opened.manifest.origin
        theirs = make or reference.refusing(
            f"no fp32 reference of {origin.name} on these texts is kept yet; "
            "give its source with --model"
        )
        with stages(f"judge {opened.name}"):
            judgement = judge(
                _embed(open_encoder(opened, threads, proof=True), stages),
                reference.cached(origin.fingerprint, theirs, cache, log, stages.step),
                goldens=None if "ranks" in skip else goldens_of(opened),
                lee=corpus,
                pairs=retrieval,
                notice=stages.detail,
            )
            worst = judgement.worst
            stages.note("" if worst is None else f"largest loss {worst.upper:.2%}, {worst.name}")
        found.append(Judged(opened.path, opened.name, judgement, (*missing, *_instead(opened))))
    return found


def _instead(opened: Bundle) -> list[str]:
    """What this machine judged where it cannot run the artifact, or not in its precision."""
    manifest = opened.manifest
    what, reason = measured(opened)
    if reason:
        return [f"{opened.path} itself: {reason}; judged instead: {what}"]
    if not registry.target(manifest.target).executes(manifest.floating):
        return [f"{opened.path} in {manifest.floating}: this machine computes it in fp32"]
    return []


def _reference(
    model: str | None, trust: bool, stages: Stages
) -> tuple[reference.Embed | None, str | None]:
    """(the source model in fp32, its fingerprint), or nothing where none is named."""
    if model is None:
        return None, None
    from exporter.model import open_model

    with stages("open"):
        source = open_model(model, trust_remote_code=trust)
        digests = {k: v for k, v in source.digests.items() if store.defines(k)}
    made = reference.sentence_transformer(source.path, trust_remote_code=trust)
    return made, store.fingerprint(digests)


def _embed(encoder: Encoder, stages: Stages) -> reference.Embed:
    prompts = encoder.contract.prompts

    def embed(texts: Sequence[str], kind: str) -> np.ndarray:
        prefix, done = reference.prompt_of(kind, prompts), 0
        out = np.empty((len(texts), encoder.contract.dim), dtype=np.float32)
        for rows in reference.chunks(texts):
            out[rows] = encoder.embed([prefix + texts[row] for row in rows], prompt="")
            done += len(rows)
            stages.step(done, len(texts))
        return out

    return embed
