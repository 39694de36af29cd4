"""Drawn inputs: no NaN, no crash, a text in a batch what it is alone, and the same twice.

**What is drawn.** Token ids uniform over the vocabulary, a tenth of the texts one id repeated.
Lengths most^(x^5), x uniform in 0 … 1: of 2,048 the mean is 63, and three of a hundred are beyond
512. Texts go together as they are drawn, 1 … 16 at a time (as many as fit in 2,560 tokens, padding
included), in a batch that is up to 8 columns wider than its longest text: of a batch's texts the
longest is, in the middle, 70 times as long as the shortest. Behind a text's end stand the id of
padding, or any ids at all: the mask says that they are not there.

**The bound.** Alone and in a batch the same sums are computed in another order, and nothing else
differs: what is masked adds exact zeros. A sum of k numbers in f32 is off by about √k · u relative,
u = 2^-24 (the rounding errors of one sum taken as independent of each other; a sum in blocks is
off by less). An embedding goes through n = 12 L + 6 sums one after another: in each of L layers
four norms, q, k and v, the scores, softmax's total, the values, and three more products; and
pooling, two dense layers, the norms at both ends and the final one's division. Their errors are
independent as well, and add in squares; the longest has K = max(width of the batch, width of the
MLP) terms. So each of the two results is off by √n · √K · u, and they differ by

    ‖a − b‖ ≤ 2 · √(n · K) · u

if no layer makes errors larger. Beyond that statistical bound stands the gate's certain one: both
lie within 1-cos d = 1e-8 of the reference, so within 2 √(2 d) = 2.8e-4 of each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

UNIT = 2.0**-24
GATE = 2 * math.sqrt(2 * 1e-8)
BATCH_TOKENS = 2560


@dataclass(frozen=True)
class Shape:
    """What of a model the bound follows from."""

    layers: int
    mlp: int

    def bound(self, width: int) -> float:
        """On ‖a − b‖ of unit vectors, for a batch of `width` tokens."""
        sums = 12 * self.layers + 6
        return min(2 * math.sqrt(sums * max(width, self.mlp)) * UNIT, GATE)


TINY = Shape(6, 192)
"""The tiny model's widest sum is in its head of 192."""
REAL = Shape(24, 3072)


@dataclass
class Found:
    """What came of the inputs of one artifact."""

    inputs: int = 0
    batches: int = 0
    longest: int = 0
    not_finite: int = 0
    not_unit: int = 0
    beyond: int = 0
    """Inputs whose two embeddings differ by more than the bound."""
    unrepeated: int = 0
    repeated: int = 0
    errors: list[str] = field(default_factory=list)
    worst: float = 0.0
    """The largest ‖a − b‖."""
    worst_at: str = ""
    nearest: float = 0.0
    """The largest ‖a − b‖ / bound."""

    @property
    def broken(self) -> int:
        return self.not_finite + self.not_unit + self.beyond + self.unrepeated + len(self.errors)


def draw_lengths(rng: np.random.Generator, count: int, most: int) -> np.ndarray:
    """`count` lengths of 1 … `most`, mostly short."""
    drawn = np.exp(math.log(most + 1) * rng.uniform(0, 1, count) ** 5).astype(np.int64)
    return np.clip(drawn, 1, most)


def draw_strata(rng: np.random.Generator, count: int, most: int) -> np.ndarray:
    """As `draw_lengths`, but so many of each of the ranges between powers of four, the edges of the
    sliding window among them, shuffled."""
    edges = [1, 4, 16, 64, 256, 1024, most]
    parts = [20, 40, 50, 50, 32, 8]  # of 200: a text of 1,024 tokens costs as much as 60 of 16
    lengths: list[int] = [1, 2, 256, 257, 258, most][: max(1, count // 20)]
    for low, high, part in zip(edges, edges[1:], parts, strict=False):
        lengths += rng.integers(low, high + 1, max(1, part * count // 200)).tolist()
    return rng.permutation(lengths[:count] if len(lengths) >= count else lengths)


def draw(
    rng: np.random.Generator, lengths: np.ndarray, vocab: int, most: int, size: int, pad_id: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches (ids int64 [B,S], mask int64 [B,S]) of the lengths in their order."""
    at = 0
    while at < len(lengths):
        rows = int(rng.integers(1, size + 1))
        some = lengths[at : at + rows]
        while len(some) > 1 and len(some) * int(some.max()) > BATCH_TOKENS:
            some = some[:-1]
        at += len(some)
        width = min(int(some.max()) + int(rng.integers(0, 9)), most)
        ids = rng.integers(0, vocab, (len(some), width))
        if rng.random() < 0.5:
            ids[np.arange(width) >= some[:, None]] = pad_id
        for row in np.flatnonzero(rng.random(len(some)) < 0.1):
            ids[row, : some[row]] = rng.integers(0, vocab)
        yield ids, (np.arange(width) < some[:, None]).astype(np.int64)


def torture(
    artifact: Path,
    shape: Shape,
    lengths: np.ndarray,
    seed: int,
    size: int = 16,
    repeats: float = 0.2,
    threads: int | None = 1,
) -> Found:
    """Run every drawn text alone and in its batch, and a share `repeats` of the calls twice."""
    from goldfold import load

    encoder = load(artifact, threads=threads)
    contract = encoder.contract
    rng, found = np.random.default_rng(seed), Found()
    batches = draw(rng, lengths, contract.vocab_size, contract.max_length, size, contract.pad_id)
    for ids, mask in batches:
        found.batches += 1
        try:
            rows = encoder.run(ids, mask)
            twice = rng.random() < repeats
            if twice:
                found.repeated += 1
                found.unrepeated += rows.tobytes() != encoder.run(ids, mask).tobytes()
            for row, length in enumerate(mask.sum(axis=1)):
                one = (ids[row : row + 1, :length], mask[row : row + 1, :length])
                alone = encoder.run(*one)
                if twice:
                    found.repeated += 1
                    found.unrepeated += alone.tobytes() != encoder.run(*one).tobytes()
                _compare(found, alone[0], rows[row], int(length), ids.shape, shape)
        except Exception as error:  # whatever it is, it is what is looked for
            found.errors.append(f"{ids.shape}: {type(error).__name__}: {error}"[:300])
    return found


def _compare(
    found: Found, alone: np.ndarray, row: np.ndarray, length: int, size: tuple, shape: Shape
) -> None:
    found.inputs += 1
    found.longest = max(found.longest, length)
    both = np.stack([alone, row]).astype(np.float64)
    if not np.isfinite(both).all():
        found.not_finite += 1
        return
    found.not_unit += bool((np.abs(np.linalg.norm(both, axis=1) - 1) > 1e-5).any())
    apart = float(np.linalg.norm(both[0] - both[1]))
    bound = shape.bound(size[1])
    found.beyond += apart > bound
    found.nearest = max(found.nearest, apart / bound)
    if apart > found.worst:
        found.worst, found.worst_at = apart, f"{length} tokens in a batch of {size[0]}×{size[1]}"
