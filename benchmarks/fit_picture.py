"""The records of several fits of one model, or of its figures, as one picture.

.venv/bin/python -m benchmarks.fit_picture out-60MB/fit.json out-24MB/fit.json --out fit.svg
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from goldfold.exporter.search import fit_outcome


def main(
    records: Annotated[list[Path], typer.Argument(help="fit.json files.")],
    out: Annotated[Path, typer.Option(help="The .svg to write.")],
) -> None:
    """Draw sizes and losses, with the peers of the records."""
    read = [json.loads(one.read_text("utf-8")) for one in records]
    drawn = fit_outcome.picture(read)
    if drawn is None:
        raise SystemExit("error: nothing was measured in these records")
    out.write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
