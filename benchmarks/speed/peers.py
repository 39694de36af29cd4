"""The peers: their environments, made once and pinned, and their own exports of the model.

All of it lives in one cache folder outside the repository, `~/.cache/goldfold-peers` unless told
otherwise: two environments of about 1.5 GB, one of fastembed, one of llama.cpp, built there, and an
export of the model for each tool.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
CACHE = Path.home() / ".cache" / "goldfold-peers"

_SAVE = """
import sys
from sentence_transformers import SentenceTransformer
source, backend, folder = sys.argv[1:]
SentenceTransformer(source, backend=backend, device="cpu",
                    model_kwargs={"export": True}).save_pretrained(folder)
"""

_OPTIMIZE = """
import json
import sys
from pathlib import Path
from sentence_transformers import SentenceTransformer
from sentence_transformers import export_dynamic_quantized_onnx_model
from sentence_transformers import export_optimized_onnx_model
source, folder = sys.argv[1:]
Path(folder).mkdir()
model = SentenceTransformer(source, backend="onnx", device="cpu", model_kwargs={"export": True})
model.save_pretrained(folder)
refused = {}
for level in ("O1", "O2", "O3", "qint8"):
    try:
        if level == "qint8":
            export_dynamic_quantized_onnx_model(model, "avx512_vnni", folder)
        else:
            export_optimized_onnx_model(model, level, folder)
    except Exception as error:
        refused[level] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
(Path(folder) / "refused.json").write_text(json.dumps(refused))
"""


_CONVERT = """
import runpy
import sys
from pathlib import Path
script, model, kind, folder = sys.argv[1:]
Path(folder).mkdir()
sys.argv = [script, model, "--outtype", kind, "--outfile", f"{folder}/model.gguf",
            "--sentence-transformers-dense-modules"]
sys.path.insert(0, str(Path(script).parent))
runpy.run_path(script, run_name="__main__")
"""

_QUANTIZE = """
import sys
from pathlib import Path
import llama_cpp
source, kind, threads, folder = sys.argv[1:]
Path(folder).mkdir()
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.nthread = int(kind), int(threads)
failed = llama_cpp.llama_model_quantize(source.encode(), f"{folder}/model.gguf".encode(), params)
sys.exit(f"llama_model_quantize returned {failed}" if failed else 0)
"""
GGUF = {"F32": "f32", "BF16": "bf16", "Q8_0": "7", "Q4_0": "2", "Q4_K_M": "15"}
"""What llama.cpp's converter calls a type, or the number of a `llama_ftype` for its quantizer."""
CONVERTER = "llama_cpp_python-0.3.36"


class PeerError(Exception):
    """A peer cannot be installed, or its own tool does not export this model."""


@dataclass(frozen=True)
class Environment:
    name: str
    pins: Path
    size: str = "about 1.5 GB"
    build: Mapping[str, str] = field(default_factory=dict)
    """Variables for a package that is built from source."""

    @property
    def python(self) -> Path:
        return CACHE / self.name / "bin" / "python"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.pins.read_bytes()).hexdigest()


MODERN = Environment("venv", HERE / "peers.txt")
ONNX = Environment("venv-onnx", HERE / "peers-onnx.txt")
FASTEMBED = Environment("venv-fastembed", HERE / "peers-fastembed.txt", "about 0.3 GB")
LLAMA = Environment(
    "venv-llama", HERE / "peers-llama.txt", "about 1.5 GB, and a build of ten minutes",
    {"CMAKE_ARGS": "-DGGML_NATIVE=ON", "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1)},
)  # fmt: skip


def prepare(environment: Environment) -> Path:
    """Its Python; the environment is made if it is not there or its pins have changed. Raises
    PeerError, with the last line that pip printed."""
    folder = CACHE / environment.name
    stamp = folder / "pins.sha256"
    if stamp.is_file() and stamp.read_text("utf-8") == environment.digest:
        return environment.python
    print(f"making {folder} ({environment.size}) ...", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)], environment.name, "made")
    pip = [str(environment.python), "-m", "pip", "install", "--quiet"]
    pip.append("--disable-pip-version-check")
    pins = str(environment.pins)
    # torch with what it needs (that differs by index: CPU or CUDA), then the rest as it is pinned.
    if "\ntorch==" in environment.pins.read_text("utf-8"):
        _run([*pip, "--constraint", pins, "torch"], environment.name, "installed")
    rest = [*pip, "--no-deps", "--requirement", pins]
    _run(rest, environment.name, "installed", environment.build)
    stamp.write_text(environment.digest, encoding="utf-8")
    return environment.python


def _run(
    command: Sequence[str], what: str, done: str, build: Mapping[str, str] | None = None
) -> None:
    """Run a tool. Raises PeerError, with the last line that it printed, where it fails."""
    ended = subprocess.run(
        [*command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, **(build or {})},
    )  # fmt: skip
    if ended.returncode:
        lines = [line for line in ended.stdout.splitlines() if line.strip()] or ["it said nothing"]
        raise PeerError(f"{what} cannot be {done}: {lines[-1].strip()}")


