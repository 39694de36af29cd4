"""How fast an engine is on a GPU, against PyTorch in bf16 with torch.compile, interleaved.

    .venv/bin/python -m benchmarks.tensorrt_speed ARTIFACT --model MODEL [--json FILE]

ARTIFACT is a tensorrt-… folder that `goldfold export` wrote, MODEL the SentenceTransformer it came
from. Each shape is warmed up on both sides, then timed in turn; the median counts. Inputs and
embeddings cross to the GPU and back on both sides. Without a GPU this says so and does nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks import harness
from goldfold.exporter.artifact.encoder import load
from goldfold.exporter.cli.console import open_console
from goldfold.exporter.errors import GoldfoldError
from goldfold.targets.tensorrt import TARGET, vendor

SHAPES = ((1, 16), (1, 128), (8, 128), (32, 64), (1, 512), (1, 2048))
"""batch × tokens, as in the other speed benchmarks."""


def main(
    artifact: Annotated[Path, typer.Argument(help="A tensorrt artifact folder.")],
    model: Annotated[str, typer.Option(help="The SentenceTransformer it was exported from.")],
    rounds: Annotated[int, typer.Option(min=3, help="Timed calls a side and shape.")] = 50,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON here.")] = None,
) -> None:
    """Print milliseconds and the ratio by shape."""
    reason = TARGET.cannot_run()
    if reason is not None:
        raise SystemExit(f"not measured: {reason}")
    try:
        encoder = load(artifact)
    except GoldfoldError as error:
        raise SystemExit(f"error: {error}") from None
    reference = _torch(model)
    gpu = vendor.gpu()
    rng = np.random.default_rng(0)
    rows = []
    for batch, tokens in SHAPES:
        if tokens > encoder.contract.max_length:
            continue
        ids = rng.integers(4, encoder.contract.vocab_size, (batch, tokens))
        mask = np.ones_like(ids)
        sides = {
            "goldfold": lambda i=ids, m=mask: encoder.run(i, m),
            "torch": lambda i=ids, m=mask: reference(i, m),
        }
        times = harness.in_turn(sides, rounds, warm=5)
        medians = {side: statistics.median(taken) for side, taken in times.items()}
        rows.append({"batch": batch, "tokens": tokens, **medians})
    title = f"{artifact.name} on {gpu.name if isinstance(gpu, vendor.Gpu) else gpu}, milliseconds"
    table = Table("batch × tokens", box=SIMPLE_HEAD, title=title)
    for heading in ("goldfold", "torch bf16, compiled", "ratio"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            f"{row['batch']} × {row['tokens']}",
            f"{row['goldfold']:.2f}",
            f"{row['torch']:.2f}",
            f"{row['torch'] / row['goldfold']:.2f}×",
        )
    open_console().print(table)
    harness.record(json_file, {"gpu": str(gpu), "artifact": artifact.name, "rows": rows})


def _torch(model: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """sentence-transformers in bf16 on the GPU, its transformer compiled."""
    import torch
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(model, device="cuda", model_kwargs={"dtype": torch.bfloat16})
    encoder.eval()
    compiled = torch.compile(encoder.forward, dynamic=False)

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            feeds = {
                "input_ids": torch.from_numpy(ids).cuda(),
                "attention_mask": torch.from_numpy(mask).cuda(),
            }
            return compiled(feeds)["sentence_embedding"].float().cpu().numpy()

    return run


if __name__ == "__main__":
    typer.run(main)
