"""Canaries: a few golden texts by which another runtime is found out that computes something else
than was verified.

A layout carries three of them, with the goldens' own vectors, for a client that has no gate:

    canaries.json    {"limit": the gate's largest 1-cos, "texts": [{"text", "prompt", "task",
                      "token_ids", "embedding"}, …]}

The verdict of an artifact of integers carries the vectors of the same texts as its runtime computed
them. Integer kernels of another version, or of another processor, may round otherwise. A vector
that is further from the verdict's than the gate's *margin* may then lie beyond the gate:

    1-cos is half the squared distance of unit vectors, and distances add up at most, so a text
    within `worst` of its golden stays within `limit` while it moves by less than
    margin = (√limit - √worst)²

On request, `load(…, check=True)`, an artifact of any precision computes the three texts and
compares them with its goldens.
"""

from __future__ import annotations

import base64
import json
import math
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from goldfold.exporter import registry
from goldfold.exporter.artifact.bundle import GOLDEN, VERDICT, Bundle
from goldfold.exporter.artifact.result import measured
from goldfold.exporter.errors import ArtifactError
from goldfold.exporter.proofs import Canaries
from goldfold.exporter.system import processor
from goldfold.golden import compare, store
from goldfold.golden.compare import Measurement
from goldfold.golden.errors import GoldenError
from goldfold.golden.gate import limits
from goldfold.golden.store import Case, Goldens
from goldfold.golden.tasks import QUANTITY, SCORES

if TYPE_CHECKING:
    from goldfold.exporter.artifact.runnable import Runnable

FILE = "canaries.json"
_COUNT = 3
_LEAST, _MOST = 8, 64
"""Tokens of a canary, where goldens of such lengths are there: long enough that every layer mixes
tokens, short enough that a page waits for no more than a moment."""


class OtherRounding(UserWarning):
    """The runtime rounds otherwise than that of the verdict."""


def write(opened: Bundle, out: Path) -> None:
    """Write the canaries of an artifact into the folder `out`: they depend on its goldens alone.

    Raises ArtifactError for goldens that cannot be read.
    """
    goldens, limit = _read(opened)
    contract = opened.manifest.contract
    texts = []
    for row in _chosen(goldens, ("",)):
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


def of(opened: Bundle, goldens: Goldens, found: Measurement) -> Canaries | None:
    """Returns the canaries of a measurement, for a verdict; None where no integers were computed,
    something stood in for the artifact, or there is no margin."""
    target = registry.target(opened.manifest.target)
    limit = limits(opened.manifest.gate, goldens).worst
    worst = max(found.worst, found.worst_padded)
    if opened.manifest.recipe is None or measured(opened)[1] or not worst < limit:
        return None
    margin = limit - worst if goldens.task == SCORES else (math.sqrt(limit) - math.sqrt(worst)) ** 2
    return Canaries(
        runtime=target.runtime(),
        processor=processor.name(),
        margin=margin,
        vectors={name: _packed(row) for name, row in _vectors(goldens, found).items()},
    )


def told(opened: Bundle, goldens: Goldens, found: Measurement) -> str:
    """Returns a sentence where a measurement's vectors are further from those of the artifact's
    verdict than the gate's margin; "" where none is."""
    known = None if opened.verdict is None else opened.verdict.canaries
    if known is None or measured(opened)[1]:
        return ""
    return _difference(opened, known, goldens, _vectors(goldens, found))


