"""The location of a fault in an artifact that misses its gate: the first wrong step, and the first
layer in which the fault shows.

The search uses one text. First, does the traced program still give the golden? If not, it is
compared with the source model in torch. Second, does the program that the target was given? If not,
bisection finds the first pass that broke it, and the program before that pass is compared with the
one after. If it does, the target's build is repeated with every layer as an output, and compared
with the program.

While gates hold, nothing here runs; the only cost is a copy of the traced graph that shares its
weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from goldfold.exporter.diagnose import amplified
from goldfold.exporter.diagnose.failure import NOISE, Probe, Suspect, pick
from goldfold.exporter.diagnose.halving import first_wrong
from goldfold.exporter.diagnose.pass_drift import is_half
from goldfold.exporter.errors import RewriteError
from goldfold.exporter.evaluate import interpret, layer_values
from goldfold.exporter.evaluate.layer_values import Apart, Group, layer_of, within
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes.base import Log, Pass
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.progress import Stages
from goldfold.exporter.records import Kind, Location
from goldfold.golden.proof.records import Fault
from goldfold.golden.tasks import QUANTITY

if TYPE_CHECKING:
    from goldfold.exporter.contract import Run

ROUNDS = ("set-precision", "quantize", "round-")
"""Prefixes of the names of passes that change how values are rounded and nothing else."""


def locate(suspect: Suspect, stages: Stages) -> Location | None:
    """Returns the first step and the first layer that are wrong on the worst text; None if no text
    alone is over the limit (tokens, a further head). A comparison that is impossible is reported,
    never raised."""
    picked = pick(suspect)
    if picked is None:
        return None
    with stages("locate"):
        try:
            found = _story(suspect, picked, stages)
            if why := amplified.sentence(suspect, stages):
                found = found.with_(sentence=f"{found.sentence} {why}")
        except Exception as error:  # the artifact has failed already; this must not hide it
            reason = (str(error).splitlines() or [""])[0]
            why = f"It could not be looked into further: {type(error).__name__}: {reason}."
            found = _said(suspect, picked, "unknown", None, why)
        stages.note(f"{found.kind}: {found.pass_name or found.layer or found.text}")
    return found


def by_constant(faults: Sequence[Fault], suspects: Sequence[tuple[str, str]]) -> Location:
    """Returns the location of constants that do not follow from the source: the proof names them,
    so nothing is searched. What the trace holds otherwise than the model counts first, then the
    first constant that its pass made wrong, before any that was made right and changed when it was
    written. `suspects` are the program's (ir/program.py)."""
    if suspects:
        module, tensor = suspects[0]
        return Location(
            kind="trace",
            text="",
            tokens=0,
            padded=False,
            distance=None,
            place=faults[0].constant,
            layer=layer_of(module) or "",
            module=module,
            sentence=(
                f"The trace holds a weight of {module} otherwise than the model does: the tensor "
                f"{tensor}. {faults[0].constant}: {faults[0].sentence}."
            ),
        )
    first = next((fault for fault in faults if not fault.changed), faults[0])
    maker = first.maker or "trace"
    kind: Kind = "build" if first.changed else "trace" if maker == "trace" else "pass"
    cause = {
        "build": f"The pass {maker} made it right, and the target's build wrote it wrong.",
        "trace": "The trace read it so: the constant is not the model's tensor.",
        "pass": f"The pass {maker} made it so.",
    }[kind]
    others = f" {len(faults) - 1} more constants are wrong." if len(faults) > 1 else ""
    return Location(
        kind=kind,
        text="",
        tokens=0,
        padded=False,
        distance=None,
        pass_name="" if kind == "trace" else maker,
        place=first.constant,
        sentence=f"Constant {first.constant}: {first.sentence}. {cause}{others}",
    )


def _story(suspect: Suspect, probe: Probe, stages: Stages) -> Location:
    stages.detail("the program that the target was given")
    given = suspect.made.final if suspect.made.emulable is None else suspect.made.emulable
    at_end = probe.of(given)
    if at_end <= suspect.limit:
        return _in_build(suspect, probe, stages)
    stages.detail("the passes")
    steps = _replay(suspect)
    first = next(i for i, step in enumerate(steps) if _runs(step.program))
    at_first = probe.of(steps[first].program)
    if not at_first <= suspect.limit:
        return _in_trace(suspect, probe, steps[first].program, at_first, stages)
    bad = first_wrong(
        first, len(steps), lambda step: probe.of(steps[step].program) <= suspect.limit
    )
    if bad == len(steps):  # only the emulation is over its limit: its rounding is the cause
        return _rounding(suspect, probe, steps[-1].program, given, at_end)
    pass_ = steps[bad].pass_
    assert pass_ is not None
    if pass_.name.startswith(ROUNDS):
        return _rounding(suspect, probe, steps[bad - 1].program, steps[bad].program, at_end, pass_)
    return _in_pass(suspect, probe, steps[bad - 1].program, pass_, stages)


