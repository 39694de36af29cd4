"""The lengths that are measured: those of long models end before the model's own does.

Attention that is not fused holds one f32 score for each head and each pair of tokens. A text of
32,768 tokens and 16 heads needs 64 GiB for them, one of 4,096 tokens 1 GiB. A text beyond the
measured lengths is neither passed nor failed, and every record of the artifact says so.
"""

from __future__ import annotations

WHOLE = 8192
"""The longest model, in tokens, whose own length is measured."""
CAPPED = 4096
"""Tokens of the longest golden text of a model that reads more than `WHOLE`."""


def reach(max_length: int) -> int:
    """Returns the tokens of the longest golden text of a model that reads `max_length`."""
    return max_length if max_length <= WHOLE else CAPPED


def unmeasured(longest: int, max_length: int) -> str:
    """Returns the sentence on the lengths that an artifact takes and that were not measured, ""
    where there are none. `longest` is the tokens of the longest measured text."""
    if max_length <= WHOLE or longest >= max_length:
        return ""
    return (
        f"Texts of up to {longest:,} tokens were measured; it takes {max_length:,}, and longer "
        "texts were not measured."
    )


def notes(longest: int, max_length: int) -> tuple[str, ...]:
    """Returns the notes for a manifest: that sentence, or none."""
    said = unmeasured(longest, max_length)
    return (said,) if said else ()
