"""The margin of a recipe: how much its verdict depends on luck.

    .venv/bin/python -m benchmarks.margin MODEL RECIPE [--target onnxruntime] [--target openvino]
        [--texts 1000] [--only noise ...] [--longest N] [--json FILE]

The recipe is made and measured as an export makes it (`base`), and under perturbations that no
correct build should depend on, twenty a target: calibration texts in another order (their sums
differ by rounding alone) and halves of them, 1 and 2 threads, OpenVINO's oneDNN capped to older
instructions, bf16 and f32 around the integers, and noise of half a step on a hundredth of the
integers, which moves half of those by 1. 1−cos to sentence-transformers in fp32 is taken on the
goldens and on unseen texts, each alone.

The model is traced once, and integers are made once for each choice of calibration texts; what a
perturbation leaves as it was is not measured again. With --json every row is written as it comes,
and a run that was interrupted goes on from there. The exit code is 1 where the worst text over
everything is more than 0.6 of the gate's worst.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import harness
from benchmarks.margins import measuring, summary
from benchmarks.margins.making import Maker, build
from benchmarks.margins.measuring import Run, Texts
from benchmarks.margins.perturbations import (
    FLOATS,
    ROUNDS,
    Kind,
    Perturbation,
    listed,
    processor_flags,
)
from benchmarks.margins.summary import Row
from goldfold.exporter import registry
from goldfold.exporter.cli.console import listening, open_console
from goldfold.exporter.driver import cached_stages
from goldfold.exporter.frontend.readiness import ready
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.ir.program import Program
from goldfold.exporter.progress import Stages
from goldfold.exporter.quantize import recipe as recipes
from goldfold.exporter.system.cache import open_cache
from goldfold.golden.gate import Gate, gate_for
from goldfold.golden.judging.unseen import COUNT
from goldfold.golden.tasks import EMBEDDING

TARGETS = ("onnxruntime", "openvino")


def main(
    model: Annotated[str, typer.Argument(help="A SentenceTransformer folder, or a hub id.")],
    recipe: Annotated[str, typer.Argument(help="A recipe's name or file.")],
    target: Annotated[list[str], typer.Option(help="One of both.")] = list(TARGETS),  # noqa: B006
    texts: Annotated[int, typer.Option(help="Unseen texts.")] = COUNT,
    only: Annotated[list[Kind] | None, typer.Option(help="Kinds of perturbations.")] = None,
    longest: Annotated[int, typer.Option(help="Tokens of the longest golden.")] = 1 << 20,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON here.")] = None,
) -> None:
    """Measure a recipe under perturbations, and print how far its figures spread."""
    found = recipes.find(recipe)
    if found is None or not set(target) <= set(TARGETS):
        raise typer.BadParameter(f"{recipe} is no recipe, or a target is none of {TARGETS}")
    with listening(quiet=False) as listener, tempfile.TemporaryDirectory() as scratch:
        stages, cache = Stages(listener), open_cache()
        source = ready(open_model(model), stages, cache)
        if source.task != EMBEDDING:
            raise typer.BadParameter(f"{source.name} gives {source.task}, and no embeddings")
        maker = Maker.of(source, found, stages, cache)
        contract = maker.program.contract
        sets = measuring.texts_of(source, contract, stages, texts, longest)
        head = {
            "model": source.name,
            "fingerprint": source.fingerprint,
            "recipe": found.plain(),
            "texts": {name: len(one.ids) for name, one in sets.items()},
            "code": f"{cached_stages.code(cached_stages.MEASURING)} {_own_code()}",
            "machine": cached_stages.surroundings()["machine"],
            "versions": {name: registry.target(name).versions() for name in target},
        }
        bench = Bench(maker, sets, Path(scratch), Record(json_file, head))
        flags = processor_flags()
        plans = {name: listed(name, _floats(name), flags) for name in target}
        wanted = {Kind.base, *(only or Kind)}
        bench.measure({k: [one for one in v if one.kind in wanted] for k, v in plans.items()})
    raise typer.Exit(_print(bench.record, list(target), gate_for(found.gate)))


def _own_code() -> str:
    """Returns the sha256, in hex, of the benchmark's files."""
    paths = [Path(__file__), *sorted((Path(__file__).parent / "margins").glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def _floats(target: str) -> list[str]:
    return [one for one in FLOATS if registry.target(target).executes(one)]


@dataclass
class Record:
    """The rows so far, and the JSON that holds them."""

    file: Path | None
    head: Row
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.file is not None and self.file.exists():
            old = harness.read(self.file)
            if old.get("head") == self.head:  # what failed in a runtime is tried again
                self.rows = [r for r in old["rows"] if not (r["impossible"] and r["made"])]

    def of(self, target: str) -> list[Row]:
        """Returns the rows of a target, by kinds, whatever run measured them."""
        kinds = list(Kind)
        rows = [row for row in self.rows if row["target"] == target]
        return sorted(rows, key=lambda r: (kinds.index(r["kind"]), len(r["name"]), r["name"]))

    def holds(self, target: str, change: Perturbation) -> bool:
        """Returns whether a perturbation was measured, or is known to be impossible."""
        return any(row["name"] == change.name for row in self.of(target))

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.write()

    def write(self, **more: Any) -> None:
        """Write all rows, whole or not at all."""
        if self.file is not None:
            part = self.file.with_name(f"{self.file.name}.part")
            harness.record(part, {"head": self.head, "rows": self.rows, **more})
            part.replace(self.file)


@dataclass
class Bench:
    """A recipe's artifacts, made and measured one after the other."""

    maker: Maker
    texts: dict[str, Texts]
    scratch: Path
    record: Record

    def measure(self, plans: dict[str, list[Perturbation]]) -> None:
        """Measure what the record does not hold, integers of one calibration after the other."""
        changes = dict.fromkeys(one.calibration for plan in plans.values() for one in plan)
        for change in changes:
            here = {k: [p for p in plan if p.calibration == change] for k, plan in plans.items()}
            for program, some in self._programs(change, here):
                key = cached_stages.content(program)
                for target, one in some:
                    self._one(program, key, target, one)
                del program  # before the next is made

    def _programs(
        self, change: Perturbation | None, here: dict[str, list[Perturbation]]
    ) -> Iterator[tuple[Program, list[tuple[str, Perturbation]]]]:
        """Yields programs of integers, each with the targets and perturbations that it serves."""
        todo: dict[int | None, list[tuple[str, Perturbation]]] = {}
        for target, plan in here.items():
            for one in plan:
                if self.record.holds(target, one):
                    continue
                if one.impossible:
                    self._add(target, one, impossible=one.impossible)
                    continue
                seed = int(one.value) if one.kind is Kind.noise else None
                todo.setdefault(seed, []).append((target, one))
        if todo:
            calibrated = self.maker.calibrated(change)
            for seed, some in todo.items():
                yield calibrated.quantized(seed), some

    def _one(self, program: Program, key: str, target: str, change: Perturbation) -> None:
        run = self._run(target, change)
        made = {"integers": key, **asdict(run)}
        same = next((r for r in self.record.rows if r["made"] == made), None)
        if same is not None:
            figures = {name: same[name] for name in measuring.SETS}
            self._add(target, change, made=made, same=same["name"], seconds=0.0, **figures)
            return
        started, stages = time.monotonic(), self.maker.stages
        with stages(f"{target} {change.name}"), tempfile.TemporaryDirectory(dir=self.scratch) as at:
            folder = Path(at)
            build(program, target, run.floating, folder)
            try:
                found = measuring.embedded(folder, program.contract, run, self.texts)
            except Exception as error:  # a runtime's own, and of a process that died
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                stages.note(reason)
                self._add(target, change, made=made, impossible=reason)
                return
            figures = {name: one.figures(found[name]) for name, one in self.texts.items()}
            stages.note(
                "; ".join(f"{k} {v['worst']:.1e}, {v['mean']:.1e}" for k, v in figures.items())
            )
        seconds = round(time.monotonic() - started, 1)
        self._add(target, change, made=made, seconds=seconds, **figures)

    def _run(self, target: str, change: Perturbation) -> Run:
        recipe, kind = self.maker.recipe, change.kind
        floating = registry.floating(target, recipe.name, recipe.around)
        floating = change.value if kind is Kind.floating else floating
        threads = int(change.value) if kind is Kind.threads else None
        if kind is not Kind.isa:
            return Run(target, floating, floating, threads)
        # The plugin asks the real processor for bf16 and for rounded activations, and oneDNN then
        # has no kernel: what a processor without bf16 gets is said here.
        return Run(target, floating, "fp32", None, change.value, change.value in ROUNDS)

    def _add(self, target: str, change: Perturbation, **more: Any) -> None:
        row = {"target": target, "kind": str(change.kind), "name": change.name}
        self.record.add({**row, "impossible": "", "same": "", "made": None, **more})


def _print(record: Record, targets: list[str], gate: Gate) -> int:
    """Print the tables and the verdicts. Returns the exit code."""
    console, verdicts = open_console(), {}
    groups = {target: summary.distributions(record.of(target)) for target in targets}
    for target in targets:
        console.print(summary.row_table(target, record.of(target)))
        for sentence in summary.not_measured(record.of(target)):
            console.print(f"{target}: {sentence}", soft_wrap=True)
        console.print(summary.summary_table(target, groups[target]))
        verdicts[target] = summary.verdict(record.of(target), gate)
    for target, found in verdicts.items():
        console.print(summary.said(target, found), soft_wrap=True)
    record.write(groups=groups, verdicts=verdicts)
    return int(not all(found["holds"] for found in verdicts.values()))


if __name__ == "__main__":
    typer.run(main)
