"""The inspection of an artifact folder: its contents as tables for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from goldfold.exporter import registry
from goldfold.exporter.artifact.bounded import bound_of, bounds_sentence
from goldfold.exporter.artifact.bundle import (
    Bundle,
    VerdictRecord,
    check_references,
    open_bundle,
)
from goldfold.exporter.system.names import line
from goldfold.exporter.verification import losses
from goldfold.golden.gate import WORDS
from goldfold.golden.report import human_size


@dataclass(frozen=True)
class Inspection:
    """A bundle and, if asked for, the ops that its runtime executes."""

    bundle: Bundle
    census: dict[str, int] | None
    bounds: bool = False
    """Whether every value in fp16 is listed with its bound."""

    def to_json(self) -> dict[str, Any]:
        manifest = self.bundle.manifest.plain()
        verdict = self.bundle.verdict
        return {
            "path": str(self.bundle.path),
            "bytes": self.bundle.size,
            "manifest": manifest,
            "verdict": None if verdict is None else verdict.plain(),
            "census": self.census,
        }

    def tables(self) -> list[Table]:
        """Returns tables for the console: the description, the files, the passes, the bounds on
        values in fp16, and the census."""
        shown = [self._identity(), self._files(), self._passes()]
        if self.bundle.manifest.bounds:
            shown.append(self._bounds())
        if self.census is not None:
            table = Table(
                "kernel", "count", title="What the runtime executes", title_justify="left"
            )
            for kind, count in self.census.items():
                table.add_row(line(kind), str(count))
            shown.append(table)
        return shown

    def _identity(self) -> Table:
        manifest, verdict = self.bundle.manifest, self.bundle.verdict
        contract = manifest.contract
        table = Table(title=line(str(self.bundle.path)), title_justify="left", show_header=False)
        prompts = ", ".join(contract.prompts) or "none"
        lost = None if verdict is None else verdict.losses
        drawn = None if verdict is None else verdict.unseen
        beside = None if verdict is None else verdict.outside
        proof = None if verdict is None else verdict.constants
        for key, value in (
            ("model", f"{contract.model} (licence: {manifest.origin.licence or 'not stated'})"),
            ("target", f"{manifest.target}, {manifest.precision}"),
            *_verdict(verdict),
            *((("constants", proof.sentence),) if proof is not None else ()),
            *((("losses", losses.sentence(lost)),) if lost is not None else ()),
            *((("unseen", drawn.sentence),) if drawn is not None else ()),
            *((("outside", beside.sentence),) if beside is not None else ()),
            (
                "embedding",
                f"{'tokens × ' if contract.tokenwise else ''}{contract.dim} × float32, "
                f"{'unit' if contract.normalized else 'free'} length",
            ),
            ("attention", ", ".join(f"{n} × {seen}" for seen, n in manifest.attention.items())),
            ("longest text", f"{contract.max_length} tokens"),
            ("prompts", prompts),
            *((("range", bounds_sentence(manifest.bounds)),) if manifest.bounds else ()),
            ("size", human_size(self.bundle.size)),
            ("made with", ", ".join(f"{k} {v}" for k, v in sorted(manifest.versions.items()))),
            *(("built", sentence) for sentence in manifest.built),
            *(("note", note) for note in manifest.notes),
        ):
            table.add_row(key, line(value))
        return table

    def _files(self) -> Table:
        table = Table("file", "size", "sha256", title="Files", title_justify="left")
        for key, entry in self.bundle.manifest.files.items():
            table.add_row(line(key), human_size(entry.size), entry.sha256[:16])
        return table

    def _bounds(self) -> Table:
        """Kinds of values, and each value that calibration chose for, or every value."""
        table = Table("value in fp16", title="Bounds for every text", title_justify="left")
        table.add_column("values", justify="right")
        table.add_column("largest", justify="right")
        table.add_column("by")
        for row in self.bundle.manifest.bounds:
            for found, by in ((row.proved, "bound"), (row.calibrated, "calibration")):
                if not found:
                    continue
                largest = max(found.values())
                table.add_row(line(row.kind), str(len(found)), bound_of(largest), by)
                if self.bounds or by == "calibration":
                    for name, bound in found.items():
                        table.add_row(f"  {line(name)}", "1", bound_of(bound), by)
        return table

    def _passes(self) -> Table:
        table = Table(
            title="Passes",
            title_justify="left",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),  # so that the table fits eighty columns
            pad_edge=False,
        )
        for heading in ("pass", "equality"):
            table.add_column(heading, no_wrap=True)
        for heading in ("applied", "refused", "nodes", "parameters"):
            table.add_column(heading, justify="right", no_wrap=True)
        for report in self.bundle.manifest.passes:
            table.add_row(
                line(report.name),
                line(report.equality),
                str(report.applied),
                str(len(report.refused)),
                str(report.nodes_after),
                f"{report.parameters_after / 1e6:.2f} M",
            )
        return table


def _verdict(verdict: VerdictRecord | None) -> list[tuple[str, str]]:
    """Returns rows of the description: the verdict and the number of its texts, what stood in for
    the artifact, and why it did not run itself."""
    if verdict is None:
        return [("verdict", "never verified")]
    texts = f"{WORDS[verdict.status]}, over {len(verdict.measurement.rows)} texts"
    if not verdict.stand_in:
        return [("verdict", f"{texts}: this very file ran, in its precision")]
    return [
        ("verdict", texts),
        ("measured", verdict.stand_in),
        ("not run", verdict.not_run.removeprefix("not run ")),
    ]


def inspect(folder: Path, census: bool = False, bounds: bool = False) -> Inspection:
    """Open an artifact, good or failed, and count its kernels if asked to; with `bounds`, list the
    bound of every value in fp16. Raises ArtifactError."""
    opened = open_bundle(folder, check_files=False, unverified=True)
    counts = None
    if census:
        manifest = opened.manifest
        target = registry.offered(manifest.target, manifest.precision, manifest.needs)
        check_references(folder, manifest)
        counts = target.census(folder)
    return Inspection(opened, counts, bounds)
