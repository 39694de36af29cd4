"""Settings of a Transformer's folder, read before any library acts on them: a setting that would
run foreign code, or load other files than those that were checked, is refused by name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from goldfold.exporter.frontend import trunks
from goldfold.exporter.frontend.weights import read_object, refusal

_CODE_FILES = ("config.json", "tokenizer_config.json", "processor_config.json")
_SENTENCE_SETTINGS = re.compile(r"sentence_[\w-]+_config\.json")

_LENGTHS = ("max_seq_length", "query_length", "document_length")

_MODEL_GROUPS = ("model_args", "model_kwargs")
_MODEL_CHOICES = frozenset(
    {
        "dtype", "torch_dtype", "attn_implementation", "add_pooling_layer", "low_cpu_mem_usage",
        "reference_compile", "output_attentions", "output_hidden_states", "trust_remote_code",
    }
)  # fmt: skip
"""Arguments that a saved model may give to `from_pretrained`: types, and options of the
architecture. All its other arguments choose other weights, devices, adapters or kernels."""

_ELSEWHERE = re.compile(
    r".*_(file|path|dir)|gguf_file|subfolder|revision|code_revision|token|use_auth_token|proxies"
    r"|cache_dir|force_download|local_files_only|auto_map|transformers_weights"
    r"|quantization_config|name_or_path"
)
"""Names of settings that lead loaders to other files, or to other places."""

_FILLING = "query_expansion"
"""A group whose `token` is one of the vocabulary, and no key to a hub."""

_ATTENTION = re.compile(r"_?(attn|experts)_implementation(_internal)?")
_PLAIN_ATTENTION = (None, "eager", "sdpa", "batched_mm", "grouped_mm")
"""Attention implementations that transformers has itself, on a CPU; others are packages, or kernels
that it fetches from the hub."""


@dataclass(frozen=True)
class OwnCode:
    """The classes that one file's `auto_map` names in transformers' place: class by role, as
    {"AutoModel": "NomicBertModel"}."""

    file: Path
    classes: tuple[tuple[str, str], ...]
    model_type: str
    here: bool
    """Whether the code lies in the folder; otherwise it is on the hub, in a repository that is
    named."""


def own_code(folder: Path) -> tuple[OwnCode, ...]:
    """Returns the classes that each file of a Transformer's folder takes from code that comes with
    the model."""
    found = []
    for name in _CODE_FILES:
        file = folder / name
        config = read_object(file) if file.is_file() else {}
        if "auto_map" not in config:
            continue
        asked = config["auto_map"]
        if not isinstance(asked, dict):
            raise refusal(f"{file}: auto_map is no object; correct it")
        classes = tuple((str(role), _bare(named)) for role, named in asked.items())
        here = not any("--" in str(named) for named in asked.values())
        found.append(OwnCode(file, classes, str(config.get("model_type", "")), here))
    return tuple(found)


def code_refusal(code: OwnCode, why: str) -> Exception:
    """Returns the refusal of code that comes with a model."""
    return refusal(
        f"{code.file}: auto_map asks to run code that comes with the model, which is refused "
        f"because that code can do anything{why}; read it, then pass --trust-remote-code"
    )


def check(folder: Path, trust_remote_code: bool) -> None:
    """Refuse settings of a Transformer's folder that choose other weights, code or files than were
    checked. With `trust_remote_code` the model may choose anything except adapters and quantized
    checkpoints, which goldfold cannot use.

    Raises ModelError, naming the file, the setting and what to do.
    """
    file = folder / "config.json"
    config = read_object(file)
    if "configuration_files" in config:
        raise refusal(
            f"{file}: configuration_files has transformers read another file in its place, by "
            "version; make that one config.json, and remove the setting"
        )
    if "quantization_config" in config:
        method = config["quantization_config"]
        method = method.get("quant_method") if isinstance(method, dict) else method
        raise refusal(
            f"{file}: quantization_config ({method}) says that the checkpoint is quantized; "
            "goldfold quantizes by itself and proves it against the original, so give that"
        )
    if not (trust_remote_code and "auto_map" in config):
        trunks.check(file, config)
    for settings in sorted(folder.iterdir()):
        if _SENTENCE_SETTINGS.fullmatch(settings.name):
            check_counts(settings, read_object(settings), _LENGTHS)
    if trust_remote_code:
        return
    for name, value in _nested(config):
        if _ATTENTION.fullmatch(name):
            _check_attention(file, name, value)
    for settings in sorted(folder.iterdir()):
        if _SENTENCE_SETTINGS.fullmatch(settings.name):
            _check_sentence_settings(settings, read_object(settings))


def check_counts(file: Path, config: Mapping[str, Any], names: Collection[str]) -> None:
    """Refuse a setting of `names` that is set and is not a whole number from 1."""
    for name in names:
        value = config.get(name)
        if value is not None and (type(value) is not int or value < 1):
            raise refusal(
                f"{file}: {name} is {value!r}; it must be a whole number from 1, or left out"
            )


def _check_sentence_settings(file: Path, config: Mapping[str, Any]) -> None:
    elsewhere = config.get("tokenizer_name_or_path")
    if elsewhere is not None:
        raise refusal(
            f"{file}: tokenizer_name_or_path is {elsewhere!r}, a tokenizer outside the model's "
            "folder; put its files there, and remove the setting"
        )
    for group, settings in config.items():
        if not isinstance(settings, dict) or group == _FILLING:
            continue
        for choice, value in settings.items():
            if _ATTENTION.fullmatch(choice):
                _check_attention(file, f"{group}.{choice}", value)
            elif group in _MODEL_GROUPS and choice not in _MODEL_CHOICES:
                raise _elsewhere(file, group, choice, "other weights, or in another way,")
            elif _ELSEWHERE.fullmatch(choice):
                raise _elsewhere(file, group, choice, "other files")


def _elsewhere(file: Path, group: str, choice: str, what: str) -> Exception:
    return refusal(
        f"{file}: {group} sets {choice!r}, which can load {what} than what was checked; remove "
        "it, or pass --trust-remote-code"
    )


def _check_attention(file: Path, name: str, value: Any) -> None:
    values = value.values() if isinstance(value, dict) else (value,)
    for one in values:
        if one not in _PLAIN_ATTENTION:
            raise refusal(
                f"{file}: {name} is {one!r}, which is no way of computing of transformers' own on "
                "a CPU (eager, sdpa), and may be code that is fetched from the hub; remove it"
            )


def _nested(config: Mapping[str, Any], depth: int = 8) -> Iterator[tuple[str, Any]]:
    """Yields settings and those of parts, such as `text_config`."""
    for name, value in config.items():
        yield name, value
        if isinstance(value, dict) and depth:
            yield from _nested(value, depth - 1)


def _bare(named: Any) -> str:
    """Returns the class's own name: of "org/name--module.Class", or of a pair of tokenizers."""
    if isinstance(named, list):
        named = next((one for one in reversed(named) if one), "")
    return str(named).rpartition(".")[2]
