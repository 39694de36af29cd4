"""Pickled weights as safetensors: only torch's restricted unpickler reads them, which makes tensors
and runs no code."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path

from goldfold.exporter.errors import ModelError


def convert(file: Path, place: Path) -> None:
    """Write the tensors of a pickled state dict as the safetensors file `place`, bit by bit.

    Weights are memory-mapped where the file's form allows it. Raises ModelError, naming the file,
    for a file that holds anything but tensors under names, or cannot be read.
    """
    import torch
    from safetensors.torch import save_file

    try:
        mapped = zipfile.is_zipfile(file)  # torch's form since 1.6
        with warnings.catch_warnings():  # of odd protocols; loading decides about these
            warnings.simplefilter("ignore")
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is not None:
            raise ModelError(
                f"{file}: holds more than tensors: unpickling it would call {named[1]}, which is "
                "refused because that can do anything; get the model as safetensors"
            ) from error
        raise _refused(file, "is no file of pickled tensors", error) from error
    except Exception as error:  # zip, storage or type: torch has no common class
        raise _refused(file, "cannot be read as pickled weights", error) from error
    if not isinstance(state, dict) or not state:
        raise ModelError(f"{file}: holds no state dict of tensors; save the model as safetensors")
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or tensor.is_sparse:
            raise ModelError(
                f"{file}: its entry {str(name)[:80]!r} is no tensor under a name; save the model "
                "as safetensors"
            )
        storage = tensor.untyped_storage().data_ptr()
        # Two names for one tensor, and views, are written out: safetensors has no sharing.
        tensors[name] = tensor.clone() if storage in seen else tensor.contiguous()
        seen.add(storage)
    save_file(tensors, place, metadata={"format": "pt"})


def _refused(file: Path, why: str, error: Exception) -> ModelError:
    return ModelError(
        f"{file}: {why}, or damaged ({type(error).__name__}); fetch the model again, or save it as "
        "safetensors"
    )
