"""The whole model as one torch module, which is what is traced."""

from __future__ import annotations

from typing import Any

import torch

from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS, TOKEN_EMBEDDINGS
from goldfold.exporter.frontend.trace import scoring, towers
from goldfold.exporter.frontend.trace.modules import LAYERS, PROMPT, divided, run


class Whole(torch.nn.Module):
    """The whole model: (input_ids, attention_mask) int64 [B,S] → embedding or logits float32 [B,D],
    or token vectors float32 [B,S,D].

    `separator` is the token behind which the second text of a pair begins, for transformers that
    are told so (scoring.py). For each number of `skips` there is a further result, of texts whose
    first tokens are a prompt's, which pooling leaves out."""

    def __init__(
        self,
        trunk: torch.nn.Module,
        output: str,
        stages: list[torch.nn.Module],
        separator: int | None = None,
    ) -> None:
        super().__init__()
        self.transformer = trunk
        self.output = output
        self.stages = torch.nn.ModuleList(stages)
        self.separator = separator
        self.skips: tuple[int, ...] = ()
        self.inside = ""
        """The path of `transformer` in the model that was loaded."""
        self.within = ""
        """The path of the model that was loaded in `transformer`."""
        self.head = ""
        """The path there of a projection that a stage computes (sparse.py)."""
        self.method = towers.FORWARD
        """The method of `transformer` that is called with a text."""
        self.filling: towers.Filling | None = None
        """How every text is padded, where padding is a part of what the model reads."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        told = {}
        if self.separator is not None:
            told["token_type_ids"] = scoring.segments(input_ids, self.separator)
        if self.filling is not None:
            input_ids, attention_mask = self.filling(input_ids, attention_mask)
        call = self.transformer
        if self.method != towers.FORWARD:
            call = getattr(call, self.method)
        out = call(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **told)
        mask, stages = attention_mask.to(torch.bool), list(self.stages)
        state = {
            TOKEN_EMBEDDINGS: out[self.output],
            INPUT_IDS: input_ids,
            ATTENTION_MASK: attention_mask,
        }
        if out.get("hidden_states") is not None:
            state[LAYERS] = out["hidden_states"]
        if not self.skips:
            return run(stages, state, mask)
        first = divided(stages)
        run(stages[:first], state, mask)
        prompts = ({}, *({PROMPT: skip} for skip in self.skips))
        return tuple(run(stages[first:], {**state, **prompt}, mask) for prompt in prompts)
