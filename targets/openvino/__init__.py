"""OpenVINO: `.xml` + `.bin`, run on the CPU with an explicit inference precision, and the files by
which other tools open them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from goldfold.exporter.contract import Contract, Reference, Served, Words
from goldfold.targets.base import Begun, Companion, Kept, Run, Target
from goldfold.targets.loading import LOADER, Runtime
from goldfold.targets.openvino.options import HINTS, OpenVinoOptions
from goldfold.targets.usage import Use

if TYPE_CHECKING:
    from goldfold.exporter.ir.program import Program
    from goldfold.exporter.passes.base import Pass


class OpenVino(Target[OpenVinoOptions]):
    name = "openvino"
    extra = "openvino"
    precisions = ("fp32", "fp16", "bf16")
    Options = OpenVinoOptions
    fallback = "bf16"
    close_fallback = "fp32"
    quantizes = frozenset({"int8", "int4", "static"})
    strongly_typed = False  # the plugin chooses where to round, from a hint
    layouts = ("ovms", "sentence-transformers")
    companion_files = (
        "openvino_tokenizer.xml", "openvino_tokenizer.bin", LOADER, "config.json",
        "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json",
    )  # fmt: skip
    call_tokens = 32  # docs/openvino.md: the cost differs by machine, and hardly matters

    def unavailable(self) -> str | None:
        return None if find_spec("openvino") else "the package openvino is not installed"

    def settle(self, precision: str, options: OpenVinoOptions, max_length: int) -> OpenVinoOptions:
        from goldfold.targets.openvino import shapes

        return shapes.settle(options, max_length)

    def begin(self, words: Words, folder: Path, kept: Kept | None = None) -> Begun | None:
        from goldfold.targets.openvino import tokenizer

        told = words.task == "embedding" and not words.framed
        return tokenizer.begin(words, folder, kept) if told else None

    def own_passes(
        self, precision: str, contract: Contract, peaks: Mapping[str, float]
    ) -> tuple[Pass, ...]:
        from goldfold.exporter.passes.band_local_attention import BandLocalAttention
        from goldfold.exporter.passes.expand_band_attention import ExpandBandAttention
        from goldfold.exporter.passes.round_weights import RoundWeights
        from goldfold.exporter.passes.sink_dequantize_past_gather import SinkDequantizePastGather

        # Last: what a linear map reads is final by now, and tables are looked up.
        rounded = (RoundWeights(),) if precision == "bf16" else ()
        return (
            BandLocalAttention(contract.max_length),  # while windows are still attributes
            ExpandBandAttention(),  # OpenVINO refuses an op it has no conversion rule for
            SinkDequantizePastGather(),  # its own kernel for the pair truncates in bf16
            *rounded,
        )

    def executes(self, precision: str) -> bool:
        from goldfold.targets.openvino import run

        return run.hint(precision)[1]

    def versions(self) -> dict[str, str]:
        from importlib.metadata import PackageNotFoundError, version

        found = {}
        for name in ("openvino", "openvino-tokenizers"):
            with suppress(PackageNotFoundError):
                found[name] = version(name)
        return found

    def build(
        self, program: Program, precision: str, folder: Path, options: OpenVinoOptions
    ) -> tuple[str, ...]:
        from goldfold.targets.openvino import build

        build.write(program, precision, folder, options)
        return ()

    def finish(
        self,
        folder: Path,
        contract: Contract,
        precision: str,
        reference: Reference,
        begun: Begun | None = None,
    ) -> tuple[str, ...]:
        from goldfold.targets.openvino import interop, tokenizer

        if contract.task != "embedding":
            what = {"scores": "pairs", "sparse": "sparse vectors' texts"}.get(
                contract.task, "queries"
            )
            return (
                f"There is no OpenVINO tokenizer of {what}: goldfold or tokenizer.json serves.",
            )
        interop.write(folder, contract, precision, reference)
        if contract.frame is not None:
            return (
                "There is no OpenVINO tokenizer of a chat template: goldfold and load.py add it.",
            )
        under_way = begun if isinstance(begun, tokenizer.Conversion) else None
        ids, more = reference.token_ids, reference.texts
        return (tokenizer.write(folder, contract, ids, under_way, more),)

    def restate(
        self,
        folder: Path,
        contract: Contract,
        precision: str,
        reference: Reference,
        tokenizer: str,
        options: OpenVinoOptions,
    ) -> None:
        from goldfold.targets.openvino import interop

        if contract.task == "embedding":
            interop.write(folder, contract, precision, reference)

    def companions(self, folder: Path, contract: Contract) -> Mapping[str, Companion]:
        from goldfold.targets.openvino import tokenizer

        return tokenizer.companions(folder)

    def opened_by(self, precision: str) -> Runtime:
        hint, capability = HINTS[precision]
        return Runtime(
            Path(__file__).parent,
            "openvino",
            ("import openvino as ov",),
            ("import ctypes", "import os", "import sys", "import threading"),
            ('sys.modules.setdefault("openvino_telemetry", None)  # else OpenVINO reports itself',),
            {"HINT": hint, "CAPABILITY": capability},
        )

    def uses(self, contract: Contract, precision: str, folder: Path) -> Iterable[Use]:
        from goldfold.targets.openvino import usage

        return usage.uses(contract, folder, "bf16" if precision == "bf16" else "f32")

    def load(
        self,
        folder: Path,
        contract: Contract,
        precision: str,
        threads: int | None,
        streams: int | None = None,
    ) -> Run:
        from goldfold.targets.openvino import run

        return run.load(folder, contract, precision, threads, streams)

    def exact_run(self, folder: Path, contract: Contract) -> Run:
        from goldfold.targets.openvino import run

        return run.load(folder, contract, "fp32", None, groups=False)

    def lay_out(self, served: Sequence[Served], layout: str, out: Path) -> tuple[str, ...]:
        from goldfold.targets.openvino import serving

        (one,) = served
        return serving.lay_out(one.folder, one.contract, one.precision, layout, out)

    def parts(self, folder: Path) -> dict[str, str]:
        from goldfold.targets.openvino import parts

        return parts.parts(folder)

    def census(self, folder: Path) -> dict[str, int]:
        from goldfold.targets.openvino import run

        return run.census(folder)


TARGET = OpenVino()
