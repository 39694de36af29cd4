"""Give goldfold damaged folders, and look at what it says, takes and leaves."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.torture.tortures import cell, ground, strangers
from tests.torture.tortures.cell import Outcome
from tests.torture.tortures.damage import ANY, JSON, MANIFEST, MODULES, VERDICT, Way, sealed
from tests.torture.tortures.headers import NPY, ONNX, SAFETENSORS, XML

SECONDS = 60.0
"""What one command may take: an export of the tiny model that nothing stops takes a few."""
MEMORY = 512 << 20
"""Bytes that a command may take beyond what it had when it began: what a whole export of the tiny
model takes, twice over."""
MODEL_JSON = (
    "modules.json", "config.json", "1_Pooling/config.json", "2_Dense/config.json", "tokenizer.json",
    "config_sentence_transformers.json", "sentence_bert_config.json", "tokenizer_config.json",
)  # fmt: skip
MODEL_FILES = (*MODEL_JSON, "model.safetensors", "2_Dense/model.safetensors")
ARTIFACT_JSON = ("manifest.json", "verdict.json", "golden/golden.json", "tokenizer.json")
VERDICTS = ("/verdict.json", "/README.md", ".new")
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029]")
OWN = {
    "openvino": ("openvino_model.xml", "openvino_model.bin"),
    "onnxruntime": ("model.onnx", "model.onnx.data"),
}
LIES = {
    "openvino": [("openvino_model.xml", way) for way in XML],
    "onnxruntime": [("model.onnx", way) for way in ONNX],
}


@dataclass(frozen=True)
class Harm:
    """One damaged folder."""

    subject: str
    """`model`, or the artifact's target."""
    key: str
    way: Way
    seed: int

    def __str__(self) -> str:
        return f"{self.subject} {self.key}: {self.way.name} (seed {self.seed})"


