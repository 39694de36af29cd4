"""Every constant of an artifact follows from its source: the independent checker's proof
(golden/proof/), as reasons and as a record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from goldfold.exporter.artifact.bundle import Bundle, digest
from goldfold.exporter.artifact.manifest import DERIVATIONS
from goldfold.exporter.errors import ArtifactError
from goldfold.exporter.ir.protobuf import MODEL
from goldfold.exporter.progress import Stages
from goldfold.exporter.proofs import Constants
from goldfold.golden.errors import GoldenError
from goldfold.golden.proof import expressions, readers
from goldfold.golden.proof import onnx_file as onnx
from goldfold.golden.proof.check import check
from goldfold.golden.proof.readers import NoReader
from goldfold.golden.proof.records import Fault, Proof
from goldfold.golden.reasons import Reason

_SHOWN = 8
"""Reasons that a verdict names; it counts the others."""


@dataclass(frozen=True)
class Proved:
    """The result of a proof. `record` goes into the verdict."""

    record: Constants
    reasons: tuple[Reason, ...]
    faults: tuple[Fault, ...] = ()


def prove(opened: Bundle, source: Path | None, stages: Stages) -> Proved:
    """Check every constant of an artifact: against the tensors of the model in the folder `source`,
    or without it against the digests that its export proved.

    Raises ArtifactError for derivations that are none, for one that names a tensor that the source
    lacks, and for a source that is cut or changed meanwhile.
    """
    path = opened.path
    with stages(f"constants {opened.name}"):
        if DERIVATIONS not in opened.manifest.files:
            note = f"Nothing says how its constants follow from the model: no {DERIVATIONS}."
            return Proved(Constants(), (Reason("constants", note=note),))
        if not opened.manifest.structure:
            stages.note("no reader knows the files of this target: nothing is compared")
            return Proved(Constants(), ())
        try:
            proof = check(path, path / DERIVATIONS, source, stages.step)
        except GoldenError as error:
            raise ArtifactError(f"{path}: {error}") from error
        stages.note(_note(proof, source))
    found = _with_compiled(proof.structure, path)
    reasons = _reasons(proof, found == opened.manifest.structure)
    return Proved(_record(proof, source), reasons, proof.faults)


def finish(folder: Path, skeleton: bytes, kept: Mapping[str, str]) -> str:
    """Add the digests of constants that the target's file holds in another form than the program to
    an artifact's derivations.

    Returns the sha256 of the structure of the graph that the file should hold: for an `.onnx` file
    the program's own, of which `skeleton` is the protobuf; for others the file's, so that it cannot
    change later. "" where no reader knows the target's form. `kept` holds the sha256 of files whose
    contents the target has proved. Raises ArtifactError, also where one of these has changed.
    """
    for name, owed in kept.items():
        if digest(folder / name) != owed:
            raise ArtifactError(f"{folder / name} has changed since its weights were found in it")
    try:
        known = expressions.read(folder / DERIVATIONS).constants
        named = {line.name: line.kind for line in known}
        digests = {line.digest for line in known}
        with closing(readers.read(folder)) as contents:
            lines = [
                f"^{json.dumps(one.name)} {held}\n"
                for one in contents.stored
                if named.get(one.name) != one.kind and (held := one.digest()) not in digests
            ]
            made = contents.digest()
        if (folder / MODEL).is_file():
            made = onnx.structure(skeleton)
        made = _with_compiled(made, folder)
    except NoReader:
        return ""
    except GoldenError as error:
        raise ArtifactError(f"{folder}: {error}") from error
    with (folder / DERIVATIONS).open("a", encoding="utf-8") as file:
        file.writelines(dict.fromkeys(lines))
    return made


def _with_compiled(structure: str, folder: Path) -> str:
    """Returns the structure of a graph together with the engines that were compiled of it, whose
    format is not public: they are what they were when their weights were found."""
    for path in sorted(folder.glob("*.engine")):
        structure = hashlib.sha256(f"{structure} {digest(path)}".encode()).hexdigest()
    return structure


def _reasons(proof: Proof, same: bool) -> tuple[Reason, ...]:
    found = [f"Constant {fault.constant}{_by(fault)}: {fault.sentence}." for fault in proof.faults]
    found += [
        f"Constant {one.name or 'without a name'} ({one.where}) follows from nothing in the model."
        for one in proof.uncovered
    ]
    if not same:
        found.append("Its graph is not the one that was exported: its ops or sizes have changed.")
    shown = found[:_SHOWN]
    if len(found) > len(shown):
        shown.append(f"{len(found) - len(shown)} more of its constants are wrong.")
    return tuple(Reason("constants", note=note) for note in shown)


def _by(fault: Fault) -> str:
    made = f", made by {fault.maker}" if fault.maker else ""
    return f"{made} and changed when it was written" if fault.changed else made


def _record(proof: Proof, source: Path | None) -> Constants:
    hows = [one.how for one in proof.constants if one.ok]
    return Constants(
        source=source is not None,
        derived=hows.count("derived"),
        bounded=hows.count("bounded"),
        digests=hows.count("digest"),
        assumed=hows.count("assumed"),
        faults=len(proof.faults),
        uncovered=len(proof.uncovered),
        unfound=len(proof.unfound),
        bytes=proof.covered,
        of=proof.stored,
    )


def _note(proof: Proof, source: Path | None) -> str:
    against = "the model" if source is not None else "its export's digests"
    wrong = len(proof.faults) + len(proof.uncovered)
    held = f"{proof.covered / 1e6:,.1f} of {proof.stored / 1e6:,.1f} MB"
    result = f"{wrong} wrong" if wrong else "every number follows"
    return f"{len(proof.constants)} constants, {held} against {against}: {result}"
