"""`tokenizer.json` → `openvino_tokenizer.xml` + `.bin`: text in, token ids out, in OpenVINO itself.

OpenVINO Tokenizers' own converter writes the files, in a process of its own: it names nodes by a
number that counts all nodes its process ever made, and only a fresh count gives the same bytes
twice. It takes 11 s of one core for EmbeddingGemma's 262,144 tokens, so an export starts it as soon
as the tokenizer is known, and it works while the model is traced. The converted tokenizer is kept
only if it gives every golden text the ids that the reference gave it, and the text of every entry
of the vocabulary, and every drawn text, those of the source's own tokenizer.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from goldfold.exporter.contract import Contract, Words, unlimited
from goldfold.exporter.errors import ArtifactError
from goldfold.targets.openvino import tokengraph
from goldfold.targets.openvino.tokengraph import XML

if TYPE_CHECKING:
    from goldfold.targets.base import Companion, Kept

PACKAGE = "openvino_tokenizers"
_FILES = (XML, "openvino_tokenizer.bin")
_NOT = "openvino_tokenizer.xml is not written: "
_SAID = "said.txt"
_STAGE = "tokenizer"
_CHILD = f"""
import json, os, sys, threading
if sys.argv[4] != "reports":
    sys.modules["openvino_telemetry"] = None
# Standard input ends with the process that opened it, however that ends.
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
from pathlib import Path
from tokenizers import Tokenizer
from {PACKAGE}.cli_tools.main import main
place, length, pad_id = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
settings = {{
    "tokenizer_class": "PreTrainedTokenizerFast",
    "padding_side": "right",
    "truncation_side": sys.argv[5],
    "pad_token": Tokenizer.from_file(str(place / "tokenizer.json")).id_to_token(pad_id),
}}
(place / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
sys.argv[1:] = ["convert", str(place), "--output", str(place), "--max-length", length]
main()
"""

Ids = Mapping[str, tuple[int, ...]]
"""Texts and their ids."""
Made = dict[str, bytes] | str
"""The files that the converter wrote, by name; or the last line of its output if it failed."""
MADE: dict[str, Made] = {}
"""Results of the conversions in this process: the artifacts of an export share their tokenizer."""


class Conversion:
    """The converter at work in `place`: a process that ends with this one, and with `close`.

    It reads a folder with just the files that it needs, so that no setting of the source's (a
    padding side, a length, a class of its own) contradicts the contract.
    """

    def __init__(self, words: Words, place: Path, kept: Kept | None = None) -> None:
        self.key = _key(words)
        self._kept = kept
        self._place = place
        (place / "tokenizer.json").write_text(unlimited(words.tokenizer), encoding="utf-8")
        # As in this process (exporter/system/surroundings.py).
        reports = "reports" if sys.modules.get("openvino_telemetry", sys) is not None else ""
        # -P: the working folder may be a stranger's, and hold a `json.py`.
        command = [
            sys.executable, "-P", "-c", _CHILD, str(place), str(words.max_length),
            str(words.pad_id), reports, words.truncation_side,
        ]  # fmt: skip
        with (place / _SAID).open("wb") as said:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=said, stderr=subprocess.STDOUT
            )

    def result(self) -> Made:
        """Wait for the result. Every call returns the same."""
        if self.key not in MADE:
            code = self._process.wait()
            MADE[self.key] = made = self._read(code)
            self.close()
            if self._kept is not None and not isinstance(made, str):
                self._kept.keep(_STAGE, made, **_parts(self.key))
        return MADE[self.key]

    def _read(self, code: int) -> Made:
        if code == 0 and all((self._place / name).is_file() for name in _FILES):
            return {name: (self._place / name).read_bytes() for name in _FILES}
        said = (self._place / _SAID).read_text("utf-8", "replace")
        lines = [line for line in said.splitlines() if line.strip()] or ["it said nothing"]
        return lines[-1].replace(str(self._place), "")  # a manifest names no place of a machine

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


def begin(words: Words, folder: Path, kept: Kept | None = None) -> Conversion | None:
    """Start a conversion in a folder of its own below `folder`; None where none is needed."""
    key = _key(words)
    if find_spec(PACKAGE) is None or key in MADE:
        return None
    found = None if kept is None else kept.files(_STAGE, **_parts(key))
    if found is not None and set(found) == {*_FILES}:
        MADE[key] = found
        return None
    return Conversion(words, Path(tempfile.mkdtemp(prefix="tokenizer-", dir=folder)), kept)


def convert(words: Words, begun: Conversion | None = None) -> Made:
    """Returns the result of `begun`, if it is a conversion of these words; otherwise converts here
    and now."""
    key = _key(words)
    if key in MADE:
        return MADE[key]
    if begun is not None and begun.key == key:
        return begun.result()
    with tempfile.TemporaryDirectory() as scratch:
        conversion = Conversion(words, Path(scratch))
        try:
            return conversion.result()
        finally:
            conversion.close()


def _parts(key: str) -> dict[str, str]:
    """Returns the inputs that decide the converter's files."""
    names = ("openvino", "openvino-tokenizers", "transformers", "tokenizers")
    return {"words": key, "child": _CHILD, **{name: version(name) for name in names}}


