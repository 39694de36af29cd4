"""Small seeded SentenceTransformers, one a family, built from nothing and saved to disk.

Each is a real folder (modules.json, tokenizer, safetensors, prompts) of less than a megabyte, with
random weights that are far from degenerate: gains scattered around 1, biases that are not zero, and
matrices large enough that different texts get clearly different embeddings. Two builds of one kind
give the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn

VOCAB_SIZE = 400
MAX_LENGTH = 600
PROMPTS = {
    "query": "task: search result | query: ",
    "document": "title: none | text: ",
    "STS": "task: sentence similarity | query: ",
    "Clustering": "task: clustering | query: ",
}

CORPUS = (
    "The lighthouse keeper counted the ships that passed before dawn.",
    "A small engine needs clean oil, dry air and patience.",
    "task: search result | query: how do glaciers move through a valley?",
    "title: none | text: Glaciers slide and deform under their own weight.",
    "task: sentence similarity | query: two ways of saying the same thing",
    "def area(width: float, height: float) -> float:\n    return width * height",
    "Die Brücke über den Fluss wurde im Frühling neu gestrichen.",
    "Le marché ouvre à sept heures, même quand il neige.",
    "Мы нашли старую карту на чердаке бабушкиного дома.",
    "今朝は霧が深く、山の頂上が見えませんでした。",
    "河边的柳树比去年长高了许多。",
    "كانت المكتبة هادئة إلا من صوت المطر.",
    "बच्चों ने आँगन में आम का पेड़ लगाया।",
    "Το καράβι έφυγε νωρίς το πρωί για το νησί.",
    "Bread 🍞, cheese 🧀 and 3.14159 reasons to take the 08:45 train!",
)

# Pad, eos, bos and unk have EmbeddingGemma's ids, and the BERT-like families take the same places,
# so that one vocabulary serves all.
_GEMMA_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
_GEMMA_LIKE = ("gemma3", "qwen3", "qwen3_moe", "lfm2", "llama", "gpt2")
_BERT_SPECIAL = ("[PAD]", "[SEP]", "[CLS]", "[UNK]")

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
}
_BERT_LIKE: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_attention_heads": 3,
    "num_hidden_layers": 3,
    # RoBERTa and MPNet count positions from pad_token_id + 1.
    "max_position_embeddings": MAX_LENGTH + 8,
}

# Gemma 4's shape: full attention has wider heads, fewer of them for keys, and another base.
_WIDER_WHEN_FULL: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 32,
    "num_global_key_value_heads": 1,
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "hidden_size_per_layer_input": 16,
    "max_position_embeddings": MAX_LENGTH,
}

# Backbone: configuration class, model class, its settings.
_BACKBONES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gemma3": (
        "Gemma3TextConfig",
        "Gemma3TextModel",
        {
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "num_hidden_layers": 6,
            "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
            # As in EmbeddingGemma's file. transformers makes it 257, exclusive, when it loads a
            # bidirectional model, and writes 512 again when it saves one.
            "sliding_window": 512,
            "use_bidirectional_attention": True,
            "max_position_embeddings": MAX_LENGTH,
            "rms_norm_eps": 1e-6,
        },
    ),
    "bert": ("BertConfig", "BertModel", _BERT_LIKE),
    "roberta": ("RobertaConfig", "RobertaModel", {**_BERT_LIKE, "type_vocab_size": 1}),
    "electra": ("ElectraConfig", "ElectraModel", {**_BERT_LIKE, "embedding_size": 32}),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertModel",
        {
            "dim": 48,
            "hidden_dim": 96,
            "n_heads": 3,
            "n_layers": 3,
            "max_position_embeddings": MAX_LENGTH,
        },
    ),
    "mpnet": ("MPNetConfig", "MPNetModel", _BERT_LIKE),
    "modernbert": (
        "ModernBertConfig",
        "ModernBertModel",
        {
            **_BERT_LIKE,
            "num_hidden_layers": 4,
            "global_attn_every_n_layers": 3,
            "local_attention": 16,
            "cls_token_id": 2,
            "sep_token_id": 1,
        },
    ),
    "qwen3": (
        "Qwen3Config",
        "Qwen3Model",
        {
            **_BERT_LIKE,
            "num_key_value_heads": 1,
            "head_dim": 16,
        },
    ),
    # Four experts, two a token, in every layer.
    "qwen3_moe": (
        "Qwen3MoeConfig",
        "Qwen3MoeModel",
        {
            **_BERT_LIKE,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "moe_intermediate_size": 32,
        },
    ),
    # Short convolutions and attention by turns.
    "lfm2": (
        "Lfm2Config",
        "Lfm2Model",
        {
            **_BERT_LIKE,
            "num_key_value_heads": 1,
            "layer_types": ["conv", "full_attention", "conv"],
        },
    ),
    # As text encoders made of a Llama are saved: it sees both ways because its file says so.
    "llama": (
        "LlamaConfig",
        "LlamaModel",
        {**_BERT_LIKE, "num_key_value_heads": 1, "is_causal": False},
    ),
    "deberta": (
        "DebertaV2Config",
        "DebertaV2Model",
        {
            **_BERT_LIKE,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 32,
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    ),
    "t5": (
        "T5Config",
        "T5EncoderModel",
        {
            "d_model": 48,
            "d_kv": 16,
            "d_ff": 96,
            "num_heads": 3,
            "num_layers": 3,
            "feed_forward_proj": "gated-gelu",
        },
    ),
    "albert": (
        "AlbertConfig",
        "AlbertModel",
        {**_BERT_LIKE, "embedding_size": 32, "hidden_act": "gelu_new"},
    ),
    # Queries, keys and values of one product, whose weight is stored as it is multiplied.
    "gpt2": (
        "GPT2Config",
        "GPT2Model",
        {"n_embd": 48, "n_layer": 3, "n_head": 3, "n_positions": MAX_LENGTH},
    ),
    "nomic": ("NomicBertConfig", "NomicBertModel", _BERT_LIKE),
    "gte": ("GteConfig", "GteModel", _BERT_LIKE),
    "jina3": ("JinaEmbeddingsV3Config", "JinaEmbeddingsV3Model", _BERT_LIKE),
    "eurobert": ("EuroBertConfig", "EuroBertModel", {**_BERT_LIKE, "mask_token_id": 3}),
    "gemma4": (
        "Gemma4TextConfig",
        "Gemma4TextModel",
        {
            **_WIDER_WHEN_FULL,
            "vocab_size_per_layer_input": VOCAB_SIZE,
            "sliding_window": 16,
        },
    ),
    "embeddinggemma2": (
        "EmbeddingGemma2TextConfig",
        "EmbeddingGemma2TextModel",
        {
            **_WIDER_WHEN_FULL,
            # The radius: a token sees |i-j| <= 16.
            "sliding_window": 16,
            # Each token is projected, from 512 to 768 in the real one, before pooling.
            "embedding_dim": 72,
        },
    ),
}
HEADS: dict[str, tuple[str, ...]] = {
    "gemma3": ("192 Identity unbiased", "48 Identity unbiased", "normalize"),
    "bert-dense-tanh": ("32 Tanh", "layer-norm", "normalize"),
}
"""What follows pooling where it is not `normalize` alone (`make_head`)."""

_BACKBONE_OF = {"bert-dense-tanh": "bert", "bert-pool": "bert"}
KINDS = (*_BACKBONES, *_BACKBONE_OF)


def build(kind: str, folder: Path, **overrides: Any) -> Path:
    """Save a tiny SentenceTransformer of `kind` to `folder` and return `folder`.

    Args:
        kind: one of `KINDS`.
        folder: where to save; made if it is missing.
        overrides: `pooling_mode`, `head` (the modules after pooling, as `make_head` reads them),
            `prompts`, `default_prompt_name`, `max_seq_length` (tokens), `dtype` (a torch dtype to
            save in), `seed`; anything else replaces a setting of the backbone's configuration.
            gemma3's `sliding_window` is the file's number w, and a token then sees
            |i-j| < w // 2 + 1.
    """
    seed = overrides.pop("seed", 7)
    default_pooling = {"qwen3": "lasttoken", "bert-pool": ("cls", "mean", "max")}.get(kind, "mean")
    pooling_mode = overrides.pop("pooling_mode", default_pooling)
    prompts = overrides.pop("prompts", PROMPTS)
    default_prompt_name = overrides.pop("default_prompt_name", None)
    head = overrides.pop("head", HEADS.get(kind, ("normalize",)))
    max_length = overrides.pop("max_seq_length", MAX_LENGTH)
    dtype = overrides.pop("dtype", torch.float32)

    folder.mkdir(parents=True, exist_ok=True)
    backbone = _BACKBONE_OF.get(kind, kind)
    # The backbone is saved in the folder that will hold the whole model, as the same files.
    _save_backbone(backbone, folder, seed, dtype, overrides)
    _make_tokenizer(backbone in _GEMMA_LIKE, max_length).save_pretrained(folder)
    transformer = Transformer(str(folder), max_seq_length=max_length, model_kwargs={"dtype": dtype})
    # A backbone that projects its tokens says so by itself; its hidden size is not what pools.
    width = getattr(transformer.auto_model.config, "embedding_dim", None)
    width = width or transformer.get_embedding_dimension()
    pooling = Pooling(width, pooling_mode=pooling_mode)
    modules = list(make_head(head, pooling.get_embedding_dimension()))
    for place, module in enumerate(modules):
        _randomise(module, seed + 1 + place)
    model = SentenceTransformer(
        modules=[transformer, pooling, *(module.to(dtype) for module in modules)],
        prompts=prompts,
        default_prompt_name=default_prompt_name,
        device="cpu",
    )
    model.save(str(folder), create_model_card=False)
    return folder


def _save_backbone(
    backbone: str, folder: Path, seed: int, dtype: torch.dtype, overrides: dict[str, Any]
) -> None:
    """Save a random backbone as a plain transformers model."""
    config_class, model_class, settings = _BACKBONES[backbone]
    settings = {**_COMMON, **settings, **overrides}
    config = getattr(transformers, config_class)(**settings)
    model = getattr(transformers, model_class)(config)
    _randomise(model, seed)
    if backbone == "gemma3":
        # Scaled by sqrt(hidden) the embeddings have mean square 1e-3, so small that the norm's
        # eps of 1e-6 moves the result, and a pass that rescales it wrongly is caught.
        std = (1e-3 / config.hidden_size) ** 0.5
        with torch.no_grad():
            table = model.embed_tokens.weight
            table.mul_(std / table.std())
    # Gemma 4 scales each layer's result by a number that it keeps as a buffer, 1 until trained.
    for number, layer in enumerate(getattr(model, "layers", ())):
        if hasattr(layer, "layer_scalar"):
            layer.layer_scalar.fill_(1.0 - 0.2 * number)
    model.to(dtype).save_pretrained(folder)


def make_head(words: Sequence[str], width: int) -> Iterator[nn.Module]:
    """The modules after pooling, a word each: `normalize`, `layer-norm`, or a Dense as
    `32 Tanh` (its size, the activation's class in torch.nn) or `32 Tanh unbiased`."""
    for word in words:
        if word == "normalize":
            yield Normalize()
        elif word == "layer-norm":
            yield LayerNorm(width)
        else:
            size, activation, *rest = word.split()
            yield Dense(
                width,
                int(size),
                bias=rest != ["unbiased"],
                activation_function=getattr(nn, activation)(),
            )
            width = int(size)


def _randomise(module: nn.Module, seed: int) -> None:
    """Overwrite every parameter, in the order of names, from one generator.

    Matrices keep the scale of their input (std 1/sqrt(columns)), the token table has std 1, gains
    lie around 1 with spread 0.3 (Gemma's around 0: it adds the 1 itself), biases spread 0.1. Tables
    of positions and segments have std 0.3: all texts share them, and at 1 they drown the tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    tables = {
        f"{name}.weight": 1.0 if child.num_embeddings == VOCAB_SIZE else 0.3
        for name, child in module.named_modules()
        if isinstance(child, nn.Embedding)
    }
    adds_one = {
        f"{name}.weight"
        for name, child in module.named_modules()
        if type(child).__name__ == "Gemma3RMSNorm"
    }
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            drawn = torch.randn(parameter.shape, generator=generator)
            if name in tables:
                parameter.copy_(tables[name] * drawn)
            elif parameter.ndim > 1:
                parameter.copy_(drawn / parameter.shape[-1] ** 0.5)
            elif name.endswith("bias"):
                parameter.copy_(0.1 * drawn)
            else:
                parameter.copy_(0.3 * drawn + (0 if name in adds_one else 1))


@cache
def _train_tokenizer(special: tuple[str, ...]) -> str:
    """A byte-level BPE tokenizer of `VOCAB_SIZE` entries over `CORPUS`, as JSON."""
    tokenizer = Tokenizer(models.BPE(unk_token=special[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(special),
        # All 256, so that no text in any script meets an unknown token.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    _, end, start, _ = special
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} $B {end}",
        special_tokens=[(start, 2), (end, 1)],
    )
    return tokenizer.to_str()


def _make_tokenizer(gemma_like: bool, max_length: int) -> transformers.PreTrainedTokenizerFast:
    special = _GEMMA_SPECIAL if gemma_like else _BERT_SPECIAL
    pad, end, start, unknown = special
    ends = (
        {"bos_token": start, "eos_token": end}
        if gemma_like
        else {"cls_token": start, "sep_token": end}
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_train_tokenizer(special)),
        pad_token=pad,
        unk_token=unknown,
        **ends,
        padding_side="right",
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    )
