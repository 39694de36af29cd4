"""What is tortured: a small EmbeddingGemma with random weights, and its artifacts."""

from __future__ import annotations

import importlib
import os
from functools import partial
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # before torch: the model is tiny
    os.environ.setdefault(_name, "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

TARGETS = ("openvino", "onnxruntime")
TEXTS = (
    "card-query", "german-query", "chinese", "emoji-single", "empty", "prompt-query", "length-16",
    "length-257",
)  # fmt: skip
LENGTH = 2048


_IMPORTED = (
    "onnxruntime", "openvino", "sentence_transformers", "torch._dynamo", "torch.onnx",
    "transformers.models.gemma3.modeling_gemma3", "goldfold.exporter.cli.app",
    "goldfold.exporter.driver.exporting", "goldfold.exporter.frontend.trace",
    "goldfold.exporter.verification.verifying", "goldfold.golden.make",
    "goldfold.targets.onnxruntime.run", "goldfold.targets.openvino.build",
    "goldfold.targets.openvino.run", "tests.models",
)  # fmt: skip


def load_all() -> None:
    """Import what children need, so that each is born with it. Starts no threads."""
    for name in _IMPORTED:
        importlib.import_module(name)


def few_texts() -> None:
    """Let goldens be made of a few texts, which a tiny model's export then costs least by."""
    from goldfold.golden import make as golden_make

    if not isinstance(golden_make.make, partial):
        golden_make.make = partial(golden_make.make, only=TEXTS)


def build_model(folder: Path, seed: int = 7, length: int = LENGTH) -> Path:
    from tests import models

    sizes = {"max_seq_length": length, "max_position_embeddings": length}
    return models.build("gemma3", folder, seed=seed, **sizes)


def build(model: Path, out: Path, names: tuple[str, ...] = TARGETS) -> None:
    """Export `model` in fp32 for `names` into `out`; fails unless every gate is met."""
    from goldfold import export

    few_texts()
    results = export(model, names, ("fp32",), out)
    assert all(result.passed for result in results)
