"""The fixed tokens that a chat template puts around a text, as part of the tokenizer itself.

Where a model's folder asks for messages, sentence-transformers makes a message of each text, and a
Jinja template makes tokens of the message. Where these are always the same tokens, then those of
the text alone, then the same tokens again, the template is a frame; a tokenizer.json can say it,
as it says of other models that texts begin and end with special tokens. What is found here on a few
texts is compared with sentence-transformers on the drawn ones (witness.py).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

from goldfold.golden.errors import GoldenError

_PROBES = (
    "one",
    "Two words.",
    "7",
    "  blanks  around  ",
    "\n\na line\n\n",
    "日本語, Ünïcödé & <b>tags</b>",
    "{{ braces }} {% if x %}",
    "",
    "user\nassistant: system",
)
"""Texts that templates treat in other ways than most: they are trimmed, or read as markup."""
_TASKS = (None, "query", "document")


def tokenizer_of(model: Any) -> str:
    """Returns the tokenizer of a SentenceTransformer as its Rust library writes it, its frame as
    the special tokens that it adds. Raises GoldenError for a template that is no frame."""
    from tokenizers import Tokenizer

    whole = model.tokenizer.backend_tokenizer.to_str(pretty=False)
    if "message" not in getattr(model[0], "modality_config", {}):
        return whole
    framed = Tokenizer.from_str(whole)
    framed.no_padding()
    framed.no_truncation()
    before, after = _frame(model, framed)
    names = {id_: framed.id_to_token(id_) for id_ in (*before, *after)}

    def special(ids: Sequence[int]) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": names[id_], "type_id": 0}} for id_ in ids]

    text, other = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    record = json.loads(whole)
    record["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [*special(before), text, *special(after)],
        "pair": [*special(before), text, other, *special(after)],
        "special_tokens": {
            name: {"id": name, "ids": [id_], "tokens": [name]} for id_, name in names.items()
        },
    }
    return Tokenizer.from_str(json.dumps(record, ensure_ascii=False)).to_str(pretty=False)


def plain_tokenizer(model: Any) -> str:
    """Returns the tokenizer of a SentenceTransformer as a chat template's text goes through it: its
    special tokens are added only if they are in the reference."""
    from tokenizers import Tokenizer

    whole = Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str(pretty=False))
    whole.no_padding()
    whole.no_truncation()
    added = whole.encode(rendered(model, "one"), add_special_tokens=True).ids
    if _ids(model, "one") != added:
        record = {**json.loads(whole.to_str()), "post_processor": None}
        whole = Tokenizer.from_str(json.dumps(record, ensure_ascii=False))
    return whole.to_str(pretty=False)


def rendered(model: Any, text: str) -> str:
    """Returns what the chat template makes of a text alone."""
    first = model[0]
    made = first.input_formatter.batch_to_message("text", {"text": [text]})[1]["message"]
    own = {"padding", "truncation", "max_length", "return_tensors", "restore_suffix"}
    said = first.processing_kwargs.get("chat_template", {})
    how = {key: value for key, value in said.items() if key not in own}
    holder = first.processor if getattr(first.processor, "chat_template", None) else first.tokenizer
    return holder.apply_chat_template(made[0], tokenize=False, **how)


def is_framed(model: Any) -> bool:
    """Whether a chat template stands around texts that is no part of the tokenizer."""
    if "message" not in getattr(model[0], "modality_config", {}):
        return False
    try:
        tokenizer_of(model)
    except GoldenError:
        return True
    return False


def plain(model: Any, texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Returns the ids of each text in the tokenizer that a chat template's text goes through."""
    from tokenizers import Tokenizer

    made = Tokenizer.from_str(plain_tokenizer(model)).encode_batch_fast(list(texts))
    return {text: tuple(one.ids) for text, one in zip(texts, made, strict=True)}


def _frame(model: Any, plain: Any) -> tuple[list[int], list[int]]:
    """Returns the ids before and after every text."""
    rows = {text: _ids(model, text) for text in _PROBES}
    own = {text: plain.encode(text, add_special_tokens=False).ids for text in _PROBES}
    empty = rows[""]
    first = _common(list(rows.values()))
    before, after = empty[:first], empty[first:]
    for text, ids in rows.items():
        if ids != [*before, *own[text], *after]:
            raise GoldenError(
                f"its chat template makes other tokens of {text!r} than fixed ones, those of the "
                "text, and fixed ones; only a template that is a fixed frame is supported"
            )
    _check_edges(plain, before[-1:], after[:1])
    prompts = dict(model.prompts)
    for (name, prompt), task in itertools.product({"": "", **prompts}.items(), _TASKS):
        for text in _PROBES:
            wanted = plain.encode((prompt or "") + text, add_special_tokens=False).ids
            if _ids(model, text, prompt or "", task) != [*before, *wanted, *after]:
                where = f"the prompt {name!r}" if name else f"a {task}"
                raise GoldenError(
                    f"its chat template puts {where} elsewhere than right before the text, inside "
                    "the frame; only that is supported"
                )
    return before, after


def _ids(model: Any, text: str, prompt: str = "", task: str | None = None) -> list[int]:
    """Returns the ids that reach the first module, as `encode` makes them."""
    said = {} if task is None else {"task": task}
    made = model.preprocess([text], prompt=prompt or None, **said)
    return made["input_ids"][0].tolist()


def _common(rows: Sequence[Sequence[int]]) -> int:
    """Returns how many ids all rows begin with."""
    same = itertools.takewhile(lambda ids: len(set(ids)) == 1, zip(*rows, strict=False))
    return sum(1 for _ in same)


def _check_edges(plain: Any, last: Sequence[int], first: Sequence[int]) -> None:
    """Refuse a frame whose edge can become one token with a text: only an added token, which is
    taken out before anything else is read, cannot."""
    added = plain.get_added_tokens_decoder()
    edges = [(id_, "rstrip") for id_ in last] + [(id_, "lstrip") for id_ in first]
    for id_, strips in edges:
        token = added.get(id_)
        if token is None or getattr(token, strips) or token.normalized:
            raise GoldenError(
                f"its chat template puts {plain.id_to_token(id_)!r} next to the text, which is "
                "read together with the text's letters; only an added token there is supported"
            )
