"""Canaries: three golden texts that travel with a layout, so that its client notices when it
computes something else than was verified.

    canaries.json    {"limit": the gate's largest 1-cos, "texts": [{"text", "prompt", "task",
                      "token_ids", "embedding"}, …]}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from goldfold.exporter.artifact.bundle import GOLDEN, Bundle
from goldfold.exporter.errors import ArtifactError
from goldfold.golden import store
from goldfold.golden.errors import GoldenError
from goldfold.golden.gate import limits
from goldfold.golden.store import Case, Goldens

FILE = "canaries.json"
_COUNT = 3
_LEAST, _MOST = 8, 64
"""Tokens of a canary, where goldens of such lengths are there: long enough that every layer mixes
tokens, short enough that a page waits for no more than a moment."""


def write(opened: Bundle, out: Path) -> None:
    """Write the canaries of an artifact into the folder `out`: they depend on its goldens alone.

    Raises ArtifactError for goldens that cannot be read.
    """
    try:
        goldens = store.load(opened.path / GOLDEN)
        limit = limits(opened.manifest.gate, goldens).worst
    except GoldenError as error:
        raise ArtifactError(f"{opened.path} is damaged: {error}") from None
    contract = opened.manifest.contract
    texts = []
    for row in _chosen(goldens):
        case = goldens.cases[row]
        one: dict[str, Any] = {
            "text": case.text,
            "prompt": case.prompt,
            "task": "",
            "token_ids": case.token_ids,
            "embedding": [float(value) for value in goldens.row(row)],
        }
        if case.unpooled:
            one["output"] = contract.output_after(case.unpooled)
        texts.append(one)
    record = {"limit": limit, "texts": texts}
    (out / FILE).write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")


def _chosen(goldens: Goldens) -> list[int]:
    """Returns the rows of the canaries: of the texts of fitting lengths, the shortest, the longest
    and the one between."""

    def order(row: int) -> tuple[int, int]:
        return len(goldens.cases[row].token_ids), row

    def fits(case: Case) -> bool:
        return not case.call and _LEAST <= len(case.token_ids) <= _MOST

    every = [row for row, case in enumerate(goldens.cases) if not case.call]
    fitting = [row for row in every if fits(goldens.cases[row])]
    rows = sorted(fitting if len(fitting) >= _COUNT else every, key=order)
    return sorted({rows[0], rows[len(rows) // 2], rows[-1]}) if rows else []
