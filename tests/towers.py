"""Small seeded models of images and text, CLIP's and SigLIP's, in the forms in which they lie on
the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import processors

from tests import models

LONGEST = 24
"""The most tokens of a text."""
_START, _END = "<|startoftext|>", "<|endoftext|>"

_SIDE: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
}
_EYES: dict[str, Any] = {
    **_SIDE,
    "hidden_size": 24,
    "image_size": 8,
    "patch_size": 4,
}


def clip(folder: Path, form: str = "legacy", end: str = "old", **settings: Any) -> Path:
    """Save a CLIP and return its folder.

    `form` is "legacy", a module `CLIPModel` in a folder of its own, as older sentence-transformers
    wrote it; "saved", as sentence-transformers writes it today; or "hub", transformers' own files.
    `end` is "old", where config.json says 2 for the token that ends a text and the model takes the
    largest id, or "new", where it says the token itself.
    """
    inner = folder / "0_CLIPModel" if form == "legacy" else folder
    inner.mkdir(parents=True, exist_ok=True)
    words = clip_tokenizer()
    text = {
        **_SIDE,
        "vocab_size": len(words),
        "max_position_embeddings": LONGEST,
        "bos_token_id": 0 if end == "old" else words.bos_token_id,
        "eos_token_id": 2 if end == "old" else words.eos_token_id,
        **settings,
    }
    config = transformers.CLIPConfig(text_config=text, vision_config=_EYES, projection_dim=32)
    model = transformers.CLIPModel(config)
    models._randomise(model, seed=3)
    model.save_pretrained(inner)
    words.save_pretrained(inner)
    _eyes(inner, "CLIP")
    if form == "legacy":
        (inner / "processor_config.json").unlink(missing_ok=True)
        entry = {"idx": 0, "name": "0", "path": "0_CLIPModel"}
        entry["type"] = "sentence_transformers.models.CLIPModel"
        (folder / "modules.json").write_text(json.dumps([entry]))
    if form == "saved":
        _saved(folder)
    return folder


def siglip(folder: Path, form: str = "saved", padded: bool = True) -> Path:
    """Save a SigLIP with SigLIP 2's kind of tokenizer, which gives no mask, and return its folder.
    `padded`: whether its settings pad every text to the longest."""
    folder.mkdir(parents=True, exist_ok=True)
    words = models._make_tokenizer(True, LONGEST)
    words.model_input_names = ["input_ids"]
    raw: Any = words.backend_tokenizer
    raw.post_processor = processors.TemplateProcessing(
        single="$A <eos>", pair="$A $B <eos>", special_tokens=[("<eos>", 1)]
    )
    text = {**_SIDE, "vocab_size": models.VOCAB_SIZE, "max_position_embeddings": LONGEST}
    config = transformers.SiglipConfig(text_config=text, vision_config=_EYES)
    model = transformers.SiglipModel(config)
    models._randomise(model, seed=4)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    _eyes(folder, "Siglip")
    if form == "saved":
        _saved(folder)
    if padded:
        file = folder / "sentence_bert_config.json"
        said = json.loads(file.read_text())
        said["processing_kwargs"] = {"text": {"padding": "max_length", "max_length": LONGEST}}
        file.write_text(json.dumps(said))
    return folder


def clip_tokenizer() -> Any:
    """CLIP's tokenizer: pieces of words in small letters, and one token that ends, pads and is
    unknown."""
    alphabet = sorted(json.loads(models._train_tokenizer(models._GEMMA_SPECIAL))["model"]["vocab"])
    letters = [piece for piece in alphabet if len(piece) == 1]
    pieces = [*letters, *(f"{one}</w>" for one in letters)]
    merges = [("t", "h"), ("th", "e</w>"), ("i", "n"), ("a", "n"), ("an", "d</w>"), ("o", "n</w>")]
    pieces += ["".join(pair) for pair in merges]
    vocab = {piece: id_ for id_, piece in enumerate(dict.fromkeys([*pieces, _START, _END]))}
    return transformers.CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LONGEST)


def _eyes(folder: Path, kind: str, processor: str = "") -> None:
    said = {
        "image_processor_type": f"{kind}ImageProcessor",
        "processor_class": processor or f"{kind}Processor",
        "size": {"height": 8, "width": 8},
        "crop_size": {"height": 8, "width": 8},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(said))


def _saved(folder: Path) -> None:
    first = Transformer(str(folder), model_kwargs={"dtype": torch.float32})
    model = SentenceTransformer(modules=[first], device="cpu")
    for file in folder.iterdir():
        file.unlink()
    model.save(str(folder), create_model_card=False)


JOINED = (
    "{%- for m in messages -%}{%- if m.content is string -%}{{ m.content }}{%- else -%}"
    "{%- for part in m.content if part.type == 'text' -%}{{ part.text }}{%- endfor -%}"
    "{%- endif -%}{%- endfor -%}"
)
"""EmbeddingGemma 2's chat template for texts: all texts of all messages, one after another."""


def embeddinggemma2(
    folder: Path, template: str = JOINED, prompts: dict[str, str] = models.PROMPTS
) -> Path:
    """Save the whole of an EmbeddingGemma 2, with eyes, and return its folder. Its own processor
    needs torchvision: LLaVA's treats texts the same."""
    folder.mkdir(parents=True, exist_ok=True)
    text = {**models._WIDER_WHEN_FULL, "vocab_size": models.VOCAB_SIZE + 1, "pad_token_id": 0}
    text |= {"sliding_window": 16, "embedding_dim": 72, "max_position_embeddings": 64}
    eyes = {**_EYES, "num_key_value_heads": 3, "head_dim": 8, "global_head_dim": 8}
    config = transformers.EmbeddingGemma2Config(
        text_config=text,
        vision_config=transformers.Gemma4VisionConfig(**eyes),
        audio_config=None,
        image_token_id=models.VOCAB_SIZE,
        video_token_id=models.VOCAB_SIZE + 1,
        audio_token_id=models.VOCAB_SIZE + 2,
    )
    model = transformers.EmbeddingGemma2Model(config)
    models._randomise(model, seed=6)
    model.save_pretrained(folder)
    words = models._make_tokenizer(True, 64)
    words.add_special_tokens({"additional_special_tokens": ["<image>"]})
    words.save_pretrained(folder)
    _eyes(folder, "CLIP", "LlavaProcessor")
    (folder / "chat_template.jinja").write_text(template)
    first = Transformer(str(folder), model_kwargs={"dtype": torch.float32})
    encoder = SentenceTransformer(
        modules=[first, Pooling(72, pooling_mode="mean"), Normalize()],
        prompts=prompts,
        device="cpu",
    )
    for file in folder.iterdir():
        file.unlink()
    encoder.save(str(folder), create_model_card=False)
    return folder
