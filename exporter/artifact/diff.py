"""The differences between two artifacts: of their manifests, their files, and the programs in
them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from goldfold.exporter import registry
from goldfold.exporter.artifact import bundle
from goldfold.exporter.errors import ArtifactError, GoldfoldError
from goldfold.exporter.system.files import place_of

ABSENT = "absent"
Kind = Literal["manifest", "file", "part"]


@dataclass(frozen=True)
class Difference:
    """One value that differs between `a` and `b`; ABSENT where only the other artifact has it."""

    kind: Kind
    """`part` is a node, a constant or an operation of the target's own file."""
    name: str
    a: str
    b: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.a} → {self.b}"


def differences(a: Path, b: Path) -> list[Difference]:
    """Returns every difference except those of verdicts, which differ from run to run. Empty if the
    artifacts are equal.

    Files are compared by their present content. Raises ArtifactError for a folder whose manifest
    cannot be read.
    """
    first, second = bundle.read_manifest(a), bundle.read_manifest(b)
    found = list(_between("manifest", _said(first), _said(second)))
    files = list(_between("file", _digests(a), _digests(b)))
    found += files
    if files and first.target == second.target:
        found += _between("part", _parts(first, a), _parts(second, b))
    return found


def _between(kind: Kind, a: Mapping[str, str], b: Mapping[str, str]) -> Iterator[Difference]:
    for name in dict.fromkeys([*a, *b]):
        mine, other = a.get(name, ABSENT), b.get(name, ABSENT)
        if mine != other:
            yield Difference(kind, name, mine, other)


def _said(manifest: bundle.Manifest) -> dict[str, str]:
    """Returns the manifest as dotted fields; files are compared by themselves."""
    record = json.loads(manifest.to_bytes())
    del record["sha256"], record["files"]
    return dict(_flat(record, ""))


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            # A pass is identified by its name, wherever it stands.
            label = item.get("name", index) if isinstance(item, dict) else index
            yield from _flat(item, f"{name}.{label}")
    else:
        yield name, json.dumps(value, ensure_ascii=False)


def _digests(folder: Path) -> dict[str, str]:
    try:
        places = {key: place_of(folder, key) for key in sorted(bundle.files_of(folder))}
        return {
            key: f"sha256 {bundle.digest(place)[:16]}, {place.stat().st_size:,} bytes"
            for key, place in places.items()
            if place.is_file()
        }
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be read: {error.strerror}") from None


def _parts(manifest: bundle.Manifest, folder: Path) -> dict[str, str]:
    try:
        bundle.check_references(folder, manifest)
        return registry.target(manifest.target).parts(folder)
    except GoldfoldError as error:
        return {"all": f"cannot be read: {error}"}
