"""`tokenizer.json` → `openvino_tokenizer.xml` + `.bin`: text in, token ids out, in OpenVINO itself.

OpenVINO Tokenizers' own converter writes it, in a process of its own: it names nodes by a number
that counts all nodes its process ever made, and only a fresh count gives the same bytes twice. The
model is kept if it gives every golden text the ids that the reference gave it, and not otherwise.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

import numpy as np
import openvino as ov
from tokenizers import Tokenizer

from exporter.program import INPUT_IDS, Contract

XML = "openvino_tokenizer.xml"
PACKAGE = "openvino_tokenizers"
_FILES = (XML, "openvino_tokenizer.bin")
_NOT = "openvino_tokenizer.xml is not written: "


def write(folder: Path, contract: Contract, token_ids: Mapping[str, tuple[int, ...]]) -> str:
    """Convert the tokenizer.json of `folder` into it; returns what came of it, as a sentence."""
    if find_spec(PACKAGE) is None:
        return f"{_NOT}the package openvino-tokenizers is not installed"
    made = convert((folder / "tokenizer.json").read_bytes(), contract.max_length, contract.pad_id)
    if isinstance(made, str):
        return f"{_NOT}openvino-tokenizers refuses the tokenizer: {made}"
    for name, content in made.items():
        (folder / name).write_bytes(content)
    try:
        failure = differs(folder, token_ids)
    except RuntimeError as error:  # OpenVINO's own, for example of two versions that do not fit
        failure = f"it does not run: {(str(error).strip().splitlines() or ['RuntimeError'])[-1]}"
    if failure is not None:
        for name in made:
            (folder / name).unlink()
        return f"{_NOT}{failure}"
    return (
        f"openvino_tokenizer.xml, by openvino-tokenizers {version(PACKAGE)}, gives all "
        f"{len(token_ids)} golden texts their golden ids"
    )


def differs(folder: Path, token_ids: Mapping[str, tuple[int, ...]]) -> str | None:
    """The first text to which the tokenizer in `folder` gives other ids, in words; None if none."""
    import openvino_tokenizers  # noqa: F401 — teaches every Core the ops of text

    model = ov.Core().compile_model(str(folder / XML), "CPU")
    wrong = []
    for text, expected in token_ids.items():
        found = tuple(np.asarray(model([text])[INPUT_IDS])[0].tolist())
        if found != expected:
            same = (a == b for a, b in zip(found, expected, strict=False))
            place = len(list(takewhile(bool, same)))
            wrong.append(f"{text[:40]!r} from token {place} on")
    if not wrong:
        return None
    return f"it gives {len(wrong)} of {len(token_ids)} golden texts other ids, first {wrong[0]}"


@lru_cache(maxsize=2)
def convert(tokenizer: bytes, max_length: int, pad_id: int) -> dict[str, bytes] | str:
    """Run the converter: the files it writes, or the last line it said if it fails.

    It reads a folder with just what it needs, so that no setting of the source's (a side to pad on,
    a length, a class of its own) tells it anything but the contract does. Remembered, because the
    artifacts of an export share their tokenizer, and EmbeddingGemma's takes 11 s of one core.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch)
        (source / "tokenizer.json").write_bytes(tokenizer)
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "padding_side": "right",
            "truncation_side": "right",
            "pad_token": Tokenizer.from_buffer(tokenizer).id_to_token(pad_id),
        }
        (source / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        command = [
            sys.executable, "-c", f"from {PACKAGE}.cli_tools.main import main; main()", "convert",
            scratch, "--output", scratch, "--max-length", str(max_length),
        ]  # fmt: skip
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if ended.returncode == 0 and all((source / name).is_file() for name in _FILES):
            return {name: (source / name).read_bytes() for name in _FILES}
    lines = [line for line in ended.stdout.splitlines() if line.strip()] or ["it said nothing"]
    return lines[-1].replace(scratch, "")  # the manifest names no place of a machine
