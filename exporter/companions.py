"""What lies in every artifact beside the target's own files, and what is said of where it comes
from."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path

from exporter import bundle
from exporter.encoder import TOKENIZER
from exporter.model import Source
from exporter.program import Program, Reference
from exporter.weights import read_object
from golden import store
from golden.store import Goldens

_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def write(source: Source, program: Program, goldens: Goldens, folder: Path) -> None:
    """Everything beside the target's own files."""
    (folder / TOKENIZER).write_text(program.tokenizer, encoding="utf-8")
    for name in _TOKENIZER_FILES:
        if (source.path / name).is_file():
            shutil.copyfile(source.path / name, folder / name)
    for path in source.licence_files:
        shutil.copyfile(path, folder / path.name)
    if source.card is not None:
        shutil.copyfile(source.card, folder / "MODEL_CARD.md")
    store.save(goldens, folder / bundle.GOLDEN)


def reference(source: Source, goldens: Goldens) -> Reference:
    """What a target's `finish` may say of the source model."""
    settings = source.path / "config_sentence_transformers.json"
    said = read_object(settings) if settings.is_file() else {}
    backbone = source.path / source.modules[0].path / "config.json"
    return Reference(
        config=read_object(backbone),
        similarity=said.get("similarity_fn_name"),
        token_ids={case.prompt + case.text: case.token_ids for case in goldens.cases},
    )


def versions() -> dict[str, str]:
    packages = ("torch", "transformers", "sentence-transformers", "tokenizers", "onnx", "onnx-ir")
    return {name: version(name) for name in (*packages, "onnxscript", "onnxsim")}
