"""A budget bounds the drift of a search's recipe: `worst_cos>=0.995`, `mean_cos>=0.999`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from goldfold.exporter.errors import UsageError

_FORM = re.compile(r"\s*(\w+)\s*(>=|=>|≥|<=|>|<|==?)\s*(\S+)\s*")
_NUMBER = re.compile(r"(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True)
class Budget:
    """Upper bounds on 1−cos over texts; None where there is no bound. At least one is given."""

    worst: float | None = None
    mean: float | None = None

    def holds(self, errors: np.ndarray) -> bool:
        """Whether f64 [texts] of 1−cos are within the budget."""
        return self.strain(errors) <= 1.0

    def strain(self, errors: np.ndarray) -> float:
        """The used share of the bound that is used most; above 1 the budget does not hold."""
        return max(
            errors.max() / self.worst if self.worst is not None else 0.0,
            errors.mean() / self.mean if self.mean is not None else 0.0,
        )

    def loads(self, errors: np.ndarray) -> np.ndarray:
        """The rows of the budget, each a share of its bound: one per text where the worst is
        bounded, then the mean. Rows are linear in `errors`, so those of several groups add up."""
        rows = [errors / self.worst] if self.worst is not None else []
        rows += [np.array([errors.mean() / self.mean])] if self.mean is not None else []
        return np.concatenate(rows)

    def __str__(self) -> str:
        pairs = (("worst_cos", self.worst), ("mean_cos", self.mean))
        given = [(name, limit) for name, limit in pairs if limit is not None]
        return ", ".join(f"{name} >= {1 - limit:.15g}" for name, limit in given)


def parse(texts: Sequence[str]) -> Budget:
    """The budget of all `texts` together. Raises UsageError, naming the text, for a text that is no
    budget, for a bound that is given twice, and where there is no text at all."""
    found: dict[str, float] = {}
    for text in texts:
        match = _FORM.fullmatch(text)
        if match is None or _NUMBER.fullmatch(match[3]) is None:
            raise UsageError(f"--budget {text!r} is no budget such as 'worst_cos>=0.995'")
        name, sign, number = match[1], match[2], float(match[3])
        if name not in ("worst_cos", "mean_cos"):
            raise UsageError(f"--budget {text!r}: there are worst_cos and mean_cos, no {name}")
        if sign not in (">=", "≥"):
            raise UsageError(f"--budget {text!r}: a cosine has a lower bound: {name}>={match[3]}")
        if not 0 < number < 1:
            raise UsageError(f"--budget {text!r}: a bound lies between 0 and 1, both left out")
        if name in found:
            raise UsageError(f"--budget bounds {name} twice; give it once")
        found[name] = 1 - number
    if not found:
        raise UsageError("give at least one --budget, such as 'worst_cos>=0.995'")
    return Budget(found.get("worst_cos"), found.get("mean_cos"))
