"""The drift, layer by layer, of an artifact's program from the source model.

exporter/diagnose/locating.py makes the same comparison where a gate is missed; this module makes it
for artifacts that pass. It takes a few short texts in one padded batch, and compares the source
model in torch with the program in ONNX Runtime, rounded to its types where it has half-precision
ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from goldfold.exporter.contract import EMBEDDING
from goldfold.exporter.diagnose.failure import Made
from goldfold.exporter.diagnose.pass_drift import is_half
from goldfold.exporter.evaluate import emulate, interpret, layer_values
from goldfold.exporter.ir.program import MODULE, Program
from goldfold.exporter.progress import Stages
from goldfold.exporter.records import LayerLook
from goldfold.golden.compare import reading_for
from goldfold.golden.padding import batch_of
from goldfold.golden.store import SHORT, Goldens

TEXTS = 3
"""Number of texts: the shortest with a neighbour, the median, and the longest short one."""


def by_layer(made: Made, goldens: Goldens, stages: Stages) -> tuple[LayerLook, ...]:
    """Returns 1−cos after every numbered layer, the worst of the texts, in the order of the layers;
    and last that of the embedding, against its golden.

    A last layer whose gain sink-linear-past-mean has moved behind the pooling is left out: its
    value differs on purpose, and the embedding shows whether that was right. The result is empty,
    with the reason as the stage's note, where the two cannot be compared: this function measures,
    and judges nothing.
    """
    with stages("layers"):
        try:
            found = _compared(made, goldens, stages)
        except Exception as error:  # an artifact that passed must not be lost here
            reason = (str(error).splitlines() or [""])[0]
            stages.note(f"not compared: {type(error).__name__}: {reason}")
            return ()
        last = f"; 1−cos {found[-2].worst:.1e} after the last" if len(found) > 1 else ""
        stages.note(f"{len(found) - 1} layers against the source model{last}")
    return found


def _compared(made: Made, goldens: Goldens, stages: Stages) -> tuple[LayerLook, ...]:
    from goldfold.exporter.frontend.trace import watch

    places, ids, mask = _batch(goldens, made.final.contract.pad_id)
    program = made.final if made.emulable is None else made.emulable
    half = is_half(program)
    stages.detail("the program")
    here = layer_values.values_of(program, ids, mask, numbered, rounded=half)
    for name in moved(made.pipeline.trail, program):
        here.pop(name, None)
    embedded = (emulate.runner if half else interpret.runner)(program)(ids, mask)
    stages.detail("the source model")
    there = watch(made.source, ids, mask, here)
    worst: dict[str, LayerLook] = {}
    for row, place in enumerate(places):
        tokens, text = int(mask[row].sum()), goldens.cases[place].id
        cut = [{key: v[row : row + 1] for key, v in side.items()} for side in (there, here)]
        golden = goldens.row(place)[..., : embedded.shape[-1]]
        apart = reading_for(goldens)(embedded[row].astype(float), golden.astype(float))
        last = layer_values.Apart(EMBEDDING, apart.distance)
        for one in (*layer_values.compare(*cut, tokens=tokens), last):
            known = worst.get(one.name)
            if known is None or one.distance > known.worst:
                worst[one.name] = LayerLook(layer=one.name, worst=one.distance, worst_id=text)
    return tuple(worst.values())


def moved(trail: Sequence[tuple[str, str]], program: Program) -> list[str]:
    """Returns the layer that is pooled as it stands, if a pass has moved its gain behind the
    pooling, and the one whose tokens are projected as they stand, if its gain went into the
    projection.

    `trail` is as in goldfold.exporter.passes.pipeline.Pipeline.
    """
    laws = {law for law, _ in trail}
    sunk, folded = "sink-linear-past-mean" in laws, "fold-norm-gain" in laws
    return [
        name
        for name, value in layer_values.leaving(program, numbered).items()
        if any(_pools(use.node) and (sunk or (folded and _maps(use.node))) for use in value.uses())
    ]


def _maps(node: ir.Node) -> bool:
    return node.op_type in ("MatMul", "Gemm")


def _pools(node: ir.Node) -> bool:
    """Returns whether `node` belongs to a stage behind the transformer; a cast does not count."""
    if node.op_type == "Cast":
        return any(_pools(use.node) for value in node.outputs for use in value.uses())
    return node.metadata_props.get(MODULE, "").startswith("stages.")


def numbered(module: str) -> str:
    """Returns the layer that a module is in, if layers are numbered there; otherwise "". Behind the
    last layer passes move factors, so values there do not compare."""
    name = layer_values.layer_of(module)
    return name if name.rpartition(".")[2].isdecimal() and not name.startswith("stages.") else ""


def _batch(goldens: Goldens, pad_id: int) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Returns indices of the texts among `goldens`, and int64 [TEXTS, tokens] token ids and mask,
    padded on the right."""
    lengths = [len(case.token_ids) for case in goldens.cases]
    pooled = [not case.unpooled for case in goldens.cases]
    short = sorted((n, at) for at, n in enumerate(lengths) if 2 < n <= SHORT and pooled[at])
    if not short:
        raise ValueError(f"the goldens have no text of 3 to {SHORT} tokens")
    steps = dict.fromkeys(round(at * (len(short) - 1) / (TEXTS - 1)) for at in range(TEXTS))
    places = [short[step][1] for step in steps]
    return places, *batch_of([goldens.cases[place] for place in places], pad_id)
