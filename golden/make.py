"""The reference makes goldens: sentence-transformers in fp32 on the CPU, without code of ours.

Each text goes in alone, so that no golden depends on padding: the effect of padding on an artifact
is then measured against a value without any.
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

from goldfold.golden.errors import GoldenError
from goldfold.golden.store import Case, Goldens, fingerprint
from goldfold.golden.tasks import EMBEDDING, MULTI, SCORES
from goldfold.golden.texts import Draft, drafts, sentences

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Progress = Callable[[str, int, int], None]
"""Called with (text id, texts done, texts in all) after each text."""

_PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers", "numpy")

_COMPANY = 1e-3
"""A share of a vector's length. Measured: rounding in f32 moved it by at most 1.1e-6, on every kind
of tests/models.py, EmbeddingGemma-300M and all-MiniLM-L6-v2; padding that counts moved it by 0.4
and more, on BERT without a mask and padded on the left."""

# Tokenizers without a limit declare 1e30; fitting texts to that length would never end.
_LONGEST = 1 << 17


def make(
    model_dir: Path,
    *,
    name: str,
    digests: Mapping[str, str],
    trust_remote_code: bool = False,
    progress: Progress | None = None,
    only: Collection[str] | None = None,
    max_length: int | None = None,
    task: str = EMBEDDING,
) -> Goldens:
    """Run the reference over the golden texts of the model in `model_dir`.

    Args:
        model_dir: the folder that sentence-transformers loads.
        name: the name of the model.
        digests: sha256 of each file that defines the model (`store.defines`).
        trust_remote_code: whether code that comes with the model may run.
        progress: called for each text.
        only: run these text ids alone (tests use it).
        max_length: cut texts to this many tokens, if the model's own length is not less.
        task: what the model gives (golden/tasks.py).

    Returns:
        One float32 row per text, as `encode` returns it without further normalisation. Texts
        without tokens are left out: the reference has no embedding of them.

    Raises:
        GoldenError: the model cannot be loaded, gives no maximum length, gives a non-finite or zero
            embedding, or knows none of the ids in `only`.
    """
    if task != EMBEDDING:
        from goldfold.golden import late, scoring

        how = scoring.Asked(model_dir, name, digests, trust_remote_code, max_length)
        return (scoring if task == SCORES else late).make(how, progress)
    model = open_reference(model_dir, trust_remote_code)
    own = model.max_seq_length
    if max_length is None and not (isinstance(own, int) and 0 < own <= _LONGEST):
        raise GoldenError(
            f"{name} declares no usable maximum length ({own}); set max_seq_length in its "
            "sentence_bert_config.json, or ask for a shorter one"
        )
    if max_length is not None:
        shorten(model, max_length)
    _check_company(model, model_dir)
    cases: list[Case] = []
    rows: list[np.ndarray] = []
    try:
        _run(model, name, only, progress, cases, rows)
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # Rust's error is no Exception
            raise GoldenError(f"{model_dir}: its tokenizer gives up on a text: {error}") from None
        if not isinstance(error, _Beyond):
            raise
        beyond = error
        # A table of positions may be shorter than the declared length: find the longest text.
        length = _bearable(model, beyond.tokens)
        if length < 1:
            raise _cannot_run(model_dir, beyond.error) from beyond.error
        shorten(model, length)
        cases.clear()
        rows.clear()
        try:
            _run(model, name, only, progress, cases, rows)
        except _Beyond as again:
            raise _cannot_run(model_dir, again.error) from again.error
    for case, row in zip(cases, rows, strict=True):
        if not np.isfinite(row).all() or not row.any():
            raise GoldenError(
                f"{model_dir}: the reference's embedding of {case.id!r} is not finite, or zero"
            )
    embeddings = np.stack(rows)
    return Goldens(
        model=name,
        fingerprint=fingerprint(digests),
        dim=embeddings.shape[1],
        max_length=max(lengths_of(model).values()),
        normalized=is_unit(embeddings),
        provenance=provenance_of(model, digests),
        cases=tuple(cases),
        embeddings=embeddings,
        prompts={name: prompt or "" for name, prompt in model.prompts.items()},
    )


def _check_company(model: SentenceTransformer, model_dir: Path) -> None:
    """Refuse a model that embeds a text differently beside a longer one: an artifact then has no
    fixed reference. Raises GoldenError."""
    short, long = "one", " ".join(sentences()[:2])
    if not all(count(model, text) for text in (short, long)):
        return
    how: Any = {"prompt": "", "convert_to_numpy": True, "show_progress_bar": False}
    try:
        with one_thread():
            alone = np.asarray(model.encode([short], **how), np.float64)[0]
            beside = np.asarray(model.encode([short, long], batch_size=2, **how), np.float64)[0]
    except Exception:  # the model cannot run on these: the golden texts give the reason
        return
    size = float(np.linalg.norm(alone))
    if not float(np.linalg.norm(beside - alone)) <= _COMPANY * size:
        raise GoldenError(
            f"{model_dir}: sentence-transformers gives a text another vector beside a longer one, "
            f"{np.linalg.norm(beside - alone) / size:.1e} of its length apart: its padding counts; "
            "correct padding_side, model_input_names or return_attention_mask in its settings"
        )


class _Beyond(Exception):
    """The reference failed on a text of this many tokens."""

    def __init__(self, tokens: int, error: Exception) -> None:
        super().__init__(str(error))
        self.tokens, self.error = tokens, error


def _cannot_run(model_dir: Path, error: Exception) -> GoldenError:
    return GoldenError(
        f"sentence-transformers cannot run {model_dir}: {type(error).__name__}: {error}"
    )


def _run(
    model: SentenceTransformer,
    name: str,
    only: Collection[str] | None,
    progress: Progress | None,
    cases: list[Case],
    rows: list[np.ndarray],
) -> None:
    """Encode every draft, in order, into `cases` and `rows`. Raises _Beyond for a failed text."""
    lengths = lengths_of(model)
    prompts = {key: value for key, value in model.prompts.items() if value}
    plain = lengths.pop("")
    plan = drafts(prompts, lambda text: count(model, text), plain, lengths)
    if only is not None:
        if unknown := sorted(set(only) - {draft.id for draft in plan}):
            raise GoldenError(f"{name} has no golden text called {unknown[0]!r}")
        plan = tuple(draft for draft in plan if draft.id in only)
    for done, draft in enumerate(plan, start=1):
        tokens = count(model, draft.prompt + draft.text)
        if tokens:
            try:
                with one_thread():
                    prompt, ids, row = _encode(model, draft)
            except GoldenError:
                raise
            except Exception as error:  # torch's, of sizes that do not fit, or a setting's effect
                raise _Beyond(min(tokens, max(plain, *lengths.values())), error) from error
            if len(ids) > lengths.get(draft.call, plain):
                raise GoldenError(f"the reference read {len(ids)} tokens of {draft.id!r} uncut")
            cases.append(Case(draft.id, draft.kind, draft.text, prompt, ids, draft.call))
            rows.append(row)
        if progress is not None:
            progress(draft.id, done, len(plan))


def is_unit(embeddings: np.ndarray) -> bool:
    """Whether every row of [N, D] has norm 1 within 1e-5.

    A row that was divided by its own f32 norm misses 1 by the rounding of a sum of D squares,
    about sqrt(D) * 2^-24 in practice: 4e-6 at D = 4096. No pipeline without a final Normalize
    brings a hundred different texts that close to 1.
    """
    norms = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    return bool((np.abs(norms - 1.0) < 1e-5).all())


def open_reference(model_dir: Path, trust_remote_code: bool, task: str = EMBEDDING) -> Any:
    """The model in fp32 on the CPU, of the class of sentence-transformers for its task. Raises
    GoldenError where it cannot be loaded."""
    import sentence_transformers
    import torch

    try:
        with quiet():
            return getattr(sentence_transformers, _CLASSES[task])(
                str(model_dir),
                device="cpu",
                model_kwargs={"dtype": torch.float32},
                local_files_only=True,
                trust_remote_code=trust_remote_code,
            )
    except Exception as error:
        # A damaged setting raises any kind of error, a TypeError as well as a RuntimeError.
        said = " ".join(str(error).split())[:600] or "no reason given"
        kind = type(error).__name__
        raise GoldenError(
            f"sentence-transformers cannot load {model_dir}: {kind}: {said}"
        ) from error


_CLASSES = {
    EMBEDDING: "SentenceTransformer",
    SCORES: "CrossEncoder",
    MULTI: "MultiVectorEncoder",
}


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


def shorten(model: SentenceTransformer, length: int) -> None:
    """Let every call cut texts to `length` tokens at most."""
    first: Any = model[0]
    model.max_seq_length = min(model.max_seq_length or length, length)
    for name in ("query_length", "document_length"):
        if getattr(first, name, None) is not None:
            setattr(first, name, min(getattr(first, name), length))
    for settings in getattr(first, "processing_kwargs", {}).values():
        if settings.get("max_length") is not None:
            settings["max_length"] = min(settings["max_length"], length)


def lengths_of(model: SentenceTransformer) -> dict[str, int]:
    """The number of tokens that each call of `store.CALLS` reads of an endless text, and "" for
    `encode` with a prompt. The model itself is asked, whatever setting decides the number."""
    declared = model.max_seq_length or 1
    tasks = {"": None, "encode": None, "encode_query": "query", "encode_document": "document"}
    own = [getattr(model[0], f"{task}_length", None) or 0 for task in ("query", "document")]
    most = max(declared, *own)
    endless = " ".join(sentences())
    while (whole := count(model, endless)) <= most:
        endless += f" {endless}"
    found = {}
    for call, task in tasks.items():
        features = model.preprocess([endless], **({} if task is None else {"task": task}))
        found[call] = int(features["input_ids"].shape[1])
        if found[call] >= whole:
            raise GoldenError(
                "the model cuts no text: its settings (processing_kwargs in "
                "sentence_bert_config.json) turn truncation off"
            )
    return found


def _bearable(model: SentenceTransformer, length: int) -> int:
    """The most tokens, below `length`, that the model runs on."""
    import torch

    good, bad = 0, length
    while bad - good > 1:
        middle = (good + bad) // 2
        features = model.preprocess(["a b"])
        ids = features["input_ids"][:, :1].expand(1, middle)
        same = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if "token_type_ids" in features:
            same["token_type_ids"] = torch.zeros_like(ids)
        try:
            with torch.inference_mode(), one_thread():
                model({**features, **same})
            good = middle
        except Exception:
            bad = middle
    return good


def count(model: SentenceTransformer, text: str) -> int:
    """The number of a text's tokens, specials included, uncut."""
    # verbose=False: texts beyond the limit are wanted here, the tokenizer's warning is not.
    return len(model.tokenizer(text, truncation=False, verbose=False)["input_ids"])


