"""A file of an older opset: the same program, the same numbers, a refusal where there is none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goldfold import export, load
from goldfold.exporter.contract import Run
from goldfold.exporter.driver import preparing
from goldfold.exporter.errors import ArtifactError, TargetError
from goldfold.exporter.evaluate import interpret
from goldfold.exporter.frontend.readiness import ready
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.ir import dialect, opsets, protobuf
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.pipeline import Pipeline, older
from goldfold.exporter.progress import Stages
from goldfold.golden import make as golden_make
from goldfold.golden.gate import gate_for
from goldfold.targets.onnxruntime import TARGET, run, too_old
from goldfold.targets.onnxruntime.options import NEWEST, OLDEST, OnnxRuntimeOptions
from tests import models
from tests.conftest import GOLDEN_TEXTS, Exported
from tests.exporter.cli.conftest import goldfold  # noqa: F401 — the fixture
from tests.exporter.cli.outcome import Run as Command
from tests.exporter.quantize.few import few

OLDER = tuple(range(OLDEST, NEWEST))
KINDS = ("gemma3", "bert", "modernbert", "qwen3_moe", "t5")
"""Rotary tables, root-mean-square norms, grouped heads, both kinds of Gelu, local windows, a Split,
experts, a bias."""
OTHER = "GOLDFOLD_OLD_ONNXRUNTIME"
"""Names the Python of an environment with an older ONNX Runtime (.ci/old-onnxruntime makes one)."""


def portable(program: Program, opset: int = NEWEST) -> Program:
    """A copy that the target's own passes have seen, for this opset."""
    copy, options = program.copy(), OnnxRuntimeOptions(opset=opset)
    pipeline.run(copy, TARGET.backend_passes("fp32", copy.contract, {}))
    pipeline.run(copy, TARGET.last_passes(options))
    return copy


