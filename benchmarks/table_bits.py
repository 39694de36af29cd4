"""What bits of the table alone cost: everything else stays as it is.

    .venv/bin/python benchmarks/table_bits.py MODEL

The table's bytes, and 1−cos (worst / mean) of the tuning texts against the fp32 program and of the
goldens of up to 300 tokens, each alone, in ONNX Runtime in f32. The record is
benchmarks/results/table_bits.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.quantize_recipes import embed, errors  # noqa: E402
from goldfold.exporter.cli.console import listening, open_console  # noqa: E402
from goldfold.exporter.driver import exporting  # noqa: E402
from goldfold.exporter.driver.preparing import prepare  # noqa: E402
from goldfold.exporter.errors import GoldfoldError  # noqa: E402
from goldfold.exporter.frontend.source import open_model  # noqa: E402
from goldfold.exporter.ir.program import Program, add_constant, drop_unused  # noqa: E402
from goldfold.exporter.passes.pipeline import Pipeline  # noqa: E402
from goldfold.exporter.passes.rewriting.grid import Grid, nearest, sizes  # noqa: E402
from goldfold.exporter.progress import Stages  # noqa: E402
from goldfold.exporter.quantize import sites as all_sites  # noqa: E402
from goldfold.exporter.quantize.recipe import Choice  # noqa: E402
from goldfold.exporter.quantize.sites import Site  # noqa: E402
from goldfold.exporter.search import groups, tuning  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "table_bits.json"
TRIED = ((4, 32), (4, 64), (5, 0), (5, 64), (6, 0), (6, 64), (7, 0), (7, 64), (8, 0), (8, 32))
"""Bits, and columns to a scale; 0 is a scale a row."""


def main(model: Annotated[str, typer.Argument(help="The SentenceTransformer's folder.")]) -> None:
    """Print the table and write the record."""
    try:
        with listening(False) as listener:
            stages = Stages(listener)
            source = open_model(model)
            goldens = exporting.obtain_goldens(source, stages).within(300)
            program = prepare(source, stages, Pipeline())
            (site,) = (one for one in all_sites.find(program) if one.kind == "table")
            texts = [ids for ids in tuning.sequences(program) if len(ids) <= 420]
            short = [list(case.token_ids) for case in goldens.cases]
            wanted, rows = embed(program, texts), []
            for bits, block in TRIED:
                rounded = _rounded(program, site, Grid(bits, block), (*texts, *short))
                tuned = errors(embed(rounded, texts), wanted)
                golden = errors(embed(rounded, short), goldens.embeddings)
                part = groups.Group(("table",), 0, None, (site,), ())
                rows.append({
                    "bits": bits, "block": block,
                    "bytes": part.bytes(Choice(bits=bits, block=block)),  # type: ignore[arg-type]
                    "tuning": [float(tuned.max()), float(tuned.mean())],
                    "goldens": [float(golden.max()), float(golden.mean())],
                })  # fmt: skip
    except GoldfoldError as error:
        raise SystemExit(f"error: {error}") from None
    shown = Table("bits", "a scale for", "MB", "tuning", "goldens", box=SIMPLE_HEAD, title="1−cos")
    for row in rows:
        pairs = (f"{row[name][0]:.1e} / {row[name][1]:.1e}" for name in ("tuning", "goldens"))
        block = str(row["block"] or "a row")
        shown.add_row(str(row["bits"]), block, f"{row['bytes'] / 1e6:.1f}", *pairs)
    open_console().print(shown)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _rounded(program: Program, site: Site, grid: Grid, texts) -> Program:
    """A copy whose table has rounded rows wherever `texts` look."""
    ids = np.unique(np.concatenate([np.asarray(text, np.int64) for text in texts]))
    table = np.zeros(site.matrix.shape, np.float32)
    table[ids] = nearest(
        np.asarray(site.matrix[ids], np.float32), grid, search=grid.bits < 8,
        columns=sizes(site.matrix),
    ).dense()  # fmt: skip
    copy = program.copy()
    (own,) = (one for one in all_sites.find(copy) if one.kind == "table")
    own.node.replace_input_with(0, add_constant(copy.graph, "table.rounded", table))
    drop_unused(copy.model)
    return copy


if __name__ == "__main__":
    typer.run(main)
