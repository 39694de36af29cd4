"""The pipeline runs tuples of passes in order; each line gives the reason for its pass's place."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx_ir as ir

from goldfold.exporter.contract import Contract
from goldfold.exporter.errors import OutputError, UsageError
from goldfold.exporter.ir import dialect, legality, opsets
from goldfold.exporter.ir.program import Program, mark_makers, weights_aside
from goldfold.exporter.passes.base import Log, Pass
from goldfold.exporter.passes.compare_kept_ids import CompareKeptIds
from goldfold.exporter.passes.drop_scale_before_normalize import DropScaleBeforeNormalize
from goldfold.exporter.passes.drop_unreached_rows import DropUnreachedRows
from goldfold.exporter.passes.expand_attention import ExpandAttention
from goldfold.exporter.passes.expand_band_attention import ExpandBandAttention
from goldfold.exporter.passes.expand_gelu import ExpandGelu
from goldfold.exporter.passes.expand_rms_norm import ExpandRmsNorm
from goldfold.exporter.passes.expand_rotary import ExpandRotary
from goldfold.exporter.passes.fold_attention_scale import FoldAttentionScale
from goldfold.exporter.passes.fold_norm_gain import FoldNormGain, Policy
from goldfold.exporter.passes.fuse_identity_dense import FuseIdentityDense
from goldfold.exporter.passes.gather_kept_rows import GatherKeptRows
from goldfold.exporter.passes.legalize_rotary import LegalizeRotary
from goldfold.exporter.passes.narrow_linear import NarrowLinear
from goldfold.exporter.passes.raise_attention import RaiseAttention
from goldfold.exporter.passes.raise_gelu import RaiseGelu
from goldfold.exporter.passes.raise_mask import RaiseMask
from goldfold.exporter.passes.raise_rms_norm import RaiseRmsNorm
from goldfold.exporter.passes.raise_rotary import RaiseRotary
from goldfold.exporter.passes.scale_residual import ScaleResidual
from goldfold.exporter.passes.set_opset import SetOpset
from goldfold.exporter.passes.set_precision import Computed, SetPrecision
from goldfold.exporter.passes.share_constants import ShareConstants
from goldfold.exporter.passes.share_rope_tables import ShareRopeTables
from goldfold.exporter.passes.sink_linear_past_mean import SinkLinearPastMean
from goldfold.exporter.passes.specialize_shape import SpecializeShape
from goldfold.exporter.passes.static_heads import StaticHeads
from goldfold.exporter.passes.unpack_nibbles import UnpackNibbles
from goldfold.exporter.records import PassReport
from goldfold.exporter.system.names import file_name

EARLY: tuple[Pass, ...] = (
    StaticHeads(),  # first: grouped heads are illegal for three consumers until this has run
    RaiseRotary(),  # needs the shapes that the heads now have; makes tables that are not legal yet
    LegalizeRotary(),  # ONNX Runtime refuses the traced tables, so no graph runs before this
    RaiseRmsNorm(),  # before every common pass: those look for norms by name
    RaiseGelu(),  # likewise, for targets that have a kernel for it
    RaiseMask(),  # likewise, for targets that would multiply it out, and lose what is added to it
    RaiseAttention(),  # once its mask is a choice; before the common passes, which read attention
)
"""The passes that make a traced graph legal everywhere. They run for every export."""


def common(contract: Contract, gains: Policy = "full") -> tuple[Pass, ...]:
    """The passes for every target. Run them after EARLY. `gains` is fold-norm-gain's policy:
    "none" where weights are to be quantized, since folded gains make outlier columns."""
    return (
        SpecializeShape(contract.max_length),  # first: fewer kinds of attention for all that follow
        DropUnreachedRows(contract.max_length),  # likewise: rows beyond the length go first
        SinkLinearPastMean(),  # before dense layers are fused: the sunk map joins them
        FuseIdentityDense(),  # before gains are folded: a gain then meets one matrix, not a chain
        NarrowLinear(),  # once the head is one matrix: its rows are the embedding's dimensions
        FoldNormGain(gains),  # needs a norm's readers to be linear maps in their final form
        FoldAttentionScale(),  # after the gains: the projections have their final form
        DropScaleBeforeNormalize(),  # after the folds, which may leave a factor in front of a norm
        ShareRopeTables(contract.max_length),  # the tables are legal and final by now
        ShareConstants(),  # last: it joins constants that the others made twice
    )


def cut() -> tuple[Pass, ...]:
    """The passes for a vocabulary that is cut, once integers are chosen and before a target's own:
    those take tables apart."""
    return (
        GatherKeptRows(),  # first: the list of kept ids is then read by comparisons alone
        CompareKeptIds(),
    )


DECOMPOSES: dict[str, type[Pass]] = {"goldfold.BandAttention": ExpandBandAttention}
"""The pass that expresses an op of goldfold's own dialect in standard ops."""


