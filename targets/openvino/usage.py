"""Lines of use of an artifact of OpenVINO (targets/usage.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from goldfold.exporter.contract import Contract
from goldfold.exporter.system.names import slug
from goldfold.targets import usage
from goldfold.targets.usage import Use

_SERVER = """\
goldfold layout {folder} --for ovms --out models
docker run --rm -p 8000:8000 -v "$PWD/models:/models:ro" openvino/model_server:latest \\
  --rest_port 8000 --config_path /models/config.json
curl localhost:8000/v3/embeddings -H 'Content-Type: application/json' -d '{asked}'"""
_LIBRARY = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{folder}", backend="openvino")
vectors = model.encode_query(["a question"])"""


def uses(contract: Contract, folder: Path, hint: str) -> Iterator[Use]:
    """Yields the ways to use one, beside goldfold and load.py. `hint` is the precision in which
    OpenVINO is asked to compute."""
    found = usage.plain(
        contract,
        (
            "import numpy as np",
            "import openvino as ov",
            "from tokenizers import Tokenizer",
            "",
            f'settings = {{"INFERENCE_PRECISION_HINT": "{hint}"}}  # else OpenVINO chooses',
            'model = ov.Core().compile_model("openvino_model.xml", "CPU", settings)',
        ),
        f'model(feeds)["{contract.output}"]',
    )
    if found is not None:
        yield found
    if contract.task != "embedding" or contract.frame is not None or contract.unpooled:
        return
    yield Use("Python, with sentence-transformers", "python", _LIBRARY.format(folder=folder.name))
    if not (folder / "openvino_tokenizer.xml").is_file():
        return  # the server needs it
    name = slug(contract.model)
    text = contract.prompt_of("query") + "a question"
    asked = json.dumps({"model": name, "input": [text]}, ensure_ascii=False)
    yield Use(
        "A server, with OpenVINO Model Server",
        "console",
        _SERVER.format(folder=folder.name, asked=asked.replace("'", "'\\''")),
        "It is C++, and reads `openvino_tokenizer.xml`. It knows no prompts.",
    )