@pytest.fixture(scope="module", params=KINDS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """One kind of model, before the target's own passes."""
    if request.param == "gemma3":
        return request.getfixturevalue("exported").copy()
    folder = tmp_path_factory.mktemp("kinds") / request.param
    source = ready(open_model(models.build(request.param, folder)), Stages())
    return preparing.prepare(source, Stages(), Pipeline())


@pytest.fixture(scope="module")
def runs(program: Program) -> dict[int, Run]:
    return {o: interpret.runner(portable(program, o), threads=1) for o in (*OLDER, NEWEST)}


def apart(rows: np.ndarray, others: np.ndarray) -> float:
    """The worst 1−cos, as half the squared distance of unit vectors, which loses no digits."""
    one, two = (a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (rows, others))
    return float(np.square(one.astype(np.float64) - two).sum(-1).max() / 2)


# --- the same numbers


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_every_opset_computes_the_same(
    runs: dict[int, Run], lengths: Sequence[int], seed: int
) -> None:
    """Within the gate of fp32: both are the same function, rounded in another order."""
    drawn = np.random.default_rng(seed)
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    ids = drawn.integers(4, models.VOCAB_SIZE, mask.shape) * mask
    expected = runs[NEWEST](ids, mask)
    for opset in OLDER:
        assert apart(runs[opset](ids, mask), expected) <= gate_for("fp32").worst, opset


def test_file_holds_nothing_newer(program: Program, tmp_path: Path) -> None:
    for opset in OLDER:
        options, folder = OnnxRuntimeOptions(opset=opset), tmp_path / str(opset)
        folder.mkdir()
        TARGET.build(portable(program, opset), "fp32", folder, options)  # onnx.checker in full
        model = onnx.load(folder / protobuf.MODEL, load_external_data=False)
        assert [(one.domain, one.version) for one in model.opset_import] == [("", opset)]
        assert protobuf.opset(folder / protobuf.MODEL) == opset
        assert model.ir_version == (8 if opset < 19 else 9 if opset < 21 else 10)
        for node in model.graph.node:
            assert onnx.defs.has(node.op_type, opset)


def test_opset_of_the_dialect_changes_nothing(exported: Exported) -> None:
    assert older(NEWEST) == () and NEWEST == dialect.OPSET and OLDEST == opsets.OLDEST
    assert TARGET.last_passes(OnnxRuntimeOptions()) == ()


def test_only_what_is_newer_is_written_out(exported: Exported) -> None:
    names = {opset: [one.name for one in older(opset)] for opset in OLDER}
    norms = ["expand-rms-norm", "expand-rotary", "expand-attention"]
    assert names[22] == names[20] == ["unpack-nibbles", *norms, "set-opset"]
    assert names[19] == names[17] == ["unpack-nibbles", *norms, "expand-gelu", "set-opset"]


def test_onnx_runtime_finds_norms_and_gelus_again(tmp_path: Path) -> None:
    """Its fused kernels for both are those of its newer ops; a tanh-GELU stays written out."""
    source = ready(open_model(models.build("eurobert", tmp_path / "eurobert")), Stages())
    program = preparing.prepare(source, Stages(), Pipeline())
    bert = ready(open_model(models.build("bert", tmp_path / "bert")), Stages())
    for one, op, kernels in (
        (program, "RMSNormalization", ("SimplifiedLayerNormalization", "SkipSimplifiedLayer")),
        (preparing.prepare(bert, Stages(), Pipeline()), "Gelu", ("Gelu", "BiasGelu")),
    ):
        there = portable(one).census()[op]
        folder = tmp_path / op
        folder.mkdir()
        TARGET.build(portable(one, OLDEST), "fp32", folder, OnnxRuntimeOptions(opset=OLDEST))
        counts = TARGET.census(folder)
        found = sum(
            n for kernel, n in counts.items() if kernel.rpartition(".")[2].startswith(kernels)
        )
        assert found == there, counts


def test_integers_are_multiplied_as_integers(tmp_path: Path, monkeypatch) -> None:
    few(monkeypatch)
    monkeypatch.setattr(golden_make, "make", partial(golden_make.make, only=GOLDEN_TEXTS))
    model = models.build("bert", tmp_path / "bert")
    counts = {}
    for opset in (OLDEST, NEWEST):
        (result,) = export(
            model, ["onnxruntime"], ["int8"], tmp_path / str(opset), build={"opset": opset}
        )
        assert result.passed
        assert result.bundle.manifest.options == {"opset": opset, "contrib": False}
        graph = onnx.load(result.path / protobuf.MODEL, load_external_data=False).graph
        counts[opset] = sum(node.op_type == "MatMulInteger" for node in graph.node)
    assert counts[OLDEST] == counts[NEWEST] > 0


def test_four_bits_need_no_type_of_their_own(tmp_path: Path, monkeypatch) -> None:
    few(monkeypatch)
    monkeypatch.setattr(golden_make, "make", partial(golden_make.make, only=GOLDEN_TEXTS))
    model = models.build("bert", tmp_path / "bert")
    vectors, sizes = {}, {}
    for opset in (OLDEST, NEWEST):
        (result,) = export(
            model, ["onnxruntime"], ["int4"], tmp_path / str(opset), build={"opset": opset}
        )
        graph = onnx.load(result.path / protobuf.MODEL, load_external_data=False).graph
        kinds = {tensor.data_type for tensor in graph.initializer}
        assert (onnx.TensorProto.INT4 in kinds) == (opset == NEWEST)
        vectors[opset] = load(result.path).embed(models.CORPUS)
        sizes[opset] = (result.path / protobuf.DATA).stat().st_size
    assert apart(vectors[OLDEST], vectors[NEWEST]) <= gate_for("fp32").worst
    assert sizes[OLDEST] <= 1.01 * sizes[NEWEST]


# --- refusals


@pytest.mark.parametrize("opset", [-1, 16, 24])
def test_other_opsets_are_refused(opset: int, goldfold: Command, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "model").mkdir()
    outcome = goldfold(
        "export",
        tmp_path,
        "--target",
        "onnxruntime",
        "--opset",
        str(opset),
        "--out",
        tmp_path / "o",
    )
    assert outcome.code != 0
    with pytest.raises(TargetError, match=rf"opsets 17 to 23, not for --opset {opset}"):
        TARGET.settle("fp32", OnnxRuntimeOptions(opset=opset), 512)


def test_an_op_that_is_newer_is_named(exported: Exported, tmp_path: Path) -> None:
    program = portable(exported.program)
    (last,) = program.graph.outputs
    maker = last.producer()
    assert maker is not None
    node = ir.node("Mish", [last], name="bend")
    node.outputs[0].type, node.outputs[0].shape = last.type, last.shape
    node.outputs[0].name = "bent"
    last.replace_all_uses_with(node.outputs[0], replace_graph_outputs=True)
    node.replace_input_with(0, last)
    program.graph.append(node)
    options = OnnxRuntimeOptions(opset=OLDEST)
    for one in TARGET.last_passes(options):
        log = one.rewrite(program.model)
    assert [one.reason for one in log.refused] == ["opset 17 has not Mish, opset 18 has"]
    assert program.model.opset_imports[""] == NEWEST
    said = r"onnxruntime: opset 17 has not Mish \(node bend, from bend\); export with --opset 18"
    with pytest.raises(TargetError, match=said):
        TARGET.build(program, "fp32", tmp_path, options)


# --- a runtime that is too old


def test_runtime_that_is_too_old_names_the_option(exported: Exported, tmp_path: Path) -> None:
    contract = exported.program.contract
    TARGET.build(portable(exported.program), "fp32", tmp_path, OnnxRuntimeOptions())
    path = tmp_path / protobuf.MODEL
    model = onnx.load(path, load_external_data=False)
    model.opset_import[0].version = 99
    path.write_bytes(model.SerializeToString())
    said = r"for opset 99, which ONNX Runtime [\d.]+ does not know; export it again with --opset 23"
    with pytest.raises(TargetError, match=said):
        run.load(tmp_path, contract, 1)
    model.opset_import[0].version = NEWEST
    model.graph.node[0].op_type = "Nothing"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=r"refuses .*: .*Nothing"):
        run.load(tmp_path, contract, 1)


