"""Layouts for other libraries on ONNX Runtime: transformers.js, fastembed and Vespa.

Each has a file of its own, and a line in `_LAYOUTS`. Texts are hard links to the artifact's files,
weights are copies (`copy` says why). Where the graph is written anew, it is run beside the
artifact's, and both must agree to the bit.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS, Contract, Served
from goldfold.exporter.errors import OutputError, RewriteError, TargetError, UsageError
from goldfold.exporter.ir.protobuf import DATA, MODEL
from goldfold.exporter.system import files
from goldfold.exporter.system.files import read_bounded

_LAYOUTS: Mapping[str, str] = {
    "transformers.js": "transformers_js", "fastembed": "fastembed", "vespa": "vespa",
}  # fmt: skip
"""The module of each layout, whose `lay_out(served, out)` writes it and returns notes."""
SETTINGS = "tokenizer_config.json"
TOKENIZER_FILES = ("tokenizer.json", SETTINGS, "special_tokens_map.json", "added_tokens.json")
_OURS = (
    *("manifest.json", "verdict.json", "README.md", "card.json", "load.py", "derivations.txt"),
    *(MODEL, DATA),
)
_SETTINGS_LIMIT = 16 << 20


def lay_out(served: Sequence[Served], layout: str, out: Path) -> tuple[str, ...]:
    """Write `layout` of the artifacts into the empty folder `out`.

    Returns notes for the user, one sentence each. Raises TargetError where the client cannot give
    the artifact's vectors, UsageError for artifacts that do not go together, RewriteError if a
    graph in the layout differs from the artifact's.
    """
    for one in served:
        _check(one, layout)
    write: Callable[[Sequence[Served], Path], tuple[str, ...]] = import_module(
        f"{__package__}.{_LAYOUTS[layout]}"
    ).lay_out
    return write(served, out)


def _check(served: Served, layout: str) -> None:
    """Raise TargetError for a contract that none of these clients fulfils."""
    contract, folder = served.contract, served.folder
    if contract.task != "embedding":
        what = {"scores": "scores pairs of texts", "sparse": "gives sparse vectors"}.get(
            contract.task, "gives a vector for each token"
        )
        raise TargetError(f"{folder} {what}, and {layout} here embeds texts; use goldfold")
    if contract.frame is not None:
        raise TargetError(
            f"{folder} puts texts into a chat template, which {layout} does not; embed with "
            "goldfold"
        )
    if contract.unpooled:
        named = ", ".join(sorted(contract.unpooled)[:3])
        raise TargetError(
            f"{folder} leaves the tokens of prompts ({named}) out of its pooling, by outputs that "
            f"{layout} cannot choose; embed with goldfold"
        )
    lengths = {contract.length_of(task) for task in ("", "query", "document")}
    if len(lengths) > 1:
        raise TargetError(
            f"{folder} cuts queries and documents at different lengths, and {layout} knows one; "
            f"export with --max-length {min(lengths)}"
        )
    missing = [name for name in TOKENIZER_FILES[:2] if not (folder / name).is_file()]
    if missing:
        raise TargetError(f"{folder} has no {missing[0]}, which {layout} reads; export it again")


def single(served: Sequence[Served]) -> Served:
    """Returns the only artifact of a layout that holds one."""
    if len(served) != 1:
        raise UsageError("this layout holds one artifact; lay the others out apart")
    return served[0]


def settings(served: Served) -> dict[str, Any]:
    """Returns tokenizer_config.json. Raises TargetError if it is no object of JSON."""
    file = served.folder / SETTINGS
    try:
        found = json.loads(read_bounded(file, _SETTINGS_LIMIT))
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise TargetError(f"{file} is no object of JSON, which clients need; export it again")
    return found


def link_texts(served: Served, out: Path, but: Collection[str] = ()) -> None:
    """Link the tokenizer's files, the licence and the model card into `out`, but for those that
    the layout writes itself."""
    for path in sorted(served.folder.iterdir()):
        if path.is_file() and path.name not in (*_OURS, *but):
            link(path, out / path.name)


def link(source: Path, place: Path) -> None:
    """Link a file, or copy it across file systems. Raises OutputError."""
    try:
        files.link(source, place)
    except OSError as error:
        raise OutputError(f"cannot write {place.name}: {error.strerror}; make room") from None


def copy(source: Path, place: Path) -> None:
    """Copy a file of weights, without taking room where the file system shares blocks. No link: the
    packages onnx and onnx-ir refuse weights that have several, the artifact's own as well. Raises
    OutputError."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as old, place.open("xb") as new:
            left = os.fstat(old.fileno()).st_size
            with suppress(OSError, AttributeError):  # not on this system, or between these two
                while left:
                    left -= os.copy_file_range(old.fileno(), new.fileno(), left) or left
            old.seek(new.seek(0, os.SEEK_END))
            shutil.copyfileobj(old, new, 1 << 24)
    except OSError as error:
        raise OutputError(f"cannot write {place.name}: {error.strerror}; make room") from None


def write_text(place: Path, text: str) -> None:
    """Write a new text file. Raises OutputError."""
    try:
        with place.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as error:
        raise OutputError(f"cannot write {place.name}: {error.strerror}; make room") from None


def write_json(place: Path, content: Mapping[str, Any]) -> None:
    """Write a new file of JSON. Raises OutputError."""
    write_text(place, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def filled(template: str, **values: str) -> str:
    """Returns a template of this folder, its marks `@NAME@` replaced."""
    text = (Path(__file__).parent / f"{template}.template").read_text(encoding="utf-8")
    return re.sub(r"@([A-Z]+)@", lambda mark: values[mark[1]], text)


def prompt_lines(contract: Contract) -> str:
    """Returns the prompts as lines of a Markdown list, quoted as JSON."""
    listed = [
        f"- `{json.dumps(name)}`: `{json.dumps(text)}`" for name, text in contract.prompts.items()
    ]
    return "\n".join(listed) or "The model has none."


def compare(served: Served, graph: Path, outputs: Mapping[str, str]) -> None:
    """Raise RewriteError unless a layout's graph gives the bits of the artifact's, for a short and
    a padded longer row: `outputs` names the graph's output for each of the artifact's, which may
    have an axis of one token more."""
    from goldfold.targets.onnxruntime.run import open_file

    contract = served.contract
    rng = np.random.default_rng(0)
    length = min(16, contract.max_length)
    ids = rng.integers(0, contract.vocab_size, (2, length), dtype=np.int64)
    mask = np.ones_like(ids)
    mask[1, length // 2 :] = 0
    feeds = {INPUT_IDS: ids, ATTENTION_MASK: mask}
    found = []
    for path, asked in ((served.folder / MODEL, outputs.keys()), (graph, outputs.values())):
        session = open_file(path, 1)
        found.append([np.asarray(one) for one in session.run(list(asked), feeds)])
        del session
    for name, ours, theirs in zip(outputs, *found, strict=True):
        if ours.tobytes() != theirs.tobytes():  # NaN among them
            raise RewriteError(f"{graph.name} in the layout differs from the artifact's in {name}")
