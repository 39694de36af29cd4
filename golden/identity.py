"""A model's identity: the files that define its function, and the digest of their digests."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

# Files that define the function of a SentenceTransformer folder: weights, configurations, the
# tokenizer, and its own code. Matched against the file's name, in any folder.
_DEFINING = re.compile(
    r"""
      .+\.safetensors | .+\.bin | .+\.index\.json
    | artifact\.metadata
    | config\.json | modules\.json | router_config\.json
    | config_sentence_transformers\.json | sentence_\w+_config\.json
    | adapter_config\.json | preprocessor_config\.json | processor_config\.json
    | tokenizer.*\.json | special_tokens_map\.json | added_tokens\.json
    | vocab\.(txt|json) | merges\.txt | .+\.model | .+\.spm | .+\.bpe
    | .+\.jinja | .+\.tiktoken
    | .+\.py
    """,
    re.VERBOSE,
)
# Names that match the above but do not define the function: leftovers of training.
_TRAINING = re.compile(r"training_args\.bin|optimizer.*\.bin|scheduler.*\.bin|train_script\.py")
# Other forms of the same model, which a download may have or leave out.
_EXPORTS = re.compile(r"onnx|openvino|coreml|gguf|openvino_.+", re.IGNORECASE)


def defines(path: str) -> bool:
    """Whether the file at `path` (posix, relative to the model's folder) defines the function."""
    pure = PurePosixPath(path)
    if any(part.startswith(".") or _EXPORTS.fullmatch(part) for part in pure.parts):
        return False
    return bool(_DEFINING.fullmatch(pure.name)) and not _TRAINING.fullmatch(pure.name)


def fingerprint(digests: Mapping[str, str]) -> str:
    """sha256 over the sorted lines "path sha256", one per defining file: a model's identity."""
    lines = "".join(f"{path} {digest}\n" for path, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
