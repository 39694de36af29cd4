"""Lines of use of an artifact of Core ML (targets/usage.py)."""

from __future__ import annotations

from collections.abc import Iterator

from goldfold.exporter.contract import Contract
from goldfold.targets.usage import Use

_SWIFT = """\
// Package.swift makes the library GoldfoldEncoder of GoldfoldEncoder.swift.
import GoldfoldEncoder

let encoder = try await GoldfoldEncoder(folder: folder)  // a URL of this folder
let query = try await encoder.embed("a question", task: .query)
let documents = try await encoder.embed(["a document", "another"], task: .document)"""


def uses(contract: Contract) -> Iterator[Use]:
    """Yields the ways to use one, beside goldfold and load.py."""
    if contract.task == "embedding" and contract.frame is None:
        yield Use(
            "Swift",
            "swift",
            _SWIFT,
            "The Swift files were not compiled where this artifact was made.",
        )
