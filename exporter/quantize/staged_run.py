"""A staged run computes a program over many texts, one stretch of nodes at a time, in exact and in
rounded weights side by side, and stops wherever the next matrices are to be rounded.

Each text is computed once in all, whatever the number of stops: values that the next stretch needs
are kept, and all others are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS
from goldfold.exporter.errors import RewriteError
from goldfold.exporter.evaluate import interpret
from goldfold.exporter.evaluate.batches import padded
from goldfold.exporter.ir.program import Arrays, Program

_SIZE, _CALL = 16, 32
"""The most texts of a batch, and the cost of a call, in tokens."""


@dataclass
class Batch:
    """Some texts, and the values that are computed and still needed."""

    real: np.ndarray
    """bool [texts, tokens]; false where a text is padded."""
    exact: Arrays
    rounded: Arrays

    def shares(self, rows: int) -> np.ndarray:
        """f32 [rows, 1]: the share of each real token in its text; 1 where rows are texts."""
        if rows != self.real.sum():
            return np.ones((rows, 1), np.float32)
        part = 1 / self.real.sum(axis=1, keepdims=True)
        return np.broadcast_to(part, self.real.shape)[self.real][:, None].astype(np.float32)

    def rows(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A value in exact and in rounded weights, each f32 [tokens or texts, channels]."""
        return self._rows(self.exact[name]), self._rows(self.rounded[name])

    def _rows(self, array: np.ndarray) -> np.ndarray:
        if array.shape[:-1] == self.real.shape:
            return array[self.real]
        return array.reshape(-1, array.shape[-1])


@dataclass
class Walk:
    """One way through `program`, over `sequences` of token ids."""

    program: Program
    sequences: Sequence[Sequence[int]]
    given: Mapping[str, np.ndarray]
    """Constants that differ between the two, by name, exact, as the graph holds them."""
    rounded: Arrays = field(default_factory=dict)
    """The rounded constants in their place; each must be there when a stretch that reads it
    begins."""

    def stops(self, values: Sequence[ir.Value]) -> Iterator[tuple[ir.Value, list[Batch]]]:
        """Each of `values`, in the graph's order, with every batch up to the first node that reads
        it.

        Raises RewriteError where one is infinite or NaN, or ONNX Runtime refuses a stretch.
        """
        nodes = list(self.program.graph)
        place = {node: at for at, node in enumerate(nodes)}
        last: dict[str, int] = {}
        for at, node in enumerate(nodes):
            last |= {value.name or "": at for value in node.inputs if value is not None}
        held, start = self._begin(), 0
        cuts = {value: min(place[node] for node, _ in value.uses()) for value in values}
        for value, stop in sorted(cuts.items(), key=lambda cut: cut[1]):
            if stop > start:
                self._stretch(nodes[start:stop], stop, last, held)
                start = stop
            for batch in held:
                for rows in batch.rows(value.name or ""):
                    if not np.isfinite(rows).all():
                        raise RewriteError(
                            f"a calibration text makes {value.name} infinite or NaN; weights "
                            "cannot be rounded by that: remove the text or mend the model"
                        )
            yield value, held

    def _begin(self) -> list[Batch]:
        contract, held = self.program.contract, []
        for _, ids, mask in padded(self.sequences, contract, _SIZE, _CALL):
            feeds = {INPUT_IDS: ids, ATTENTION_MASK: mask}
            held.append(Batch(mask.astype(bool), dict(feeds), dict(feeds)))
        return held

    def _stretch(
        self, nodes: Sequence[ir.Node], stop: int, last: Mapping[str, int], held: list[Batch]
    ) -> None:
        """Compute `nodes` for every batch, and drop values that no node from `stop` on reads."""
        made = {value.name or "" for node in nodes for value in node.outputs}
        read = {v.name or "" for node in nodes for v in node.inputs if v is not None}
        constants = set(self.program.graph.initializers) - set(self.given)
        feeds = sorted(read - made - constants)
        wanted = sorted(name for name in made if last.get(name, -1) >= stop)
        session = interpret.Session(self._model(nodes, feeds, wanted))
        for batch in held:
            for env, weights in ((batch.exact, self.given), (batch.rounded, self.rounded)):
                arrays = {n: weights[n] if n in self.given else env[n] for n in feeds}
                env |= dict(zip(wanted, session.run(wanted, arrays), strict=True))
                for name in [name for name in env if last.get(name, -1) < stop]:
                    del env[name]

    def _model(
        self, nodes: Sequence[ir.Node], feeds: Sequence[str], wanted: Sequence[str]
    ) -> ir.Model:
        graph = self.program.graph
        known = {v.name: v for v in graph.inputs} | dict(graph.initializers)
        known |= {v.name: v for node in graph for v in node.outputs}
        read = {v.name for node in nodes for v in node.inputs if v is not None}
        view = ir.GraphView(
            [known[name] for name in feeds],
            [known[name] for name in wanted],
            nodes=list(nodes),
            initializers=[
                v for name, v in graph.initializers.items() if name in read and name not in feeds
            ],
            opset_imports=graph.opset_imports,
            name="stretch",
        )
        clone = view.clone()
        for value in clone.inputs:
            value.const_value = None
        model = self.program.model
        functions = [function.clone() for function in model.functions.values()]
        return ir.Model(clone, ir_version=model.ir_version, functions=functions)
