"""A reranker's speed: goldfold's artifact, CrossEncoder in PyTorch, and torch.onnx's own graph.

    .venv/bin/python -m benchmarks.reranker_speed [--pairs 32] [--tokens 128] [--rounds 12]
        [--json FILE]

The model has the shape of cross-encoder/ms-marco-MiniLM-L6-v2 (6 layers of 384) with the trunk of
all-MiniLM-L6-v2 and a drawn head: speed does not depend on what the weights are. `onnx` is what a
plain export of the same model gives in ONNX Runtime, as sentence-transformers' ONNX backend runs
it, tokens included. All sides score the same pairs, one after the other in turn, in one process;
two runtimes in a process disturb each other, so each is also timed in a process of its own with
--only NAME.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import harness
from goldfold import export, load
from goldfold.exporter.frontend.packaged import MINILM, locate

SIDES = ("goldfold onnxruntime", "goldfold openvino", "torch", "onnx")


def main(
    pairs: Annotated[int, typer.Option(help="Pairs in one call.")] = 32,
    tokens: Annotated[int, typer.Option(help="Tokens of each pair.")] = 128,
    rounds: Annotated[int, typer.Option()] = 12,
    only: Annotated[list[str] | None, typer.Option(help="Time these sides alone.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON here.")] = None,
) -> None:
    """Time all sides in turn, and print milliseconds and ratios to PyTorch."""
    with tempfile.TemporaryDirectory() as room:
        model = build(Path(room) / "model")
        texts = drawn(model, pairs, tokens)
        makers: dict[str, Callable[[], Callable[[], Any]]] = {
            "goldfold onnxruntime": lambda: _goldfold(model, Path(room), "onnxruntime", texts),
            "goldfold openvino": lambda: _goldfold(model, Path(room), "openvino", texts),
            "torch": lambda: _torch(model, texts),
            "onnx": lambda: _onnx(model, Path(room), texts),
        }
        calls = {name: makers[name]() for name in (only or SIDES)}
        results = {name: np.asarray(call()) for name, call in calls.items()}
        first = next(iter(results.values()))
        apart = max(float(np.abs(found - first).max()) for found in results.values())
        times = harness.in_turn(calls, rounds, warm=2)
    middle = {name: statistics.median(found) for name, found in times.items()}
    table = Table(title=f"{pairs} pairs of {tokens} tokens, scores within {apart:.1e}")
    for heading in ("side", "ms, median", "least", "times as fast as torch"):
        table.add_column(heading, justify="left" if heading == "side" else "right")
    for name, found in times.items():
        ratio = f"{middle['torch'] / middle[name]:.2f}" if "torch" in middle else ""
        table.add_row(name, f"{middle[name]:.0f}", f"{min(found):.0f}", ratio)
    Console().print(table)
    harness.record(json_file, {"pairs": pairs, "tokens": tokens, "milliseconds": times})


def build(folder: Path) -> Path:
    """Save the model: all-MiniLM-L6-v2's trunk below a head for one label."""
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    source = str(locate(MINILM))
    model = BertForSequenceClassification.from_pretrained(source, num_labels=1)
    torch.manual_seed(3)
    pooler: Any = model.bert.pooler
    for one in (pooler.dense, model.classifier):
        torch.nn.init.normal_(one.weight, std=0.05)
        torch.nn.init.zeros_(one.bias)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, model_max_length=512).save_pretrained(folder)
    return folder


def drawn(folder: Path, pairs: int, tokens: int) -> list[tuple[str, str]]:
    """Returns pairs of exactly `tokens` tokens, of words of one token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    words = [w for w in tokenizer.get_vocab() if w.isalpha() and w.isascii() and len(w) > 3]
    chosen = np.random.default_rng(5).choice(sorted(words), (pairs, tokens - 3))
    made = [(" ".join(row[:12]), " ".join(row[12:])) for row in chosen.tolist()]
    assert all(len(tokenizer(*pair)["input_ids"]) == tokens for pair in made)
    return made


def _goldfold(model: Path, room: Path, target: str, texts: list) -> Callable[[], Any]:
    (result,) = export(model, [target], out=room / target)
    scorer = load(result.path)
    return lambda: scorer.predict(texts)


def _torch(model: Path, texts: list) -> Callable[[], Any]:
    from sentence_transformers import CrossEncoder

    encoder = CrossEncoder(str(model), device="cpu")
    return lambda: encoder.predict(texts, show_progress_bar=False)


def _onnx(model: Path, room: Path, texts: list) -> Callable[[], Any]:
    import onnxruntime
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model))
    trunk = AutoModelForSequenceClassification.from_pretrained(str(model)).eval()
    given = dict(tokenizer(*texts[0], return_tensors="pt"))
    names = ("input_ids", "attention_mask", "token_type_ids")
    torch.onnx.export(
        trunk,
        (),
        str(room / "plain.onnx"),
        kwargs={name: given[name].repeat(2, 1) for name in names},
        input_names=list(names),
        output_names=["logits"],
        dynamic_shapes={
            n: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for n in names
        },
        dynamo=True,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(str(room / "plain.onnx"))

    def call() -> np.ndarray:
        made = tokenizer(*map(list, zip(*texts, strict=True)), padding=True, return_tensors="np")
        logits = np.asarray(session.run(None, {name: made[name] for name in names})[0])
        return 1 / (1 + np.exp(-logits[:, 0]))

    return call


if __name__ == "__main__":
    typer.run(main)
