"""The legality check runs after every pass and shows a fault with its neighbours.

The check covers the faults that a wrong rewrite causes first: values read before their node, names
used twice, ops that no opset has, types that disagree, the shapes of BandAttention, and the
contract. `onnx.checker` checks the rest, in full, on the file that a target writes.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx.defs
import onnx_ir as ir

from goldfold.exporter.errors import RewriteError
from goldfold.exporter.ir import contrib, derivation, dialect
from goldfold.exporter.ir.program import Program, derivation_of, where


def check(program: Program, after: str) -> None:
    """Raise RewriteError that names the first fault, its node, and that node's neighbours."""
    for node, fault in faults(program):
        place = f" at {where(node)}" if node is not None else ""
        shown = f"; near: {_neighbours(node)}" if node is not None else ""
        raise RewriteError(f"illegal graph after {after}{place}: {fault}{shown}")


def faults(program: Program) -> Iterator[tuple[ir.Node | None, str]]:
    """Every fault of the program, with the node it is at (None: the graph's interface)."""
    yield from graph_faults(program)
    yield from _contract(program)
    if program.derived:
        yield from _derivations(program.graph)


def graph_faults(program: Program) -> Iterator[tuple[ir.Node | None, str]]:
    """Every fault of the graph alone, whatever its inputs and outputs."""
    graph = program.graph
    known: dict[str, ir.Value] = {}
    for value in [*graph.inputs, *graph.initializers.values()]:
        yield from _declare(None, value, known)
    for name, value in graph.initializers.items():
        if value.const_value is None:
            yield None, f"constant {name!r} has no data"
        elif value.name != name:
            yield None, f"constant {name!r} is called {value.name!r}"
        elif value.shape is not None and value.const_value.shape != value.shape:
            yield (
                None,
                f"constant {name!r} is declared {value.shape}, holds {value.const_value.shape}",
            )
        elif value.dtype not in (None, value.const_value.dtype):
            held = value.const_value.dtype
            yield None, f"constant {name!r} is declared {value.dtype}, holds {held}"
        elif derivation_of(value) is derivation.LOST:
            yield None, f"constant {name!r} does not say how it follows from the model's tensors"
    for node in graph:
        for value in node.inputs:
            if value is not None and known.get(value.name or "") is not value:
                yield node, f"it reads {value.name!r}, which nothing before it makes"
        yield from _op(node, program.model)
        for value in node.outputs:
            yield from _declare(node, value, known)
        if dialect.is_band_attention(node):
            yield from _band_attention(node)
    for value in graph.outputs:
        if known.get(value.name or "") is not value:
            yield None, f"nothing makes the output {value.name!r}"


def _declare(
    node: ir.Node | None, value: ir.Value, known: dict[str, ir.Value]
) -> Iterator[tuple[ir.Node | None, str]]:
    if not value.name:
        if node is not None and not value.uses():
            return  # an optional output without a consumer
        yield node, "a value has no name"
    elif value.name in known:
        yield node, f"the name {value.name!r} is given twice"
    else:
        known[value.name] = value


def _op(node: ir.Node, model: ir.Model) -> Iterator[tuple[ir.Node, str]]:
    if node.domain not in model.opset_imports:
        yield node, f"its domain {node.domain!r} is not imported"
    elif node.domain in (dialect.DOMAIN, contrib.DOMAIN):
        if (node.domain, node.op_type, node.overload) not in model.functions:
            yield node, f"{node.domain}.{node.op_type} has no definition in the model"
    elif not onnx.defs.has(node.op_type, model.opset_imports[node.domain], node.domain):
        yield node, f"there is no op {node.op_type!r} in opset {model.opset_imports[node.domain]}"


def _band_attention(node: ir.Node) -> Iterator[tuple[ir.Node, str]]:
    if len(node.inputs) not in (4, 5) or any(v is None for v in node.inputs):
        said = f"BandAttention takes q, k, v and padding, not {len(node.inputs)} inputs"
        yield node, f"{said}; a fifth is its bias"
        return
    q, k, v, padding = node.inputs[:4]
    assert q is not None and k is not None and v is not None and padding is not None
    for name, value, rank in (("q", q, 4), ("k", k, 4), ("v", v, 4), ("padding", padding, 2)):
        if value.shape is not None and len(value.shape) != rank:
            yield node, f"{name} has shape {value.shape}, which is not of rank {rank}"
            return
    if padding.dtype not in (None, ir.DataType.BOOL):
        yield node, f"padding is {padding.dtype}, not BOOL"
    if len({value.dtype for value in (q, k, v) if value.dtype is not None}) > 1:
        yield node, f"q, k, v have different types {q.dtype}, {k.dtype}, {v.dtype}"
    if q.shape is not None and k.shape is not None:
        heads, groups = q.shape[1], k.shape[1]
        if isinstance(heads, int) and isinstance(groups, int) and heads % groups:
            yield node, f"{heads} heads are no multiple of {groups} key/value heads"
    bias = dialect.bias_of(node)
    if (bias is not None) != (node.overload == dialect.BIASED):
        yield node, f"it has {len(node.inputs)} inputs and the overload {node.overload!r}"
    if bias is not None:
        yield from _bias(node, bias, q)


def _bias(node: ir.Node, bias: ir.Value, q: ir.Value) -> Iterator[tuple[ir.Node, str]]:
    if None not in (bias.dtype, q.dtype) and bias.dtype != q.dtype:
        yield node, f"its bias is {bias.dtype}, its queries are {q.dtype}"
    if bias.shape is None or q.shape is None or len(q.shape) != 4:
        return
    if len(bias.shape) != 4:
        yield node, f"bias has shape {bias.shape}, which is not of rank 4"
    elif bias.shape[1] not in (1, q.shape[1]):
        yield node, f"bias has shape {bias.shape}, which is not of one head or {q.shape[1]}"


def _contract(program: Program) -> Iterator[tuple[None, str]]:
    graph, contract = program.graph, program.contract
    names = tuple(v.name for v in graph.inputs)
    if names != contract.inputs:
        yield None, f"the inputs are {names}, the contract says {contract.inputs}"
    for value in graph.inputs:
        if value.dtype != ir.DataType.INT64:
            yield None, f"input {value.name!r} is {value.dtype}, the contract says int64"
    outputs = [v.name for v in graph.outputs]
    if not outputs or outputs[0] != contract.output:
        yield None, f"the outputs are {outputs}, the contract says {contract.output!r} first"
        return
    output = graph.outputs[0]
    if output.dtype != ir.DataType.FLOAT:
        yield None, f"the output is {output.dtype}, the contract says float32"
    if output.shape is None or output.shape[-1] != contract.dim:
        yield None, f"the output has shape {output.shape}, the contract says {contract.dim} wide"
    elif len(output.shape) != (rank := 3 if contract.task == "multi_vector" else 2):
        yield None, f"the output has shape {output.shape}, the contract says of rank {rank}"


def _derivations(graph: ir.Graph) -> Iterator[tuple[None, str]]:
    for name, value in graph.initializers.items():
        if value.const_value is not None and derivation_of(value).op == "given":
            yield None, f"constant {name!r} does not say how it follows from the model's tensors"


def _neighbours(node: ir.Node) -> str:
    made_by = [where(p) for v in node.inputs if v is not None and (p := v.producer()) is not None]
    read_by = [where(n) for v in node.outputs for n, _ in v.uses()]
    return (
        f"{node.op_type} reads [{', '.join(made_by[:3]) or 'inputs'}], "
        f"is read by [{', '.join(read_by[:3]) or 'nobody'}]"
    )
