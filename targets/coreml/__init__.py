"""Core ML: a `.mlpackage` written on any system, run by Core ML on macOS and by goldfold's
evaluator elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from goldfold.exporter.contract import Contract, Reference
from goldfold.targets.base import Begun, Run, Target
from goldfold.targets.coreml.lower import vendor
from goldfold.targets.coreml.options import CoreMlOptions, settle
from goldfold.targets.loading import LOADER, Runtime
from goldfold.targets.usage import Use

if TYPE_CHECKING:
    from goldfold.exporter.ir.program import Program
    from goldfold.exporter.passes.base import Pass


class CoreMl(Target[CoreMlOptions]):
    name = "coreml"
    extra = "coreml"
    platforms = ("Linux x86_64", "Darwin arm64", "Darwin x86_64")
    precisions = ("fp32", "fp16")
    Options = CoreMlOptions
    fallback = "fp16"  # a recipe's scales are fp16, and the Neural Engine computes in it
    companion_files = ("GoldfoldEncoder.swift", "Package.swift", LOADER)
    quantizes = frozenset({"int8", "int4", "static"})
    strongly_typed = True
    integer_sums = "half"  # the Neural Engine takes no others

    def unavailable(self) -> str | None:
        return vendor.unavailable()

    def cannot_run(self, folder: Path | None = None) -> str | None:
        return None if vendor.native() else "Core ML is on macOS only"

    def reference_name(self, precision: str) -> str:
        return "the package, in goldfold's evaluator of MIL programs"

    def settle(self, precision: str, options: CoreMlOptions, max_length: int) -> CoreMlOptions:
        return settle(options, max_length)

    def narrow(self, contract: Contract, options: CoreMlOptions) -> Contract:
        if options.flexible:
            return contract
        return contract.shortened(max(options.buckets))

    def lowers(self) -> Collection[str]:
        from goldfold.targets.coreml.lower.table import ROWS

        return ROWS

    def own_passes(
        self, precision: str, contract: Contract, peaks: Mapping[str, float]
    ) -> tuple[Pass, ...]:
        from goldfold.exporter.passes.sink_dequantize_past_gather import SinkDequantizePastGather

        return (SinkDequantizePastGather(),)  # or a table is dequantized whole

    def executes(self, precision: str) -> bool:
        return True  # the evaluator rounds every value that is typed fp16; Core ML computes so

    def versions(self) -> dict[str, str]:
        found = vendor.installed()
        return {"coremltools": found} if found else {}

    def build(
        self, program: Program, precision: str, folder: Path, options: CoreMlOptions
    ) -> tuple[str, ...]:
        from goldfold.targets.coreml import build

        return build.write(program, folder, options)

    def restate(
        self,
        folder: Path,
        contract: Contract,
        precision: str,
        reference: Reference,
        tokenizer: str,
        options: CoreMlOptions,
    ) -> None:
        from goldfold.targets.coreml import swift

        swift.write(folder, contract, tokenizer, options)

    def finish(
        self,
        folder: Path,
        contract: Contract,
        precision: str,
        reference: Reference,
        begun: Begun | None = None,
    ) -> tuple[str, ...]:
        from goldfold.targets.coreml import swift

        return swift.finish(folder, contract, reference)

    def opened_by(self, precision: str) -> Runtime:
        return Runtime(
            Path(__file__).parent, "coremltools", ("import coremltools",), ("import threading",)
        )

    def uses(self, contract: Contract, precision: str, folder: Path) -> Iterable[Use]:
        from goldfold.targets.coreml import usage

        return usage.uses(contract)

    def load(
        self,
        folder: Path,
        contract: Contract,
        precision: str,
        threads: int | None,
        streams: int | None = None,
    ) -> Run:
        from goldfold.targets.coreml import run

        return run.load(folder, contract, threads)  # Core ML assigns its units itself

    def exact_run(self, folder: Path, contract: Contract) -> Run:
        from goldfold.targets.coreml import run

        return run.exact(folder, contract)

    def refers(self, folder: Path) -> Collection[str]:
        from goldfold.targets.coreml import package
        from goldfold.targets.coreml.layout import MANIFEST, PACKAGE

        read = package.references(folder / PACKAGE)
        return {f"{PACKAGE}/{key}" for key in (MANIFEST, *read)}

    def parts(self, folder: Path) -> dict[str, str]:
        from goldfold.targets.coreml import parts

        return parts.parts(folder)

    def census(self, folder: Path) -> dict[str, int]:
        from goldfold.targets.coreml import run

        return run.census(folder)

    def run_package(self, package: Path, given: Mapping[str, Any], **how: Any) -> Any:
        """Run a package for `goldfold coreml-run`: run_package.run_package, on Feeds of `given`."""
        from goldfold.targets.coreml import run_package as look

        return look.run_package(package, look.Feeds(**given), **how)


TARGET = CoreMl()
