"""The figures of an artifact over unseen texts: measured, compared with the gate, recorded.

Texts and figures are golden/judging/'s; the reference is the source in fp32, by
sentence-transformers, from the judge's cache or made now.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

import numpy as np

from goldfold.exporter import records, registry
from goldfold.exporter.artifact.encoder import Encoder
from goldfold.exporter.artifact.result import measured
from goldfold.exporter.contract import Contract
from goldfold.exporter.errors import GoldfoldError, TextError, UsageError
from goldfold.exporter.frontend.source import Source
from goldfold.exporter.progress import Stages
from goldfold.exporter.proofs import KindFigures, UnseenFigures
from goldfold.exporter.system import natives
from goldfold.golden import gate
from goldfold.golden.errors import GoldenError
from goldfold.golden.gate import Verdict
from goldfold.golden.judging import order_statistics, reference, unseen
from goldfold.golden.judging.order_statistics import Percentile
from goldfold.golden.judging.unseen import Unseen
from goldfold.golden.reasons import Reason
from goldfold.golden.tasks import EMBEDDING
from goldfold.golden.token_texts import Draws

SEED = 0
PROMPTED = 3
"""One text in this many, by chance, stands behind one of the model's prompts."""
INSTALLED = 5
"""One text of what is installed is measured for this many drawn ones."""
_FAULTS = 10
"""Texts with a fault that are named."""


@dataclass(frozen=True)
class Expected:
    """What the source makes of all texts."""

    prompts: tuple[str, ...]
    """The name of the prompt before each text, "" for none."""
    rows: np.ndarray
    """Embeddings in fp32, [N, D]."""
    ids: tuple[tuple[int, ...], ...]

    def groups(self) -> dict[str, list[int]]:
        """Returns the numbers of the texts behind each prompt."""
        found: dict[str, list[int]] = {}
        for number, prompt in enumerate(self.prompts):
            found.setdefault(prompt, []).append(number)
        return found


@dataclass(frozen=True)
class Texts:
    """The unseen texts of a run, and the source that gives their reference."""

    source: Source
    drawn: tuple[Unseen, ...]
    installed: tuple[Unseen, ...]
    _made: dict[tuple[int, tuple[str, ...]], Expected] = field(default_factory=dict)

    @property
    def all(self) -> tuple[Unseen, ...]:
        """All texts, the drawn ones first."""
        return (*self.drawn, *self.installed)

    def named(self, number: int) -> str:
        """Returns a text of `all` in a sentence, by its number in its own set."""
        count = len(self.drawn)
        return unseen.named(self.all[number], number if number < count else number - count)

    def expected(self, contract: Contract, stages: Stages) -> Expected:
        """Returns what the source makes of all texts, cut to the contract's length: from the
        judge's cache, or by sentence-transformers. Made once for the artifacts of a run. Raises
        GoldenError where that is impossible."""
        prompts = tuple({text: name for name, text in contract.prompts.items() if text}.values())
        key = contract.max_length, prompts
        if key not in self._made:
            stages.detail("the source in fp32")
            try:
                with natives.hushed():
                    self._made[key] = self._expected(*key, stages)
                self.source.check_unchanged()  # sentence-transformers read it again
            except (GoldenError, GoldfoldError, MemoryError):
                raise
            except Exception as error:  # torch's, or a setting's effect
                said = " ".join(str(error).split())[:200] or type(error).__name__
                raise GoldenError(
                    f"{self.source.name}: sentence-transformers cannot embed unseen texts: {said}"
                ) from error
        return self._made[key]

    def _expected(self, length: int, prompts: Sequence[str], stages: Stages) -> Expected:
        source, count = self.source, len(self.all)
        model = reference.Model(source.loads, source.trusted, source.route, length)
        named = _prompts(count, prompts)
        rows: dict[int, np.ndarray] = {}
        ids: dict[int, tuple[int, ...]] = {}
        for prompt, numbers in Expected(named, np.empty(0), ()).groups().items():
            kind = f"{reference.NAMED}{prompt}" if prompt else "plain"
            embed = reference.cached(
                source.fingerprint,
                model.embed,
                step=stages.step,
                how=f" {source.route} {length}",
            )
            some = [self.all[number].text for number in numbers]
            rows |= zip(numbers, embed(some, kind), strict=True)
            ids |= zip(numbers, model.token_ids(some, kind), strict=True)
        order = range(count)
        return Expected(named, np.stack([rows[n] for n in order]), tuple(ids[n] for n in order))


