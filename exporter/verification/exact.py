"""An artifact's graph is its program's: both are computed in f32, and nothing is rounded.

Where the constants are proved (constants.py) and a file's form is not the program's own, the ops
between them are still to be compared. In the artifact's precision a wrong epsilon, window or
activation may hide below the rounding of the precision; in f32 it does not.
"""

from __future__ import annotations

import math
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx_ir as ir

from goldfold.exporter import registry
from goldfold.exporter.artifact.manifest import DERIVATIONS, Manifest
from goldfold.exporter.evaluate import emulate, interpret
from goldfold.exporter.ir.program import Program
from goldfold.exporter.ir.protobuf import MODEL
from goldfold.exporter.progress import Stages
from goldfold.golden.compare import reading_for
from goldfold.golden.gate import GATES, limits
from goldfold.golden.padding import batch_of
from goldfold.golden.proof import expressions, readers
from goldfold.golden.reasons import Reason
from goldfold.golden.store import Goldens
from goldfold.golden.tasks import SCORES

_TEXTS = 4
"""Texts that are run, alone and with padding behind them: each passes through every op and every
layer."""
_SHORT = 64
"""Tokens of the longest of them, where goldens as short as that are there."""
_PADDING = 3
_SHARE = math.sqrt(2 * GATES["fp32"].worst)
"""The error of a logit that is as large a share of it as an error of 1-cos at fp32's limit is of a
vector. A lowering that works constants out rounds what it made of them to half precision, and its
program rounds nothing there: 2^-11 of a part of attention's scores, seen as 7e-5 of a logit."""


def reasons(
    folder: Path, manifest: Manifest, program: Program, goldens: Goldens, stages: Stages
) -> tuple[Reason, ...]:
    """Returns why an artifact in `folder` is not what its program says; nothing where its file is
    an `.onnx` file, whose graph is compared as it stands. Where its own gate is as close, only the
    functions that samples cannot tell apart are compared.

    `program` is the one that the target was given.
    """
    target, limit = registry.target(manifest.target), limits("fp32", goldens).worst
    if (folder / MODEL).is_file():
        return ()
    if notes := _near(program, folder, manifest.floating != "fp32"):
        return tuple(Reason("constants", note=note) for note in notes)
    if manifest.gate == "fp32" or "static" in manifest.needs:
        return ()
    run = target.exact_run(folder, manifest.contract)
    if run is None:
        return ()
    with stages(f"graph {manifest.target}-{manifest.precision}"):
        wide = emulate.exact(_as_stored(program, folder))
        there = interpret.runner(wide, optimise=False)
        order = sorted(goldens.cases, key=lambda case: len(case.token_ids))
        short = [case for case in order if 1 < len(case.token_ids) <= _SHORT] or order[:1]
        cases = short[:: max(1, len(short) // _TEXTS)][:_TEXTS]
        worst, text, read = 0.0, "", reading_for(goldens)
        for case in cases:
            tokens = len(case.token_ids)
            for width in (tokens, min(tokens + _PADDING, manifest.contract.max_length)):
                ids, mask = batch_of([case], manifest.contract.pad_id, width)
                one, two = (np.asarray(f(ids, mask))[0].astype(np.float64) for f in (run, there))
                if one.ndim == 2:  # the rows of padding are nobody's
                    one, two = one[:tokens], two[:tokens]
                apart = read(one, two).distance
                if not apart <= worst:
                    worst, text = apart, case.id
        stages.note(f"in fp32 within {worst:.1e} of its program, on {len(cases)} texts")
    if goldens.task == SCORES and _folds(folder):
        limit = max(limit, _SHARE)
    if worst <= limit:
        return ()
    note = (
        f"Its graph is not its program's: in fp32 {text} differs by {worst:.1e}, over {limit:.0e}."
    )
    return (Reason("constants", note=note),)


def _folds(folder: Path) -> bool:
    """Returns whether a lowering worked numbers in half precision out of constants."""
    lines = expressions.read(folder / DERIVATIONS).constants
    return any(
        line.maker == "lowering" and line.kind == "float16" and math.prod(line.shape) > 1
        for line in lines
    )


def _near(program: Program, folder: Path, half: bool) -> list[str]:
    """Returns a note for what a file computes by another number, or another function, than its
    program, so near that samples cannot tell: its epsilons, and its GELUs. A compiler may write
    either from the ops and constants around, so those count as well."""
    most: Counter[str] = Counter()
    small: set[float] = set()
    for node in program.graph:
        if node.op_type == "Gelu":
            tanh = node.attributes.get_string("approximate", "none") == "tanh"
            most["tanh" if tanh else "erf"] += 1
        elif node.op_type in {"Erf", "Tanh"}:
            most[node.op_type.lower()] += 1
        if "epsilon" in node.attributes:
            small.add(node.attributes.get_float("epsilon", 0.0))
    for value in program.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.size == 1 and tensor.dtype.is_floating_point():
            small |= {float(tensor.numpy().astype(np.float32).item())} - {0.0}
    try:
        with closing(readers.read(folder)) as contents:
            held, epsilons = contents.gelus, contents.epsilons
    except readers.NoReader:
        return []
    notes = [
        f"{count} of its GELUs are computed by {kind or 'nothing'}, its program has {most[kind]}"
        for kind, count in held.items()
        if count > most[kind]
    ]
    notes += [
        f"no norm of its program adds {one:.3g}" for one in epsilons if not _among(one, small, half)
    ]
    return [f"Its graph is not its program's: {note}." for note in notes]


def _among(found: float, known: set[float], half: bool) -> bool:
    """Returns whether a number is one of those known, or with `half` one of them in fp16."""
    with np.errstate(over="ignore"):
        return any(
            abs(found - one) <= 1e-5 * abs(one) or (half and found == float(np.float16(one)))
            for one in known
        )


def _as_stored(program: Program, folder: Path) -> Program:
    """Returns the program with the constants that an artifact holds in half precision as they are
    there: that rounding is proved with the constants, and is not what is compared here."""
    copy = program.copy()
    with closing(readers.read(folder)) as contents:
        for stored in contents.stored:
            value = copy.graph.initializers.get(stored.name)
            tensor = None if value is None else value.const_value
            if value is None or tensor is None or stored.kind != "float16":
                continue
            if tensor.dtype == ir.DataType.FLOAT and tensor.size == stored.count:
                shape = [int(size) for size in tensor.shape]  # type: ignore[arg-type]
                held = stored.numbers().astype(np.float32).reshape(shape)
                value.const_value = ir.tensor(held, name=value.name)
    return copy
