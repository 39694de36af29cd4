"""Numbers with the error that another correct evaluation may show, and arithmetic with them.

There is no error where each step is rounded correctly: then there is one result alone. The steps
are float64's, which has more than twice the digits of any kind that is stored, so that a sum, a
product, a quotient or a root that is rounded to float64 first is the one that is rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from goldfold.golden.proof import kinds

HALF = 2.0**-53
_LIBRARY = 2.0**-23
"""No library rounds a cosine, an exponential or a power correctly. Those of numpy and the runtimes
are within one unit in the last place of float32, which is at most 2⁻²³ of the value; for a cosine
or a sine, 2⁻²³ of the largest value there is, 1, because their arguments were reduced."""

_PLAIN: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative,
    "abs": np.abs, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "cosine": np.cos,
    "sine": np.sin, "tanh": np.tanh, "exp": np.exp, "log": np.log, "power": np.power,
}  # fmt: skip
_LIBRARIES = frozenset({"cosine", "sine", "tanh", "exp", "log", "power"})
_WHOLE = frozenset({"add", "sub", "mul", "neg", "abs"})


@dataclass(frozen=True, slots=True)
class Part:
    """Numbers, and by how much each of them may be off; None where they are the only result."""

    value: np.ndarray
    error: np.ndarray | None = None

    @property
    def wide(self) -> np.ndarray:
        return self.value.astype(np.float64, copy=False)

    @property
    def errors(self) -> np.ndarray:
        return np.zeros(self.value.shape) if self.error is None else self.error

    def moved(self, move: Callable[[np.ndarray], np.ndarray]) -> Part:
        return Part(move(self.value), None if self.error is None else move(self.error))


def joined(parts: list[Part], axis: int) -> Part:
    value = np.concatenate([part.value for part in parts], axis)
    if all(part.error is None for part in parts):
        return Part(value)
    return Part(value, np.concatenate([part.errors for part in parts], axis))


def cast(x: Part, kind: str) -> Part:
    """Rounds to a kind. An error of x may carry it beyond a tie, to the number beside."""
    value = kinds.rounded(x.value, kind)
    if x.error is None:
        return Part(value)
    if kind in kinds.FLOATS:
        return Part(value, x.error + kinds.unit(np.abs(x.wide) + x.error, kind))
    return Part(value, np.rint(x.wide + x.error) - np.rint(x.wide - x.error))


def apply(name: str, of: list[Part]) -> Part:
    """Returns a function of numbers, one by one; errors are those of its arguments, carried by its
    slope or by its values at their ends."""
    whole = name in _WHOLE and all(part.value.dtype.kind in "iub" for part in of)
    a, *rest = (part.value.astype(np.int64) if whole else part.wide for part in of)
    value = _PLAIN[name](a, *rest)
    if name not in _LIBRARIES and all(part.error is None for part in of):
        return Part(value)
    b, ea, eb, size = (rest or [a])[0], of[0].errors, of[-1].errors, np.abs(value)
    match name:
        case "add" | "sub":
            error = ea + eb
        case "mul":
            error = np.abs(a) * eb + np.abs(b) * ea + ea * eb
        case "div":
            error = (ea + size * eb) / np.maximum(np.abs(b) - eb, 0)
        case "cosine" | "sine":
            return Part(value, ea + _LIBRARY)
        case "neg" | "abs" | "tanh":
            error = ea
        case "power":  # of bases above zero, monotone in each argument
            ends = [np.power(a + i * ea, b + j * eb) for i in (-1, 1) for j in (-1, 1)]
            error = np.maximum.reduce(ends) - np.minimum.reduce(ends)
        case _:
            error = np.abs(_PLAIN[name](a + ea) - _PLAIN[name](a - ea))
    return Part(value, error + size * (_LIBRARY if name in _LIBRARIES else 2 * HALF))


def product(x: Part, y: Part) -> Part:
    """A sum of n products, in any order, is within n·2⁻⁵³·Σ|a||b| of the true one; so two
    evaluations are within twice that of each other."""
    a, b = x.wide, y.wide
    error = 2 * a.shape[-1] * HALF * (np.abs(a) @ np.abs(b))
    if x.error is not None or y.error is not None:
        error += np.abs(a) @ y.errors + x.errors @ (np.abs(b) + y.errors)
    return Part(a @ b, error)
