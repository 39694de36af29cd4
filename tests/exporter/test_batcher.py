"""Batches across callers: threads and coroutines, errors, cancelling, limits, the end."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from goldfold import Batcher, Busy, load
from goldfold.exporter.artifact import batcher as module
from goldfold.exporter.artifact.encoder import Encoder
from goldfold.exporter.errors import ArtifactError, TextError, UsageError

TEXTS = [f"{'bread and wine ' * (at % 7)}{at}" for at in range(40)]
CLOSE = 2e-5
"""As in test_encoder.py: both sides compute in f32, one of them beside other texts."""
LONG = 60_000.0


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def encoder(request: pytest.FixtureRequest, artifacts: dict[str, Path]) -> Encoder:
    return load(artifacts[request.param], threads=1)


def until(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        time.sleep(0.01)
    pytest.fail("it did not happen within ten seconds")


def test_threads_share_batches(encoder: Encoder) -> None:
    alone = np.concatenate([encoder.embed(text, task="query") for text in TEXTS])
    with Batcher(encoder, max_wait_ms=200) as batcher, ThreadPoolExecutor(len(TEXTS)) as pool:
        made = list(pool.map(lambda text: batcher.embed(text, task="query"), TEXTS))
    np.testing.assert_allclose(np.concatenate(made), alone, rtol=0, atol=CLOSE)
    assert sum(size * calls for size, calls in batcher.texts_a_batch.items()) == len(TEXTS)
    assert max(batcher.requests_a_batch) > 1
    assert batcher.waiting == 0


def test_requests_of_each_kind_get_their_own(encoder: Encoder) -> None:
    ways = [
        {}, {"task": "query"}, {"prompt": "document"}, {"dims": 16}, {"output": "ubinary"},
        {"output": "int8", "dims": 16},
    ]  # fmt: skip
    with Batcher(encoder, max_wait_ms=100) as batcher:
        asked = [(how, batcher.submit(TEXTS[:9], **how)) for how in ways]
        for how, future in asked:
            expected, found = encoder.embed(TEXTS[:9], **how), future.result(60)
            assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
            if "output" in how:  # a number beside a limit may fall to either side of it
                assert (found == expected).mean() > 0.95
            else:
                np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)
        assert batcher.embed([]).shape == (0, 48)
        assert batcher.embed("one").shape == (1, 48)


def test_coroutines_share_batches_and_the_encoder_is_pickled_without(encoder: Encoder) -> None:
    async def ask() -> list[np.ndarray]:
        return await asyncio.gather(*(encoder.aembed_query(text) for text in TEXTS))

    made = np.concatenate(asyncio.run(ask()))
    alone = np.concatenate([encoder.embed_query(text) for text in TEXTS])
    np.testing.assert_allclose(made, alone, rtol=0, atol=CLOSE)
    assert max(encoder.batcher.requests_a_batch) > 1
    assert pickle.loads(pickle.dumps(encoder))._shared is None


def test_a_text_fails_its_own_request_alone(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, run = Encoder._read, Encoder.run
    (poison,) = (set(encoder.tokenize(["a"])[0]) - set(encoder.tokenize([""])[0]),)

    def odd(self: Encoder, texts: list[str], task: str) -> object:
        found, wrong = read(self, texts, task)  # type: ignore[arg-type]
        return found, {**wrong, **{at: "is odd" for at, t in enumerate(texts) if t == "odd"}}

    def breaks(self: Encoder, ids: np.ndarray, *others: object) -> np.ndarray:
        if ids.shape[1] <= 4 and poison & set(ids.ravel().tolist()):
            raise ArtifactError("its runtime fails")
        return run(self, ids, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(Encoder, "_read", odd)
    monkeypatch.setattr(Encoder, "run", breaks)
    with Batcher(encoder, max_wait_ms=200) as batcher:
        good = [batcher.submit([text, "b"], prompt="") for text in TEXTS[:4]]
        text = batcher.submit(["x", "odd"], prompt="")
        lenient = batcher.submit(["x", "odd"], prompt="", errors="nan")
        broken = batcher.submit(["a"], prompt="")
        with pytest.raises(UsageError, match="text 1 is int"):
            batcher.submit(["a", 1])
        with pytest.raises(TextError, match=r"text 1 \('odd'\) is odd"):
            text.result(60)
        with pytest.raises(ArtifactError, match="its runtime fails"):
            broken.result(60)
        assert np.isnan(lenient.result(60)).any(axis=1).tolist() == [False, True]
        for text, future in zip(TEXTS[:4], good, strict=True):
            expected = np.concatenate([encoder.embed(t, "") for t in (text, "b")])
            np.testing.assert_allclose(future.result(60), expected, rtol=0, atol=CLOSE)


def test_a_caller_that_leaves_takes_its_texts_along(encoder: Encoder) -> None:
    batcher = Batcher(encoder, max_wait_ms=LONG, max_waiting=4)
    gone = batcher.submit(TEXTS[:3])

    async def leave() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(batcher.aembed("one"), 0.05)

    asyncio.run(leave())
    with pytest.raises(Busy, match="1 texts more than may wait: 4 texts wait, and max_waiting"):
        batcher.submit("two")
    assert gone.cancel()
    with pytest.raises(CancelledError):
        gone.result(1)
    batcher.close()  # waits for none: nobody is left
    assert batcher.waiting == 0 and not batcher.texts_a_batch


def test_the_end(encoder: Encoder) -> None:
    first = Batcher(encoder, max_wait_ms=LONG)
    future = first.submit(TEXTS[:3])
    first.close()  # computes what waits
    assert future.result(0).shape == (3, 48)
    with pytest.raises(UsageError, match="this Batcher is closed"):
        first.embed("one")
    first.close()
    second = Batcher(encoder, max_wait_ms=LONG)
    future = second.submit(TEXTS[:3])
    second.close(cancel=True)
    assert future.cancelled()


def test_a_thread_without_work_ends(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDLE", 0.05)
    batcher = Batcher(encoder, max_wait_ms=0, workers=2)
    before = threading.active_count()
    for _ in range(2):
        assert batcher.embed(["one"]).shape == (1, 48)
        until(lambda: batcher._threads == 0 and threading.active_count() <= before)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"max_wait_ms": -1}, "max_wait_ms is -1"),
        ({"max_wait_ms": "2"}, "max_wait_ms is '2'"),
        ({"max_batch_size": 0}, "max_batch_size is 0"),
        ({"workers": True}, "workers is True"),
    ],
)
def test_limits_are_checked(encoder: Encoder, how: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Batcher(encoder, **how)
