"""A Program is the graph that every pass sees, and the contract that the graph must keep.

The graph is an `onnx_ir.Model`. Its weights stay where they were found (memory-mapped safetensors
as a rule) until a writer writes them. Constants live in a table keyed by name, so a name proves
nothing: add a constant only with `add_constant`, and compare values, never names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from goldfold.exporter.contract import Contract
from goldfold.exporter.errors import RewriteError
from goldfold.exporter.ir import derivation, dialect
from goldfold.exporter.ir.derivation import Derived, Expr

BATCH = "batch"
TOKENS = "tokens"
Arrays = dict[str, np.ndarray]
"""Arrays by the names of values, or by names derived from them."""

_DERIVATION = "goldfold.derivation"
"""The key in a tensor's metadata for its derivation. Copies of a graph share their tensors."""
_MAKER = "goldfold.maker"
"""The key in a tensor's metadata for the pass that made it."""

MODULE = "goldfold.module"
"""The key in a node's metadata for the dotted path of the source module that the node came from."""


@dataclass
class Program:
    """An `onnx_ir.Model` and its `Contract`. Passes change `model` in place and never the
    contract."""

    model: ir.Model
    contract: Contract
    tokenizer: str = ""
    """The fast tokenizer as `tokenizer.json` text, without truncation and padding."""
    notes: list[str] = field(default_factory=list)
    """Remarks for the user on how this graph was made, one sentence each."""
    lasting: bool = True
    """Whether the model alone decides the graph; false where the caller chose its length."""
    derived: bool = False
    """Whether every constant follows from tensors of a model (frontend/derive.py)."""
    suspects: tuple[tuple[str, str], ...] = ()
    """(source module, tensor) of constants that the trace holds otherwise than the model does."""
    spelled: list[tuple[str, np.ndarray]] = field(default_factory=list)
    """Constants that a target's lowering made of the program's, by the target's own names."""
    kept: np.ndarray | None = None
    """int64: the source's id of each id of a vocabulary that was cut."""

    @property
    def graph(self) -> ir.Graph:
        return self.model.graph

    def copy(self) -> Program:
        """The same program with a graph of its own; the weights and the notes are shared."""
        return replace(self, model=self.model.clone(), spelled=[])

    def parameters(self) -> int:
        """The number of numbers in all constants together."""
        return sum(v.const_value.size for v in self.graph.initializers.values() if v.const_value)

    def census(self) -> dict[str, int]:
        """Node counts by op, `domain.Op` outside the default domain, most frequent first."""
        counts: dict[str, int] = {}
        for node in self.graph:
            op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            counts[op] = counts.get(op, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def attention(self) -> dict[str, int]:
        """The number of BandAttention nodes by the tokens that they let a token see, and by whether
        a bias is added to their scores."""
        counts: dict[str, int] = {}
        for node in dialect.band_attentions(self.graph):
            seen = sees(dialect.Band.of(node))
            seen += ", biased" if dialect.bias_of(node) is not None else ""
            counts[seen] = counts.get(seen, 0) + 1
        return counts


def sees(band: dialect.Band) -> str:
    """The tokens that a token sees, in words: "all", "window 257", "causal", "causal, window 5"."""
    parts = ["causal"] if band.causal else []
    parts += [f"window {band.window}"] if band.window else []
    return ", ".join(parts) or "all"


def where(node: ir.Node) -> str:
    """The place of a node in words a user knows: its source module, or else its own name."""
    return node.metadata_props.get(MODULE) or node.name or node.op_type


def constant(value: ir.Value | None) -> Derived | None:
    """The array of a value that is a constant of the graph, with its derivation; else None. No
    copy."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    if value is None or tensor is None:
        return None
    return derivation.derived(tensor.numpy(), derivation_of(value))


def derivation_of(value: ir.Value) -> Expr:
    """The derivation of a constant of the graph; `given` where it was not derived from a model."""
    tensor = ir.convenience.get_const_tensor(value)
    assert tensor is not None
    found = tensor.meta.get(_DERIVATION)
    if found is None and value.producer() is not None:  # a number that the trace wrote as a node
        found = derivation.of(tensor.numpy())
    return derivation.given(value.name or "") if found is None else found


def set_derivation(value: ir.Value, derivation: Expr) -> None:
    """Record how a constant of the graph follows from the source's tensors."""
    assert value.const_value is not None
    value.const_value.meta[_DERIVATION] = derivation


def unique_name(graph: ir.Graph, wish: str) -> str:
    """The first of `wish`, `wish_2`, `wish_3`, … that no value of the graph has as its name."""
    taken = {v.name for v in graph.inputs} | set(graph.initializers)
    for node in graph:
        taken.update(v.name for v in node.outputs)
    return free_name(taken, wish)


def free_name(taken: Collection[str | None], wish: str) -> str:
    """The first of `wish`, `wish_2`, `wish_3`, … that is not `taken`."""
    if wish not in taken:
        return wish
    number = 2
    while f"{wish}_{number}" in taken:
        number += 1
    return f"{wish}_{number}"


def made_by(value: ir.Value) -> str:
    """The name of the pass that made a constant of the graph; "trace" where none did."""
    return "trace" if value.const_value is None else value.const_value.meta.get(_MAKER, "trace")


def mark_makers(graph: ir.Graph, name: str) -> None:
    """Record `name` as the maker of every constant that has a derivation and no maker yet."""
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and _DERIVATION in tensor.meta:
            tensor.meta.setdefault(_MAKER, name)


def add_constant(
    graph: ir.Graph, name: str, array: np.ndarray, how: Expr | None = None
) -> ir.Value:
    """Register `array` as an initializer under a name that no other value has, and return its
    value. Its derivation is the one that the array remembers, unless `how` is given."""
    how = derivation.of(array) if how is None else how
    array = np.asarray(array, order="C")  # ascontiguousarray would make a scalar one-dimensional
    name = unique_name(graph, name)
    tensor = ir.tensor(array, name=name)
    tensor.meta[_DERIVATION] = how
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def drop_unused(model: ir.Model) -> None:
    """Remove nodes and constants that no output depends on."""
    graph = model.graph
    for node in reversed(graph):
        if all(not v.uses() and not v.is_graph_output() for v in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def insert_before(anchor: ir.Node, nodes: Iterable[ir.Node], module: str | None = None) -> None:
    """Put `nodes` in front of `anchor`; they inherit its source module unless another is given."""
    nodes = list(nodes)
    for node in nodes:
        node.metadata_props.setdefault(MODULE, module or anchor.metadata_props.get(MODULE, ""))
    if anchor.graph is None:
        raise RewriteError(f"cannot insert before {where(anchor)}: the node is in no graph")
    anchor.graph.insert_before(anchor, nodes)


def infer_shapes(model: ir.Model) -> None:
    """Fill in types and shapes of every value; the copy that ONNX sees has no weights."""
    import onnx.shape_inference

    with weights_aside(model):
        proto = onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True)
    known = {info.name: info for info in proto.graph.value_info}
    for node in model.graph:
        for value in node.outputs:
            if value.name in known:
                info = ir.serde.deserialize_value_info_proto(known[value.name], None)
                value.type = value.type or info.type
                if info.shape is not None and value.shape is None:
                    value.shape = info.shape


def load_small(graph: ir.Graph, limit: int) -> None:
    """Bring constants of up to `limit` bytes that lie in a file into memory: a graph that is passed
    on as bytes cannot say where the file is."""
    for value in graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes <= limit:
            value.const_value = ir.tensor(np.array(tensor.numpy()), name=value.name)
            value.const_value.meta.update(tensor.meta)


class weights_aside:
    """While the context is open, every constant above `limit` bytes is a graph input without data.

    Tools that copy a model through protobuf (onnxsim, shape inference) then cost milliseconds
    instead of gigabytes. Never give them external data that is merely not loaded instead: onnxsim
    then takes different weights for equal ones and merges them.
    """

    def __init__(self, model: ir.Model, limit: int = 4096) -> None:
        self.graph = model.graph
        self.limit = limit
        self.aside: list[ir.Value] = []

    def __enter__(self) -> list[ir.Value]:
        load_small(self.graph, self.limit)
        for name, value in list(self.graph.initializers.items()):
            if value.const_value is not None and value.const_value.nbytes > self.limit:
                del self.graph.initializers[name]
                self.graph.inputs.append(value)
                self.aside.append(value)
        return self.aside

    def __exit__(self, *_: object) -> None:
        for value in self.aside:
            self.graph.inputs.remove(value)
            self.graph.register_initializer(value)


def through_proto(model: ir.Model, change: Callable) -> ir.Model:
    """`change(ModelProto) -> ModelProto` applied while the large weights are set aside.

    Raises RewriteError if `change` loses or renames one of the inputs that stand for the weights.
    """
    with weights_aside(model) as aside:
        tensors = {v.name: v.const_value for v in aside}
        proto = change(ir.to_proto(model))
    changed = ir.from_proto(proto)
    inputs = {v.name: v for v in changed.graph.inputs}
    for name, tensor in tensors.items():
        if name not in inputs:
            raise RewriteError(
                f"a tool lost the weight {name!r}; report this with the model's name"
            )
        value = inputs[name]
        changed.graph.inputs.remove(value)
        value.const_value = tensor
        if value.uses():
            changed.graph.register_initializer(value)
    changed.ir_version = dialect.IR_VERSION
    return changed
