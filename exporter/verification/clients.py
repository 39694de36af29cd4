"""The files by which clients without goldfold read an artifact's tokenizer: fastembed,
transformers, transformers.js and swift-transformers take `tokenizer.json` as it is, cut texts where
`tokenizer_config.json` says, and add the special tokens of `special_tokens_map.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from goldfold.exporter.artifact.bundle import TOKENIZER
from goldfold.exporter.contract import Contract
from goldfold.exporter.system.files import read_bounded
from goldfold.golden.tokenizer_file import TokenizerFile

SETTINGS = "tokenizer_config.json"
_SPECIAL, _ADDED = "special_tokens_map.json", "added_tokens.json"
FILES = (SETTINGS, _SPECIAL, _ADDED)
"""The files that they read beside tokenizer.json."""
_LIMIT = 16 << 20


def fault(folder: Path, file: TokenizerFile, contract: Contract) -> str | None:
    """Returns how such a client's tokens differ from those of `file`, the tokenizer.json of
    `folder`, in words; None where they agree for every text."""
    try:
        settings, special = _object(folder / SETTINGS), list(_special(folder / _SPECIAL))
    except (OSError, ValueError, TypeError) as error:
        return f"it cannot be read: {getattr(error, 'strerror', None) or error}"
    length, side = contract.length_of(""), contract.truncation_side
    cut = {"max_length": length, "direction": side.capitalize()}
    own = file.truncation or cut
    if {name: str(own.get(name)).lower() for name in cut} != {
        name: str(value).lower() for name, value in cut.items()
    } or file.padding is not None:
        return f"{TOKENIZER} cuts texts at {dict(own)}, or pads them; the artifact cuts at {cut}"
    wanted = {
        "model_max_length": length, "max_length": length, "padding_side": "right",
        "truncation_side": side,
    }  # fmt: skip
    for name, value in wanted.items():
        if name in settings and settings[name] != value:
            return f"it says {name} {settings[name]!r}, and the artifact has {value!r}"
    lowers = settings.get("do_lower_case")
    if lowers is not None and bool(lowers) != (file.made(["A"])["A"] == file.made(["a"])["a"]):
        return f"it says do_lower_case {lowers!r}, and {TOKENIZER} does otherwise"
    pad = settings.get("pad_token")
    pad = pad.get("content") if isinstance(pad, dict) else pad
    if isinstance(pad, str) and file.id_of(pad) != contract.pad_id:
        return f"its pad_token {pad!r} is {file.id_of(pad)}, not {contract.pad_id}"
    # To add a token that is there changes nothing.
    new = sorted({token for token in special if token not in file.special})
    if new:
        return f"{_SPECIAL} adds the token {new[0]!r}, which {TOKENIZER} does not have"
    return None


def settle(folder: Path, file: TokenizerFile, contract: Contract) -> tuple[str, ...]:
    """Remove the lists of special tokens if a client that reads them would get other tokens.
    Returns notes for the manifest, one sentence each."""
    said = fault(folder, file, contract)
    if said is None or not said.startswith(_SPECIAL):
        return ()
    for name in (_SPECIAL, _ADDED):
        (folder / name).unlink(missing_ok=True)
    return (f"{_SPECIAL} is not written: {said}",)


def _special(file: Path) -> Iterator[str]:
    """Yields the tokens of special_tokens_map.json."""
    for token in _object(file).values() if file.is_file() else ():
        for one in token if isinstance(token, list) else [token]:
            text = one.get("content") if isinstance(one, dict) else one
            if isinstance(text, str):
                yield text


def _object(file: Path) -> dict[str, Any]:
    found = json.loads(read_bounded(file, _LIMIT))
    if not isinstance(found, dict):
        raise ValueError("it holds no object")
    return found
