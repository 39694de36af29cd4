"""Who is compared in each variant: the same precision, threads and hint for everyone in it.

A variant is one interleaved run. Ours in bf16 is the fp32 file compiled with OpenVINO's bf16 hint:
the graph that `goldfold export --precision bf16` writes is the same, byte for byte, but it misses
its gate and so is not an artifact; its quality stands in the quality table.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.speed.client import Spec
from benchmarks.speed.peers import MODERN, ONNX, Exported, prepare

OURS = "goldfold"
OPTIMUM = "optimum-intel"
ST_OPENVINO, ST_ONNX, ST_TORCH = "st openvino", "st onnx", "st torch"

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
"""Caps oneDNN's kernels and most of the plugin's own, which ask oneDNN what they may use. It does
not reach MLAS, which computes a plain f32 product and asks the processor itself, nor MVN and
Reduce: the record's kernels show it. In bf16 OpenVINO then refuses to compile a softmax. So this
is less than a machine without AVX-512, and nothing short of one is the whole of it."""


@dataclass(frozen=True)
class Variant:
    name: str
    precision: str
    hint: str = "LATENCY"
    capped: bool = False
    sides: tuple[str, ...] = ()

    @property
    def env(self) -> dict[str, str]:
        return dict(AVX2) if self.capped else {}

    @property
    def at_once(self) -> bool:
        """Whether calls are timed several at once, for that is what the hint is about."""
        return self.hint == "THROUGHPUT"


VARIANTS = (
    Variant("f32", "f32", sides=(OURS, OPTIMUM, ST_OPENVINO, ST_ONNX, ST_TORCH)),
    Variant("bf16", "bf16", sides=(OURS, OPTIMUM, ST_OPENVINO, ST_TORCH)),
    Variant("f32-throughput", "f32", "THROUGHPUT", sides=(OURS, OPTIMUM)),
    Variant("bf16-throughput", "bf16", "THROUGHPUT", sides=(OURS, OPTIMUM)),
    Variant("f32-capped", "f32", capped=True, sides=(OURS, OPTIMUM, ST_OPENVINO)),
)


@dataclass(frozen=True)
class Folders:
    """What the sides load; `exports` by side, of those that could be made."""

    artifacts: tuple[Path, ...]
    model: Path
    exports: Mapping[str, Exported]


def specs(
    variant: Variant, folders: Folders, threads: int, only: Sequence[str] | None
) -> list[Spec]:
    """The sides of a variant, or those named in `only`; ours are always among them."""
    common = {"threads": threads, "precision": variant.precision, "hint": variant.hint}
    found: list[Spec] = []
    for place, artifact in enumerate(folders.artifacts):
        xml = next(artifact.glob("*model.xml"))  # earlier artifacts: model.xml
        load = common | {
            "kind": "openvino", "xml": str(xml), "artifact": str(artifact),
            "imports": ["openvino", "goldfold.exporter.artifact.encoder"],
        }  # fmt: skip
        name = OURS if place == 0 else f"{OURS} {artifact.parent.name}/{artifact.name}"
        found.append(Spec(name, Path(sys.executable), load))
    if OPTIMUM in variant.sides and OPTIMUM in folders.exports:
        folder = folders.exports[OPTIMUM].folder
        load = common | {
            "kind": "openvino", "xml": str(folder / "openvino_model.xml"),
            "optimum": str(folder), "imports": ["openvino"],
        }  # fmt: skip
        found.append(Spec(OPTIMUM, prepare(MODERN), load))
    library = common | {"kind": "sentence-transformers", "imports": ["sentence_transformers"]}
    if ST_OPENVINO in variant.sides and ST_OPENVINO in folders.exports:
        load = library | {"backend": "openvino", "path": str(folders.exports[ST_OPENVINO].folder)}
        found.append(Spec(ST_OPENVINO, prepare(MODERN), load))
    if ST_ONNX in variant.sides and ST_ONNX in folders.exports:
        load = library | {"backend": "onnx", "path": str(folders.exports[ST_ONNX].folder)}
        found.append(Spec(ST_ONNX, prepare(ONNX), load))
    if ST_TORCH in variant.sides and (not only or ST_TORCH in only):
        dtype = {"f32": "float32", "bf16": "bfloat16"}[variant.precision]
        load = library | {"backend": "torch", "path": str(folders.model), "dtype": dtype}
        found.append(Spec(ST_TORCH, prepare(MODERN), load))
    return [replace(spec, env={**spec.env, **variant.env}) for spec in found]