def _key(words: Words) -> str:
    digest = hashlib.sha256(unlimited(words.tokenizer).encode()).hexdigest()
    return f"{digest} {words.max_length} {words.pad_id} {words.truncation_side}"


def write(
    folder: Path,
    contract: Contract,
    token_ids: Ids,
    begun: Conversion | None = None,
    further: Callable[[], Ids] = dict,
) -> str:
    """Convert the tokenizer.json of `folder` into it; returns the outcome, as a sentence.

    The result is kept only if it gives the texts of `token_ids` (cut) and `further` (uncut) their
    ids.
    """
    if find_spec(PACKAGE) is None:
        return f"{_NOT}the package openvino-tokenizers is not installed"
    tokenizer = (folder / "tokenizer.json").read_text("utf-8")
    made = convert(Words.of(contract, tokenizer), begun)
    if isinstance(made, str):
        return f"{_NOT}openvino-tokenizers refuses the tokenizer: {made}"
    for name, content in made.items():
        (folder / name).write_bytes(content)
    try:
        tokengraph.mend(folder, contract.vocab_size)
        more = tokengraph.askable(further(), contract)
        texts = {**more, **tokengraph.drawn(folder, contract.vocab_size), **token_ids}
        failure = tokengraph.differs(folder, texts)
    except RuntimeError as error:  # OpenVINO's own, for example of two versions that do not fit
        failure = f"it does not run: {(str(error).strip().splitlines() or ['RuntimeError'])[-1]}"
    if failure is not None:
        for name in made:
            (folder / name).unlink()
        return f"{_NOT}{failure}"
    return (
        f"openvino_tokenizer.xml, by openvino-tokenizers {version(PACKAGE)}, gives all "
        f"{len(token_ids)} golden texts their golden ids, and {len(texts) - len(token_ids)} others "
        "what the source's tokenizer does"
    )


def companions(folder: Path) -> dict[str, Companion]:
    """Returns the tokenizer in `folder`, if there is one and this machine can run it."""
    if find_spec(PACKAGE) is None or not (folder / XML).is_file():
        return {}

    def ids(texts: Sequence[str]) -> list[list[int] | None]:
        asked = [text for text in texts if tokengraph.is_handed_over(text)]
        try:
            made = dict(zip(asked, tokengraph.ids(folder, asked), strict=True))
        except RuntimeError as error:  # OpenVINO's own
            said = (str(error).strip().splitlines() or ["RuntimeError"])[-1]
            raise ArtifactError(f"it does not run: {said}") from None
        return [made.get(text) for text in texts]

    return {XML: ids}
