"""A built artifact's graph, the same for every format: constants that can be rewritten, nodes whose
attributes, inputs and types can be changed.

Each format has its own reader (onnx_graph.py, openvino_graph.py, coreml_graph.py); none shares code
with the writers that it spoils the work of.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

NIBBLES = ("int4", "uint4")
PRODUCTS = frozenset({"MatMul", "Gemm", "linear", "matmul"})
LOOKUPS = frozenset({"Gather", "gather"})


class Inapplicable(Exception):
    """This mutation finds nothing to change in this artifact: another is drawn."""


@dataclass
class Constant:
    """A constant of the file. 4-bit numbers take a byte each in `array`."""

    name: str
    word: str
    """Its type, in numpy's words, or "int4", "uint4", "string"."""
    array: np.ndarray
    write: Callable[[np.ndarray], None]


@dataclass
class Node:
    name: str
    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]
    handle: Any
    """The format's own object."""


class Graph(ABC):
    """Everything is changed in memory; `save` writes it."""

    constants: dict[str, Constant]
    nodes: list[Node]

    @abstractmethod
    def save(self) -> None: ...

    @abstractmethod
    def set(self, node: Node, key: str, value: Any) -> None:
        """Set one attribute."""

    @abstractmethod
    def rewire(self, node: Node, place: int, value: str) -> None:
        """Let input `place` of a node read another value."""

    @abstractmethod
    def retype(self, node: Node, op: str) -> None: ...

    def flip_rows(self, wrong: Rows) -> None:
        """Negate the embedding in the rows of a batch that `wrong` says."""
        raise Inapplicable("this format has no such edit")

    def exchange_ids(self, first: int, second: int) -> None:
        """Let the graph read `second` where it is given `first`."""
        raise Inapplicable("this format has no such edit")

    def pool_first(self) -> None:
        """Pool by the first token where the mean was asked for."""
        raise Inapplicable("this format has no such edit")

    def put(self, name: str, array: np.ndarray) -> None:
        constant = self.constants[name]
        constant.write(np.ascontiguousarray(array))
        constant.array = array

    # --- who reads what

    def readers(self, value: str) -> list[tuple[Node, int]]:
        return self._reading().get(value, [])

    def _reading(self) -> dict[str, list[tuple[Node, int]]]:
        if not hasattr(self, "_known"):
            known: dict[str, list[tuple[Node, int]]] = {}
            for node in self.nodes:
                for place, name in enumerate(node.inputs):
                    known.setdefault(name, []).append((node, place))
            self._known = known
        return self._known

    def static(self) -> set[str]:
        """Values that are made of constants alone."""
        if not hasattr(self, "_static"):
            found = set(self.constants)
            for node in self.nodes:
                if node.inputs and all(name in found for name in node.inputs):
                    found.update(node.outputs)
            self._static = found
        return self._static

    def ends(self, value: str, depth: int = 8) -> Iterator[tuple[Node, int]]:
        """Where a constant, cast, scaled or reshaped, first meets what depends on the text."""
        static = self.static()
        for node, place in self.readers(value):
            inner = [name for name in node.outputs if name in static]
            if not inner or not depth:
                yield node, place
            for name in inner:
                yield from self.ends(name, depth - 1)

    def label(self, name: str) -> str:
        """The constant's name and those of the nodes where it meets the text, in lower case."""
        return " ".join([name, *(node.name for node, _ in self.ends(name))]).lower()


@dataclass(frozen=True)
class Rows:
    """Rows of a batch: from one on, one alone, or all of a batch of one size."""

    first: int = 0
    only: int | None = None
    size: int | None = None

    def __str__(self) -> str:
        if self.size is not None:
            return f"all rows of a batch of exactly {self.size}"
        if self.only is not None:
            return f"row {self.only} alone (counted from 0)"
        return f"every row from {self.first} on (counted from 0)"


def unpacked(raw: bytes, word: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of a file's bytes, which may hold two to a byte, low first."""
    if word not in NIBBLES:
        return np.frombuffer(raw, np.dtype(word)).reshape(shape).copy()
    pairs = np.frombuffer(raw, np.uint8)
    flat = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(-1)[: int(np.prod(shape))]
    if word == "int4":
        flat = ((flat ^ 8).astype(np.int16) - 8).astype(np.int8)
    return flat.reshape(shape).copy()


def packed(array: np.ndarray, word: str) -> bytes:
    """The bytes of `unpacked`."""
    if word not in NIBBLES:
        return np.ascontiguousarray(array, np.dtype(word)).tobytes()
    flat = array.reshape(-1).astype(np.int16) & 15
    flat = np.append(flat, 0) if flat.size % 2 else flat
    return (flat[::2] | flat[1::2] << 4).astype(np.uint8).tobytes()


def opened(folder: Path, target: str) -> Graph:
    """The graph in an artifact's folder, by the target's format."""
    if target == "openvino":
        from tests.mutants.openvino_graph import OpenVinoGraph

        return OpenVinoGraph(folder)
    if target == "coreml":
        from tests.mutants.coreml_graph import CoreMlGraph

        return CoreMlGraph(folder)
    from tests.mutants.onnx_graph import OnnxGraph

    return OnnxGraph(folder)
