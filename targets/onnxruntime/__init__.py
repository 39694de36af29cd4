"""The portable target: an `.onnx` file in standard ops that any ONNX runtime can read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from goldfold.exporter.contract import Contract, Served
from goldfold.targets.base import Elsewhere, Run, Target
from goldfold.targets.loading import LOADER, Runtime
from goldfold.targets.onnxruntime.options import OnnxRuntimeOptions, opset_of, settle
from goldfold.targets.usage import Use

if TYPE_CHECKING:
    from goldfold.exporter.ir.program import Program
    from goldfold.exporter.passes.base import Pass


class OnnxRuntime(Target[OnnxRuntimeOptions]):
    name = "onnxruntime"
    extra = "onnxruntime"
    precisions = ("fp32", "fp16")
    Options = OnnxRuntimeOptions
    quantizes = frozenset({"int8", "int4", "static"})
    strongly_typed = True
    layouts = ("web", "transformers.js", "fastembed", "vespa")
    together = frozenset({"transformers.js"})
    canaried = frozenset({"web"})
    places: ClassVar[Mapping[str, str]] = {"node": "web", "chromium": "web"}
    companion_files = (LOADER,)
    call_tokens = 32  # as OpenVINO's

    def unavailable(self) -> str | None:
        return None if find_spec("onnxruntime") else "the package onnxruntime is not installed"

    def settle(
        self, precision: str, options: OnnxRuntimeOptions, max_length: int
    ) -> OnnxRuntimeOptions:
        return settle(options)

    def own_passes(
        self, precision: str, contract: Contract, peaks: Mapping[str, float]
    ) -> tuple[Pass, ...]:
        from goldfold.exporter.passes.band_local_attention import BandLocalAttention
        from goldfold.exporter.passes.round_rows import RoundRows
        from goldfold.exporter.passes.sink_dequantize_past_gather import SinkDequantizePastGather
        from goldfold.exporter.passes.subtract_residual import SubtractResidual
        from goldfold.exporter.passes.sum_residual import SumResidual
        from goldfold.exporter.passes.unpack_weights import UnpackWeights

        return (
            SubtractResidual(),  # ONNX Runtime has a fusion that is slower than its parts
            SumResidual(),  # what that could not change, as quantized weights
            SinkDequantizePastGather(),  # ONNX Runtime dequantizes a whole table at every call
            RoundRows(),  # where the recipe allows it, integer products, which are the fast ones
            UnpackWeights(),  # the other integers become floats when a session opens the file
            BandLocalAttention(contract.max_length),  # while windows are still attributes
        )

    def first_passes(self, options: OnnxRuntimeOptions) -> tuple[Pass, ...]:
        from goldfold.exporter.passes.fuse_attention_projections import FuseAttentionProjections

        return (FuseAttentionProjections(),) if options.contrib else ()

    def last_passes(self, options: OnnxRuntimeOptions) -> tuple[Pass, ...]:
        from goldfold.exporter.passes.pipeline import older

        return older(opset_of(options))

    def executes(self, precision: str) -> bool:
        return precision == "fp32"  # its CPU kernels compute fp16 in fp32, and round at the end

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("onnx", "onnxruntime")}

    def runtime(self) -> str:
        import onnxruntime  # an artifact is used without onnx

        return f"{self.name} {onnxruntime.__version__}"

    def build(
        self, program: Program, precision: str, folder: Path, options: OnnxRuntimeOptions
    ) -> tuple[str, ...]:
        from goldfold.exporter.ir import onnx_file, opsets

        opsets.check(program, opset_of(options), self.name)
        onnx_file.write(program, folder, self.name)
        return ()

    def opened_by(self, precision: str) -> Runtime:
        return Runtime(
            Path(__file__).parent,
            "onnxruntime",
            ("import onnxruntime",),
            ("import os",),
            quiet=(
                'os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else it reports itself',
                'os.environ.setdefault("ORT_TELEMETRY_DISABLED", "1")',
            ),
        )

    def uses(self, contract: Contract, precision: str, folder: Path) -> Iterable[Use]:
        from goldfold.targets.onnxruntime import usage

        return usage.uses(contract, folder.name)

    def load(
        self,
        folder: Path,
        contract: Contract,
        precision: str,
        threads: int | None,
        streams: int | None = None,
    ) -> Run:
        from goldfold.targets.onnxruntime import run

        return run.load(folder, contract, threads, streams)

    def after_fork(self) -> str | None:
        return None  # a session owns its threads, and a new one starts its own

    def lay_out(self, served: Sequence[Served], layout: str, out: Path) -> tuple[str, ...]:
        from goldfold.targets.onnxruntime import layouts, web

        if layout == web.WEB:
            one = layouts.single(served)
            return web.lay_out(one.folder, one.contract, out)
        return layouts.lay_out(served, layout, out)

    def absent(self, place: str) -> str | None:
        from goldfold.targets.onnxruntime import elsewhere

        return elsewhere.absent(place)

    def elsewhere(self, place: str, laid: Path, threads: int) -> Elsewhere:
        from goldfold.targets.onnxruntime import elsewhere

        return elsewhere.Opened(place, laid, threads)

    def refers(self, folder: Path) -> Collection[str]:
        from goldfold.exporter.ir import protobuf

        return protobuf.references(folder / protobuf.MODEL)

    def parts(self, folder: Path) -> dict[str, str]:
        from goldfold.exporter.ir import onnx_file, protobuf

        return onnx_file.parts(folder / protobuf.MODEL)

    def census(self, folder: Path) -> dict[str, int]:
        from goldfold.targets.onnxruntime import run

        return run.census(folder)


TARGET = OnnxRuntime()
