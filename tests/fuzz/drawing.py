"""How architectures are drawn: what each family's configuration offers, in sizes that are quick."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.architecture import Architecture

Draw = Callable[[st.SearchStrategy], Any]

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "quick_gelu", "gelu_fast")
POOLING = ("mean", "cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens")
DENSE = ("Identity", "Tanh", "GELU", "ReLU", "Sigmoid")
EPSILONS = (1e-12, 1e-6, 1e-5, 1e-3)

GROUPS = {
    "positions": ("bert", "roberta", "distilbert", "albert", "electra"),
    "rotary": ("modernbert", "nomic", "gte", "jina3", "eurobert"),
    "decoders": ("qwen3", "llama", "gemma3", "gemma4", "embeddinggemma2"),
    "bias": ("mpnet", "deberta", "t5"),
}
"""Backbones by how they know where a token stands; the last by a bias that is learned."""
KINDS = tuple(kind for kinds in GROUPS.values() for kind in kinds)


@st.composite
def architectures(draw: Draw, kinds: tuple[str, ...] = KINDS) -> Architecture:
    """Any architecture of these kinds."""
    kind = draw(st.sampled_from(kinds))
    longest = draw(st.sampled_from((40, 9, 24, 70)))
    settings = _SETTINGS[kind](draw, longest)
    pooling = tuple(draw(st.lists(st.sampled_from(POOLING), min_size=1, max_size=2, unique=True)))
    head, width = _head(draw, _width(kind, settings) * len(pooling))
    max_length = draw(st.one_of(st.none(), st.integers(2, longest)))
    limit = max_length or longest
    sizes = st.lists(st.integers(1, width), min_size=1, max_size=2, unique=True)
    lengths = draw(st.lists(st.integers(1, limit), min_size=2, max_size=4))
    return Architecture(
        kind=kind,
        settings=settings,
        pooling=pooling,
        head=head,
        longest=longest,
        max_length=max_length,
        dims=tuple(draw(st.one_of(st.just([]), sizes))),
        lengths=tuple(lengths),
        padding=draw(st.integers(0, min(3, limit - max(lengths)))),
        seed=draw(st.integers(0, 999)),
    )


def _head(draw: Draw, width: int) -> tuple[tuple[str, ...], int]:
    """(modules after pooling, the embedding's size)."""
    words: list[str] = []
    for _ in range(draw(st.integers(0, 2))):
        width = draw(st.sampled_from((16, 8, 48)))
        unbiased = draw(st.sampled_from(("", " unbiased")))
        words.append(f"{width} {draw(st.sampled_from(DENSE))}{unbiased}")
    if draw(st.booleans()):
        words.append("layer-norm")
    if draw(st.sampled_from((True, True, False))):
        words.append("normalize")
    return tuple(words), width


def _width(kind: str, settings: dict[str, Any]) -> int:
    """The size of a token's vector where pooling meets it."""
    names = ("embedding_dim", "hidden_size", "dim", "d_model")
    return next(settings[name] for name in names if name in settings)


def _sizes(draw: Draw) -> dict[str, Any]:
    """Layers, heads and hidden sizes by the names that most configurations use."""
    heads, head = draw(st.sampled_from(((2, 8), (1, 16), (3, 8), (4, 4))))
    return {
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "hidden_size": heads * head,
        "intermediate_size": draw(st.sampled_from((32, 20, 56))),
    }


def _groups(draw: Draw, heads: int) -> int:
    """How many heads there are for keys and values."""
    return draw(st.sampled_from([n for n in (1, 2, 3, 4) if heads % n == 0]))


def _eps(draw: Draw, name: str) -> dict[str, Any]:
    return {name: draw(st.sampled_from(EPSILONS))}


def _act(draw: Draw, name: str = "hidden_act") -> dict[str, Any]:
    return {name: draw(st.sampled_from(ACTIVATIONS))}


def _bools(draw: Draw, *names: str) -> dict[str, Any]:
    return {name: draw(st.booleans()) for name in names}


def _theta(draw: Draw) -> dict[str, Any]:
    theta = draw(st.sampled_from((10000.0, 500.0, 160000.0)))
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}


