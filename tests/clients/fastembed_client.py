"""Embeds texts with the real fastembed, from a folder that `goldfold layout` made. It runs in an
environment that has fastembed, and not goldfold:

    python fastembed_client.py LAYOUT TEXTS.json OUT.json

TEXTS.json is {texts, batch}; a batch of 0 asks for tokens alone. OUT.json has the ids and the
vectors of each text.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

layout, given, out = map(Path, sys.argv[1:])
sys.path.insert(0, str(layout))
sys.dont_write_bytecode = True

from load import embed, model  # type: ignore[import-not-found]  # noqa: E402  # the layout's own

asked = json.loads(given.read_text("utf-8"))
texts, batch = asked["texts"], asked["batch"]
vectors = [
    vector.tolist()
    for at in (range(0, len(texts), batch) if batch else ())
    for vector in embed(texts[at : at + batch], batch_size=batch)
]
ids = [model.model.tokenize([text])[0].ids for text in texts]
found = {"ids": ids, "vectors": vectors, "version": version("fastembed")}
out.write_text(json.dumps(found), "utf-8")
