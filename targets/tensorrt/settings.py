"""The settings of an engine: architectures and optimisation profiles, read from the command line
and checked before anything is traced."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from goldfold.exporter.errors import TargetError

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
"""The oldest architecture for a precision or for a kind of integers (Target.quantizes), and why:
from the compiler's own answer to a build (tests/targets/tensorrt), for fp8 from NVIDIA's support
matrices."""

_NAMES = {"static": "int8 activations"}


@dataclass(frozen=True)
class Profile:
    """A profile: least, usual and most (batch, tokens). Kernels are chosen for the usual one."""

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
    """Returns one profile for single queries, and one for batches of everything up to the model's
    own length."""
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
    runs alone when no other has its length."""
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
    """Returns the most tokens that any profile takes."""
    return max((parse_profile(text, max_length).most[1] for text in profiles), default=max_length)


def parse_capabilities(
    asked: Sequence[str], precision: str, known: Sequence[str]
) -> tuple[str, ...]:
    """Returns architectures as "sm86", in order; by default those that `precision` allows.

    `known`: the compiler's architectures. Raises TargetError for an unknown one, and for one older
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
    """Returns the number of an architecture: "sm86" → 86."""
    return int(capability.removeprefix("sm"))
