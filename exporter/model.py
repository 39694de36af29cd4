"""Open a SentenceTransformer, and refuse the unsafe and the unsupported before any heavy work.

Only JSON, safetensors headers and names are read here: no torch, no transformers, no weights. What
is refused falls under three heads, each a `ModelError` of one line:

- **unsafe**: code of the model's own (`auto_map`, a foreign module type), pickled weights, paths
  that leave the folder. `trust_remote_code` allows `auto_map`, custom activations and pickles.
- **damaged**: files cut off or malformed; NaN and Inf in the weights (`check_finite`).
- **unsupported**: a module that goldfold does not know, or a setting that the graph cannot carry.
  Nothing is silently dropped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from exporter import modelfolder, names, weights
from exporter.errors import ModelError, UsageError
from exporter.files import expanded
from exporter.weights import read_json, read_object, refusal

SUPPORTED = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")
"""The module kinds that can be exported. Dropout is the identity at inference."""

_WEIGHTED = ("Transformer", "Dense", "LayerNorm")
_CONFIGURED = (*_WEIGHTED, "Pooling")
_LONGEST_NAME = 255
_GENERIC_NAMES = ("model", "snapshot")

_OTHER_FORMAT_FOLDERS = ("onnx", "openvino")
_OTHER_FORMAT_SUFFIXES = (".bin", ".h5", ".msgpack", ".onnx", ".ot", ".pt", ".pth", ".pkl")
_FETCHED = (
    "*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.md", "LICENSE*", "LICENCE*",
    "NOTICE*", "COPYING*", "USE_POLICY*",
)  # fmt: skip
_NOT_FETCHED = (
    *(f"{folder}/*" for folder in _OTHER_FORMAT_FOLDERS),
    *(f"*{suffix}" for suffix in _OTHER_FORMAT_SUFFIXES),
)
_REMOTE_CODE_FILES = ("config.json", "tokenizer_config.json", "processor_config.json")
_TRANSFORMER_SETTINGS = re.compile(r"sentence_[\w-]+_config\.json")
_WEIGHT_CHOICES = ("use_safetensors", "weights_only", "gguf_file", "variant")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class ModuleSpec:
    """One entry of modules.json: its place, its name, its folder below the model ("" is the model's
    own), and the class's dotted name as written there."""

    idx: int
    name: str
    path: str
    type: str

    @property
    def kind(self) -> str:
        """The class's bare name, for example "Dense"."""
        return self.type.rpartition(".")[2]


@dataclass(frozen=True)
class Source:
    """A model's folder that passed every check of `open_model`.

    Attributes:
        path: the folder.
        name: what the model is called in messages, artifacts and stores.
        modules: in the order in which they run.
        prompts: prompt by name; empty if the model declares none.
        default_prompt_name: the prompt that sentence-transformers adds unasked, if any.
        weights: the files that hold the weights, an index before its shards.
        licence_files: licence, notice and terms files, to be copied into every artifact.
        card: the model card, README.md.
        licence: the card's `license:` value, for example "gemma".
        seen: the folder as it was when it was opened.
    """

    path: Path
    name: str
    modules: tuple[ModuleSpec, ...]
    prompts: dict[str, str]
    default_prompt_name: str | None
    weights: tuple[Path, ...]
    licence_files: tuple[Path, ...]
    card: Path | None
    licence: str | None
    seen: modelfolder.Snapshot

    @cached_property
    def digests(self) -> dict[str, str]:
        """sha256, in hex, of each file of the model, by its path below the folder, sorted.

        Hidden files, and the same weights in other formats, are left out: they change nothing that
        is exported. Computed once, at first use (1 s for EmbeddingGemma's 1.2 GB when cached).
        """
        keys = sorted(_list_files(self))
        self.seen.cover(keys)
        found = {key: weights.digest_file(self.path / key) for key in keys}
        self.seen.check(found, found)
        return found

    def check_unchanged(self) -> None:
        """Raise ModelError if a file of the model is not what it was when it was opened, or there
        is another: what was made of it is then not what `digests` names."""
        self.seen.check(self.digests, _list_files(self))


def open_model(
    name_or_path: str | Path, *, name: str | None = None, trust_remote_code: bool = False
) -> Source:
    """Open a SentenceTransformer's folder, or fetch it from the hub, and check all but its weights.

    Args:
        name_or_path: a folder, or a hub id of the form "org/name". A folder that exists wins.
        name: what to call the model; by default its folder's or the hub id's name.
        trust_remote_code: allow `auto_map`, custom activations and pickled weights.

    Raises:
        ModelError: one line saying what is wrong, where, and what to do.
        UsageError: `name` is no line of text.
    """
    if name is not None and (not name.strip() or names.steers(name) or len(name) > _LONGEST_NAME):
        raise UsageError(
            f"--name {names.line(name[:40])!r}: a name is one line of 1 to {_LONGEST_NAME} letters"
        )
    path, default_name = _locate(name_or_path, trust_remote_code)
    seen = modelfolder.look(path)
    modules = _read_modules(path, trust_remote_code)
    weight_files: list[Path] = []
    for module in modules:
        folder = path / module.path
        _check_settings(folder, module, trust_remote_code)
        if module.kind in _WEIGHTED:
            weight_files += weights.find_weights(folder, allow_pickle=trust_remote_code)
    prompts, default_prompt_name = _read_prompts(path)
    card = modelfolder.card_of(path)
    return Source(
        path=path,
        name=name or names.line(default_name),
        modules=modules,
        prompts=prompts,
        default_prompt_name=default_prompt_name,
        weights=tuple(weight_files),
        licence_files=modelfolder.licence_files(path),
        card=card,
        licence=None if card is None else modelfolder.licence_of(card),
        seen=seen,
    )