# --- each ending of the story


def _in_trace(
    suspect: Suspect, probe: Probe, traced: Program, distance: float, stages: Stages
) -> Location:
    """Compare with the source model in torch, module by module."""
    from goldfold.exporter.frontend.trace import watch

    stages.detail("the source model")

    def torch_values(names: Sequence[str]) -> dict[str, np.ndarray]:
        return watch(
            suspect.made.source,
            probe.ids,
            probe.mask,
            names,
        )

    def look(group: Group) -> list[Apart]:
        there = layer_values.values_of(traced, probe.ids, probe.mask, group, rounded=False)
        leaves = [n for n in there if not any(other.startswith(f"{n}.") for other in there)]
        return layer_values.compare(torch_values(leaves), there, probe.tokens)

    found = _first(look, NOISE["fp32"])
    why = (
        "The traced program is wrong before any optional pass: its trace, or a weight of it, is not"
        " the source model's."
    )
    return _said(suspect, probe, "trace", distance, why, found)


def _in_pass(
    suspect: Suspect, probe: Probe, before: Program, pass_: Pass, stages: Stages
) -> Location:
    """Find the first application of `pass_` that breaks the text, and where that shows."""
    stages.detail(f"the applications of {pass_.name}")
    places = _applied(before, pass_, None)[1].applied
    bad = first_wrong(
        0, len(places), lambda count: probe.of(_applied(before, pass_, count)[0]) <= suspect.limit
    )
    broken = _applied(before, pass_, bad)[0]
    distance = probe.of(broken)
    # One application less: this application is then the only difference, not the other changes of
    # the pass.
    right = _applied(before, pass_, bad - 1)[0]
    here = layer_values.values_of(right, probe.ids, probe.mask, rounded=is_half(right))

    def look(group: Group) -> list[Apart]:
        rounded = is_half(broken)
        there = layer_values.values_of(broken, probe.ids, probe.mask, group, rounded=rounded)
        return layer_values.compare(here, there, probe.tokens)

    # Inside a layer a pass may move anything; its own place says more than a comparison.
    found = _first(look, suspect.noise, deeper=False)
    place = places[bad - 1]
    why = (
        f"The pass {pass_.name} breaks it, at {place} (application {bad} of {len(places)}); before"
        " it the program is within the limit."
    )
    return _said(suspect, probe, "pass", distance, why, found, (pass_.name, place))


def _rounding(
    suspect: Suspect,
    probe: Probe,
    before: Program,
    after: Program,
    distance: float,
    pass_: Pass | None = None,
) -> Location:
    """Report half precision or quantization itself: the program is right until its values are
    rounded."""

    def look(group: Group) -> list[Apart]:
        here = layer_values.values_of(before, probe.ids, probe.mask, group, rounded=is_half(before))
        there = layer_values.values_of(after, probe.ids, probe.mask, group, rounded=True)
        return layer_values.compare(here, there, probe.tokens)

    found = _first(look, 0.0, rounding=True)
    why = (
        f"This is the rounding of {suspect.made.asked}, not a fault: before its values are"
        " rounded the program is within the limit."
    )
    return _said(
        suspect, probe, "rounding", distance, why, found, (pass_.name if pass_ else "", "")
    )


