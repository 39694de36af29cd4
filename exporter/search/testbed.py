"""The testbed of a search holds the traced program, its statistics, and the fp32 embeddings of the
tuning texts. It is computed once, and kept in a folder that every worker opens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx_ir as ir

from goldfold.exporter import __version__
from goldfold.exporter.artifact import bundle, sidecars
from goldfold.exporter.contract import Contract
from goldfold.exporter.driver import cached_stages, preparing
from goldfold.exporter.errors import ArtifactError, OutputError, UsageError
from goldfold.exporter.evaluate import interpret
from goldfold.exporter.evaluate.batches import padded
from goldfold.exporter.frontend.source import Source
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.progress import Stages
from goldfold.exporter.quantize import plan, statistics, texts
from goldfold.exporter.quantize import sites as all_sites
from goldfold.exporter.quantize.recipe import Recipe
from goldfold.exporter.quantize.sites import Site
from goldfold.exporter.quantize.statistics import Activation
from goldfold.exporter.quantize.texts import Own
from goldfold.exporter.records import read
from goldfold.exporter.search import tuning
from goldfold.exporter.verification.goldens import check_length

_SIZE, _CALL = 16, 32
"""The most texts of a batch, and the cost of a call in tokens, as for ONNX Runtime's artifacts."""


@dataclass
class Testbed:
    """A testbed opened from its folder; weights and statistics stay in files until read."""

    folder: Path
    program: Program
    known: dict[str, Activation]
    texts: list[list[int]]
    """Token ids of the tuning texts."""
    exact: np.ndarray | None
    """f32 [texts, dimensions], of this program without any rounding."""
    rounded: plan.Rounded = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The digest of the whole content."""
        return self.folder.name

    def sites(self) -> list[Site]:
        return all_sites.find(self.program)

    def quantized(self, recipe: Recipe) -> Program:
        """A copy of the program with the recipe's integers. Integers by GPTQ, which is slow, are
        kept."""
        copy = self.program.copy()
        slow = any(recipe.choice(site).rounding == "gptq" for site in self.sites())
        passes = plan.passes(
            recipe, copy, (), known=self.known, rounded=self.rounded if slow else None
        )
        Pipeline(before=self.program).run(copy, passes)
        return copy

    def errors(self, program: Program, threads: int | None = None) -> np.ndarray:
        """f64 [texts], 1−cos of each against `exact`; 2, the maximum, for an embedding that is not
        finite."""
        assert self.exact is not None
        got = _unit(embed(program, self.texts, threads))
        found = 0.5 * np.square(got - _unit(self.exact)).sum(axis=1)
        return np.where(np.isfinite(found), found, 2.0)


def embed(
    program: Program, sequences: Sequence[Sequence[int]], threads: int | None = None
) -> np.ndarray:
    """f32 [texts, dimensions] in ONNX Runtime; texts of similar length share a call."""
    run = interpret.runner(program, threads=threads)
    found = np.empty((len(sequences), program.contract.dim), np.float32)
    for rows, ids, mask in padded(sequences, program.contract, _SIZE, _CALL):
        found[rows] = run(ids, mask)
    return found


CODE = (*cached_stages.TRACING, *cached_stages.MEASURING, "search/*.py")
"""Files of exporter/ that determine a testbed and its trials."""


@dataclass(frozen=True)
class Sets:
    """A user's own texts; an empty set stands for the built-in one."""

    calibration: tuple[Own, ...] = ()
    tuning: tuple[Own, ...] = ()


def key_of(
    fingerprint: str, gains: Recipe, max_length: int | None = None, own: Sets = Sets()
) -> str:
    """The name of a folder: a digest of everything that determines its content."""
    packages = {name: version(name) for name in ("onnxruntime", "numpy")}
    record = {
        "format": 1,
        "goldfold": __version__,
        "model": fingerprint,
        "max_length": max_length,
        "gains": [gains.gains, gains.alpha],
        "code": cached_stages.code(CODE),
        "versions": {**sidecars.versions(), **packages},
        "texts": [own.calibration or texts.calibration_texts(), own.tuning or tuning.texts()],
    }
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:24]