def check_finite(source: Source, progress: Callable[[int, int], None] | None = None) -> None:
    """Read all safetensors weights of `source` once; refuse NaN and Inf (0.2 s per GB if cached).

    Args:
        source: an opened model. Pickled weights, where they were allowed, are not looked at.
        progress: called with (bytes read so far, bytes in all) after each tensor.

    Raises:
        ModelError: names the file, the tensor, how many values are not finite, the first's index.
    """
    files = [path for path in source.weights if path.suffix == ".safetensors"]
    weights.scan_finite(files, progress)


def _locate(name_or_path: str | Path, trust_remote_code: bool) -> tuple[Path, str]:
    """The model's folder, absolute, and what to call it."""
    text = str(name_or_path)
    path = expanded(text)
    if "\0" in text or not text.strip():
        raise refusal(f"{text!r}: not the name of a model; give a folder or a hub id org/name")
    if path.is_file():
        raise refusal(f"{path}: is a file; give the SentenceTransformer folder that holds it")
    if path.is_dir():
        path = path.absolute()
        return path, _name_folder(path)
    if isinstance(name_or_path, Path) or not _HUB_ID.fullmatch(text):
        raise refusal(
            f"{text}: no such folder, and not a hub id either; a hub id has the form org/name"
        )
    return _fetch(text, trust_remote_code), text.rpartition("/")[2]


def _name_folder(path: Path) -> str:
    """The folder's own name, or a telling one where that says nothing."""
    # The hub's cache: models--ORG--NAME/snapshots/COMMIT.
    if path.parent.name == "snapshots" and path.parents[1].name.startswith("models--"):
        return path.parents[1].name.rpartition("--")[2]
    real = path.resolve()
    return real.parent.name if real.name in _GENERIC_NAMES else real.name


def _fetch(hub_id: str, trust_remote_code: bool) -> Path:
    """Download a hub model, leaving pickles and other formats where they are."""
    # Imported here: opening a folder needs none of it.
    from huggingface_hub import snapshot_download

    allowed: list[str] = [*_FETCHED]
    ignored: list[str] = [*_NOT_FETCHED]
    if trust_remote_code:
        allowed += ["*.py", "*.bin"]
        ignored.remove("*.bin")
    try:
        folder = snapshot_download(hub_id, allow_patterns=allowed, ignore_patterns=ignored)
    # The client raises its own errors, httpx's, and OSError; each means: no model to open.
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        raise refusal(
            f"{hub_id}: no such folder, and the hub did not give a model of that name "
            f"({type(error).__name__}: {first_line}); check the name, the network and the hub "
            "login, or give a folder"
        ) from error
    return Path(folder).absolute()


def _read_modules(path: Path, trust_remote_code: bool) -> tuple[ModuleSpec, ...]:
    """modules.json, each entry checked, in the order in which the modules run."""
    file = path / "modules.json"
    if not file.is_file():
        raise _not_a_model(path)
    entries = read_json(file)
    if not isinstance(entries, list) or not entries:
        raise refusal(f"{file}: must be a list of modules; save the model again")
    modules = tuple(_read_module(file, place, entry) for place, entry in enumerate(entries))
    for module in modules:
        _check_type(file, module, trust_remote_code)
    kinds = [module.kind for module in modules]
    if kinds[0] != "Transformer" or kinds.count("Transformer") > 1:
        raise refusal(f"{file}: one Transformer must come first, but the modules are {kinds}")
    if "Pooling" not in kinds:
        raise refusal(
            f"{file}: has no Pooling, so there is no sentence embedding, only {kinds}; add one"
        )
    return modules


def _read_module(file: Path, place: int, entry: Any) -> ModuleSpec:
    if not isinstance(entry, dict):
        raise refusal(f"{file}: module {place} is {entry!r}, not an object; save the model again")
    for key in ("name", "path", "type"):
        if not isinstance(entry.get(key), str):
            raise refusal(f"{file}: module {place} lacks a {key!r}; save the model again")
    relative = entry["path"]
    if not weights.is_inside(relative):
        raise refusal(
            f"{file}: module {place} has the path {relative!r}, which leaves the model's folder; "
            "that is refused, because it would read files that are not the model's"
        )
    if any(len(part.encode("utf-8", "replace")) > 255 for part in relative.split("/")):
        raise refusal(
            f"{file}: the path of module {place} has {len(relative)} letters: no folder's"
        )
    return ModuleSpec(place, entry["name"], relative, entry["type"])


