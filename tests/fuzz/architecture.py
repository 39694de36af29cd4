"""A drawn model as a value: what it is made of, what is asked of it, and a script that says so.

Its text form is Python that makes it again, so that a failure can be pasted and run.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tests import models


@dataclass(frozen=True)
class Architecture:
    """A small SentenceTransformer, how it is exported, and which texts it is tried on."""

    kind: str
    """A backbone of tests/models.py."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the backbone's configuration."""
    pooling: tuple[str, ...] = ("mean",)
    head: tuple[str, ...] = ("normalize",)
    """The modules after pooling, as `models.make_head` reads them."""
    longest: int = 40
    """The model's own most tokens."""
    max_length: int | None = None
    """What the export asks for instead; None: nothing."""
    dims: tuple[int, ...] = ()
    """The sizes of the embedding that the export asks for; (): the model's own."""
    lengths: tuple[int, ...] = (1, 5)
    """The texts, by their tokens."""
    padding: int = 0
    """Tokens of padding in the batch behind its longest text."""
    seed: int = 7

    def build(self, folder: Path) -> Path:
        """Save the model and return its folder."""
        return models.build(
            self.kind,
            folder,
            pooling_mode=self.pooling,
            head=self.head,
            max_seq_length=self.longest,
            seed=self.seed,
            prompts={},
            **self.settings,
        )

    def __str__(self) -> str:
        """Python that makes it, one line a group of fields, what is as by default left out."""
        given = {
            f.name: value for f in fields(self) if (value := getattr(self, f.name)) != _default(f)
        }
        lines: dict[str, list[str]] = {}
        for name, value in given.items():
            lines.setdefault(_LINE.get(name, name), []).append(f"{name}={value!r},")
        return "\n".join(
            ["Architecture(", *("    " + " ".join(line) for line in lines.values()), ")"]
        )


_LINE = {
    "pooling": "head",
    "longest": "asked",
    "max_length": "asked",
    "dims": "asked",
    "lengths": "texts",
    "padding": "texts",
    "seed": "texts",
}
"""Which fields share a line of a script."""


def _default(this: Any) -> Any:
    return this.default_factory() if callable(this.default_factory) else this.default


def script(architecture: Architecture, targets: tuple[str, ...] = ()) -> str:
    """At most ten lines that check the architecture again, and raise what it raised."""
    built = f", {targets}" if targets else ""
    return f"""# At the repository's root: python - < this
from tests.fuzz.architecture import Architecture
from tests.fuzz.check import check
print(check({architecture}{built}))
"""
