"""Statements on an artifact that other tools read: in-toto statements of its making (SLSA
provenance v1) and of its verdict (in-toto test-result v0.1).

They follow from manifest.json and verdict.json, and hold no time but that of SOURCE_DATE_EPOCH, so
the same artifact gives the same bytes. Names of formats are those of identifiers.json: they
identify, and nothing is fetched from them.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from goldfold.exporter.artifact.bundle import GOLDEN, MANIFEST, Bundle
from goldfold.exporter.artifact.manifest import Manifest, VerdictRecord
from goldfold.exporter.errors import ArtifactError, UsageError
from goldfold.golden.measured import unmeasured

IDENTIFIERS: dict[str, str] = json.loads(
    (Path(__file__).parent / "identifiers.json").read_text("utf-8")
)
_EPOCH = "SOURCE_DATE_EPOCH"
_LAST = 253402300799
"""The last second of the year 9999, which is the last that a timestamp can name."""


def all_of(opened: Bundle, builder: str | None = None) -> list[dict[str, Any]]:
    """Returns the statements on an artifact: its provenance, and the result of its verification.

    `builder` is the URI of whoever ran the export, for whom a consumer decides how far to trust it;
    by default goldfold itself, which vouches for nobody. Raises ArtifactError for an artifact
    without a verdict, UsageError for a builder that is no URI, or a time that is none.
    """
    if opened.verdict is None:
        raise ArtifactError(
            f"{opened.path} was never verified; run `goldfold verify {opened.path}`"
        )
    return [
        provenance(opened, builder),
        _statement(opened, "test_result", _result(opened.manifest, opened.verdict)),
    ]


def provenance(opened: Bundle, builder: str | None = None) -> dict[str, Any]:
    """Returns the statement of how an artifact was made. Raises UsageError."""
    manifest = opened.manifest
    if builder is not None and (":" not in builder or any(c.isspace() for c in builder)):
        raise UsageError(f"--builder {builder!r} is no URI; give one, as that of a workflow")
    recipe = None if manifest.recipe is None else manifest.recipe.plain()
    asked: dict[str, Any] = {
        "model": manifest.origin.name,
        "target": manifest.target,
        "precision": manifest.precision,
        "options": _json(manifest.options),
        "maxLength": manifest.contract.max_length,
        "dims": [manifest.contract.dim, *manifest.contract.heads],
    }
    if recipe is not None:
        asked["recipe"] = _json(recipe)
    if manifest.contract.route:
        asked["route"] = manifest.contract.route
    if manifest.contract.cut is not None:
        asked["vocabulary"] = _json(manifest.contract.cut.plain())
    sources = [
        {"name": f"{manifest.origin.name}/{key}", "digest": {"sha256": digest}}
        for key, digest in sorted(manifest.origin.digests.items())
    ]
    packages = [{"uri": purl(name, version)} for name, version in sorted(manifest.versions.items())]
    run: dict[str, Any] = {
        "builder": {
            "id": builder or IDENTIFIERS["builder"],
            "version": {"goldfold": manifest.goldfold},
        }
    }
    if (when := time()) is not None:
        run["metadata"] = {"finishedOn": when}
    predicate = {
        "buildDefinition": {
            "buildType": IDENTIFIERS["build_type"],
            "externalParameters": asked,
            "internalParameters": {"passes": [report.name for report in manifest.passes]},
            "resolvedDependencies": [*sources, *packages],
        },
        "runDetails": run,
    }
    return _statement(opened, "provenance", predicate)


def _statement(opened: Bundle, kind: str, predicate: dict[str, Any]) -> dict[str, Any]:
    manifest = opened.manifest
    subjects = {MANIFEST: manifest.digest} | {
        key: entry.sha256 for key, entry in sorted(manifest.files.items())
    }
    return {
        "_type": IDENTIFIERS["statement"],
        "subject": [{"name": key, "digest": {"sha256": sha}} for key, sha in subjects.items()],
        "predicateType": IDENTIFIERS[kind],
        "predicate": predicate,
    }


def _result(manifest: Manifest, verdict: VerdictRecord) -> dict[str, Any]:
    """Returns the predicate of a verdict: WARNED where something stood in for the artifact, and
    where its longest texts were not measured."""
    failed = [reason.sentence for reason in verdict.reasons]
    passed = [] if failed else [f"golden embeddings ({manifest.gate})", "tokenizer and contract"]
    if verdict.constants is not None and not failed:
        passed.append("constants")
    if verdict.unseen is not None and not failed:
        passed.append("unseen texts")
    warned = []
    if verdict.not_run:
        warned.append(f"proved by {verdict.stand_in}; {verdict.not_run}")
    longest = max((row.tokens for row in verdict.measurement.rows), default=0)
    if said := unmeasured(longest, manifest.contract.max_length):
        warned.append(said)
    word = "FAILED" if verdict.status == "failed" else "WARNED" if warned else "PASSED"
    measured = verdict.measurement
    return {
        "result": word,
        "configuration": [
            {"name": key, "digest": {"sha256": entry.sha256}}
            for key, entry in sorted(manifest.files.items())
            if key.startswith(f"{GOLDEN}/")
        ],
        "passedTests": passed,
        "warnedTests": warned,
        "failedTests": failed,
        # Further fields, which the predicate allows: what was measured.
        "goldfold": {
            "status": verdict.status,
            "texts": len(measured.rows),
            "worst": str(measured.larger),
            "mean": str(measured.mean),
        },
    }


def purl(name: str, version: str) -> str:
    """Returns the package URL of a distribution on the Python index."""
    return f"pkg:pypi/{name.lower().replace('_', '-')}@{version.replace('+', '%2B')}"


def time() -> str | None:
    """Returns the time of SOURCE_DATE_EPOCH, as RFC 3339 has it; None where it is not set. Raises
    UsageError for one that is no number of seconds."""
    said = os.environ.get(_EPOCH, "").strip()
    if not said:
        return None
    if not (said.isascii() and said.isdigit() and int(said) <= _LAST):
        raise UsageError(f"{_EPOCH}={said[:40]!r} is no number of seconds since 1970")
    return datetime.fromtimestamp(int(said), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value))
