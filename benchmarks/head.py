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
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import typer
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file

from exporter import load as load_artifact
from exporter.console import open_console
from exporter.errors import GoldfoldError, ModelError
from exporter.model import Source, open_model
from exporter.passes.fuse_identity_dense import FuseIdentityDense
from exporter.passes.law import graph
from exporter.weights import read_header, read_object
from golden import store
from golden.compare import reading, unit
from golden.errors import GoldenError

DIMS = (768, 512, 256, 128)
"""The Matryoshka sizes of EmbeddingGemma's model card."""
RANKS = (128, 256, 384, 512)
"""The smaller Matryoshka sizes, and 384: from there on U [768,r] V [r,768] is no smaller than W."""
BATCHES = (1, 8, 32)
TOKENS = (8, 128, 2048)
"""A short query, a paragraph, and the longest text that the model reads."""
GROUP = 64
ROUNDS = 21
"""Odd, so that the median is a measured value."""


@dataclass(frozen=True)
class Head:
    """Both factors as f64 [out, in], and their product in f64."""

    w1: np.ndarray
    w2: np.ndarray

    @property
    def product(self) -> np.ndarray:
        return self.w2 @ self.w1


@dataclass(frozen=True)
class Format:
    """How weights are stored. `scale` numbers of a row share an fp16 scale; 0: none, -1: all."""

    name: str
    bits: int
    scale: int

    def bytes(self, *weights: np.ndarray) -> int:
        """Bytes of weights [out, in], their scales included."""
        return sum(w.size * self.bits // 8 + 2 * self._scales(w) for w in weights)

    def _scales(self, weight: np.ndarray) -> int:
        if self.scale == 0:
            return 0
        return weight.shape[0] if self.scale < 0 else weight.size // self.scale

    def stored(self, weight: np.ndarray) -> np.ndarray:
        """What a weight [out, in] reads as when it comes back, in f64."""
        if self.scale == 0:
            kind = {32: np.float32, 16: np.float16}[self.bits]
            return weight.astype(kind).astype(np.float64)
        levels = 2 ** (self.bits - 1) - 1
        width = weight.shape[1] if self.scale < 0 else self.scale
        groups = weight.reshape(weight.shape[0], -1, width)
        scale = np.abs(groups).max(axis=2, keepdims=True) / levels
        scale = scale.astype(np.float16).astype(np.float64)
        # A row of zeros has scale 0; any other value reads it back as zeros.
        scale[scale == 0] = 1.0
        codes = np.clip(np.rint(groups / scale), -levels, levels)
        return (codes * scale).reshape(weight.shape)


FORMATS = (
    Format("f32", 32, 0),
    Format("fp16", 16, 0),
    Format("int8 a row", 8, -1),
    Format(f"int4 g{GROUP}", 4, GROUP),
)


def read_head(source: Source) -> Head:
    """The last two Dense modules. Raises ModelError if they are not linear, or not next in line."""
    dense = [module for module in source.modules if module.kind == "Dense"][-2:]
    if len(dense) != 2 or dense[1].idx != dense[0].idx + 1:
        raise ModelError(f"{source.path}: no two Dense modules in a row")
    weights = []
    for module in dense:
        folder = source.path / module.path
        config = read_object(folder / "config.json")
        if config["bias"] or not config["activation_function"].endswith("Identity"):
            raise ModelError(f"{folder}: has a bias or an activation; this is about heads without")
        weights.append(load_file(folder / "model.safetensors")["linear.weight"])
    return Head(*(weight.astype(np.float64) for weight in weights))


def trunk_work(source: Source) -> tuple[int, Callable[[int], int]]:
    """The trunk's matrix parameters, and its multiply-adds on one text of n tokens.

    A layer has q, o [H, n_heads d], k, v [H, n_kv d], and gate, up, down [H, I]; a parameter is one
    multiply-add a token. Attention adds q kᵀ and its product with v: n² n_heads d each, all pairs
    counted, as a graph with a mask computes them. Embedding, norms and softmax are left out.

    Raises ModelError for another architecture than Gemma 3's.
    """
    file = source.path / "config.json"
    config = read_object(file)
    if config["model_type"] != "gemma3_text":
        raise ModelError(f"{file}: {config['model_type']}; the count is of gemma3_text")
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    heads = config["num_attention_heads"] * config["head_dim"]
    shared = config["num_key_value_heads"] * config["head_dim"]
    layer = 2 * hidden * heads + 2 * hidden * shared + 3 * hidden * config["intermediate_size"]
    return layers * layer, lambda n: layers * (n * layer + 2 * n * n * heads)


def spectrum(weight: np.ndarray) -> dict[str, Any]:
    """Singular values s, sorted: extremes, condition, effective rank, energy of the first k.

    Effective rank is exp(H(s / sum s)) with Shannon's entropy H (Roy & Vetterli, "The effective
    rank", EUSIPCO 2007): k for k equal values. Energy of the first k is the share of sum s² that
    lies in them, which is also the share of |W|² that the best matrix of rank k keeps.
    """
    s = np.linalg.svd(weight, compute_uv=False)
    share, energy = s / s.sum(), s**2 / (s**2).sum()
    return {
        "largest": s[0],
        "median": float(np.median(s)),
        "smallest": s[-1],
        "condition": s[0] / s[-1],
        "effective_rank": float(np.exp(-(share * np.log(share)).sum())),
        "participation_ratio": float(1 / (energy**2).sum()),
        "energy": {k: float(energy[:k].sum()) for k in RANKS},
    }


def recover_pooled(product: np.ndarray, goldens: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Solve W p = g for every golden; p f64 [N, 768].

    Also the largest residual |W p - g| / |g|, and the largest relative change of p when each number
    of g moves by half an ulp of f32 at most, up or down by a seeded coin.
    """
    pooled = np.linalg.solve(product, goldens.T).T
    residual = np.linalg.norm(pooled @ product.T - goldens, axis=1)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=goldens.shape)
    moved = np.linalg.solve(product, (goldens * (1 + 2.0**-24 * signs)).T).T
    change = np.linalg.norm(moved - pooled, axis=1) / np.linalg.norm(pooled, axis=1)
    return pooled, float((residual / np.linalg.norm(goldens, axis=1)).max()), float(change.max())


def distances(found: np.ndarray, exact: np.ndarray, dims: int) -> tuple[float, float]:
    """Worst and mean 1-cos of the first `dims` components, [N, 768] both."""
    rows = zip(unit(found[:, :dims]), unit(exact[:, :dims]), strict=True)
    values = [reading(a, b).distance for a, b in rows]
    return max(values), float(np.mean(values))


def session(head: Head, fuse: bool, dims: int, threads: int) -> onnxruntime.InferenceSession:
    """The head alone, f32, as the exporter writes it; `dims` keeps the first rows of W2."""
    inner, width = head.w1.shape
    model = graph(
        f"""f (float[B,{width}] p, float[{width},{inner}] w1, float[{inner},{dims}] w2)
            => (float[B,{dims}] z)
        {{
            h = MatMul(p, w1)
            z = MatMul(h, w2)
        }}""",
        # A MatMul in ONNX multiplies from the right: [in, out].
        {"w1": head.w1.T, "w2": head.w2[:dims].T},
    )
    if fuse:
        assert FuseIdentityDense().rewrite(model).applied
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def timings(
    head: Head, pooled: np.ndarray, trunk: int, artifact: Path | None, threads: int
) -> dict[str, float]:
    """Median milliseconds by name: three heads by batch, and the whole model if there is one."""
    calls: dict[str, Callable[[], object]] = {}
    heads = {
        "factored": session(head, False, len(head.w2), threads),
        "fused": session(head, True, len(head.w2), threads),
        "fused, first 256": session(head, True, 256, threads),
    }
    for batch in BATCHES:
        rows = pooled[:batch].astype(np.float32)
        for name, one in heads.items():
            calls[f"{name} {batch}"] = lambda one=one, rows=rows: one.run(None, {"p": rows})
    if artifact is not None:
        model = load_artifact(artifact, threads=threads, check=False)
        for tokens in TOKENS[:2]:
            # Which ids they are does not matter for time; 9 up to 10,000 are ordinary tokens.
            ids = np.random.default_rng(0).integers(9, 10_000, size=(1, tokens))
            mask = np.ones_like(ids)
            calls[f"model {tokens}"] = lambda ids=ids, mask=mask: model.run(ids, mask)
    swept = np.ones(trunk, dtype=np.float32)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            swept.sum()
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * float(np.median(values)) for name, values in seconds.items()}


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
