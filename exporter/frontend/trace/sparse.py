"""Sparse encoders as traced stages: a weight for each entry of a vocabulary, or for each unit of a
sparse autoencoder (CSR).

The logits of a masked language model are [B,S,V] numbers, hundreds of times more than its hidden
states, so each step over them counts. The largest of `b + h·w` over a text's tokens is
`b + max h·w`, to the last bit, because adding b is monotonic; so are relu and log1p. And a padded
token whose hidden state is that of the first one changes no maximum. A text's weights by `max` then
take one product and one reduction at that size.

A CSR keeps the k largest of its units. ONNX's TopK takes the first of equal ones; torch says
nothing of them.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from goldfold.exporter.errors import ModelError
from goldfold.exporter.frontend.sparse_modules import AUTOENCODER

HEAD = "stages.0.head."
"""The prefix of the last projection's parameters in the traced model."""


def is_static(model: Any) -> bool:
    """Returns whether a model looks its vectors up, without a transformer."""
    return type(model[0]).__name__ == "SparseStaticEmbedding"


def is_csr(model: Any) -> bool:
    """Returns whether a model ends in a sparse autoencoder."""
    return type(model[-1]).__name__ == AUTOENCODER


def units(model: Any) -> int:
    """Returns how many units of a CSR a text has at most; 0 of another model."""
    return int(model.max_active_dims or model[-1].k) if is_csr(model) else 0


def entries(model: Any) -> int:
    """Returns the number of token ids that a model knows."""
    if is_static(model):
        return int(model[0].num_dimensions)
    return int(model[0].auto_model.get_input_embeddings().num_embeddings)


def plain_tokenizer(model: Any, written: str) -> str:
    """Returns a model's tokenizer.json, for a static model without special tokens, which it does
    not add."""
    if not is_static(model):
        return written
    said = {**json.loads(written), "post_processor": None}
    return json.dumps(said, ensure_ascii=False, separators=(",", ":"))


def limit(model: Any, length: int) -> None:
    """Let a static model cut texts at `length` tokens, as only its tokenizer says."""
    if is_static(model):
        model[0].tokenizer.model_max_length = length


class Static(torch.nn.Module):
    """(input_ids, attention_mask) int64 [B,S] → float32 [B,V]: a token's weight where the text has
    it, else 0. Padding repeats the first token, which sets the same weight again."""

    inside = head = within = ""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight.detach(), requires_grad=False)
        self.stages = torch.nn.ModuleList()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        ids = torch.where(attention_mask.to(torch.bool), input_ids, input_ids[:, :1])
        empty = torch.zeros((ids.shape[0], self.weight.shape[0]), dtype=self.weight.dtype)
        return empty.scatter(
            1, ids, torch.nn.functional.embedding(ids, self.weight[:, None])[..., 0]
        )


class Autoencoder(torch.nn.Module):
    """x [B,D] → relu of the `kept` largest of (x′ − p) Wᵀ + b, the others zero [B,H]; x′ is x, or
    (x − mean) / (std + 1e-5), the deviation with D − 1 (sentence-transformers'
    SparseAutoEncoder)."""

    def __init__(self, source: Any, kept: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(source.encoder.weight.detach().T.contiguous())
        self.before: Any = source.pre_bias
        self.after: Any = source.latent_bias
        self.kept = kept
        self.normalize: bool = source.normalize

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.normalize:
            x = x - x.mean(-1, keepdim=True)
            spread = (x * x).sum(-1, keepdim=True) / (x.shape[-1] - 1)
            x = x / (spread.sqrt() + 1e-5)
        x = (x - self.before) @ self.weight + self.after
        most = torch.topk(x, self.kept, dim=-1)
        return torch.zeros_like(x).scatter(-1, most.indices, torch.relu(most.values))


class Projection(torch.nn.Module):
    """x [B,S,D] → x W [B,S,V], without the bias. W is a constant of its own, though mostly the
    table of tokens, transposed: a shared one would be transposed in the graph, where no pass or
    recipe finds it."""

    def __init__(self, source: torch.nn.Linear) -> None:
        super().__init__()
        turned = source.weight.detach().T.contiguous()
        self.weight = torch.nn.Parameter(turned, requires_grad=False)
        self.bias = source.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


class Splade(torch.nn.Module):
    """Hidden states [B,S,D], or logits [B,S,V] where there is no `head`, and mask [B,S] → weights
    [B,V] (sentence-transformers' SpladePooling)."""

    def __init__(self, source: Any, head: torch.nn.Linear | None) -> None:
        super().__init__()
        self.head = None if head is None else Projection(head)
        self.strategy: str = source.pooling_strategy
        self.twice: bool = source.activation_function == "log1p_relu"

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        shown = mask.unsqueeze(-1)
        if self.strategy == "max":
            x = torch.where(shown, x, x[:, :1])
            if self.head is not None:
                x = self.head(x)
            return self._active(self._shifted(x.amax(1)))
        x = x if self.head is None else self._shifted(self.head(x))
        return torch.where(shown, self._active(x), 0.0).sum(1)

    def _shifted(self, x: torch.Tensor) -> torch.Tensor:
        bias = None if self.head is None else self.head.bias
        return x if bias is None else x + bias

    def _active(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(x).log1p()
        return x.log1p() if self.twice else x


def parts_of(model: Any) -> tuple[torch.nn.Module, str, list[torch.nn.Module], str]:
    """Returns the masked language model, the name of its output, what follows it, and the path of
    the last projection, which is taken out of the model where it is its last step ("" where not).

    Raises ModelError for modules that give no logits of a masked language model.
    """
    first, trunk = model[0], model[0].auto_model
    kinds = [type(module).__name__ for module in model]
    how = getattr(first, "modality_config", {}).get("text", {})
    output = how.get("method_output_name")
    made = getattr(first, "module_output_name", "token_embeddings")
    given = how.get("method", "forward"), output, made
    if kinds[1:] != ["SpladePooling"] or given != ("forward", "logits", "token_embeddings"):
        raise ModelError(
            f"its modules are {', '.join(kinds)} and its Transformer gives {output!r}; the logits "
            "of a masked language model and SpladePooling are supported (transformer_task "
            "'fill-mask' in sentence_bert_config.json)"
        )
    head = trunk.get_output_embeddings()
    places = [name for name, module in trunk.named_modules() if module is head]
    place = places[0] if places and isinstance(head, torch.nn.Linear) else ""
    if place and not _taken_out(trunk, head, place):
        place = ""
    return trunk, output, [Splade(model[1], head if place else None)], place


def _taken_out(trunk: Any, head: torch.nn.Linear, place: str) -> bool:
    """Replaces the projection at `place` by the identity, and returns whether the model's output is
    then what the projection took."""
    ids = torch.arange(6).reshape(2, 3) % trunk.get_input_embeddings().num_embeddings
    given: Any = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "return_dict": True}
    parent, _, name = place.rpartition(".")
    owner = trunk.get_submodule(parent)
    with torch.no_grad():
        whole = trunk(**given)["logits"]
        setattr(owner, name, torch.nn.Identity())
        try:
            same = torch.equal(head(trunk(**given)["logits"]), whole)
        except Exception:  # something else of the model reads the projection
            same = False
    if not same:
        setattr(owner, name, head)
    return same
