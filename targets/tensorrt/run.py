"""The runtime of an engine on a GPU: contexts with their streams and growing buffers, and a profile
per shape.

NVIDIA lets one thread at a time use a context, and any number of contexts share an engine and its
weights. A context needs memory for the activations of the largest profile, so there is one unless
more `streams` are asked for; further callers wait for their turn, and their texts are tokenized
meanwhile.

There is no substitute here: without a GPU, loading is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS, Contract
from goldfold.exporter.errors import ArtifactError, TargetError
from goldfold.exporter.system.files import read_bounded
from goldfold.targets.base import Run
from goldfold.targets.pool import Pool
from goldfold.targets.tensorrt.layout import ENGINE, SPEC, SPEC_LIMIT
from goldfold.targets.tensorrt.settings import Profile

_EXTRA = "; install it with: pip install 'goldfold[tensorrt]'"


def load(folder: Path, contract: Contract, module: str, streams: int | None = None) -> Run:
    """Returns a callable over `streams` execution contexts, for any number of threads.

    A batch beyond the largest profile runs in parts. Raises TargetError for more tokens than any
    profile takes, and where the GPU has no memory for the contexts; ArtifactError if TensorRT
    refuses the file.
    """
    return _Engine(folder / ENGINE, contract, module, streams or 1)


def inspect(folder: Path, module: str) -> dict[str, int]:
    """Returns layers of the engine by kind, as TensorRT's own inspector names them."""
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
        runtime.engine_host_code_allowed = True  # such an engine contains its own runtime
    with path.open("rb") as file:
        engine = runtime.deserialize_cuda_engine(file.read())
    if engine is None:
        raise ArtifactError(
            f"TensorRT refuses {path}: it was built for another release or another GPU; "
            "build it again with the build.py beside it"
        )
    return engine


class _Cuda:
    """The CUDA runtime."""

    def __init__(self) -> None:
        try:
            self.runtime = import_module("cuda.bindings.runtime")
        except ImportError:
            raise TargetError(f"the package cuda-bindings is not installed{_EXTRA}") from None

    def do(self, call: str, *arguments: Any) -> Any:
        """Returns the result of a call; raises TargetError for a refusal."""
        error, *found = getattr(self.runtime, call)(*arguments)
        if int(error):
            raise TargetError(f"CUDA refuses {call}: {getattr(error, 'name', error)}")
        return found[0] if found else None

    @contextmanager
    def on(self, device: int) -> Iterator[None]:
        """Set `device` for the calling thread: every thread has its own device, at first the
        machine's first, whatever device the loading thread had."""
        before = self.do("cudaGetDevice")
        if before == device:
            yield
            return
        self.do("cudaSetDevice", device)
        try:
            yield
        finally:
            self.do("cudaSetDevice", before)


class _Engine:
    def __init__(self, path: Path, contract: Contract, module: str, streams: int) -> None:
        self.cuda = cuda = _Cuda()
        trt = import_module(module)
        self.contract = contract
        self.engine = engine = _open(path, trt)
        self.device: int = self.cuda.do("cudaGetDevice")
        self.profiles = [self._profile(index) for index in range(self._count())]
        outputs = contract.outputs
        each = contract.task == "multi_vector"
        # No reference to this object: the GPU's memory is released as soon as it is gone.
        self.contexts = Pool(lambda: _Context(engine, cuda, outputs, each), streams)

    def __call__(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, output: str | None = None
    ) -> np.ndarray:
        output = output or self.contract.output
        batch, tokens = input_ids.shape
        # The smallest profile that holds it all; otherwise the one with most rows at this length.
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
        with self.cuda.on(self.device):
            return self.contexts.use(
                lambda context: context.run(profile, input_ids, attention_mask, output)
            )

    def _count(self) -> int:
        return self.engine.num_optimization_profiles

    def _profile(self, index: int) -> Profile:
        shapes = self.engine.get_tensor_profile_shape(INPUT_IDS, index)
        return Profile(*((int(s[0]), int(s[1])) for s in shapes))


