"""Who gets which execution context, and when: goldfold's own code over FAKES of NVIDIA's modules.

Nothing here says that an engine runs: no GPU, no TensorRT and no CUDA take part. The fakes keep the
rules that NVIDIA's documentation states, and fail where one is broken: a context serves one thread
at a time, on the device that it was made on; its profile and shapes hold until they are set again;
a stream's work is done when the stream has been waited for; memory is its owner's until it is
freed. `test_run.py` is what runs on a GPU.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from goldfold.exporter.contract import Contract, Tokenwise
from goldfold.exporter.errors import TargetError
from goldfold.targets.tensorrt import run
from tests.threads.calls import together

DIM = 8
PROFILES = (((1, 1), (1, 32), (4, 64)), ((1, 1), (16, 128), (32, 256)))


class FakeCuda:
    """CUDA's runtime, with the machine's memory in the place of a GPU's."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self) -> None:
        self.local = threading.local()
        self.memory: dict[int, Any] = {}
        self.streams: dict[int, list[Any]] = {}
        self.numbers = itertools.count(1)
        self.refuses: str = ""
        """The call that is refused, once."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            if name == self.refuses:
                self.refuses = ""
                return (2,)
            found = getattr(self, f"do_{name[4:]}")(*arguments)
            return (0,) if found is None else (0, found)

        return call

    def do_GetDevice(self) -> int:
        return getattr(self.local, "device", 0)

    def do_SetDevice(self, device: int) -> None:
        self.local.device = device

    def do_StreamCreate(self) -> int:
        stream = next(self.numbers)
        self.streams[stream] = []
        return stream

    def do_StreamDestroy(self, stream: int) -> None:
        del self.streams[stream]

    def do_StreamSynchronize(self, stream: int) -> None:
        while self.streams[stream]:
            self.streams[stream].pop(0)()

    def do_Malloc(self, size: int) -> int:
        held = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(held)] = held
        return ctypes.addressof(held)

    def do_Free(self, address: int) -> None:
        del self.memory[address]

    def do_MemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        if kind == 1:  # from pageable memory: staged before the call returns
            staged = ctypes.string_at(source, size)
            self.streams[stream].append(lambda: ctypes.memmove(to, staged, size))
        else:  # to pageable memory: returns when it is done
            self.do_StreamSynchronize(stream)
            ctypes.memmove(to, source, size)


class FakeContext:
    """An execution context that embeds a text as its ids' sum, its length and the profile. With
    `each` it gives such a row for each token, and adds the token's place."""

    each, output = False, "sentence_embedding"

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.device = cuda.do_GetDevice()
        self.profile = -1
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.thread = 0
        self.calls = 0

    def _enter(self) -> None:
        assert self.cuda.do_GetDevice() == self.device, "used on another device"
        me = threading.get_ident()
        assert self.thread in (0, me), "used by two threads at a time"
        self.thread = me

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self._enter()
        self.profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._enter()
        least, _, most = PROFILES[self.profile]
        self.shapes[name] = shape
        return all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._enter()
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self._enter()
        shape, profile = self.shapes["input_ids"], self.profile
        source, to = self.addresses["input_ids"], self.addresses[self.output]

        def compute() -> None:
            ids = np.frombuffer(ctypes.string_at(source, 8 * shape[0] * shape[1]), np.int64)
            rows = np.zeros((shape[0], DIM), np.float32)
            rows[:, 0] = ids.reshape(shape).sum(1)
            rows[:, 1], rows[:, 2] = shape[1], profile
            made = np.repeat(rows[:, None], shape[1], 1) + np.arange(shape[1])[:, None]
            made = made.astype(np.float32) if self.each else rows
            time.sleep(0.0002)
            ctypes.memmove(to, made.tobytes(), made.nbytes)
            self.calls += 1
            self.thread = 0  # the caller is served; the next may come

        self.cuda.streams[stream].append(compute)
        return True


class FakeEngine:
    num_optimization_profiles = len(PROFILES)

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.contexts: list[FakeContext] = []
        self.room = 99

    def get_tensor_profile_shape(self, name: str, index: int) -> Any:
        return PROFILES[index]

    def create_execution_context(self) -> FakeContext | None:
        if len(self.contexts) == self.room:
            return None  # as TensorRT says that there is no memory
        self.contexts.append(FakeContext(self.cuda))
        return self.contexts[-1]


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    cuda = FakeCuda()
    engine = FakeEngine(cuda)
    monkeypatch.setattr(
        run, "import_module", lambda name: cuda if name == "cuda.bindings.runtime" else None
    )
    monkeypatch.setattr(run, "_open", lambda path, trt: engine)
    return engine


def opened(streams: int | None = None) -> Any:
    contract = Contract(
        model="fake", dim=DIM, max_length=256, vocab_size=100, pad_id=0, normalized=False
    )
    return run.load(Path("nowhere"), contract, "tensorrt_rtx", streams)


