"""Golden texts through a client that is not goldfold, on a layout of an artifact: how far its
vectors are from the stored ones, and which texts it gives other tokens.

transformers.js and fastembed are the real ones, where environment variables say where they lie.
Vespa is a server in Java that is not run: `vespa` does to the files what Vespa's documentation says
of `hugging-face-embedder`, with ONNX Runtime and the tokenizers library, as Vespa does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from goldfold.golden import token_texts
from goldfold.golden.store import Goldens

HERE = Path(__file__).parent
NODE_MODULES, FASTEMBED = "GOLDFOLD_NODE_MODULES", "GOLDFOLD_FASTEMBED"
TASKS = {"encode": "", "encode_query": "query", "encode_document": "document"}


@dataclass(frozen=True)
class Outcome:
    """What a client made of all golden texts: 1 − cos by text, and the ids of the texts whose
    tokens differ. `plain` are those of the library's own truncation, where that is another."""

    version: str
    distances: np.ndarray
    differing: tuple[str, ...]
    plain: tuple[str, ...] = ()
    pipeline: tuple[str, ...] = ()

    @property
    def worst(self) -> float:
        return float(self.distances.max())

    @property
    def mean(self) -> float:
        return float(self.distances.mean())

    def __str__(self) -> str:
        said = f"{self.version}: {len(self.distances)} texts, worst 1-cos {self.worst:.1e}, mean "
        said += f"{self.mean:.1e}; other tokens: {', '.join(self.differing) or 'none'}"
        if self.plain:
            said += f"; with the library's own truncation: {', '.join(self.plain)}"
        return said


def unavailable(client: str) -> str | None:
    """Returns why a client cannot be run here; None if it can."""
    if client == "transformers.js":
        place = os.environ.get(NODE_MODULES)
        if not place:
            return f"{NODE_MODULES} names no folder with node_modules/@huggingface/transformers"
        if shutil.which("node") is None:
            return "node is not installed"
        if not (Path(place) / "node_modules" / "@huggingface" / "transformers").is_dir():
            return f"{place} has no node_modules/@huggingface/transformers"
    if client == "fastembed" and not os.environ.get(FASTEMBED):
        return f"{FASTEMBED} names no Python that has fastembed"
    return None


def run(
    client: str, layout: Path, goldens: Goldens, dtype: str = "default", batch: int = 8
) -> Outcome:
    """Embed all golden texts with a client, `batch` at a time; raise RuntimeError if it fails."""
    texts = [text(goldens, place) for place in range(len(goldens.cases))]
    if client == "vespa":
        found = vespa(layout, goldens)
    else:
        found = _asked(client, layout, texts, dtype, batch)
    vectors = np.array(found["vectors"], np.float64)
    stored = goldens.embeddings.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(stored, axis=1)
    return Outcome(
        found["version"],
        1 - (vectors * stored).sum(1) / norms,
        _differing(goldens, found["ids"]),
        _differing(goldens, found.get("plain", found["ids"])),
        tuple(found.get("pipeline", ())),
    )


def _asked(client: str, layout: Path, texts: list[str], dtype: str, batch: int) -> dict[str, Any]:
    """Returns what the client's script wrote."""
    with TemporaryDirectory() as scratch:
        given, out = Path(scratch) / "texts.json", Path(scratch) / "out.json"
        given.write_text(json.dumps({"texts": texts, "batch": batch}), "utf-8")
        if client == "transformers.js":
            script = HERE / "transformers_js.mjs"
            words = ["node", script, os.environ[NODE_MODULES], layout, dtype, given, out]
        else:
            script = HERE / "fastembed_client.py"
            words = [os.environ[FASTEMBED], script, layout, given, out]
        done = subprocess.run(
            [str(word) for word in words],
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        found = json.loads(out.read_text("utf-8"))
    found["version"] = f"{client} {found['version']}"
    return found


def drawn(client: str, layout: Path, dtype: str = "default") -> tuple[int, list[str]]:
    """Returns how many drawn texts (golden/token_texts.py) a client was asked for the tokens of,
    and those that it gives others than tokenizer.json does in the tokenizers library. Texts with a
    token that the model has no row for count where the client does not refuse them."""
    tokenizer = Tokenizer.from_file(str(layout / "tokenizer.json"))
    special = [one.content for one in tokenizer.get_added_tokens_decoder().values()]
    texts = token_texts.drawn(tokenizer.get_vocab(), special)
    found = _asked(client, layout, texts, dtype, 0)["ids"]
    expected = [row.ids for row in tokenizer.encode_batch(texts)]
    pairs = zip(texts, found, expected, strict=True)
    return len(texts), [text for text, ids, own in pairs if isinstance(ids, list) and ids != own]


def text(goldens: Goldens, place: int) -> str:
    """Returns a golden text with what the reference puts before it."""
    case = goldens.cases[place]
    if not case.call:
        return case.prompt + case.text
    names = {"query": ("query",), "document": ("document", "passage", "corpus")}
    wanted = names.get(TASKS[case.call], ())
    found = next((name for name in wanted if name in goldens.prompts), None)
    return goldens.prompts.get(found or "", "") + case.text


def _differing(goldens: Goldens, ids: list[list[int]]) -> tuple[str, ...]:
    pairs = zip(goldens.cases, ids, strict=True)
    return tuple(case.id for case, found in pairs if list(case.token_ids) != list(found))


def vespa(layout: Path, goldens: Goldens) -> dict[str, Any]:
    """Embeds as Vespa's documentation says that `hugging-face-embedder` does, from what
    services.xml says: one text a call, prompt and a space before it, `cls` of the output."""
    import onnxruntime

    component = ET.parse(layout / "services.xml").getroot().find("container/component")
    assert component is not None and component.get("type") == "hugging-face-embedder"
    said = {child.tag: (child.text or "") for child in component}
    paths = {child.tag: child.get("path", "") for child in component if child.get("path")}
    prepended = {child.tag: child.text or "" for child in component.findall("prepend/*")}
    assert (said["pooling-strategy"], said["normalize"]) == ("cls", "false")
    with TemporaryDirectory() as alone:  # a path in an application brings no file beside it
        model = Path(shutil.copyfile(layout / paths["transformer-model"], Path(alone) / "m.onnx"))
        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(layout / paths["tokenizer-model"]))
    tokenizer.no_padding()
    if tokenizer.truncation is None:
        tokenizer.enable_truncation(int(said["max-tokens"]))
    assert len(session.get_inputs()) == 2
    ids, vectors = [], []
    for place, case in enumerate(goldens.cases):
        whole = text(goldens, place)
        task = TASKS.get(case.call, "")
        if task in prepended:
            whole = f"{prepended[task]} {case.text}"
        row = tokenizer.encode(whole)
        feeds = {
            said["transformer-input-ids"]: np.array([row.ids], np.int64),
            said["transformer-attention-mask"]: np.array([row.attention_mask], np.int64),
        }
        made = np.asarray(session.run([said["transformer-output"]], feeds)[0])
        assert made.ndim == 3
        ids.append(row.ids)
        vectors.append(made[0, 0].tolist())
    return {"ids": ids, "vectors": vectors, "version": "as Vespa's embedder is documented"}
