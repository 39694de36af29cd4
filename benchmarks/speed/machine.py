"""What this machine can do, and so the least time that a shape can take on it.

Two rates, measured with nothing but one matmul in OpenVINO, the runtime under comparison:

- FLOP/s: the best of several products of the model's own sizes and a square one;
- bytes/s: the weights of a product with one row, 268 MB of them in f32, divided by its time: every
  byte is read once and used once.

A call over B·S tokens multiplies each weight of the projections once per token and reads each
weight once, so it takes at least

    max(FLOP / rate, weight bytes / bandwidth),
    FLOP = 2·B·S·(projection weights) + 2·B·(head weights) + 4·B·heads·D·Σ_layers pairs(S, window)

with pairs(S, w) the number of (i, j) with |i−j| < w. Norms, softmax, rotary embeddings and all
activations' traffic are counted as free.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.speed.client import Spec, Worker

PRODUCTS = ((256, 768, 1152), (1024, 768, 2304), (1024, 1152, 768), (2048, 2048, 2048))
"""rows × inner × outer."""
STREAMED = (8192, 8192)
"""inner × outer of the product with one row: 256 MiB in f32, more than any cache."""
BYTES = {"f32": 4, "bf16": 2}


@dataclass(frozen=True)
class Model:
    """The sizes that the formula needs; `layers` are (window, count), window 0 for none."""

    projections: int
    head: int
    heads: int
    head_dim: int
    layers: tuple[tuple[int, int], ...]
    vocabulary: int

    @classmethod
    def read(cls, config: dict[str, Any], attention: dict[str, int]) -> Model:
        """From a Gemma-like config.json, and the attention an artifact's manifest lists."""
        hidden, wide = config["hidden_size"], config["intermediate_size"]
        heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
        dim, count = config["head_dim"], config["num_hidden_layers"]
        layer = hidden * dim * (2 * heads + 2 * groups) + 3 * hidden * wide
        layers = tuple(
            (int(kind.split()[1]) if kind.startswith("window") else 0, times)
            for kind, times in attention.items()
        )
        assert sum(times for _, times in layers) == count, (attention, count)
        return cls(count * layer, hidden * hidden, heads, dim, layers, config["vocab_size"])

    def flop(self, batch: int, tokens: int) -> int:
        pairs = sum(count * _pairs(tokens, window) for window, count in self.layers)
        products = 2 * batch * (tokens * self.projections + self.head)
        return products + 4 * batch * self.heads * self.head_dim * pairs

    def least_ms(self, batch: int, tokens: int, precision: str, limit: Limit) -> float:
        weights = (self.projections + self.head) * BYTES[precision]
        return 1e3 * max(self.flop(batch, tokens) / limit.flop_s, weights / limit.bytes_s)


@dataclass(frozen=True)
class Limit:
    """Measured: FLOP/s and bytes/s of one precision on one instruction set."""

    flop_s: float
    bytes_s: float
    kernel: str
    """The kernel that OpenVINO chose for the products."""

    def record(self) -> dict[str, Any]:
        return asdict(self)


def _pairs(tokens: int, window: int) -> int:
    """Pairs (i, j) with |i−j| < window among `tokens` tokens; all of them for window 0."""
    reach = tokens if not window else min(window, tokens)
    # The diagonal, and two of each of the reach−1 further ones, of tokens−d pairs.
    return tokens + 2 * sum(tokens - d for d in range(1, reach))


def measure(precision: str, threads: int, python: Path, env: dict[str, str], log: Path) -> Limit:
    """The machine's rates: the fastest of all calls, since nothing can beat a limit."""
    common = {"kind": "matmul", "precision": precision, "threads": threads, "profile": True}
    rate, kernel = 0.0, ""
    for rows, inner, outer in PRODUCTS:
        spec = Spec("matmul", python, {**common, "inner": inner, "outer": outer}, env)
        with Worker(spec, log) as worker:
            found = worker.ask("time", rows=rows, inner=inner, warm=10, calls=40)["ms"]
            here = 2 * rows * inner * outer / (1e-3 * min(found))
            if here > rate:
                rate, kernel = here, _kernel(worker)
    inner, outer = STREAMED
    spec = Spec("stream", python, {**common, "inner": inner, "outer": outer}, env)
    with Worker(spec, log) as worker:
        found = worker.ask("time", rows=1, inner=inner, warm=3, calls=15)["ms"]
    return Limit(rate, inner * outer * BYTES[precision] / (1e-3 * min(found)), kernel)


def _kernel(worker: Worker) -> str:
    """The kernel that took most of a call."""
    kernels = worker.ask("census")["kernels"]
    return max(kernels, key=lambda name: kernels[name][1]).partition(" ")[2]
