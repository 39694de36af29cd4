"""Reasons for torch's failures, in one sentence: torch's own messages run over pages, with colours
and next steps for the model's author."""

from __future__ import annotations

import re
from collections.abc import Iterator

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_OPERATOR = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.:]+)'")
_GUARD = re.compile(r"satisfy the generated guard (.+)")
"""A condition on sizes under which torch.export traced."""
_BY_VALUE = ("data-dependent", "DataDependent", "unbacked", ".item()", "tolist")
"""Parts of torch.export's messages where Python asks for the value of a tensor."""


def sentence(error: BaseException) -> str:
    """Returns the first meaningful line of an error's text, in plain letters, and the next one
    where it ends in a colon."""
    lines = [" ".join(line.split()) for line in _COLOURS.sub("", str(error)).splitlines()]
    lines = [line for line in lines if line.strip("-=*#: ")] or [type(error).__name__]
    found = lines[0]
    if found.endswith(":") and len(lines) > 1:
        found = f"{found} {lines[1]}"
    return found[:300].rstrip(": ")


def why(error: BaseException) -> str:
    """Returns the cause behind an error of torch.export or torch.onnx, in one sentence."""
    for one in _causes(error):
        if (found := _OPERATOR.search(str(one))) is not None:
            return f"there is no ONNX form of {found[1]}, which it computes with"
    said = f"{type(error).__name__} {error}"
    if (guard := _GUARD.search(str(error))) is not None:
        held = guard[1].replace("L['input_ids'].size()[1]", "tokens")
        return (
            "its Python code computes in another way for some numbers of tokens (it was traced for "
            f"those of {' '.join(held.split())[:120]}), and a graph computes the same for all"
        )
    if "specialized it to be a constant" in str(error):
        return (
            "its Python code computes with the number of tokens as a constant, and a graph takes "
            "texts of any"
        )
    if any(word in said for word in _BY_VALUE):
        return (
            "its Python code chooses what to compute by the values of its input, as mixtures of "
            "experts do that send each token elsewhere, and a graph computes the same for all "
            f"({sentence(error)})"
        )
    return sentence(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and its causes, the error first."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__
