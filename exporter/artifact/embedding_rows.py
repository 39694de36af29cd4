"""The rows of an embedding model: arguments that are checked once, and what is made of a window of
texts, or of one job of a batcher. `encoder` is an Encoder everywhere."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from goldfold.exporter.artifact import embedding_types
from goldfold.exporter.artifact.batcher import Job
from goldfold.exporter.artifact.runnable import is_whole
from goldfold.exporter.artifact.streams import Tick
from goldfold.exporter.contract import Task
from goldfold.exporter.errors import TextError, UsageError
from goldfold.exporter.evaluate import batches as batching


@dataclass(frozen=True)
class Asked:
    """The arguments of `Encoder.embed`, and two that only `encode` has: `before`, a prompt's own
    text, and `unit`, which normalises rows."""

    prompt: str | None = None
    dims: int | None = None
    batch_size: int = 32
    output: str = "float32"
    ranges: np.ndarray | Literal["one"] | None = None
    task: Task = ""
    errors: str = "raise"
    strict_scripts: bool = False
    before: str | None = None
    unit: bool = False


@dataclass(frozen=True)
class How:
    """Arguments that are checked, with what follows from them."""

    asked: Asked
    prefix: str
    name: str
    """The prompt with which every row begins."""
    made: int
    """The dimensions that the runtime gives."""
    shorten: Callable[[np.ndarray], np.ndarray]
    """From the runtime's rows to the dimensions that were asked for."""
    empty: np.ndarray
    """No rows, in the type and the width of the result."""
    ranges: np.ndarray | None

    def finish(self, rows: np.ndarray) -> np.ndarray:
        """Returns rows of the runtime, float32 [N, made], as the caller wants them."""
        rows = self.shorten(rows)
        if self.asked.unit:
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return embedding_types.quantize(rows, self.asked.output, self.ranges, _no_ranges)

    def room(self, count: int) -> np.ndarray:
        """Returns an array for the results of so many texts."""
        return np.empty((count, self.empty.shape[1]), self.empty.dtype)


def settled(encoder: Any, asked: Asked) -> How:
    """Returns arguments that are checked. Raises UsageError; ArtifactError where the artifact's own
    ranges are needed, and are damaged."""
    size, errors, contract = asked.batch_size, asked.errors, encoder.contract
    embedding_types.check_output(asked.output)
    if isinstance(asked.ranges, str) and asked.ranges != "one":
        raise UsageError(f'ranges is {asked.ranges!r}; give an array [2, D], or "one"')
    if not is_whole(size) or size < 1:
        raise UsageError(f"batch_size is {size!r}; it must be a whole number from 1")
    if errors not in ("raise", "nan") or (errors == "nan" and asked.output != "float32"):
        raise UsageError(f"errors is {errors!r}; it must be raise, or, of float32, nan")
    dim = encoder._dims(asked.dims)
    encoder._check_task(asked.task)
    prefix = encoder.prefix(asked.prompt, asked.task) if asked.before is None else asked.before
    name = contract.prompt_name(asked.task) if asked.prompt is None else asked.prompt
    made = dim if dim in contract.heads else contract.dim
    ranges = None if isinstance(asked.ranges, str) else asked.ranges
    if ranges is None and asked.output in ("int8", "uint8"):
        ranges = encoder._golden_ranges(dim, isinstance(asked.ranges, str))
    nothing = np.empty((0, dim), np.float32)
    empty = embedding_types.quantize(nothing, asked.output, ranges, _no_ranges)

    def shorten(rows: np.ndarray) -> np.ndarray:
        return rows if rows.shape[1] == dim else encoder._shorten(rows, dim)

    return How(asked, prefix, name, made, shorten, empty, ranges)


def job(encoder: Any, texts: list[str], how: How) -> Job:
    """Returns what a batcher does for texts of one caller."""
    return Job(
        texts,
        lambda: read(encoder, texts, how),
        (how.made, how.name),
        lambda ids, mask: encoder.run(ids, mask, how.made, how.name),
        how.made,
        how.finish,
        how.asked.errors == "nan",
    )


def read(encoder: Any, texts: list[str], how: How) -> tuple[list[np.ndarray], dict[int, str]]:
    """Returns the token ids of each text behind its prompt, and by index why some have none."""
    some = [how.prefix + text for text in texts] if how.prefix else texts
    found, wrong = encoder._read(some, how.asked.task)
    return found, wrong | (encoder.outside(some) if how.asked.strict_scripts else {})


def window(
    encoder: Any, texts: list[str], how: How, first: int, odd: dict[int, str], tick: Tick
) -> np.ndarray:
    """Returns the results of a window of texts, and puts into `odd`, by place from `first` on, why
    some have none. Where errors are raised, no text is computed once there is one: the others are
    only read, so that all are named at once."""
    out = how.room(len(texts))
    found, wrong = read(encoder, texts, how)
    odd |= {first + place: why for place, why in wrong.items()}
    if odd and how.asked.errors == "raise":
        return out
    places = [place for place in range(len(found)) if place not in wrong]
    lengths = [len(found[place]) for place in places]
    for rows in encoder.batches(lengths, how.asked.batch_size):
        chosen = [places[row] for row in rows]
        ids, mask = batching.pad([found[place] for place in chosen], encoder.contract.pad_id)
        made = encoder.run(ids, mask, how.made, how.name)
        for row in np.flatnonzero(~np.isfinite(made).all(axis=1)):
            odd[first + chosen[row]] = encoder._overflows
        out[chosen] = how.finish(made)
        tick(len(chosen))
    if odd and how.asked.errors == "nan":
        out[[place - first for place in odd if place >= first]] = np.nan
    return out


def complain(odd: dict[int, str], texts: Sequence[str], first: int, errors: str) -> None:
    """Raise TextError for texts without embeddings, or warn of their rows of NaN. `texts` are those
    from place `first` on."""
    if odd and errors == "raise":
        raise TextError(odd, texts, first)
    if odd:
        # Above: what called embed, encode, or the iterator.
        warnings.warn(f"rows of NaN: {TextError(odd, texts, first)}", stacklevel=4)


def _no_ranges() -> np.ndarray:
    raise AssertionError("ranges are read with the arguments")
