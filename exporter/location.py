"""Where an artifact that missed its gate goes wrong: one record, part of its verdict."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Kind = Literal["trace", "pass", "rounding", "build", "unknown"]


class Location(BaseModel):
    """What was found on the text that was looked at. 1−cos throughout; null where not finite, or
    not measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    """In the trace or its weights; in a pass; no fault but rounding; in the target's build or its
    runtime."""
    text: str
    tokens: int
    padded: bool
    """Whether it was looked at with padding behind it."""
    distance: float | None
    """Of the embedding, there."""
    law: str = ""
    place: str = ""
    """The pass, and the place of its first application that breaks the text."""
    layer: str = ""
    module: str = ""
    """The first layer that drifts, and the source module in it."""
    before: float | None = None
    after: float | None = None
    """The drift after the layer before, and after this one."""
    sentence: str
    """All of it, in a paragraph."""
