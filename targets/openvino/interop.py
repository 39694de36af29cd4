"""Files by which other tools open the artifact: sentence-transformers, and plain Python.

sentence-transformers' openvino backend reads the tensor `last_hidden_state` and hands it to the
modules that follow. Here no module follows: the graph ends in the embedding, that tensor is only
another name of it, and `sentence_bert_config.json` says that the output is the
`sentence_embedding`. So modules.json lists one module, and nothing is pooled twice.
"""

from __future__ import annotations

import json
from pathlib import Path
from pprint import pformat
from typing import Any

from goldfold.exporter.contract import (
    ATTENTION_MASK,
    EMBEDDING,
    INPUT_IDS,
    Contract,
    Reference,
    Task,
)
from goldfold.targets.openvino.model_file import HIDDEN, XML

LOADER = "load.py"
_TRANSFORMER = "sentence_transformers.models.Transformer"
"""The class by the name that every version of the library knows."""
HINTS = {"fp32": "f32", "fp16": "f32", "bf16": "bf16"}
"""Inference precision for an unknown machine. Asked for f16, a machine with bf16 alone would
silently take that; fp16's weights computed in fp32 are what the gate measured (run.py)."""

_LOADER = '''"""Texts in, embeddings out, from any thread, with openvino, tokenizers and numpy."""

import contextlib
import ctypes
import os
import sys
import threading
from pathlib import Path

HERE = Path(__file__).parent
# The byte code that importing this file leaves: it is no part of the artifact, and would be run in
# place of what its manifest names.
left = Path(getattr(globals().get("__spec__"), "cached", None) or HERE)
if left.parent == HERE / "__pycache__":
    with contextlib.suppress(OSError):
        left.unlink(missing_ok=True)
        left.parent.rmdir()
sys.modules.setdefault("openvino_telemetry", None)  # else openvino reports that it was imported

import numpy as np
import openvino as ov
from tokenizers import Tokenizer

PROMPTS = {prompts}
OWN = {own}  # the prompt of a task, where none is named
OUTPUTS = {outputs}  # by prompts whose tokens are not pooled
LENGTHS = {lengths}  # tokens that a text of a task is cut to
tokenizers = {{}}
for length in set(LENGTHS.values()):
    tokenizers[length] = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    tokenizers[length].enable_truncation(length, direction="{side}")
    tokenizers[length].enable_padding(pad_id={pad_id})
model = ov.Core().compile_model(HERE / "{xml}", "CPU", {{"INFERENCE_PRECISION_HINT": "{hint}"}})
request, turn, process = model.create_infer_request(), threading.Lock(), os.getpid()
for held in (model, request):  # for good: a fork that tore them down would wait for ever
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))


def begun(text: str, length: int) -> str:
    """As much of a long text as decides its tokens: so much that more gives the same."""
    letters = 16 * (length + 64)
    while 4 * letters < len(text):
        parts = [{part} for n in (letters, *range(2 * letters, 2 * letters + {tries}))]
        first, *more = (tokenizers[length].encode(part).ids for part in parts)
        if len(first) == length and all(ids == first for ids in more):
            return parts[0]
        letters *= 2
    return text


def embed(texts: list[str], prompt: str | None = None, task: str = "") -> np.ndarray:
    """float32 [N, {dim}]; `prompt` is the name of one of PROMPTS, `task` is query or document."""
    if os.getpid() != process:  # OpenVINO would wait for threads that no fork takes along
        raise RuntimeError("load.py was imported before this process was forked; use spawn instead")
    if not texts:
        return np.zeros((0, {dim}), np.float32)
    named = OWN[task] if prompt is None else prompt
    before = PROMPTS[named]
    length = LENGTHS[task]
    rows = tokenizers[length].encode_batch([{read} for text in texts])
    ids, mask = (np.array([getattr(r, key) for r in rows]) for key in ("ids", "attention_mask"))
{ended}    for place, row in enumerate(rows):
        if not sum(row.attention_mask) or max(row.ids) >= {vocab_size}:
            raise ValueError(f"text {{place}} has no tokens, or one that the model has no row for")
    with turn:  # a request serves one caller at a time, and writes its next answer over this one
        made = request.infer({{"{ids}": ids, "{mask}": mask}})
        return np.array(made[OUTPUTS.get(named, "{output}")])
'''


