"""The bill of materials of an artifact: CycloneDX 1.6, with the model as a machine-learning model.

The same artifact gives the same bytes: its serial number follows from the manifest's digest, and
its time is that of SOURCE_DATE_EPOCH, if any.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from goldfold.exporter.artifact import card
from goldfold.exporter.artifact.bundle import Bundle
from goldfold.exporter.artifact.manifest import Manifest, VerdictRecord
from goldfold.exporter.artifact.statements import IDENTIFIERS, purl, time
from goldfold.exporter.errors import UsageError
from goldfold.exporter.system.files import read_bounded
from goldfold.golden.tasks import QUANTITY

_SPACE = uuid.UUID("6f0c2b57-7c86-5d0e-9a53-3f0f5b0f6a1d")
_LOCK_LIMIT = 16 << 20
_PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_TASKS = {
    "embedding": "feature extraction",
    "scores": "text ranking",
    "sparse": "sparse feature extraction",
    "multi_vector": "feature extraction by token",
}

Lock = Mapping[tuple[str, str], tuple[str, ...]]
"""The sha256 of a distribution's files, by its name and version."""


def text(opened: Bundle, lock: Path | None = None) -> str:
    """Returns the document as JSON. `lock` is a file of requirements with hashes, as pip reads
    them, which the packages get theirs from. Raises UsageError for a lock that names no hash, and
    for a time that is none."""
    made = document(opened, {} if lock is None else read_lock(lock))
    return json.dumps(made, ensure_ascii=False, indent=1) + "\n"


def read_lock(path: Path) -> Lock:
    """Returns the hashes of a file of requirements. Raises UsageError."""
    try:
        said = read_bounded(path, _LOCK_LIMIT).decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"--lock {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--lock {path} is no text in UTF-8") from None
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for entry in re.sub(r"\\\r?\n", " ", said).splitlines():
        pinned, hashes = _PINNED.match(entry), _HASH.findall(entry)
        if pinned and hashes:
            found[_name(pinned[1]), pinned[2]] = tuple(hashes)
    if not found:
        raise UsageError(f"--lock {path} has no line as name==version --hash=sha256:…")
    return found


def document(opened: Bundle, lock: Lock) -> dict[str, Any]:
    """Returns the document."""
    manifest = opened.manifest
    tool = {"type": "application", "name": "goldfold", "version": manifest.goldfold}
    metadata: dict[str, Any] = {"tools": {"components": [tool]}, "component": _artifact(opened)}
    if (when := time()) is not None:
        metadata = {"timestamp": when, **metadata}
    packages = [_package(name, one, lock) for name, one in sorted(manifest.versions.items())]
    files = [
        {
            "type": "file",
            "bom-ref": f"file:{key}",
            "name": key,
            "hashes": [{"alg": "SHA-256", "content": entry.sha256}],
        }
        for key, entry in sorted(manifest.files.items())
    ]
    source = _source(manifest)
    refs = [one["bom-ref"] for one in (source, *files, *packages)]
    return {
        "$schema": IDENTIFIERS["bom_schema"],
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_SPACE, manifest.digest)}",
        "version": 1,
        "metadata": metadata,
        "components": [source, *files, *packages],
        "dependencies": [
            {"ref": "artifact", "dependsOn": refs},
            *({"ref": ref} for ref in refs),
        ],
    }


def _artifact(opened: Bundle) -> dict[str, Any]:
    manifest, verdict = opened.manifest, opened.verdict
    facts = card.read(opened.path, manifest)
    contract = manifest.contract
    model: dict[str, Any] = {
        "modelParameters": {
            "task": _TASKS[contract.task],
            "inputs": [{"format": f"{name}: int64 [batch, tokens]"} for name in contract.inputs],
            "outputs": [
                {"format": f"{name}: float32, {dim} numbers"}
                for name, dim in contract.outputs.items()
            ],
        },
    }
    if verdict is not None:
        model["quantitativeAnalysis"] = {"performanceMetrics": _metrics(manifest, verdict)}
        limits = [verdict.not_run] if verdict.not_run else []
        limits += [reason.sentence for reason in verdict.reasons]
        model["considerations"] = {"technicalLimitations": [*limits, *manifest.notes]}
    made: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": "artifact",
        "name": f"{manifest.origin.name}-{manifest.target}-{manifest.precision}",
        "version": manifest.digest[:16],
        "hashes": [{"alg": "SHA-256", "content": manifest.digest}],
        "modelCard": model,
        "properties": [
            {"name": "goldfold:target", "value": manifest.target},
            {"name": "goldfold:precision", "value": manifest.precision},
            {"name": "goldfold:fingerprint", "value": manifest.origin.fingerprint},
            {"name": "goldfold:verdict", "value": verdict.status if verdict else "none"},
        ],
    }
    if licences := _licences(manifest, facts):
        made["licenses"] = licences
    return made


def _metrics(manifest: Manifest, verdict: VerdictRecord) -> list[dict[str, str]]:
    measured, quantity = verdict.measurement, QUANTITY[manifest.contract.task]
    metrics = [
        {"type": f"worst {quantity} to the fp32 original", "value": f"{measured.larger:.3e}"},
        {"type": f"mean {quantity} to the fp32 original", "value": f"{measured.mean:.3e}"},
    ]
    for loss in verdict.losses.figures if verdict.losses is not None else ():
        metrics.append({"type": f"loss of {loss.name} at {loss.dims}", "value": f"{loss.loss:.3e}"})
    return metrics


def _licences(manifest: Manifest, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the licences by the names that the source's card gives; they are the hub's names, of
    which some are SPDX's in lower case, so none is stated as SPDX's."""
    found = facts.get("license") or ([manifest.origin.licence] if manifest.origin.licence else [])
    if len(found) == 1 and facts.get("license_name"):
        found = [facts["license_name"]]
    return [{"license": {"name": str(one)}} for one in found]


def _source(manifest: Manifest) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": "source",
        "name": manifest.origin.name,
        "components": [
            {
                "type": "file",
                "bom-ref": f"source:{key}",
                "name": key,
                "hashes": [{"alg": "SHA-256", "content": digest}],
            }
            for key, digest in sorted(manifest.origin.digests.items())
        ],
        "properties": [{"name": "goldfold:fingerprint", "value": manifest.origin.fingerprint}],
    }


def _package(name: str, version: str, lock: Lock) -> dict[str, Any]:
    made: dict[str, Any] = {
        "type": "library",
        "bom-ref": f"package:{name}",
        "name": name,
        "version": version,
        "purl": purl(name, version),
    }
    hashes = lock.get((_name(name), version)) or lock.get((_name(name), version.partition("+")[0]))
    if hashes:  # of every file of the release: which one was installed is not known
        made["externalReferences"] = [
            {
                "type": "distribution",
                "url": f"{IDENTIFIERS['package_index']}{_name(name)}/",
                "hashes": [{"alg": "SHA-256", "content": one} for one in hashes],
            }
        ]
    return made


def _name(said: str) -> str:
    """Returns the normal form of a distribution's name."""
    return re.sub(r"[-_.]+", "-", said).lower()