def _layer_types(draw: Draw, layers: int, last: str | None = None) -> list[str]:
    kinds = st.sampled_from(("sliding_attention", "full_attention"))
    types = draw(st.lists(kinds, min_size=layers, max_size=layers))
    return [*types[:-1], last] if last else types


# The families -------------------------------------------------------------------------------------


def _bert(draw: Draw, longest: int) -> dict[str, Any]:
    return {
        **_sizes(draw),
        **_act(draw),
        **_eps(draw, "layer_norm_eps"),
        **_bools(draw, "is_decoder"),
        "type_vocab_size": draw(st.integers(1, 2)),
        "max_position_embeddings": longest + draw(st.integers(0, 2)),
    }


def _roberta(draw: Draw, longest: int) -> dict[str, Any]:
    # Positions count from pad_token_id + 1.
    return {**_bert(draw, longest + 1), "type_vocab_size": 1}


def _electra(draw: Draw, longest: int) -> dict[str, Any]:
    return {**_bert(draw, longest), "embedding_size": draw(st.sampled_from((8, 16, 24)))}


def _albert(draw: Draw, longest: int) -> dict[str, Any]:
    settings = {**_electra(draw, longest), "inner_group_num": draw(st.integers(1, 2))}
    del settings["is_decoder"]
    settings["num_hidden_groups"] = draw(st.integers(1, settings["num_hidden_layers"]))
    return settings


def _distilbert(draw: Draw, longest: int) -> dict[str, Any]:
    sizes = _sizes(draw)
    return {
        "dim": sizes["hidden_size"],
        "hidden_dim": sizes["intermediate_size"],
        "n_heads": sizes["num_attention_heads"],
        "n_layers": sizes["num_hidden_layers"],
        **_act(draw, "activation"),
        **_bools(draw, "sinusoidal_pos_embds"),
        "max_position_embeddings": longest,
    }


def _modernbert(draw: Draw, longest: int) -> dict[str, Any]:
    sizes = _sizes(draw)
    return {
        **sizes,
        **_act(draw, "hidden_activation"),
        **_eps(draw, "norm_eps"),
        **_bools(draw, "norm_bias", "attention_bias", "mlp_bias"),
        "layer_types": _layer_types(draw, sizes["num_hidden_layers"]),
        "local_attention": draw(st.sampled_from((8, 2, 16, 200))),
        "max_position_embeddings": longest,
    }


def _nomic(draw: Draw, longest: int) -> dict[str, Any]:
    return {
        **_sizes(draw),
        **_act(draw),
        **_eps(draw, "layer_norm_eps"),
        **_theta(draw),
        "type_vocab_size": draw(st.integers(1, 2)),
        "max_position_embeddings": longest,
    }


def _eurobert(draw: Draw, longest: int) -> dict[str, Any]:
    sizes = _sizes(draw)
    return {
        **sizes,
        **_act(draw),
        **_eps(draw, "rms_norm_eps"),
        **_theta(draw),
        **_bools(draw, "attention_bias", "mlp_bias"),
        "num_key_value_heads": _groups(draw, sizes["num_attention_heads"]),
        "max_position_embeddings": longest,
    }


def _llama(draw: Draw, longest: int) -> dict[str, Any]:
    settings = {**_eurobert(draw, longest), **_bools(draw, "is_causal")}
    return {**settings, "head_dim": draw(st.sampled_from((8, 16, 12)))}


def _qwen3(draw: Draw, longest: int) -> dict[str, Any]:
    settings = _llama(draw, longest)
    del settings["mlp_bias"]
    layers = settings["num_hidden_layers"]
    return {
        **settings,
        "use_sliding_window": True,
        "sliding_window": draw(st.sampled_from((4, 1, 16, 200))),
        "layer_types": _layer_types(draw, layers),
    }


