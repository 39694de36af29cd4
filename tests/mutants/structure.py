"""Mutations of the graph: axes, windows, epsilons, activations, pooling, ids and batches."""

from __future__ import annotations

import numpy as np

from tests.mutants import roles
from tests.mutants.change import Change, Rng, Subject, pick
from tests.mutants.graph import Graph, Inapplicable, Node, Rows, opened

_SOFTMAX = ("Softmax", "SoftMax", "softmax")


def axes(rng: Rng, subject: Subject) -> Change:
    """An axis that leaves every shape as it is: of a softmax, or how a rotation pairs its
    numbers."""
    graph = opened(subject.folder, subject.base.target)
    found: list[tuple[Node, str, object]] = []
    for node in graph.nodes:
        if node.op in _SOFTMAX and "axis" in node.attributes:
            found.append((node, "axis", -2 if node.op != "SoftMax" else 2))
        if node.op == "RotaryEmbedding":
            found.append((node, "interleaved", 1))
        if node.op == "Attention":
            found.append((node, "is_causal", 1))
        if node.op == "ReduceL2" and node.attributes.get("keepdims") == 1:
            found.append((node, "keepdims", 0))
    if not found:
        raise Inapplicable("no axis that can be exchanged")
    node, key, value = pick(rng, found)
    graph.set(node, key, value)
    graph.save()
    return Change(f"{key} of {node.name} is {value}, and was {node.attributes.get(key, 'unset')}")


