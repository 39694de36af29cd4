"""Small seeded SparseEncoders: tests/models.py's backbones with the head of a masked language
model, a table of weights, a Router of both, and an autoencoder upon an embedding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sparse_encoder.modules import (
    SparseAutoEncoder,
    SparseStaticEmbedding,
    SpladePooling,
)

from tests import models, rankers

LONGEST = 48
"""The most tokens of a text."""
_BIAS = -9.0
"""Added to the logits, so that many of a text's weights are zero."""

_MASKED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertConfig", "BertForMaskedLM", {}),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertForMaskedLM",
        {"dim": 48, "hidden_dim": 96, "n_heads": 3, "n_layers": 2},
    ),
    "roberta": ("RobertaConfig", "RobertaForMaskedLM", {"type_vocab_size": 1}),
    "modernbert": (
        "ModernBertConfig",
        "ModernBertForMaskedLM",
        {
            "global_attn_every_n_layers": 2,
            "local_attention": 16,
            "cls_token_id": 2,
            "sep_token_id": 1,
        },
    ),
    "mpnet": ("MPNetConfig", "MPNetForMaskedLM", {}),
}
FAMILIES = tuple(_MASKED)


def build(
    kind: str,
    folder: Path,
    form: str = "saved",
    strategy: str = "max",
    activation: str = "relu",
    **overrides: Any,
) -> Path:
    """Save a SPLADE model and return its folder.

    `form` is "saved", as sentence-transformers writes it, "hub", as older versions did
    (MLMTransformer, and old names), or "bare", transformers' own files with a card that has
    the tag `splade`. `overrides` are settings of the backbone.
    """
    masked(kind, folder, **overrides)
    if form == "bare":
        (folder / "README.md").write_text("---\ntags:\n- splade\n---\n", encoding="utf-8")
        return folder
    encoder = SparseEncoder(modules=_splade(folder, strategy, activation), device="cpu")
    encoder.save_pretrained(str(folder), create_model_card=False)
    if form == "hub":
        _age(folder)
    return folder


def static(folder: Path) -> Path:
    """Save a lone table of weights and return its folder."""
    encoder = SparseEncoder(modules=[_table()], device="cpu")
    encoder.save_pretrained(str(folder), create_model_card=False)
    return folder


def routed(folder: Path, scratch: Path, kind: str = "bert") -> Path:
    """Save a model of the routes `query`, a table, and `document`, SPLADE; return its folder."""
    masked(kind, scratch)
    router = Router.for_query_document([_table()], _splade(scratch, "max", "log1p_relu"))
    encoder = SparseEncoder(modules=[router], similarity_fn_name="dot", device="cpu")
    encoder.save_pretrained(str(folder), create_model_card=False)
    return folder


def csr(
    kind: str,
    folder: Path,
    scratch: Path,
    units: tuple[int, int] = (16, 256),
    normalize: bool = False,
) -> Path:
    """Save an embedding model with an autoencoder that keeps so many of its units; return its
    folder."""
    models.build(kind, scratch, head=("normalize",), max_seq_length=LONGEST, num_hidden_layers=2)
    (kept, there), dense = units, SentenceTransformer(str(scratch), device="cpu")
    width = dense.get_embedding_dimension()
    last = SparseAutoEncoder(width, there, k=kept, k_aux=there, normalize=normalize)
    models._randomise(last, seed=37)
    encoder = SparseEncoder(modules=[*dense, last], device="cpu", prompts=models.PROMPTS)
    encoder.save_pretrained(str(folder), create_model_card=False)
    return folder


def masked(kind: str, folder: Path, **overrides: Any) -> Path:
    """Save a masked language model as transformers does, and return its folder."""
    config_class, model_class, settings = _MASKED[kind]
    shape = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "max_position_embeddings": LONGEST + 8,
    }
    shape = {} if kind == "distilbert" else shape
    config = getattr(transformers, config_class)(
        **{**models._COMMON, **shape, **settings, **overrides}
    )
    model = getattr(transformers, model_class)(config)
    models._randomise(model, seed=19)
    with torch.no_grad():
        model.get_output_embeddings().bias.add_(_BIAS)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    rankers.tokenizer(kind, LONGEST).save_pretrained(folder)
    return folder


def _splade(folder: Path, strategy: str, activation: str) -> list[torch.nn.Module]:
    trunk = Transformer(str(folder), transformer_task="fill-mask")
    return [trunk, SpladePooling(strategy, activation)]  # type: ignore[arg-type]


def _table() -> SparseStaticEmbedding:
    tokenizer = rankers.tokenizer("roberta", LONGEST)
    drawn = torch.rand(len(tokenizer.get_vocab()), generator=torch.Generator().manual_seed(5))
    return SparseStaticEmbedding(tokenizer=tokenizer, weight=0.5 + 5 * drawn, frozen=True)


def _age(folder: Path) -> None:
    """Give a saved model the names and the settings of older versions."""
    listed = json.loads((folder / "modules.json").read_text())
    base = "sentence_transformers.sparse_encoder.models"
    for entry, name in zip(listed, ("MLMTransformer", "SpladePooling"), strict=True):
        entry["type"] = f"{base}.{name}"
    (folder / "modules.json").write_text(json.dumps(listed))
    file = folder / "sentence_bert_config.json"
    file.write_text(json.dumps({"max_seq_length": LONGEST, "do_lower_case": False}))
    pooling = folder / "1_SpladePooling" / "config.json"
    said = json.loads(pooling.read_text())
    said["word_embedding_dimension"] = said.pop("embedding_dimension")
    pooling.write_text(json.dumps(said))
