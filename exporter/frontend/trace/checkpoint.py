"""The difference between a checkpoint and its model: tensors that the checkpoint lacks, and tensors
that nothing reads.

transformers makes up tensors that are not in the checkpoint (the same in every process where they
are ones and zeros), and skips tensors that it does not know. Reference and trace then agree on a
model that is not the user's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from goldfold.exporter.errors import ModelError

if TYPE_CHECKING:
    from goldfold.exporter.frontend.source import Source

_HOW = "; config.json and the weights do not belong together: fetch the model again"
_ALLOW = ", or pass --allow-incomplete if you know better"


@dataclass
class Report:
    """The differences that loading the transformer reported, in the names of the model."""

    model: torch.nn.Module | None = None
    missing: set[str] = field(default_factory=set)
    """Tensors that transformers made up."""
    unread: set[str] = field(default_factory=set)
    """Tensors of the checkpoint that nothing reads."""
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    """Name, shape in the checkpoint, shape in the model."""
    loaded: list[Report] = field(default_factory=list)
    """The reports of all transformers that were loaded: a routed model has several."""

    def of(self, model: torch.nn.Module | None) -> Report:
        """Returns the report of one of the transformers; an empty one of none."""
        return next((one for one in self.loaded if one.model is model), Report())


@contextmanager
def reported() -> Iterator[Report]:
    """Make sentence-transformers ask transformers for its loading report, and keep the report."""
    from sentence_transformers.base.modules import Transformer

    report, own = Report(), Transformer._load_model

    def load(self: Any, *given: Any, **how: Any) -> Any:
        # Tensors of another shape are then reported as well, instead of an error without a name.
        how |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        made: Any = own(self, *given, **how)
        model, said = made
        mismatched = sorted((n, tuple(a), tuple(b)) for n, a, b in said["mismatched_keys"])
        missing, unread = set(said["missing_keys"]), set(said["unexpected_keys"])
        report.loaded.append(Report(model, missing, unread, mismatched))
        return model

    Transformer._load_model = load  # type: ignore[method-assign]
    try:
        yield report
    finally:
        Transformer._load_model = own  # type: ignore[method-assign]


def check_shapes(report: Report, source: Source) -> None:
    """Refuse a tensor whose shape differs from the model's. Raises ModelError."""
    for name, found, wanted in report.mismatched:
        raise ModelError(
            f"{source.path}: tensor {name!r} is {list(found)} in the checkpoint, and config.json "
            f"makes it {list(wanted)}; the two do not belong together: fetch the model again"
            f"{source.without_its_code}"
        )


def check(report: Report, reached: Collection[str], source: Source) -> tuple[str, ...]:
    """Refuse a checkpoint that has fewer or more tensors than the model.

    Args:
        report: the differences that loading reported.
        reached: the tensors of the transformer on which the embedding depends. Others may be made
            up: many models lack the BERT pooler that no sentence embedding reads.
        source: the model. Its checkpoint may be `incomplete` where that is allowed.

    Returns:
        Notes for the manifest, one sentence each.

    Raises:
        ModelError: names the tensors.
    """
    made_up = sorted(report.missing & set(reached))
    parts = _parts(report)
    inside = sorted(name for name in report.unread if _is_inside(name, parts, report))
    heads = sorted(report.unread - set(inside))
    how = f"{_HOW}{source.without_its_code}{_ALLOW}"
    if not source.incomplete:
        if made_up:
            raise ModelError(
                f"{source.path}: the checkpoint lacks {_named(made_up)}, which transformers would "
                f"make up{how}"
            )
        if inside:
            raise ModelError(
                f"{source.path}: the checkpoint holds {_named(inside)}, which nothing in the model "
                f"reads{how}"
            )
    notes = []
    if made_up:
        notes.append(f"The checkpoint lacks {_named(made_up)}: transformers made them up, allowed.")
    if inside:
        notes.append(f"Nothing reads {_named(inside)} of the checkpoint, allowed.")
    if heads:
        notes.append(f"A head of the checkpoint takes no part in an embedding: {_named(heads)}.")
    return tuple(notes)


def reached(exported: torch.export.ExportedProgram, prefix: str) -> set[str]:
    """Returns the parameters and buffers under `prefix`, without it, on which the outputs
    depend."""
    signature = exported.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    seen: set[torch.fx.Node] = set()
    waiting = [node for node in exported.graph.nodes if node.op == "output"]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += node.all_input_nodes
    found = {names[node.name] for node in seen if node.op == "placeholder" and node.name in names}
    return {name.removeprefix(prefix) for name in found if name.startswith(prefix)}


def _parts(report: Report) -> set[str]:
    """Returns the paths of the modules that hold tensors and of their parents, without the model
    itself."""
    names: list[str] = []
    if report.model is not None:
        names = [name for name, _ in report.model.named_parameters(remove_duplicate=False)]
    found: set[str] = set()
    for name in names:
        if name in report.missing:
            continue
        path = name.rpartition(".")[0]
        while path:
            found.add(path)
            path = path.rpartition(".")[0]
    return found


def _is_inside(name: str, parts: Collection[str], report: Report) -> bool:
    """Returns whether a tensor lies among those that are read, as a further layer does; a head of
    another task lies beside them."""
    prefix = getattr(report.model, "base_model_prefix", "")
    path = name.removeprefix(f"{prefix}.") if prefix else name
    if path != name and "." not in path:
        return True
    path = path.rpartition(".")[0]
    while path:
        if path in parts:
            return True
        path = path.rpartition(".")[0]
    return False


def _named(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(map(repr, names[:3]))}{more}"
