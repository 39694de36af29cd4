"""The judging of artifacts by the quality that users see: ranking, human judgements, code
retrieval."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from collections.abc import Collection as Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from goldfold.exporter import registry
from goldfold.exporter.artifact import bundle
from goldfold.exporter.artifact.bundle import Bundle
from goldfold.exporter.artifact.encoder import Encoder, open_encoder
from goldfold.exporter.artifact.result import measured
from goldfold.exporter.errors import GateMissed, UsageError
from goldfold.exporter.frontend.source import Source
from goldfold.exporter.progress import Listener, Stages
from goldfold.exporter.system.writing import write_file
from goldfold.exporter.verification import losses
from goldfold.exporter.verification.goldens import goldens_of, ours
from goldfold.golden import gate
from goldfold.golden.errors import GoldenError
from goldfold.golden.judging import collection, lee, pairs, reference
from goldfold.golden.judging.collection import Collection
from goldfold.golden.judging.judge import OWN, Judgement, Sets, judge
from goldfold.golden.judging.lee import Lee
from goldfold.golden.judging.pairs import LEAST, Pairs
from goldfold.golden.store import Goldens
from goldfold.golden.tasks import EMBEDDING

PARTS = ("ranks", "lee", "retrieval")
"""The parts that can be left out: rank agreement among the goldens, the Lee corpus, code
retrieval."""

TOKENS = 128
"""Approximate length of the longest text of the retrieval set (golden/judging/pairs.py)."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class Judged:
    """One artifact's judgement. Each line of `missing` names a measurement that was impossible, or
    one of something else in the artifact's place."""

    path: Path
    name: str
    judgement: Judgement
    missing: tuple[str, ...]
    gate: str
    """The precision whose gate applies."""

    @property
    def sentence(self) -> str:
        """The result of the gate on retrieval, in one line."""
        own = [one for one in self.judgement.metrics if one.name == f"{OWN}nDCG@10"]
        if own:
            lost = ", ".join(f"{one.upper or 0.0:.2%} at {one.dims} dims" for one in own)
            return (
                f"your nDCG@10 loses at most {lost}, over {own[0].count:,} queries; --limit holds "
                "it, and no gate does"
            )
        limit = gate.gate_for(self.gate).loss
        if limit is None:
            return f"the gate of {self.gate} has no limit on retrieval"
        said = losses.said_of(self.judgement.metrics, limit)
        if not any(metric.name == gate.RETRIEVAL for metric in self.judgement.metrics):
            return f"{said}: the gate of {self.gate} was not judged"
        over = gate.judge_losses(self.judgement.metrics, self.gate)
        return f"{said}: the gate of {self.gate} {'is missed' if over else 'holds'}"

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object."""
        named = {"path": str(self.path), "artifact": self.name, "missing": list(self.missing)}
        return {**named, "gate": self.sentence, **self.judgement.to_json()}


@dataclass(frozen=True)
class Fp32:
    """A source model in fp32: the reference for artifacts of that model alone."""

    name: str
    fingerprint: str
    embed: reference.Embed

    def check(self, opened: Bundle) -> None:
        """Raise UsageError for an artifact of another model."""
        if self.fingerprint != opened.manifest.origin.fingerprint:
            raise UsageError(f"{opened.path} was not exported from {self.name}")


@dataclass(frozen=True)
class Judges:
    """The judges of a run: the texts for all its artifacts, and the source of the fp32
    reference."""

    lee: Lee | None
    pairs: Pairs | None
    missing: tuple[str, ...]
    """Why a part is left out, one line each."""
    fp32: Fp32 | None
    """The source model; None if the cache must have its embeddings."""
    cache: Path | None
    log: Log
    own: Collection | None = None
    """A user's own collection, in place of `pairs`."""

    def judge(self, encoder: Encoder, stages: Stages, goldens: Goldens | None = None) -> Judgement:
        """Judge one artifact, inside a stage; rank agreement only with `goldens`.

        Raises GoldenError where the reference is neither in the cache nor at hand, Unrankable for
        an embedding that is not finite.
        """
        origin = encoder.bundle.manifest.origin
        if self.fp32 is None:
            theirs = reference.refusing(
                f"no fp32 reference of {origin.name} on these texts is kept yet; "
                "give its source with --model"
            )
        else:
            self.fp32.check(encoder.bundle)
            theirs = self.fp32.embed
        return judge(
            embed_of(encoder, stages),
            reference.cached(origin.fingerprint, theirs, self.cache, self.log, stages.step),
            Sets(goldens, self.lee, self.pairs, self.own),
            notice=stages.detail,
        )

    def missing_of(self, opened: Bundle) -> tuple[str, ...]:
        """Returns the parts that were left out, and what this machine judges in an artifact's
        place."""
        return (*self.missing, *_instead(opened))


