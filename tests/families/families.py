"""The families that the page of families shows: a seeded small model each.

Two layers, so that a window and whole attention both occur where a family has both; texts of up to
40 tokens, longer than every window here. Pooling and heads are spread over them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import models, static

LONGEST = 40
"""The most tokens of a text."""

_LAYERS = {"num_hidden_layers": 2}
_BOTH = {**_LAYERS, "layer_types": ["sliding_attention", "full_attention"]}


@dataclass(frozen=True)
class Family:
    """One row: a backbone of tests/models.py, changed by `settings`, and what follows it."""

    name: str
    kind: str
    settings: dict[str, Any] = field(default_factory=lambda: dict(_LAYERS))
    pooling: tuple[str, ...] = ("mean",)
    head: tuple[str, ...] = ("normalize",)

    def build(self, folder: Path) -> Path:
        """Save the model and return its folder."""
        if self.kind == "static":
            words = static.tokenizer()
            words.enable_truncation(LONGEST)
            return static.build(folder, self.head, words=words, prompts=models.PROMPTS)
        return models.build(
            self.kind,
            folder,
            pooling_mode=self.pooling,
            head=self.head,
            max_seq_length=LONGEST,
            **self.settings,
        )

    @property
    def tail(self) -> str:
        """Pooling and head in words."""
        return " → ".join([" + ".join(self.pooling), *self.head])


FAMILIES = (
    Family("BERT", "bert", pooling=("cls",)),
    Family("RoBERTa, XLM-R", "roberta", head=("32 Tanh", "layer-norm", "normalize")),
    Family("MPNet", "mpnet"),
    Family("DistilBERT", "distilbert", {"n_layers": 2}, head=()),
    Family("ALBERT", "albert", pooling=("max",)),
    Family("ELECTRA", "electra", pooling=("cls", "mean")),
    Family("ModernBERT", "modernbert", _BOTH, pooling=("cls",), head=("24 Identity", "normalize")),
    Family("NomicBERT", "nomic"),
    Family("GTE", "gte", pooling=("cls",)),
    Family("Jina v3", "jina3"),
    Family("EuroBERT", "eurobert"),
    Family("DeBERTa-v2", "deberta", pooling=("weightedmean",)),
    Family("T5 encoder", "t5", {"num_layers": 2}, head=("24 Identity unbiased", "normalize")),
    Family(
        "Gemma 3, EmbeddingGemma",
        "gemma3",
        {**_BOTH, "sliding_window": 16},
        head=models.HEADS["gemma3"],
    ),
    Family("EmbeddingGemma 2, text", "embeddinggemma2", {**_BOTH, "sliding_window": 8}),
    Family("Gemma 4", "gemma4", {**_BOTH, "sliding_window": 8}, pooling=("lasttoken",)),
    Family("Qwen 3", "qwen3", pooling=("lasttoken",)),
    Family("Qwen 3, mixture of experts", "qwen3_moe", {**_LAYERS, "seed": 8}),
    Family("LFM2", "lfm2", {**_LAYERS, "layer_types": ["conv", "full_attention"]}),
    Family("Llama, bidirectional", "llama", pooling=("mean_sqrt_len_tokens",), head=()),
    Family("Static embeddings, model2vec", "static", {}),
)
