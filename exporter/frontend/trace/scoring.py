"""Models that score pairs of texts: their heads as traced stages, and how they are told which text
a token belongs to.

BERT-like transformers take a segment a token, 0 in the first text and 1 in the second. The graph
derives it from the token that stands between the two, so that an artifact's inputs stay ids and
mask.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch

from goldfold.exporter.contract import EMBEDDING, LOGITS, Activation, Contract, Frame
from goldfold.exporter.errors import ModelError
from goldfold.exporter.frontend.tokens import Tokens
from goldfold.exporter.frontend.trace.lengths import PROSE, SHORT, eager
from goldfold.exporter.frontend.trace.modules import Pool, stage_of

_ACTIVATIONS: dict[str, Activation] = {
    "Identity": "identity",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
}
_UNNAMED = "LABEL_"
"""What transformers calls the labels of a model that has no names for them."""


@dataclass(frozen=True)
class Facts:
    """What a contract says of scores; of other tasks nothing."""

    logits: bool = False
    labels: tuple[str, ...] = ()
    activation: Activation = "identity"
    separator: int | None = None
    frame: Frame | None = None

    @property
    def output(self) -> str:
        """The name of the graph's output."""
        return LOGITS if self.logits else EMBEDDING


def facts_of(model: Any) -> Facts:
    """Returns the facts of a CrossEncoder. Raises ModelError for one that the graph cannot
    carry."""
    name = type(model.activation_fn).__name__
    if name not in _ACTIVATIONS or not type(model.activation_fn).__module__.startswith("torch."):
        raise ModelError(
            f"its activation_fn is {name}; {', '.join(_ACTIVATIONS)} are supported, because an "
            "artifact applies it without torch"
        )
    frame = _frame(model) if "message" in model[0].modality_config else None
    if any(model.prompts.values()) and frame is None:
        raise ModelError(
            "its scores need a prompt, which stands before the first text of a pair; that is not "
            "supported"
        )
    labels = _labels(model)
    separator = _separator(model) if frame is None else None
    return Facts(True, labels, _ACTIVATIONS[name], separator, frame)


def _frame(model: Any) -> Frame:
    """Returns the text that a chat template puts around every pair, the model's own prompt
    included. Raises ModelError for a template that does something else with it."""
    first = model[0]
    prompt = model.prompts.get(model.default_prompt_name or "", None)
    how = dict(first.processing_kwargs.get("chat_template", {}))
    for name in ("restore_suffix", "padding", "truncation", "max_length", "return_tensors"):
        how.pop(name, None)

    def messages(pair: tuple[str, str]) -> Any:
        kind, made, _ = first.input_formatter.parse_inputs([pair])
        if kind != "message":
            _, made = first.input_formatter.batch_to_message(kind, made)
        found = made["message"]
        if prompt:
            found = first.input_formatter.prepend_prompt_to_messages(found, prompt)
        return found[0]

    def rendered(pair: tuple[str, str]) -> str:
        return first.tokenizer.apply_chat_template(messages(pair), tokenize=False, **how)

    one, other = "qqq7qqq", "ddd9ddd"
    try:
        text = rendered((f" {one} ", f" {other} "))
        strip = f" {one} " not in text
        one, other = (one, other) if strip else (f" {one} ", f" {other} ")
        before, _, rest = text.partition(one)
        between, found, after = rest.partition(other)
        suffix = first._chat_template_suffix_ids(messages(("a", "b")), how, {}, {})
        frame = Frame(
            before=before, between=between, after=after, strip=strip, suffix=tuple(suffix)
        )
        fixed = found and all(
            rendered(pair) == frame.around(pair)
            for pair in (("a", "b"), ("a\n\nb", "{{ c }}"), ("", "x"), ("<b>", "  y "))
        )
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"its chat template makes no text of a pair: {type(error).__name__}: {said}"
        ) from error
    if not fixed:
        raise ModelError(
            "its chat template does more with a pair than to put text around it; only a fixed "
            "frame is supported"
        )
    return frame


def _labels(model: Any) -> tuple[str, ...]:
    named: Any = getattr(model[0].auto_model.config, "id2label", None) or {}
    found = tuple(str(named[key]) for key in sorted(named))
    if len(found) != model.num_labels or all(one.startswith(_UNNAMED) for one in found):
        return ()
    return found


