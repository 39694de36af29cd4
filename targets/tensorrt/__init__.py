"""TensorRT: engines built by NVIDIA's own compiler, without a GPU by TensorRT for RTX, and run
where there is one."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from goldfold.exporter.contract import Contract
from goldfold.exporter.errors import ArtifactError, TargetError
from goldfold.exporter.system import faults
from goldfold.exporter.system.files import read_bounded
from goldfold.targets.base import Built, Run, Target
from goldfold.targets.loading import LOADER, Runtime
from goldfold.targets.tensorrt import settings, vendor
from goldfold.targets.tensorrt.layout import SPEC, SPEC_LIMIT
from goldfold.targets.tensorrt.options import TensorRtOptions
from goldfold.targets.usage import Use

if TYPE_CHECKING:
    from goldfold.exporter.ir.program import Program
    from goldfold.exporter.passes.base import Pass


class TensorRt(Target[TensorRtOptions]):
    name = "tensorrt"
    extra = "tensorrt"
    platforms = ("Linux x86_64", "Windows AMD64")
    precisions = ("fp32", "fp16", "bf16")
    strongly_typed = True
    Options = TensorRtOptions
    fallback = "fp16"  # a recipe's scales are fp16; weights around integers stay small
    quantizes = frozenset({"int8", "int4", "static"})
    companion_files = (LOADER,)

    def unavailable(self) -> str | None:
        if vendor.builder() is not None:
            return None
        if vendor.installed(vendor.ENTERPRISE):
            return f"the package tensorrt builds on a GPU only, and {vendor.gpu()}"
        return "neither tensorrt_rtx nor tensorrt is installed"

    def cannot_run(self, folder: Path | None = None) -> str | None:
        found = vendor.gpu()
        if isinstance(found, str) or folder is None:
            return found if isinstance(found, str) else None
        module, capabilities = _built_by(folder)
        if not vendor.installed(module):
            return f"the package {module}, which built the engine, is not installed"
        if found.capability not in capabilities:
            return f"the engine is for {', '.join(capabilities)}, and this is {found.capability}"
        return None

    def allow(self, needs: Collection[str], options: TensorRtOptions) -> TensorRtOptions:
        if not needs or vendor.builder() == vendor.ENTERPRISE:
            return options  # settle says which architecture there is; `make`, what it lacks
        found = settings.parse_capabilities(options.compute_capability, "", vendor.capabilities())
        for kind in sorted(needs):
            asked = found if options.compute_capability else ()
            found = settings.parse_capabilities(asked, kind, found)
        return options.with_(compute_capability=found)

    def settle(self, precision: str, options: TensorRtOptions, max_length: int) -> TensorRtOptions:
        profiles = [settings.parse_profile(text, max_length) for text in options.profile]
        settings.check_cover(profiles)
        asked = options.compute_capability
        if vendor.builder() == vendor.ENTERPRISE:
            found = vendor.gpu()
            own = found.capability if isinstance(found, vendor.Gpu) else ""
            if asked and asked != (own,):
                raise TargetError(
                    f"TensorRT builds for the GPU at hand, {own}; leave out --compute-capability "
                    "or install TensorRT for RTX alone"
                )
            capabilities = settings.parse_capabilities((own,), precision, (own,))
        else:
            capabilities = settings.parse_capabilities(asked, precision, vendor.capabilities())
            if options.compatible:
                raise TargetError(
                    "--compatible is TensorRT's; TensorRT for RTX compiles its kernels on the "
                    "user's machine, for each --compute-capability"
                )
        for word in options.compatible:
            if word not in ("version", "hardware"):
                raise TargetError(f"--compatible {word!r} is neither version nor hardware")
        return TensorRtOptions(
            compute_capability=capabilities,
            profile=tuple(map(str, profiles or settings.default_profiles(max_length))),
            compatible=tuple(sorted(set(options.compatible))),
        )

    def narrow(self, contract: Contract, options: TensorRtOptions) -> Contract:
        most = settings.longest(options.profile, contract.max_length)
        return contract.shortened(most)

    def own_passes(
        self, precision: str, contract: Contract, peaks: Mapping[str, float]
    ) -> tuple[Pass, ...]:
        from goldfold.exporter.passes.set_precision import SetPrecision
        from goldfold.exporter.passes.spell_attention import SpellAttention

        # Turing has no fp32 matrix product: the head joins the rest, at 4e-8 (docs/dense-head.md).
        half = SetPrecision("fp16", head="half", peaks=tuple(peaks.items()))
        head = (half,) if precision == "fp16" else ()
        # Fused where the compiler has a kernel; what opset 23 cannot express is decomposed.
        return (*head, SpellAttention())

    def executes(self, precision: str) -> bool:
        return True  # without a GPU the emulator does, on the very file: see reference_run

    def versions(self) -> dict[str, str]:
        module = vendor.builder()
        return {} if module is None else {module: vendor.version_of(module)}

    def build(
        self, program: Program, precision: str, folder: Path, options: TensorRtOptions
    ) -> tuple[str, ...]:
        from goldfold.targets.tensorrt import build

        return build.write(program, precision, folder, options, named=True).said

    def make(
        self,
        program: Program,
        precision: str,
        folder: Path,
        options: TensorRtOptions,
        asked: TensorRtOptions,
    ) -> Built:
        from goldfold.targets.tensorrt import build

        named = bool(asked.compute_capability)
        return build.write(program, precision, folder, options, named=named)

    def opened_by(self, precision: str) -> Runtime:
        return Runtime(
            Path(__file__).parent,
            "TensorRT, cuda-bindings",
            ("from cuda.bindings import runtime as cuda",),
            ("import threading", "from importlib import import_module"),
        )

    def uses(self, contract: Contract, precision: str, folder: Path) -> Iterable[Use]:
        from goldfold.targets.tensorrt import usage

        return usage.uses()

    def load(
        self,
        folder: Path,
        contract: Contract,
        precision: str,
        threads: int | None,
        streams: int | None = None,
    ) -> Run:
        from goldfold.targets.tensorrt import run

        self._need_gpu(folder)
        return run.load(folder, contract, _built_by(folder)[0], streams)

    def after_fork(self) -> str | None:
        return "CUDA does not survive a fork"

    def reference_run(
        self, folder: Path, contract: Contract, precision: str, threads: int | None
    ) -> Run:
        """Returns the ONNX that the engine was built from, in ONNX Runtime; half precision in the
        emulator, every value rounded to its type."""
        try:
            from goldfold.exporter.evaluate import emulate, interpret
        except ModuleNotFoundError as error:
            raise TargetError(
                "without a GPU an engine is verified by the compiler's emulator: "
                f"{faults.lacking(error) or error}"
            ) from None
        return _read(folder, contract, interpret.runner if precision == "fp32" else emulate.runner)

    def reference_name(self, precision: str) -> str:
        from goldfold.exporter.ir import protobuf

        runtime = "ONNX Runtime" if precision == "fp32" else "goldfold's emulator"
        return f"{protobuf.MODEL}, which the engine was built from, in {runtime}"

    def cross_checks(
        self, folder: Path, contract: Contract, precision: str, threads: int | None
    ) -> dict[str, Run]:
        from goldfold.exporter.ir import protobuf

        if self.cannot_run(folder) is None or precision != "fp16":
            return {}  # ONNX Runtime has no bf16, and in fp32 it is the stand-in
        from goldfold.exporter.evaluate import interpret
        from goldfold.exporter.ir import onnx_file

        if onnx_file.quantized(folder / protobuf.MODEL):
            return {}  # it would dequantize the whole table at every call
        return {"ONNX Runtime": _read(folder, contract, interpret.runner)}

    def refers(self, folder: Path) -> Collection[str]:
        from goldfold.exporter.ir import protobuf

        return protobuf.references(folder / protobuf.MODEL)

    def parts(self, folder: Path) -> dict[str, str]:
        from goldfold.exporter.ir import onnx_file, protobuf

        return onnx_file.parts(folder / protobuf.MODEL)

    def census(self, folder: Path) -> dict[str, int]:
        from goldfold.targets.tensorrt import run

        self._need_gpu(folder)
        return run.inspect(folder, _built_by(folder)[0])

    def _need_gpu(self, folder: Path) -> None:
        reason = self.cannot_run(folder)
        if reason is not None:
            raise TargetError(f"an engine runs on a GPU only, and {reason}")


def _built_by(folder: Path) -> tuple[str, tuple[str, ...]]:
    """Returns the compiler's module and the architectures from the artifact's build.json."""
    try:
        spec = json.loads(read_bounded(folder / SPEC, SPEC_LIMIT))
        module, capabilities = str(spec["module"]), tuple(map(str, spec["capabilities"]))
        if module not in (vendor.RTX, vendor.ENTERPRISE):  # it is imported
            raise ValueError(module)
        return module, capabilities
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ArtifactError(f"{folder / SPEC} cannot be read; export it again") from None


def _read(folder: Path, contract: Contract, runner: Callable[[Program], Run]) -> Run:
    import onnx_ir as ir

    from goldfold.exporter.ir import protobuf
    from goldfold.exporter.ir.program import Program

    path = folder / protobuf.MODEL
    try:
        return runner(Program(ir.load(path), contract))
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ArtifactError(f"cannot read {path}: {reason}") from error


TARGET = TensorRt()