def check_pairs(count: int) -> None:
    """Refuse fewer pairs than the limit was set for: ten pairs that are all found prove nothing."""
    if count < LEAST:
        raise UsageError(f"--pairs is {count}; the gate on retrieval takes {LEAST} or more")


def check_alone(judge: bool, pairs: int) -> None:
    """Refuse --pairs where nothing is judged."""
    if pairs != LEAST and not judge:
        raise UsageError("--pairs is how many --judge takes; give both")


def convene(
    stages: Stages,
    fp32: Fp32 | None,
    *,
    count: int | Path = LEAST,
    skip: Container[str] = (),
    cache: Path | None = None,
    log: Log = lambda text: None,
) -> Judges:
    """Read the texts on which artifacts are judged. `count` is the number of retrieval pairs, or
    the place of a collection of the user's own.

    Raises UsageError for an unknown part or too few pairs, GoldenError where fewer are installed.
    """
    if unknown := sorted(set(skip) - set(PARTS)):
        raise UsageError(f"--skip {unknown[0]}: known parts are {', '.join(PARTS)}")
    if isinstance(count, int) and count < 20:
        raise UsageError(f"--pairs is {count}; fewer than 20 say nothing")
    missing: list[str] = []
    corpus = retrieval = own = None
    if "lee" not in skip:
        reason = lee.unavailable()
        missing += [reason] if reason else []
        corpus = None if reason else lee.load()
    if "retrieval" not in skip and isinstance(count, Path):
        with stages("your retrieval"):
            try:
                own = collection.read(count)
            except GoldenError as error:
                raise UsageError(str(error)) from None
            sizes = f"{len(own.queries):,} queries, {len(own.documents):,} documents"
            stages.note(f"{sizes}, digest {own.digest[:12]}")
    elif "retrieval" not in skip and isinstance(count, int):
        with stages("retrieval pairs"):
            retrieval = pairs.collect(count)
            found = len(retrieval.pairs)
            stages.note(f"{found} docstrings and functions, digest {retrieval.digest[:12]}")
    return Judges(corpus, retrieval, tuple(missing), fp32, cache, log, own)


@ours()
@dataclass(frozen=True)
class Against:
    """The source of the fp32 reference."""

    model: str | None = None
    """The source model; not needed while `cache` holds its embeddings of these texts."""
    trust_remote_code: bool = False
    cache: Path | None = None
    """The cache's folder, by default the user's."""


def judge_artifacts(
    folders: Sequence[str | Path],
    *,
    against: Against = Against(),
    count: int | Path = LEAST,
    skip: Container[str] = (),
    threads: int | None = None,
    listener: Listener | None = None,
    log: Log = lambda text: None,
) -> list[Judged]:
    """Judge every artifact folder, one that missed its gate as well.

    `count` is the number of retrieval pairs, or the place of a collection of the user's own
    (golden/judging/collection.py).

    Raises UsageError for an unknown part, too few pairs or a model that is not the artifact's;
    ArtifactError for a damaged folder; ModelError where a reference is needed and none is at hand.
    """
    stages = Stages(listener)
    bundles = [bundle.open_bundle(Path(folder), unverified=True) for folder in folders]
    fp32 = fp32_of(against.model, stages, against.trust_remote_code)
    if fp32 is not None:
        for opened in bundles:
            fp32.check(opened)
    judges = convene(stages, fp32, count=count, skip=skip, cache=against.cache, log=log)
    found = []
    for opened in bundles:
        goldens = None if "ranks" in skip else goldens_of(opened)
        with stages(f"judge {opened.name}"):
            encoder = open_encoder(opened, threads, proof=True)
            judgement = judges.judge(encoder, stages, goldens)
            worst = judgement.worst
            stages.note("" if worst is None else f"largest loss {worst.upper:.2%}, {worst.name}")
        missing, held = judges.missing_of(opened), opened.manifest.gate
        found.append(Judged(opened.path, opened.name, judgement, missing, held))
    return found


