"""Canonical names and order: the same model gives the same graph, whatever names torch chose.

torch's value names follow Python's hash seed, and its node order follows the order of Python sets.
Here a walk from the output orders every node, and each node is named by its source module and op.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

import onnx_ir as ir

from goldfold.exporter.contract import ATTENTION_MASK, EMBEDDING, INPUT_IDS
from goldfold.exporter.ir.program import BATCH, MODULE, TOKENS

_SCOPES = "pkg.torch.onnx.name_scopes"


def canonical(model: ir.Model, outputs: Iterable[str] = (EMBEDDING,)) -> None:
    """Order, rename and strip `model` in place: nodes, values, dims, metadata. `outputs` are the
    names of its results."""
    graph = model.graph
    _name_dims(graph)
    _order(graph)
    _name_nodes(graph)
    _name_values(graph)
    for value, name in zip(graph.outputs, outputs, strict=True):
        value.name = name
    model.metadata_props.clear()
    graph.metadata_props.clear()
    model.producer_name, model.producer_version = "goldfold", ""
    model.doc_string = graph.doc_string = None
    graph.name = "main"


def _name_dims(graph: ir.Graph) -> None:
    """Name the inputs' symbolic dims `batch` and `tokens`, everywhere; other names are dropped."""
    wanted = {}
    for value in graph.inputs:
        if value.shape is not None:
            wanted |= {str(value.shape[0]): BATCH, str(value.shape[1]): TOKENS}
    values = [*graph.inputs, *(v for node in graph for v in node.outputs)]
    for value in values:
        if value.shape is None:
            continue
        dims = [d if isinstance(d, int) else wanted.get(str(d)) for d in value.shape]
        value.shape = ir.Shape(dims)


def _order(graph: ir.Graph) -> None:
    """Sort nodes by a depth-first walk from the outputs along the inputs, left to right."""
    order: dict[ir.Node, None] = {}
    stack: list[tuple[ir.Node, bool]] = []
    for output in reversed(graph.outputs):
        if (producer := output.producer()) is not None:
            stack.append((producer, False))
    while stack:
        node, ready = stack.pop()
        if node in order:
            continue
        if ready:
            order[node] = None
            continue
        stack.append((node, True))
        for value in reversed(node.inputs):
            producer = value.producer() if value is not None else None
            if producer is not None and producer not in order:
                stack.append((producer, False))
    for node in [n for n in graph if n not in order]:
        graph.remove(node, safe=False)
    nodes = list(order)
    graph.remove(nodes)
    graph.extend(nodes)


def _module_of(node: ir.Node) -> str:
    scopes = node.metadata_props.get(_SCOPES)
    if not scopes:
        return ""
    try:
        names = ast.literal_eval(scopes)
    except (ValueError, SyntaxError):
        return ""
    # The last scope is the call itself, not a module. torch marks what it added itself with names
    # that start with an underscore.
    return next((name for name in reversed(names[:-1]) if name and name[0] != "_"), "")


def _name_nodes(graph: ir.Graph) -> None:
    counts: dict[str, int] = {}
    for node in graph:
        module = _module_of(node)
        node.metadata_props.clear()
        node.doc_string = None
        if module:
            node.metadata_props[MODULE] = module
        stem = f"{module}.{node.op_type}" if module else node.op_type
        counts[stem] = counts.get(stem, 0) + 1
        node.name = stem if counts[stem] == 1 else f"{stem}_{counts[stem]}"


def _name_values(graph: ir.Graph) -> None:
    for value, name in zip(graph.inputs, (INPUT_IDS, ATTENTION_MASK), strict=True):
        value.name = name
    constants: dict[str, ir.Value] = {}
    named: set[ir.Value] = set()
    for node in graph:
        for index, value in enumerate(node.outputs):
            value.metadata_props.clear()
            value.doc_string = None
            value.name = node.name if index == 0 else f"{node.name}:{index}"
        for index, value in enumerate(node.inputs):
            if value is not None and value.is_initializer() and value not in named:
                # torch names parameters by module path; the values of its optimiser are called
                # val_N.
                given = value.name or ""
                name = given if "." in given else f"{node.name}.{index}"
                while name in constants:
                    name += "'"
                constants[name] = value
                named.add(value)
    values = list(graph.initializers.values())
    for value in values:
        del graph.initializers[value.name or ""]
    for name, value in constants.items():
        value.metadata_props.clear()
        value.name = name
        if value.const_value is not None:
            value.const_value.name = name
        graph.register_initializer(value)
