"""The reference: sentence-transformers in fp32 on the CPU, opened and asked for its lengths."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from goldfold.golden import routes, sparse, tables
from goldfold.golden.errors import GoldenError
from goldfold.golden.tasks import EMBEDDING, MULTI, SCORES, SPARSE
from goldfold.golden.texts import sentences

# Tokenizers without a limit declare 1e30; fitting texts to that length would never end.
LONGEST = 1 << 17

Progress = Callable[[str, int, int], None]
"""Called with (text id, texts done, texts in all) after each text."""

_PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers", "numpy")
_CLASSES = {
    EMBEDDING: "SentenceTransformer",
    SCORES: "CrossEncoder",
    SPARSE: "SparseEncoder",
    MULTI: "MultiVectorEncoder",
}


def open_reference(
    model_dir: Path, trust_remote_code: bool, task: str = EMBEDDING, route: str = ""
) -> Any:
    """The model in fp32 on the CPU, of the class of sentence-transformers for its task, narrowed to
    a route where one is named. Raises GoldenError where it cannot be loaded."""
    import sentence_transformers
    import torch

    try:
        with quiet():
            model = getattr(sentence_transformers, _CLASSES[task])(
                str(model_dir),
                device="cpu",
                model_kwargs={"dtype": torch.float32},
                local_files_only=True,
                trust_remote_code=trust_remote_code,
            )
            model = routes.narrowed(model, route)
            # A table keeps the type of its file, whatever is asked for.
            model = model.float() if tables.is_static(model) else model
            _take_strings_as_texts(model)
            return model
    except GoldenError:
        raise
    except Exception as error:
        # A damaged setting raises any kind of error, a TypeError as well as a RuntimeError.
        said = " ".join(str(error).split())[:600] or "no reason given"
        kind = type(error).__name__
        raise GoldenError(
            f"sentence-transformers cannot load {model_dir}: {kind}: {said}"
        ) from error


def _take_strings_as_texts(model: Any) -> None:
    """Let a model of images and text take the address of an image as the text that it is: it would
    fetch it."""
    formatter = getattr(model[0], "input_formatter", None)
    held = getattr(formatter, "supported_modalities", None)
    if formatter is not None and held is not None:
        kept = [one for one in held if one in ("text", "message")]
        formatter.supported_modalities = kept or held


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers, which draws a progress bar and prints a table of mismatched weights;
    its exceptions hold all that matters."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch on one thread: the split of a matrix product among threads decides the order of
    its sum, so with one thread the same machine always gives the same last bits."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def settle(model: Any, name: str, max_length: int | None, file: str = "") -> None:
    """Let the model cut texts to `max_length` tokens, or refuse one that declares no usable length
    of its own. Raises GoldenError, naming the setting."""
    own = model.max_seq_length
    if max_length is not None:
        shorten(model, max_length)
    elif not (isinstance(own, int) and 0 < own <= LONGEST):
        where = file or "max_seq_length in its sentence_bert_config.json"
        raise GoldenError(
            f"{name} declares no usable maximum length ({own}); set {where}, or ask for a shorter "
            "one"
        )


def shorten(model: Any, length: int) -> None:
    """Let every call cut texts to `length` tokens at most."""
    first: Any = model[0]
    if tables.is_static(model):
        tables.cut(model, length)
        return
    model.max_seq_length = min(model.max_seq_length or length, length)
    sparse.shorten(model, length)
    for name in ("query_length", "document_length"):
        if getattr(first, name, None) is not None:
            setattr(first, name, min(getattr(first, name), length))
    for settings in getattr(first, "processing_kwargs", {}).values():
        if settings.get("max_length") is not None:
            settings["max_length"] = min(settings["max_length"], length)


def lengths_of(model: Any) -> dict[str, int]:
    """The number of tokens that each call of `store.CALLS` reads of an endless text, and "" for
    `encode` with a prompt. The model itself is asked, whatever setting decides the number."""
    declared = tables.limit(model, None) or model.max_seq_length or 1
    tasks = {"": None, "encode": None, "encode_query": "query", "encode_document": "document"}
    own = [getattr(model[0], f"{task}_length", None) or 0 for task in ("query", "document")]
    most = max(declared, *own)
    endless = " ".join(sentences())
    while (whole := count(model, endless)) <= most:
        endless += f" {endless}"
    found = {}
    for call, task in tasks.items():
        features = model.preprocess([endless], **({} if task is None else {"task": task}))
        found[call] = int(features["input_ids"].shape[-1])
        if found[call] >= whole:
            raise GoldenError(
                "the model cuts no text: its settings (processing_kwargs in "
                "sentence_bert_config.json) turn truncation off"
            )
    return found


def count(model: Any, text: str) -> int:
    if tables.is_static(model):
        return tables.count(model, text)
    # verbose=False: texts beyond the limit are wanted here, the tokenizer's warning is not.
    how = {"add_special_tokens": False} if sparse.is_static(model) else {}
    return len(model.tokenizer(text, truncation=False, verbose=False, **how)["input_ids"])


def leading(model: Any, features: Mapping[str, Any]) -> int:
    """The number of leading tokens of a text that are a prompt's, and that pooling leaves out;
    `features` are those of the first module."""
    pools = [module for module in model if not getattr(module, "include_prompt", True)]
    return int(features.get("prompt_length") or 0) if pools else 0


def unpooled_of(model: Any) -> dict[str, int]:
    """Those numbers by the name of each prompt; nothing where all tokens are pooled."""
    found = {}
    for name, prompt in model.prompts.items():
        if prompt and (skipped := leading(model, model.preprocess(["one"], prompt=prompt))):
            found[name] = skipped
    return found


def provenance_of(model: Any, digests: Mapping[str, str]) -> dict[str, Any]:
    """The origin of the numbers; no date and no path, so that equal runs give equal records."""
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    return {
        "reference": "sentence-transformers",
        "versions": {package: metadata.version(package) for package in _PACKAGES},
        "device": "cpu",
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "attention": str(getattr(config, "_attn_implementation", "unknown")),
        "digests": dict(sorted(digests.items())),
    }


def is_unit(embeddings: np.ndarray) -> bool:
    """Whether every row of [N, D] has norm 1 within 1e-5.

    A row that was divided by its own f32 norm misses 1 by the rounding of a sum of D squares,
    about sqrt(D) * 2^-24 in practice: 4e-6 at D = 4096. No pipeline without a final Normalize
    brings a hundred different texts that close to 1.
    """
    norms = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    return bool((np.abs(norms - 1.0) < 1e-5).all())
