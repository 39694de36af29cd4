"""load.py of TensorRT makes the calls that an engine needs, in their order.

There is no GPU: memory of the device is memory of this process, and the engine is the same graph in
ONNX Runtime. What NVIDIA's own library makes of these calls is not shown here.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from goldfold import load
from goldfold.targets.tensorrt import TARGET

TEXTS = ["a text", "", "another that is longer " * 5, "x", "Größe 🍞", "seven", "eight words here"]
PROFILES = (((1, 1), (1, 8), (2, 16)), ((1, 1), (4, 64), (4, 4096)))


class _Memory:
    """The calls of cuda.bindings.runtime that are made, on this process's own memory."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self) -> None:
        self.held: dict[int, Any] = {}

    def cudaGetDevice(self) -> tuple[int, int]:
        return 0, 0

    def cudaSetDevice(self, device: int) -> tuple[int]:
        return (0 if device == 0 else 101,)

    def cudaStreamCreate(self) -> tuple[int, int]:
        return 0, 7

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        return (0,)

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        buffer = ctypes.create_string_buffer(size)
        self.held[ctypes.addressof(buffer)] = buffer
        return 0, ctypes.addressof(buffer)

    def cudaFree(self, address: int) -> tuple[int]:
        del self.held[address]
        return (0,)

    def cudaMemcpyAsync(self, to: int, start: int, size: int, kind: int, stream: int) -> tuple[int]:
        device = to if kind == 1 else start
        assert stream == 7 and len(self.held[device]) >= size
        ctypes.memmove(to, start, size)
        return (0,)


class _Context:
    """An execution context: what was set is what is computed."""

    def __init__(self, session: Any, memory: _Memory) -> None:
        self.session, self.memory, self.profile = session, memory, -1
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.places: dict[str, int] = {}

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        return stream == 7

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = PROFILES[self.profile]
        self.shapes[name] = shape
        return all(low <= n <= high for low, n, high in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.places[name] = address
        return address in self.memory.held

    def execute_async_v3(self, stream: int) -> bool:
        feeds = {}
        for name, shape in self.shapes.items():
            raw = ctypes.string_at(self.places[name], 8 * int(np.prod(shape)))
            feeds[name] = np.frombuffer(raw, np.int64).reshape(shape)
        names = [one.name for one in self.session.get_outputs()]
        for name, rows in zip(names, self.session.run(names, feeds), strict=True):
            assert len(self.memory.held[self.places[name]]) >= rows.nbytes
            ctypes.memmove(self.places[name], np.ascontiguousarray(rows).tobytes(), rows.nbytes)
        return True


@pytest.fixture
def program(
    artifacts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ModuleType:
    folder = Path(shutil.copytree(artifacts["onnxruntime"], tmp_path / "engine"))
    manifest = load(artifacts["onnxruntime"]).bundle.manifest
    TARGET.write_loader(folder, manifest.contract, "fp32")
    (folder / "model.engine").write_bytes(b"an engine")
    spec = {"module": "tensorrt_rtx", "compatible": [], "capabilities": ["sm90"]}
    (folder / "build.json").write_text(json.dumps(spec))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    memory = _Memory()
    engine = SimpleNamespace(
        num_optimization_profiles=len(PROFILES),
        get_tensor_profile_shape=lambda name, at: PROFILES[at],
        create_execution_context=lambda: _Context(session, memory),
    )
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda raw: engine if raw else None)
    library: Any = ModuleType("tensorrt_rtx")
    library.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
    library.Runtime = lambda logger: runtime
    bindings: Any = ModuleType("cuda.bindings")
    bindings.runtime = memory
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", library)
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    found = importlib.util.spec_from_file_location("loader", folder / "load.py")
    assert found is not None and found.loader is not None
    made = importlib.util.module_from_spec(found)
    found.loader.exec_module(made)
    return made


def test_profiles_parts_and_buffers(program: Any, artifacts: dict[str, Path]) -> None:
    """Batches beyond a profile run in parts, buffers grow and are given back, results stay."""
    encoder = load(artifacts["onnxruntime"])
    first = program.embed(TEXTS[:1])
    kept = first.copy()
    assert np.abs(program.embed(TEXTS) - encoder.embed(TEXTS)).max() < 2e-6
    assert (
        np.abs(program.embed_query(TEXTS, batch_size=2) - encoder.embed_query(TEXTS)).max() < 2e-6
    )
    assert np.array_equal(first, kept)
    assert np.array_equal(program.embed(TEXTS[:1]), kept)
    assert len(program.cuda.held) == 2 + len(program.SIZES)


def test_more_tokens_than_a_profile_takes(program: Any) -> None:
    ids = np.ones((1, 5000), np.int64)
    with pytest.raises(ValueError, match="no profile of the engine takes 5000 tokens"):
        program.run(ids, ids, "sentence_embedding")
