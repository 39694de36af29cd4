"""Packages that lie: bodies that are not there, names that are paths, shapes that fit nowhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

from coremltools.proto import Model_pb2

from goldfold.exporter.errors import ArtifactError, UsageError
from goldfold.targets.coreml.evaluate import Evaluator
from goldfold.targets.coreml.package import read
from tests.targets.coreml.test_coreml_run import call
from tests.targets.coreml.test_target import copy, package  # noqa: F401 — the fixture


def edited(whole: Path, to: Path, change: Callable[[Any], None]) -> Path:
    """A copy whose functions' protobufs `change` has seen."""
    damaged = copy(whole, to)
    file = next(damaged.rglob("*.mlmodel"))
    spec = Model_pb2.Model.FromString(file.read_bytes())
    for function in spec.mlProgram.functions.values():
        change(function)
    file.write_bytes(spec.SerializeToString())
    return damaged


def body(function: Any) -> Any:
    return function.block_specializations[function.opset]


def rename_output(name: str) -> Callable[[Any], None]:
    def change(function: Any) -> None:
        block = body(function)
        old = block.outputs[0]
        block.outputs[0] = name
        for operation in block.operations:
            for output in operation.outputs:
                output.name = name if output.name == old else output.name

    return change


def lose_opset(function: Any) -> None:
    function.opset = "CoreML99"


def lose_maker(function: Any) -> None:
    body(function).outputs[0] = "nobody"


def lose_outputs(function: Any) -> None:
    del body(function).outputs[:]


def lose_operand(function: Any) -> None:
    block = body(function)
    del block.operations[next(i for i, o in enumerate(block.operations) if o.type == "tanh")]


def widen_input(function: Any) -> None:
    function.inputs[0].type.tensorType.dimensions[1].constant.size = 1 << 45


def one_output_more(function: Any) -> None:
    operation = next(o for o in body(function).operations if o.type == "tanh")
    operation.outputs.add().CopyFrom(operation.outputs[0])
    operation.outputs[1].name = "twin"


LIES = {
    "opset": ("no body for its own opset 'CoreML99'", lose_opset),
    "maker": ("gives nobody, made nowhere", lose_maker),
    "outputs": ("gives nothing", lose_outputs),
    "operand": ("reads t, made nowhere", lose_operand),
    "shape": ("larger than any that fits here", widen_input),
    "path": ("no name for an input or output", rename_output("../../escaped")),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_package_that_lies_is_refused_when_it_is_read(
    lie: str,
    package: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    reason, change = LIES[lie]
    damaged = edited(package, tmp_path, change)
    with pytest.raises(ArtifactError, match=reason) as caught:
        read(damaged)
    assert len(str(caught.value).splitlines()) == 1
    code, _, err = call(capsys, damaged, "--seed", 1, "--save", tmp_path / "out")
    assert code == 6 and len(err.splitlines()) == 1
    assert not list(tmp_path.rglob("*.npy"))


def test_an_operation_that_declares_more_than_it_makes(package: Path, tmp_path: Path) -> None:  # noqa: F811
    evaluator = Evaluator(read(edited(package, tmp_path, one_output_more)))
    feeds = {name: np.ones((1, 16), np.int32) for name in ("input_ids", "attention_mask")}
    with pytest.raises(ArtifactError, match="tanh at t cannot be computed"):
        evaluator(feeds)


def test_a_manifest_with_a_nul_in_its_path(package: Path, tmp_path: Path) -> None:  # noqa: F811
    damaged = copy(package, tmp_path)
    manifest = json.loads((damaged / "Manifest.json").read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = "a\0b"
    (damaged / "Manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="points outside"):
        read(damaged)


def test_numbers_that_do_not_fit_are_not_wrapped(
    package: Path,  # noqa: F811
    capsys: pytest.CaptureFixture,
) -> None:
    feeds = {name: np.ones((1, 16), np.int64) for name in ("input_ids", "attention_mask")}
    feeds["input_ids"][0, 3] = (1 << 32) + 3
    with pytest.raises(UsageError, match="input_ids holds numbers beyond int32"):
        Evaluator(read(package))(feeds)
    assert call(capsys, package, "--ids", "3000000000")[0] == 2