@dataclass
class Found:
    """What came of the damaged folders."""

    folders: int = 0
    attempts: int = 0
    refused: int = 0
    named_file: int = 0
    """Refusals that name the file; the others name the folder."""
    accepted: int = 0
    """Folders that may be sound, and were taken to be."""
    broken: list[str] = field(default_factory=list)
    slowest: float = 0.0
    slowest_at: str = ""
    largest: int = 0
    largest_at: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def draw(count: int, seed: int) -> Iterator[Harm]:
    """`count` damaged folders, every way among them if `count` is not too small: half models, a
    quarter the artifacts of each target."""
    rng = np.random.default_rng(seed)
    pools = {
        "model": [
            *((key, way) for key in MODEL_FILES for way in ANY),
            *((key, way) for key in MODEL_JSON for way in JSON),
            *((key, way) for key in MODEL_FILES if key.endswith("tensors") for way in SAFETENSORS),
            *(("modules.json", way) for way in MODULES),
            *((_of(way), way) for way in strangers.MODEL),
        ]
    }
    for target in ground.TARGETS:
        files = (*ARTIFACT_JSON, *OWN[target], "golden/embeddings.npy")
        inside = (*OWN[target], "tokenizer.json", "golden/golden.json")
        pools[target] = [
            *((key, way) for key in files for way in ANY),
            *((key, way) for key in ARTIFACT_JSON for way in JSON),
            *(("manifest.json", way) for way in MANIFEST),
            *(("verdict.json", way) for way in VERDICT),
            *((key, sealed(way)) for key in inside for way in ANY),
            *((key, sealed(way)) for key in inside[2:] for way in JSON),
            *(("golden/embeddings.npy", sealed(way)) for way in NPY),
            *((key, sealed(way)) for key, way in LIES[target]),
            *((_of(way), way) for way in strangers.ARTIFACT),
        ]  # fmt: skip
    pools["onnxruntime"] += [("model.onnx", way) for way in strangers.ONNX]
    shares = {"model": count // 2, "openvino": count // 4}
    shares["onnxruntime"] = count - sum(shares.values())
    for subject, share in shares.items():
        yield from (
            Harm(subject, key, way, int(rng.integers(1 << 30)))
            for key, way in _spread(pools[subject], share, rng)
        )


def _of(way: Way) -> str:
    """The file that a way is about, where it says so."""
    words = {"card": "README.md", "licence": "LICENSE", "verdict": "verdict.json"}
    named = [path for word, path in words.items() if way.name.startswith(word)]
    return named[0] if named else "manifest.json" if way.name.startswith("manifest") else "."


def _spread(pool: list[tuple[str, Way]], share: int, rng: np.random.Generator) -> list:
    """`share` of `pool`, as many ways as there can be before any comes twice."""
    order = [pool[place] for place in rng.permutation(len(pool))]
    times: dict[str, int] = {}
    ranked = []
    for place, (key, way) in enumerate(order):
        kind = way.name.removesuffix(", resealed")
        times[kind] = times.get(kind, 0) + 1
        ranked.append((times[kind], place, (key, way)))
    return [item for _, _, item in sorted(ranked, key=lambda rank: rank[:2])[:share]]


def torture(
    model: Path, artifacts: Path, room: Path, harms: list[Harm], found: Found | None = None
) -> Found:
    """Make each folder, and let the commands have it."""
    found = found or Found()
    for harm in harms:
        place = room / "cell"
        shutil.rmtree(place, ignore_errors=True)
        source = model if harm.subject == "model" else artifacts / f"{harm.subject}-fp32"
        folder = place / "in" / source.name
        shutil.copytree(source, folder)
        (place / "victim").mkdir()
        (place / "victim" / "secret.bin").write_bytes(b"\x7f" * (1 << 20))
        for name in ("out", "tmp"):
            (place / name).mkdir()
        try:
            harm.way.spoil(folder, harm.key, np.random.default_rng(harm.seed))
        except Exception as error:
            raise RuntimeError(f"{harm} cannot be done: {error!r}") from error
        found.folders += 1
        taken = _refusals(harm, folder, place, found)
        found.accepted += taken
        # A verdict is measured anew by `verify`, whatever it was.
        if taken and not (harm.way.either or harm.way.sound) and harm.key != "verdict.json":
            found.broken.append(f"{harm}: accepted")
        if harm.way.sound and not taken:
            found.broken.append(f"{harm}: refused")
    shutil.rmtree(room / "cell", ignore_errors=True)
    return found


def _refusals(harm: Harm, folder: Path, place: Path, found: Found) -> bool:
    """Run the commands on a folder; whether all took it."""
    before = cell.snapshot(place, ("out", "home"))
    if harm.subject == "model":
        commands = {"export": _export(folder, place / "out")}
    else:
        commands = {
            "verify": cell.goldfold("verify", folder, "--quiet", "--threads", 1),
            "embed": cell.goldfold("embed", folder, "a text", "--threads", 1),
            "load": _load(folder),
            "inspect": cell.goldfold("inspect", folder),
            "report": cell.goldfold("report", folder, "--out", place / "out" / "report"),
        }
        if harm.subject == "openvino":
            served = ("--for", "ovms", "--out", place / "out" / "served")
            commands["layout"] = cell.goldfold("layout", folder, *served)
    taken = []
    for name, work in commands.items():
        outcome = cell.attempt(work, place, SECONDS)
        found.attempts += 1
        what = f"{harm} {name}"
        if outcome.seconds > found.slowest:
            found.slowest, found.slowest_at = outcome.seconds, what
        if outcome.grown > found.largest:
            found.largest, found.largest_at = outcome.grown, what
        found.broken += [f"{what}: {why}" for why in _faults(outcome)]
        if outcome.code == 0:
            taken.append(name)
        else:
            found.refused += 1
            said = outcome.err + outcome.out
            found.named_file += harm.key != "." and Path(harm.key).name in said
            known = (folder.name, Path(harm.key).name or folder.name)
            if outcome.code == 1:  # an artifact that missed its gate: it is that which is named
                known += (f"{ground.TARGETS[1]}-fp32.failed",)
            # Of a target without layouts, the command is wrong and no folder.
            if outcome.code != 2 and not any(one in said for one in known):
                found.broken.append(f"{what}: names neither file nor folder: {said[-200:]}")
        after = cell.snapshot(place, ("out", "home"))
        changed = [key for key in {*before, *after} if before.get(key) != after.get(key)]
        if name == "verify":  # which renews what it measured
            changed = [key for key in changed if not key.endswith(VERDICTS)]
        if changed:
            found.broken.append(f"{what}: wrote {sorted(changed)[0]}")
        before = after
    planted = {p.name for p in (place / "out").iterdir()} - {"report", "served"}
    if harm.subject != "model" and planted:
        found.broken.append(f"{harm}: wrote out/{min(planted)}")
    if harm.subject == "model" and "export" not in taken:
        left = [p.name for p in (place / "out").iterdir() if not p.name.endswith(".failed")]
        left = [name for name in left if not name.startswith(("report.", "junit."))]
        if left:
            found.broken.append(f"{harm}: refused, and left {left[0]}")
    # Those that look at sizes alone, and say of a damaged artifact that it is, take it.
    return bool(set(taken) - {"load", "inspect", "report"})


def _export(folder: Path, out: Path):
    def work() -> int:
        ground.few_texts()
        asked = ("--target", "onnxruntime", "--no-locate", "--quiet", "--out", out)
        return cell.goldfold("export", folder, *asked)()

    return work


def _load(folder: Path):
    def work() -> int:
        from goldfold import load
        from goldfold.exporter.errors import GoldfoldError

        try:
            load(folder, threads=1)
        except GoldfoldError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.code
        return 0

    return work


def _faults(outcome: Outcome) -> Iterator[str]:
    """What is wrong with a command's end, apart from whether it should have ended so."""
    if outcome.code == cell.TIMED_OUT:
        yield f"took more than {SECONDS:.0f} s"
    elif outcome.sudden:
        yield f"ended by signal {-outcome.code}: {outcome.err[-200:]!r}"
    if outcome.grown > MEMORY:
        yield f"took {outcome.grown >> 20} MiB"
    if steering := _STEERING.search(outcome.out + outcome.err):
        yield f"prints {steering[0]!r}, which steers a terminal"
    if "Traceback (most" in outcome.err:
        yield f"a traceback: {outcome.err.strip().splitlines()[-1][:200]}"
    if outcome.code > 0 and not outcome.sudden:
        errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
        # A gate that is missed says why, above its one line.
        if len(errors) != 1 or (outcome.code != 1 and len(outcome.err.splitlines()) != 1):
            yield f"code {outcome.code}, not one line: {outcome.err[:300]!r}"
        if outcome.code == 7:
            yield f"called a fault of goldfold's: {outcome.err.strip()[:300]}"
