"""The whole field: our artifacts of any target and precision, and every peer by its name."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from benchmarks.speed import peers
from benchmarks.speed.client import Spec
from goldfold.exporter.artifact.bundle import Bundle

RUNTIMES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
WEIGHTS = ("*.xml", "*.bin", "*.onnx", "*.onnx.data", "*.onnx_data")
OPTIMUM = {
    "optimum": "model.onnx",
    "optimum-O1": "model_O1.onnx",
    "optimum-O2": "model_O2.onnx",
    "optimum-O3": "model_O3.onnx",
}
QINT8 = "model_qint8_avx512_vnni.onnx"


@dataclass(frozen=True)
class Entry:
    """A side, and what a reader is told of it. `files` are its weights and its graph."""

    spec: Spec
    ours: bool
    label: str
    files: tuple[Path, ...]

    @property
    def size(self) -> int:
        return sum(file.stat().st_size for file in self.files)


@dataclass(frozen=True)
class Model:
    """The model of a run, as the peers are told of it."""

    folder: Path
    threads: int
    dim: int

    @property
    def key(self) -> str:
        """The name of its exports: that of its folder, or of the package that holds it."""
        name = self.folder.name
        return name if name != "model" else self.folder.parent.name

    @property
    def dense(self) -> tuple[Path, ...]:
        """Its Dense modules, which an export of the transformer alone leaves out."""
        modules = json.loads((self.folder / "modules.json").read_text("utf-8"))
        return tuple(self.folder / one["path"] for one in modules if one["type"].endswith(".Dense"))


def ours(bundles: Sequence[Bundle], threads: int) -> list[Entry]:
    """Artifacts of ours; one that missed its gate says so, and those of one name have their
    folder's beside it."""
    names = [bundle.name for bundle in bundles]
    return [_ours(one, threads, names.count(one.name) > 1) for one in bundles]


def _ours(bundle: Bundle, threads: int, several: bool) -> Entry:
    manifest, path = bundle.manifest, bundle.path.absolute()
    more = f" ({path.parent.name})" if several else ""
    load = {
        "kind": "artifact", "artifact": str(path), "threads": threads,
        "imports": [manifest.target, "goldfold.exporter.artifact.encoder"],
    }  # fmt: skip
    missed = bundle.verdict is None or not bundle.verdict.passed
    note = "missed its gate, or was not verified" if missed else ""
    tokenizer = {path / f"openvino_tokenizer.{end}" for end in ("xml", "bin")}
    files = {file for pattern in WEIGHTS for file in path.glob(pattern)} - tokenizer
    spec = Spec(f"goldfold {bundle.name}{more}", Path(sys.executable), load, note=note)
    label = f"{RUNTIMES[manifest.target]} {manifest.precision}{more}"
    return Entry(spec, True, label, tuple(sorted(files)))


def peers_of(model: Model, wanted: Sequence[str]) -> tuple[list[Entry], list[str]]:
    """The peers whose names match one of `wanted`, and a sentence for each that cannot be had."""
    found: list[Entry] = []
    absent: list[str] = []
    for name, make in PEERS.items():
        if not any(fnmatch(name, one) for one in wanted):
            continue
        try:
            found.append(make(name, model))
        except peers.PeerError as error:
            absent.append(f"{name}: {error}")
    return found, absent


def _entry(name: str, python: Path, load: dict[str, Any], files: Sequence[Path]) -> Entry:
    return Entry(Spec(name, python, load), False, name, tuple(files))


def _with_data(file: Path) -> list[Path]:
    """An ONNX file, and the weights beside it."""
    return [file, *(f for end in ("_data", ".data") if (f := Path(f"{file}{end}")).is_file())]


def _onnx(model: Model, file: str, level: str) -> Path:
    """One of optimum's files. Raises PeerError with optimum's words where it makes none."""
    folder = peers.optimum_onnx(model.folder, model.key).folder
    path, refused = folder / "onnx" / file, folder / "refused.json"
    if not path.is_file():
        words = json.loads(refused.read_text("utf-8")) if refused.is_file() else {}
        raise peers.PeerError(words.get(level, f"optimum wrote no {file}"))
    return path


