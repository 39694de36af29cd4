"""How far the program that an artifact was built from is from the source model, layer by layer.

The same comparison that exporter/locating.py makes where a gate is missed, for artifacts that pass:
a few short texts in one padded batch, the source model in torch against the program in ONNX
Runtime, rounded to its types where it has half ones.
"""

from __future__ import annotations

import numpy as np

from exporter import layers
from exporter.figures import LayerLook
from exporter.probing import SHORT, is_half
from exporter.stages import Stages
from exporter.suspect import Made
from golden.store import Goldens

TEXTS = 3
"""How many texts: the shortest with a neighbour, the median, and the longest short one."""


def by_layer(made: Made, goldens: Goldens, stages: Stages) -> tuple[LayerLook, ...]:
    """1−cos after every numbered layer, the worst of the texts, in the order of the layers.

    Empty, with the reason as the stage's note, where the two cannot be compared: this looks, and
    judges nothing.
    """
    with stages("layers"):
        try:
            found = _compared(made, goldens, stages)
        except Exception as error:  # an artifact that passed must not be lost to a look at it
            reason = (str(error).splitlines() or [""])[0]
            stages.note(f"not compared: {type(error).__name__}: {reason}")
            return ()
        last = f"; 1−cos {found[-1].worst:.1e} after the last" if found else ""
        stages.note(f"{len(found)} layers against the source model{last}")
    return found


def _compared(made: Made, goldens: Goldens, stages: Stages) -> tuple[LayerLook, ...]:
    from exporter.trace import watch

    names, ids, mask = _batch(goldens, made.final.contract.pad_id)
    program = made.final if made.emulable is None else made.emulable
    stages.detail("the program")
    here = layers.values_of(program, ids, mask, numbered, rounded=is_half(program))
    stages.detail("the source model")
    there = watch(made.source, ids, mask, here, trust_remote_code=made.trusts)
    worst: dict[str, LayerLook] = {}
    for row, name in enumerate(names):
        tokens = int(mask[row].sum())
        cut = [{key: v[row : row + 1] for key, v in side.items()} for side in (there, here)]
        for one in layers.compare(*cut, tokens=tokens):
            known = worst.get(one.name)
            if known is None or one.distance > known.worst:
                worst[one.name] = LayerLook(layer=one.name, worst=one.distance, worst_id=name)
    return tuple(worst.values())


def numbered(module: str) -> str:
    """The layer that a module is in, if layers are numbered there; "" else. Behind the last of them
    laws move factors, so nothing there compares."""
    name = layers.layer_of(module)
    return name if name.rpartition(".")[2].isdecimal() and not name.startswith("stages.") else ""


def _batch(goldens: Goldens, pad_id: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Ids of the texts, and int64 [TEXTS, tokens] token ids and mask, padded on the right."""
    short = [case for case in goldens.within(SHORT).cases if len(case.token_ids) > 2]
    short.sort(key=lambda case: (len(case.token_ids), case.id))
    if not short:
        raise ValueError(f"the goldens have no text of 3 to {SHORT} tokens")
    places = dict.fromkeys(round(at * (len(short) - 1) / (TEXTS - 1)) for at in range(TEXTS))
    chosen = [short[place] for place in places]
    width = max(len(case.token_ids) for case in chosen)
    ids = np.full((len(chosen), width), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, case in enumerate(chosen):
        ids[row, : len(case.token_ids)] = case.token_ids
        mask[row, : len(case.token_ids)] = 1
    return [case.id for case in chosen], ids, mask
