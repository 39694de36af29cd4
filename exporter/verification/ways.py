"""The ways of calling an artifact: every output in batches of several sizes and in threads."""

from __future__ import annotations

from dataclasses import replace

from goldfold.exporter.artifact.encoder import Encoder
from goldfold.exporter.progress import Stages
from goldfold.golden import calling
from goldfold.golden.reasons import Reason
from goldfold.golden.store import Goldens
from goldfold.golden.tasks import QUANTITY

_HEADS = 16
"""Tokens of the longest text for a further head: all outputs share the trunk, whose long rows the
first one has seen."""


def reasons(encoder: Encoder, goldens: Goldens, stages: Stages) -> tuple[Reason, ...]:
    """Run every output of an artifact in every way (golden/calling.py), and return the reasons why
    a row is over the limits of its precision."""
    contract, gate = encoder.contract, encoder.bundle.manifest.gate
    found: list[Reason] = []
    worst, rows = 0.0, 0
    with stages(f"batches {encoder.bundle.name}"):
        for dim in (contract.dim, *contract.heads):
            name = contract.output_of(dim)
            head = "" if dim == contract.dim else name
            stages.detail(head)
            some = goldens.within(_HEADS) if head else goldens
            ways = calling.measure(
                lambda ids, mask, output=None, name=name: encoder.call(ids, mask, output or name),
                some if some.cases else goldens,
                pad_id=contract.pad_id,
                dims=dim,
                progress=lambda what, done, total: stages.step(done, total),
            )
            found += (replace(reason, head=head) for reason in calling.judge(ways, gate))
            worst, rows = max(worst, ways.worst), rows + len(ways.rows)
        sizes = ", ".join(map(str, calling.SIZES))
        stages.note(
            f"{rows} rows in batches of {sizes} and in {calling.THREADS} threads, "
            f"worst {QUANTITY[goldens.task]} {worst:.1e}"
        )
    return tuple(found)
