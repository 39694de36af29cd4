"""What residual codebooks of 256 entries lose on a table of embeddings, against the integers with a
scale a block that goldfold stores, at the same bits.

    .venv/bin/python -m benchmarks.table_codebooks MODEL_FOLDER [--rows 20000] [--texts 300]

A row is cut into parts of `d` numbers; a part is C1[i1] + C2[i2] + …, each index a byte: 8·stages/d
bits a number, and a scale of 16 bits a row. In a graph that is a Gather of indices, a Gather a
codebook, and Adds. Codebooks are k-means on the rows left over (numpy), shared by all parts.

Errors are Σ|w − ŵ|² / Σ|w|² over the rows, alike and by how often the texts of the retrieval set
use them; and the mean 1−cos of sentence-transformers' embeddings with such a table, on texts of
that set. All rows are measured unless --rows draws some; 1−cos takes all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from goldfold.exporter.passes.rewriting.grid import Grid, nearest, sizes
from goldfold.golden.judging import pairs

CODES = 256
SAMPLE, ROUNDS = 100_000, 12
CHUNK = 1 << 18
GRIDS = ((8, 0), (6, 64), (5, 64), (4, 32), (4, 64), (3, 32), (3, 64))
BOOKS = ((4, 2), (8, 4), (8, 3), (4, 1), (8, 2), (16, 4))
"""(numbers of a part, stages)."""


def main(
    model: Annotated[Path, typer.Argument(help="A SentenceTransformer folder.")],
    rows: Annotated[int, typer.Option(help="Rows to draw; 0 takes all.")] = 0,
    texts: Annotated[int, typer.Option(help="Texts for 1−cos; 0 leaves it out.")] = 300,
) -> None:
    """Print a row a way to store the table."""
    from sentence_transformers import SentenceTransformer

    opened = SentenceTransformer(str(model), device="cpu")
    layer: Any = opened[0].auto_model.get_input_embeddings()
    whole = layer.weight.detach().numpy().copy()
    found = pairs.collect(3000)
    uses = np.zeros(len(whole))
    said = [*found.queries, *found.documents]
    for ids in opened.tokenizer(said, truncation=True, max_length=256)["input_ids"]:
        np.add.at(uses, ids, 1)
    draws = np.random.default_rng(1)
    kept = np.arange(len(whole))
    if rows:
        kept = np.sort(draws.choice(len(whole), rows, replace=False))
    table, uses = whole[kept], uses[kept]
    judged = [] if rows else [found.documents[at] for at in range(0, len(found.documents), 10)]
    judged = judged[:texts]
    exact = opened.encode(judged, normalize_embeddings=True) if judged else None
    print("| table | bits a number | rows alike | by use | mean 1−cos |\n|---|---|---|---|---|")
    for name, bits, made in _ways(table, draws):
        alike, used = _error(table, made, None), _error(table, made, uses)
        cos = "not run"
        if exact is not None:
            layer.weight.data[:] = _tensor(made)
            got = opened.encode(judged, normalize_embeddings=True)
            cos = f"{np.mean(1 - (got * exact).sum(axis=1)):.1e}"
        print(f"| {name} | {bits:.2f} | {alike:.2e} | {used:.2e} | {cos} |", flush=True)


def _tensor(rows: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(rows, np.float32))


def _error(table: np.ndarray, made: np.ndarray, uses: np.ndarray | None) -> float:
    weight = np.ones(len(table)) if uses is None else uses
    off = np.square(table - made, dtype=np.float64).sum(axis=1)
    return float((weight * off).sum() / (weight * np.square(table).sum(axis=1)).sum())


def _ways(table: np.ndarray, draws: np.random.Generator) -> Iterator[tuple[str, float, np.ndarray]]:
    """Yields a name, bits a number, and the table that comes back."""
    columns, width = sizes(table), table.shape[1]
    for bits, block in GRIDS:
        made = nearest(table, Grid(bits, block), search=bits < 8, columns=columns).dense()
        scales = width // block if block else 1
        yield f"{bits} bits, blocks of {block or width}", bits + 16 * scales / width, made
    for part, stages in BOOKS:
        made = _books(table / columns, part, stages, draws) * columns
        yield f"{stages} codebooks, parts of {part}", 8 * stages / part + 16 / width, made


def _books(table: np.ndarray, part: int, stages: int, draws: np.random.Generator) -> np.ndarray:
    """f32 [rows, width]: the table through residual codebooks, each row by its own scale."""
    scale = np.sqrt(np.square(table).mean(axis=1, keepdims=True)).astype(np.float16)
    scale = np.maximum(scale, np.float16(2.0**-14)).astype(np.float32)
    left = (table / scale).reshape(-1, part).astype(np.float32)
    made = np.zeros_like(left)
    for _ in range(stages):
        book = _means(left[draws.choice(len(left), min(SAMPLE, len(left)), replace=False)], draws)
        for start in range(0, len(left), CHUNK):
            some = slice(start, start + CHUNK)
            chosen = book[_closest(left[some], book)]
            made[some] += chosen
            left[some] -= chosen
    return made.reshape(table.shape) * scale


def _means(sample: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """f32 [CODES, part]: k-means; an entry that nothing is close to is drawn again."""
    book = sample[draws.choice(len(sample), CODES, replace=False)].copy()
    for _ in range(ROUNDS):
        at = _closest(sample, book)
        count = np.bincount(at, minlength=CODES)
        sums = np.stack([np.bincount(at, column, CODES) for column in sample.T], axis=1)
        full = count > 0
        book[full] = sums[full] / count[full, None]
        book[~full] = sample[draws.choice(len(sample), int((~full).sum()))]
    return book.astype(np.float16).astype(np.float32)


def _closest(rows: np.ndarray, book: np.ndarray) -> np.ndarray:
    return np.argmax(rows @ book.T - 0.5 * np.square(book).sum(axis=1), axis=1)


if __name__ == "__main__":
    typer.run(main)
