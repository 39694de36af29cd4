"""Sidecars: the files in every artifact beside the target's own, and the description of their
origin."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from goldfold.exporter.artifact import bundle, card
from goldfold.exporter.artifact.bundle import TOKENIZER
from goldfold.exporter.artifact.manifest import PRIVATE
from goldfold.exporter.contract import Contract, Reference, limited
from goldfold.exporter.frontend import towers
from goldfold.exporter.frontend.model_folder import copy_text, front_of
from goldfold.exporter.frontend.source import Source
from goldfold.exporter.frontend.weights import read_object
from goldfold.exporter.ir.program import Program
from goldfold.exporter.system import names
from goldfold.exporter.system.names import folded
from goldfold.golden import store, withheld
from goldfold.golden.store import Goldens

_SETTINGS = "tokenizer_config.json"
_ADDED = "added_tokens.json"
_TOKENIZER_FILES = ("special_tokens_map.json", _ADDED)
_OWN = (
    *(bundle.MANIFEST, bundle.VERDICT, bundle.README, bundle.GOLDEN, TOKENIZER, _SETTINGS),
    *(card.CARD, "load.py"),
)
"""Names that no licence may take."""


def write(
    source: Source, program: Program, contract: Contract, goldens: Goldens, folder: Path
) -> None:
    """Write all sidecars. Those that state the maximum length of a text state that of `contract`.
    Raises ModelError if a file of the model does not match its digest."""
    settings = _settings(source, program, contract)
    direction = contract.truncation_side.capitalize()
    text = limited(program.tokenizer, contract.length_of(""), direction)
    (folder / TOKENIZER).write_text(text, encoding="utf-8")
    written = json.dumps(settings, ensure_ascii=False, indent=2) + "\n"
    (folder / _SETTINGS).write_text(written, encoding="utf-8")
    home = source.path / source.modules[0].path
    # The module of a static model reads tokenizer.json alone.
    texts = [] if source.static else [home / name for name in _TOKENIZER_FILES]
    texts = [file for file in texts if file.is_file()]
    if program.kept is not None:
        _write_added([file for file in texts if file.name == _ADDED], program, folder)
        texts = [file for file in texts if file.name != _ADDED]
    places = {path: path.name for path in texts}
    for path in source.licence_files:
        places[path] = _free(names.file_name(path.name), places.values())
    if source.card is not None:
        places[source.card] = _free("MODEL_CARD.md", places.values())
    for path, name in places.items():
        digest = source.digests[path.relative_to(source.path).as_posix()]
        copy_text(path, digest, folder / name)
    front = {} if source.card is None else front_of(source.card)
    card.write(folder, card.of_source(front, source.hub_id))
    store.save(goldens.public(), folder / bundle.GOLDEN)
    if (secret := withheld.withheld(goldens)) is not None:
        store.save(secret, folder / PRIVATE)


def _settings(source: Source, program: Program, contract: Contract) -> dict[str, Any]:
    """Returns tokenizer_config.json as other clients read it: they truncate a text at its
    length."""
    file = source.path / source.modules[0].path / _SETTINGS
    if file.is_file() and not source.static:
        said = read_object(file)
    else:
        tokenizer = Tokenizer.from_str(program.tokenizer)
        said: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
        # A client takes the padding token for a special one, which a plain word must not become.
        if not source.static or contract.pad_id in tokenizer.get_added_tokens_decoder():
            said["pad_token"] = tokenizer.id_to_token(contract.pad_id)
    if program.kept is not None and isinstance(said.get("added_tokens_decoder"), dict):
        ids = _ids_of(program)
        added = {
            str(ids[one["content"]]): one
            for one in said["added_tokens_decoder"].values()
            if isinstance(one, dict) and one.get("content") in ids
        }
        said = {**said, "added_tokens_decoder": added}
    lengths = dict.fromkeys({"model_max_length"} | ({"max_length"} & said.keys()), 0)
    sides = {"padding_side": "right", "truncation_side": contract.truncation_side}
    return {**said, **dict.fromkeys(sorted(lengths), contract.length_of("")), **sides}


def _ids_of(program: Program) -> dict[str, int]:
    return Tokenizer.from_str(program.tokenizer).get_vocab(with_added_tokens=True)


def _write_added(files: Collection[Path], program: Program, folder: Path) -> None:
    """Write added_tokens.json for a vocabulary that was cut, under its own ids."""
    for file in files:
        ids = _ids_of(program)
        found = {token: ids[token] for token in read_object(file) if token in ids}
        text = json.dumps(found, ensure_ascii=False, indent=2) + "\n"
        (folder / file.name).write_text(text, encoding="utf-8")


def write_outside(goldens: Goldens | None, contract: Contract, folder: Path) -> None:
    """Write the goldens of texts that a cut vocabulary gives other tokens, if there are any."""
    some = None if goldens is None else goldens.public().within(contract.max_length)
    if some is not None and some.cases:
        store.save(some, folder / bundle.OUTSIDE)


def _free(name: str, taken: Collection[str]) -> str:
    """Returns `name`, or the next name like it that neither another sidecar nor the artifact itself
    has."""
    used = {folded(one) for one in (*taken, *_OWN)}
    stem, dot, ending = name.rpartition(".")
    number = 1
    found = name
    while folded(found) in used:
        number += 1
        found = f"{stem}-{number}{dot}{ending}" if stem else f"{name}-{number}"
    return found


def reference(
    source: Source,
    goldens: Goldens,
    texts: Callable[[], Mapping[str, tuple[int, ...]]],
    kept: np.ndarray | None = None,
) -> Reference:
    """Returns the metadata of the source model that a target's `finish` may write; `texts` returns
    further ones, with the ids of the source's own tokenizer. `kept` are the ids that are left of a
    vocabulary that was cut."""
    settings = source.path / "config_sentence_transformers.json"
    said = read_object(settings) if settings.is_file() else {}
    first = source.modules[0]
    backbone = source.path / first.path / "config.json"
    config = read_object(backbone) if backbone.is_file() and not source.static else {}
    config = towers.text_config(config) if first.embeds else config
    return Reference(
        config=config if kept is None else _renumbered(config, kept),
        similarity=said.get("similarity_fn_name"),
        token_ids={c.prompt + c.text: c.token_ids for c in goldens.public().cases if not c.call},
        texts=texts,
    )


def _renumbered(config: Mapping[str, Any], kept: np.ndarray) -> dict[str, Any]:
    """Returns a config.json with the ids of a vocabulary that was cut; an id that is left out is
    left out there as well."""
    new = {int(old): at for at, old in enumerate(kept)}
    found = {}
    for name, value in config.items():
        if name == "vocab_size" and isinstance(value, int):
            value = int((kept < value).sum())
        elif name.endswith(("_token_id", "_token_index")):
            ids = [new.get(one) for one in (value if isinstance(value, list) else [value])]
            if value is not None and None in ids:
                continue
            value = ids if isinstance(value, list) else None if value is None else ids[0]
        found[name] = value
    return found


def versions() -> dict[str, str]:
    packages = ("torch", "transformers", "sentence-transformers", "tokenizers", "onnx", "onnx-ir")
    return {name: version(name) for name in (*packages, "onnxscript", "onnxsim")}
