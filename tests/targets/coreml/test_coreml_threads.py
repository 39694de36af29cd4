"""Several threads on one package: what is opened once, who waits, and how many cores numpy has."""

from __future__ import annotations

import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("coremltools")

from threadpoolctl import threadpool_info, threadpool_limits

from goldfold.exporter import registry
from goldfold.targets.coreml import run
from goldfold.targets.coreml.evaluate import Widened
from goldfold.targets.coreml.lower import vendor
from goldfold.targets.coreml.options import CoreMlOptions
from tests.exporter import small
from tests.threads.calls import together

TARGET = registry.target("coreml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small program's package, buckets 4 and 16."""
    folder = tmp_path_factory.mktemp("small")
    program = small.program()
    options = TARGET.settle("fp32", CoreMlOptions(buckets=(4, 16)), program.contract.max_length)
    TARGET.build(program, "fp32", folder, options)
    return folder


def blas() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_functions_are_opened_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    opened = run._evaluator

    def slowly(package, name: str, widened: Widened):
        asked.append(name)
        time.sleep(0.05)
        return opened(package, name, widened)

    monkeypatch.setattr(run, "_evaluator", slowly)
    runs = TARGET.load(folder, small.program().contract, "fp32", None)
    widths = [3, 16, 4, 9] * 4
    calls = [lambda w=w: runs(np.ones((1, w), int), np.ones((1, w), int)) for w in widths]
    assert len(together(calls, 16)) == 16
    assert sorted(asked) == ["tokens_16", "tokens_4"]


def test_weights_are_widened_once() -> None:
    widened, made = Widened(), []

    def make() -> np.ndarray:
        made.append(threading.get_ident())
        time.sleep(0.05)
        return np.zeros(3)

    found = together([lambda: widened.get("key", "weight", make)] * 16, 16)
    assert len(made) == 1
    assert all(rows is found[0] for rows in found)


def set_blas(threads: int) -> None:
    """In a thread that ends: threadpoolctl lets no other change a limit while its maker lives."""
    worker = threading.Thread(target=threadpool_limits, args=(threads,))
    worker.start()
    worker.join()


def test_a_limit_is_gone_when_its_callers_are(folder: Path) -> None:
    """Overlapping limits would leave numpy with the fewest threads for good."""
    before = blas()
    set_blas(2)
    try:
        if blas() != {2}:
            pytest.skip(f"numpy cannot be told to use two threads: {blas()}")
        runs = TARGET.load(folder, small.program().contract, "fp32", 1)
        seen: set[int] = set()
        ids = np.ones((3, 16), int)

        def work() -> np.ndarray:
            found = runs(ids, ids)
            seen.update(blas())
            return found

        together([work] * 200, 16)
        assert blas() == {2}
        assert 1 in seen  # others were inside, and limited
    finally:
        set_blas(max(before))


class Model:
    """A FAKE of MLModel that keeps Apple's rule of one thread at a time, and holds its inputs after
    a call, as Core ML does."""

    inside = threading.Lock()
    lingering: list[weakref.ref[np.ndarray]]

    def __init__(self, path: str, function_name: str | None = None) -> None:
        self.lingering = []

    def predict(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert self.inside.acquire(blocking=False), "asked by two threads at a time"
        try:
            assert all(ref() is not None for ref in self.lingering), "let go of by Core ML alone"
            self.lingering = [weakref.ref(array) for array in feeds.values()]
            time.sleep(0.001)
            row = np.full((1, small.DIM), feeds["input_ids"].sum(), np.float32)
            return {"sentence_embedding": row}
        finally:
            self.inside.release()


def test_a_fake_model_is_asked_by_one_thread_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vendor.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(vendor.coremltools().models, "MLModel", Model)
    runs = TARGET.load(folder, small.program().contract, "fp32", None)
    calls = [lambda n=n: runs(np.full((1, 16), n), np.ones((1, 16), int)) for n in range(100)]
    found = together(calls, 16)
    assert [rows[0, 0] for rows in found] == [16 * n for n in range(100)]
