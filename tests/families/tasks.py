"""The models of the other tasks that the page of families shows: a seeded small one each.

Two layers, as in families.py. Texts are as long as the makers of the tests have them, of few golden
texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from goldfold.golden import late, scoring, tokenizer_file
from goldfold.golden import make as golden_make
from goldfold.golden.tasks import EMBEDDING, MULTI, SCORES, SPARSE
from goldfold.golden.token_texts import drawn
from tests import late_models, rankers, sparse_models
from tests.families.families import FAMILIES, LONGEST, Family

TEXTS = (
    "card-query", "english-titled", "german-query", "russian", "chinese", "code-python",
    "emoji-single", "empty", "blank-spaces", "one-letter", "prompt-query", "prompt-document",
    "length-16", "length-33", "length-40", "length-45",
)  # fmt: skip
"""The golden texts of embeddings."""
WEIGHED = ("card-query", "german-query", "chinese", "code-python", "one-letter", "length-16")
"""The golden texts of sparse encoders."""
_EVERY = 40
"""Of the drawn texts, each so many's first."""
_RANKED = 5
"""The documents of each query."""
_PAIRS = ("pair-chinese", "pair-empty", "beyond-both", "length-16")


@dataclass(frozen=True)
class Model:
    """One row of a task: `maker` saves it into a folder, and returns that."""

    name: str
    task: str
    maker: Callable[[Path], Path]
    tail: str
    longest: int
    route: str | None = None

    @property
    def kind(self) -> str:
        return f"{self.task}, {self.name}"

    @property
    def buckets(self) -> tuple[int, ...]:
        """Core ML's lengths."""
        return (self.longest,)

    def build(self, folder: Path) -> Path:
        """Save the model and return its folder."""
        return self.maker(folder)


def _ranker(name: str, kind: str, labels: int = 1, form: str = "hub") -> Model:
    maker = partial(_scored, kind, labels, form)
    tail = f"{labels} label{'s'[: labels > 1]}"
    return Model(name, SCORES, maker, tail, rankers.LONGEST)


def _scored(kind: str, labels: int, form: str, folder: Path) -> Path:
    return rankers.build(kind, folder, labels, form)


def _routed(folder: Path) -> Path:
    return sparse_models.routed(folder, folder.with_name("masked"), "distilbert")


def _splade(folder: Path) -> Path:
    return sparse_models.build("bert", folder, form="hub")


def _csr(folder: Path) -> Path:
    return sparse_models.csr("bert", folder, folder.with_name("dense"))


MODELS = (
    _ranker("BERT", "bert"),
    _ranker("XLM-R", "roberta"),
    _ranker("DeBERTa-v2", "deberta", 3, "saved"),
    _ranker("ModernBERT", "modernbert"),
    _ranker("ELECTRA", "electra"),
    Model("Qwen 3, LogitScore", SCORES, rankers.build_generative, "two tokens' logits", 160),
    _ranker("Qwen 3, sequence classification", "qwen3"),
    Model("BERT SPLADE", SPARSE, _splade, "max → log1p relu", sparse_models.LONGEST),
    Model(
        "DistilBERT, document route",
        SPARSE,
        _routed,
        "max → log1p relu twice",
        sparse_models.LONGEST,
        "document",
    ),
    Model("Table, query route", SPARSE, _routed, "a row", sparse_models.LONGEST, "query"),
    Model("BERT, CSR", SPARSE, _csr, "mean → normalize → 16 of 256 units", sparse_models.LONGEST),
    Model(
        "BERT, ColBERT",
        MULTI,
        partial(late_models.build, "bert"),
        "32 Identity unbiased → normalize",
        late_models.LONGEST,
    ),
    Model(
        "ModernBERT, PyLate",
        MULTI,
        partial(late_models.pylate, "modernbert"),
        "32 Identity unbiased → normalize",
        late_models.DOCUMENT,
    ),
)
SHOWN: tuple[Family | Model, ...] = (*FAMILIES, *MODELS)
"""All rows of the page."""


def task_of(family: Family | Model) -> str:
    return family.task if isinstance(family, Model) else EMBEDDING


def buckets_of(family: Family | Model) -> tuple[int, ...]:
    return family.buckets if isinstance(family, Model) else (16, LONGEST)


@contextmanager
def few(task: str) -> Iterator[None]:
    """Let goldens be made of few texts, and tokenizers be compared on few drawn ones."""
    with ExitStack() as stack:
        put = stack.enter_context
        only = TEXTS if task == EMBEDDING else WEIGHED
        put(patch.object(golden_make, "make", partial(golden_make.make, only=only)))
        put(patch.object(scoring, "drafts", partial(_some, scoring.drafts)))
        put(patch.object(late, "drafts", partial(_some, late.drafts)))
        put(patch.object(late, "_ranked", partial(_some, late._ranked)))
        put(patch.object(tokenizer_file, "drawn", lambda *given: drawn(*given)[::_EVERY]))
        yield


def _some(drafts: Callable[..., Iterator[Any]], *given: Any) -> Iterator[Any]:
    """A few of the drafts: each query with its first documents, and texts by their names."""
    for draft in drafts(*given):
        stem, _, place = draft.id.rpartition("-")
        if stem in ("rank-0", "rank-1", "document"):
            if int(place) < _RANKED:
                yield draft
        elif stem == "query" or draft.kind == "call" or draft.id in (*WEIGHED, *_PAIRS):
            yield draft
