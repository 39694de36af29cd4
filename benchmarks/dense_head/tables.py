"""What head.py prints, a function a table; each returns what the record keeps of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from dense_head.algebra import FORMATS, RANKS, Head, distances
from dense_head.timing import BATCHES, TOKENS

DIMS = (768, 512, 256, 128)
"""The Matryoshka sizes of EmbeddingGemma's model card."""


def columns(title: str, first: str, *others: str) -> Table:
    """A table with a left column and right-aligned ones."""
    table = Table(first, title=title, title_justify="left")
    for other in others:
        table.add_column(other, justify="right")
    return table


def show_spectra(console: Console, spectra: dict[str, dict[str, Any]]) -> None:
    table = columns(
        "1. Singular values, and the share of energy in the first",
        *("", "largest", "median", "smallest", "cond.", "eff. rank", "part. ratio"),
        *(str(k) for k in RANKS),
    )
    for name, s in spectra.items():
        table.add_row(
            name,
            *(f"{s[key]:.3g}" for key in ("largest", "median", "smallest")),
            *(f"{s[key]:,.0f}" for key in ("condition", "effective_rank", "participation_ratio")),
            *(f"{100 * s['energy'][k]:.1f} %" for k in RANKS),
        )
    console.print(table)


def show_sizes(console: Console, head: Head, parameters: int) -> dict[str, list[int]]:
    pair, product = (head.w1, head.w2), (head.product,)
    factored, fused = (sum(w.size for w in ws) for ws in (pair, product))
    table = columns("2. Bytes of the head, scales included", "weights", "factored", "fused")
    table.add_row("parameters", f"{factored:,}", f"{fused:,}")
    rest = parameters - factored
    shares = (factored / parameters, fused / (rest + fused))
    table.add_row("of all parameters", *(f"{100 * share:.2f} %" for share in shares))
    sizes = {}
    for kind in FORMATS:
        sizes[kind.name] = [kind.bytes(*pair), kind.bytes(*product)]
        table.add_row(kind.name, *(f"{size:,}" for size in sizes[kind.name]))
    console.print(table)
    return {"parameters": [factored, fused], "all_parameters": [parameters], **sizes}


def show_times(console: Console, measured: dict[str, float], threads: int) -> None:
    names = ("factored", "fused", "fused, first 256")
    table = columns(
        f"3a. Milliseconds, {threads} thread(s), f32",
        "batch",
        *names,
    )
    for batch in BATCHES:
        table.add_row(str(batch), *(f"{measured[f'{name} {batch}']:.2f}" for name in names))
    console.print(table)
    for tokens in TOKENS[:2]:
        if f"model {tokens}" not in measured:
            continue
        whole, saved = measured[f"model {tokens}"], measured["factored 1"] - measured["fused 1"]
        console.print(
            f"whole model with the fused head, 1 x {tokens} tokens: {whole:.1f} ms; factored would "
            f"add {saved:.2f} ms, {100 * saved / whole:.2f} %"
        )


def show_work(
    console: Console, head: Head, trunk: int, work: Callable[[int], int]
) -> list[dict[str, float]]:
    sizes = head.w1.size + head.w2.size, head.product.size
    table = columns(
        "3b. Share of the head in the multiply-adds of one text",
        *("tokens", "trunk", "factored", "fused"),
    )
    rows = []
    for tokens in TOKENS:
        shares = [size / (work(tokens) + size) for size in sizes]
        rows.append({"tokens": tokens, "trunk": work(tokens), "shares": shares})
        table.add_row(
            f"{tokens:,}", f"{work(tokens):,}", *(f"{100 * share:.4f} %" for share in shares)
        )
    table.add_section()
    table.add_row(
        "weights read",
        f"{trunk:,}",
        *(f"{100 * size / (trunk + size):.2f} %" for size in sizes),
    )
    console.print(table)
    return rows


def show_errors(
    console: Console, title: str, head: Head, pooled: np.ndarray
) -> list[dict[str, Any]]:
    exact = pooled @ head.product.T
    table = columns(
        f"{title}: worst / mean 1-cos over {len(pooled)}",
        *("weights", "head", *(f"{dims} dims" for dims in DIMS)),
    )
    rows = []
    for kind in FORMATS:
        w1, w2 = kind.stored(head.w1), kind.stored(head.w2)
        found = {
            "factored": pooled @ w1.T @ w2.T,
            "fused": pooled @ kind.stored(head.product).T,
        }
        for form, embeddings in found.items():
            errors = {dims: distances(embeddings, exact, dims) for dims in DIMS}
            rows.append({"weights": kind.name, "head": form, "errors": errors})
            cells = (f"{worst:.1e} / {mean:.1e}" for worst, mean in errors.values())
            table.add_row(kind.name, form, *cells)
        table.add_section()
    console.print(table)
    return rows


def show_truncation(console: Console, head: Head, goldens: np.ndarray) -> list[dict[str, Any]]:
    energy = (head.product**2).sum(axis=1)
    table = columns(
        "5. The first d rows",
        *("d", "factored", "fused", "ratio", "d / 768", "energy of the rows", "|g|² on the texts"),
    )
    rows = []
    for dims in DIMS:
        factored, fused = head.w1.size + head.w2[:dims].size, head.product[:dims].size
        row = {
            "dims": dims,
            "factored": factored,
            "fused": fused,
            "row_energy": float(energy[:dims].sum() / energy.sum()),
            "golden_energy": float((goldens[:, :dims] ** 2).sum() / (goldens**2).sum()),
        }
        rows.append(row)
        table.add_row(
            str(dims),
            f"{factored:,}",
            f"{fused:,}",
            f"{factored / fused:.1f}",
            f"{100 * dims / len(energy):.1f} %",
            f"{100 * row['row_energy']:.1f} %",
            f"{100 * row['golden_energy']:.1f} %",
        )
    console.print(table)
    return rows
