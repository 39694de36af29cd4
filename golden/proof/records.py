"""What a proof says: records of constants, faults, and bytes that follow from nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Checked:
    """A constant of the program. `how` is "derived" (equal to its expression), "bounded" (within
    the steps that its line states), "digest" (the bytes that an export proved, or chose), "assumed"
    (the bytes that an export computed from constants in a way that no derivation follows) or
    "absent" (a shape or axis that the format spells otherwise); `where` is its place in the
    artifact."""

    name: str
    ok: bool
    how: str
    where: str


@dataclass(frozen=True, slots=True)
class Fault:
    """A constant that is not what it should be: what, where and by how much, in a sentence."""

    constant: str
    sentence: str
    maker: str = ""
    """The pass that made it."""
    changed: bool = False
    """Whether the artifact's bytes are not those that the pass made: what wrote them is at fault,
    not the pass."""


@dataclass(frozen=True, slots=True)
class Loose:
    """A constant, or other bytes, that follow from no line."""

    name: str
    kind: str
    shape: tuple[int, ...]
    size: int
    where: str


@dataclass(frozen=True, slots=True)
class Proof:
    """What a check found.

    `uncovered` follow from no line; `small` are those of at most 64 integers, such as shapes and
    axes, which a format adds. `unfound` are matrices that an engine, whose format is not public,
    holds in no plain order: what else is known of it must say whether it holds them. `structure` is
    the sha256 of the graph's text without its numbers. `covered` of `stored` bytes of constants
    follow from lines.
    """

    constants: tuple[Checked, ...]
    faults: tuple[Fault, ...]
    uncovered: tuple[Loose, ...]
    small: tuple[Loose, ...]
    unfound: tuple[Fault, ...]
    structure: str
    covered: int
    stored: int
    seconds: float

    @property
    def ok(self) -> bool:
        return not self.faults and not self.uncovered
