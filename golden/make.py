"""Make goldens: run the reference, sentence-transformers in fp32 on the CPU, and nothing of ours.

Each text goes in alone, so that no golden depends on padding: what padding does to an artifact is
then measured against a value that never met any.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from golden.errors import GoldenError
from golden.store import Case, Goldens, fingerprint
from golden.texts import Draft, drafts

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Progress = Callable[[str, int, int], None]
"""Called with (text id, texts done, texts in all) after each text."""

_PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers", "numpy")

# Tokenizers without a limit say 1e30; fitting texts to that length would never end.
_LONGEST = 1 << 17


def make(
    model_dir: Path,
    *,
    name: str,
    digests: Mapping[str, str],
    trust_remote_code: bool = False,
    progress: Progress | None = None,
    only: Collection[str] | None = None,
) -> Goldens:
    """Run the reference over the golden texts of the model in `model_dir`.

    `digests` maps each file that defines the model (`store.defines`) to its sha256; `only` limits
    the run to these text ids (tests use it). The result has one float32 row a text, as `encode`
    returns it without further normalisation.

    Raises GoldenError where the model cannot be loaded, gives no maximum length, gives a
    non-finite or zero embedding, or knows none of the ids in `only`.
    """
    model = open_reference(model_dir, trust_remote_code)
    max_length = model.max_seq_length
    if not isinstance(max_length, int) or not 0 < max_length <= _LONGEST:
        raise GoldenError(f"{name} declares no usable maximum length ({max_length})")

    prompts = {key: value for key, value in model.prompts.items() if value}
    plan = drafts(prompts, lambda text: _count(model, text), max_length)
    if only is not None:
        if unknown := sorted(set(only) - {draft.id for draft in plan}):
            raise GoldenError(f"{name} has no golden text called {unknown[0]!r}")
        plan = tuple(draft for draft in plan if draft.id in only)

    cases: list[Case] = []
    rows: list[np.ndarray] = []
    for done, draft in enumerate(plan, start=1):
        try:
            with _one_thread():
                ids, row = _encode(model, draft)
        except GoldenError:
            raise
        except Exception as error:  # torch's of sizes that do not fit, and whatever a setting does
            said = f"{type(error).__name__}: {error}"
            raise GoldenError(f"sentence-transformers cannot run {model_dir}: {said}") from error
        if not np.isfinite(row).all() or not row.any():
            raise GoldenError(
                f"{model_dir}: the reference's embedding of {draft.id!r} is not finite, or zero"
            )
        if len(ids) > max_length:
            raise GoldenError(f"the reference read {len(ids)} tokens of {draft.id!r} uncut")
        cases.append(Case(draft.id, draft.kind, draft.text, draft.prompt, ids))
        rows.append(row)
        if progress is not None:
            progress(draft.id, done, len(plan))

    embeddings = np.stack(rows)
    return Goldens(
        model=name,
        fingerprint=fingerprint(digests),
        dim=embeddings.shape[1],
        max_length=max_length,
        normalized=is_unit(embeddings),
        provenance=_provenance(model, digests),
        cases=tuple(cases),
        embeddings=embeddings,
    )


def is_unit(embeddings: np.ndarray) -> bool:
    """Whether every row of [N, D] has norm 1 within 1e-5.

    A row that was divided by its own f32 norm misses 1 by the rounding of a sum of D squares,
    about sqrt(D) * 2^-24 in practice: 4e-6 at D = 4096. No pipeline without a final Normalize
    brings a hundred different texts that close to 1.
    """
    norms = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    return bool((np.abs(norms - 1.0) < 1e-5).all())


def open_reference(model_dir: Path, trust_remote_code: bool) -> SentenceTransformer:
    """The model in fp32 on the CPU. Raises GoldenError where it cannot be loaded."""
    import torch
    from sentence_transformers import SentenceTransformer

    try:
        with _quiet():
            return SentenceTransformer(
                str(model_dir),
                device="cpu",
                model_kwargs={"dtype": torch.float32},
                local_files_only=True,
                trust_remote_code=trust_remote_code,
            )
    except Exception as error:
        # What a damaged setting sets off is of any kind, a TypeError as well as a RuntimeError.
        said = " ".join(str(error).split())[:600] or "no reason given"
        kind = type(error).__name__
        raise GoldenError(
            f"sentence-transformers cannot load {model_dir}: {kind}: {said}"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers draws a progress bar and prints a table of what does not fit, and asks nobody;
    what matters of it is in what it raises."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """How a matrix product is split among threads decides in which order it is summed: with one,
    the same machine gives the same last bits whatever the number it would take."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _count(model: SentenceTransformer, text: str) -> int:
    # verbose=False: texts beyond the limit are wanted here, the tokenizer's warning is not.
    return len(model.tokenizer(text, truncation=False, verbose=False)["input_ids"])


def _encode(model: SentenceTransformer, draft: Draft) -> tuple[tuple[int, ...], np.ndarray]:
    """(token ids that the first module received, float32 [D]) of one text encoded alone.

    The ids are caught on their way into the model instead of being tokenized a second time: a
    second call could differ in prompt or truncation, and would then certify the wrong ids.
    """
    caught: list[Any] = []
    hook = model[0].register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    try:
        # An explicit prompt, "" included, keeps encode from falling back on the model's
        # default_prompt_name; only None would.
        rows = model.encode(
            [draft.text],
            prompt=draft.prompt,
            batch_size=1,
            normalize_embeddings=False,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
    finally:
        hook.remove()
    if len(caught) != 1 or "input_ids" not in caught[0]:
        raise GoldenError("the model's first module takes no token ids: nothing to compare with")
    features = caught[0]
    if "attention_mask" in features and not bool(features["attention_mask"].bool().all()):
        raise GoldenError(f"the reference padded {draft.id!r}, although it went in alone")
    ids = tuple(int(i) for i in features["input_ids"][0])
    return ids, np.asarray(rows[0], dtype=np.float32)


def _provenance(model: SentenceTransformer, digests: Mapping[str, str]) -> dict[str, Any]:
    """Where the numbers came from; no date and no path, so that the same run gives the same."""
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    return {
        "reference": "sentence-transformers",
        "versions": {package: metadata.version(package) for package in _PACKAGES},
        "device": "cpu",
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "attention": str(getattr(config, "_attn_implementation", "unknown")),
        "digests": dict(sorted(digests.items())),
    }
