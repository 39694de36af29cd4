"""The record of what an export proved of its source: `source.json`, beside the goldens.

A verification that has no source model compares an artifact with this record. It holds the contract
as the source states it, and digests of the files that turn text into ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from goldfold.golden.errors import GoldenError

FILE = "source.json"
_FORMAT = 1
_LIMIT = 4 << 20
"""The most bytes of a record; most of it are prompts."""


@dataclass(frozen=True)
class SourceRecord:
    """The proof of an artifact's texts."""

    fingerprint: str
    """The source model, as the goldens name it."""
    contract: Mapping[str, Any]
    """The fields of the contract, as the source states them."""
    tokenizer: str
    """The sha256 of the tokenizer.json that was compared with the source's own tokenizer."""
    drawn: str
    """The digest of the source's ids of the drawn texts (tokenizer_file.digest)."""
    tokenizers: str
    """The version of the library `tokenizers` that gave these ids."""
    companions: Mapping[str, str] = field(default_factory=dict)
    """The sha256 of each file by which other clients turn text into ids, as it was proved."""


def save(record: SourceRecord, folder: Path) -> None:
    """Write the record into a folder of goldens: the same record gives the same bytes."""
    text = json.dumps({"format": _FORMAT, **asdict(record)}, ensure_ascii=False, indent=1)
    (folder / FILE).write_bytes(f"{text}\n".encode())


def load(folder: Path) -> SourceRecord | None:
    """Returns the record in a folder of goldens; None if there is none. Raises GoldenError, naming
    the file, for one that is malformed."""
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        with file.open("rb") as opened:
            raw = opened.read(_LIMIT + 1)
        if len(raw) > _LIMIT:
            raise ValueError(f"it is larger than {_LIMIT >> 20} MiB")
        said = json.loads(raw)
        if not isinstance(said, dict) or said.pop("format", None) != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT}")
        record = SourceRecord(**said)
        for name in ("fingerprint", "tokenizer", "drawn", "tokenizers"):
            if not isinstance(getattr(record, name), str):
                raise TypeError(f"{name!r} is no string")
        for name in ("contract", "companions"):
            if not isinstance(getattr(record, name), dict):
                raise TypeError(f"{name!r} is no object")
        return record
    except OSError as error:
        raise GoldenError(f"{file}: {error.strerror}") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise GoldenError(f"{file} is malformed: {error}") from None


def contract_faults(found: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    """Yields, one sentence each, the fields of a manifest's contract that are not what the source
    states. Both are JSON. The model's name is the user's choice."""
    for name in sorted((found.keys() | expected.keys()) - {"model"}):
        one, other = (_canonical(of.get(name)) for of in (found, expected))
        if one != other:
            yield f"The manifest says {name} {_short(one)}; the source says {_short(other)}."


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)  # ASCII: no text of a stranger steers a terminal


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
