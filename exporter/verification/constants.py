"""Every constant of an artifact follows from its source: the independent checker's proof
(golden/proof/), as reasons and as a record."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from goldfold.exporter.artifact.bundle import Bundle
from goldfold.exporter.artifact.derivations import DERIVATIONS
from goldfold.exporter.errors import ArtifactError
from goldfold.exporter.progress import Stages
from goldfold.exporter.records import Constants
from goldfold.golden.errors import GoldenError
from goldfold.golden.proof import expressions, readers
from goldfold.golden.proof.check import check
from goldfold.golden.proof.records import Proof
from goldfold.golden.reasons import Reason

_SHOWN = 8
"""Reasons that a verdict names; it counts the others."""


@dataclass(frozen=True)
class Proved:
    """The result of a proof. `record` goes into the verdict."""

    record: Constants
    reasons: tuple[Reason, ...]


def prove(opened: Bundle, source: Path | None, stages: Stages) -> Proved:
    """Check every constant of an artifact: against the tensors of the model in the folder `source`,
    or without it against the digests that its export proved.

    Raises ModelError (by golden's GoldenError) for a source that is cut or changed meanwhile,
    ArtifactError for derivations that are none.
    """
    path = opened.path
    with stages(f"constants {opened.name}"):
        if DERIVATIONS not in opened.manifest.files:
            note = f"Nothing says how its constants follow from the model: {DERIVATIONS} is missing."
            return Proved(Constants(), (Reason("constants", note=note),))
        try:
            proof = check(path, path / DERIVATIONS, source, stages.step)
        except GoldenError as error:
            raise ArtifactError(f"{path}: {error}") from error
        stages.note(_note(proof, source))
    return Proved(_record(proof, source), _reasons(proof, opened.manifest.structure))


def finish(folder: Path) -> str:
    """Add the digests of constants that the target's file holds in another form than the program to
    an artifact's derivations.

    Returns the sha256 of the structure of the graph in that file. Raises ArtifactError.
    """
    try:
        known = expressions.read(folder / DERIVATIONS).constants
        named = {line.name: line.kind for line in known}
        digests = {line.digest for line in known}
        with closing(readers.read(folder)) as contents:
            lines = [
                f"^{json.dumps(one.name)} {digest}\n"
                for one in contents.stored
                if named.get(one.name) != one.kind and (digest := one.digest()) not in digests
            ]
            made = contents.digest()
    except GoldenError as error:
        raise ArtifactError(f"{folder}: {error}") from error
    with (folder / DERIVATIONS).open("a", encoding="utf-8") as file:
        file.writelines(dict.fromkeys(lines))
    return made


def _reasons(proof: Proof, structure: str) -> tuple[Reason, ...]:
    found = [
        f"Constant {fault.constant}{_by(fault.maker)}: {fault.sentence}." for fault in proof.faults
    ]
    found += [
        f"Constant {one.name or 'without a name'} ({one.where}) follows from nothing in the model."
        for one in proof.uncovered
    ]
    if proof.structure != structure:
        found.append("Its graph is not the one that was exported: its ops or sizes have changed.")
    shown = found[:_SHOWN]
    if len(found) > len(shown):
        shown.append(f"{len(found) - len(shown)} more of its constants are wrong.")
    return tuple(Reason("constants", note=note) for note in shown)


def _by(maker: str) -> str:
    return f", made by {maker}" if maker else ""


def _record(proof: Proof, source: Path | None) -> Constants:
    hows = [one.how for one in proof.constants if one.ok]
    return Constants(
        source=source is not None,
        derived=hows.count("derived"),
        bounded=hows.count("bounded"),
        digests=hows.count("digest"),
        faults=len(proof.faults),
        uncovered=len(proof.uncovered),
        bytes=proof.covered,
        of=proof.stored,
    )


def _note(proof: Proof, source: Path | None) -> str:
    against = "the model" if source is not None else "its export's digests"
    wrong = len(proof.faults) + len(proof.uncovered)
    held = f"{proof.covered / 1e6:,.1f} of {proof.stored / 1e6:,.1f} MB"
    result = f"{wrong} wrong" if wrong else "every number follows"
    return f"{len(proof.constants)} constants, {held} against {against}: {result}"
