"""The Lee corpus holds 50 short news texts, and people's similarity judgements of every pair (Lee,
Pincombe and Welsh, 2005). It is read from gensim's test data; gensim itself is not imported.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from goldfold.golden.errors import GoldenError

_TEXTS = "lee.cor"
_JUDGEMENTS = "similarities0-1.txt"
_COUNT = 50


@dataclass(frozen=True, slots=True)
class Lee:
    """`people` is f64 [50, 50], symmetric, 0 (unlike) to 1 (alike), 1 on the diagonal."""

    texts: tuple[str, ...]
    people: np.ndarray


def unavailable() -> str | None:
    """The reason why the corpus cannot be read here, in one line; None if it can."""
    folder = _folder()
    if folder is None:
        return (
            "the Lee corpus comes with gensim, which is not installed: pip install goldfold[judge]"
        )
    missing = [name for name in (_TEXTS, _JUDGEMENTS) if not (folder / name).is_file()]
    return f"this gensim came without {folder / missing[0]}" if missing else None


def load() -> Lee:
    """Read the corpus. Raises GoldenError where it is absent, or has another form."""
    if reason := unavailable():
        raise GoldenError(reason)
    folder = _folder()
    assert folder is not None
    texts = tuple((folder / _TEXTS).read_text("latin-1").split("\n"))
    texts = tuple(text.strip() for text in texts if text.strip())
    try:
        upper = np.loadtxt(folder / _JUDGEMENTS)
    except ValueError as error:
        raise GoldenError(f"{folder / _JUDGEMENTS} holds no numbers: {error}") from None
    if len(texts) != _COUNT or upper.shape != (_COUNT, _COUNT):
        raise GoldenError(f"{folder} holds {len(texts)} texts and {upper.shape} judgements, not 50")
    above = np.triu(upper, 1)
    return Lee(texts, above + above.T + np.eye(_COUNT))


def _folder() -> Path | None:
    spec = importlib.util.find_spec("gensim")
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    return Path(places[0], "test", "test_data") if places else None