class _Context:
    """An execution context, for one caller at a time, with a stream and buffers of its own."""

    def __init__(self, engine: Any, cuda: _Cuda, outputs: dict[str, int], each: bool) -> None:
        self.cuda = cuda
        self.outputs = outputs
        self.each = each
        """Whether an output has a row for each token, instead of one a text."""
        self.buffers: dict[str, tuple[int, int]] = {}
        """Device address and bytes by tensor."""
        self.active: int | None = None
        self.stream: Any = None
        self.context = engine.create_execution_context()
        if self.context is None:
            raise TargetError("the GPU has no memory for another execution context; ask for fewer")
        self.stream = cuda.do("cudaStreamCreate")

    def run(
        self, profile: int, input_ids: np.ndarray, attention_mask: np.ndarray, output: str
    ) -> np.ndarray:
        """Returns rows of an output, in an array of their own."""
        try:
            return self._run(profile, input_ids, attention_mask, output)
        except BaseException:
            # The stream may still work on buffers that the next caller is about to fill.
            with suppress(TargetError):
                self.cuda.do("cudaStreamSynchronize", self.stream)
            raise

    def _run(
        self, profile: int, input_ids: np.ndarray, attention_mask: np.ndarray, output: str
    ) -> np.ndarray:
        if self.active != profile:
            self.active = None  # until it is the new one
            done = self.context.set_optimization_profile_async(profile, int(self.stream))
            self._must(done, f"take profile {profile}")
            self.active = profile
        feeds = {INPUT_IDS: input_ids, ATTENTION_MASK: attention_mask}
        held = {name: np.ascontiguousarray(a, dtype=np.int64) for name, a in feeds.items()}
        kinds = self.cuda.runtime.cudaMemcpyKind
        for name, array in held.items():
            address = self._room(name, array.nbytes)
            self.cuda.do(
                "cudaMemcpyAsync", address, array.ctypes.data, array.nbytes,
                kinds.cudaMemcpyHostToDevice, self.stream,
            )  # fmt: skip
            self._must(self.context.set_input_shape(name, array.shape), f"take {array.shape}")
            self._must(self.context.set_tensor_address(name, address), f"place {name}")
        out = np.empty(0, dtype=np.float32)
        address = 0
        for name, dim in self.outputs.items():  # each needs a buffer, read or not
            rows = input_ids.shape if self.each else input_ids.shape[:1]
            room = np.empty((*rows, dim), dtype=np.float32)
            place = self._room(name, room.nbytes)
            self._must(self.context.set_tensor_address(name, place), f"place {name}")
            if name == output:
                out, address = room, place
        sizes = f"{input_ids.shape[0]} x {input_ids.shape[1]}"
        self._must(self.context.execute_async_v3(int(self.stream)), f"run {sizes}")
        self.cuda.do(
            "cudaMemcpyAsync", out.ctypes.data, address, out.nbytes,
            kinds.cudaMemcpyDeviceToHost, self.stream,
        )  # fmt: skip
        self.cuda.do("cudaStreamSynchronize", self.stream)
        return out

    def _room(self, name: str, size: int) -> int:
        address, held = self.buffers.get(name, (0, 0))
        if size > held:
            if held:
                del self.buffers[name]  # first: without room for more, this one is gone as well
                self.cuda.do("cudaStreamSynchronize", self.stream)
                self.cuda.do("cudaFree", address)
            address = int(self.cuda.do("cudaMalloc", size))
            self.buffers[name] = (address, size)
        return address

    def _must(self, done: bool, what: str) -> None:
        if not done:
            raise TargetError(f"TensorRT could not {what}")

    def __del__(self) -> None:
        with suppress(Exception):  # half made, or the driver is gone already
            self.close()

    def close(self) -> None:
        """Release the GPU's memory."""
        while self.buffers:
            self.cuda.do("cudaFree", self.buffers.popitem()[1][0])
        if self.stream is not None:
            stream, self.stream = self.stream, None
            self.cuda.do("cudaStreamDestroy", stream)


def _tokens(profile: Profile) -> int:
    return profile.most[0] * profile.most[1]