def parts_of(model: Any) -> tuple[torch.nn.Module, str, list[torch.nn.Module]]:
    """Returns the transformer of a CrossEncoder, the name of its output, and what follows it.

    Of a language model's logits for the whole vocabulary, two are asked for at one token: the graph
    computes these. Raises ModelError for modules that goldfold does not know.
    """
    first, trunk = model[0], model[0].auto_model
    how = getattr(first, "modality_config", {}).get("text", {})
    if how.get("method", "forward") != "forward":
        raise ModelError(f"its Transformer scores by {how.get('method')!r}; forward is supported")
    output = how.get("method_output_name")
    output = output[-1] if isinstance(output, (list, tuple)) else output
    made = getattr(first, "module_output_name", None)
    kinds = [type(module).__name__ for module in model]
    if kinds[1:] == ["LogitScore"] and made == "causal_logits":
        if getattr(trunk.config, "final_logit_softcapping", None):
            raise ModelError(
                "its logits are capped (final_logit_softcapping), which is not supported"
            )
        return (
            trunk.base_model,
            "last_hidden_state",
            [Pool(("lasttoken",)), Chosen(trunk, model[1])],
        )
    if made == "scores" and kinds == ["Transformer"]:
        return trunk, output or "logits", []
    if made == "token_embeddings" and "Pooling" in kinds:
        stages = [stage_of(model[at], at) for at in range(1, len(kinds))]
        return trunk, output or "last_hidden_state", [one for one in stages if one is not None]
    raise ModelError(
        f"its modules are {kinds} and its Transformer gives {made!r}; scores of a Transformer with "
        "a head, of LogitScore, or of Pooling and Dense are supported"
    )


class Chosen(torch.nn.Module):
    """The last token's hidden state [B,D] → [B,1]: the logit of one token, or the difference to
    that of another (sentence-transformers' LogitScore)."""

    def __init__(self, trunk: Any, source: Any) -> None:
        super().__init__()
        self.head: Any = trunk.get_output_embeddings()
        self.true: int = source.true_token_id
        self.false: int | None = source.false_token_id

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        found = self._logit(x, self.true)
        return found if self.false is None else found - self._logit(x, self.false)

    def _logit(self, x: torch.Tensor, token: int) -> torch.Tensor:
        row = self.head.weight[token : token + 1]
        bias = getattr(self.head, "bias", None)
        return torch.nn.functional.linear(x, row, None if bias is None else bias[token : token + 1])


def segments(ids: torch.Tensor, separator: int) -> torch.Tensor:
    """Returns int64 [B,S]: 0 up to the first separator, and 1 behind it."""
    ends = (ids == separator).to(torch.int64)
    return ((ends.cumsum(1) - ends) > 0).to(torch.int64)


def _separator(model: Any) -> int | None:
    """Returns the token behind which the second text begins; None where the model does not tell the
    texts apart. Raises ModelError where its tokenizer does so in another way."""
    trunk = model[0].auto_model
    taken = inspect.signature(trunk.forward).parameters
    features = model.preprocess([("one two", "three")])
    types = features.get("token_type_ids")
    if types is None or "token_type_ids" not in taken or not bool(types.any()):
        return None
    first = int((types[0] == 0).sum())
    separator = int(features["input_ids"][0, first - 1])
    with torch.no_grad(), eager(trunk):
        given = {"input_ids": features["input_ids"], "attention_mask": features["attention_mask"]}
        one = trunk(**given, token_type_ids=types, return_dict=True)
        other = trunk(**given, token_type_ids=torch.zeros_like(types), return_dict=True)
        if all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True)):
            return None
    for text in SHORT:
        for pair in ((text, "a second text"), ("a first text", text)):
            found = model.preprocess([pair])
            if not torch.equal(found["token_type_ids"], segments(found["input_ids"], separator)):
                raise ModelError(
                    f"its tokenizer gives {pair} segments that no token between the texts begins; "
                    "segments of 0, then of 1 behind one separator, are supported"
                )
    return separator


def check(model: Any, tokens: Tokens, contract: Contract) -> None:
    """Refuse a model whose pairs become other tokens than its tokenizer.json and contract give.
    Raises ModelError."""
    long = PROSE * (2 + 2 * contract.max_length // 20)
    texts = (*SHORT, long)
    for pair in [(one, other) for one in texts for other in (*SHORT[:3], SHORT[-1], long)]:
        try:
            wanted = model.preprocess([pair])["input_ids"][0].tolist()
        except Exception as error:
            said = (str(error).splitlines() or [""])[0]
            raise ModelError(
                f"sentence-transformers makes no tokens of a pair: {type(error).__name__}: {said}"
            ) from error
        (found,) = tokens.pair_ids([pair])
        if found != wanted:
            short = tuple(text[:30] for text in pair)
            raise ModelError(
                f"its pairs become other tokens than its tokenizer.json says ({short}: "
                f"{len(wanted)} tokens, not {len(found)}); goldfold does not know all of its "
                f"settings: {getattr(model[0], 'processing_kwargs', None)}"
            )
