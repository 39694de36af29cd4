"""The layout for browsers: a static page that opens the artifact in ONNX Runtime Web.

index.html, page.*    the page;  goldfold.mjs is all that another page needs
web.json              the contract, and the size and sha256 of every file that is fetched
canaries.json         three golden texts, written by goldfold.exporter.artifact.canaries
model/                the artifact's files
runtime/              ONNX Runtime Web and the tokenizer's library, from npm
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from goldfold.exporter.contract import Contract, Task
from goldfold.exporter.errors import ArtifactError, TargetError
from goldfold.exporter.ir import protobuf
from goldfold.exporter.system.files import digest, place_of, read_bounded
from goldfold.targets.onnxruntime import npm
from goldfold.targets.onnxruntime.layouts import copy

WEB = "web"
LIMIT = 2**31 - 1
"""The most bytes of a file: page/goldfold.mjs says why."""
_FORMAT = "goldfold.web/1"
_PAGE = ("index.html", "page.css", "page.mjs", "start.js", "goldfold.mjs", "verify.mjs")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
_TERMS = ("LICENSE", "NOTICE", "COPYING", "MODEL_CARD")
"""The beginnings of the names of files that travel with a model."""
_ORT, _TOKENS = "onnxruntime-web", "@huggingface/tokenizers"
_PLAIN, _GPU = "ort-wasm-simd-threaded", "ort-wasm-simd-threaded.asyncify"
_RUNTIME = {
    "wasm": ("ort.wasm.min.mjs", _PLAIN),
    "webgpu": ("ort.webgpu.min.mjs", _GPU),
}
"""The script of each runtime, and the name of its WebAssembly, in the package's `dist`."""
_TASKS: tuple[Task, ...] = ("", "query", "document")
_MANIFEST_LIMIT = 16 << 20


def lay_out(folder: Path, contract: Contract, out: Path) -> tuple[str, ...]:
    """Write the page for the artifact in `folder` into the empty folder `out`.

    Returns notes for the user, one sentence each. Raises TargetError for a model that is no encoder
    of texts, for a file over 2 GB, and where the packages from npm are missing.
    """
    _check(folder, contract)
    external = sorted(protobuf.references(folder / protobuf.MODEL))
    names = [*external, protobuf.MODEL, *_TOKENIZER]
    for name in names:
        _check_size(folder, name)
    modules = npm.modules()
    for name in _PAGE:
        copy(npm.PAGE / name, out / name)
    terms = [path.name for path in folder.iterdir() if path.name.upper().startswith(_TERMS)]
    for name in (*names, *terms):
        copy(place_of(folder, name), place_of(out / "model", name))
    counted = [f"model/{name}" for name in names]
    for name, source in _runtime(modules).items():
        copy(source, out / "runtime" / name)
        counted += [f"runtime/{name}"] if name.endswith(".wasm") else []
    files = {
        name: {"size": place_of(out, name).stat().st_size, "sha256": digest(place_of(out, name))}
        for name in counted
    }
    sheet = _sheet(folder, contract) | {"external": external, "files": files}
    text = json.dumps(sheet, ensure_ascii=False, indent=1) + "\n"
    (out / "web.json").write_text(text, encoding="utf-8")
    fetched = sum(one["size"] for name, one in files.items() if "asyncify" not in name)
    return (
        f"a browser fetches {fetched / 1e6:,.0f} MB; serve the folder over http, not as a file",
        "threads need the headers Cross-Origin-Opener-Policy: same-origin and "
        "Cross-Origin-Embedder-Policy: require-corp",
    )


def _check(folder: Path, contract: Contract) -> None:
    if contract.task != "embedding":
        raise TargetError(
            f"{folder} gives {contract.task}, and the page ranks by embeddings of texts; use "
            "goldfold.load"
        )
    if contract.frame is not None:
        raise TargetError(
            f"{folder} puts texts into a chat template, which the page does not; use goldfold.load"
        )
    missing = [name for name in _TOKENIZER if not (folder / name).is_file()]
    if missing:
        raise TargetError(f"{folder} has no {missing[0]}, which the page's tokenizer reads")


def _check_size(folder: Path, name: str) -> None:
    size = place_of(folder, name).stat().st_size
    if size > LIMIT:
        raise TargetError(
            f"{folder}: {name} has {size / 1e9:.1f} GB, and a browser holds no file over 2 GB; "
            "export it in fewer bits, as --precision int8"
        )


def _sheet(folder: Path, contract: Contract) -> dict[str, Any]:
    """Returns what the page reads of the contract."""
    try:
        manifest = json.loads(read_bounded(folder / "manifest.json", _MANIFEST_LIMIT))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder}: manifest.json cannot be read: {error}") from None
    tasks = {
        task: {"prompt": contract.prompt_name(task), "length": contract.length_of(task)}
        for task in _TASKS
    }
    after = {name: contract.output_after(tokens) for name, tokens in contract.unpooled.items()}
    return {
        "format": _FORMAT,
        "model": contract.model,
        "precision": manifest["precision"],
        "manifest_sha256": digest(folder / "manifest.json"),
        "dim": contract.dim,
        "inputs": contract.inputs,
        "output": contract.output,
        "unpooled": after,
        "prompts": contract.prompts,
        "tasks": tasks,
        "similarity": contract.similarity,
        "truncation_side": contract.truncation_side,
        "runtime": {
            place: {
                "script": f"runtime/{script}",
                "loader": f"runtime/{wasm}.mjs",
                "wasm": f"runtime/{wasm}.wasm",
            }
            for place, (script, wasm) in _RUNTIME.items()
        },
    }


def _runtime(modules: Path) -> dict[str, Path]:
    """Returns the files that come from npm, by their names in the layout."""
    dist = modules / _ORT / "dist"
    scripts = {script for script, _ in _RUNTIME.values()}
    loaders = {f"{wasm}.{end}" for _, wasm in _RUNTIME.values() for end in ("mjs", "wasm")}
    found = {name: dist / name for name in sorted(scripts | loaders)}
    tokens = modules / _TOKENS
    found[Path(npm.TOKENS).name] = tokens / "dist" / "tokenizers.min.mjs"
    found["tokenizers.LICENSE"] = tokens / "LICENSE"
    for path in found.values():
        if not path.is_file():
            raise TargetError(f"{path} is missing: install npm's packages anew")
    return found
