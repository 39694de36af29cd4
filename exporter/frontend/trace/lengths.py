"""Maximum lengths of texts, asked of the model rather than read from its settings:
sentence-transformers decides which of its settings counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.overrides import TorchFunctionMode

from goldfold.exporter.contract import Contract, Task
from goldfold.exporter.errors import ModelError, TextError
from goldfold.exporter.frontend.tokens import Tokens
from goldfold.exporter.frontend.trace import sparse, towers

UNDECLARED = 1 << 17
"""Maximum tokens for a model without a length of its own, where the caller names no smaller one."""

_CODE = "transformers_modules"
"""The package that code which comes with a model is imported as."""
_FILLED = 4096
"""Tokens of the longest text that a model is run on for its tables alone."""
_TASKS: tuple[Task, ...] = ("", "query", "document")
PROSE = (
    "The ferry crosses the strait twice a day, and whoever misses it waits until evening. "
    "Zwei Brücken führen über den Fluss; 他们在河边等船。 "
)
SHORT = ("", " ", "one", "Two words.", "  blanks  around  ", "Ünïcödé, 日本語, 🍞 & <b>tags</b>")


@dataclass(frozen=True)
class Lengths:
    """The maximum lengths of texts in tokens, by task where a task has a smaller one; and notes on
    them."""

    most: int
    by_task: dict[Task, int]
    notes: tuple[str, ...] = ()
    borrowed: bool = False
    """Whether another caller's `asked` could give other lengths, or none."""


def settle(model: Any, asked: int | None) -> Lengths:
    """Returns the lengths of a SentenceTransformer. `asked` is the longest text to expect, in
    tokens.

    A position table with fewer rows limits the lengths. So do rotary angles that change with the
    longest text of a batch; these are then fixed at their values for shorter texts.

    Raises ModelError where no length is declared, or the model's own cannot be supported, unless
    `asked` is smaller.
    """
    borrowed = not _is_declared(model)
    own = _asked_of(model, asked)
    notes: list[str] = []
    if sparse.is_static(model):
        most = max(own.values())
        return Lengths(most, {task: n for task, n in own.items() if n < most}, (), borrowed)
    table = _positions(model)
    if table is not None and table < max(own.values()):
        notes.append(
            f"Texts have {table} tokens at most, which is what its table of positions bears; its "
            f"settings say {max(own.values())}, and sentence-transformers fails on such texts."
        )
        own = _shortened(model, own, table)
    steady = _steady(model)
    if steady is not None:
        limit, kind = steady
        if limit < max(own.values()) and (asked is None or asked > limit):
            raise ModelError(
                f"its rotary angles ({kind}) change with the longest text of a batch beyond "
                f"{limit} tokens, so that a text's embedding depends on its neighbours; pass "
                f"--max-length {limit}, or less"
            )
        borrowed = borrowed or limit < max(own.values())
        own = _shortened(model, own, limit)
        _hold_angles(model)
    most = max(own.values())
    by_task: dict[Task, int] = {task: length for task, length in own.items() if length < most}
    return Lengths(most, by_task, tuple(notes), borrowed)


def side(model: Any) -> Literal["right", "left"]:
    """Returns the side on which texts that are too long lose tokens."""
    return "left" if getattr(model.tokenizer, "truncation_side", "right") == "left" else "right"


