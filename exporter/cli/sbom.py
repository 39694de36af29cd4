"""`goldfold sbom`: the bill of materials of an artifact."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from goldfold.exporter.errors import UsageError


def sbom(
    folder: Annotated[Path, typer.Argument(help="An artifact folder.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write; by default it is printed.")
    ] = None,
    lock: Annotated[
        Path | None,
        typer.Option(help="Requirements with hashes, whose hashes the packages get."),
    ] = None,
    statements: Annotated[
        bool,
        typer.Option(
            "--statements",
            help="The in-toto statements instead: SLSA provenance and the verdict, a line each.",
        ),
    ] = False,
) -> None:
    """Print the bill of materials of an artifact: CycloneDX 1.6, as JSON."""
    import json

    from goldfold.exporter.artifact import bom
    from goldfold.exporter.artifact.bundle import open_bundle
    from goldfold.exporter.artifact.statements import all_of
    from goldfold.exporter.system.writing import write_file

    opened = open_bundle(folder, unverified=True)
    if statements:
        said = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in all_of(opened))
    else:
        said = bom.text(opened, lock)
    if out is None:
        sys.stdout.write(said)
        return
    if out.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"--out {out} lies in the artifact, whose files are counted")
    write_file(out, lambda file: file.write(said.encode()))
