"""What two artifacts promise their callers: the differences by name, whatever the numbers say, and
the sizes at which the two may be mixed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from goldfold.exporter.contract import Task
from goldfold.exporter.errors import UsageError
from goldfold.exporter.index.sides import Side

_TASKS = ("", "query", "document")
_SHOWN = 60
"""Characters of a prompt that a sentence repeats."""


def differences(old: Side, new: Side) -> tuple[str, ...]:
    """Returns one sentence for each thing that callers of the two artifacts must do otherwise, or
    that makes other vectors of some texts."""
    return tuple(_differences(old, new))


def _differences(old: Side, new: Side) -> Iterator[str]:
    ours, theirs = new.contract, old.contract
    for task in ("query", "document"):
        was, now = theirs.prompt_of(task), ours.prompt_of(task)
        if was != now:
            yield f"the prompt of a {task} is {_shown(now)}, and was {_shown(was)}"
    if set(ours.prompts.items()) != set(theirs.prompts.items()):
        names = sorted({name for name, _ in ours.prompts.items() ^ theirs.prompts.items()})
        yield f"the prompts differ: {', '.join(names)}"
    if ours.default_prompt_name != theirs.default_prompt_name:
        was, now = (c.default_prompt_name or "none" for c in (theirs, ours))
        yield f"the default prompt is {now}, and was {was}"
    if ours.normalized != theirs.normalized:
        said = ("is not normalised", "is normalised")
        yield f"an embedding {said[ours.normalized]}, and {said[theirs.normalized]} in the index"
    if ours.similarity != theirs.similarity:
        yield f"the similarity is {ours.similarity}, and was {theirs.similarity}"
    for task in cast("tuple[Task, ...]", _TASKS):
        was, now = theirs.length_of(task), ours.length_of(task)
        if was != now:
            yield f"a {task or 'text'} is cut at {now} tokens, and was at {was}"
    if ours.truncation_side != theirs.truncation_side:
        yield f"texts lose tokens on the {ours.truncation_side}, and lost them on the other side"
    if ours.unpooled != theirs.unpooled:
        yield "pooling leaves out other tokens of a prompt"
    if ours.frame != theirs.frame:
        yield "the chat template is another"
    if new.tokenizer != old.tokenizer:
        yield f"the tokenizer is another: {new.tokenizer[:12]}, and was {old.tokenizer[:12]}"
    if ours.cut != theirs.cut:
        sizes = (f"{c.cut.kept} ids" if c.cut else "whole" for c in (ours, theirs))
        yield "the vocabulary is {}, and was {}".format(*sizes)


def size(old: Side, new: Side, dims: int | None, indexed: int | None = None) -> int:
    """Returns the number of dimensions at which the two are mixed: `dims`, the size of the index's
    vectors, or that of OLD.

    Raises UsageError where NEW has fewer, or where cutting NEW to it has no meaning.
    """
    wanted = indexed or dims or old.contract.dim
    if indexed and dims and dims != indexed:
        raise UsageError(f"--dims is {dims}, and the vectors have {indexed} dimensions")
    for side in (new,) if indexed else (new, old):
        if wanted > side.contract.dim:
            raise UsageError(
                f"an index of {wanted} dimensions cannot be searched by {side.name}, which has "
                f"{side.contract.dim}; rebuild the index with it"
            )
    cut = wanted < new.contract.dim
    if cut and not (dims or new.origin == old.origin or wanted in new.contract.heads):
        raise UsageError(
            f"the index has {wanted} dimensions and {new.name} has {new.contract.dim}, of another "
            f"model ({new.origin}, not {old.origin}); rebuild the index, or say --dims {wanted} if "
            f"the first {wanted} are an embedding of their own"
        )
    return wanted


def mixable(old: Side, new: Side, size: int) -> str:
    """Returns the sizes at which the two may be mixed, in words."""
    said = f"{size} dimensions"
    for side in (old, new):
        if side.contract.dim > size:
            said += f", {side.name} cut from {side.contract.dim}"
    if heads := sorted({*old.contract.heads} & {*new.contract.heads} - {size}, reverse=True):
        said += f"; {', '.join(map(str, heads))} as well, by heads of both"
    return f"{said}; another size is measured with --dims, and takes both sides cut to it"


def _shown(prompt: str) -> str:
    if not prompt:
        return "empty"
    return repr(prompt if len(prompt) <= _SHOWN else f"{prompt[:_SHOWN]}…")
