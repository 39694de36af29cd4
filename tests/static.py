"""Tiny static embedding models: tables of one vector a token, as sentence-transformers and
model2vec save them."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tests.models import CORPUS, make_head

DIM = 24
UNKNOWN = 1
_LETTERS = string.ascii_lowercase + string.digits + string.punctuation
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def tokenizer(unknown: bool = True, specials: bool = True) -> Tokenizer:
    """A tokenizer of the words and letters of the corpus's Latin texts. Other scripts are one
    unknown token a word, or without `unknown` no token at all. `specials`: whether it adds [CLS]
    and [SEP]."""
    words = sorted({word for text in CORPUS if text.isascii() for word in _words(text)})
    entries = list(dict.fromkeys((*_SPECIAL, *words, *_LETTERS, *(f"##{x}" for x in _LETTERS))))
    vocab = {entry: id_ for id_, entry in enumerate(entries)}
    made: Any = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    if not unknown:
        bare = {entry: id_ for id_, entry in enumerate((*_SPECIAL, *_LETTERS))}
        made = Tokenizer(models.BPE(bare, []))
    made.add_special_tokens(list(_SPECIAL))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if specials:
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return made


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def build(
    folder: Path,
    head: Sequence[str] = (),
    *,
    words: Tokenizer | None = None,
    dtype: torch.dtype = torch.float32,
    prompts: dict[str, str] | None = None,
) -> Path:
    """Save a StaticEmbedding, followed by `head` (models.make_head), and return its folder."""
    words = tokenizer() if words is None else words
    torch.manual_seed(7)
    table = torch.randn(words.get_vocab_size(), DIM).to(dtype)
    first = StaticEmbedding(words, embedding_weights=table)
    model = SentenceTransformer(
        modules=[first, *make_head(head, DIM)], prompts=prompts, device="cpu"
    )
    model.save(str(folder), create_model_card=False)
    return folder


def model2vec(
    folder: Path,
    *,
    mapped: bool = True,
    weighted: bool = True,
    kind: type[np.generic] = np.float32,
    listed: bool = True,
) -> Path:
    """Save what model2vec's own `save_pretrained` does, with sentence-transformers' list of modules
    if it is `listed`, and return the folder."""
    words, draw = tokenizer(), np.random.default_rng(7)
    count = words.get_vocab_size()
    rows = 50 if mapped else count
    held: dict[str, np.ndarray] = {"embeddings": draw.standard_normal((rows, DIM)).astype(kind)}
    if mapped:
        held["mapping"] = draw.integers(0, rows, count)
    if weighted:
        held["weights"] = draw.uniform(0.1, 1.5, count)
    folder.mkdir(parents=True)
    save_file(held, folder / "model.safetensors")
    words.save(str(folder / "tokenizer.json"))
    config = {"model_type": "model2vec", "architectures": ["StaticModel"], "normalize": True}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}', "utf-8")
    names = (("StaticEmbedding", "."), ("Normalize", "1_Normalize")) if listed else ()
    listing = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{name}"}
        for at, (name, path) in enumerate(names)
    ]
    if listed:
        (folder / "modules.json").write_text(json.dumps(listing), "utf-8")
    return folder
