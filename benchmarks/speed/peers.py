"""The peers: their environments, made once and pinned, and their own exports of the model.

All of it lives in one cache folder outside the repository, `~/.cache/goldfold-peers` unless told
otherwise: two environments of about 1.5 GB, and an export of the model for each tool.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
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
import sys
from pathlib import Path
from sentence_transformers import SentenceTransformer
from sentence_transformers import export_dynamic_quantized_onnx_model
from sentence_transformers import export_optimized_onnx_model
source, folder = sys.argv[1:]
Path(folder).mkdir()
model = SentenceTransformer(source, backend="onnx", device="cpu", model_kwargs={"export": True})
model.save_pretrained(folder)
for level in ("O1", "O2", "O3"):
    export_optimized_onnx_model(model, level, folder)
export_dynamic_quantized_onnx_model(model, "avx512_vnni", folder)
"""


class PeerError(Exception):
    """A peer's own tool does not export this model."""


@dataclass(frozen=True)
class Environment:
    name: str
    pins: Path

    @property
    def python(self) -> Path:
        return CACHE / self.name / "bin" / "python"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.pins.read_bytes()).hexdigest()


MODERN = Environment("venv", HERE / "peers.txt")
ONNX = Environment("venv-onnx", HERE / "peers-onnx.txt")


def prepare(environment: Environment) -> Path:
    """Its Python; the environment is made if it is not there or its pins have changed."""
    folder = CACHE / environment.name
    stamp = folder / "pins.sha256"
    if stamp.is_file() and stamp.read_text("utf-8") == environment.digest:
        return environment.python
    print(f"making {folder} (about 1.5 GB) ...", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(environment.python), "-m", "pip", "install", "--quiet"]
    pip.append("--disable-pip-version-check")
    pins = str(environment.pins)
    # torch with what it needs (that differs by index: CPU or CUDA), then the rest as it is pinned.
    subprocess.run([*pip, "--constraint", pins, "torch"], check=True)
    subprocess.run([*pip, "--no-deps", "--requirement", pins], check=True)
    stamp.write_text(environment.digest, encoding="utf-8")
    return environment.python


def versions(environment: Environment) -> dict[str, str]:
    """What the pins say of the packages that matter here."""
    wanted = (
        "openvino", "optimum", "optimum-intel", "optimum-onnx", "onnxruntime",
        "sentence-transformers", "torch", "transformers",
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
    `model_O3.onnx`, and `model_qint8_avx512_vnni.onnx`, its dynamic int8."""
    command = [str(prepare(ONNX)), "-c", _OPTIMIZE, str(model)]
    return _export(ONNX, command, CACHE / f"{key}-optimum-onnx")


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
    ended = subprocess.run(
        [*command, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if ended.returncode:
        lines = [line for line in ended.stdout.splitlines() if line.strip()] or ["it said nothing"]
        raise PeerError(f"{folder.name} cannot be exported: {lines[-1]}")
    seconds = round(time.perf_counter() - started, 1)
    record = {"pins": environment.digest, "seconds": seconds}
    done.write_text(json.dumps(record) + "\n", encoding="utf-8")
    return Exported(folder, seconds)
