"""Architectures: the needs of a program that only some of NVIDIA's architectures meet, read from
its graph before anything is compiled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from goldfold.exporter.errors import RewriteError, TargetError
from goldfold.exporter.ir.program import Program, constant, where
from goldfold.exporter.passes.rewriting.integers import multiplies_integers
from goldfold.exporter.passes.rewriting.pattern import producer
from goldfold.targets.tensorrt.settings import LEAST_FOR_PRECISION, number

_DOES = {"static": "multiply the int8 activations", "fp32": "compute the f32 matrix product"}
"""The ability that an architecture lacks, by precision or kind of integers; by default the type."""

_PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum", "Attention"})

_LEAST_FOR_TYPE = {
    ir.DataType.BFLOAT16: "bf16",
    ir.DataType.INT4: "int4",
    ir.DataType.FLOAT8E4M3FN: "fp8",
}


def check_graph(program: Program) -> None:
    """Refuse, in words, the graphs that NVIDIA's compiler refuses for every architecture: a product
    of integers with scales for blocks, and zero-points that are not zero.

    Raises RewriteError naming node and module.
    """
    for node in program.graph:
        if multiplies_integers(node):
            _check_product(node)
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.inputs) > 2:
            zero = constant(node.inputs[2])
            if node.inputs[2] is not None and (zero is None or zero.any()):
                raise RewriteError(
                    f"{node.op_type} {node.name} (from {where(node)}) has a zero-point that is "
                    "not 0; TensorRT takes symmetric quantization only"
                )


def _check_product(node: ir.Node) -> None:
    weight = producer(node.inputs[1], "DequantizeLinear")
    if weight is not None and "block_size" in weight.attributes:
        raise RewriteError(
            f"{node.op_type} {node.name} (from {where(node)}) multiplies int8 activations with "
            "weights that have scales for blocks, which TensorRT does not; give all maps that read "
            "one value static activations and block = 0, or none"
        )


@dataclass(frozen=True)
class Lack:
    """The ability that an architecture lacks for a program."""

    does: str
    node: ir.Node
    why: str

    def __str__(self) -> str:
        return f"cannot {self.does} of {self.node.name} (from {where(self.node)}): {self.why}"


def lacking(program: Program, capabilities: Sequence[str]) -> dict[str, Lack]:
    """Returns the architectures that lack an ability that `program` needs, and the first one each
    lacks: a type, a product of integers, a matrix product in fp32. All types must be known
    (`infer_shapes`)."""
    found: dict[str, Lack] = {}
    for node in program.graph:
        for kind in _needs(node):
            least, why = LEAST_FOR_PRECISION[kind]
            lack = Lack(_DOES.get(kind, f"hold the {kind}"), node, why)
            for capability in capabilities:
                if number(capability) < least:
                    found.setdefault(capability, lack)
    return found


def _needs(node: ir.Node) -> Iterator[str]:
    """Yields the kinds of LEAST_FOR_PRECISION that a node needs."""
    kinds = [v.dtype for v in (*node.inputs, *node.outputs) if v is not None]
    if multiplies_integers(node):
        yield "static"
    elif node.op_type in _PRODUCTS and not node.domain and ir.DataType.FLOAT in kinds:
        yield "fp32"
    for kind in kinds:
        if kind is not None and kind in _LEAST_FOR_TYPE:
            yield _LEAST_FOR_TYPE[kind]


def without(
    program: Program, capabilities: Sequence[str], named: bool
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Returns the architectures that meet all needs of `program`, and why the others are left out.

    Raises TargetError for an architecture that is `named`, and where none is left.
    """
    lacks = lacking(program, capabilities)
    left = tuple(c for c in capabilities if c not in lacks)
    if lacks and (named or not left):
        first, lack = next(iter(lacks.items()))
        cure = f"leave {first} out" if left else "no architecture that is asked for can"
        raise TargetError(
            f"{first} cannot {lack.does} of {lack.node.name} (from {where(lack.node)}): "
            f"{lack.why}; {cure}"
        )
    return left, {capability: str(lack) for capability, lack in lacks.items()}


def left_out(reasons: Mapping[str, str]) -> tuple[str, ...]:
    """Returns one sentence for all architectures that are left out for one reason."""
    alike: dict[str, list[str]] = {}
    for capability, why in reasons.items():
        alike.setdefault(why, []).append(capability)
    one, more = "is left out: it", "are left out: they"
    return tuple(
        f"{', '.join(names)} {one if len(names) == 1 else more} {why}"
        for why, names in alike.items()
    )
