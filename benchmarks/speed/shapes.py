"""What is asked of every side: sizes as text, and the goldens that a speed run looks at."""

from __future__ import annotations

from goldfold.golden.store import Goldens


def shape_of(text: str) -> tuple[int, int]:
    """Returns batch and tokens of `8x128`. Raises SystemExit with a line for what is no shape."""
    batch, _, tokens = text.partition("x")
    if not (batch.isdigit() and tokens.isdigit() and int(batch) and int(tokens)):
        raise SystemExit(f"error: a shape is batch x tokens, as 8x128, not {text!r}")
    return int(batch), int(tokens)


def few(goldens: Goldens) -> Goldens:
    """Every fourth text of up to 600 tokens: all kinds, both sides of the window, in a minute."""
    short = goldens.within(600)
    rows = range(0, len(short.cases), 4)
    return type(short)(
        **{
            name: getattr(short, name)
            for name in ("model", "fingerprint", "dim", "max_length", "normalized", "provenance")
        },
        cases=tuple(short.cases[row] for row in rows),
        embeddings=short.embeddings[list(rows)],
    )
