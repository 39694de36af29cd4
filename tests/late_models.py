"""Small seeded models that give a vector for each token: tests/models.py's backbones with a
projection of tokens, as sentence-transformers and PyLate save them."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from torch import nn

from tests import models

LONGEST = 96
QUERY, DOCUMENT = 24, 80
DIM = 32
PROMPTS = {"query": "[Q] ", "document": "[D] "}
EXPANSION = {"strategy": "fixed", "attend": False, "length": QUERY}
FAMILIES = ("bert", "roberta", "distilbert", "modernbert")
_NULL = ("default_prompt_name",)
_SMALL = {"num_hidden_layers": 2, "max_position_embeddings": LONGEST + 8}


def build(
    kind: str,
    folder: Path,
    *,
    expansion: dict[str, Any] | None = EXPANSION,  # type: ignore[assignment]
    skiplist: tuple[str, ...] = tuple(string.punctuation),
    normalize: bool = True,
    settings: dict[str, Any] | None = None,
) -> Path:
    """Save a MultiVectorEncoder and return its folder. `settings` are further ones of its
    Transformer."""
    trunk(kind, folder / "trunk")
    first = Transformer(
        str(folder / "trunk"),
        max_seq_length=LONGEST,
        document_length=DOCUMENT,
        query_expansion=expansion,  # type: ignore[arg-type]
        **(settings or {}),
    )
    parts: list[nn.Module] = [first, dense(first.get_embedding_dimension())]
    parts.append(MultiVectorMask(skiplist_words=list(skiplist)))
    if normalize:
        parts.append(Normalize(module_input_name="token_embeddings"))
    model = MultiVectorEncoder(modules=parts, device="cpu", prompts=PROMPTS)
    model.save(str(folder / "model"), create_model_card=False)
    return folder / "model"


def pylate(kind: str, folder: Path, *, attend: bool = False, **more: Any) -> Path:
    """Save the same as PyLate does: its markers are tokens of its own, and its config says how
    texts are cut and filled."""
    made = build(kind, folder, expansion=None)
    words = transformers.AutoTokenizer.from_pretrained(made)
    model = transformers.AutoModel.from_pretrained(made)
    words.add_tokens(["[Q] ", "[D] "])
    model.resize_token_embeddings(len(words), mean_resizing=False)
    models._randomise(model, seed=23)
    head = load_file(made / "1_Dense" / "model.safetensors")
    for file in sorted(made.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    model.save_pretrained(made)
    words.save_pretrained(made)
    (made / "1_Dense").mkdir()
    save_file(head, made / "1_Dense" / "model.safetensors")
    config = {
        "in_features": model.config.hidden_size,
        "out_features": DIM,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    (made / "1_Dense" / "config.json").write_text(json.dumps(config))
    listed = [
        {
            "idx": 0,
            "name": "0",
            "path": "",
            "type": "sentence_transformers.models.Transformer",
        },
        {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"},
    ]
    (made / "modules.json").write_text(json.dumps(listed))
    said = {"max_seq_length": DOCUMENT - 1, "do_lower_case": False}
    (made / "sentence_bert_config.json").write_text(json.dumps(said))
    said = {
        "model_type": "ColBERT",
        "__version__": {"pylate": "1.3.0", "sentence_transformers": "5.1.1"},
        "prompts": {"query": "", "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "MaxSim",
        "query_prefix": "[Q] ",
        "document_prefix": "[D] ",
        "query_length": QUERY,
        "document_length": DOCUMENT,
        "attend_to_expansion_tokens": attend,
        "skiplist_words": list(string.punctuation),
        **more,
    }
    said = {key: value for key, value in said.items() if value is not None or key in _NULL}
    (made / "config_sentence_transformers.json").write_text(json.dumps(said))
    return made


def stanford(folder: Path, **more: Any) -> Path:
    """Save the same as Stanford's ColBERT does: a BERT with its projection beside it."""
    trunk("bert", folder / "model")
    made = folder / "model"
    words = transformers.AutoTokenizer.from_pretrained(made)
    words.add_tokens(["[unused0]", "[unused1]"])
    model = transformers.AutoModel.from_pretrained(made)
    model.resize_token_embeddings(len(words), mean_resizing=False)
    models._randomise(model, seed=31)
    tensors = {f"bert.{name}": value for name, value in model.state_dict().items()}
    tensors["linear.weight"] = dense(model.config.hidden_size).linear.weight.detach()
    for file in made.iterdir():
        file.unlink()
    words.save_pretrained(made)
    save_file(
        {k: v.contiguous() for k, v in tensors.items()},
        made / "model.safetensors",
        {"format": "pt"},
    )
    config = {**model.config.to_dict(), "architectures": ["HF_ColBERT"]}
    (made / "config.json").write_text(json.dumps(config))
    said = {
        "query_token_id": "[unused0]",
        "doc_token_id": "[unused1]",
        "query_maxlen": QUERY,
        "doc_maxlen": DOCUMENT,
        "attend_to_mask_tokens": False,
        "mask_punctuation": True,
        **more,
    }
    (made / "artifact.metadata").write_text(json.dumps(said))
    return made


def trunk(kind: str, folder: Path) -> None:
    """Save a small transformer and its tokenizer, which has a token to fill queries with."""
    config_class, model_class, settings = models._BACKBONES[kind]
    settings = {**settings, **({} if kind == "distilbert" else _SMALL)}
    if kind == "modernbert":  # a window that no query leaves
        settings |= {"local_attention": 64, "global_attn_every_n_layers": 2}
    common = {**models._COMMON, "vocab_size": models.VOCAB_SIZE + 1}
    config = getattr(transformers, config_class)(**{**common, **settings})
    model = getattr(transformers, model_class)(config)
    models._randomise(model, seed=17)
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    words = models._make_tokenizer(kind in models._GEMMA_LIKE, LONGEST)
    words.add_special_tokens({"mask_token": "[MASK]"})
    words.save_pretrained(folder)


def dense(width: int) -> Dense:
    """The projection of tokens, seeded."""
    made = Dense(
        width,
        DIM,
        bias=False,
        activation_function=nn.Identity(),
        module_input_name="token_embeddings",
    )
    torch.manual_seed(29)
    nn.init.normal_(made.linear.weight, std=0.3)
    return made
