"""Where EmbeddingGemma amplifies rounding errors: figures and pictures of docs/amplification.md.

    .venv/bin/python -m benchmarks.amplification MODEL prompts --json FILE
    .venv/bin/python -m benchmarks.amplification MODEL kept --json FILE
    .venv/bin/python -m benchmarks.amplification MODEL branches --golden turkish --json FILE
    .venv/bin/python -m benchmarks.amplification MODEL stream --golden turkish --json FILE
    goldfold amplify MODEL --golden turkish --golden … --top 12 --json > FILE
    .venv/bin/python -m benchmarks.amplification MODEL draw --json FOLDER

`draw` reads amplify.json, prompts.json, branches.json and stream.json of a folder and writes
amplification.svg and amplification_turkish.svg into docs/pictures/. Every program has its gains
kept and its head in floating point; "rounded" is every input of a map, and every row of the table,
in 8 bits with a step a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import harness
from goldfold.exporter.diagnose.amplification import KEPT, Bench, tap_of
from goldfold.exporter.diagnose.stream_gains import stream_gains
from goldfold.exporter.driver import preparing
from goldfold.exporter.evaluate import interpret, layer_values, probing
from goldfold.exporter.evaluate.probing import Probe, Tap
from goldfold.exporter.frontend.readiness import ready
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.frontend.tokens import Tokens
from goldfold.exporter.ir import dialect
from goldfold.exporter.ir.program import Program
from goldfold.exporter.passes import pipeline
from goldfold.exporter.passes.pipeline import Pipeline
from goldfold.exporter.progress import Stages
from goldfold.exporter.quantize import sites
from goldfold.exporter.quantize.sites import Site
from goldfold.exporter.report import plots
from goldfold.exporter.report.plots import Axis, Dot, Plot, Rule, Tick
from goldfold.exporter.search.outcome import draw
from goldfold.exporter.system.cache import open_cache
from goldfold.golden import store

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
LONGEST = 100
"""Tokens of the longest golden that `prompts` rounds."""
LATE = 4
"""The last layers, whose attention says where the sink is."""
GATE = 5e-3
SENSITIVE = ("turkish", "unicode-controls", "arabic-vowelled", "persian")


class Step(StrEnum):
    prompts = "prompts"
    kept = "kept"
    branches = "branches"
    stream = "stream"
    draw = "draw"


def main(
    model: str,
    step: Step,
    json_file: Annotated[Path, typer.Option("--json", help="File, or draw's folder.")],
    golden: Annotated[str, typer.Option(help="Id of a golden text.")] = "turkish",
) -> None:
    if step is Step.draw:
        _draw(json_file)
        return
    source = ready(open_model(model), Stages(), open_cache())
    goldens = store.load(store.STORE / "embeddinggemma-300m")
    program = preparing.traced(source, Stages(), cache=open_cache())
    preparing.legalized(program, Pipeline())
    pipeline.run(program, pipeline.common(program.contract, "none"))
    ids = next(list(case.token_ids) for case in goldens.cases if case.id == golden)
    if step is Step.prompts:
        body: Any = _prompts(program, goldens)
    elif step is Step.kept:
        body = _kept(program, goldens)
    elif step is Step.branches:
        body = _branches(program, ids)
    else:
        words = Tokens(program.tokenizer, program.contract)
        body = {"tokens": list(map(words.token, ids)), **stream_gains(program, ids).plain()}
    harness.record(json_file, body)


# --- measurements


def _prompts(program: Program, goldens: store.Goldens) -> list[dict]:
    """1−cos of the rounded program on every short golden, and behind two prompts where it has
    none; and the token that the last layers look at most, with its share."""
    bench, words = Bench.of(program, KEPT), Tokens(program.tokenizer, program.contract)
    looks = _Looks(program)

    def apart(ids: list[int]) -> float:
        still = bench.probe.values(ids)[bench.probe.output]
        return layer_values.distance(bench.rounded(ids).astype(float), still.astype(float))

    found = []
    for case in goldens.cases:
        if len(case.token_ids) > LONGEST:
            continue
        ids = list(case.token_ids)
        share = looks(ids)
        at = int(np.argmax(share))
        row: dict[str, Any] = {"id": case.id, "tokens": len(ids), "alone": apart(ids)}
        row |= {"sink": [at, words.token(ids[at]), float(share[at])]}
        row["prompted"] = _has_prompt(case)
        if not row["prompted"]:
            for name in ("query", "document"):
                before = program.contract.prompts[name]
                row[name] = apart(words.ids([before + case.text])[0])
        found.append(row)
    for kind in (True, False):
        rows = [row for row in found if row["prompted"] is kind]
        for way in ("alone",) if kind else ("alone", "query", "document"):
            figures = [row[way] for row in rows]
            print(
                f"prompted {kind}, {way}: {len(rows)} texts, median {np.median(figures):.2e}, "
                f"worst {max(figures):.2e}, sink {np.median([r['sink'][2] for r in rows]):.2f}"
            )
    return found


def _has_prompt(case: store.Case) -> bool:
    return bool(case.prompt or case.call not in ("", "encode"))


PARTS: dict[str, Callable[[Site], bool]] = {
    "all": lambda site: True,
    "layers 6 to 23": lambda site: site.depth >= 6,
    "table, layers 0 to 5": lambda site: site.depth < 6,
    "all but table, down 0 to 5": lambda site: (
        not (site.kind == "table" or (site.kind == "down" and site.depth < 6))
    ),
    "all but key 1": lambda site: (site.kind, site.depth) != ("key", 1),
}
"""The maps whose inputs are rounded."""


def _kept(program: Program, goldens: store.Goldens) -> dict[str, dict[str, float]]:
    """1−cos of every short golden where a part of the inputs is rounded, by part."""
    cases = [case for case in goldens.cases if len(case.token_ids) <= LONGEST]

    def embed(program: Program) -> list[np.ndarray]:
        run = interpret.runner(program)
        rows = [np.array([case.token_ids], dtype=np.int64) for case in cases]
        return [run(row, np.ones_like(row))[0].astype(np.float64) for row in rows]

    still, found = embed(program), {}
    for name, rounds in PARTS.items():
        copy = program.copy()
        chosen = [s for s in sites.find(copy) if s.kind not in KEPT and rounds(s)]
        probing.round_rows(copy, [tap_of("", site) for site in chosen])
        apart = map(layer_values.distance, embed(copy), still)
        found[name] = {case.id: one for case, one in zip(cases, apart, strict=True)}
        for asked in (True, False):
            figures = [found[name][case.id] for case in cases if _has_prompt(case) is asked]
            print(
                f"{name}, prompted {asked}: median {np.median(figures):.1e}, "
                f"worst {max(figures):.1e}"
            )
    return found


class _Looks:
    """Token ids → f64 [tokens]: the share of the last layers' attention that each token gets, mean
    over layers, heads and the tokens that look."""

    def __init__(self, program: Program) -> None:
        copy = program.copy()
        attention = list(dialect.band_attentions(copy.graph))[-LATE:]
        self.scales = [dialect.Band.of(node).scale for node in attention]
        values = [value for node in attention for value in node.inputs[:2] if value is not None]
        self.probe = Probe(copy, [_table(copy)], [value.name or "" for value in values])
        self.names = [value.name or "" for value in values]

    def __call__(self, ids: list[int], moved: dict | None = None) -> np.ndarray:
        values = self.probe.values(ids, moved)
        total = np.zeros(len(ids))
        for at, scale in enumerate(self.scales):
            q, k = (values[name].astype(np.float64) for name in self.names[2 * at : 2 * at + 2])
            scores = scale * np.einsum("htd,gsd->hts", q, k)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            total += (weights / weights.sum(-1, keepdims=True)).mean((0, 1)) / len(self.scales)
        return total


def _table(program: Program) -> Tap:
    found = next(site for site in sites.find(program) if site.kind == "table")
    return Tap("table", found.node.outputs[0])


def _branches(program: Program, ids: list[int]) -> list[dict]:
    """1−cos as the table's rows move along their own rounding error, and the sinks there."""
    looks, run = _Looks(program), interpret.runner(program)
    row = np.array([ids], dtype=np.int64)
    still = run(row, np.ones_like(row))[0].astype(np.float64)
    error = probing.rounding_error(looks.probe.values(ids)["table"])
    found = []
    for times in np.linspace(-4, 4, 65):
        moved = {"table": np.float32(times) * error}
        got = looks.probe.values(ids, moved)[looks.probe.output].astype(np.float64)
        share = looks(ids, moved)
        sinks = [[int(at), float(share[at])] for at in np.argsort(-share)[:3]]
        found.append({"times": times, "apart": layer_values.distance(got, still), "sinks": sinks})
        print(f"{times:6.3f} {found[-1]['apart']:.2e} {sinks}")
    return found