def calls(engine: Any, count: int) -> tuple[list[Any], list[np.ndarray]]:
    """Calls of many shapes and both profiles, some beyond the largest, and what they come to."""
    rng = np.random.default_rng(2)
    wanted, made = [], []
    for _ in range(count):
        ids = rng.integers(4, 100, (int(rng.integers(1, 40)), int(rng.integers(1, 257))))
        rows = np.zeros((len(ids), DIM), np.float32)
        rows[:, 0], rows[:, 1] = ids.sum(1), ids.shape[1]
        rows[:, 2] = 0 if ids.shape[0] <= 4 and ids.shape[1] <= 64 else 1
        wanted.append(rows)
        made.append(lambda ids=ids: engine(ids, np.ones_like(ids)))
    return made, wanted


def test_an_engine_that_gives_a_row_for_each_token(
    fakes: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeContext, "each", True)
    monkeypatch.setattr(FakeContext, "output", "token_embeddings")
    contract = Contract(
        model="fake",
        output="token_embeddings",
        task="multi_vector",
        tokenwise=Tokenwise(),
        dim=DIM,
        max_length=256,
        vocab_size=100,
        pad_id=0,
        normalized=False,
    )
    engine = run.load(Path("nowhere"), contract, "tensorrt_rtx")
    for size in ((1, 1), (3, 7), (40, 200), (2, 5)):  # in parts, and in a buffer that was larger
        ids = np.full(size, 3)
        rows = engine(ids, np.ones_like(ids))
        assert rows.shape == (*size, DIM)
        assert (rows[:, :, 1] == size[1] + np.arange(size[1])).all()


@pytest.mark.parametrize(("streams", "contexts"), [(None, 1), (1, 1), (3, 3)])
@pytest.mark.parametrize("threads", [1, 2, 16])
def test_fake_contexts_serve_one_thread_at_a_time(
    fakes: FakeEngine, streams: int | None, contexts: int, threads: int
) -> None:
    engine = opened(streams)
    made, wanted = calls(engine, 300)
    for found, rows in zip(together(made, threads), wanted, strict=True):
        np.testing.assert_array_equal(found, rows)
    assert len(fakes.contexts) == contexts
    busy = sum(context.calls > 0 for context in fakes.contexts)
    assert busy == 1 if threads == 1 else busy <= contexts


def test_fake_threads_work_on_the_device_of_the_engine_and_keep_their_own(
    fakes: FakeEngine,
) -> None:
    fakes.cuda.do_SetDevice(2)
    engine = opened()
    fakes.cuda.do_SetDevice(1)
    seen: list[int] = []

    def work() -> np.ndarray:
        found = engine(np.full((1, 5), 7), np.ones((1, 5), int))
        seen.append(fakes.cuda.do_GetDevice())
        return found

    together([work] * 8, 2)
    work()
    assert seen == [0] * 8 + [1]


def test_a_fake_error_leaves_the_context_whole(fakes: FakeEngine) -> None:
    """Refused half way, with work in the stream: the next caller gets its own, not the leavings."""
    engine = opened()
    ids = np.full((2, 9), 5)
    for refused in ("cudaMalloc", "cudaMemcpyAsync", "cudaStreamSynchronize"):
        fakes.cuda.refuses = refused
        with pytest.raises(TargetError, match=refused):
            more = np.full((30, 200), 3) if refused == "cudaMalloc" else ids * 3
            engine(more, np.ones_like(more))
        assert engine(ids, np.ones_like(ids))[:, 0].tolist() == [45, 45]


def test_a_fake_interrupt_waits_for_the_stream(
    fakes: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C behind the start of the work: what was started is done before anyone else begins."""
    engine = opened()
    ids = np.full((2, 9), 5)
    execute = FakeContext.execute_async_v3

    def interrupted(self: FakeContext, stream: int) -> bool:
        execute(self, stream)
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeContext, "execute_async_v3", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine(ids * 3, np.ones_like(ids))
    assert not any(fakes.cuda.streams.values())
    monkeypatch.setattr(FakeContext, "execute_async_v3", execute)
    assert engine(ids, np.ones_like(ids))[:, 0].tolist() == [45, 45]


def test_too_many_fake_contexts_are_refused_where_they_are_asked_for(fakes: FakeEngine) -> None:
    fakes.room = 2
    with pytest.raises(TargetError, match="no memory for another execution context"):
        opened(3)
    assert not fakes.cuda.streams  # what was made has been given back


def test_fake_memory_is_given_back(fakes: FakeEngine) -> None:
    engine = opened(2)
    made, _ = calls(engine, 40)
    together(made, 4)
    assert fakes.cuda.memory and fakes.cuda.streams
    del engine, made
    assert not fakes.cuda.memory and not fakes.cuda.streams