_ENDED = """\
    for row, count in zip(ids, mask.sum(1)):  # the template's end, which a text that is cut keeps
        if count == length:
            row[max(count - {many}, 0) : count] = {suffix}[-count:]
"""


def write(folder: Path, contract: Contract, precision: str, reference: Reference) -> None:
    """Write the configuration files and the loader beside the files that `folder` holds already:
    the loader alone where a chat template stands around texts, which no configuration adds."""
    if contract.frame is None:
        _write_settings(folder, contract, precision, reference)
    (folder / LOADER).write_text(_loader(contract, precision), encoding="utf-8")


def _write_settings(folder: Path, contract: Contract, precision: str, reference: Reference) -> None:
    hint = HINTS[precision]
    for name, content in {
        "config.json": _config(contract, reference),
        "modules.json": [{"idx": 0, "name": "0", "path": "", "type": _TRANSFORMER}],
        "sentence_bert_config.json": _transformer(contract, hint),
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": contract.prompts,
            "default_prompt_name": contract.default_prompt_name,
            "similarity_fn_name": reference.similarity,
        },
    }.items():
        text = json.dumps(content, ensure_ascii=False, indent=1)
        (folder / name).write_text(text + "\n", encoding="utf-8")


def _loader(contract: Contract, precision: str) -> str:
    """Returns the text of the loader."""
    tasks: tuple[Task, ...] = ("", "query", "document")
    frame, read, ended = contract.frame, "begun(before + text, length)", ""
    if frame is not None:
        whole = "(before + text).strip()" if frame.strip else "before + text"
        read = f"{frame.before!r} + begun({whole}, length) + {frame.after!r}"
        ended = _ENDED.format(many=len(frame.suffix), suffix=list(frame.suffix))
    return _LOADER.format(
        read=read,
        ended=ended if frame is not None and frame.suffix else "",
        prompts=pformat({**contract.prompts, "": ""}, width=88, sort_dicts=False),
        own={task: contract.prompt_name(task) for task in tasks},
        lengths={task: contract.length_of(task) for task in tasks},
        side=contract.truncation_side,
        part="text[:n]" if contract.truncation_side == "right" else "text[-n:]",
        tries=1 if contract.truncation_side == "right" else 16,
        vocab_size=contract.vocab_size,
        pad_id=contract.pad_id,
        xml=XML,
        hint=HINTS[precision],
        dim=contract.dim,
        ids=INPUT_IDS,
        mask=ATTENTION_MASK,
        output=contract.output,
        outputs={name: contract.output_after(n) for name, n in contract.unpooled.items()},
    )


def _config(contract: Contract, reference: Reference) -> dict[str, Any]:
    """Returns the backbone's configuration with the embedding size in `projection_dim`: there the
    library looks for the size of a transformer whose output is the sentence embedding, before
    `hidden_size`. The number of positions, where given, is the artifact's."""
    length = {"max_position_embeddings": contract.max_length}
    longest = length if "max_position_embeddings" in reference.config else {}
    return {**reference.config, **longest, "projection_dim": contract.dim}


def _transformer(contract: Contract, hint: str) -> dict[str, Any]:
    return {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": {"method": "forward", "method_output_name": HIDDEN}},
        "module_output_name": EMBEDDING,
        "max_seq_length": contract.length_of(""),
        **{f"{task}_length": n for task, n in contract.lengths.items() if task},
        # The graph's masks require right-padding, whatever the source's tokenizer prefers.
        "processor_kwargs": {"padding_side": "right"},
        # By default OpenVINO computes in bf16 on a machine with AMX. The model's file says that it
        # may not round the activations that meet integers, or how finely (build.py).
        "model_kwargs": {"ov_config": {"INFERENCE_PRECISION_HINT": hint}},
    }
