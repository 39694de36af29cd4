"""The verification of artifacts in other programs, as Node and Chromium: each gives a verdict of
its own, by the goldens and the gate of the artifact's."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from goldfold.exporter import registry
from goldfold.exporter.artifact.bundle import Bundle, open_bundle
from goldfold.exporter.artifact.layout import lay_out
from goldfold.exporter.artifact.manifest import read_manifest
from goldfold.exporter.contract import Contract, Task
from goldfold.exporter.errors import ArtifactError, GoldfoldError, TargetError, UsageError
from goldfold.exporter.progress import Listener, Stages
from goldfold.exporter.system.files import cores
from goldfold.exporter.verification.goldens import goldens_of, ours
from goldfold.exporter.verification.several import artifacts_of
from goldfold.golden import compare, gate
from goldfold.golden.compare import Measurement
from goldfold.golden.gate import Verdict
from goldfold.golden.reasons import Reason
from goldfold.golden.store import NAMED, Goldens
from goldfold.golden.tasks import QUANTITY

if TYPE_CHECKING:
    from goldfold.targets.base import Elsewhere

_TASKS: Mapping[str, Task] = {"encode": "", "encode_query": "query", "encode_document": "document"}
_BATCH = 64
"""Texts that are tokenized at a time."""
Status = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class Ran:
    """The verdict of one place on one artifact: `verdict` is None where it did not run there, and
    `not_run` says why."""

    path: Path
    bundle: Bundle
    place: str
    threads: int | None = None
    """Threads that the program really used; None where it did not run."""
    measurement: Measurement | None = None
    verdict: Verdict | None = None
    not_run: str = ""
    seconds: float = 0.0
    """Seconds of all goldens, without opening."""
    peak: int | None = None
    """The most bytes of the program's processes together; None where the system does not tell."""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The artifact and the place, in one line."""
        by = "" if self.threads is None else f", {self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.bundle.name} in {self.place}{by}"

    @property
    def status(self) -> Status:
        if self.verdict is None:
            return "not run"
        return "passed" if self.verdict.passed else "failed"


@ours()
def verify_in(
    folders: Sequence[Path],
    places: Sequence[str],
    *,
    threads: int | None = None,
    signed: str | None = None,
    listener: Listener | None = None,
) -> list[Ran]:
    """Verify the artifacts of `folders` in `places`, with `threads`, or with one thread and with
    one per core. Nothing is written: verdict.json is of the artifact's own runtime.

    `signed` is the digest of the one artifact's signed manifest. Raises UsageError for a place that
    an artifact's target does not know, and the errors of `lay_out`.
    """
    stages = Stages(listener)
    paths = artifacts_of(folders)
    for path in paths:
        _check_places(path, places)
    counts = [threads] if threads is not None else sorted({1, cores()})
    found = []
    for path in paths:
        opened = open_bundle(path)
        if signed is not None and opened.manifest.digest != signed:
            raise ArtifactError(f"{path} was replaced after its signature was checked")
        target = registry.target(opened.manifest.target)
        missing = {place: target.absent(place) for place in dict.fromkeys(places)}
        for place, why in missing.items():
            if why is not None:
                found.append(Ran(path, opened, place, not_run=why))
                stages.fail(f"{opened.name} in {place}", f"not run: {why}")
        there = [place for place, why in missing.items() if why is None]
        if there:
            found += _in_each(opened, there, counts, stages)
    return found


def _check_places(path: Path, places: Sequence[str]) -> None:
    target = registry.target(read_manifest(path).target)
    for place in places:
        if place not in target.places:
            known = ", ".join(target.places) or "none"
            raise UsageError(f"--in {place}: {path} is for {target.name}, which knows: {known}")


