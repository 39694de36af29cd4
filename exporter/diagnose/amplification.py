"""Amplification: how far a small relative error of a value inside a program turns the embedding, by
place: kind of linear map and depth, token, channel and attention head.

Every linear map's input, and the rows of the table, are moved one at a time
(evaluate/probing.py), in two directions. A random direction of the value's size gives the *gain*:
radians of the embedding for a relative error of 1. The error e that rounding this very value to 8
bits makes gives the *angle* in radians. The angle is e's relative size times the gain in e's
direction, so a large angle comes from a large error (one channel sets the step of its row) or from
a large gain.

    angle² of a text = Σ over values of |Σ over maps that read the value of J e|²
    1 − cos ≈ angle² / 2

The sum takes errors of different values as independent, so it is what rounding does on average: one
text's rounding is a draw, two or three times as much or as little. It takes each error as small,
too: `bend` says where that fails. Errors of weights are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from goldfold.exporter.diagnose import attributing
from goldfold.exporter.diagnose.attributing import Attention, Route
from goldfold.exporter.errors import RewriteError, UsageError
from goldfold.exporter.evaluate import interpret, layer_values, probing
from goldfold.exporter.evaluate.probing import Probe, Tap
from goldfold.exporter.ir.program import Program
from goldfold.exporter.quantize import sites as all_sites
from goldfold.exporter.quantize.recipe import Kind
from goldfold.exporter.quantize.sites import Site
from goldfold.exporter.records import Real, Record

if TYPE_CHECKING:
    from goldfold.golden.gate import Gate

BITS = 8
KEPT: tuple[Kind, ...] = ("head",)
"""Kinds that stay in floating point, as in the recipes that come with goldfold."""
DRAWS = 2
"""Random directions for each map's gain: Gaussian ones of hundreds of channels differ little."""
SITES = 6
"""The maps whose tokens are looked at one by one."""


class Stage(Record, frozen=True, kw_only=True):
    """One linear map, or the table, on one text."""

    kind: str
    depth: int
    """Layers that end in front of it."""
    angle: Real
    """Radians that the rounding error of its input turns the embedding."""
    gain: Real
    """Radians for a random relative error of 1 of each row."""
    size: Real
    """The rounding error of its input, relative: root mean square over tokens."""
    bend: Real
    """The second-order part of the answer to the rounding error, over the first-order one: from
    about 1 on, the derivative says little about so large an error."""


class Place(Record, frozen=True, kw_only=True):
    """One token's input of one linear map."""

    kind: str
    depth: int
    token: int | None
    """Position in the text; None behind the pooling."""
    token_id: int | None
    angle: Real
    """Radians that the rounding error of this row turns the embedding."""
    gain: Real
    """Radians for a relative error of 1 in the direction of that rounding error."""
    size: Real
    """The row's rounding error, relative to the row."""
    channel: int
    """The row's largest channel, which sets its step."""
    reach: Real
    """That channel's magnitude over the root mean square of the row: 3 to 5 is ordinary."""
    bend: Real
    route: Route | None = None
    """The attention head that the error passes through; None where it meets no attention."""


class TextAmplification(Record, frozen=True, kw_only=True):
    """One text; `stages` in the graph's order, `places` by falling angle."""

    id: str
    tokens: int
    gain: Real
    """Root of the sum of squares over all stages of their gain."""
    angle: Real
    predicted: Real
    """1−cos by the angle, of all activations in 8 bits a row."""
    measured: Real
    """1−cos of the same program with all these values really rounded, against itself in f32."""
    stages: tuple[Stage, ...]
    places: tuple[Place, ...]


class Amplification(Record, frozen=True, kw_only=True):
    """The amplification of some texts by one program."""

    model: str
    bits: int
    texts: tuple[TextAmplification, ...]

    def median(self) -> float:
        """Returns the median of the texts' angles, in radians."""
        return float(np.median([text.angle for text in self.texts]))


def sensitive(found: Amplification, times: float = 2.0) -> tuple[TextAmplification, ...]:
    """Returns the texts whose angle is at least `times` the median of all, by falling angle; with
    `times` 0, all of them."""
    least = times * found.median()
    return tuple(
        sorted((t for t in found.texts if t.angle >= least), key=lambda t: -float(t.angle))
    )