def _check_type(file: Path, module: ModuleSpec, trust_remote_code: bool) -> None:
    """Refuse a module that is not sentence-transformers' own, or is and cannot be exported."""
    ours = re.fullmatch(r"sentence_transformers(\.\w+)+", module.type) is not None
    if ours and module.kind in SUPPORTED:
        return
    supported = ", ".join(SUPPORTED)
    if ours:
        raise refusal(
            f"{file}: module {module.name!r} is a {module.kind} ({module.type}), which goldfold "
            f"does not support; supported are {supported}"
        )
    if not trust_remote_code:
        raise refusal(
            f"{file}: module {module.name!r} is of type {module.type!r}, not one of "
            "sentence-transformers' own: loading it would run code from the model's folder, which "
            f"is refused; supported are {supported}"
        )
    raise refusal(
        f"{file}: module {module.name!r} is of the unknown type {module.type!r}: trusted to run, "
        f"but goldfold does not know what it computes; supported are {supported}"
    )


def _check_settings(folder: Path, module: ModuleSpec, trust_remote_code: bool) -> None:
    """Refuse settings of one module that are unsafe or that the graph could not carry."""
    if module.kind not in _CONFIGURED:
        return
    file = folder / "config.json"
    if not file.is_file():
        raise refusal(f"{file}: missing, and a {module.kind} needs it; fetch the model again")
    config = read_object(file)
    if module.kind == "Transformer":
        _check_transformer(folder, trust_remote_code)
    if module.kind == "Pooling" and config.get("include_prompt", True) is not True:
        raise refusal(
            f"{file}: include_prompt is {config['include_prompt']!r}: pooling that excludes the "
            "prompt is not supported, because the graph does not know the prompt's length"
        )
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    trusted = isinstance(activation, str) and (trust_remote_code or activation.startswith("torch."))
    if module.kind == "Dense" and not trusted:
        raise refusal(
            f"{file}: activation_function {activation!r} is not one of torch's, and "
            "sentence-transformers would silently put Tanh in its place; use one from torch.nn"
        )


def _check_transformer(folder: Path, trust_remote_code: bool) -> None:
    """Refuse remote code, adapters, and settings that choose other weights than were checked."""
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        raise refusal(
            f"{adapter}: the model is an adapter upon another one; merge it (merge_and_unload) and "
            "save the result"
        )
    if trust_remote_code:
        return
    for name in _REMOTE_CODE_FILES:
        file = folder / name
        if file.is_file() and "auto_map" in read_object(file):
            raise refusal(
                f"{file}: auto_map asks to run code that comes with the model, which is refused "
                "because that code can do anything; read it, then pass --trust-remote-code"
            )
    for file in sorted(folder.iterdir()):
        if not _TRANSFORMER_SETTINGS.fullmatch(file.name):
            continue
        for group, settings in read_object(file).items():
            for choice in _WEIGHT_CHOICES:
                if isinstance(settings, dict) and choice in settings:
                    raise refusal(
                        f"{file}: {group} sets {choice!r}, which would load other weights than the "
                        "safetensors that were checked; remove it, or pass --trust-remote-code"
                    )


def _read_prompts(path: Path) -> tuple[dict[str, str], str | None]:
    """The prompts and the default one's name from config_sentence_transformers.json, if there."""
    file = path / "config_sentence_transformers.json"
    if not file.is_file():
        return {}, None
    config = read_object(file)
    kind = config.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise refusal(f"{file}: is a {kind}; goldfold exports SentenceTransformer models only")
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise refusal(f"{file}: prompts must be an object of strings; correct it")
    default = config.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise refusal(
            f"{file}: default_prompt_name {default!r} is none of the prompts {sorted(prompts)}"
        )
    return prompts, default


def _not_a_model(path: Path) -> ModelError:
    if (path / "config.json").is_file():
        return refusal(
            f"{path}: a plain transformers model, for it has no modules.json; wrap it with "
            "SentenceTransformer(path).save(new_folder), which adds mean pooling, and give that"
        )
    return refusal(f"{path}: not a SentenceTransformer folder, for it has no modules.json")


def _list_files(source: Source) -> set[str]:
    """POSIX paths, below the model's folder, of the files that `Source.digests` covers."""
    # Weights always count, also where they are pickles that the caller chose to trust.
    found = {path.relative_to(source.path).as_posix() for path in source.weights}
    for top, folders, files in os.walk(source.path):
        folders[:] = [f for f in folders if f[0] != "." and f not in _OTHER_FORMAT_FOLDERS]
        for name in files:
            path = Path(top, name)
            if name[0] == "." or path.suffix.lower() in _OTHER_FORMAT_SUFFIXES:
                continue
            if path.is_file():
                found.add(path.relative_to(source.path).as_posix())
    return found
