"""Files by which sentence-transformers opens the artifact.

sentence-transformers' openvino backend reads the tensor `last_hidden_state` and hands it to the
modules that follow. Here no module follows: the graph ends in the embedding, that tensor is only
another name of it, and `sentence_bert_config.json` says that the output is the
`sentence_embedding`. So modules.json lists one module, and nothing is pooled twice.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from goldfold.exporter.contract import EMBEDDING, Contract, Reference
from goldfold.targets.openvino.model_file import HIDDEN

_TRANSFORMER = "sentence_transformers.models.Transformer"
"""The class by the name that every version of the library knows."""
HINTS = {"fp32": "f32", "fp16": "f32", "bf16": "bf16"}
"""Inference precision for an unknown machine. Asked for f16, a machine with bf16 alone would
silently take that; fp16's weights computed in fp32 are what the gate measured (run.py)."""


def write(folder: Path, contract: Contract, precision: str, reference: Reference) -> None:
    """Write the configuration files beside the files that `folder` holds already: none where a chat
    template stands around texts, which no configuration adds."""
    if contract.frame is not None:
        return
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
