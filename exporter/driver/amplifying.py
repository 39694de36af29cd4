"""Amplification of a model's rounding errors, from its folder: opened, traced, rewritten as a
recipe's program is, and measured on texts or goldens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from goldfold.exporter.diagnose.amplification import (
    Amplification,
    TextAmplification,
    amplification,
    hopeless,
    sensitive,
)
from goldfold.exporter.driver import preparing
from goldfold.exporter.errors import UsageError
from goldfold.exporter.frontend.readiness import ready
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.frontend.tokens import Tokens
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.progress import Listener, Stages
from goldfold.exporter.quantize import recipe
from goldfold.exporter.system.cache import open_cache
from goldfold.exporter.verification.goldens import obtain_goldens, ours
from goldfold.golden.gate import GATES


@dataclass(frozen=True)
class Amplified:
    """A measurement in the words of the model's tokenizer."""

    found: Amplification
    tokens: dict[str, tuple[str, ...]]
    """The tokens of every text, as the vocabulary spells them, by the text's name."""
    hopeless: str | None
    """Why no rounding of activations to 8 bits a row can hold the gate; None if it may."""

    @property
    def texts(self) -> tuple[TextAmplification, ...]:
        """Returns the texts by falling angle."""
        return sensitive(self.found, 0)


@ours()
def amplify(
    model: str,
    texts: Sequence[str] = (),
    goldens: Sequence[str] = (),
    *,
    precision: str = "int8",
    top: int = 10,
    listener: Listener | None = None,
    **opening: Any,
) -> Amplified:
    """Open and trace `model`, rewrite it with its gains kept, and measure `texts`, and goldens by
    their names.

    `precision` is the recipe whose gate is held against what was found; `opening` may hold
    `trust_remote_code`, `route` and `cache` as in `export`. Raises GoldfoldError as that does;
    UsageError for a recipe or a golden that does not exist, for a model that
    gives scores, and where there is no text.
    """
    if precision not in recipe.shipped():
        raise UsageError(
            f"precision {precision!r} has no rounding; these have: {', '.join(recipe.shipped())}"
        )
    if not texts and not goldens:
        raise UsageError("there is no text to look at: name one with --text, or --golden ID")
    stages, kept = Stages(listener), open_cache(opening.pop("cache", True))
    with stages("open"):
        source = ready(open_model(model, **opening), stages, kept)
    program = preparing.traced(source, stages, cache=kept)
    if program.contract.task == "scores":
        raise UsageError(f"{source.name} gives scores of pairs; only embeddings have an angle")
    preparing.legalized(program, Pipeline())
    pipeline.run(program, pipeline.common(program.contract, "none"))
    words = Tokens(program.tokenizer, program.contract)
    rows = words.ids(list(texts))
    if odd := words.unreadable(rows):
        place, reason = next(iter(odd.items()))
        raise UsageError(f"text {texts[place][:60]!r} {reason}")
    asked = {f"text {at}": ids for at, ids in enumerate(rows, start=1)}
    if goldens:
        with stages("goldens"):
            known = obtain_goldens(source, stages)
        asked |= _chosen({case.id: list(case.token_ids) for case in known.cases}, goldens, program)
    with stages("amplify"):
        found = amplification(program, asked, top, progress=stages.step)
        stages.note(
            f"{len(asked)} texts; the largest gain is {max(t.gain for t in found.texts):.3g}"
        )
    pieces = {name: tuple(map(words.token, ids)) for name, ids in asked.items()}
    gate = GATES[recipe.shipped()[precision].gate]
    return Amplified(found, pieces, hopeless(found, gate))


def _chosen(
    known: dict[str, list[int]], names: Sequence[str], program: Program
) -> dict[str, list[int]]:
    for name in names:
        if name not in known:
            near = ", ".join(sorted(known)[:8])
            raise UsageError(
                f"{program.contract.model} has no golden {name!r}; it has {near}, … "
                f"({len(known)} in all)"
            )
    return {name: known[name] for name in names}
