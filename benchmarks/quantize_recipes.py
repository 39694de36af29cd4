"""What recipes cost in quality, before anything is built from them.

    .venv/bin/python benchmarks/quantize_recipes.py MODEL int8-weights int8 mine.toml

MODEL is traced once; every recipe is applied to a copy, whose integers are multiplied out and run
in ONNX Runtime in f32, on the tuning texts and on the goldens of up to 300 tokens, each alone,
against the fp32 program and the goldens. Choose by the tuning texts: the goldens are the gate.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from goldfold.exporter.cli.console import listening, open_console
from goldfold.exporter.driver import exporting
from goldfold.exporter.driver.preparing import legal, rewrite
from goldfold.exporter.errors import GoldfoldError
from goldfold.exporter.evaluate import interpret
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.progress import Stages
from goldfold.exporter.quantize import plan
from goldfold.exporter.quantize import recipe as recipes
from goldfold.exporter.quantize import texts as text_sets
from goldfold.exporter.search import tuning
from goldfold.exporter.search.dequantize import dense

RESULTS = Path(__file__).parent / "results" / "quantize_recipes.json"


def main(
    model: Annotated[str, typer.Argument(help="The SentenceTransformer's folder.")],
    recipe: Annotated[list[str], typer.Argument(help="Names or files of recipes.")],
) -> None:
    """Print the table and write the record."""
    rows: dict[str, dict[str, float | str]] = {}
    try:
        with listening(False) as listener:
            stages = Stages(listener)
            source = open_model(model)
            goldens = exporting.obtain_goldens(source, stages).within(300)
            base = legal(source, stages, Pipeline())
            texts = [ids for ids in tuning.sequences(base) if len(ids) <= 420]
            short = [list(case.token_ids) for case in goldens.cases]
            exact = base.copy()
            rewrite(exact, None, Pipeline(), stages)
            wanted = embed(exact, texts)
            for name in recipe:
                rows[name] = _row(name, base, stages, (texts, wanted), (short, goldens.embeddings))
                at = int(rows[name].pop("at"))  # type: ignore[arg-type]
                rows[name]["worst text"] = goldens.cases[at].id
    except GoldfoldError as error:
        raise SystemExit(f"error: {error}") from None
    shown = Table("recipe", *next(iter(rows.values())), box=SIMPLE_HEAD, title="1−cos")
    for name, row in rows.items():
        cells = (f"{v:.1e}" if isinstance(v, float) else str(v) for v in row.values())
        shown.add_row(Path(name).stem, *cells)
    open_console().print(shown)
    RESULTS.write_text(json.dumps({Path(n).stem: r for n, r in rows.items()}, indent=1) + "\n")


def _row(name: str, base: Program, stages: Stages, tuned, golden) -> dict[str, float | str]:
    found = recipes.find(name)
    if found is None:
        raise SystemExit(f"error: no recipe is called {name!r}")
    started = time.perf_counter()
    program = base.copy()
    rewrite(program, found, Pipeline(), stages)
    sequences = text_sets.steering(found, program)
    with stages(f"quantize {found.name}"):
        run = Pipeline()
        run.run(program, plan.balance(found, program, sequences, stages.step))
        run.run(program, plan.laws(found, program, sequences, stages.step))
    seconds = time.perf_counter() - started
    opened = dense(program)
    first = errors(embed(opened, tuned[0]), tuned[1])
    second = errors(embed(opened, golden[0]), golden[1])
    return {
        "seconds": f"{seconds:.0f}",
        "tuning worst": float(first.max()), "tuning mean": float(first.mean()),
        "golden worst": float(second.max()), "golden mean": float(second.mean()),
        "at": str(int(second.argmax())),
    }  # fmt: skip


def embed(program: Program, texts: Sequence[Sequence[int]]) -> np.ndarray:
    """f32 [texts, dimensions], each text alone, in ONNX Runtime."""
    run = interpret.runner(program)
    rows = (np.array([ids], np.int64) for ids in texts)
    return np.concatenate([run(row, np.ones_like(row)) for row in rows])


def errors(got: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """1−cos, f64 [texts]."""

    def unit(rows: np.ndarray) -> np.ndarray:
        rows = rows.astype(np.float64)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return 0.5 * np.square(unit(got) - unit(wanted)).sum(axis=1)


if __name__ == "__main__":
    typer.run(main)
