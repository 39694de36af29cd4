"""Rounding one matrix after the other, each knowing what the ones before it did.

GPTQ asks for x W ≈ x Ŵ. But what a matrix reads at run time is x̂, what the rounded ones before it
left of x; so here it is asked for x W ≈ x̂ Ŵ. The least squares of that over the texts is

    W* = W + (E[x̂ᵀx̂] + λ)⁻¹ E[x̂ᵀ(x − x̂)] W

and GPTQ with the moments of x̂ rounds W* instead of W. The matrix takes over what its predecessors
lost, as far as x̂ still tells. It needs many texts (corpus.toml): over few ones W* learns their
noise.

Yuhang Li et al., "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration", 2025.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from goldfold.exporter.ir.program import Program, constant
from goldfold.exporter.passes.rewriting.grid import Grid, Quantized
from goldfold.exporter.quantize.gptq import Order, compensated
from goldfold.exporter.quantize.sites import Site
from goldfold.exporter.quantize.staged_run import Batch, Walk

_RIDGE = 0.03
"""λ as a share of the mean square of x̂: how much must be known before W is touched."""


def chained(
    program: Program,
    sites: Mapping[str, tuple[Site, Grid]],
    known: Mapping[str, tuple[Site, Quantized]],
    sequences: Sequence[Sequence[int]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Quantized]:
    """The integers of every matrix of `sites`, by the name of its constant.

    Args:
        sites: maps to round, with their grids.
        known: what is rounded already, tables and other maps: part of x̂ from the start.
        sequences: token ids of the texts; each is computed once, exactly and in rounded weights.
        progress: called with (done, total) matrices.

    Raises RewriteError for a text that makes a value infinite or NaN.
    """
    exact = {name: _held(site) for name, (site, _) in (*sites.items(), *known.items())}
    ids = np.unique(np.concatenate([np.asarray(text, np.int64) for text in sequences]))
    rounded = {name: _stored(site, quantized, ids) for name, (site, quantized) in known.items()}
    walk = Walk(program, sequences, exact, rounded)
    readers: dict[ir.Value, list[str]] = {}
    for name, (site, _) in sites.items():
        assert site.x is not None
        readers.setdefault(site.x, []).append(name)
    found: dict[str, Quantized] = {}
    for x, held in walk.stops(list(readers)):
        order, shift = _seen(x.name or "", held)
        for name in readers[x]:
            site, grid = sites[name]
            matrix = np.asarray(site.matrix, np.float32)
            found[name] = compensated(matrix + matrix @ shift.T, grid, order)
            rounded[name] = _stored(site, found[name], ids)
            progress(len(found), len(sites))
    return found


def _seen(name: str, held: Sequence[Batch]) -> tuple[Order, np.ndarray]:
    """What GPTQ wants to know of x̂, and (E[x̂ᵀx̂] + λ)⁻¹ E[x̂ᵀ(x − x̂)], f32 [inputs, inputs].

    Every text counts alike, however long it is: it has one embedding.
    """
    moments = cross = np.zeros(())
    for batch in held:
        x, near = batch.rows(name)
        root = np.sqrt(batch.shares(len(x)))
        near, off = near * root, (x - near) * root
        moments = moments + near.T @ near
        cross = cross + near.T @ off
    texts = sum(len(batch.real) for batch in held)
    moments = moments.astype(np.float64) / texts
    ridge = np.eye(len(moments)) * (_RIDGE * np.diag(moments).mean() or 1.0)
    shift = np.linalg.solve(moments + ridge, cross.astype(np.float64) / texts)
    return Order.of(moments), shift.astype(np.float32)


def _held(site: Site) -> np.ndarray:
    array = constant(site.stored)
    assert array is not None
    return array


def _stored(site: Site, quantized: Quantized, ids: np.ndarray) -> np.ndarray:
    """The matrix again, as the graph holds it. Of a table only the rows `ids` are filled in: memory
    that is never written is never taken."""
    if site.linear is not None:
        dense = quantized.dense()
        return np.ascontiguousarray(dense.T) if site.turned else dense
    table = np.zeros(quantized.numbers.shape, np.float32)
    for rows in np.array_split(ids, max(1, len(ids) // 4096)):
        part = Quantized(
            quantized.grid, quantized.numbers[rows], quantized.scale[rows], quantized.columns
        )
        table[rows] = part.dense()
    return table