def _encode(model: SentenceTransformer, draft: Draft) -> tuple[str, tuple[int, ...], np.ndarray]:
    """(prompt, token ids that the first module received, float32 [D]) of one text encoded alone.

    Prompt and ids are caught on their way into the model instead of being computed a second time:
    a second call could differ in prompt or truncation, and would then certify the wrong ids.
    """
    caught: list[Any] = []
    prompts: list[str | None] = []
    own = model.preprocess

    def preprocess(texts: Any, prompt: str | None = None, **how: Any) -> Any:
        prompts.append(prompt)
        return own(texts, prompt=prompt, **how)

    hook = model[0].register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    model.preprocess = preprocess  # type: ignore[method-assign]
    try:
        call = getattr(model, draft.call or "encode")
        rows = call(
            [draft.text],
            # An explicit prompt, "" included, keeps encode from falling back on the model's
            # default_prompt_name; None alone falls back, as in a call without a prompt.
            prompt=None if draft.call else draft.prompt,
            batch_size=1,
            normalize_embeddings=False,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
    finally:
        del model.preprocess
        hook.remove()
    if len(caught) != 1 or "input_ids" not in caught[0]:
        raise GoldenError("the model's first module takes no token ids: nothing to compare with")
    features = caught[0]
    if "attention_mask" in features and not bool(features["attention_mask"].bool().all()):
        raise GoldenError(f"the reference padded {draft.id!r}, although it went in alone")
    ids = tuple(int(i) for i in features["input_ids"][0])
    return prompts[-1] or "", ids, np.asarray(rows[0], dtype=np.float32)


def provenance_of(model: SentenceTransformer, digests: Mapping[str, str]) -> dict[str, Any]:
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