# --- pictures


def _draw(folder: Path) -> None:
    read = {name: harness.read(folder / f"{name}.json") for name in ("amplify", "prompts")}
    whole = draw(
        [_by_layer(read["amplify"], read["prompts"]), _strips(read["prompts"])], "amplification"
    )
    (PICTURES / "amplification.svg").write_text(whole, encoding="utf-8")
    branches, stream = (harness.read(folder / f"{name}.json") for name in ("branches", "stream"))
    one = draw([_bubbles(stream), _curve(branches)], "turkish")
    (PICTURES / "amplification_turkish.svg").write_text(one, encoding="utf-8")


def _by_layer(found: dict, rows: list[dict]) -> Plot:
    """Root of the sum of squares of the angles of a layer's maps, for every text."""
    dots, angles = [], []
    prompted = {row["id"]: row["prompted"] for row in rows}
    for text in found["texts"]:
        by_depth: dict[int, float] = {}
        for stage in text["stages"]:
            by_depth[stage["depth"]] = by_depth.get(stage["depth"], 0.0) + stage["angle"] ** 2
        style = "float" if prompted[text["id"]] else "misses"
        angles += [
            (depth, math.sqrt(square), style, text["id"]) for depth, square in by_depth.items()
        ]
    last = max(depth for depth, *_ in angles)
    x = Axis(
        "layer (0 with the table)",
        0,
        last,
        False,
        tuple((float(d), str(d)) for d in range(0, 24, 3)),
    )
    y = plots.decades("angle, radians", [angle for _, angle, *_ in angles])
    for depth, angle, style, name in sorted(angles, key=lambda one: one[2]):
        title = f"{name}, layer {depth}: {angle:.1e}"
        dots.append(
            Dot(plots.x_of(0.02 + 0.96 * x.at(depth)), plots.y_of(y.at(angle)), style, title)
        )
    ticks = tuple(Tick(plots.x_of(0.02 + 0.96 * x.at(v)), label) for v, label in x.ticks)
    key = (("float", "with a prompt"), ("misses", "without"))
    return Plot(
        "What 8-bit rounding of each layer's inputs turns",
        "", x.title, y.title, ticks, plots.y_ticks(y), tuple(dots), key=key,
    )  # fmt: skip


