"""A module of a model, as modules.json or a router's settings list it."""

from __future__ import annotations

from dataclasses import dataclass

FOREIGN = "module of the model's own code"


@dataclass(frozen=True)
class ModuleSpec:
    """One entry of modules.json: its place, its name, its folder below the model ("" is the model's
    own), and the class's dotted name as written there."""

    idx: int
    name: str
    path: str
    type: str
    configured: bool = True
    """Whether a config.json of the module's own configures it."""
    route: str = ""
    """The route that it belongs to, in a model that has several; "" is all of them."""
    embeds: bool = False
    """Whether it is a Transformer that gives the embedding of a text by itself (towers.py)."""
    stands_for: str = ""
    """The kind that it is taken for, where its class is of the model's own code."""

    @property
    def kind(self) -> str:
        """The class's bare name, for example "Dense"; `FOREIGN` for a class of the model's own that
        stands for no other."""
        return self.stands_for or self.type.rpartition(".")[2]
