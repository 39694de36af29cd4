"""The text that a chat template puts around each text: as special tokens of the tokenizer where it
is made of added tokens, and otherwise as a frame in the contract.

A frame is text: what is read is the whole of it, tokenized in one piece, so that its letters may
join the text's in one token, as they do in the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from goldfold.exporter.contract import Frame
from goldfold.exporter.errors import ModelError
from goldfold.golden import framing
from goldfold.golden.errors import GoldenError
from goldfold.golden.tasks import EMBEDDING

_MARK = "qqq7qqq"
_PROBES = (
    _MARK,
    f" {_MARK}\n",
    "",
    "a\n\nb {{ c }} <b>",
    "{% if x %}",
    "\u2003two\u3000",
    "x" * 99,
)
_SIZES = ("padding", "truncation", "max_length", "return_tensors")
"""Settings of apply_chat_template that do not reach the template."""


def framed(model: Any, task: str = EMBEDDING) -> tuple[str, Frame | None]:
    """Returns the tokenizer of a SentenceTransformer as its Rust library writes it, and what its
    chat template puts around a text, None where the tokenizer itself does that
    (golden/framing.py). Raises ModelError for a template that is no frame."""
    try:
        return framing.tokenizer_of(model), None
    except GoldenError as error:
        if task != EMBEDDING:
            raise ModelError(str(error)) from None
    frame = _frame(model)
    return framing.plain_tokenizer(model), frame


def _frame(model: Any) -> Frame:
    """Returns the text around every text. Raises ModelError, saying what the template does with
    which text."""
    rendered, suffix = _rendering(model)
    whole = rendered(f" {_MARK} ", "", None)
    strip = f" {_MARK} " not in whole
    before, found, after = whole.partition(_MARK if strip else f" {_MARK} ")
    frame = Frame(before=before, between="", after=after, strip=strip, suffix=suffix)
    if not found:
        raise ModelError("its chat template leaves a text out, or changes its letters")
    prompts = {"": "", **{name: prompt or "" for name, prompt in model.prompts.items()}}
    for name, prompt in prompts.items():
        for task in (None, "query", "document"):
            for text in _PROBES:
                if rendered(text, prompt, task) != frame.about(prompt + text):
                    raise ModelError(_said(name, task, text))
    return frame


def _said(name: str, task: str | None, text: str) -> str:
    if name:
        return (
            f"its chat template puts the prompt {name!r} elsewhere than right before the text, "
            "inside the frame, or trims the text behind it, which is not supported; to export the "
            "model for texts without one, remove the prompts from config_sentence_transformers.json"
        )
    what = f"a {task}" if task else repr(text[:30])
    return (
        f"its chat template does more with {what} than to put fixed text around it; only a fixed "
        "frame, of a text as it is or trimmed, is supported"
    )


def _rendering(
    model: Any,
) -> tuple[Callable[[str, str, str | None], str], tuple[int, ...]]:
    """Returns the function (text, prompt, task) → what the template makes of it, and the ids that
    end every text, one that is cut as well. Raises ModelError for a template that fails."""
    first = model[0]
    how = dict(first.processing_kwargs.get("chat_template", {}))
    ends = how.pop("restore_suffix", True)
    for name in _SIZES:
        how.pop(name, None)
    holder = first.processor if getattr(first.processor, "chat_template", None) else first.tokenizer
    told = first._chat_template_declares_task()

    def messages(text: str, prompt: str) -> Any:
        formatter = first.input_formatter
        made = formatter.batch_to_message("text", {"text": [text]})[1]["message"]
        return (formatter.prepend_prompt_to_messages(made, prompt) if prompt else made)[0]

    def rendered(text: str, prompt: str, task: str | None) -> str:
        own = {"task": task, **how} if task and told else how
        return holder.apply_chat_template(messages(text, prompt), tokenize=False, **own)

    try:
        rendered("a", "", None)
        suffix = first._chat_template_suffix_ids(messages("a", ""), how, {}, {}) if ends else ()
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"its chat template makes no text of a message: {type(error).__name__}: {said}"
        ) from error
    return rendered, tuple(suffix)