def decompositions(lowered: Collection[str]) -> tuple[Pass, ...]:
    """Returns the passes that decompose every op outside ONNX but those of `lowered`."""
    return tuple(decompose() for op, decompose in DECOMPOSES.items() if op not in lowered)


EXPANDS: dict[str, type[Pass]] = {
    "RMSNormalization": ExpandRmsNorm,
    "RotaryEmbedding": ExpandRotary,
    "Attention": ExpandAttention,
    "Gelu": ExpandGelu,
}
"""The pass that expresses an op of ONNX in older ones."""


def older(opset: int) -> tuple[Pass, ...]:
    """Returns the passes that write a graph in standard ops for an older opset than the
    dialect's."""
    if opset == dialect.OPSET:
        return ()
    new = (expand() for op, expand in EXPANDS.items() if opsets.newer(op, opset))
    # Last: what the others wrote changes with the opset as well.
    return (UnpackNibbles(), *new, SetOpset(opset))


def asks_ranges(precision: str, typed: bool) -> bool:
    """Whether `half` needs the ranges of values."""
    return precision == "fp16" or (precision == "bf16" and typed)


def half(
    precision: str,
    peaks: Mapping[str, float],
    typed: bool,
    products: Computed = "f32",
    bounds: Mapping[str, float] | None = None,
) -> tuple[Pass, ...]:
    """The passes for half precision, after the common passes and before the target's own.

    In bf16, attention and its linear maps are computed in fp16 if their values leave room: that is
    eight times closer, on the same units, and bf16 rounds scores worst (docs/fp16.md).

    `peaks` are the largest magnitudes on calibration texts (exporter/evaluate/ranges.py), `bounds`
    those that hold for every text (exporter/evaluate/bounds.py), where there are some; `typed`
    says that the graph's types are the precision, rather than a hint to the runtime; `products` is
    set-precision's option.
    """
    if precision == "fp32":
        return ()
    known = (tuple(peaks.items()), tuple((bounds or {}).items()))
    scale = (ScaleResidual(*known),) if precision == "fp16" else ()
    if not typed:
        return scale
    if precision == "bf16":
        attention = SetPrecision("fp16", part="attention", peaks=tuple(peaks.items()))
        return (attention, SetPrecision("bf16"))
    assert precision == "fp16", precision
    # After the scale: fp16 can then hold constants that it could not hold before.
    return (*scale, SetPrecision("fp16", products=products))


@dataclass(frozen=True)
class Options:
    """Options that cut a pipeline short or dump its graphs."""

    skip: frozenset[str] = frozenset()
    """Names of passes not to run. A required one cannot be skipped."""
    stop_after: int | None = None
    """Stop after this many applications; those of required passes are not counted."""
    dump: Path | None = None
    """Write `03_fold_norm_gain.onnx` (weights left out) and `.txt` after every pass into this
    folder."""


