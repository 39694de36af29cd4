"""README.md of an artifact: what it is, how it was measured, how to use it, and its limits.

It follows from manifest.json, verdict.json and card.json alone. Every verdict that is written is
followed by a README of its own (exporter/artifact/recording.py), which takes the earlier one's
place, so it is outside of the manifest's digests and of signatures as the verdict is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from goldfold.exporter import registry
from goldfold.exporter.artifact import card
from goldfold.exporter.artifact.manifest import Manifest, VerdictRecord
from goldfold.exporter.records import Figures
from goldfold.exporter.system import names
from goldfold.golden.measured import unmeasured
from goldfold.golden.tasks import QUANTITY

_IS = {
    "embedding": "It turns a text into an embedding of {dim} numbers{unit}.",
    "scores": "It scores pairs of texts: {dim} number{s} for each pair.",
    "sparse": "It turns a text into weights of {dim} entries, most of them zero.",
    "multi_vector": "It turns a text into a vector of {dim} numbers for each of its tokens.",
}
_COMPILER = (
    *("torch", "transformers", "sentence-transformers", "tokenizers"),
    *("onnx", "onnx-ir", "onnxscript", "onnxsim"),
)
"""Packages whose versions every manifest names."""
_VERDICTS = {
    "passed": "**Passed**: this very file ran where it was verified, in its precision.",
    "proved": "**Proved, not run**: {stand_in} ran in its place and held the gate; {not_run}.",
    "failed": "**Failed its gate.** Do not use it.",
}


def text(folder: Path, manifest: Manifest, verdict: VerdictRecord) -> str:
    """Returns the README of the artifact in `folder`."""
    facts = card.read(folder, manifest)
    parts = [
        card.front_matter(manifest, facts),
        "\n".join(_head(manifest)),
        "\n".join(_measured(manifest, verdict)),
        "\n".join(_use(folder, manifest)),
        "\n".join(_prompts(manifest)),
        "\n".join(_limits(manifest, verdict)),
        "\n".join(_origin(manifest, facts)),
    ]
    return "\n".join(part for part in parts if part)


def _head(manifest: Manifest) -> Iterator[str]:
    contract, recipe = manifest.contract, manifest.recipe
    target = manifest.target
    yield f"# {_line(manifest.origin.name)} for {target}, {manifest.precision}"
    yield ""
    unit = ", of length 1" if contract.normalized else ""
    dim = f"{contract.dim:,}"
    says = _IS[contract.task].format(dim=dim, unit=unit, s="" if contract.dim == 1 else "s")
    yield (
        f"{_line(manifest.origin.name)}, compiled by goldfold {manifest.goldfold} for {target} and "
        f"compared with the original. {says}"
    )
    yield ""
    rows = {
        "target": f"{target} ({_versions(manifest)})",
        "precision": manifest.precision
        if recipe is None
        else f"{manifest.precision}: integers, {manifest.floating} around them"
        + (f". {recipe.summary}" if recipe.summary else ""),
        "size": f"{sum(one.size for one in manifest.files.values()) / 1e6:,.1f} MB",
        "dimensions": ", ".join(map(str, (contract.dim, *contract.heads))),
        "longest text": f"{contract.max_length:,} tokens"
        + "".join(f"; of a {k or 'plain text'} {n:,}" for k, n in contract.lengths.items()),
        "similarity": contract.similarity,
    }
    if contract.task == "scores":
        del rows["similarity"]
        rows["labels"] = ", ".join(contract.labels) or "one"
        rows["activation"] = contract.activation
    if contract.cut is not None:
        cut = contract.cut
        whose = ", ".join(cut.scripts) or "a corpus"
        rows["vocabulary"] = f"{cut.kept:,} of {cut.of:,} tokens: {whose}"
    if said := ", ".join(f"{key} {_plain(value)}" for key, value in manifest.options.items()):
        rows["built with"] = said
    yield from _table(("", ""), ((key, value) for key, value in rows.items()))


def _versions(manifest: Manifest) -> str:
    said = [f"{name} {one}" for name, one in manifest.versions.items() if name not in _COMPILER]
    return ", ".join(said) or "versions are in manifest.json"


def _known(manifest: Manifest) -> bool:
    return manifest.target in registry.names()


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _measured(manifest: Manifest, verdict: VerdictRecord) -> Iterator[str]:
    measure = verdict.measurement
    quantity = QUANTITY[manifest.contract.task]
    yield ""
    yield "## How it was measured"
    yield ""
    yield _VERDICTS[verdict.status].format(
        stand_in=_line(verdict.stand_in), not_run=_line(verdict.not_run)
    )
    yield ""
    yield (
        f"sentence-transformers computed {len(measure.rows)} golden texts with the original in "
        "fp32, and the artifact computed them again, each alone and in padded batches. The error "
        f"is {quantity}; 0 would be the original."
    )
    yield ""
    rows = [_figures("all golden texts, alone", measure.worst, measure.mean)]
    rows.append(_figures("all golden texts, padded", measure.worst_padded, measure.mean_padded))
    if verdict.emulated is not None:
        one = verdict.emulated
        rows.append(_figures("every value rounded to its type", one.larger, one.mean))
    for title, heads in (("", verdict.heads), (", rounded", verdict.emulated_heads)):
        rows += [_figures(f"`{name}`{title}", one.larger, one.mean) for name, one in heads.items()]
    rows += [_beside(name, one) for name, one in verdict.beside.items()]
    yield from _table(("measured", f"worst {quantity}", "mean"), rows)
    yield ""
    yield from (f"- {_line(reason.sentence)}" for reason in verdict.reasons)
    for found in (verdict.constants, verdict.unseen, verdict.outside):
        if found is not None:
            yield f"- {_line(found.sentence)}"
    if verdict.losses is not None:
        yield from _retrieval(verdict)
    yield (
        "- `goldfold verify` repeats all this on your machine, and writes this file anew. It "
        f"belongs to the manifest {manifest.digest[:16]}…; `verdict.json` has every figure."
    )


def _figures(name: str, worst: float, mean: float) -> tuple[str, str, str]:
    return name, _number(worst), _number(mean)


def _beside(name: str, one: Figures) -> tuple[str, str, str]:
    return _figures(f"{name}, on the same file, for the record", one.larger, one.mean)


def _number(value: float) -> str:
    return f"{value:.1e}" if math.isfinite(value) else "not finite"


def _retrieval(verdict: VerdictRecord) -> Iterator[str]:
    assert verdict.losses is not None
    for one in verdict.losses.figures:
        most = "" if one.upper is None else f", at most {one.upper:.2%} (95 %)"
        yield f"- {_line(one.name)}, {one.dims} dimensions: it loses {one.loss:.2%}{most}"
    if verdict.losses.judged is None:
        yield "- Retrieval was not judged (`goldfold verify --judge`)."


def _use(folder: Path, manifest: Manifest) -> Iterator[str]:
    yield ""
    yield "## Use it"
    if not _known(manifest):
        yield ""
        yield f"The target {manifest.target} is not installed here, so its lines are missing."
        return
    target = registry.target(manifest.target)
    for use in target.all_uses(manifest.contract, manifest.floating, folder):
        yield ""
        yield f"### {use.title}"
        yield ""
        fence = "````" if "```" in use.code else "```"
        yield f"{fence}{use.language}\n{use.code}\n{fence}"
        if use.remark:
            yield ""
            yield use.remark


def _prompts(manifest: Manifest) -> Iterator[str]:
    contract = manifest.contract
    if contract.task == "scores":
        return
    yield ""
    yield "## Prompts"
    yield ""
    if not contract.prompts:
        yield "The model has none: texts are embedded as they are."
        return
    yield from _table(
        ("name", "text put before", "when"),
        (
            (f"`{_line(n)}`", _code(text), _when(manifest, n))
            for n, text in contract.prompts.items()
        ),
    )
    yield ""
    yield (
        "`embed_query` and `embed_document` take theirs by themselves, `prompt=` takes any by its "
        "name. A runtime alone and a server add none."
    )


def _when(manifest: Manifest, name: str) -> str:
    contract = manifest.contract
    asked = [
        said
        for task, said in (("query", "queries"), ("document", "documents"), ("", "other texts"))
        if contract.prompt_name(task) == name  # type: ignore[arg-type]
    ]
    skipped = contract.unpooled.get(name)
    left = f"; its {skipped} tokens are not pooled" if skipped else ""
    return (f"{', '.join(asked)}" if asked else f'`prompt="{_line(name)}"`') + left


def _limits(manifest: Manifest, verdict: VerdictRecord) -> Iterator[str]:
    yield ""
    yield "## Limits"
    yield ""
    if verdict.not_run:
        yield f"- Not run on its device in its precision: {_line(verdict.not_run)}."
    measured = max((row.tokens for row in verdict.measurement.rows), default=0)
    if said := unmeasured(measured, manifest.contract.max_length):
        yield f"- {said}"
    yield f"- {_limit(manifest)}"
    if manifest.recipe is not None:
        yield (
            "- Integer kernels of another runtime or processor may round otherwise: "
            "`goldfold.load` computes three golden texts there, and warns."
        )
    yield from (f"- {_line(note)}" for note in (*manifest.notes, *manifest.built))
    for reach in manifest.bounds:
        if reach.calibrated:
            yield (
                f"- fp16: {reach.calibrated} values of the kind {reach.kind} are bounded by "
                "calibration texts alone."
            )
    yield "- What the golden texts do not show was not measured; `goldfold verify --unseen` adds."


def _limit(manifest: Manifest) -> str:
    from goldfold.golden import gate

    limits = gate.gate_for(manifest.gate, manifest.contract.task)
    quantity = QUANTITY[manifest.contract.task]
    mean = f", and {limits.mean:.0e} in the mean" if limits.mean is not None else ""
    loss = f"; retrieval may lose {limits.loss:.1%}" if limits.loss is not None else ""
    return f"The gate of {manifest.gate} allows a {quantity} of {limits.worst:.0e}{mean}{loss}."


def _origin(manifest: Manifest, facts: dict[str, Any]) -> Iterator[str]:
    origin = manifest.origin
    yield ""
    yield "## Source and licence"
    yield ""
    yield (
        f"The source is {_line(origin.name)}, {len(origin.digests)} files with the fingerprint "
        f"`{origin.fingerprint[:16]}…`; `manifest.json` has the sha256 of each."
    )
    licence = ", ".join(facts.get("license", ())) or origin.licence
    called = facts.get("license_name")
    said = f"`{_line(licence)}`" if licence else "no licence"
    said += f" ({_line(str(called))})" if called and called != licence else ""
    if link := facts.get("license_link"):
        said += f", {_line(str(link))}"
    yield f"Its card names {said}; the terms of the source hold for this artifact as well."
    kept = [key for key in manifest.files if "/" not in key and _is_terms(key)]
    if kept:
        listed = ", ".join(f"[{_line(key)}](<{key}>)" for key in kept)
        yield f"Kept as they came with the source: {listed}."


def _is_terms(key: str) -> bool:
    upper = key.upper()
    begins = ("LICEN", "NOTICE", "COPYING", "TERMS", "USE", "MODEL_CARD", "GEMMA", "PROHIBITED")
    return upper.startswith(begins) and not upper.endswith(".JSON")


def _table(head: tuple[str, ...], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(_cell(one) for one in row)} |"


def _cell(said: str) -> str:
    return said.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") or "(none)"


def _line(said: str) -> str:
    """Returns a stranger's text on one line, without HTML of its own."""
    return names.line(said).replace("<", "&lt;").replace("`", "'")


def _code(said: str) -> str:
    """Returns a prompt as code, its blanks kept in sight."""
    if not said:
        return "(none)"
    shown = said.replace("\n", "\\n").replace("\t", "\\t")
    fence = "``" if "`" in shown else "`"
    around = " " if "`" in shown or shown != shown.strip() else ""
    return f"{fence}{around}{names.line(shown)}{around}{fence}"
