"""Which constant of a graph is what: read from its shape, its name and the nodes that it meets."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.mutants.graph import LOOKUPS, PRODUCTS, Constant, Graph, Node

_INTEGERS = ("int8", "uint8", "int4", "uint4")
_FLOATS = ("float32", "float16")
_ATTENTION = ("q_proj", "k_proj", "v_proj", "query", "key", "value", "wqkv", ".attention.self.")
_OUTPUT = ("o_proj", "attention.output.dense", ".attn.wo", "attn_wo", "attention_output_dense")
_ADDS = ("Add", "add")
_TIMES = ("Mul", "Multiply", "mul")
_NORMS = ("RMSNormalization", "LayerNormalization", "layer_norm")


def tables(graph: Graph, vocabulary: int) -> list[Constant]:
    """Tables of tokens, whole or packed."""
    return [
        c for c in graph.constants.values()
        if c.array.ndim >= 2 and c.array.shape[0] == vocabulary and c.word in _FLOATS + _INTEGERS
        and not _is_scale(graph, c) and c.array.size >= 4 * vocabulary
    ]  # fmt: skip


def positions(graph: Graph) -> list[Constant]:
    """Tables of positions: learned rows, or cosines and sines."""
    return [
        c for c in graph.constants.values()
        if c.word in _FLOATS and c.array.ndim >= 2 and c.array.size > 64
        and any(word in c.name.lower() for word in ("position", "rotary", "rotaryembedding_table"))
        and "band" not in c.name.lower()
    ]  # fmt: skip


def matrices(graph: Graph) -> Iterator[tuple[Constant, np.ndarray, int]]:
    """Weights of products: the constant, its view in two dimensions, and the axis of the outputs.

    Integers in blocks, [blocks, inputs, outputs] in OpenVINO's file, are seen as two dimensions.
    """
    known = {c.name for c in (*positions(graph),)}
    for constant in graph.constants.values():
        array = constant.array
        if constant.name in known or array.ndim < 2 or array.size < 256:
            continue
        if constant.word not in _FLOATS + _INTEGERS or _is_scale(graph, constant):
            continue
        ends = [(n, place) for n, place in graph.ends(constant.name) if n.op in PRODUCTS]
        if ends:
            node = ends[0][0]
            transposed = node.op == "linear" or _says(node, "transpose_b") or _says(node, "transB")
            blocked = array.ndim == 3
            view = array.reshape(array.shape[0], -1) if blocked and transposed else array
            view = array.reshape(-1, array.shape[-1]) if blocked and not transposed else view
            if view.ndim == 2 and min(view.shape) > 1:
                yield constant, view, 0 if transposed else 1


def _says(node: Node, key: str) -> bool:
    return str(node.attributes.get(key, "")).lower() in ("1", "true")


def head_axis(graph: Graph, constant: Constant, outputs: int) -> int | None:
    """The axis along which heads lie, of a weight at attention; None of any other."""
    label = graph.label(constant.name).replace("_", ".")
    if any(word.replace("_", ".") in label for word in _OUTPUT):
        return 1 - outputs
    return outputs if any(word.replace("_", ".") in label for word in _ATTENTION) else None


def scales(graph: Graph) -> list[Constant]:
    return [c for c in graph.constants.values() if _is_scale(graph, c)]


def _is_scale(graph: Graph, constant: Constant) -> bool:
    name = constant.name.lower()
    if constant.word not in _FLOATS or "embed_scale" in name or "scaled" in name:
        return False
    at = [node.op for node, place in graph.readers(constant.name) if place == 1]
    named = name.endswith((".scale", "_scale")) or ".scale" in name or "_scale_" in name
    return "DequantizeLinear" in at or (named and constant.array.size > 1)


def zeros(graph: Graph) -> list[Constant]:
    """Zero-points, and the offsets of packed tables."""
    found = []
    for constant in graph.constants.values():
        at = [n.op for n, place in graph.readers(constant.name) if place == 2]
        dequantized = any(op in ("DequantizeLinear", "QuantizeLinear") for op in at)
        named = ("zero_point", "offsets", ".offset")
        if dequantized or any(word in constant.name.lower() for word in named):
            found.append(constant)
    return found


def gains(graph: Graph) -> list[Constant]:
    return [c for c in _vectors(graph) if _meets(graph, c, _NORMS[:2], 1) or _is_gain(graph, c)]


def _is_gain(graph: Graph, constant: Constant) -> bool:
    words = ("norm", "gain", "columns")
    name = constant.name.lower()
    times = _meets(graph, constant, _TIMES, None)
    named = _meets(graph, constant, ("layer_norm",), None) and "bias" not in name
    return named or (times and any(word in name for word in words))


def biases(graph: Graph) -> list[Constant]:
    found = []
    for constant in _vectors(graph):
        added = _meets(graph, constant, _ADDS, None) or _meets(graph, constant, _NORMS[:2], 2)
        keyed = "bias" in constant.name.lower() and _meets(
            graph, constant, ("linear", "layer_norm"), None
        )
        if keyed or added or _meets(graph, constant, ("Gemm",), 2):
            found.append(constant)
    return found


def _vectors(graph: Graph) -> Iterator[Constant]:
    for constant in graph.constants.values():
        sizes = [n for n in constant.array.shape if n > 1]
        if constant.word in _FLOATS and len(sizes) == 1 and not _is_scale(graph, constant):
            yield constant


def _meets(graph: Graph, constant: Constant, ops: tuple[str, ...], place: int | None) -> bool:
    return any(n.op in ops and place in (None, at) for n, at in graph.ends(constant.name))


def windows(graph: Graph) -> list[Constant]:
    """How far attention sees: a number that distances are compared with, or a table of who sees
    whom."""
    found = []
    for constant in graph.constants.values():
        near = any(node.name.endswith("near") for node, _ in graph.ends(constant.name))
        near = near and constant.word == "int64" and constant.array.size == 1
        band = "band" in constant.name.lower() and constant.word in _FLOATS
        if near or (band and constant.array.ndim == 4 and np.ptp(constant.array) > 0):
            found.append(constant)
    return found


def epsilons(graph: Graph) -> list[Constant]:
    """Small numbers that a norm adds, where they are constants of their own."""
    return [
        c for c in graph.constants.values()
        if c.word in _FLOATS and c.array.size == 1 and 0 < float(c.array.reshape(-1)[0]) < 1e-3
        and (_meets(graph, c, _ADDS, None) or "epsilon" in c.name)
    ]  # fmt: skip


def lookups(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op in LOOKUPS]