def _optimum(name: str, model: Model) -> Entry:
    """The transformer alone in a plain session; pooling and dense layers in NumPy."""
    file = _onnx(model, OPTIMUM[name], name.partition("-")[2])
    load = {
        "kind": "onnxruntime", "onnx": str(file), "threads": model.threads,
        "dense": [str(one) for one in model.dense], "imports": ["onnxruntime"],
    }  # fmt: skip
    dense = [one / "model.safetensors" for one in model.dense]
    return _entry(name, peers.prepare(peers.ONNX), load, [*_with_data(file), *dense])


def _st_onnx(name: str, model: Model) -> Entry:
    """sentence-transformers' own onnx backend, of optimum's file or its dynamic int8."""
    file = _onnx(model, *(("model.onnx", "") if name == "st-onnx" else (QINT8, "qint8")))
    load = {
        "kind": "sentence-transformers", "backend": "onnx", "path": str(file.parents[1]),
        "file_name": f"onnx/{file.name}", "threads": model.threads,
        "imports": ["sentence_transformers"],
    }  # fmt: skip
    dense = [one / "model.safetensors" for one in model.dense]
    return _entry(name, peers.prepare(peers.ONNX), load, [*_with_data(file), *dense])


def _fastembed(name: str, model: Model) -> Entry:
    """fastembed on optimum's file, since its own comes from a hub."""
    if model.dense:
        raise peers.PeerError(
            "it pools what a file gives and has no dense layers, and optimum's file of this model "
            "has none either; its own file comes from a hub"
        )
    file = _onnx(model, "model.onnx", "")
    load = {
        "kind": "fastembed", "folder": str(file.parents[1]), "file": f"onnx/{file.name}",
        "whole": False, "dim": model.dim, "threads": model.threads, "texts": True,
        "imports": ["fastembed"],
    }  # fmt: skip
    return _entry(name, peers.prepare(peers.FASTEMBED), load, _with_data(file))


def _torch(name: str, model: Model) -> Entry:
    dtype = {"f32": "float32", "bf16": "bfloat16"}[name.partition("-")[2]]
    load = {
        "kind": "sentence-transformers", "backend": "torch", "path": str(model.folder),
        "dtype": dtype, "threads": model.threads, "imports": ["sentence_transformers"],
    }  # fmt: skip
    files = sorted(model.folder.rglob("*.safetensors"))
    return _entry(name, peers.prepare(peers.MODERN), load, files)


def _optimum_intel(name: str, model: Model) -> Entry:
    folder = peers.optimum_intel(model.folder, model.key).folder
    xml = folder / "openvino_model.xml"
    load = {
        "kind": "openvino", "xml": str(xml), "threads": model.threads,
        "precision": name.rpartition("-")[2], "imports": ["openvino"],
    }  # fmt: skip
    return _entry(name, peers.prepare(peers.MODERN), load, [xml, xml.with_suffix(".bin")])


def _llama(name: str, model: Model) -> Entry:
    file = peers.gguf(model.folder, model.key, name.partition("-")[2])
    load = {
        "kind": "llama", "gguf": str(file), "threads": model.threads, "imports": ["llama_cpp"]
    }  # fmt: skip
    return _entry(name, peers.prepare(peers.LLAMA), load, [file])


PEERS: dict[str, Callable[[str, Model], Entry]] = {
    **dict.fromkeys(OPTIMUM, _optimum),
    "st-onnx": _st_onnx,
    "st-qint8": _st_onnx,
    "fastembed": _fastembed,
    "torch-f32": _torch,
    "torch-bf16": _torch,
    "optimum-intel-f32": _optimum_intel,
    "optimum-intel-bf16": _optimum_intel,
    **{f"llama.cpp-{kind}": _llama for kind in peers.GGUF},
}
