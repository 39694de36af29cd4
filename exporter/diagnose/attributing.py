"""The route of a small error through attention: the head and the token that carry it on, and how
near their softmax is to a tie.

An error d of the input of a query, key or value map changes the attention's result by J_a d, which
the output map reads head by head. The parts of J_a d, each moved alone in front of the output map,
add up to all that d does through attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from goldfold.exporter.evaluate import probing
from goldfold.exporter.evaluate.probing import Direction, Probe
from goldfold.exporter.ir import dialect
from goldfold.exporter.quantize.sites import Site
from goldfold.exporter.records import Real, Record

ROUTES = 8
"""The places of a text whose route is looked for."""
_OPERANDS = ("query", "key", "value")


class Route(Record, frozen=True, kw_only=True):
    """The head and the token that carry most of an error through one attention."""

    head: int
    share: float
    """Its part of the squared angle, of all heads' together."""
    reader: int
    """Position of the token whose attention changes most for it."""
    reader_share: float
    """That token's part of the squared angle, of all tokens' in this head."""
    seen: tuple[int, ...] = ()
    """Positions of the two tokens that this one sees most; empty where the scores have a bias."""
    weight: Real = Real(0)
    """The weight of the first of them."""
    margin: Real | None = None
    """The difference of their two scores: 0 is a tie, which any error breaks."""


@dataclass(frozen=True)
class Attention:
    """One attention, and the output map behind it."""

    tap: str
    """The tap in front of the output map."""
    result: str
    """The value that the output map reads, [batch, tokens, heads · width]."""
    query: str
    key: str
    heads: int
    band: dialect.Band
    biased: bool


def attentions(sites: Sequence[tuple[str, Site]]) -> dict[str, Attention]:
    """Returns the attention of every query, key, value and output map, by the name of the map's
    tap; the three belong to the next output map of the graph."""
    found: dict[str, Attention] = {}
    waiting: list[str] = []
    for tap, site in sites:
        if site.kind in _OPERANDS:
            waiting.append(tap)
        if site.kind != "output" or site.x is None:
            continue
        node = _maker(site.x)
        heads = None if node is None or node.inputs[0] is None else node.inputs[0].shape
        if node is not None and heads is not None and isinstance(count := heads[1], int):
            query, key = (
                (value.name if value is not None else "") or "" for value in node.inputs[:2]
            )
            one = Attention(
                tap,
                site.x.name or "",
                query,
                key,
                count,
                dialect.Band.of(node),
                dialect.bias_of(node) is not None,
            )
            found |= dict.fromkeys((*waiting, tap), one)
        waiting.clear()
    return found


def _maker(value: ir.Value) -> ir.Node | None:
    node = value.producer()
    while node is not None and not dialect.is_band_attention(node):
        first = node.inputs[0] if node.inputs else None
        if node.op_type not in dialect.CARRIES or first is None:
            return None
        node = first.producer()
    return node


def route(
    probe: Probe,
    attention: Attention,
    ids: Sequence[int],
    moved: Direction,
    values: Mapping[str, np.ndarray],
) -> Route | None:
    """Returns the route of the error `moved`, at one tap of the attention; None where nothing
    passes through it. `values` are those of `Probe.values`."""
    if attention.tap in moved:
        passed = moved[attention.tap]
    else:
        s = probing.shortened(moved, values)
        short = {tap: np.float32(s) * array for tap, array in moved.items()}
        passed = probe.changes(ids, short, [attention.result])[0] / np.float32(s)
    by_head = passed.reshape(len(ids), attention.heads, -1)

    def lengths(parts: Sequence[np.ndarray]) -> np.ndarray:
        asked = [{attention.tap: part.reshape(passed.shape)} for part in parts]
        ready = [(one, probing.shortened(one, values)) for one in asked]
        return np.square(np.linalg.norm(probe.slopes(ids, ready).first, axis=1))

    heads = lengths([_part(by_head, head=h) for h in range(attention.heads)])
    if not heads.sum():
        return None
    head = int(np.argmax(heads))
    tokens = lengths([_part(by_head, head=head, token=t) for t in range(len(ids))])
    reader = int(np.argmax(tokens))
    return Route(
        head=head,
        share=float(heads[head] / heads.sum()),
        reader=reader,
        reader_share=float(tokens[reader] / max(tokens.sum(), 1e-30)),
        **_tie(attention, values, head, reader),
    )


def _part(by_head: np.ndarray, head: int, token: int | None = None) -> np.ndarray:
    kept = np.zeros_like(by_head)
    at = (slice(None) if token is None else token, head)
    kept[at] = by_head[at]
    return kept


def _tie(attention: Attention, values: Mapping[str, np.ndarray], head: int, reader: int) -> dict:
    """Returns Route's last three fields."""
    queries, keys = values[attention.query], values[attention.key]
    if attention.biased or keys.shape[1] < 2:
        return {}
    group = head * keys.shape[0] // queries.shape[0]
    scores = attention.band.scale * (keys[group].astype(np.float64) @ queries[head, reader])
    if attention.band.softcap:
        scores = attention.band.softcap * np.tanh(scores / attention.band.softcap)
    ahead = reader - np.arange(len(scores))
    hidden = np.abs(ahead) >= (attention.band.window or len(scores))
    hidden |= (ahead < 0) if attention.band.causal else False
    scores[hidden] = -np.inf
    first, second = map(int, np.argsort(-scores, kind="stable")[:2])
    weights = np.exp(scores - scores[first])
    if not np.isfinite(scores[second]):
        return {"seen": (first,), "weight": Real(1.0)}
    return {
        "seen": (first, second),
        "weight": Real(1 / weights.sum()),
        "margin": Real(scores[first] - scores[second]),
    }