def windows(rng: Rng, subject: Subject) -> Change:
    """A window one wider or narrower, half as wide, or gone."""
    graph = opened(subject.folder, subject.base.target)
    found = roles.windows(graph)
    if not found:
        raise Inapplicable("no window")
    constant = pick(rng, found)
    if constant.array.size == 1:
        old = int(constant.array.reshape(-1)[0])
        new = int(pick(rng, [old - 1, old + 1, max(1, old // 2), old * 4]))
        same = ""
        if min(old, new) >= subject.base.longest:
            same = f"no two tokens of {subject.base.longest} are {min(old, new)} apart"
        graph.put(constant.name, np.full(constant.array.shape, new, constant.array.dtype))
        graph.save()
        return Change(f"the window {constant.name} is {new}, and was {old}", same)
    band = constant.array[0, 0].copy()
    seen = band == band.max()
    apart = np.abs(np.subtract.outer(np.arange(seen.shape[0]), np.arange(seen.shape[1])))
    edge = int(apart[seen].max())
    narrow = bool(rng.integers(2))
    if narrow:
        band[apart == edge] = band.min()
    else:
        band[apart == edge + 1] = band.max()
    graph.put(constant.name, band.reshape(constant.array.shape))
    graph.save()
    return Change(f"the band {constant.name} is one token {'narrower' if narrow else 'wider'}")


def epsilons(rng: Rng, subject: Subject) -> Change:
    """The small number in a norm: dropped, of another convention, or not scaled with a stream."""
    graph = opened(subject.folder, subject.base.target)
    factor = float(pick(rng, [0.0, 2.0**10, 2.0**20, 10.0]))
    nodes = [(n, k) for n in graph.nodes for k in ("epsilon", "eps") if _number(n, k)]
    held = roles.epsilons(graph)
    if not nodes and not held:
        raise Inapplicable("no epsilon")
    if nodes and (not held or rng.random() < 0.5):
        node, key = pick(rng, nodes)
        old = float(np.asarray(node.attributes[key], np.float64).reshape(-1)[0])
        graph.set(node, key, old * factor)
        what = f"{key} of {node.name} times {factor:g}"
    else:
        constant = pick(rng, held)
        graph.put(constant.name, (constant.array * factor).astype(constant.array.dtype))
        what = f"epsilon {constant.name} times {factor:g}"
    graph.save()
    return Change(what)


def _number(node: Node, key: str) -> bool:
    try:
        return float(np.asarray(node.attributes.get(key, "none")).reshape(-1)[0]) > 0
    except ValueError:
        return False


_GELU = {
    "approximate": ("none", "tanh"),
    "approximation_mode": ("ERF", "TANH"),
    "mode": ("EXACT", "TANH_APPROXIMATION"),
}


def activations(rng: Rng, subject: Subject) -> Change:
    """GELU by erf where tanh was asked for, or the other way round; a tanh left out."""
    graph = opened(subject.folder, subject.base.target)
    found = [
        (node, key) for node in graph.nodes if node.op.lower() == "gelu"
        for key in _GELU if key in node.attributes
    ]  # fmt: skip
    if not found:
        raise Inapplicable("no GELU")
    node, key = pick(rng, found)
    held = np.asarray(node.attributes[key]).reshape(-1)[0]
    old = held.decode() if isinstance(held, bytes) else str(held)
    new = _GELU[key][1 - _GELU[key].index(old)]
    graph.set(node, key, np.array([new]) if subject.base.target == "coreml" else new)
    graph.save()
    return Change(f"{node.name} is {new}, and was {old}")


def pooling(rng: Rng, subject: Subject) -> Change:
    """Another pooling: the first token, the largest numbers, or padding counted in; another token
    where one is taken."""
    graph = opened(subject.folder, subject.base.target)
    ways = [_first, _largest, _unmasked, _other_token]
    for place in rng.permutation(len(ways)):
        try:
            return ways[place](graph)
        except Inapplicable:
            continue
    raise Inapplicable("no pooling is known")


def _first(graph: Graph) -> Change:
    graph.pool_first()
    graph.save()
    return Change("the first token is taken, and not the mean")


def _sum(graph: Graph) -> Node:
    for node in graph.nodes:
        summed = node.op in ("ReduceSum", "reduce_sum")
        if summed and "stages" in node.name and _select(graph, node) is not None:
            return node
    raise Inapplicable("nothing is summed over tokens")


def _select(graph: Graph, node: Node) -> Node | None:
    made = [n for n in graph.nodes if node.inputs[0] in n.outputs]
    return made[0] if made and made[0].op in ("Where", "Select", "select") else None


def _largest(graph: Graph) -> Change:
    node = _sum(graph)
    graph.retype(node, {"reduce_sum": "reduce_max"}.get(node.op, "ReduceMax"))
    graph.save()
    return Change("the largest numbers of all tokens are pooled, and not their sum")


def _unmasked(graph: Graph) -> Change:
    node = _sum(graph)
    chosen = _select(graph, node)
    assert chosen is not None
    values = [name for name in chosen.inputs if name not in graph.constants]
    graph.rewire(node, 0, values[-1])
    graph.save()
    return Change("padding is pooled as well")


def _other_token(graph: Graph) -> Change:
    for node in graph.nodes:
        held = graph.constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
        if node.op in ("Gather", "gather") and held is not None and held.array.size == 1:
            if "stages" not in node.name or held.word not in ("int64", "int32"):
                continue
            old = int(held.array.reshape(-1)[0])
            graph.put(held.name, np.full(held.array.shape, old + 1, held.array.dtype))
            graph.save()
            return Change(f"{node.name} takes token {old + 1}, and not {old}")
    raise Inapplicable("no token is taken alone")


def ids(rng: Rng, subject: Subject) -> Change:
    """The graph reads the row of another token."""
    graph = opened(subject.folder, subject.base.target)
    first, second = subject.base.rare(rng), subject.base.rare(rng)
    if first == second:
        raise Inapplicable("the same id twice")
    graph.exchange_ids(first, second)
    graph.save()
    return Change(f"the graph reads {second} where it is given {first}")


def batches(rng: Rng, subject: Subject) -> Change:
    """Rows of a batch come out wrong."""
    graph = opened(subject.folder, subject.base.target)
    wrong = pick(rng, [
        Rows(first=1), Rows(first=4), Rows(first=6), Rows(first=32),
        Rows(only=1), Rows(only=4), Rows(only=6), Rows(only=32),
        Rows(size=2), Rows(size=5), Rows(size=7), Rows(size=33),
    ])  # fmt: skip
    graph.flip_rows(wrong)
    graph.save()
    return Change(f"the embedding is negated in {wrong}")
