"""The sound artifacts that are made wrong: small models of several families, all-MiniLM-L6-v2, and
a small BERT with that one's 30,522 words; each exported once."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # before torch: the models are tiny
    os.environ.setdefault(_name, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

WIDE = "bert-wide"
MINILM = "minilm"
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": ("gemma3", {}),
    "bert": ("bert", {}),
    "bert-cls": ("bert", {"pooling_mode": "cls", "default_prompt_name": "query"}),
    "bert-dense-tanh": ("bert-dense-tanh", {"prompts": {}}),
    "modernbert": ("modernbert", {}),
    "mpnet": ("mpnet", {}),
    "qwen3": ("qwen3", {}),
    WIDE: ("bert", {"vocab_size": 30522, "hidden_size": 48, "prompts": {}, "max_seq_length": 256}),
}
"""tests.models' kind, and what is other about it."""
RECIPES = {
    "seven": (
        'gains = "keep"\n[weights]\nbits = 8\nblock = 16\n'
        "[table]\nbits = 7\nblock = 16\n"
        '[[rule]]\nkinds = ["head"]\noptional = true\nbits = 0\n'
    )
}
"""Recipes of our own: this one is quick, and has steps, offsets and a packed table."""
ABSOLUTE = frozenset({"bert", "bert-cls", "bert-dense-tanh", "mpnet", WIDE, MINILM})
"""Models whose keys no rotation turns and no norm scales."""
SHORT = {"buckets": (128,)}
"""Core ML in half precision is evaluated by goldfold: one bucket is enough of that."""


@dataclass(frozen=True)
class Base:
    """One sound artifact."""

    model: str
    target: str
    precision: str
    room: Path = Path()
    weight: float = 1.0
    """How often it is drawn, against the others."""

    @property
    def name(self) -> str:
        return f"{self.model}/{self.target}-{self.precision}"

    @property
    def folder(self) -> Path:
        return self.room / "sound" / self.model / f"{self.target}-{self.precision}"

    @property
    def source(self) -> Path:
        return source_of(self.model, self.room)

    @property
    def asked(self) -> str:
        """The precision as an export is asked for it: its name, or a recipe's file."""
        if self.precision not in RECIPES:
            return self.precision
        file = self.room / "recipes" / f"{self.precision}.toml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(RECIPES[self.precision], encoding="utf-8")
        return str(file)

    @property
    def goldens(self) -> Path:
        return self.room / "goldens" / self.model

    @property
    def build(self) -> dict[str, Any]:
        short = self.target == "coreml" and self.precision != "fp32"
        return SHORT if short else {}

    @property
    def contract(self) -> dict[str, Any]:
        return json.loads((self.folder / "manifest.json").read_text("utf-8"))["contract"]

    @property
    def vocabulary(self) -> int:
        return int(self.contract["vocab_size"])

    @property
    def longest(self) -> int:
        return int(self.contract["max_length"])

    @property
    def head(self) -> int:
        """Numbers a head."""
        return 32 if self.model == MINILM else 16

    @property
    def absolute(self) -> bool:
        return self.model in ABSOLUTE

    @property
    def stranger(self) -> Path | None:
        """The OpenVINO tokenizer of another model."""
        own = self.folder.parent.name
        for other in sorted(self.room.glob("sound/*/openvino-*/openvino_tokenizer.xml")):
            kind = other.parent.parent.name
            if (kind in (MINILM, WIDE)) != (own in (MINILM, WIDE)):
                return other
        return None

    def rare(self, rng: np.random.Generator) -> int:
        """An id of the last half of the vocabulary."""
        return int(rng.integers(self.vocabulary // 2, self.vocabulary))


def _many(model: str, target: str, precisions: str, weight: float = 1.0) -> list[Base]:
    return [Base(model, target, precision, weight=weight) for precision in precisions.split()]


ALL: tuple[Base, ...] = (
    *_many("gemma3", "onnxruntime", "fp32 fp16 int8 int4"),
    *_many("bert", "onnxruntime", "fp32 int8-static"),
    *_many("modernbert", "onnxruntime", "fp32"),
    *_many("qwen3", "onnxruntime", "fp32"),
    *_many(WIDE, "onnxruntime", "fp32 small", 1.5),
    *_many(MINILM, "onnxruntime", "fp32", 0.6),
    *_many("gemma3", "openvino", "fp32 fp16 int8 int4"),
    *_many("bert-cls", "openvino", "fp32"),
    *_many("modernbert", "openvino", "fp32 int8"),
    *_many("mpnet", "openvino", "fp32"),
    *_many(WIDE, "openvino", "fp32", 1.5),
    *_many(MINILM, "openvino", "fp32", 0.6),
    *_many("gemma3", "coreml", "fp32"),
    *_many("gemma3", "coreml", "int4", 0.4),  # goldfold rounds every value: ten seconds
    *_many("bert-dense-tanh", "coreml", "fp32"),
    *_many("bert-dense-tanh", "coreml", "fp16", 0.4),
    *_many("modernbert", "coreml", "fp32"),
    *_many("gemma3", "tensorrt", "fp32 fp16 int4"),
    *_many("bert-cls", "tensorrt", "fp32"),
    *_many(WIDE, "tensorrt", "fp16 int8"),
)


def settled(room: Path, bases: tuple[Base, ...] = ALL) -> tuple[Base, ...]:
    """The bases, in a folder, of the targets that this machine has."""
    from goldfold.exporter import registry

    able = {name for name in {base.target for base in bases} if not registry.unavailable(name)}
    return tuple(replace(base, room=room) for base in bases if base.target in able)


def source_of(model: str, room: Path) -> Path:
    """The model's folder."""
    if model == MINILM:
        return _minilm()
    return room / "models" / model


def _minilm() -> Path:
    from goldfold.exporter.frontend import packaged

    return packaged.locate(packaged.MINILM)


def build_model(model: str, room: Path) -> Path:
    """Make a model's folder, unless it is there."""
    from tests import models

    folder = source_of(model, room)
    if folder.is_dir():
        return folder
    kind, other = MODELS[model]
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    models.build(kind, fresh, **other)
    if model == WIDE:
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            with suppress(FileNotFoundError):
                shutil.copyfile(_minilm() / name, fresh / name)
    fresh.rename(folder)
    return folder


def build(model: str, bases: list[Base]) -> None:
    """Export all artifacts of one model that are missing; each must pass."""
    from goldfold import export
    from goldfold.exporter.driver import exporting
    from goldfold.golden import store

    room = bases[0].room
    missing = [base for base in bases if not base.folder.is_dir()]
    if not missing:
        return
    source = build_model(model, room)
    obtain = exporting.obtain_goldens

    def kept(*given: Any, **named: Any) -> Any:
        if not bases[0].goldens.is_dir():
            goldens = obtain(*given, **named)
            bases[0].goldens.parent.mkdir(parents=True, exist_ok=True)
            store.save(goldens, bases[0].goldens)
        return store.load(bases[0].goldens)

    exporting.obtain_goldens = kept
    try:
        for base in missing:
            (result,) = export(
                source,
                [base.target],
                [base.asked],
                base.folder.parent,
                name=model,
                build=base.build,
                locate=False,
            )
            if not result.passed:
                raise RuntimeError(f"{base.name} is no sound artifact: {result.verdict.sentences}")
    finally:
        exporting.obtain_goldens = obtain