def check(encoder: Runnable, always: bool = False) -> None:
    """Compute the canaries of an artifact whose verdict was made by another runtime or on another
    processor, or of any. Warns (OtherRounding) where vectors are beyond the margin.

    Raises ArtifactError where one is further from its golden than the gate allows, or is of other
    tokens.
    """
    opened = encoder.bundle
    known = None if opened.verdict is None else opened.verdict.canaries
    here = registry.target(opened.manifest.target).runtime(), processor.name()
    if not always and (known is None or here == (known.runtime, known.processor)):
        return
    goldens, limit = _read(opened)
    read, contract = compare.reading_for(goldens), encoder.contract
    rows = _chosen(goldens, ("", store.PREDICT))
    if known is not None:
        rows = [row for row, case in enumerate(goldens.cases) if case.id in known.vectors]
    vectors = {}
    for row in rows:
        case = goldens.cases[row]
        text = case.input if case.call else case.prompt + case.text
        (ids,) = encoder.called([text], case.call)
        if tuple(ids) != case.token_ids:
            raise ArtifactError(f"{opened.path}: canary {case.id!r} has other token ids here")
        (found,) = compare.call(encoder.call, [case], contract.pad_id, contract.dim, goldens.task)
        vectors[case.id] = found
        golden = goldens.row(row).astype(np.float64)[..., : contract.dim]
        if not (apart := read(found, golden).distance) <= limit:
            raise ArtifactError(
                f"{opened.path} computes something else here: canary {case.id!r} is "
                f"{QUANTITY[goldens.task]} {apart:.1e} from its golden, over the gate's "
                f"{limit:.0e}; {_machines(opened, known)}"
            )
    if known is None:
        return
    if said := _difference(opened, known, goldens, vectors):
        again = f"`goldfold verify {opened.path}` measures its gate here"
        warnings.warn(f"{said}; {again}", OtherRounding, stacklevel=3)  # at the call of load


def _difference(
    opened: Bundle, known: Canaries, goldens: Goldens, vectors: Mapping[str, np.ndarray]
) -> str:
    read = compare.reading_for(goldens)
    apart, name = max(
        (
            (read(found, _unpacked(opened, known.vectors[name], found.shape)).distance, name)
            for name, found in vectors.items()
            if name in known.vectors
        ),
        default=(0.0, ""),
    )
    if apart <= known.margin:
        return ""
    return (
        f"{opened.path}: integers are rounded otherwise here: canary {name!r} is "
        f"{QUANTITY[goldens.task]} {apart:.1e} from its vector in the verdict, over the gate's "
        f"margin of {known.margin:.1e}; {_machines(opened, known)}"
    )


def _machines(opened: Bundle, known: Canaries | None) -> str:
    here = registry.target(opened.manifest.target).runtime(), processor.name()
    if known is None:
        return f"here is {here[0]} on {here[1]}"
    then = f"the verdict was made by {known.runtime} on {known.processor}"
    if here == (known.runtime, known.processor):
        return f"{then}, as it is here: look for other settings of the runtime"
    return f"{then}, and here is {here[0]} on {here[1]}"


def _vectors(goldens: Goldens, found: Measurement) -> dict[str, np.ndarray]:
    """Returns the vectors of the canaries in a measurement of `goldens`, by their ids."""
    if found.embeddings is None:
        return {}
    rows = _chosen(goldens, ("", store.PREDICT))
    return {goldens.cases[row].id: np.asarray(found.embeddings[row]) for row in rows}


def _packed(row: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(row.astype("<f4").tobytes())).decode("ascii")


def _unpacked(opened: Bundle, text: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a vector of the verdict, f64 of this shape. Raises ArtifactError for anything else
    in its place."""
    size = 4 * math.prod(shape)
    try:
        raw = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), size + 1)
    except (ValueError, zlib.error):
        raw = b""
    if len(raw) != size:
        raise ArtifactError(
            f"{opened.path} is damaged: {VERDICT} is malformed: a canary is no vector; remove it "
            f"and run `goldfold verify {opened.path}`"
        )
    return np.frombuffer(raw, "<f4").astype(np.float64).reshape(shape)


def _read(opened: Bundle) -> tuple[Goldens, float]:
    """Returns the goldens of an artifact, and the gate's limit of one text."""
    try:
        goldens = store.load(opened.path / GOLDEN)
        return goldens, limits(opened.manifest.gate, goldens).worst
    except GoldenError as error:
        raise ArtifactError(f"{opened.path} is damaged: {error}") from None


def _chosen(goldens: Goldens, calls: tuple[str, ...]) -> list[int]:
    """Returns the rows of the canaries: of the texts of fitting lengths, the shortest, the longest
    and the one between."""

    def order(row: int) -> tuple[int, int]:
        return len(goldens.cases[row].token_ids), row

    def fits(case: Case) -> bool:
        return _LEAST <= len(case.token_ids) <= _MOST

    every = [row for row, case in enumerate(goldens.cases) if case.call in calls]
    fitting = [row for row in every if fits(goldens.cases[row])]
    rows = sorted(fitting if len(fitting) >= _COUNT else every, key=order)
    return sorted({rows[0], rows[len(rows) // 2], rows[-1]}) if rows else []
