"""Integers that were chosen, and what must hold of them whatever chose them.

`steps`, `chosen` and `nearest` may lie below functions that can be undone. What the artifact holds
is taken back through these, and then looked at.
"""

from __future__ import annotations

import hashlib

import numpy as np

from goldfold.golden.errors import GoldenError
from goldfold.golden.proof import kinds
from goldfold.golden.proof.evaluate import Evaluator, rows_at_once
from goldfold.golden.proof.expressions import Call

_LARGEST = 0.5
"""The largest error of a channel as a share of its norm. Rounding to four bits leaves less than a
third; a channel that is zeroed is off by 1, one that stands in another's place by about √2."""
_LEAST = 2.0**-25
"""A float16 scale is at least 2⁻²⁴, and less than half of that is 0. A weight below 2⁻²⁵ times the
largest integer may so become 0 with the rest of its channel."""
_EXACT = 2.0**-40
"""More than float64 loses in the few operations that find an error in steps, of which it has at
most some hundred."""
BY_DIGEST = ("chosen", "assumed")
"""Values of which only the digest is known."""
_RELATIONS = ("steps", "nearest", *BY_DIGEST)
_UNDONE = ("reshape", "transpose", "cast", "nibbles", "packed", "add", "sub", "mul")


def below(x: Call) -> tuple[Call | None, list[Call]]:
    """Returns the relation that a value is made of, and the functions above it from the outermost
    on; no relation if one of them cannot be undone."""
    chain: list[Call] = []
    while x.name not in _RELATIONS:
        inner = x.args[0] if x.args else None
        if x.name not in _UNDONE or not isinstance(inner, Call):
            return None, []
        chain.append(x)
        x = inner
    return x, chain


def undo(relation: Call, chain: list[Call], held: np.ndarray, evaluator: Evaluator) -> np.ndarray:
    """Returns what the artifact holds in place of a relation's value."""
    wrapped = False
    for call in chain:
        shape, inner = evaluator.shape(call), evaluator.shape(call.args[0])
        held = held.reshape(shape)
        match call.name:
            case "reshape":
                held = held.reshape(inner)
            case "transpose":
                held = held.transpose(np.argsort(call.args[1:]))
            case "nibbles":
                wrapped, pairs = True, np.ascontiguousarray(held).view(np.uint8).reshape(-1)
                held = kinds.widen(pairs, "uint4", (*inner[:-1], 2 * shape[-1]))[..., : inner[-1]]
            case "packed":
                rows = range(0, len(held), step := rows_at_once(inner))
                parts = [kinds.unpack(held[at : at + step], inner[-1], call.args[1]) for at in rows]
                held = np.concatenate(parts)
            case "mul":  # by a power of two, which is undone exactly
                factor = float(np.asarray(evaluator.whole(call.args[1]).value).reshape(-1)[0])
                if evaluator.shape(call.args[1]) != () or abs(np.frexp(factor)[0]) != 0.5:
                    raise GoldenError("a product with no power of two cannot be undone")
                held = held.astype(np.float64) / factor
            case "add" | "sub":
                added = evaluator.whole(call.args[1]).value
                if added.size != 1 or added.dtype.kind not in "iu":
                    raise GoldenError(f"{call.name} of more than one integer cannot be undone")
                by = np.int16(int(added.reshape(-1)[0]) * (1 if call.name == "add" else -1))
                held = held.astype(np.int16) - by
    if wrapped:  # four bits say a number modulo 16
        held = ((held.astype(np.int8) + np.int8(8)) & 15) - np.int8(8)
    return held.reshape(evaluator.shape(relation))


def chosen(relation: Call, held: np.ndarray) -> np.ndarray | None:
    """Returns the numbers that were chosen, if what is held is they."""
    kind, shape, digest = relation.args
    try:
        raw = kinds.narrow(held, kind)
    except GoldenError:
        return None
    same = hashlib.sha256(np.ascontiguousarray(raw).data).hexdigest() == digest
    return kinds.widen(raw, kind, shape) if same else None


def in_steps(relation: Call, held: np.ndarray, evaluator: Evaluator) -> tuple[int, str]:
    """Returns how many rows of `steps` or `nearest` are too far from their weights, and a sentence
    about the first. `held` are integers [channels, inputs]; a row is a channel."""
    top, (rows, inputs) = 1 << (relation.args[2] - 1), held.shape
    most, row = relation.args[4:] if relation.name == "steps" else (np.inf, np.inf)
    bad, first, count = 0, "", rows_at_once(held.shape)
    for start in range(0, rows, count):
        stop = min(start + count, rows)
        weights, scale = evaluator.grid(relation, start, stop)
        numbers, wide = held[start:stop].astype(np.float64), weights.wide
        off = np.abs(numbers * scale - wide)
        if weights.error is not None:
            off = np.maximum(off - weights.error, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            steps = np.where(off > 0, off / np.abs(scale), 0)
        widest, mean = steps.max(axis=1, initial=0), np.sqrt(np.square(steps).mean(axis=1))
        norm, lost = np.linalg.norm(wide, axis=1), np.linalg.norm(off, axis=1)
        far = lost > np.where(norm > 0, _LARGEST * norm + np.sqrt(inputs) * top * _LEAST, 0)
        beyond = (numbers < -top).any(axis=1) | (numbers >= top).any(axis=1)
        wrong = far | beyond | (widest > most + _EXACT) | (mean > row + _EXACT)
        wrong |= ~np.isfinite(lost)
        if wrong.any() and not bad:
            at = int(np.argmax(wrong))
            share = lost[at] / norm[at] if norm[at] else np.inf
            first = (
                f"row {start + at:,} is off by {widest[at]:.4g} steps at most and {mean[at]:.4g} "
                f"in the mean, {share:.3g} of its norm"
            )
            if relation.name == "steps":
                first += f"; {most:.4g} and {row:.4g} steps are stated"
        bad += int(wrong.sum())
    return bad, first
