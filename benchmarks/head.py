"""What EmbeddingGemma's head buys: two dense layers in a row, against their product.

    .venv/bin/python benchmarks/head.py MODEL_FOLDER [--artifact FOLDER] [--json FILE]

The head is z = W2 (W1 p), with W1 [3072,768], W2 [768,3072], no bias and no activation; the
embedding is z / |z|. By association it is z = (W2 W1) p with one matrix [768,768]; the law
`fuse-identity-dense` makes it, in f64, rounded once. Below, "factored" is the pair and "fused" the
product. Weights are as the file has them, [out, in]: row i makes component i of the embedding.

The pooled vectors p are not stored anywhere, but they need not be: W = W2 W1 is invertible and a
golden embedding is g = W p / |W p|, so solving W p = g gives p up to a positive factor, which z/|z|
forgets. g was rounded to f32, so this is not the trunk's output to the last bit: the table gives
the residual of the solution, and how far p moves when every number of g moves by half an ulp. What
is measured on p are errors of the weights, relative to W p = g, which holds to the residual.

Quantization is simulated: round to nearest, symmetric, levels -L..L with L = 2^(bits-1) - 1, scale
max|w| / L rounded to fp16 as it would be stored; int8 has one scale a row, int4 one for 64 numbers
of a row. Activations stay in f64. A scale never spans two rows, so cutting rows off and quantizing
commute. White noise in place of p shows what the texts themselves do.

Every call that is timed comes after a read of as many bytes as the trunk's weights have: in a model
the trunk runs between two calls of the head and takes the caches. The calls are interleaved, and
the figures are medians.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import typer
from dense_head.algebra import read_head, recover_pooled, spectrum, trunk_work
from dense_head.tables import (
    show_errors,
    show_sizes,
    show_spectra,
    show_times,
    show_truncation,
    show_work,
)
from dense_head.timing import timings
from rich.console import Console

from goldfold.exporter.cli.console import open_console
from goldfold.exporter.errors import GoldfoldError
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.frontend.weights import read_header
from goldfold.golden import store
from goldfold.golden.compare import unit
from goldfold.golden.errors import GoldenError


def run(folder: Path, artifact: Path | None, threads: int, console: Console) -> dict[str, Any]:
    """Measure and print; everything that was printed, as JSON.

    Raises GoldfoldError for a model without such a head, GoldenError where it has no goldens.
    """
    source = open_model(folder)
    head = read_head(source)
    trunk, work = trunk_work(source)
    defining = {path: digest for path, digest in source.digests.items() if store.defines(path)}
    place = store.find(store.fingerprint(defining))
    if place is None:
        raise GoldenError(f"{folder}: no goldens; run: goldfold golden make {folder}")
    goldens = store.load(place).embeddings.astype(np.float64)
    pooled, residual, change = recover_pooled(head.product, goldens)
    parameters = sum(
        int(np.prod(tensor.shape))
        for path in source.weights
        if path.suffix == ".safetensors"
        for tensor in read_header(path)
    )

    spectra = {"W2 W1": spectrum(head.product), "W1": spectrum(head.w1), "W2": spectrum(head.w2)}
    show_spectra(console, spectra)
    sizes = show_sizes(console, head, parameters)
    measured = timings(head, pooled, trunk, artifact, threads)
    show_times(console, measured, threads)
    shares = show_work(console, head, trunk, work)
    console.print(
        f"pooled vectors of {len(pooled)} texts from W p = g: worst residual {residual:.1e}; "
        f"half an ulp of f32 on g moves p by {change:.1e} at most",
    )
    share = (unit(pooled) ** 2).mean(axis=0)
    largest = np.argsort(share)[::-1][:3]
    console.print(
        "share of |p|² in its largest coordinates, mean: "
        + ", ".join(f"{100 * share[i]:.1f} % in p[{i}]" for i in largest)
    )
    # E |W x|² = |W|² for white noise x of E |x|² = 768
    gain = np.linalg.norm(goldens, axis=1) / np.linalg.norm(pooled, axis=1)
    gain *= np.sqrt(head.product.shape[1]) / np.linalg.norm(head.product)
    console.print(
        f"|W p| / |p|, as a multiple of white noise's: {gain.min():.2f} to {gain.max():.2f}, "
        f"mean {gain.mean():.2f}"
    )
    errors = show_errors(console, "4a. Error of the weights, real texts", head, pooled)
    noise = np.random.default_rng(0).normal(size=pooled.shape)
    noisy = show_errors(console, "4b. The same, white noise for p", head, noise)
    truncation = show_truncation(console, head, goldens)
    return {
        "model": source.name,
        "machine": {"processor": platform.machine(), "system": platform.system()},
        "versions": {"numpy": np.__version__, "onnxruntime": onnxruntime.__version__},
        "threads": threads,
        "spectra": spectra,
        "sizes": sizes,
        "milliseconds": measured,
        "work": shares,
        "pooled": {
            "texts": len(pooled),
            "residual": residual,
            "half_ulp_moves": change,
            "gain": [gain.min(), gain.mean(), gain.max()],
            "largest_share": {int(i): share[i] for i in largest},
        },
        "errors": errors,
        "errors_on_noise": noisy,
        "truncation": truncation,
    }


def main(
    model: Annotated[Path, typer.Argument(help="EmbeddingGemma's SentenceTransformer folder.")],
    artifact: Annotated[
        Path | None, typer.Option(help="An artifact of the same model, to time beside the head.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of ONNX Runtime.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON here.")] = None,
) -> None:
    """Measure the head, factored and fused, and print the tables."""
    try:
        record = run(model, artifact, threads, open_console())
    except (GoldfoldError, GoldenError) as error:
        raise SystemExit(f"error: {error}") from None
    if json_file is not None:
        json_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
