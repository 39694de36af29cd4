"""Options of the pipeline, the bisection, the drift, and the page of laws."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from goldfold.exporter.diagnose.pass_drift import Drift, look
from goldfold.exporter.driver import exporting
from goldfold.exporter.driver.bisect import bisect
from goldfold.exporter.errors import OutputError, UsageError
from goldfold.exporter.ir.program import Program, constant
from goldfold.exporter.passes import pipeline, reference_page
from goldfold.exporter.passes.base import Equality, Pass
from goldfold.exporter.passes.fold_norm_gain import FoldNormGain
from goldfold.exporter.passes.fuse_identity_dense import FuseIdentityDense
from goldfold.exporter.passes.pipeline import Options, Pipeline
from goldfold.exporter.passes.sink_linear_past_mean import SinkLinearPastMean
from goldfold.exporter.progress import Stages
from goldfold.exporter.verification.goldens import goldens_of
from goldfold.golden.gate import GATES
from goldfold.golden.store import Goldens
from tests.conftest import Exported

ROOT = Path(__file__).parents[2]
GATE = GATES["fp32"].worst


@dataclass(frozen=True)
class BreakNorm(Pass):
    """Wrong on purpose: makes one norm's epsilon a million times larger."""

    equality: ClassVar[Equality] = Equality.EXACT
    module: str = "transformer.layers.3.pre_feedforward_layernorm"

    def match(self, node: ir.Node) -> ir.Node | None:
        epsilon = node.attributes.get("epsilon")
        mine = (node.name or "").startswith(self.module) and epsilon is not None
        return node if mine and epsilon.value < 1e-3 else None

    def refuses(self, match: ir.Node) -> str | None:
        return None

    def construct(self, match: ir.Node, memo: dict) -> None:
        old = match.attributes["epsilon"].value
        match.attributes["epsilon"] = ir.AttrFloat32("epsilon", old * 2.0**20)


@pytest.fixture
def program(exported: Exported) -> Program:
    """The tiny EmbeddingGemma after the common laws."""
    return exported.copy()


@pytest.fixture
def goldens(artifacts: dict[str, Path]) -> Goldens:
    from goldfold.exporter.artifact.bundle import open_bundle

    return goldens_of(open_bundle(artifacts["onnxruntime"]))


def test_bisect_names_the_one_rewrite_that_breaks_the_gate(
    program: Program, goldens: Goldens
) -> None:
    passes = (*pipeline.common(program.contract), BreakNorm(), FoldNormGain())
    before = [str(node) for node in program.graph]
    found = bisect(program, passes, lambda p: look(p, goldens), GATE)
    assert found is not None
    assert found.pass_name == "break-norm"
    assert found.place == BreakNorm.module
    assert found.before.worst <= GATE < found.after.worst
    assert [str(node) for node in program.graph] == before, "bisect changed its program"


def test_bisect_finds_nothing_where_nothing_is_wrong(program: Program, goldens: Goldens) -> None:
    passes = pipeline.common(program.contract)
    assert bisect(program, passes, lambda p: look(p, goldens), GATE) is None


def test_bisect_says_when_the_trace_itself_is_wrong(program: Program, goldens: Goldens) -> None:
    shifted = replace(goldens, embeddings=np.roll(goldens.embeddings, 1, axis=0))
    with pytest.raises(UsageError, match="the fault is in the trace"):
        bisect(program, (), lambda p: look(p, shifted), GATE)


def test_drift_is_measured_after_every_pass_that_applied(
    program: Program, goldens: Goldens
) -> None:
    drift = Drift(goldens, Stages())
    Pipeline(after=drift).run(program, (BreakNorm(), BreakNorm()))
    assert [seen.after for seen in drift.looks] == ["break-norm"]
    assert drift.looks[0].worst > GATE


def test_stop_after_counts_applications_of_optional_passes(program: Program) -> None:
    norms = [n for n in program.graph if n.op_type == "RMSNormalization"]
    program.derived = False  # these gains follow from no model
    for node in norms:  # make gains to fold again
        gain = constant(node.inputs[1])
        assert gain is not None
        node.inputs[1].const_value = ir.tensor(gain * 2, name=node.inputs[1].name)  # type: ignore
    run = Pipeline(Options(stop_after=3))
    (report,) = run.run(program, (FoldNormGain(),))
    assert report.applied == 3
    assert [law for law, _ in run.trail] == ["fold-norm-gain"] * 3
    assert run.run(program, (FoldNormGain(),))[0].applied == 0


def test_skipped_passes_do_not_run_and_required_ones_cannot_be_skipped(program: Program) -> None:
    run = Pipeline(Options(skip=frozenset({"break-norm", "static-heads"})))
    reports = run.run(program, (*pipeline.EARLY, BreakNorm()))
    assert [report.name for report in reports] == [this.name for this in pipeline.EARLY]
    pipeline.check_skips(["fold-norm-gain"])
    for name in ("static-heads", "no-such-pass"):
        with pytest.raises(UsageError, match=name):
            pipeline.check_skips([name])


def test_dumps_are_numbered_readable_and_valid(program: Program, tmp_path: Path) -> None:
    laws = (SinkLinearPastMean(), FuseIdentityDense())
    Pipeline(Options(dump=tmp_path)).run(program, laws)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "01_sink_linear_past_mean.onnx",
        "01_sink_linear_past_mean.txt",
        "02_fuse_identity_dense.onnx",
        "02_fuse_identity_dense.txt",
    ]
    onnx.checker.check_model(onnx.load(tmp_path / names[0]), full_check=True)
    assert "BandAttention" in (tmp_path / names[1]).read_text("utf-8")
    assert all(v.const_value is not None for v in program.graph.initializers.values())


def test_a_dump_that_cannot_be_written_is_refused_before_any_work(
    tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    options = Options(dump=tmp_path / "file" / "below")
    with pytest.raises(OutputError, match="--dump"):
        exporting.export(tiny, ["onnxruntime"], out=tmp_path / "out", options=options)


def test_the_page_of_laws_is_fresh() -> None:
    page = (ROOT / "docs" / "passes.md").read_text("utf-8")
    assert page == reference_page.page(), "docs/passes.md is stale: run make pages"


def test_an_unknown_law_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'fold'.*fold-norm-gain"):
        reference_page.find("fold")
