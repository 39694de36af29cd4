"""The outcome of a fit: the table of its candidates, all figures as JSON, and the plot of size and
loss in retrieval, peers beside."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from goldfold.exporter.report.pareto import Lossy, by_loss
from goldfold.exporter.search import outcome, trials
from goldfold.exporter.search.fit_candidates import Candidate, Fitted
from goldfold.exporter.search.sizing import shown
from goldfold.golden.metrics import RETRIEVAL

FORMAT = "goldfold.fit/1"
FILES = ("fit.json", "fit.svg")
PEERS = Path(__file__).with_name("peers.toml")
RULE = (
    "MB of weights and graph; the tokenizer and what else lies in the folder is apart. Chosen: the "
    "least upper bound of the loss in retrieval of all that fit and pass their gates; of equal "
    "ones the smaller."
)


def table(fitted: Fitted) -> Table:
    """One row a candidate."""
    cut = "" if cut_of(fitted) == "none" else f", cut to {cut_of(fitted)}"
    shown_as = Table(
        "candidate", "MB", "true", "worst", "mean", "loss", "at most", "",
        box=SIMPLE_HEAD, pad_edge=False, title_justify="left",
        title=f"{fitted.model}, at most {fitted.wanted.text}{cut}: MB as predicted and "
        "true, 1−cos on the goldens, loss in retrieval",
    )  # fmt: skip
    for one in _sorted(fitted):
        result, loss = one.result, one.loss
        worst, mean = _drift(one)
        shown_as.add_row(
            f"{one.target}-{one.name}",
            shown(one.size.bytes),
            "" if one.true is None else shown(one.true),
            "" if result is None else f"{worst:.1e}",
            "" if result is None else f"{mean:.1e}",
            "" if loss is None else f"{loss.loss:.2%}",
            "" if loss is None or loss.upper is None else f"{loss.upper:.2%}",
            Text("chosen", "bold green") if one.state == "chosen" else one.state,
        )
    return shown_as


def _sorted(fitted: Fitted) -> list[Candidate]:
    places = list(fitted.wanted.targets)
    return sorted(fitted.candidates, key=lambda c: (places.index(c.target), -c.size.bytes))


def _drift(one: Candidate) -> tuple[float, float]:
    """Worst and mean 1−cos on the goldens; NaN where nothing was measured."""
    verdict = None if one.result is None else one.result.bundle.verdict
    if verdict is None:
        return math.nan, math.nan
    judged = verdict.emulated or verdict.measurement
    return judged.larger, math.nan if judged.mean is None else judged.mean


def cut_of(fitted: Fitted) -> str:
    """The cut of the vocabulary, in words."""
    given = fitted.wanted.given
    if given.get("scripts"):
        return ",".join(given["scripts"])
    corpus = given.get("vocabulary")
    return "none" if corpus is None else Path(corpus).name


def dims_of(one: Candidate, fitted: Fitted) -> str:
    """The sizes of the embedding, where they are known."""
    if one.result is not None:
        contract = one.result.bundle.manifest.contract
        return ",".join(map(str, (contract.dim, *contract.heads)))
    return ",".join(map(str, fitted.wanted.given.get("dims") or ())) or "all"


def to_json(fitted: Fitted) -> dict[str, Any]:
    """Every candidate with its figures."""
    return {
        "format": FORMAT,
        "model": fitted.model,
        "fingerprint": fitted.fingerprint,
        "fit": fitted.wanted.text,
        "bytes": fitted.wanted.limit,
        "rule": RULE,
        "pairs": fitted.wanted.pairs,
        "pairs_digest": fitted.pairs_digest,
        "cut": cut_of(fitted),
        "candidates": [_plain(one, fitted) for one in _sorted(fitted)],
        "peers": peers(fitted.fingerprint),
    }


def _plain(one: Candidate, fitted: Fitted) -> dict[str, Any]:
    worst, mean = _drift(one)
    loss = one.loss
    return {
        "target": one.target,
        "candidate": one.name,
        "recipe": None if one.recipe is None else one.recipe.plain(),
        "dims": dims_of(one, fitted),
        "files": list(one.size.files),
        "bytes_predicted": one.size.bytes,
        "bytes_true": one.true,
        "bytes_of_all_files": None if one.result is None else one.result.bundle.size,
        "worst": worst if math.isfinite(worst) else None,
        "mean": mean if math.isfinite(mean) else None,
        "retrieval": None if loss is None else {
            "dims": loss.dims, "fp32": loss.reference, "artifact": loss.artifact,
            "loss": loss.loss, "at_most": loss.upper, "queries": loss.count,
        },
        "outcome": one.state,
    }  # fmt: skip


def peers(fingerprint: str) -> list[dict[str, Any]]:
    """The points of other tools for this very model, with their sources; none for most models."""
    known = tomllib.loads(PEERS.read_text(encoding="utf-8"))
    return [
        one for model in known.get("model", ()) for one in model["peer"]
        if model["fingerprint"] == fingerprint
    ]  # fmt: skip


def points(record: dict[str, Any]) -> list[Lossy]:
    """The points of a record's plot."""
    found = []
    several = len({one["target"] for one in record["candidates"]}) > 1
    for one in record["candidates"]:
        loss = one["retrieval"]
        if loss is not None:
            style = "chosen" if one["outcome"] == "chosen" else "holds"
            name = f"{one['candidate']}, {one['target']}" if several else one["candidate"]
            size = one["bytes_true"]
            said = f"{one['candidate']}, {one['target']}: {shown(size)} MB"
            said += f", loses {loss['loss']:.2%}, at most {loss['at_most']:.2%}"
            found.append(Lossy(size, loss["loss"], loss["at_most"], style, name, said))
    for one in record["peers"]:
        metric = "" if one["metric"] == RETRIEVAL else f" ({one['metric']})"
        upper = one.get("at_most", one["loss"])
        said = f"{one['name']}: {one['mb']} MB, loses {one['loss']:.2%}{metric}; {one['source']}"
        name = one["name"] + metric
        size = one["mb"] * 1e6
        found.append(Lossy(size, one["loss"], upper, "float", name, said, not metric))
    return found


def picture(records: Sequence[dict[str, Any]]) -> str | None:
    """The plot of records of one model as SVG; None where nothing was measured."""
    drawn = {(p.size, p.loss, p.name): p for record in records for p in points(record)}
    limits = [record["bytes"] for record in records]
    model = records[0]["model"]
    plot = by_loss(f"{model}: size and loss in retrieval", list(drawn.values()), limits)
    return None if plot is None else outcome.draw([plot], model)


def write(fitted: Fitted, out: Path) -> list[Path]:
    """Write the record and the plot beside the artifacts; returns their paths. Raises
    OutputError."""
    record = to_json(fitted)
    drawn = picture([record])
    trials.write(out / FILES[0], json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    if drawn is None:
        return [out / FILES[0]]
    trials.write(out / FILES[1], drawn)
    return [out / name for name in FILES]
