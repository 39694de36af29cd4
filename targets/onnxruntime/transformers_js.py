"""The layout of transformers.js: `onnx/model.onnx` and its quantized variants beside each other.

The library chooses the file by `dtype`, and asks for its weights as `<file>_data`, `<file>_data_1`
and so on, as many as `config.json` says (`use_external_data_format`). Below SINGLE bytes a file
holds its weights itself; beyond that they lie beside it, since a browser's runtime holds a file of
weights once, and a graph that contains them three times while it opens it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from goldfold.exporter.contract import Contract, Served
from goldfold.exporter.errors import UsageError
from goldfold.exporter.ir import external_data
from goldfold.exporter.ir.external_data import Span
from goldfold.exporter.ir.protobuf import MODEL
from goldfold.exporter.system.names import slug
from goldfold.targets.onnxruntime import layouts

FOLDER = "onnx"
SINGLE = 1_000_000_000
"""The most bytes of a graph that holds its weights itself."""
CHUNK = 2_000_000_000
"""The most bytes of a file of weights: a browser's array, and a message of protobuf, hold little
more."""
FILES = {
    "fp32": "model.onnx", "fp16": "model_fp16.onnx", "q8": "model_quantized.onnx",
    "q4": "model_q4.onnx", "q4f16": "model_q4f16.onnx",
}  # fmt: skip
"""The file of each `dtype`, as the library names it."""
HELPER, README, CONFIG = "embed.mjs", "README.md", "config.json"


def dtype(served: Served) -> str:
    """Returns the library's name of an artifact's precision."""
    if "int4" in served.needs:
        return "q4f16" if served.precision == "fp16" else "q4"
    return "q8" if served.needs else served.precision


def lay_out(served: Sequence[Served], out: Path) -> tuple[str, ...]:
    """Write the layout of artifacts of one model, the first of which is the default."""
    kinds: dict[str, Served] = {}
    for one in served:
        other = kinds.setdefault(dtype(one), one)
        if other is not one:
            raise UsageError(
                f"{other.name} and {one.name} would both be {FOLDER}/{FILES[dtype(one)]}; lay one "
                "of them out apart"
            )
    first = served[0]
    layouts.link_texts(first, out, but=(HELPER, README, CONFIG))
    counts = {FILES[kind]: _model(one, out / FOLDER / FILES[kind]) for kind, one in kinds.items()}
    outside = {name: count for name, count in counts.items() if count}
    layouts.write_json(out / CONFIG, _config(first.contract, dtype(first), outside))
    layouts.write_text(out / HELPER, _helper(first))
    name = slug(first.contract.model)
    layouts.write_text(
        out / README,
        layouts.filled(
            "transformers_js.md",
            NAME=name,
            DTYPES="\n".join(
                f'- `dtype: "{kind}"`: `{FOLDER}/{FILES[kind]}`, {one.name}'
                + (", the default" if one is first else "")
                for kind, one in kinds.items()
            ),
            DTYPE=dtype(first),
            PROMPT=json.dumps(first.contract.prompt_name("query")),
            PROMPTS=layouts.prompt_lines(first.contract),
            LENGTH=str(first.contract.length_of("")),
            DIM=str(first.contract.dim),
        ),
    )
    kept = ", ".join(f'dtype "{kind}"' for kind in kinds)
    said = [f"{HELPER} has the lines that embed, prompts and lengths included: {kept}"]
    said += [
        f"{file}: its weights lie beside it in {count} file{'s' if count > 1 else ''}"
        for file, count in outside.items()
    ]
    return (*said, 'pipeline("feature-extraction") finds no embedding in it: use embed.mjs')


def _model(served: Served, file: Path) -> int:
    """Write the artifact's graph as `file`; returns the number of files of weights beside it."""
    graph = external_data.read(served.folder / MODEL)
    found = external_data.spans(graph, served.folder)
    inside = external_data.rewritten(graph, lambda span: None)
    count = 0
    if external_data.size(inside) <= SINGLE:
        external_data.write(inside, served.folder, file)
    else:
        count = _beside(served, graph, found, file)
    layouts.compare(served, file, {name: name for name in served.contract.outputs})
    return count


def _beside(served: Served, graph: bytes, found: Sequence[Span], file: Path) -> int:
    """Write the graph and its weights apart; returns the number of files of weights. Weights that
    fit in one file are a copy of the artifact's."""
    weights = served.folder / found[0].file
    if weights.stat().st_size <= CHUNK and len({span.file for span in found}) == 1:
        parts = (Span(weights.name, 0, weights.stat().st_size),)
        layouts.copy(weights, file.with_name(_data(file, 0)))
    else:
        parts = external_data.chunks(found, CHUNK)
        for place, part in enumerate(parts):
            external_data.write([part], served.folder, file.with_name(_data(file, place)))

    def moved(span: Span) -> Span:
        place = next(i for i, part in enumerate(parts) if part.offset <= span.offset < part.end)
        return Span(_data(file, place), span.offset - parts[place].offset, span.length)

    external_data.write(external_data.rewritten(graph, moved), served.folder, file)
    return len(parts)


def _data(file: Path, place: int) -> str:
    return f"{file.name}_data" + (f"_{place}" if place else "")


def _config(contract: Contract, kind: str, outside: dict[str, int]) -> dict[str, Any]:
    """Returns config.json. Its model_type is that of a plain encoder, to which the library gives
    ids and mask: what lies between them and the embedding is in the graph alone."""
    ours: dict[str, Any] = {"dtype": kind}
    if outside:
        ours["use_external_data_format"] = outside
    return {
        "model_type": "bert",
        "hidden_size": contract.dim,
        "max_position_embeddings": contract.length_of(""),
        "pad_token_id": contract.pad_id,
        "vocab_size": contract.vocab_size,
        "transformers.js_config": ours,
    }


def _helper(served: Served) -> str:
    """Returns the text of embed.mjs."""
    contract = served.contract
    before, after = _added(served.folder / layouts.TOKENIZER_FILES[0])
    return layouts.filled(
        HELPER,
        PROMPTS=json.dumps(contract.prompts | {"": contract.prompts.get("", "")}, indent=2),
        OWN=json.dumps(contract.prompt_name("")),
        OUTPUT=json.dumps(contract.output),
        LENGTH=str(contract.length_of("")),
        VOCABULARY=str(contract.vocab_size),
        PAD=str(contract.pad_id),
        BEFORE=str(before),
        AFTER=str(after),
        SIDE=json.dumps(contract.truncation_side),
    )


def _added(file: Path) -> tuple[int, int]:
    """Returns how many tokens the tokenizer adds before and after a text."""
    tokenizer = Tokenizer.from_file(str(file))
    mask = tokenizer.encode("a").special_tokens_mask
    before = next((place for place, added in enumerate(mask) if not added), len(mask))
    after = next((place for place, added in enumerate(reversed(mask)) if not added), 0)
    return before, after