def hopeless(found: Amplification, gate: Gate) -> str | None:
    """Returns a sentence if every text's predicted 1−cos is beyond the worst that `gate` allows, so
    that no such rounding of activations can hold it; otherwise None."""
    least = min(found.texts, key=lambda text: text.predicted)
    if least.predicted <= gate.worst:
        return None
    first = least.places[0] if least.places else None
    where = f", most of all at {named(first)}" if first is not None else ""
    return (
        f"{found.model}: activations in {found.bits} bits a row cannot hold 1−cos "
        f"{gate.worst:.0e}: each of {len(found.texts)} texts amplifies their rounding beyond it, "
        f"the least to {least.predicted:.1e} ({least.id}{where}); keep activations in floating "
        "point"
    )


def named(place: Place | Stage) -> str:
    """Returns a place in words: `value of layer 0, token 3`."""
    at = (
        f"{place.kind}"
        if place.kind in ("table", "head")
        else f"{place.kind} of layer {place.depth}"
    )
    token = getattr(place, "token", None)
    return at if token is None else f"{at}, token {token}"


def amplification(
    program: Program,
    texts: Mapping[str, Sequence[int]],
    top: int = 10,
    *,
    sites: int = SITES,
    kept: Sequence[Kind] = KEPT,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Amplification:
    """Measure where `program` amplifies errors, on each of `texts` alone.

    Args:
        program: legal, in f32, before or after the common passes; left alone.
        texts: token ids by the text's name, without padding.
        top: places that are returned for a text.
        sites: maps of a text whose tokens are looked at one by one, by falling angle.
        kept: kinds of maps whose input is not rounded and not looked at.
        seed: of the random directions.
        progress: called with (done, total) texts.

    Raises:
        UsageError: there is no text, or the program has no linear map.
        RewriteError: a value of a text is not finite.
    """
    if not texts:
        raise UsageError("amplification: there is no text to look at; name at least one")
    bench = Bench.of(program, kept)
    found = []
    for done, (name, ids) in enumerate(texts.items(), start=1):
        found.append(_of_text(bench, name, ids, (top, sites), np.random.default_rng(seed)))
        progress(done, len(texts))
    return Amplification(model=program.contract.model, bits=BITS, texts=tuple(found))


@dataclass(frozen=True)
class Bench:
    """A program with a tap at every site, and the same program with every tap's value rounded."""

    sites: tuple[tuple[str, Site], ...]
    """The sites by their taps' names."""
    attention: dict[str, Attention]
    """By the name of a tap: the attention that its map makes an operand of, or reads."""
    probe: Probe
    rounded: Callable[[Sequence[int]], np.ndarray]
    """Token ids → the embedding of the rounded program, f32 [dimensions]."""

    @staticmethod
    def of(program: Program, kept: Sequence[Kind] = ()) -> Bench:
        """Raises UsageError if the program has no linear map."""
        copy, other = program.copy(), program.copy()
        found, same = (
            [site for site in all_sites.find(one) if site.kind not in kept] for one in (copy, other)
        )
        if not any(site.linear is not None for site in found):
            raise UsageError(f"{program.contract.model} has no linear map that could be probed")
        named = tuple((f"{at}:{site.kind}:{site.depth}", site) for at, site in enumerate(found))
        attention = attributing.attentions(named)
        seen = [name for one in attention.values() for name in (one.query, one.key)]
        taps = [tap_of(name, site) for name, site in named]
        probe = Probe(copy, taps, tuple(dict.fromkeys(seen)))
        probing.round_rows(other, [tap_of("", site) for site in same], BITS)
        run = interpret.runner(other)

        def rounded(ids: Sequence[int]) -> np.ndarray:
            row = np.array([list(ids)], dtype=np.int64)
            return run(row, np.ones_like(row))[0]

        return Bench(named, attention, probe, rounded)


def tap_of(name: str, site: Site) -> Tap:
    """Returns the tap in front of a map, or behind the lookup of a table's rows."""
    if site.x is None:
        return Tap(name, site.node.outputs[0])
    return Tap(name, site.x, site.node)


def _of_text(
    bench: Bench,
    name: str,
    ids: Sequence[int],
    counts: tuple[int, int],
    random: np.random.Generator,
) -> TextAmplification:
    values = bench.probe.values(ids)
    for tap, site in bench.sites:
        if not np.isfinite(values[tap]).all():
            raise RewriteError(f"text {name!r} makes the input of {site.place} infinite or NaN")
    errors = {tap: probing.rounding_error(values[tap], BITS) for tap, _ in bench.sites}
    asked = [{tap: errors[tap]} for tap, _ in bench.sites]
    slopes = bench.probe.slopes(ids, [(one, probing.shortened(one, values)) for one in asked])
    gains = _gains(bench, ids, values, random)
    angles = np.linalg.norm(slopes.first, axis=1)
    bends = np.linalg.norm(slopes.second, axis=1) / np.maximum(angles, 1e-12)
    stages = [
        Stage(
            kind=site.kind,
            depth=site.depth,
            angle=Real(angles[at]),
            gain=Real(gains[at]),
            size=Real(_relative(errors[tap], values[tap])),
            bend=Real(bends[at]),
        )
        for at, (tap, site) in enumerate(bench.sites)
    ]
    together: dict[ir.Value, np.ndarray] = {}
    for (_, site), slope in zip(bench.sites, slopes.first, strict=True):
        value = site.node.outputs[0] if site.x is None else site.x
        together[value] = together.get(value, 0.0) + slope
    angle = float(np.sqrt(sum(float(slope @ slope) for slope in together.values())))
    rows = values[bench.probe.output].reshape(-1), bench.rounded(ids).reshape(-1)
    most = [bench.sites[at] for at in np.argsort(-angles, kind="stable")[: counts[1]]]
    return TextAmplification(
        id=name,
        tokens=len(ids),
        gain=Real(np.sqrt(np.square(gains).sum())),
        angle=Real(angle),
        predicted=Real(1 - np.cos(min(angle, np.pi))),
        measured=Real(layer_values.distance(*(row.astype(np.float64) for row in rows))),
        stages=tuple(stages),
        places=_places(bench, ids, values, errors, most)[: counts[0]],
    )


def _gains(
    bench: Bench,
    ids: Sequence[int],
    values: Mapping[str, np.ndarray],
    random: np.random.Generator,
) -> np.ndarray:
    """f64 [sites], root mean square over random directions."""
    asked = []
    for tap, _ in bench.sites:
        rows = values[tap]
        length = np.linalg.norm(rows, axis=-1, keepdims=True) / np.sqrt(rows.shape[-1])
        for _ in range(DRAWS):
            drawn = (random.standard_normal(rows.shape) * length).astype(np.float32)
            asked.append(({tap: drawn}, probing.STEP))
    lengths = np.linalg.norm(bench.probe.slopes(ids, asked).first, axis=1)
    return np.sqrt(np.square(lengths).reshape(-1, DRAWS).mean(axis=1))


def _relative(error: np.ndarray, rows: np.ndarray) -> float:
    lengths = [np.linalg.norm(array, axis=-1) for array in (error, rows)]
    return float(np.sqrt(np.mean(np.square(lengths[0] / np.maximum(lengths[1], 1e-30)))))


def _places(
    bench: Bench,
    ids: Sequence[int],
    values: Mapping[str, np.ndarray],
    errors: Mapping[str, np.ndarray],
    most: Sequence[tuple[str, Site]],
) -> tuple[Place, ...]:
    """Every token of the maps `most`, by falling angle; heads of the first places alone."""
    asked, known = [], []
    if not most:
        return ()
    for tap, site in most:
        pooled = values[tap].ndim == 1
        for token in (None,) if pooled else range(len(ids)):
            one = {tap: errors[tap] if token is None else only(errors[tap], token)}
            asked.append((one, probing.shortened(one, values)))
            known.append((tap, site, token))
    slopes = bench.probe.slopes(ids, asked)
    angles = np.linalg.norm(slopes.first, axis=1)
    bends = np.linalg.norm(slopes.second, axis=1) / np.maximum(angles, 1e-12)
    found = []
    for rank, at in enumerate(np.argsort(-angles, kind="stable")):
        tap, site, token = known[at]
        row, error = (
            array[tap] if token is None else array[tap][token] for array in (values, errors)
        )
        size, mean = _relative(error, row), float(np.sqrt(np.mean(np.square(row))))
        route = None
        if rank < attributing.ROUTES and tap in bench.attention:
            route = attributing.route(bench.probe, bench.attention[tap], ids, asked[at][0], values)
        found.append(
            Place(
                kind=site.kind,
                depth=site.depth,
                token=token,
                token_id=None if token is None else int(ids[token]),
                angle=Real(angles[at]),
                gain=Real(angles[at] / max(size, 1e-30)),
                size=Real(size),
                channel=int(np.argmax(np.abs(row))),
                reach=Real(np.abs(row).max() / max(mean, 1e-30)),
                bend=Real(bends[at]),
                route=route,
            )
        )
    return tuple(found)


def only(array: np.ndarray, token: int) -> np.ndarray:
    """Returns the array with zeros at all tokens but one."""
    kept = np.zeros_like(array)
    kept[token] = array[token]
    return kept
