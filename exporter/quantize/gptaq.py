"""GPTAQ rounds one matrix after the other, and each makes up for the losses of those before it.

GPTQ asks for x W ≈ x Ŵ. At run time, however, a matrix reads x̂, which differs from x because the
matrices before it are rounded; GPTAQ therefore asks for x W ≈ x̂ Ŵ. The least-squares solution over
the texts is

    W* = W + (E[x̂ᵀx̂] + λ)⁻¹ E[x̂ᵀ(x − x̂)] W

and GPTQ with the moments of x̂ rounds W* instead of W. The matrix makes up for the losses of its
predecessors as far as x̂ still shows them. The method needs many texts (corpus.toml): from few
texts, W* would learn their noise.

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
"""λ as a share of the mean square of x̂: a larger λ asks for more evidence before W changes."""
_MOST = 0.4
"""The largest correction of a channel, as a share of its norm. The proof of an artifact's constants
holds a channel within half of its norm (golden/proof/relations.py), and rounding takes some of it.
EmbeddingGemma's `small` has four channels in its last layers that would move by more."""


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
        known: rounded matrices, tables and other maps: they are part of x̂ from the start.
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
            found[name] = compensated(corrected(matrix, shift), grid, order)
            rounded[name] = _stored(site, found[name], ids)
            progress(len(found), len(sites))
    return found


def corrected(matrix: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Returns W* of a matrix W, f32 [outputs, inputs]. A channel's correction that is longer than
    _MOST of the channel is shortened to that, so that it stays this channel.

    >>> corrected(np.float32([[3, 4]]), np.float32([[0.1, 0], [0, 0.1]])).round(2)
    array([[3.3, 4.4]], dtype=float32)
    >>> corrected(np.float32([[3, 4]]), np.float32([[2, 0], [0, 2]])).round(2)
    array([[4.2, 5.6]], dtype=float32)
    """
    further = matrix @ shift.T
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    lengths = np.linalg.norm(further, axis=1, keepdims=True)
    far = lengths > _MOST * norms
    share = np.divide(_MOST * norms, lengths, out=np.ones_like(lengths), where=far)
    return matrix + further * share


def _seen(name: str, held: Sequence[Batch]) -> tuple[Order, np.ndarray]:
    """The `Order` of x̂ for GPTQ, and (E[x̂ᵀx̂] + λ)⁻¹ E[x̂ᵀ(x − x̂)], f32 [inputs, inputs].

    Every text has the same weight, whatever its length, because it has one embedding.
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
    order = Order.of(moments, name)
    ridge = np.eye(len(moments)) * (_RIDGE * np.diag(moments).mean() or 1.0)
    shift = np.linalg.solve(moments + ridge, cross.astype(np.float64) / texts)
    return order, shift.astype(np.float32)


def _held(site: Site) -> np.ndarray:
    array = constant(site.stored)
    assert array is not None
    return array


def _stored(site: Site, quantized: Quantized, ids: np.ndarray) -> np.ndarray:
    """The rounded matrix in the form that the graph holds. Only the rows `ids` of a table are
    filled in: memory that is never written is never allocated."""
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
