"""Results: one artifact of an export or a verification, and its measurements."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from goldfold.exporter import registry
from goldfold.exporter.artifact.bundle import Bundle
from goldfold.golden.compare import Measurement
from goldfold.golden.gate import Status, Verdict
from goldfold.golden.measured import unmeasured


@dataclass(frozen=True)
class Result:
    """One artifact of an export or a verification."""

    path: Path
    """Path of the artifact; ends in `.failed` if it missed its gate."""
    bundle: Bundle
    measurement: Measurement
    verdict: Verdict
    seconds: float
    """Seconds that building and verifying took."""
    unrecorded: str = ""
    """Why verdict.json could not be written, where `verify` measured and could not."""
    otherwise: str = ""
    """The sentence on canaries that are further from those of the verdict before than the gate's
    margin, where `verify` finds some (exporter/artifact/canaries.py)."""
    private: str = ""
    """The sentence on private texts that `verify` did not run again, and on given texts that are
    none of them; "" where every text was run."""

    @property
    def passed(self) -> bool:
        """Whether the gate holds: the status is "passed" or "proved"."""
        return self.verdict.passed

    @property
    def unmeasured(self) -> str:
        """The sentence on the lengths that the artifact takes and that were not measured; "" where
        every length was."""
        return unmeasured(self.measurement.longest, self.bundle.manifest.contract.max_length)

    @property
    def status(self) -> Status:
        """One of three: "passed", this very file ran on this machine in its precision; "proved",
        what stands for it ran and held the gate (`verdict.stand_in` says what, and
        `verdict.not_run` why); "failed"."""
        return self.verdict.status


def measured(opened: Bundle) -> tuple[str, str]:
    """Returns what is measured on this machine, and why that is not the artifact itself ("" if it
    is)."""
    target = registry.target(opened.manifest.target)
    reason = target.cannot_run(opened.path)
    if reason is None:
        return "the artifact", ""
    return target.reference_name(opened.manifest.floating), reason


def standing(opened: Bundle, verdict: Verdict, emulated: bool) -> Verdict:
    """Returns the verdict with what stood in for a run of this very file in its precision, if
    anything did. `emulated` says that the emulator's figures are among the proof."""
    what, reason = measured(opened)
    target, floating = opened.manifest.target, opened.manifest.floating
    stands, why = [], ""
    if reason:
        stands.append(what or "a stand-in that its target does not name")
        why = f"not run on its device: {reason}"
    if not registry.target(target).executes(floating):
        stands = stands or ["this file, computed in fp32"]
        why = why or f"not run in {floating}: {target} computes it in fp32 on this machine"
    if stands and emulated:
        rounded = f"every value rounded to {floating}"
        stands.append(f"its program at its export in goldfold's emulator, {rounded}")
    return replace(verdict, stand_in=", and ".join(stands), not_run=why)
