"""Kinds of model, by the facts in a folder: the task of those that goldfold exports, and for every
other one a refusal under its own name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from goldfold.exporter.frontend import model_folder
from goldfold.exporter.frontend.weights import read_object, refusal
from goldfold.golden import tasks
from goldfold.golden.tasks import EMBEDDING, MULTI, SCORES

RERANKER = "a reranker or classifier, which scores texts and pairs of texts"
SPARSE = "a sparse encoder, which gives a text a weight for each token of its vocabulary"
LATE = "a late-interaction model, which gives a text a vector for each of its tokens"
ROUTED = "a routed model, in which queries and documents take different ways"
IMAGE = "a model of images and text"

_TASKS = {
    "SentenceTransformer": EMBEDDING,
    "CrossEncoder": SCORES,
    "SparseEncoder": tasks.SPARSE,
    "MultiVectorEncoder": MULTI,
    "ColBERT": MULTI,
}
"""`model_type` in config_sentence_transformers.json. PyLate writes the last."""
_PYLATE = "query_prefix"
"""A setting of config_sentence_transformers.json that only PyLate writes."""
_STANFORD = "HF_ColBERT"
"""The class that config.json names where Stanford's ColBERT wrote the model."""

_MODULES = {
    "MLMTransformer": SPARSE,
    "SpladePooling": SPARSE,
    "SparseAutoEncoder": SPARSE,
    "SparseStaticEmbedding": SPARSE,
    "IDF": SPARSE,
    "MultiVectorMask": LATE,
    "Router": ROUTED,
    "Asym": ROUTED,
}
"""Modules of sentence-transformers that only such models have."""
_SPARSE_MODULES = ("MLMTransformer", "SpladePooling", "SparseStaticEmbedding", "SparseAutoEncoder")
"""Those of them that goldfold exports; `Router` is one where the model says that it is sparse."""
_MASKED = "ForMaskedLM"
"""The ending of transformers' classes of which sentence-transformers makes sparse encoders."""

_SCORING = "ForSequenceClassification"
"""The ending of transformers' classes that give a text, or a pair of texts, logits."""
_HEADS = {
    "ForTokenClassification": "a classifier of tokens",
    "ForQuestionAnswering": "a model that marks answers in a text",
    "ForMultipleChoice": "a model that chooses among answers",
    "ForImageClassification": IMAGE,
    "ForConditionalImageGeneration": IMAGE,
    "ForImageTextToText": IMAGE,
}
_ARCHITECTURES = {"ColBERT": LATE}
"""Endings, and whole names, of the class that config.json names."""

_TAGS = {
    "cross-encoder": RERANKER,
    "reranker": RERANKER,
    "text-ranking": RERANKER,
    "splade": SPARSE,
    "sparse-encoder": SPARSE,
    "colbert": LATE,
    "late-interaction": LATE,
    "multi-vector": LATE,
    "pylate": LATE,
}
"""Tags of a model card, in small letters. Used only where no modules.json says more."""


def task_of(path: Path) -> str:
    """Returns the task of the model in a folder (golden/tasks.py). Refuses a folder whose files say
    that it is a kind of model that goldfold does not export, or none."""
    settings, said = path / "config_sentence_transformers.json", None
    if settings.is_file():
        stated = read_object(settings)
        said = stated.get("model_type")
        if said not in _TASKS and said is not None:
            raise _refused(settings, f"model_type is {said!r}")
        if said is None and _PYLATE in stated:  # PyLate, before it wrote a type
            return MULTI
    if _TASKS.get(str(said), EMBEDDING) != EMBEDDING:
        return _TASKS[str(said)]
    if (path / "modules.json").is_file():
        return EMBEDDING
    if is_stanford(path):
        return MULTI
    if (path / "artifact.metadata").is_file():  # Stanford's ColBERT writes it beside its weights
        raise _refused(path / "artifact.metadata", f"the model is {LATE}")
    config = path / "config.json"
    if not config.is_file():
        raise refusal(_no_model(path))
    if _named(config, _SCORING):
        return SCORES
    _check_config(config)
    card = model_folder.card_of(path)
    said = {} if card is None else model_folder.front_of(card)
    tags = said.get("tags")
    for tag in (*(tags if isinstance(tags, list) else ()), said.get("pipeline_tag")):
        if (kind := _TAGS.get(str(tag).lower())) == RERANKER:
            return SCORES
        if kind == SPARSE and _named(config, _MASKED):
            return tasks.SPARSE
        if kind is not None:
            raise _refused(path / "README.md", f"its tag {tag!r} says that the model is {kind}")
    return EMBEDDING