def _gemma3(draw: Draw, longest: int) -> dict[str, Any]:
    settings = _eurobert(draw, longest)
    for name in ("mlp_bias", "hidden_act", "rope_parameters"):
        del settings[name]
    return {
        **settings,
        **_act(draw, "hidden_activation"),
        **_bools(draw, "use_bidirectional_attention"),
        "head_dim": draw(st.sampled_from((8, 16, 12))),
        "query_pre_attn_scalar": draw(st.sampled_from((16, 24))),
        "layer_types": _layer_types(draw, settings["num_hidden_layers"]),
        "sliding_window": draw(st.sampled_from((8, 2, 16, 200))),
    }


def _wider_when_full(draw: Draw, longest: int) -> dict[str, Any]:
    sizes = _sizes(draw)
    heads = sizes["num_attention_heads"]
    return {
        **sizes,
        **_act(draw, "hidden_activation"),
        **_eps(draw, "rms_norm_eps"),
        "head_dim": draw(st.sampled_from((8, 16))),
        "global_head_dim": draw(st.sampled_from((16, 32))),
        "num_key_value_heads": _groups(draw, heads),
        "num_global_key_value_heads": _groups(draw, heads),
        "layer_types": _layer_types(draw, sizes["num_hidden_layers"], "full_attention"),
        "hidden_size_per_layer_input": draw(st.sampled_from((8, 16))),
        "sliding_window": draw(st.sampled_from((8, 3, 16, 200))),
        "max_position_embeddings": longest,
    }


def _gemma4(draw: Draw, longest: int) -> dict[str, Any]:
    both_ways = {"use_bidirectional_attention": draw(st.sampled_from((None, "all")))}
    return {**_wider_when_full(draw, longest), **both_ways}


def _embeddinggemma2(draw: Draw, longest: int) -> dict[str, Any]:
    size = {"embedding_dim": draw(st.sampled_from((24, 40)))}
    return {**_wider_when_full(draw, longest), **size}


def _mpnet(draw: Draw, longest: int) -> dict[str, Any]:
    # 32 buckets always: transformers computes with so many, whatever the configuration says.
    return {
        **_sizes(draw),
        **_act(draw),
        **_eps(draw, "layer_norm_eps"),
        "max_position_embeddings": longest + 1,
    }


def _t5(draw: Draw, longest: int) -> dict[str, Any]:
    sizes = _sizes(draw)
    words = ("gated-gelu", "relu", "gated-silu", "gated-relu", "gelu")
    return {
        "d_model": sizes["hidden_size"],
        "d_ff": sizes["intermediate_size"],
        "d_kv": draw(st.sampled_from((8, 16))),
        "num_heads": sizes["num_attention_heads"],
        "num_layers": sizes["num_hidden_layers"],
        **_eps(draw, "layer_norm_epsilon"),
        "feed_forward_proj": draw(st.sampled_from(words)),
        "relative_attention_num_buckets": draw(st.sampled_from((32, 8))),
        "relative_attention_max_distance": draw(st.sampled_from((128, 16))),
    }


def _deberta(draw: Draw, longest: int) -> dict[str, Any]:
    kinds = st.sampled_from((["p2c", "c2p"], ["c2p"], ["p2c"], []))
    return {
        **_sizes(draw),
        **_act(draw),
        **_eps(draw, "layer_norm_eps"),
        **_bools(draw, "relative_attention", "position_biased_input", "share_att_key"),
        "pos_att_type": draw(kinds),
        "position_buckets": draw(st.sampled_from((32, 8, -1))),
        "norm_rel_ebd": draw(st.sampled_from(("none", "layer_norm"))),
        "type_vocab_size": draw(st.sampled_from((0, 2))),
        "max_position_embeddings": longest,
    }


_SETTINGS: dict[str, Callable[[Draw, int], dict[str, Any]]] = {
    "bert": _bert,
    "roberta": _roberta,
    "electra": _electra,
    "albert": _albert,
    "distilbert": _distilbert,
    "modernbert": _modernbert,
    "nomic": _nomic,
    "gte": _nomic,
    "jina3": _nomic,
    "eurobert": _eurobert,
    "qwen3": _qwen3,
    "llama": _llama,
    "gemma3": _gemma3,
    "gemma4": _gemma4,
    "embeddinggemma2": _embeddinggemma2,
    "mpnet": _mpnet,
    "t5": _t5,
    "deberta": _deberta,
}
