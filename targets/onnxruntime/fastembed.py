"""The layout of fastembed: a folder for `specific_model_path`, and the lines that register it.

fastembed reads `model.onnx` with its weights as they are, cuts texts where `tokenizer_config.json`
says, and pads with the token that it names. Our output is the embedding, [texts, size], so pooling
is DISABLED and nothing is normalised again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pprint import pformat

from tokenizers import Tokenizer

from goldfold.exporter.contract import Served
from goldfold.exporter.errors import TargetError
from goldfold.exporter.ir import external_data
from goldfold.exporter.ir.protobuf import MODEL
from goldfold.exporter.system.names import slug
from goldfold.targets.onnxruntime import layouts

LOADER, README, CONFIG = "load.py", "README.md", "config.json"


def lay_out(served: Sequence[Served], out: Path) -> tuple[str, ...]:
    """Write the layout of one artifact."""
    one = layouts.single(served)
    contract = one.contract
    layouts.link_texts(one, out, but=(LOADER, README, CONFIG, layouts.SETTINGS))
    layouts.write_json(out / layouts.SETTINGS, layouts.settings(one) | {"pad_token": _pad(one)})
    layouts.write_json(out / CONFIG, {"pad_token_id": contract.pad_id})
    found = external_data.spans(external_data.read(one.folder / MODEL), one.folder)
    weights = sorted({span.file for span in found})
    layouts.link(one.folder / MODEL, out / MODEL)
    for name in weights:
        layouts.copy(one.folder / name, out / name)
    # fastembed takes the name of a model without regard to case, each once in a process.
    name = f"{slug(contract.model)}-{one.name}"
    loader = layouts.filled(
        LOADER,
        PROMPTS=pformat(dict(contract.prompts), width=96, sort_dicts=False),
        OWN=repr(contract.prompt_of("")),
        NAME=repr(name),
        DIM=str(contract.dim),
        FILES=repr(weights),
        OUTPUT=repr(contract.output),
        SIZE=f"{sum((one.folder / file).stat().st_size for file in (MODEL, *weights)) / 1e9:.3f}",
    )
    layouts.write_text(out / LOADER, loader)
    layouts.write_text(
        out / README,
        layouts.filled(
            "fastembed.md",
            NAME=name,
            LOADER=loader.rstrip(),
            PROMPT=repr(contract.prompt_name("query")),
            PROMPTS=layouts.prompt_lines(contract),
            LENGTH=str(contract.length_of("")),
        ),
    )
    said = [f"{LOADER} has the lines that register the folder and embed, prompts included"]
    if contract.prompts:
        said.append("fastembed adds no prompt, also not in query_embed: put them before the texts")
    return tuple(said)


def _pad(served: Served) -> str:
    """Returns the token that fills texts up, which fastembed wants by name."""
    tokenizer = Tokenizer.from_file(str(served.folder / layouts.TOKENIZER_FILES[0]))
    token = tokenizer.id_to_token(served.contract.pad_id)
    if token is None:
        raise TargetError(
            f"{served.folder} pads with the token {served.contract.pad_id}, which its tokenizer "
            "does not name, and fastembed wants the name; embed with goldfold"
        )
    return token
