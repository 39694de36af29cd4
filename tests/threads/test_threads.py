"""One encoder, any number of threads: every caller gets its own vector, to the bit.

To the bit, because a runtime cuts a call's arithmetic up by its shapes and by the threads that it
was given, and not by who else is at work: a call comes out the same alone and in company.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from goldfold import load
from goldfold.exporter import registry
from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.artifact.encoder import Encoder
from goldfold.exporter.errors import GoldfoldError
from goldfold.exporter.ir import onnx_file
from goldfold.exporter.options import Options
from goldfold.exporter.passes import pipeline
from goldfold.targets.coreml.options import CoreMlOptions
from goldfold.targets.openvino.options import OpenVinoOptions
from tests import models
from tests.conftest import Exported
from tests.threads.calls import LIMIT, mixed, together

CALLS = 1000
FEW = 150
"""Of what rounds every value, or runs in numpy."""


def built(
    exported: Exported, folder: Path, target: str, options: Options, precision: str = "fp32"
) -> Encoder:
    """The session's program as an artifact with `options`, opened without a proof of its own."""
    found, program = registry.target(target), exported.copy()
    pipeline.run(program, found.backend_passes(precision, program.contract, {}))
    settled = found.settle(precision, options, program.contract.max_length)
    folder.mkdir(parents=True, exist_ok=True)
    found.build(program, precision, folder, settled)
    contract = found.narrow(exported.program.contract, settled)
    bundle = open_bundle(exported.artifacts["openvino"])
    manifest = bundle.manifest.with_(contract=contract)
    run = found.load(folder, contract, precision, None)
    return Encoder(type(bundle)(bundle.path, manifest, bundle.verdict), run)


def reference_run(exported: Exported, folder: Path, precision: str) -> Encoder:
    """What is measured in the place of TensorRT's engine, and of every half precision."""
    target, program = registry.target("tensorrt"), exported.copy()
    if precision != "fp32":
        pipeline.run(program, pipeline.half(precision, {}, typed=True))
    pipeline.run(program, target.backend_passes(precision, program.contract, {}))
    onnx_file.write(program, folder, "tensorrt")
    run = target.reference_run(folder, program.contract, precision, None)
    return Encoder(open_bundle(exported.artifacts["openvino"]), run)


def openvino(options: Options) -> Callable[[Exported, Path], Encoder]:
    return lambda exported, folder: built(exported, folder, "openvino", options)


def coreml(exported: Exported, folder: Path) -> Encoder:
    pytest.importorskip("coremltools")
    return built(exported, folder, "coreml", CoreMlOptions(buckets=(16, 64)))


WAYS: dict[str, tuple[Callable[[Exported, Path], Encoder], int]] = {
    "openvino": (lambda exported, folder: load(exported.artifacts["openvino"]), CALLS),
    "openvino-streams": (
        lambda exported, folder: load(exported.artifacts["openvino"], streams=2),
        CALLS,
    ),
    "openvino-buckets": (openvino(OpenVinoOptions(buckets=(16, 64))), CALLS),
    "openvino-batch": (openvino(OpenVinoOptions(batch=2, buckets=(24,))), CALLS),
    "onnxruntime": (lambda exported, folder: load(exported.artifacts["onnxruntime"]), CALLS),
    "onnxruntime-streams": (
        lambda exported, folder: load(exported.artifacts["onnxruntime"], streams=2),
        CALLS,
    ),
    "coreml": (coreml, FEW),
    "tensorrt-stand-in": (lambda exported, folder: reference_run(exported, folder, "fp32"), CALLS),
    "emulator": (lambda exported, folder: reference_run(exported, folder, "bf16"), FEW),
}


@pytest.fixture(scope="module", params=WAYS)
def case(
    request: pytest.FixtureRequest, exported: Exported, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Callable[[], np.ndarray]], list[np.ndarray]]:
    """The calls, and what each comes to alone."""
    way, count = WAYS[request.param]
    encoder = way(exported, tmp_path_factory.mktemp(request.param))
    calls = mixed(encoder, count)
    return calls, [call() for call in calls]


