"""Small seeded CrossEncoders, one a family: tests/models.py's backbones with a head of scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from tokenizers import Tokenizer, processors

from tests import models

LONGEST = 48
"""The most tokens of a pair."""

_HEADED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertConfig", "BertForSequenceClassification", {}),
    "roberta": ("RobertaConfig", "RobertaForSequenceClassification", {"type_vocab_size": 1}),
    "electra": ("ElectraConfig", "ElectraForSequenceClassification", {"embedding_size": 32}),
    "deberta": (
        "DebertaV2Config",
        "DebertaV2ForSequenceClassification",
        {
            "relative_attention": True,
            "position_buckets": 16,
            "pos_att_type": ["p2c", "c2p"],
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_biased_input": False,
            "type_vocab_size": 0,
            "pooler_hidden_size": 48,
        },
    ),
    "modernbert": (
        "ModernBertConfig",
        "ModernBertForSequenceClassification",
        {
            "global_attn_every_n_layers": 2,
            "local_attention": 16,
            "cls_token_id": 2,
            "sep_token_id": 1,
        },
    ),
    "qwen3": (
        "Qwen3Config",
        "Qwen3ForSequenceClassification",
        {"num_key_value_heads": 1, "head_dim": 16},
    ),
}
FAMILIES = tuple(_HEADED)


def build(
    kind: str,
    folder: Path,
    labels: int = 1,
    form: str = "saved",
    length: int = LONGEST,
    activation: str = "",
) -> Path:
    """Save a CrossEncoder and return its folder. `form` is "saved", as sentence-transformers writes
    it, or "hub", transformers' own files, as most rerankers on the hub are."""
    config_class, model_class, settings = _HEADED[kind]
    shape = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "max_position_embeddings": length + 8,
    }
    config = getattr(transformers, config_class)(
        **{**models._COMMON, **shape, **settings}, num_labels=labels
    )
    model = getattr(transformers, model_class)(config)
    models._randomise(model, seed=11 + labels)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer(kind, length).save_pretrained(folder)
    if activation:
        file = folder / "config.json"
        said = json.loads(file.read_text())
        said["sentence_transformers"] = {"activation_fn": activation, "version": "4.0.0"}
        file.write_text(json.dumps(said))
    if form == "saved":
        encoder = CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
        for file in folder.iterdir():
            file.unlink()
        encoder.save_pretrained(str(folder), create_model_card=False)
    return folder


TEMPLATE = (
    "{%- set ns = namespace(asked='find passages that answer the query') -%}"
    "{%- for m in messages if m.role == 'system' -%}"
    "{%- set ns.asked = m.content -%}{%- endfor -%}"
    "<bos>Judge whether the document meets the query.\n<Instruct>: {{ ns.asked }}\n"
    "{% for m in messages %}"
    "{% if m.role == 'query' %}<Query>: {{ m.content }}\n"
    "{% elif m.role == 'document' %}<Document>: {{ m.content }}{% endif %}"
    "{% endfor %}<eos>\n<bos>The answer is"
)
"""A chat template that puts text around a pair, and ends where a language model goes on."""


CHATML = (
    "{%- set ns = namespace(asked='find passages that answer the query') -%}"
    "{%- for m in messages if m.role == 'system' -%}"
    "{%- set ns.asked = m.content -%}{%- endfor -%}"
    "{{ '<bos>system\nJudge whether the document meets the query.<eos>\n<bos>user\n' }}"
    "{{ '<Instruct>: ' + ns.asked + '\n' }}"
    "{%- for m in messages -%}"
    "{%- if m.role == 'query' -%}{{ '<Query>: ' + m.content | trim + '\n' }}"
    "{%- elif m.role == 'document' -%}{{ '<Document>: ' + m.content | trim }}{%- endif -%}"
    "{%- endfor -%}"
    "{{ '<eos>\n<bos>assistant\n<think>\n\n</think>\n\n' }}"
)
"""The form of Qwen3-Reranker's template: three turns, the last of which is begun with an empty
thought; the texts are trimmed. The letters beside them are no added tokens."""


def build_generative(folder: Path, template: str = TEMPLATE, length: int = 160) -> Path:
    """Save a language model that scores by the logits of two tokens, as Qwen3-Reranker does."""
    config = transformers.Qwen3Config(
        **models._COMMON,
        hidden_size=48,
        intermediate_size=96,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=16,
        num_hidden_layers=2,
        max_position_embeddings=length + 8,
    )
    model = transformers.Qwen3ForCausalLM(config)
    models._randomise(model, seed=5)
    plain = folder.with_name(f"{folder.name}-plain")
    model.save_pretrained(plain)
    made = models._make_tokenizer(True, length)
    made.chat_template, made.padding_side = template, "left"
    made.save_pretrained(plain)
    first = Transformer(
        str(plain), transformer_task="text-generation", model_kwargs={"dtype": torch.float32}
    )
    score = LogitScore(true_token_id=37, false_token_id=52)
    encoder = CrossEncoder(modules=[first, score], device="cpu")
    encoder.save_pretrained(str(folder), create_model_card=False)
    return folder


def tokenizer(kind: str, length: int) -> transformers.PreTrainedTokenizerFast:
    """The tokenizer of tests/models.py, with the pairs of the family: BERT's have segments."""
    like_gemma = kind in models._GEMMA_LIKE
    made = models._make_tokenizer(like_gemma, length)
    raw: Tokenizer = made.backend_tokenizer
    segmented = kind in ("bert", "electra", "deberta")
    if not like_gemma:
        second = ":1" if segmented else ""
        between = " [SEP]" if kind == "roberta" else ""
        raw.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair=f"[CLS] $A [SEP]{between} $B{second} [SEP]{second}",
            special_tokens=[("[CLS]", 2), ("[SEP]", 1)],
        )
    made.model_input_names = ["input_ids", "attention_mask"]
    if segmented:
        made.model_input_names.insert(1, "token_type_ids")
    return made