def _prompts(count: int, prompts: Sequence[str]) -> tuple[str, ...]:
    """Returns the prompt before each text, drawn by chance too: texts in turn would not be drawn
    alike, as the percentile's interval asks."""
    draws = Draws(SEED + 1)
    return tuple(
        "" if draws.below(PROMPTED) or not prompts else draws.one(prompts) for _ in range(count)
    )


def check(count: int) -> None:
    """Refuse a number of texts that cannot be drawn; 0 is none. Raises UsageError."""
    if not 0 <= count <= unseen.MOST:
        raise UsageError(f"--unseen is {count}; it takes 1 to {unseen.MOST:,} texts, or 0 for none")


def draw(source: Source, count: int) -> Texts | None:
    """Returns `count` unseen texts for the artifacts of a model, or None where none are asked for.
    Raises UsageError for a number that cannot be drawn, and for a model of another task."""
    check(count)
    if not count:
        return None
    if source.task != EMBEDDING:
        raise UsageError(f"--unseen measures embeddings, and {source.name} gives {source.task}")
    installed = max(1, count // INSTALLED)
    return Texts(source, unseen.drawn(count, SEED), unseen.installed(installed, SEED))


def of(encoder: Encoder, stages: Stages, texts: Texts | None) -> UnseenFigures | None:
    """Returns the artifact's figures. Without `texts`, those of an earlier verdict are kept, for
    the files are the same; None where there are none. Raises GoldenError where
    sentence-transformers cannot embed the texts."""
    opened = encoder.bundle
    held = gate.gate_for(opened.manifest.gate, opened.manifest.contract.task)
    limits = {"limit": held.worst, "mean_limit": held.mean}
    if texts is None:
        old = None if opened.verdict is None else opened.verdict.unseen
        return old and old.with_(**limits)
    with stages(f"unseen {opened.name}"):
        found = _measure(encoder, stages, texts)
        drawn, beside = (found.figures(texts.all, numbers) for numbers in found.parts)
        if drawn is None:
            raise GoldenError(
                f"{texts.source.name}: the source has no embedding of any unseen text"
            )
        record = UnseenFigures(
            texts=drawn.texts,
            seed=SEED,
            digest=unseen.digest(texts.drawn),
            worst=drawn.worst,
            worst_kind=drawn.worst_kind,
            worst_number=found.parts[0][drawn.worst_number],
            mean=drawn.mean,
            share=drawn.percentile.share,
            percentile=drawn.percentile.value,
            lower=drawn.percentile.lower,
            upper=drawn.percentile.upper,
            fewest=order_statistics.least(),
            confidence=drawn.percentile.confidence,
            kinds=_kinds(drawn),
            installed=() if beside is None else _kinds(beside),
            installed_digest=unseen.digest(texts.installed),
            left_out=len(texts.all) - sum(map(len, found.parts)),
            faults=found.faults,
            missing=tuple(_instead(encoder)),
            measured=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            **limits,
        )
        stages.note(record.sentence)
    return record


def hold(verdict: Verdict, record: UnseenFigures | None, precision: str) -> Verdict:
    """Returns the verdict with the gate on unseen texts, where they were measured."""
    if record is None:
        return verdict
    faults = (Reason("unseen", precision, note=fault) for fault in record.faults)
    return verdict.also(*unseen.judge(_figures(record), precision), *faults)


@dataclass(frozen=True)
class _Found:
    """The 1−cos of all texts, the numbers of those that have a reference, drawn and installed, and
    the faults."""

    distances: np.ndarray
    parts: tuple[list[int], list[int]]
    faults: tuple[str, ...]

    def figures(self, texts: Sequence[Unseen], numbers: list[int]) -> unseen.Figures | None:
        """Returns the figures of some texts; None of none."""
        kinds = [texts[number].kind for number in numbers]
        return unseen.figures(self.distances[numbers], kinds) if numbers else None


def _measure(encoder: Encoder, stages: Stages, texts: Texts) -> _Found:
    """Embed all texts with the artifact, and compare tokens and embeddings with the source's."""
    expected, count = texts.expected(encoder.contract, stages), len(texts.all)
    distances, kept, faults = np.full(count, np.inf), [], {}
    stages.detail("the artifact")
    done = 0
    for prompt, numbers in expected.groups().items():
        some = [texts.all[number].text for number in numbers]
        found = _tokens(encoder, some, prompt)
        for rows in reference.chunks(some):
            at = [numbers[row] for row in rows]
            ours = _embedded(encoder, [some[row] for row in rows], prompt)
            theirs = expected.rows[at][:, : ours.shape[1]]
            distances[at] = unseen.distances(ours, theirs)
            done += len(rows)
            stages.step(done, count)
            for row, number, golden in zip(rows, at, theirs, strict=True):
                if not (expected.ids[number] and np.isfinite(golden).all() and golden.any()):
                    continue
                kept.append(number)
                if found[row] != expected.ids[number]:
                    faults[number] = (
                        f"The tokens of {texts.named(number)} differ from the source's."
                    )
                elif not np.isfinite(distances[number]):
                    faults[number] = (
                        f"The embedding of {texts.named(number)} is not finite, or zero."
                    )
    said = [faults[number] for number in sorted(faults)]
    if len(said) > _FAULTS:
        said[_FAULTS:] = [f"{len(said) - _FAULTS} more unseen texts have such faults."]
    first = len(texts.drawn)
    parts = sorted(n for n in kept if n < first), sorted(n for n in kept if n >= first)
    return _Found(distances, parts, tuple(said))


def _embedded(encoder: Encoder, texts: list[str], prompt: str) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the verdict names rows of NaN
        return encoder.embed(texts, prompt=prompt, errors="nan")


def _tokens(encoder: Encoder, texts: list[str], prompt: str) -> list[tuple[int, ...] | None]:
    """Returns the artifact's ids of each text, None where its tokenizer fails."""
    before = encoder.prefix(prompt)
    whole = [before + text for text in texts]
    try:
        return [tuple(ids) for ids in encoder.tokenize(whole)]
    except TextError as error:
        odd = error.reasons
    good = iter(encoder.tokenize([text for at, text in enumerate(whole) if at not in odd]))
    return [None if at in odd else tuple(next(good)) for at in range(len(whole))]


def _kinds(found: unseen.Figures) -> tuple[KindFigures, ...]:
    return tuple(records.read(KindFigures, asdict(one)) for one in found.kinds)


def _figures(record: UnseenFigures) -> unseen.Figures:
    """Returns a record in the form that the gate takes."""
    kinds = (unseen.KindFigures(k.kind, k.texts, k.worst, k.mean) for k in record.kinds)
    return unseen.Figures(
        texts=record.texts,
        worst=record.worst,
        worst_kind=record.worst_kind,
        worst_number=record.worst_number,
        mean=record.mean,
        percentile=Percentile(
            record.percentile, record.lower, record.upper, record.share, record.confidence
        ),
        kinds=tuple(kinds),
    )


def _instead(encoder: Encoder) -> Iterator[str]:
    """Yields what this machine measures in an artifact's place, or in its precision's."""
    opened, manifest = encoder.bundle, encoder.bundle.manifest
    what, reason = measured(opened)
    if reason:
        yield f"{opened.name} itself: {reason}; measured instead: {what}"
    elif not registry.target(manifest.target).executes(manifest.floating):
        yield f"{opened.name} in {manifest.floating}: this machine computes it in fp32"