def test_package_that_cannot_be_imported_is_named(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # importing it then fails
    with pytest.raises(TargetError, match=r"onnxruntime [\d.]+ cannot be imported here; install"):
        run.load(exported.artifacts["onnxruntime"], exported.program.contract, 1)


def test_probe_is_a_model_of_its_opset() -> None:
    for opset in (OLDEST, NEWEST):
        model = onnx.load_from_string(too_old._identity(opset))
        onnx.checker.check_model(model)
        assert model.opset_import[0].version == opset


@pytest.mark.skipif(OTHER not in os.environ, reason=f"{OTHER} names no Python of an environment")
def test_goldens_in_an_older_runtime(exported: Exported, tmp_path: Path) -> None:
    """Each opset that the runtime knows computes every golden text, and it knows the oldest."""
    artifact, folders = exported.artifacts["onnxruntime"], []
    for opset in (*OLDER, NEWEST):
        folder = tmp_path / str(opset)
        shutil.copytree(artifact / "golden", folder / "golden")
        manifest = json.loads((artifact / "manifest.json").read_text("utf-8"))
        manifest["options"] = {"opset": opset}
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        options = OnnxRuntimeOptions(opset=opset)
        TARGET.build(portable(exported.program, opset), "fp32", folder, options)
        folders.append(str(folder))
    script = str(Path(__file__).with_name("measure.py"))
    done = subprocess.run(
        [os.environ[OTHER], script, *folders], capture_output=True, text=True, check=True
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["artifact"] for row in found] == folders
    ran = [row for row in found if "refused" not in row]
    assert OLDEST in {row["opset"] for row in ran}
    for row in ran:
        assert max(row["worst"], row["padded"]) <= gate_for("fp32").worst, row
    said = ("opset", "IR version", "implementation")  # 1.15.1 knows opset 19, and lacks its kernels
    for row in found:
        assert row in ran or any(word in row["refused"] for word in said), row