def versions(environment: Environment) -> dict[str, str]:
    """What the pins say of the packages that matter here."""
    wanted = (
        "fastembed", "llama_cpp_python", "openvino", "optimum", "optimum-intel", "optimum-onnx",
        "onnxruntime", "sentence-transformers", "torch", "transformers",
    )  # fmt: skip
    lines = environment.pins.read_text("utf-8").splitlines()
    pairs = [line.partition("==") for line in lines if "==" in line and not line.startswith("#")]
    return {name: version for name, _, version in pairs if name in wanted}


@dataclass(frozen=True)
class Exported:
    """A peer's export: its folder, and how long it took."""

    folder: Path
    seconds: float


def optimum_intel(model: Path, key: str) -> Exported:
    """`optimum-cli export openvino --library sentence_transformers`, weights kept in f32."""
    python = prepare(MODERN)
    command = [
        str(python.with_name("optimum-cli")), "export", "openvino", "--model", str(model),
        "--library", "sentence_transformers", "--task", "feature-extraction",
        "--weight-format", "fp32",
    ]  # fmt: skip
    return _export(MODERN, command, CACHE / f"{key}-optimum-intel")


def sentence_transformers(model: Path, key: str, backend: str) -> Exported:
    """sentence-transformers' own export for its openvino or onnx backend, saved."""
    environment = ONNX if backend == "onnx" else MODERN
    command = [str(prepare(environment)), "-c", _SAVE, str(model), backend]
    return _export(environment, command, CACHE / f"{key}-sentence-transformers-{backend}")


def optimum_onnx(model: Path, key: str) -> Exported:
    """optimum's files through sentence-transformers: `onnx/model.onnx`, `model_O1.onnx` to
    `model_O3.onnx`, and `model_qint8_avx512_vnni.onnx`, its dynamic int8; `refused.json` names
    those of the last four that optimum does not make, with its words."""
    command = [str(prepare(ONNX)), "-c", _OPTIMIZE, str(model)]
    return _export(ONNX, command, CACHE / f"{key}-optimum-onnx")


def gguf(model: Path, key: str, kind: str) -> Path:
    """The model's file for llama.cpp in one of GGUF's types, with its dense modules.

    F32 and BF16 are what llama.cpp's own converter writes, from the source package of its Python
    bindings; the others are made of F32 by `llama_model_quantize`, as `llama-quantize` does it.
    """
    python, folder = str(prepare(LLAMA)), CACHE / f"{key}-gguf-{kind}"
    if GGUF[kind].isdigit():
        command = [python, "-c", _QUANTIZE, str(gguf(model, key, "F32")), GGUF[kind]]
        return _export(LLAMA, [*command, str(os.cpu_count() or 1)], folder).folder / "model.gguf"
    script = _converter() / "convert_hf_to_gguf.py"
    command = [python, "-c", _CONVERT, str(script), str(model), GGUF[kind]]
    return _export(LLAMA, command, folder).folder / "model.gguf"


def _converter() -> Path:
    """llama.cpp's sources, of the release that is built: pip has no copy of the converter."""
    sources = CACHE / CONVERTER / "vendor" / "llama.cpp"
    if not (sources / "convert_hf_to_gguf.py").is_file():
        name, _, version = CONVERTER.rpartition("-")
        pip = [str(prepare(LLAMA)), "-m", "pip", "download", "--quiet", "--no-deps"]
        pip += ["--no-binary", ":all:", "--dest", str(CACHE), f"{name}=={version}"]
        _run(pip, CONVERTER, "downloaded")
        part = CACHE / f"{CONVERTER}.part"  # whole or not at all
        with tarfile.open(CACHE / f"{CONVERTER}.tar.gz") as packed:
            packed.extractall(part, filter="data")
        shutil.rmtree(CACHE / CONVERTER, ignore_errors=True)
        (part / CONVERTER).replace(CACHE / CONVERTER)
        shutil.rmtree(part)
        (CACHE / f"{CONVERTER}.tar.gz").unlink()
    return sources


def _export(environment: Environment, command: list[str], folder: Path) -> Exported:
    """Run `command` with the folder to write appended, unless the same pins finished it before.

    Raises PeerError, with the last line that the tool printed.
    """
    done = folder / "goldfold-peer.json"
    if done.is_file():
        record: dict[str, Any] = json.loads(done.read_text("utf-8"))
        if record.get("pins") == environment.digest:
            return Exported(folder, record["seconds"])
    shutil.rmtree(folder, ignore_errors=True)
    print(f"exporting {folder.name} ...", file=sys.stderr)
    started = time.perf_counter()
    _run([*command, str(folder)], folder.name, "exported")
    seconds = round(time.perf_counter() - started, 1)
    record = {"pins": environment.digest, "seconds": seconds}
    done.write_text(json.dumps(record) + "\n", encoding="utf-8")
    return Exported(folder, seconds)
