"""The whole field in one run: our artifacts beside every peer, for speed, size and loss.

    .venv/bin/python -m benchmarks.field MODEL --artifact out/openvino-int8 [--artifact …]
        [--peer 'llama.cpp-*'] [--shape 8x128] [--threads 2] [--json FILE] [--markdown]
        [--picture docs/pictures/field.png]

Every side is loaded in a process of its own, with the same number of threads, and they are timed in
turn, so that a machine that slows down slows all of them; one computes at a time. Our artifacts are
opened as `goldfold.load` opens them; benchmarks/speed/roster.py says what the peers are, and
benchmarks/speed/peers.py installs and exports them, once (`--prepare` does no more than that).
Each is held to the goldens and to texts that no one has seen, by 1−cos to sentence-transformers in
fp32. Token ids go in; fastembed tokenizes itself and gets texts of as many tokens, so that its time
has the tokenizer in it. A peer that cannot be had is listed with the reason. With --record, nothing
is measured: that record is printed and drawn. Linux only.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import harness
from benchmarks.speed import field_plot, field_report, measure, peers, roster
from benchmarks.speed.client import Worker, WorkerError, interleave
from benchmarks.speed.roster import Entry
from benchmarks.speed.shapes import few, shape_of
from benchmarks.speed.unseen import Unseen, unseen_of
from goldfold.exporter.artifact.bundle import open_bundle
from goldfold.exporter.cli.console import open_console
from goldfold.exporter.errors import GoldfoldError
from goldfold.exporter.system import clock
from goldfold.exporter.verification.goldens import goldens_of
from goldfold.golden.store import Goldens

SHAPES = ("1x16", "1x128", "8x128", "32x64", "1x512")
SPARE = 1 << 30
"""Bytes of memory that stay free: a side is not opened where its files, twice, leave fewer."""

Record = dict[str, Any]


def main(
    model: Annotated[Path | None, typer.Argument(help="The SentenceTransformer's folder.")] = None,
    artifact: Annotated[list[Path], typer.Option(help="One of ours; repeatable.")] = [],  # noqa: B006
    peer: Annotated[list[str], typer.Option(help="A name, or a pattern as 'llama.cpp-*'.")] = ["*"],  # noqa: B006
    shape: Annotated[list[str], typer.Option(help="As 8x128; or none.")] = list(SHAPES),  # noqa: B006
    threads: Annotated[int, typer.Option(min=1, help="Of every side.")] = os.cpu_count() or 1,
    rounds: Annotated[int, typer.Option(min=1, help="Turns a side takes at a shape.")] = 5,
    seconds: Annotated[float, typer.Option(help="Timed seconds a side and shape.")] = 3.0,
    quality: Annotated[bool, typer.Option(help="Compare with goldens too.")] = True,
    unseen: Annotated[int, typer.Option(min=0, help="Unseen texts; 0 is none.")] = 52,
    longest: Annotated[int, typer.Option(help="Tokens of the longest unseen text.")] = 500,
    prepare: Annotated[bool, typer.Option("--prepare", help="Make the peers, and stop.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write JSON here.")] = None,
    record: Annotated[Path | None, typer.Option(help="Measure nothing: show this record.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown's tables.")] = False,
    picture: Annotated[Path | None, typer.Option(help="Also draw into this .png.")] = None,
    at: Annotated[str, typer.Option(help="The shape of the picture's speeds.")] = "8x128",
) -> None:
    """Print the tables; write the record, and the picture."""
    if record is not None:
        found = harness.read(record)
    elif model is None or not artifact:
        raise SystemExit("error: name the model's folder and an --artifact, or a --record")
    else:
        run = Run(model, artifact, peer, threads)
        if prepare:
            run.prepare()
            return
        shapes = [] if shape == ["none"] else [shape_of(one) for one in shape]
        texts = run.texts(unseen, longest) if quality and unseen else None
        found = run.measured(
            shapes, (rounds, seconds), run.goldens if quality else None, texts, json_file
        )
    field_report.show(open_console(), found, markdown)
    if picture is not None:
        field_plot.draw(found, at, picture)


class Run:
    """What takes part in a run."""

    def __init__(
        self, model: Path, artifacts: Sequence[Path], wanted: Sequence[str], threads: int
    ) -> None:
        try:
            self.bundles = [open_bundle(one, unverified=True) for one in artifacts]
        except GoldfoldError as error:
            raise SystemExit(f"error: {error}") from None
        first = self.bundles[0]
        for one in self.bundles:
            if one.manifest.target not in roster.RUNTIMES:
                known = ", ".join(roster.RUNTIMES)
                raise SystemExit(f"error: {one.path} is for none of {known}")
            if one.manifest.origin.fingerprint != first.manifest.origin.fingerprint:
                raise SystemExit(f"error: {one.path} is of another model than {first.path}")
        self.contract, self.goldens = first.manifest.contract, few(goldens_of(first))
        self.model = roster.Model(model.resolve(), threads, self.contract.dim)
        self.wanted = wanted
        self._started = time.perf_counter()

    def prepare(self) -> None:
        """Install and export the peers, and say what is there."""
        found, absent = roster.peers_of(self.model, self.wanted)
        for one in found:
            print(f"{one.label}: {one.size / 1e6:,.0f} MB")
        for sentence in absent:
            print(f"not measured: {sentence}")

    def texts(self, count: int, longest: int) -> Unseen:
        """The unseen texts, with the source's embeddings in fp32."""
        fingerprint = self.bundles[0].manifest.origin.fingerprint
        self._say("unseen texts")
        return unseen_of(self.model.folder, fingerprint, self.contract, count, longest)

    def measured(
        self,
        shapes: Sequence[tuple[int, int]],
        pace: tuple[int, float],
        goldens: Goldens | None,
        unseen: Unseen | None,
        json_file: Path | None,
    ) -> Record:
        """The record; it is written after every step. `pace`: rounds, and seconds a side."""
        found, absent = roster.peers_of(self.model, self.wanted)
        entries = [*roster.ours(self.bundles, self.model.threads), *found]
        record = self._head(shapes, absent)
        with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
            watch = clock.Others()
            workers = self._open(stack, entries, record, Path(scratch) / "workers.log")
            for shape in shapes:
                self._time(workers, shape, pace, record)
                harness.record(json_file, record)
            record["others"] = watch.share([one.pid for one in workers])
            for worker in workers:
                row = record["sides"][worker.spec.name]
                row["ways"] = worker.ask("ways")["ways"]
                for word, compare in (("goldens", goldens), ("unseen", unseen)):
                    if compare is not None:
                        row[word] = self._compare(worker, word, compare, record)
                harness.record(json_file, record)
        return record

    def _head(self, shapes: Sequence[tuple[int, int]], absent: list[str]) -> Record:
        environments = (peers.MODERN, peers.ONNX, peers.FASTEMBED, peers.LLAMA)
        return {
            "model": self.contract.model,
            "machine": {"cpu": harness.processor(), "threads": self.model.threads},
            "versions": {
                "ours": {k: v for b in self.bundles for k, v in b.manifest.versions.items()},
                **{one.name: peers.versions(one) for one in environments},
            },
            "shapes": [f"{batch}x{tokens}" for batch, tokens in shapes],
            "sides": {},
            "absent": absent,
            "others": None,
        }  # fmt: skip

    def _open(
        self, stack: ExitStack, entries: Sequence[Entry], record: Record, log: Path
    ) -> list[Worker]:
        workers = []
        for entry in entries:
            self._say(f"loading {entry.label}")
            if _available() < 2 * entry.size + SPARE:
                record["absent"].append(f"{entry.label}: no memory is left for it")
                continue
            try:
                worker = stack.enter_context(Worker(entry.spec, log))
            except WorkerError as error:
                record["absent"].append(str(error))
                continue
            workers.append(worker)
            loaded = worker.ask("memory")
            record["sides"][entry.spec.name] = {
                "label": entry.label, "ours": entry.ours, "note": entry.spec.note,
                "size": entry.size, "load_s": worker.load_s, "loaded": loaded, "shapes": {},
            }  # fmt: skip
        return workers

    def _time(
        self, workers: Sequence[Worker], shape: tuple[int, int], pace: tuple[int, float],
        record: Record,
    ) -> None:  # fmt: skip
        batch, tokens = shape
        text = f"{batch}x{tokens}"
        self._say(text)
        asked = {"batch": batch, "tokens": tokens, "vocabulary": self.contract.vocab_size}
        able = []
        for worker in workers:
            try:
                worker.ask("time", **asked, warm=0, calls=1)
                able.append(worker)
            except WorkerError as error:
                record["absent"].append(f"{error}, at {text}")
            else:
                sides = record["sides"]
                sides[worker.spec.name].setdefault("called", worker.ask("memory"))
        for name, times in interleave(able, asked, *pace).items():
            record["sides"][name]["shapes"][text] = measure.spread(times)

    def _compare(
        self, worker: Worker, word: str, texts: Goldens | Unseen, record: Record
    ) -> Record | None:
        self._say(f"{word}, {worker.spec.name}")
        try:
            if isinstance(texts, Unseen):
                return texts.figures(worker)
            return measure.quality(worker, texts)
        except WorkerError as error:
            record["absent"].append(f"{error}, on the {word}")
            return None

    def _say(self, text: str) -> None:
        seconds = time.perf_counter() - self._started
        print(f"{seconds:7.1f} s  {text}", file=sys.stderr, flush=True)


def _available() -> int:
    """Bytes that the system could still give out."""
    lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


if __name__ == "__main__":
    typer.run(main)