def _strips(rows: list[dict]) -> Plot:
    """1−cos of the rounded program, in four columns."""
    columns = {
        "a prompt": [(r["id"], r["alone"]) for r in rows if r["prompted"]],
        "none": [(r["id"], r["alone"]) for r in rows if not r["prompted"]],
        "none + query": [(r["id"], r["query"]) for r in rows if not r["prompted"]],
        "none + doc": [(r["id"], r["document"]) for r in rows if not r["prompted"]],
    }
    y = plots.decades("1−cos", [figure for found in columns.values() for _, figure in found])
    dots, ticks = [], []
    for at, (title, found) in enumerate(columns.items()):
        middle = (at + 0.5) / len(columns)
        ticks.append(Tick(plots.x_of(middle), title))
        for place, (name, figure) in enumerate(sorted(found, key=lambda one: one[1])):
            share = middle + 0.14 * (place / max(len(found) - 1, 1) - 0.5)
            style = "chosen" if name in SENSITIVE else "misses" if at == 1 else "float"
            title = f"{name}: {figure:.1e}"
            dots.append(Dot(plots.x_of(share), plots.y_of(y.at(figure)), style, title, radius=2.6))
    rule = Rule(plots.y_of(y.at(GATE)), f"limit of int8, {GATE:g}")
    return Plot(
        "All inputs rounded, goldens of up to 100 tokens",
        "", "", y.title, tuple(ticks), plots.y_ticks(y), tuple(dots), rules=(rule,),
        key=(("chosen", "the four"), ("misses", "no prompt"), ("float", "a prompt")),
    )  # fmt: skip


def _bubbles(found: dict) -> Plot:
    """A circle for every layer and token, its area the gain."""
    gains = np.array(found["gains"], dtype=np.float64)
    layers, tokens = gains.shape
    dots, top = [], gains.max()
    for layer in range(layers):
        for token in range(tokens):
            gain = gains[layer, token]
            title = f"layer {layer}, token {token} {found['tokens'][token]!r}: {gain:.2f}"
            x, y = ((token + 0.5) / tokens, (layer + 0.5) / layers)
            style = "misses" if token == 8 else "holds"
            radius = round(9 * math.sqrt(gain / top), 2)
            dots.append(Dot(plots.x_of(x), plots.y_of(y), style, title, radius=radius))
    marks = tuple(Tick(plots.x_of((t + 0.5) / tokens), str(t)) for t in range(0, tokens, 4))
    sides = tuple(Tick(plots.y_of((n + 0.5) / layers), str(n)) for n in range(0, layers, 4))
    return Plot(
        f"turkish: gain behind each layer, largest {top:.1f}",
        "", "token", "layer", marks, sides, tuple(dots), key=(("misses", "token 8, ▁"),),
    )  # fmt: skip


def _curve(rows: list[dict]) -> Plot:
    """1−cos along the table's rounding error."""
    figures = [max(row["apart"], 1e-7) for row in rows]
    x = plots.linear("times the table's 8-bit rounding error", -4, 4, lambda v: f"{v:g}")
    y = plots.decades("1−cos", [figure for figure in figures if figure > 1e-6])
    dots = []
    for row, figure in zip(rows, figures, strict=True):
        sink, share = row["sinks"][0]
        style = "misses" if sink == 8 else "float"
        title = (
            f"{row['times']:.2f} times: 1−cos {figure:.1e}; most looked at: {sink} ({share:.2f})"
        )
        dots.append(Dot(plots.x_of(x.at(row["times"])), plots.y_of(y.at(figure)), style, title))
    path = "M" + "L".join(f"{dot.x},{dot.y}" for dot in dots)
    key = (("misses", "sink: 8"), ("float", "sink: another"))
    return Plot(
        "turkish: two branches",
        "", x.title, y.title, plots.x_ticks(x), plots.y_ticks(y), tuple(dots), path=path, key=key,
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