@dataclass
class Pipeline:
    """One run of passes over one program, in any number of calls of `run`."""

    options: Options = Options()
    after: Callable[[PassReport, Program], None] | None = None
    """Called after every pass that applied."""
    reports: list[PassReport] = field(default_factory=list)
    trail: list[tuple[str, str]] = field(default_factory=list)
    """(pass, place) of every application that counts, in order."""
    before: Program | None = None
    """The program before its first pass; shares its weights. For exporter/diagnose/locating.py."""
    ran: list[Pass] = field(default_factory=list)
    """Every pass that ran, in order."""

    def run(self, program: Program, passes: Iterable[Pass]) -> list[PassReport]:
        """Apply `passes` in order, with a legality check after each. Changes `program` in place.

        Returns this call's reports. Raises RewriteError if a pass leaves an illegal graph.
        """
        if self.before is None:
            self.before = program.copy()
        return [self._one(program, pass_) for pass_ in passes if self._runs(pass_)]

    def fork(self, folder: str) -> Pipeline:
        """A pipeline that continues from here by itself, and dumps into a sub-folder."""
        dump = self.options.dump / folder if self.options.dump is not None else None
        options = Options(self.options.skip, self.options.stop_after, dump)
        return Pipeline(
            options, self.after, list(self.reports), list(self.trail), self.before, list(self.ran)
        )

    def _runs(self, pass_: Pass) -> bool:
        return pass_.required or pass_.name not in self.options.skip

    def _one(self, program: Program, pass_: Pass) -> PassReport:
        started = time.perf_counter()
        nodes, parameters = len(program.graph), program.parameters()
        budget = None
        if self.options.stop_after is not None and not pass_.required:
            budget = max(0, self.options.stop_after - len(self.trail))
        log = pass_.rewrite(program.model, Log(budget))
        mark_makers(program.graph, pass_.name)
        legality.check(program, pass_.name)
        report = PassReport(
            name=pass_.name,
            equality=pass_.equality.name,
            applied=len(log.applied),
            refused=tuple(str(refusal) for refusal in log.refused),
            nodes_before=nodes,
            nodes_after=len(program.graph),
            parameters_before=parameters,
            parameters_after=program.parameters(),
            seconds=round(time.perf_counter() - started, 3),
        )
        self.reports.append(report)
        self.ran.append(pass_)
        if not pass_.required:
            self.trail += [(pass_.name, place) for place in log.applied]
        if self.options.dump is not None:
            name = file_name(f"{len(self.reports):02d}_{pass_.name}")
            _dump(program, self.options.dump, name)
        if self.after is not None and report.applied:
            self.after(report, program)
        return report


def run(program: Program, passes: Iterable[Pass]) -> list[PassReport]:
    """Apply `passes` in order without options."""
    return Pipeline().run(program, passes)


def check_skips(names: Iterable[str]) -> None:
    """Raise UsageError for a name that no optional pass has."""
    optional = {pass_.name for pass_ in every() if not pass_.required}
    for name in names:
        if name not in optional:
            raise UsageError(f"no pass to skip is called {name!r}; there are {', '.join(optional)}")


def every() -> tuple[Pass, ...]:
    """Every pass in order, the targets' own last."""
    from goldfold.exporter.passes.balance_channels import BalanceChannels
    from goldfold.exporter.passes.band_local_attention import BandLocalAttention
    from goldfold.exporter.passes.fuse_attention_projections import FuseAttentionProjections
    from goldfold.exporter.passes.pack_table import PackTable
    from goldfold.exporter.passes.quantize_activations import QuantizeActivations
    from goldfold.exporter.passes.quantize_weights import QuantizeWeights
    from goldfold.exporter.passes.round_rows import RoundRows
    from goldfold.exporter.passes.round_weights import RoundWeights
    from goldfold.exporter.passes.sink_dequantize_past_gather import SinkDequantizePastGather
    from goldfold.exporter.passes.spell_attention import SpellAttention
    from goldfold.exporter.passes.subtract_residual import SubtractResidual
    from goldfold.exporter.passes.sum_residual import SumResidual
    from goldfold.exporter.passes.unpack_weights import UnpackWeights

    nothing = Contract(model="", dim=1, max_length=1, vocab_size=1, pad_id=0, normalized=True)
    quantization = (BalanceChannels(), QuantizeWeights(), PackTable(), QuantizeActivations())
    half_precision = (ScaleResidual(), SetPrecision())
    own = (
        FuseAttentionProjections(),
        SubtractResidual(),
        SumResidual(),
        SinkDequantizePastGather(),
        RoundRows(),
        UnpackWeights(),
        RoundWeights(),
        BandLocalAttention(),
        SpellAttention(),
        ExpandBandAttention(),
    )
    expanding = (UnpackNibbles(), *(expand() for expand in EXPANDS.values()), SetOpset())
    return (*EARLY, *common(nothing), *quantization, *cut(), *half_precision, *own, *expanding)


def _dump(program: Program, folder: Path, stem: str) -> None:
    """Write the graph as ONNX, with large weights as inputs, and as text."""
    stem = stem.replace("-", "_")
    lines = [str(node) for node in program.graph]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with weights_aside(program.model):
            onnx.save(ir.to_proto(program.model), folder / f"{stem}.onnx")
        (folder / f"{stem}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}") from None
