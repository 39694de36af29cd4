"""Adapters (LoRA and the like) are merged into the model that they lie upon, by the library peft.

The merged model is written into a folder of its own, which is then the source: its digests, its
constants and its reference are those of the merged weights.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

from goldfold.exporter.frontend.weights import is_inside, read_json, read_object, refusal

CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_TEXTS = (".json", ".txt", ".model", ".md", ".jinja", ".spm")
"""Endings of the files that the merged folder takes over, besides licences without an ending."""


def found(path: Path) -> Path | None:
    """Returns the folder of the adapter in a model's folder: that of its first module, or the
    model's own; None where there is none."""
    places, file = [path], path / "modules.json"
    listed = read_json(file) if file.is_file() else []
    for entry in listed if isinstance(listed, list) else ():
        inner = entry.get("path") if isinstance(entry, dict) else None
        if isinstance(inner, str) and is_inside(inner):
            places.append(path / inner)
    return next((p for p in places if any((p / n).is_file() for n in (CONFIG, _WEIGHTS))), None)


def merged(path: Path, folder: Path) -> Path:
    """Returns a copy of the model in `path` whose adapter in `folder` is merged into the weights
    below it; it is removed when the process ends. Raises ModelError where peft is not installed,
    and for an adapter that it cannot load, or not from files of this machine."""
    file = folder / (CONFIG if (folder / CONFIG).is_file() else _WEIGHTS)
    if find_spec("peft") is None:
        raise refusal(
            f"{file}: the model is an adapter (LoRA or the like) upon another one, which the "
            "package peft merges: pip install peft; or merge it with peft's merge_and_unload, save "
            "the result and its tokenizer into a copy of this folder without the adapter_* files, "
            "and give that"
        )
    base = read_object(folder / CONFIG).get("base_model_name_or_path")
    if not (folder / _WEIGHTS).is_file() or not isinstance(base, str):
        raise refusal(
            f"{file}: the adapter needs {_WEIGHTS} and base_model_name_or_path; save it again"
        )
    view = Path(tempfile.mkdtemp(prefix="goldfold-merged-"))
    atexit.register(shutil.rmtree, view, ignore_errors=True)
    for one in sorted(path.rglob("*")):
        own = one.name.startswith("adapter_") and one.parent == folder
        kept = one.suffix in (*_TEXTS, "") or (one.suffix == ".safetensors" and not own)
        if own or not one.is_file() or not kept or one.name.startswith("."):
            continue
        place = view / one.relative_to(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(one, place)
    try:
        _merge(base, folder, view / folder.relative_to(path))
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise refusal(
            f"{file}: peft does not merge the adapter into {base!r}: {type(error).__name__}: "
            f"{said}; the model below it must lie on this machine, as safetensors"
        ) from error
    return view


def _merge(base: str, folder: Path, place: Path) -> None:
    """Write the model `base`, with the adapter merged into it, to `place`, in float32."""
    import torch
    from peft import PeftModel  # pyright: ignore[reportMissingImports]
    from transformers import AutoModel

    how = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32}
    below = AutoModel.from_pretrained(base, trust_remote_code=False, **how)
    whole = PeftModel.from_pretrained(below, str(folder), local_files_only=True)
    whole.merge_and_unload().save_pretrained(place, safe_serialization=True)