def _in_build(suspect: Suspect, probe: Probe, stages: Stages) -> Location:
    """Build again with layers as outputs, and compare with the program that was the build's
    input."""
    stages.detail(f"building {suspect.made.target.name} again, its layers as outputs")
    distances: dict[str, float] = {}

    def look(group: Group) -> list[Apart]:
        copy, names = layer_values.exposed(suspect.made.final, group)
        # Read before the build, which may use the copy up.
        rounded = is_half(suspect.made.final)
        here = layer_values.values_of(
            suspect.made.final, probe.ids, probe.mask, group, rounded=rounded
        )
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            suspect.made.target.build(copy, suspect.made.precision, folder, suspect.made.options)
            run = _open(suspect, folder, suspect.made.precision)
            distances.setdefault("built", probe.distance(run))
            if suspect.made.precision != "fp32" and not suspect.made.target.strongly_typed:
                wide = _open(suspect, folder, "fp32")
                distances.setdefault("wide", probe.distance(wide))
            there = {n: run(probe.ids, probe.mask, value) for n, value in names.items()}
        return layer_values.compare(here, there, probe.tokens)

    computes = suspect.made.precision != "fp32" and suspect.made.target.executes(
        suspect.made.precision
    )
    found = _first(look, suspect.noise, rounding=computes)
    distance = distances["built"]
    if distances.get("wide", np.inf) <= suspect.limit:
        why = (
            f"This is the rounding of {suspect.made.asked} in {suspect.made.target.name}'s"
            " runtime, not a fault: the same file computed in fp32 is within the limit."
        )
        return _said(suspect, probe, "rounding", distance, why, found)
    why = (
        f"No pass breaks it: the program that was given to {suspect.made.target.name} is within the"
        " limit. The fault is in that target's build, or in its runtime."
    )
    return _said(suspect, probe, "build", distance, why, found)


# --- what they share


@dataclass(frozen=True)
class Step:
    """The program after `pass_`, or before all passes."""

    pass_: Pass | None
    program: Program


def _replay(suspect: Suspect) -> list[Step]:
    """Returns the program before the first pass, and after each that applied. All share their
    weights."""
    pipeline = suspect.made.pipeline
    assert pipeline.before is not None
    program = pipeline.before.copy()
    again = Pipeline(replace(pipeline.options, dump=None))
    steps = [Step(None, program.copy())]
    for pass_ in pipeline.ran:
        (report,) = again.run(program, [pass_])
        if report.applied:
            steps.append(Step(pass_, program.copy()))
    return steps


def _applied(program: Program, pass_: Pass, count: int | None) -> tuple[Program, Log]:
    copy = program.copy()
    return copy, pass_.rewrite(copy.model, Log(count))


def _runs(program: Program) -> bool:
    try:
        interpret.runner(program)
    except RewriteError:
        return False
    return True


def _open(suspect: Suspect, folder: Path, precision: str) -> Run:
    target, contract = suspect.made.target, suspect.made.final.contract
    opener = target.load if target.cannot_run(folder) is None else target.reference_run
    return opener(folder, contract, precision, None)


@dataclass(frozen=True)
class Found:
    layer: Apart
    before: float
    module: str = ""


def _first(
    look: Callable[[Group], list[Apart]], noise: float, *, rounding: bool = False, deeper=True
) -> Found | None:
    """Returns the layer at which the drift begins, and the module in it; for rounding, the layer
    that adds most."""
    step = (
        layer_values.largest_step
        if rounding
        else lambda found: layer_values.first_jump(found, noise)
    )
    layer = step(look(layer_of))
    if layer is None:
        return None
    module = step(look(within(layer[0].name))) if deeper else None
    return Found(*layer, module[0].name if module else "")


def _said(
    suspect: Suspect,
    probe: Probe,
    kind: Kind,
    distance: float | None,
    why: str,
    found: Found | None = None,
    applied: tuple[str, str] = ("", ""),
) -> Location:
    """Returns the record of a fault. `applied` is the pass, and the place of its application."""
    pass_name, place = applied
    worst = max(probe.row.alone.distance, probe.row.padded.distance)
    size = worst if distance is None else distance
    way = "in a padded batch" if probe.padded else "alone"
    quantity = QUANTITY[suspect.goldens.task]
    sentence = (
        f"Text {probe.row.id} ({probe.tokens} tokens, {way}): {quantity} {size:.1e}, limit"
        f" {suspect.limit:.0e}. {why}"
    )
    if found is not None:
        begins = "Most is added in" if kind == "rounding" else "It first shows in"
        inside = f", module {found.module}" if found.module not in ("", found.layer.name) else ""
        sentence += (
            f" {begins} {found.layer.name}{inside}: 1−cos {found.layer.distance:.1e} after it,"
            f" {found.before:.1e} before."
        )
    elif kind != "unknown":
        sentence += " No layer shows it: it is behind the last of them."
    return Location(
        kind=kind,
        text=probe.row.id,
        tokens=probe.tokens,
        padded=probe.padded,
        distance=size,
        pass_name=pass_name,
        place=place,
        layer=found.layer.name if found else "",
        module=(found.module or place) if found else place,
        before=found.before if found else None,
        after=found.layer.distance if found else None,
        sentence=sentence,
    )
