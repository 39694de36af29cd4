"""`goldfold coreml-run`: run an .mlpackage on any system."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from goldfold.exporter.cli.console import open_console
from goldfold.exporter.cli.flags import whole_numbers
from goldfold.exporter.errors import GateMissed, OutputError, UsageError


@dataclass(frozen=True)
class CoremlRunFlags:
    """The options of `goldfold coreml-run`."""

    given: Annotated[
        list[str] | None, typer.Option("--input", help="NAME=FILE.npy; repeatable.")
    ] = None
    ids: Annotated[
        str | None, typer.Option(help="Token ids of one text, as 2,40,41,1; padded and masked.")
    ] = None
    function: Annotated[
        str | None, typer.Option(help="Function to run; by default the package's.")
    ] = None
    precision: Annotated[str, typer.Option(help="declared (fp16 values rounded), f32 or f64.")] = (
        "declared"
    )
    seed: Annotated[int | None, typer.Option(help="Seed of the inputs that are missing.")] = None
    against: Annotated[Path | None, typer.Option(help="ONNX model with the same value names.")] = (
        None
    )
    limit: Annotated[
        float | None, typer.Option(help="Relative difference that counts as drift.")
    ] = None
    save: Annotated[
        Path | None, typer.Option(help="Write the outputs as .npy files into this folder.")
    ] = None


def coreml_run(
    package: Annotated[Path, typer.Argument(help="An .mlpackage that holds an ML program.")],
    asked: CoremlRunFlags,
) -> None:
    """Run PACKAGE with an evaluator of MIL programs, and name the faults inside.

    The evaluator rounds every value that is typed fp16. It does not show how a device accumulates,
    nor which of its units runs which operation.
    """
    from rich.table import Table

    from goldfold.exporter import registry
    from goldfold.exporter.artifact.scratch import check_writable

    if asked.save is not None:
        check_writable(asked.save, "--save")
    run_package: Any = getattr(registry.offered("coreml", "fp32"), "run_package", None)
    ids = whole_numbers(asked.ids, "--ids", "2,40,41,1")
    ran = run_package(
        package,
        {"inputs": _files(asked.given or []), "ids": ids, "seed": asked.seed},
        function=asked.function,
        precision=asked.precision,
        against=asked.against,
        limit=asked.limit,
    )
    console = open_console()
    shown = Table("output", "type", "least", "largest", "mean")
    for name, array in ran.outputs.items():
        kind = f"{array.dtype}{list(array.shape)}"
        numbers = (array.min(), array.max(), array.mean()) if array.size else ("", "", "")
        shown.add_row(
            name, Text(kind), *(f"{n:.6g}" if not isinstance(n, str) else n for n in numbers)
        )
    console.print(shown)
    others = f" (of {', '.join(ran.functions)})" if len(ran.functions) > 1 else ""
    console.print(
        Text(f"{ran.function}{others}: {ran.operations} operations, {asked.precision}"),
        soft_wrap=True,
    )
    if asked.save is not None:
        _save(asked.save, ran.outputs)
    if ran.bad is not None:
        raise GateMissed(f"not finite, first at {ran.bad}")
    if asked.against is not None:
        if not ran.compared:
            raise UsageError(f"{asked.against} has no value in common with {package}")
        if ran.drift is not None:
            raise GateMissed(f"drift, first at {ran.drift}")
        console.print(f"{ran.compared} values agree with {asked.against}", soft_wrap=True)


def _files(given: list[str]) -> dict[str, Path]:
    files = {}
    for one in given:
        name, mark, file = one.partition("=")
        if not (name and mark and file):
            raise UsageError(f"--input {one!r} is not NAME=FILE.npy")
        files[name] = Path(file)
    return files


def _save(folder: Path, outputs: dict[str, Any]) -> None:
    import numpy as np

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in outputs.items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}") from None