def hold(found: Sequence[Judged], limit: float) -> None:
    """Raise GateMissed naming the worst figure of each artifact over the limit, a share."""
    if all(one.judgement.worst is None for one in found):
        raise UsageError("--limit needs retrieval or the Lee corpus; nothing with a bound was run")
    over = [
        f"{one.path}: {worst.name} at {worst.dims} dims loses up to {worst.upper:.2%}"
        for one in found
        if (worst := one.judgement.worst) is not None and (worst.upper or 0.0) > limit
    ]
    if over:
        raise GateMissed(f"more than {limit:.2%} lost: {'; '.join(over)}")


def write(found: Sequence[Judged], file: Path) -> None:
    """Write all figures as JSON. Raises OutputError."""
    text = json.dumps([one.to_json() for one in found], indent=1) + "\n"
    write_file(file, lambda opened: opened.write(text.encode()))


def fp32_of(model: str | None, stages: Stages, trust_remote_code: bool = False) -> Fp32 | None:
    """Returns the source model, or None where none is named."""
    if model is None:
        return None
    from goldfold.exporter.frontend.readiness import ready
    from goldfold.exporter.frontend.source import open_model
    from goldfold.exporter.system.cache import open_cache

    with stages("open"):
        source = open_model(model, trust_remote_code=trust_remote_code)
        source = ready(source, stages, open_cache())
    return Fp32(model, source.fingerprint, fp32_embed(source))


def fp32_embed(source: Source) -> reference.Embed:
    """Returns the model's encoder in sentence-transformers; its embeddings are kept under the
    digests of its files, so the files are checked again."""
    if source.task != EMBEDDING:
        raise UsageError(f"{source.name} gives {source.task}; embeddings alone are judged")
    _check_route(source.name, source.route)
    embed = reference.sentence_transformer(source.loads, trust_remote_code=source.trusted)

    def checked(texts: Sequence[str], kind: str) -> np.ndarray:
        rows = embed(texts, kind)
        source.check_unchanged()
        return rows

    return checked


def _instead(opened: Bundle) -> list[str]:
    """Returns notes on what this machine judged where it cannot run the artifact, or not in its
    precision; and whether the artifact reads less of a text than the reference."""
    manifest, said = opened.manifest, []
    what, reason = measured(opened)
    if reason:
        said.append(f"{opened.name} itself: {reason}; judged instead: {what}")
    elif not registry.target(manifest.target).executes(manifest.floating):
        said.append(f"{opened.name} in {manifest.floating}: this machine computes it in fp32")
    if manifest.contract.max_length < TOKENS:
        said.append(
            f"{opened.name} reads {manifest.contract.max_length} tokens of a text, the reference"
            " more: what is lost is lost by that as well"
        )
    return said


def _check_route(name: str, route: str) -> None:
    """Refuse to judge retrieval by one route of a model. Raises UsageError."""
    if route:
        raise UsageError(
            f"{name} is the {route} route of its model, and retrieval takes both; an artifact of a "
            "route is measured by its goldens, and not judged"
        )


def embed_of(encoder: Encoder, stages: Stages) -> reference.Embed:
    """Returns an artifact's encoder in the form that the judge takes."""
    prompts = encoder.contract.prompts
    _check_route(encoder.contract.model, encoder.contract.route)

    def embed(texts: Sequence[str], kind: str) -> np.ndarray:
        named, done = next((n for n in reference.KINDS[kind] if n in prompts), ""), 0
        out = np.empty((len(texts), encoder.contract.dim), dtype=np.float32)
        for rows in reference.chunks(texts):
            out[rows] = encoder.embed([texts[row] for row in rows], prompt=named)
            done += len(rows)
            stages.step(done, len(texts))
        return out

    return embed
