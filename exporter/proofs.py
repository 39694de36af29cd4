"""Records of what is proved of an artifact for every text: its constants, and bounds on its
values."""

from __future__ import annotations

from goldfold.exporter.records import Real, Record


class KindBounds(Record, frozen=True, kw_only=True):
    """The values of one kind that the artifact's program types fp16, each with the bound on its
    magnitude that holds for every text (exporter/evaluate/value_bounds.py)."""

    kind: str
    proved: dict[str, Real]
    """Bound by value, below 65,504."""
    calibrated: dict[str, Real]
    """Likewise of values whose bound is not below 65,504: calibration texts chose their range, and
    other texts may leave it."""


class Constants(Record, frozen=True, kw_only=True):
    """The proof of an artifact's constants (golden/proof/): how many there are of each kind."""

    source: bool = False
    """Whether they were compared with the model's tensors; else with the digests of the export."""
    derived: int = 0
    """Constants that are their derivation's value, number by number."""
    bounded: int = 0
    """Integers that lie within the steps that their derivation states."""
    digests: int = 0
    """Constants that have the digest that the export proved, or chose."""
    assumed: int = 0
    """Constants that the export computed from others in a way that no derivation follows: only
    their bytes were compared."""
    faults: int = 0
    uncovered: int = 0
    """Constants of the artifact that follow from no derivation."""
    unfound: int = 0
    """Matrices that an engine holds in no order that the checker knows: its target proved them by
    other means when it was built."""
    bytes: int = 0
    """Bytes of constants that follow from derivations, of all in the artifact."""
    of: int = 0

    @property
    def sentence(self) -> str:
        """The proof in one sentence."""
        held = self.derived + self.bounded + self.digests + self.assumed
        if not held:
            return "Nothing was compared: no reader knows the files of this target."
        against = "the model's tensors" if self.source else "the digests of its export"
        size = f"{self.bytes / 1e6:,.1f} MB"
        said = f"{held:,} constants, {size}, were compared with {against}"
        if self.faults or self.uncovered:
            return f"{said}; {self.faults + self.uncovered} are wrong."
        assumed = f"; {self.assumed} are assumed" if self.assumed else ""
        return f"{said}: every number follows{assumed}."
