"""ONNX Runtime's own attention: its kernel, our definition of it, and attention as it was."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from goldfold import export
from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.ir import contrib, protobuf
from goldfold.exporter.passes import docstring
from goldfold.exporter.passes.fuse_attention_projections import FuseAttentionProjections
from goldfold.golden import make as golden_make
from goldfold.targets.onnxruntime import TARGET
from goldfold.targets.onnxruntime.options import NEWEST, OLDEST
from tests import models
from tests.conftest import GOLDEN_TEXTS
from tests.exporter.passes import harness

BEFORE = docstring.read(FuseAttentionProjections).examples[0].before


def fused(seed: int) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A program before the pass, and after it."""
    drawn = np.random.default_rng(seed)
    sizes = {"wq": (6, 8), "wk": (6, 8), "wv": (6, 8), "bq": (8,), "bv": (8,)}
    weights = {
        name: drawn.normal(size=size, scale=0.3).astype("f4") for name, size in sizes.items()
    }
    model = harness.build(BEFORE, weights)
    before = ir.to_proto(model)
    assert FuseAttentionProjections().rewrite(model).applied
    return before, ir.to_proto(model)


def reference(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """What onnx's reference computes of the first output, by the definitions in the file."""
    (found, *_) = ReferenceEvaluator(proto).run(None, feeds)
    return np.asarray(found)


def computed(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """What ONNX Runtime computes of the first output."""
    return np.asarray(onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feeds)[0])


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_kernel_and_definition_are_attention(lengths: list[int], seed: int) -> None:
    before, after = fused(seed)
    x = np.random.default_rng(seed).normal(size=(len(lengths), max(lengths), 6)).astype("f4")
    feeds = {"x": x, "padding": np.arange(max(lengths)) < np.array(lengths)[:, None]}
    wanted = reference(before, feeds)
    # Scores and values stay below 16, so f32 rounds them, and the few sums that they are made of,
    # by some 2^-20 each: 1e-5 is ten times that, and a kernel that errs is off by far more.
    defined = reference(after, feeds)
    np.testing.assert_allclose(defined, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(computed(after, feeds), wanted, rtol=1e-5, atol=1e-5)


def test_runtime_takes_its_kernel_and_not_the_definition() -> None:
    """Else the definition would be tested twice above, and the kernel never."""
    _, after = fused(0)
    (function,) = after.functions
    del function.node[:]
    function.node.add(op_type="Sub", input=["x", "x"], output=["y"])
    feeds = {"x": np.ones((1, 2, 6), "f4"), "padding": np.ones((1, 2), bool)}
    assert np.abs(computed(after, feeds)).min() > 0


def test_a_model_keeps_no_definition_that_it_does_not_use() -> None:
    model = ir.from_proto(fused(0)[1])
    (node,) = filter(contrib.is_attention, model.graph)
    (x, *_), (y,) = node.inputs, model.graph.outputs
    assert x is not None
    y.replace_all_uses_with(x, replace_graph_outputs=True)
    model.graph.remove(node)
    contrib.define(model)
    assert not model.functions and contrib.DOMAIN not in model.opset_imports


@pytest.fixture(scope="module", params=(OLDEST, NEWEST))
def artifact(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A small BERT, exported with the option."""
    place = tmp_path_factory.mktemp("contrib")
    model = models.build("bert", place / "bert")
    build = {"contrib": True, "opset": request.param}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(golden_make, "make", partial(golden_make.make, only=GOLDEN_TEXTS))
        (result,) = export(model, ["onnxruntime"], ["fp32"], place / "out", build=build)
    assert result.passed
    yield result.path


def ops(proto: onnx.ModelProto) -> Iterator[str]:
    return (f"{node.domain}.{node.op_type}" for node in proto.graph.node)


def test_an_artifact_attends_in_the_kernel_and_says_so(artifact: Path) -> None:
    proto = onnx.load(artifact / protobuf.MODEL)
    assert list(ops(proto)).count("com.microsoft.Attention") == 3
    assert [one.name for one in proto.functions] == ["Attention"]
    versions = {one.domain: one.version for one in proto.opset_import}
    assert {one.domain: one.version for one in proto.functions[0].opset_import} == {
        "": versions[""]
    }
    assert open_bundle(artifact).manifest.options["contrib"] is True
    assert TARGET.census(artifact).get("com.microsoft.Attention", 0) == 3


def test_a_runtime_without_the_kernel_computes_the_definition(artifact: Path) -> None:
    ids = np.arange(5, 17).reshape(2, 6)
    mask = np.array([[1] * 6, [1] * 4 + [0] * 2])
    feeds = {"input_ids": ids * mask, "attention_mask": mask}
    proto = onnx.load(artifact / protobuf.MODEL)
    spelled = onnx.inliner.inline_local_functions(proto)
    assert not any(op.startswith("com.microsoft") for op in ops(spelled))
    # Unit vectors in f32 after three layers, whose sums stand in another order: 16 of 2^-24.
    np.testing.assert_allclose(computed(proto, feeds), computed(spelled, feeds), atol=1e-6)
