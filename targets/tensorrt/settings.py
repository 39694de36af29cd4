"""What an engine is built for: architectures and optimisation profiles, read from the command line
and checked before anything is traced."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from goldfold.exporter.errors import RewriteError, TargetError
from goldfold.exporter.ir.program import Program, constant, where
from goldfold.exporter.passes.rewriting.integers import multiplies_integers
from goldfold.exporter.passes.rewriting.pattern import producer

_CAPABILITY = re.compile(r"sm(\d{2,3})", re.IGNORECASE)
_SHAPE = re.compile(r"(\d+)x(\d+)")

LEAST_FOR_PRECISION = {
    "fp32": (80, "Turing's compiler refuses f32 matrix products"),
    "fp16": (75, "tensor cores begin there"),
    "bf16": (80, "bf16 begins with Ampere"),
    "int8": (75, "tensor cores begin there"),
    "int4": (80, "int4 begins with Ampere"),
    "static": (80, "Turing's compiler refuses f32 sums of integer products, and fp16 overflows"),
    "fp8": (89, "fp8 begins with Ada"),
}
"""The oldest architecture for a precision or for a kind of integers (Target.quantizes), and why: as
the compiler itself says when asked to build (tests/targets/tensorrt), for fp8 in NVIDIA's support
matrices."""

_NAMES = {"static": "int8 activations"}
_DOES = {"static": "multiply the int8 activations", "fp32": "compute the f32 matrix product"}
"""What an architecture cannot do for a precision or kind of integers, unless it is to hold it."""

_PRODUCTS = frozenset({"MatMul", "Gemm", "Einsum", "Attention"})

_LEAST_FOR_TYPE = {
    ir.DataType.BFLOAT16: "bf16",
    ir.DataType.INT4: "int4",
    ir.DataType.FLOAT8E4M3FN: "fp8",
}


@dataclass(frozen=True)
class Profile:
    """Least, usual and most (batch, tokens). Kernels are chosen for the usual."""

    least: tuple[int, int]
    usual: tuple[int, int]
    most: tuple[int, int]

    def __str__(self) -> str:
        return ":".join(f"{b}x{s}" for b, s in (self.least, self.usual, self.most))

    def holds(self, batch: int, tokens: int) -> bool:
        return all(
            low <= n <= high
            for low, n, high in zip(self.least, (batch, tokens), self.most, strict=True)
        )


def default_profiles(max_length: int) -> tuple[Profile, ...]:
    """One for a query at a time, one for batches of everything up to the model's own length."""
    short = min(64, max_length)
    return (
        Profile((1, 1), (1, min(32, short)), (4, short)),
        Profile((1, 1), (16, min(128, max_length)), (32, max_length)),
    )


def parse_profile(text: str, max_length: int) -> Profile:
    """`1x1:8x128:32x512` → a Profile. Raises TargetError for one that no engine could have."""
    parts = [_SHAPE.fullmatch(part) for part in text.split(":")]
    if len(parts) != 3 or not all(parts):
        raise TargetError(
            f"profile {text!r} is not least:usual:most batch x tokens, such as 1x1:8x128:32x512"
        )
    shapes = [(int(m[1]), int(m[2])) for m in parts if m]
    for axis, name in enumerate(("batch", "tokens")):
        low, usual, high = (shape[axis] for shape in shapes)
        if not 1 <= low <= usual <= high:
            raise TargetError(
                f"profile {text!r}: its {name} go {low}, {usual}, {high}; "
                "they must be at least 1 and never fall"
            )
    if shapes[2][0] * shapes[2][1] >= 1 << 31:
        raise TargetError(f"profile {text!r}: so many tokens at once have no 32-bit index")
    if shapes[2][1] > max_length:
        raise TargetError(
            f"profile {text!r} asks for {shapes[2][1]} tokens; the model takes {max_length}"
        )
    return Profile(*shapes)


def check_cover(profiles: Sequence[Profile]) -> None:
    """Raise TargetError unless one text of any length up to the longest fits some profile: a text
    is run alone when nothing else has its length."""
    free = 1
    for profile in sorted(profiles, key=lambda p: p.least[1]):
        if profile.least[0] == 1 and profile.least[1] <= free:
            free = max(free, profile.most[1] + 1)
    longest = max((profile.most[1] for profile in profiles), default=0)
    if free <= longest:
        raise TargetError(
            f"no profile takes one text of {free} tokens; let one begin at 1x{free} or below"
        )


def longest(profiles: Sequence[str], max_length: int) -> int:
    """The most tokens that any profile takes."""
    return max((parse_profile(text, max_length).most[1] for text in profiles), default=max_length)


def parse_capabilities(
    asked: Sequence[str], precision: str, known: Sequence[str]
) -> tuple[str, ...]:
    """Architectures as "sm86", in order; those that `precision` allows where none is asked for.

    `known`: what the compiler builds for. Raises TargetError for an unknown one, and for one older
    than the precision.
    """
    least, why = LEAST_FOR_PRECISION.get(precision, (0, ""))
    if not asked:
        return tuple(sorted((k for k in known if number(k) >= least), key=number))
    found = []
    for text in asked:
        match = _CAPABILITY.fullmatch(text)
        name = f"sm{match[1]}" if match else text
        if name not in known:
            raise TargetError(
                f"unknown compute capability {text!r}; this compiler builds for {', '.join(known)}"
            )
        if number(name) < least:
            kind = _NAMES.get(precision, precision)
            verb = "need" if kind.endswith("s") else "needs"
            cure = f"; leave {name} out" if len(known) > 1 else ""
            raise TargetError(f"{kind} {verb} sm{least} or later, not {name}: {why}{cure}")
        found.append(name)
    return tuple(sorted(set(found), key=number))


def number(capability: str) -> int:
    """ "sm86" → 86."""
    return int(capability.removeprefix("sm"))


def check_graph(program: Program) -> None:
    """Refuse, in words, what NVIDIA's compiler would for every architecture: a product of integers
    with scales for blocks, and zero-points that are not zero.

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
    """What an architecture cannot do for a program."""

    does: str
    node: ir.Node
    why: str

    def __str__(self) -> str:
        return f"cannot {self.does} of {self.node.name} (from {where(self.node)}): {self.why}"


def lacking(program: Program, capabilities: Sequence[str]) -> dict[str, Lack]:
    """The architectures that lack what `program` needs, and the first thing each lacks: a type, a
    product of integers, a matrix product in f32. All types must be known (`infer_shapes`)."""
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
    """The kinds of LEAST_FOR_PRECISION that a node needs."""
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
    """The architectures that have all that `program` needs, and why the others are left out.

    Raises TargetError for one that is `named`, and where none is left.
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
    """A sentence for all architectures that are left out for one reason."""
    alike: dict[str, list[str]] = {}
    for capability, why in reasons.items():
        alike.setdefault(why, []).append(capability)
    one, more = "is left out: it", "are left out: they"
    return tuple(
        f"{', '.join(names)} {one if len(names) == 1 else more} {why}"
        for why, names in alike.items()
    )