def _in_each(
    opened: Bundle, places: Sequence[str], counts: Sequence[int], stages: Stages
) -> list[Ran]:
    """Lay an artifact out once for all places of one layout, and run it in each."""
    target, found = registry.target(opened.manifest.target), []
    goldens = goldens_of(opened)
    with tempfile.TemporaryDirectory(prefix="goldfold-") as room:
        laid: dict[str, Path] = {}
        for layout in dict.fromkeys(target.places[place] for place in places):
            with stages(f"lay out {opened.name}"):
                laid[layout] = lay_out(opened.path, layout, Path(room) / layout).path
                stages.note(f"for {layout}")
        for place in places:
            for count in counts:
                found.append(
                    _run(opened, goldens, (place, laid[target.places[place]]), count, stages)
                )
    return found


def _run(
    opened: Bundle, goldens: Goldens, where: tuple[str, Path], threads: int, stages: Stages
) -> Ran:
    place, laid = where
    target = registry.target(opened.manifest.target)
    told = Ran(opened.path, opened, place, threads)
    with stages(f"{opened.name} in {place}"):
        try:
            there = target.elsewhere(place, laid, threads)
        except TargetError as error:
            ran = _failed(told, str(error))
        else:
            try:
                ran = _measured(told, there, goldens, stages)
            except GoldfoldError as error:
                ran = _failed(told, str(error), there)
            finally:
                there.close()
        stages.note(_note(ran, goldens))
    return ran


def _measured(told: Ran, there: Elsewhere, goldens: Goldens, stages: Stages) -> Ran:
    if error := there.facts.get("error"):
        return _failed(told, str(error), there)
    contract, precision = told.bundle.manifest.contract, told.bundle.manifest.gate
    stages.detail(f"{told.place}: tokens")
    faults = compare.token_faults(_tokenizer(there, contract), goldens)
    begun = time.perf_counter()
    measurement = compare.measure(
        there.run,
        goldens,
        pad_id=contract.pad_id,
        progress=lambda what, done, total: stages.step(done, total),
        dims=contract.dim,
    )
    seconds = time.perf_counter() - begun
    verdict = gate.judge(measurement, faults, precision, goldens)
    canaries = there.facts.get("canaries") or {}
    if fault := canaries.get("fault", "no canary was computed"):
        verdict = verdict.also(Reason("unproved", precision, note=f"The page refuses: {fault}"))
    return Ran(
        told.path,
        told.bundle,
        told.place,
        int(there.facts.get("threads", 0)) or told.threads,
        measurement,
        verdict,
        seconds=seconds,
        peak=there.peak(),
        facts=there.facts,
    )


def _failed(told: Ran, sentence: str, there: Elsewhere | None = None) -> Ran:
    """Returns the verdict where nothing could be measured: the artifact does not run there."""
    verdict = Verdict((Reason("unproved", told.bundle.manifest.gate, note=sentence),))
    peak, facts = (None, {}) if there is None else (there.peak(), there.facts)
    return Ran(
        told.path, told.bundle, told.place, told.threads, verdict=verdict, peak=peak, facts=facts
    )


def _tokenizer(there: Elsewhere, contract: Contract) -> compare.Tokenize:
    """Returns the tokenizer of a place under the names of the goldens' calls."""

    def tokenize(texts: Sequence[Any], call: str) -> list[list[int]]:
        task = _TASKS.get(call, "")
        before = contract.prompt_of(task) if call in _TASKS else ""
        if call.startswith(NAMED):
            before = contract.prompts.get(call.removeprefix(NAMED), "")
        whole = [before + text for text in texts]
        found: list[list[int]] = []
        for start in range(0, len(whole), _BATCH):
            found += there.tokenize(whole[start : start + _BATCH], contract.length_of(task))
        return found

    return tokenize


def _note(ran: Ran, goldens: Goldens) -> str:
    threads = f"{ran.threads} thread{'s' * ((ran.threads or 0) > 1)}"
    if ran.measurement is None:
        return f"{threads}: {'; '.join(ran.verdict.sentences if ran.verdict else ())}, FAIL"
    worst = max(ran.measurement.worst, ran.measurement.worst_padded)
    word = ran.verdict.word if ran.verdict else ""
    return f"{threads}, worst {QUANTITY[goldens.task]} {worst:.1e}, {word}"