def make(
    source: Source,
    gains: Recipe,
    folder: Path,
    stages: Stages,
    max_length: int | None = None,
    own: Sets = Sets(),
) -> None:
    """Trace `source`, balance it as `gains` asks, and write the folder, whole or not at all."""
    program = preparing.traced(source, stages, max_length)
    check_length(program.contract, max_length)
    gives = {"multi_vector": "a vector for each token", "scores": "scores of pairs"}
    if (task := program.contract.task) in gives:
        raise UsageError(
            f"{source.name} gives {gives[task]}, and a recipe is searched for by vectors of texts; "
            "export it with --precision int8-weights, int8 or int4"
        )
    preparing.legalized(program, Pipeline(), max_length)
    preparing.rewrite(program, gains, Pipeline(), stages)
    sequences = texts.short(program, own.calibration)
    with stages("calibrate"):
        pipeline.run(program, plan.balance(gains, program, sequences, stages.step))
        values = [site.x for site in all_sites.find(program) if site.x is not None]
        found = statistics.record(
            program, values, sequences, True, lambda done: stages.step(done, len(sequences))
        )
        stages.note(f"{len(sequences)} texts, {len(found)} values")
    with stages("reference"):
        tuned = tuning.sequences(program, tuple(texts.singles(own.tuning)))
        exact = embed(program, tuned)
        stages.note(f"{len(tuned)} tuning texts in f32")
        if not np.isfinite(exact).all():
            raise ArtifactError(f"{source.name} makes an embedding that is not finite in f32")
    with stages("keep"), _whole(folder) as fresh:
        ir.save(program.model, fresh / "program.onnx", external_data="program.data")
        (fresh / "statistics").mkdir()
        names = []
        for at, (name, one) in enumerate(found.items()):
            np.save(fresh / "statistics" / f"{at}.peak.npy", one.peak)
            np.save(fresh / "statistics" / f"{at}.moments.npy", one.moments)
            np.save(fresh / "statistics" / f"{at}.standing.npy", one.standing)
            names.append([name, one.tokens])
        np.save(fresh / "exact.npy", exact)
        contract = program.contract.plain()
        record = {"contract": contract, "tokenizer": program.tokenizer, "statistics": names,
                  "texts": tuned}  # fmt: skip
        (fresh / "testbed.json").write_text(json.dumps(record), encoding="utf-8")
        stages.note(str(folder))


def load(folder: Path) -> Testbed:
    """Open a folder that `make` wrote. Raises ArtifactError for a damaged folder."""
    try:
        record = json.loads((folder / "testbed.json").read_text(encoding="utf-8"))
        model = ir.load(folder / "program.onnx")
        contract = read(Contract, record["contract"])
        known = {}
        for at, (name, tokens) in enumerate(record["statistics"]):
            peak = np.load(folder / "statistics" / f"{at}.peak.npy")
            moments = np.load(folder / "statistics" / f"{at}.moments.npy", mmap_mode="r")
            standing = np.load(folder / "statistics" / f"{at}.standing.npy")
            known[name] = Activation(peak, moments, standing, tokens)
        exact = np.load(folder / "exact.npy")
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ArtifactError(f"{folder} is damaged ({reason}); delete it") from None
    program = Program(model, contract, record["tokenizer"])
    return Testbed(folder, program, known, record["texts"], exact)


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A fresh folder that moves to its place once everything is written, and vanishes otherwise."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with bundle.scratch(folder.parent) as scratch:
            fresh = scratch / folder.name
            fresh.mkdir()
            yield fresh
            if not folder.exists():  # another search was quicker
                fresh.rename(folder)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from None


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)