@pytest.mark.parametrize("threads", [2, 16])
def test_every_thread_gets_its_own_vectors(case, threads: int) -> None:
    calls, alone = case
    for place, (found, wanted) in enumerate(zip(together(calls, threads), alone, strict=True)):
        assert np.array_equal(found, wanted), f"call {place} of {len(calls)} is not its own"


def test_results_are_the_callers_to_keep(artifacts: dict[str, Path]) -> None:
    """An array that was returned is written by nothing else, and may be written."""
    encoder = load(artifacts["openvino"])
    calls = mixed(encoder, 64, 15)
    alone = [call().copy() for call in calls]
    kept = together(calls, 4)
    together(mixed(encoder, 64, 30), 4)
    for found, wanted in zip(kept, alone, strict=True):
        assert np.array_equal(found, wanted)
        found[:] = 0


def test_asyncio_needs_nothing_else(artifacts: dict[str, Path]) -> None:
    encoder = load(artifacts["openvino"])
    calls = mixed(encoder, 100, 30)
    alone = [call() for call in calls]

    async def all_at_once() -> list[np.ndarray]:
        return await asyncio.gather(*(asyncio.to_thread(call) for call in calls))

    found = asyncio.run(asyncio.wait_for(all_at_once(), LIMIT))
    assert all(np.array_equal(a, b) for a, b in zip(found, alone, strict=True))


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_errors_of_one_caller_are_no_others(target: str, artifacts: dict[str, Path]) -> None:
    """Callers that are refused, in the runtime as before it, stop no one else."""
    encoder = load(artifacts[target])
    calls = mixed(encoder, 300, 15)
    alone = [call() for call in calls]

    def wrong() -> np.ndarray:
        with pytest.raises(GoldfoldError):
            encoder.run(np.full((1, 3), models.VOCAB_SIZE), np.ones((1, 3), int))
        with pytest.raises(Exception):  # noqa: B017 - the runtime's own, for an output it lacks
            encoder._run(np.ones((1, 3), np.int64), np.ones((1, 3), np.int64), "no_such_output")
        return np.zeros(0)

    calls = [one for call in calls for one in (call, wrong)]
    found = together(calls, 8)[::2]
    assert all(np.array_equal(a, b) for a, b in zip(found, alone, strict=True))


def test_a_thousand_threads_share_a_few_requests(artifacts: dict[str, Path]) -> None:
    encoder = load(artifacts["openvino"])
    calls = mixed(encoder, 1000, 3)
    alone = [call() for call in calls]
    found = together(calls, 1000)
    assert all(np.array_equal(a, b) for a, b in zip(found, alone, strict=True))


_OPENING = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from goldfold import load
ready = threading.Barrier(8)
def work(place):
    ready.wait(60)
    return load(sys.argv[1 + place % 2]).embed("one text")
with ThreadPoolExecutor(8) as pool:
    rows = list(pool.map(work, range(8)))
assert all((a == b).all() for a, b in zip(rows[::2], rows[2::2]))
"""


def test_artifacts_can_be_opened_by_several_threads(artifacts: dict[str, Path]) -> None:
    """In a process that has imported no runtime yet."""
    paths = [str(artifacts[target]) for target in ("openvino", "onnxruntime")]
    code = [sys.executable, "-c", _OPENING, *paths]
    done = subprocess.run(code, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr


_LOADER = """
import sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import load
texts = [f"{place} " + "word " * (place % 40) for place in range(600)]
alone = [load.embed([text], "query" if place % 2 else "") for place, text in enumerate(texts)]
with ThreadPoolExecutor(16) as pool:
    work = pool.map(
        lambda place: load.embed([texts[place]], "query" if place % 2 else ""), range(len(texts))
    )
    wrong = [place for place, rows in enumerate(work) if not np.array_equal(rows, alone[place])]
assert not wrong, f"{len(wrong)} of {len(texts)} are not their own"
"""


def test_the_loader_that_travels_serves_threads(artifacts: dict[str, Path]) -> None:
    code = [sys.executable, "-c", _LOADER, str(artifacts["openvino"])]
    done = subprocess.run(code, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