def check_modules(file: Path, types: Sequence[str], task: str = EMBEDDING) -> None:
    """Refuse a modules.json whose modules make another kind of model than `task`."""
    fitting = (*_SPARSE_MODULES, "Router") if task == tasks.SPARSE else ()
    for dotted in types:
        bare = dotted.rpartition(".")[2]
        ours = dotted.startswith("sentence_transformers.")
        if ours and bare == "CSRSparsity":
            raise refusal(
                f"{file}: its module {bare} ({dotted}) has a name that sentence-transformers no "
                "longer loads; write sentence_transformers.sparse_encoder.modules.SparseAutoEncoder"
            )
        kind = LATE if dotted.startswith("pylate.") else _MODULES.get(bare) if ours else None
        if kind is None or bare in fitting:
            continue
        if bare in _SPARSE_MODULES:  # sentence-transformers itself would load it as another kind
            raise refusal(
                f"{file}: its module {bare} ({dotted}) says that the model is {kind}, and "
                "config_sentence_transformers.json does not: set model_type to 'SparseEncoder'"
            )
        if kind == LATE:
            raise refusal(
                f"{file}: its module {bare} ({dotted}) says that the model is {kind}, and "
                "config_sentence_transformers.json does not; set model_type there to "
                "'MultiVectorEncoder', or to 'ColBERT' for PyLate's"
            )
        raise _refused(file, f"its module {bare} ({dotted}) says that the model is {kind}")


def is_stanford(path: Path) -> bool:
    """Returns whether transformers' own files are Stanford's ColBERT, whose projection is among the
    transformer's weights."""
    config = path / "config.json"
    named: Any = read_object(config).get("architectures") if config.is_file() else None
    return isinstance(named, list) and _STANFORD in named


def _named(config: Path, ending: str) -> bool:
    """Returns whether transformers' own files are of a class whose name ends so."""
    named: Any = read_object(config).get("architectures")
    return isinstance(named, list) and any(str(one).endswith(ending) for one in named)


def _check_config(file: Path) -> None:
    config = read_object(file)
    if config.get("model_type") == "model2vec":
        raise refusal(
            f"{file}: model_type is 'model2vec', and there is no modules.json, without which "
            "sentence-transformers does not load it; save StaticEmbedding.from_model2vec(folder), "
            "which needs the package model2vec, as a SentenceTransformer's one module"
        )
    named: Any = config.get("architectures")
    for architecture in named if isinstance(named, list) else ():
        ends = (kind for end, kind in _HEADS.items() if str(architecture).endswith(end))
        kind = _ARCHITECTURES.get(str(architecture)) or next(ends, None)
        if kind is not None:
            raise _refused(file, f"its architecture {architecture} is {kind}")


def _refused(file: Path, why: str) -> Exception:
    return refusal(
        f"{file}: {why}; goldfold exports models that embed texts, with one vector a text, dense "
        "or sparse, or one a token, and models that score pairs of texts, and does not support "
        "this kind"
    )


def _no_model(path: Path) -> str:
    if any(path.glob("*.gguf")):
        return f"{path}: holds GGUF files, which goldfold does not read; give the model itself"
    inner = sorted(file.parent for file in path.glob("*/config.json"))
    hint = f"; {inner[0]} has one: is it that?" if inner else ""
    return (
        f"{path}: not a model's folder, for it has neither modules.json nor config.json{hint}; "
        "give the folder that SentenceTransformer(...).save wrote, or transformers' own"
    )
