"""The sizes of artifacts, predicted: nothing is rounded and no text is run.

    .venv/bin/python -m benchmarks.sizes MODEL --precision int4 --precision small --scripts latin

Megabytes of weights and graph, as `goldfold export --fit` predicts them.
With --artifacts OUT, the sizes of artifacts that an export of the same options wrote stand beside.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from goldfold.exporter.cli.flags import listed
from goldfold.exporter.driver import cutting, preparing, request
from goldfold.exporter.frontend import characters
from goldfold.exporter.frontend.derive import derive
from goldfold.exporter.frontend.readiness import ready
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.progress import Stages
from goldfold.exporter.search.sizing import Sizer, shown
from goldfold.exporter.system.cache import open_cache


def main(
    model: Annotated[str, typer.Argument(help="A SentenceTransformer folder.")],
    precision: Annotated[list[str], typer.Option(help="Precisions, recipes; repeatable.")],
    target: Annotated[list[str] | None, typer.Option(help="Targets; repeatable.")] = None,
    scripts: Annotated[str | None, typer.Option(help="As `goldfold export` takes them.")] = None,
    dims: Annotated[int | None, typer.Option(help="The size of the embedding.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens of a text.")] = None,
    artifacts: Annotated[Path | None, typer.Option(help="A folder of artifacts.")] = None,
) -> None:
    """Print a row an artifact."""
    stages, cache = Stages(), open_cache()
    source = ready(open_model(model), stages, cache)
    program = preparing.traced(source, stages, max_length, cache=cache)
    derive(program, source)
    names = characters.canonical(listed(scripts)) if scripts else ()
    planned = cutting.plan(program, names, None, stages)
    base = preparing.legalized(program, Pipeline(), max_length, (dims,) if dims else ())
    print("| | MB predicted | MB true | seconds |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        length = max_length or base.contract.max_length
        sizer = Sizer(base, Path(scratch), {}, length, planned and planned.cut)
        for where in target or ["onnxruntime", "openvino"]:
            for name, recipe in request.recipes(precision).items():
                begun = time.perf_counter()
                found = sizer(where, name, recipe)
                folder = None if artifacts is None else artifacts / f"{where}-{name}"
                true = "not built" if folder is None else shown(found.of(folder))
                seconds = time.perf_counter() - begun
                print(f"| {name}, {where} | {shown(found.bytes)} | {true} | {seconds:.0f} |")
                sys.stdout.flush()


if __name__ == "__main__":
    typer.run(main)