def check(model: Any, tokens: Tokens, contract: Contract) -> None:
    """Refuse a model whose texts become other tokens than its tokenizer.json and contract give: a
    setting that goldfold does not know then decides. Raises ModelError, naming what is set."""
    long = PROSE * (2 + 2 * contract.max_length // 20)
    marks = set(model.tokenizer.all_special_tokens) - towers.placeholders(model[0])
    special = " ".join(f"in{token}word" for token in sorted(marks))
    filling = towers.filling_of(model)
    for task in _TASKS:
        for text in (*SHORT, special, long):
            features = _features(model, text, task)
            expected = None if features is None else features["input_ids"][0].tolist()
            if expected is not None:
                expected = towers.own_ids(model, text, expected, filling)
            types = {} if features is None else features
            if "token_type_ids" in types and bool(types["token_type_ids"].any()):
                raise ModelError(
                    f"the tokens of {text[:30]!r} get types other than 0 (the post_processor of "
                    "tokenizer.json says so), which is not supported; remove them"
                )
            try:
                (found,) = tokens.ids([text], task)
            except TextError:
                found = None
            if expected is not None and found != expected:
                raise ModelError(
                    f"its texts become other tokens than its tokenizer.json says ({text[:30]!r}"
                    f"{f' as a {task}' if task else ''}: {_few(expected)}, not {_few(found)}); "
                    f"goldfold does not know all of its settings: {_settings(model)}"
                )


def _shortened(model: Any, own: dict[Task, int], limit: int) -> dict[Task, int]:
    """Returns `own` for texts that the model truncates at `limit` tokens from now on."""
    first = model[0]
    model.max_seq_length = min(model.max_seq_length, limit)
    for name in ("query_length", "document_length"):
        if getattr(first, name, None) is not None:
            setattr(first, name, min(getattr(first, name), limit))
    for settings in getattr(first, "processing_kwargs", {}).values():
        if settings.get("max_length") is not None:
            settings["max_length"] = min(settings["max_length"], limit)
    return {task: min(length, limit) for task, length in own.items()}


def _asked_of(model: Any, asked: int | None) -> dict[Task, int]:
    """Returns how many tokens of an endless text arrive in the model, by task."""
    if not _is_declared(model):
        if asked is None:
            raise ModelError(
                "the model says nowhere how long a text may be; set max_seq_length in its "
                "sentence_bert_config.json, or pass --max-length"
            )
        model.max_seq_length = UNDECLARED
        sparse.limit(model, UNDECLARED)
    own = [getattr(model[0], f"{task}_length", None) or 0 for task in ("query", "document")]
    endless = PROSE * (2 + max(model.max_seq_length, *own) // 8)
    whole = len(model.tokenizer(endless, truncation=False, verbose=False)["input_ids"])
    found: dict[Task, int] = {}
    for task in _TASKS:
        features = _features(model, endless, task)
        assert features is not None
        found[task] = int(features["input_ids"].shape[1])
        if found[task] >= whole:
            raise ModelError(
                "its settings turn truncation off (processing_kwargs in "
                "sentence_bert_config.json), so no text is too long, and no memory enough; remove "
                "that"
            )
    return found


def _is_declared(model: Any) -> bool:
    return isinstance(model.max_seq_length, int) and 0 < model.max_seq_length <= UNDECLARED


def _features(model: Any, text: str, task: Task) -> Any:
    """Returns the first module's inputs for a text; None if its tokenizer makes no token of the
    text."""
    if not len(model.tokenizer(text, truncation=False, verbose=False)["input_ids"]):
        return None
    try:
        pairs = hasattr(model, "predict")  # a CrossEncoder: its inputs are pairs
        return model.preprocess(
            [(text, text) if pairs else text], **({"task": task} if task else {})
        )
    except Exception as error:  # any kind, depending on the setting
        said = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"sentence-transformers makes no tokens of {text[:30]!r}: {type(error).__name__}: "
            f"{said}; its settings are {_settings(model)}"
        ) from error


def _positions(model: Any) -> int | None:
    """Returns the number of rows of the model's learned position table; None if it has none.

    A position table is a table that is looked up by numbers that grow by one from token to token,
    whatever its name.
    """
    trunk = model[0].auto_model
    with torch.no_grad(), eager(trunk), _lookups() as seen:
        ids = torch.full((1, 4), 5, dtype=torch.long)
        try:
            towers.callable_of(model[0])(input_ids=ids, attention_mask=torch.ones_like(ids))
        except Exception:  # tracing reports this with its own message
            return None
    found = [
        rows - int(index.flatten()[0])
        for rows, index in seen
        if index.numel() == 4 and bool((index.flatten().diff() == 1).all())
    ]
    return min(found, default=None)


def fill_tables(trunk: Any, most: int) -> None:
    """Run a transformer whose code comes with the model once on its longest text, so that tables
    which grow with the text (angles, say) have all their rows: that code then asks nothing of the
    length of a text."""
    if not type(trunk).__module__.startswith(_CODE) or most > _FILLED:
        return
    ids = torch.full((1, most), 5, dtype=torch.long)
    with torch.no_grad(), eager(trunk), suppress(Exception):  # the trace reports any error
        trunk(input_ids=ids, attention_mask=torch.ones_like(ids))


@contextmanager
def eager(trunk: Any) -> Iterator[None]:
    """Make the transformer compute attention itself while this is open."""
    every: list[Any] = [getattr(module, "config", None) for module in trunk.modules()]
    held = [config for config in every if hasattr(config, "_attn_implementation")]
    own = [(config, config._attn_implementation) for config in held]
    for config in held:
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        for config, implementation in own:
            config._attn_implementation = implementation


@contextmanager
def _lookups() -> Iterator[list[tuple[int, torch.Tensor]]]:
    """Yields the rows and indices of every lookup in a table while this is open."""
    seen: list[tuple[int, torch.Tensor]] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is torch.nn.functional.embedding:
                given = dict(zip(("input", "weight"), args, strict=False)) | (kwargs or {})
                seen.append((len(given["weight"]), given["input"]))
            return function(*args, **(kwargs or {}))

    with Watch():
        yield seen


def _steady(model: Any) -> tuple[int, str] | None:
    """Returns the longest text that leaves the rotary angles as they are, and what changes them."""
    found: list[tuple[int, str]] = []
    for module in model[0].auto_model.modules():
        kinds = getattr(module, "rope_type", None)
        config = getattr(module, "config", None)
        if kinds is None or config is None:
            continue
        rope = getattr(config, "rope_parameters", None) or {}
        for layer, kind in kinds.items() if isinstance(kinds, dict) else (("", kinds),):
            own = rope.get(layer, {}) if layer else rope
            if kind == "longrope":
                limit = own.get("original_max_position_embeddings")
                found.append((int(limit or config.max_position_embeddings), kind))
            elif "dynamic" in str(kind):
                limit = getattr(module, "original_max_seq_len", config.max_position_embeddings)
                found.append((int(limit), kind))
    return min(found, default=None)


def _hold_angles(model: Any) -> None:
    """Fix the rotary angles at their values for short texts: nothing reads a text's length any
    more."""
    for module in model[0].auto_model.modules():
        kinds = getattr(module, "rope_type", None)
        if isinstance(kinds, dict):
            module.rope_type = dict.fromkeys(kinds, "default")
        elif kinds is not None:
            module.rope_type = "default"


def _few(ids: Sequence[int] | None) -> str:
    return "none" if ids is None else f"{' '.join(map(str, ids[:6]))} …, {len(ids)} in all"


def _settings(model: Any) -> str:
    first = model[0]
    said = {name: getattr(first, name, None) for name in ("processing_kwargs", "do_lower_case")}
    said["tokenizer"] = type(model.tokenizer).__name__
    return ", ".join(f"{name} {value!r}" for name, value in said.items() if value)
