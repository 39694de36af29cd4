"""Run an engine on a GPU: one context and stream, a profile a shape, buffers that grow.

Nothing here has a substitute: where there is no GPU, loading is an error.
"""

from __future__ import annotations

import json
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from exporter.errors import ArtifactError, TargetError
from exporter.files import read_bounded
from exporter.program import ATTENTION_MASK, INPUT_IDS, Contract
from targets.base import Run
from targets.tensorrt.build import ENGINE, SPEC, SPEC_LIMIT
from targets.tensorrt.settings import Profile

_EXTRA = "; install it with: pip install 'goldfold[tensorrt]'"


def load(folder: Path, contract: Contract, module: str) -> Run:
    """A callable over an execution context. Not for several threads at once: open one a thread.

    A batch beyond the largest profile is run in parts. Raises TargetError for more tokens than any
    profile takes, ArtifactError if TensorRT refuses the file.
    """
    return _Engine(folder / ENGINE, contract, module)


def inspect(folder: Path, module: str) -> dict[str, int]:
    """Layers of the engine by kind, as TensorRT's own inspector names them."""
    trt = import_module(module)
    engine = _open(folder / ENGINE, trt)
    inspector = engine.create_engine_inspector()
    counts: dict[str, int] = {}
    for index in range(engine.num_layers):
        told = json.loads(inspector.get_layer_information(index, trt.LayerInformationFormat.JSON))
        # Names alone where the engine was built without details.
        kind = str(told.get("LayerType", "layer")) if isinstance(told, dict) else "layer"
        counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _open(path: Path, trt: Any) -> Any:
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    if "version" in json.loads(read_bounded(path.parent / SPEC, SPEC_LIMIT))["compatible"]:
        runtime.engine_host_code_allowed = True  # such an engine carries a runtime of its own
    with path.open("rb") as file:
        engine = runtime.deserialize_cuda_engine(file.read())
    if engine is None:
        raise ArtifactError(
            f"TensorRT refuses {path}: it was built for another release or another GPU; "
            "build it again with the build.py beside it"
        )
    return engine


class _Engine:
    def __init__(self, path: Path, contract: Contract, module: str) -> None:
        try:
            self.cuda = import_module("cuda.bindings.runtime")
        except ImportError:
            raise TargetError(f"the package cuda-bindings is not installed{_EXTRA}") from None
        trt = import_module(module)
        self.contract = contract
        self.engine = _open(path, trt)
        self.context = self.engine.create_execution_context()
        self.profiles = [self._profile(index) for index in range(self._count())]
        self.active: int | None = None
        sizes = (contract.dim, *contract.heads)
        self.outputs = {contract.output_of(dim): dim for dim in sizes}
        self.stream = self._do("cudaStreamCreate")
        self.buffers: dict[str, tuple[int, int]] = {}
        """Device address and bytes by tensor."""

    def __call__(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, output: str | None = None
    ) -> np.ndarray:
        output = output or self.contract.output
        batch, tokens = input_ids.shape
        # The smallest that holds it all; else the one that takes most rows at this length.
        fits = [i for i, p in enumerate(self.profiles) if p.holds(batch, tokens)]
        least = min(fits, key=lambda i: _tokens(self.profiles[i]), default=None)
        if least is not None:
            return self._run(least, input_ids, attention_mask, output)
        able = [i for i, p in enumerate(self.profiles) if p.holds(1, tokens)]
        if not able:
            known = ", ".join(map(str, self.profiles))
            raise TargetError(f"no profile takes {batch} x {tokens} tokens; there are {known}")
        widest = max(able, key=lambda i: self.profiles[i].most[0])
        rows = self.profiles[widest].most[0]
        parts = [
            self._run(widest, input_ids[at : at + rows], attention_mask[at : at + rows], output)
            for at in range(0, batch, rows)
        ]
        return np.concatenate(parts)

    def _run(
        self, profile: int, input_ids: np.ndarray, attention_mask: np.ndarray, output: str
    ) -> np.ndarray:
        if self.active != profile:
            done = self.context.set_optimization_profile_async(profile, int(self.stream))
            self._must(done, f"take profile {profile}")
            self.active = profile
        feeds = {INPUT_IDS: input_ids, ATTENTION_MASK: attention_mask}
        held = {name: np.ascontiguousarray(a, dtype=np.int64) for name, a in feeds.items()}
        kinds = self.cuda.cudaMemcpyKind
        for name, array in held.items():
            address = self._room(name, array.nbytes)
            self._do(
                "cudaMemcpyAsync", address, array.ctypes.data, array.nbytes,
                kinds.cudaMemcpyHostToDevice, self.stream,
            )  # fmt: skip
            self._must(self.context.set_input_shape(name, array.shape), f"take {array.shape}")
            self._must(self.context.set_tensor_address(name, address), f"place {name}")
        out = np.empty(0, dtype=np.float32)
        address = 0
        for name, dim in self.outputs.items():  # each wants a place, read or not
            room = np.empty((input_ids.shape[0], dim), dtype=np.float32)
            place = self._room(name, room.nbytes)
            self._must(self.context.set_tensor_address(name, place), f"place {name}")
            if name == output:
                out, address = room, place
        sizes = f"{input_ids.shape[0]} x {input_ids.shape[1]}"
        self._must(self.context.execute_async_v3(int(self.stream)), f"run {sizes}")
        self._do(
            "cudaMemcpyAsync", out.ctypes.data, address, out.nbytes,
            kinds.cudaMemcpyDeviceToHost, self.stream,
        )  # fmt: skip
        self._do("cudaStreamSynchronize", self.stream)
        return out

    def _room(self, name: str, size: int) -> int:
        address, held = self.buffers.get(name, (0, 0))
        if size > held:
            if held:
                del self.buffers[name]  # first: if there is no room for more, this is gone as well
                self._do("cudaStreamSynchronize", self.stream)
                self._do("cudaFree", address)
            address = int(self._do("cudaMalloc", size))
            self.buffers[name] = (address, size)
        return address

    def _must(self, done: bool, what: str) -> None:
        if not done:
            raise TargetError(f"TensorRT could not {what}")

    def __del__(self) -> None:
        with suppress(Exception):  # half made, or the driver is gone already
            self.close()

    def close(self) -> None:
        """Give back the GPU's memory."""
        while self.buffers:
            self._do("cudaFree", self.buffers.popitem()[1][0])

    def _do(self, call: str, *arguments: Any) -> Any:
        """A CUDA runtime call; TargetError for what it refuses."""
        error, *found = getattr(self.cuda, call)(*arguments)
        if int(error):
            raise TargetError(f"CUDA refuses {call}: {getattr(error, 'name', error)}")
        return found[0] if found else None

    def _count(self) -> int:
        return self.engine.num_optimization_profiles

    def _profile(self, index: int) -> Profile:
        shapes = self.engine.get_tensor_profile_shape(INPUT_IDS, index)
        return Profile(*((int(s[0]), int(s[1])) for s in shapes))


def _tokens(profile: Profile) -> int:
    return profile.most[0] * profile.most[1]
