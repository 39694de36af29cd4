"""A plain program: one that torch.onnx can translate without tracing it a second and third time.

A plain program is functional, is one graph, and has only operators that torch.onnx translates as
they stand. A few operators are exceptions: this module spells them as torch's decompositions do,
with the sizes and types that the trace has found already. `torch.export` leaves an encoder whose
attention is BandAttention plain; it does not do so for masks written out in arithmetic, as in T5.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch.onnx._internal import _lazy_import
from torch.onnx._internal.exporter import _core, _registration
from torch.onnx._internal.fx.passes import type_promotion

from goldfold.exporter.ir import dialect

_onnxscript: Any = vars(_lazy_import)["onnxscript_apis"]
_aten: Any = torch.ops.aten
_CHECK = _aten._assert_tensor_metadata.default
_CONVERSIONS = (_aten.to.dtype, _aten.to.device, _aten.to.dtype_layout)
_SHAPED = (_aten.reshape.default, _aten.expand_as.default)


def translate(exported: torch.export.ExportedProgram) -> ir.Model | None:
    """Returns the program as torch.onnx.export gives it, or None if it is not plain. A plain
    program is used up."""
    registry = _registration.ONNXRegistry.from_torchlib(opset_version=dialect.OPSET)
    if not is_plain(exported, registry):
        return None
    spell(exported)
    _promote(exported.graph_module)
    model = _core._exported_program_to_onnx_program(exported, registry=registry).model
    model = _onnxscript.convert_version(model, dialect.OPSET)
    return _onnxscript.optimize(model)


def is_plain(exported: torch.export.ExportedProgram, registry: _registration.ONNXRegistry) -> bool:
    """Returns whether torch.onnx can translate the program after `spell` alone.

    It cannot if a node's operator has no translation, if a node writes into memory that others can
    see, for a graph must be functional, or if a node calls another graph.
    """
    signature = exported.graph_signature
    if signature.user_inputs_to_mutate or signature.buffers_to_mutate:
        return False
    for node in exported.graph.nodes:
        if node.op == "get_attr" or (node.op.startswith("call_") and node.op != "call_function"):
            return False
        if node.op == "call_function" and not _is_known(node, registry):
            return False
    return True


def _is_known(node: torch.fx.Node, registry: _registration.ONNXRegistry) -> bool:
    target = node.target
    if target in _CONVERSIONS or target is _CHECK:
        return True
    if isinstance(target, torch._ops.OpOverload):
        if target._schema.is_mutable:
            target = functional(node)
        if target is None:
            return False
        return target.namespace == "onnx_symbolic" or bool(registry.get_decomps(target))
    return not isinstance(target, torch._ops.OperatorBase)


def functional(node: torch.fx.Node) -> torch._ops.OpOverload | None:
    """Returns the operator that gives what `x.op_(…)` leaves in x, if nobody else sees x: mul_ ->
    mul.

    The condition is that x was made for this one node, and that type promotion makes no difference.
    """
    target, x = node.target, node.args[0] if node.args else None
    if not isinstance(target, torch._ops.OpOverload) or not isinstance(x, torch.fx.Node):
        return None
    name, dtype = target.overloadpacket.__name__, node.meta["val"].dtype
    values = [n.meta["val"] for n in node.all_input_nodes]
    if len(x.users) > 1 or not _is_fresh(x) or name[-1] != "_" or name[-2:] == "__":
        return None
    if any(isinstance(value, torch.Tensor) and value.dtype != dtype for value in values):
        return None
    return getattr(getattr(_aten, name[:-1], None), target._overloadname, None)


def _is_fresh(node: torch.fx.Node) -> bool:
    """Returns whether a node's value has memory of its own: an operator's result that is no
    view."""
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return False
    # A composite operator may return its input without saying so, as dropout does.
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    views = any(result.alias_info is not None for result in target._schema.returns)
    return not views and not target.has_kernel_for_dispatch_key(key)


def spell(exported: torch.export.ExportedProgram) -> None:
    """Write conversions, reshapes and expansions as torch's decompositions do.

    Checks of dtypes are removed: they held when the program was traced, and ONNX has no place for
    them.
    """
    graph = exported.graph_module.graph
    sizes: dict[str, torch.fx.Node] = {}
    """The first node that gives a size, by its symbol: it stands before all nodes that use it."""
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is _aten.sym_size.int:
            sizes.setdefault(str(node.meta["val"]), node)
        elif node.target is _CHECK:
            graph.erase_node(node)
        elif node.target in _CONVERSIONS:
            _spell_conversion(exported, node)
        elif node.target in _SHAPED:
            _spell_shape(node, sizes)
        elif node.target is _aten.chunk.default:
            _spell_chunk(node)
        elif isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            node.target = functional(node)
    exported.graph_module.recompile()


def _spell_conversion(exported: torch.export.ExportedProgram, node: torch.fx.Node) -> None:
    """to(x, …) -> x where nothing changes, otherwise the cast."""
    instead, dtype = node.args[0], node.meta["val"].dtype
    assert isinstance(instead, torch.fx.Node)
    # The trace runs on one device and in one layout: only the dtype can change.
    if instead.meta["val"].dtype != dtype:
        with node.graph.inserting_before(node):
            x = instead
            instead = node.graph.call_function(_aten._to_copy.default, (x,), {"dtype": dtype})
        instead.meta = dict(node.meta)
    node.replace_all_uses_with(instead)
    exported.graph_signature.replace_all_uses(node.name, instead.name)
    node.graph.erase_node(node)


def _spell_shape(node: torch.fx.Node, sizes: dict[str, torch.fx.Node]) -> None:
    """reshape(x, shape) -> view(x, sizes); expand_as(x, y) -> expand(x, sizes), if each size is a
    number or one of the program's own."""
    known = [n if isinstance(n, int) else sizes.get(str(n)) for n in node.meta["val"].shape]
    if None in known:
        return  # torch.onnx translates it as it stands
    reshapes = node.target is _aten.reshape.default
    node.target = _aten.view.default if reshapes else _aten.expand.default
    node.args = (node.args[0], known)


def _spell_chunk(node: torch.fx.Node) -> None:
    """chunk(x, n, −1) -> chunk(x, n, 2): axes count from the front, as wherever torch splits."""
    x, chunks, axis = (*node.args, 0)[:3]
    assert isinstance(x, torch.fx.Node) and isinstance(axis, int)
    node.args = (x, chunks, axis % x.meta["val"].ndim)


def _promote(module: torch.fx.GraphModule) -> None:
    """Make implicit type promotion explicit, as torch.onnx does."""
    promotion = type_promotion.InsertTypePromotion(module)
    promotion.interpreter = _Remembering(module, promotion.interpreter.type_promotion_table)
    promotion.run()


class _Remembering(type_promotion._TypePromotionInterpreter):
    """An interpreter that takes a node's value from the trace instead of computing it again."""

    def run_node(self, n: torch.fx.Node) -> Any:
        if n.op != "call_function" or "val" not in n.meta:
            return super().run_node(n)
        with self._set_current_node(n):
            if rule := type_promotion.get_type_promotion_rule(n, self.type_promotion_table):
                self._maybe_promote_node(n, rule)
        return n.meta["val"]
