"""The stages of an export that the cache keeps, and the inputs that make their keys.

* The traced and simplified program. Weights that lie in the source's safetensors are not copied:
  the entry gives their place, and they are memory-mapped from there; only constants that the trace
  made are stored. Its key: the model's defining files, the tracing code and its libraries.
* Measurements on calibration texts: largest magnitudes, and those integers of a recipe that took
  work. Their key: the program itself, to the last bit of its weights; so neither the passes that
  made it nor their options need to be named.

Code is part of every key as the digest of its files, and so are the versions of the libraries and
the kind of processor: another processor may round differently, and a cached export must give the
same bytes as any other on this machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir

from goldfold.exporter import __version__, records
from goldfold.exporter.contract import Contract
from goldfold.exporter.errors import RewriteError
from goldfold.exporter.frontend.source import Source
from goldfold.exporter.frontend.weights import read_header
from goldfold.exporter.ir.program import Arrays, Program, weights_aside
from goldfold.exporter.quantize.recipe import Recipe
from goldfold.exporter.system.cache import Cache, Damaged, key

T = TypeVar("T")

PACKAGES = (
    "torch", "transformers", "sentence-transformers", "tokenizers", "safetensors", "numpy",
    "ml-dtypes", "onnx", "onnx-ir", "onnxscript", "onnxsim", "onnxruntime",
)  # fmt: skip

_SHARED = ("*.py", "driver/cached_stages.py", "system/*.py", "ir/*.py", "frontend/*.py")
TRACING = (*_SHARED, "frontend/trace/*.py")
MEASURING = (
    *_SHARED, "quantize/*.py", "passes/*.py", "passes/rewriting/*.py", "evaluate/*.py",
)  # fmt: skip
"""Files of exporter/ that decide a stage's result, by the prefix of the stage's name."""

_GRAPH, _RECORD, _TOKENIZER, _BYTES = "graph.onnx", "record.json", "tokenizer.json", "constants.bin"
_ARRAYS = "arrays.safetensors"

_ALIGNED = 64
_CHUNK = 1 << 24
_CASTS = {"F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
"""Types of stored weights that the trace turns into fp32, exactly."""


# --- the traced program


@dataclass(frozen=True)
class _Lies:
    """The place of a constant's bytes."""

    file: str
    """A safetensors file below the source's folder, or "" for the entry's own."""
    begin: int
    end: int
    stored: str
    """numpy's name of the type in the file; the constant is fp32 where that is a half."""
    shape: tuple[int, ...]
    """The shape in the file."""
    turned: bool
    """Whether the constant is the transposed matrix, seen through its strides."""


def find_trace(cache: Cache, source: Source) -> Program | None:
    """Returns the program that tracing and simplifying `source` gave, if it is in the cache."""

    def read(folder: Path) -> Program:
        record = json.loads((folder / _RECORD).read_bytes())
        model = ir.serde.deserialize_model(onnx.load_model(folder / _GRAPH))
        _put_back(model, record["constants"], record["order"], source.loads, folder)
        contract = records.read(Contract, record["contract"])
        return Program(
            model,
            contract.with_(model=source.name),
            (folder / _TOKENIZER).read_text(encoding="utf-8"),
            list(record["notes"]),
        )

    found = cache.get("trace", _trace_key(source), _guarded(read))
    if found is not None:
        cache.remark("from the cache")
    return found


def keep_trace(cache: Cache, source: Source, program: Program) -> None:
    """Keep the program that tracing and simplifying `source` gave. Leaves `program` as it is."""

    def write(folder: Path) -> None:
        model = program.copy().model
        order = list(model.graph.initializers)
        places = _Places(source)
        with weights_aside(model) as aside:
            onnx.save_model(ir.to_proto(model), folder / _GRAPH)
        lies: dict[str, dict[str, Any]] = {}
        with (folder / _BYTES).open("wb") as file:
            for value in aside:
                assert value.const_value is not None
                found = places.find(value.const_value)
                lies[value.name or ""] = asdict(found or _append(file, value.const_value))
        record = {
            "contract": program.contract.plain(),
            "notes": program.notes,
            "order": order,
            "constants": lies,
        }
        (folder / _RECORD).write_text(json.dumps(record), encoding="utf-8")
        (folder / _TOKENIZER).write_text(program.tokenizer, encoding="utf-8")

    cache.put("trace", _trace_key(source), write)


def _trace_key(source: Source) -> str:
    # The key has no name: two folders with the same model share a trace.
    files = source.defining
    return key(source=files, route=source.route, code=code(TRACING), **surroundings())


class _Places:
    """The tensors of a source's safetensors, found by their contents."""

    def __init__(self, source: Source) -> None:
        self._known: dict[tuple[int, ...], list[tuple[_Lies, np.ndarray]]] = {}
        for path in source.tensors:
            name = path.relative_to(source.loads).as_posix()
            raw = np.asarray(np.memmap(path, np.uint8, "r"))
            for tensor in read_header(path):
                stored = "float32" if tensor.dtype == "F32" else str(_CASTS.get(tensor.dtype, ""))
                if stored:
                    lies = _Lies(name, tensor.begin, tensor.end, stored, tensor.shape, False)
                    self._known.setdefault(tensor.shape, []).append((lies, _view(raw, lies)))

    def find(self, tensor: ir.TensorProtocol) -> _Lies | None:
        """Returns the place of an fp32 constant, as it is or transposed; None if it lies in no
        file."""
        if tensor.dtype != ir.DataType.FLOAT:
            return None
        array = tensor.numpy()
        turned = array.ndim == 2 and not array.flags.c_contiguous and array.flags.f_contiguous
        array = array.T if turned else array
        for lies, held in self._known.get(array.shape, []):
            if _same(array, held):
                return replace(lies, turned=turned)
        return None


def _same(array: np.ndarray, held: np.ndarray) -> bool:
    """Returns whether two arrays of one shape are the same fp32 numbers, to the bit; reads as
    little as possible."""
    a, b = array.reshape(-1), held.reshape(-1)
    for start in range(0, a.size, _CHUNK):
        ours, theirs = a[start : start + _CHUNK], b[start : start + _CHUNK].astype(np.float32)
        for part in (slice(64), slice(None)):
            if not np.array_equal(ours[part].view(np.uint32), theirs[part].view(np.uint32)):
                return False
    return True


def _append(file: Any, tensor: ir.TensorProtocol) -> _Lies:
    """Append a constant's bytes to the file. Its layout in memory is kept."""
    array = tensor.numpy()
    turned = array.ndim == 2 and not array.flags.c_contiguous and array.flags.f_contiguous
    array = np.ascontiguousarray(array.T if turned else array)
    file.write(b"\0" * (-file.tell() % _ALIGNED))
    begin = file.tell()
    file.write(array.data)
    return _Lies("", begin, file.tell(), str(array.dtype), array.shape, turned)


def _put_back(
    model: ir.Model,
    constants: Mapping[str, Any],
    order: Sequence[str],
    source: Path,
    folder: Path,
) -> None:
    """Restore the graph's large constants, and the order of all constants."""
    graph, files = model.graph, dict[Path, np.ndarray]()
    inputs = {value.name: value for value in graph.inputs}
    for name, record in constants.items():
        lies = _Lies(**{**record, "shape": tuple(record["shape"])})
        path = source / lies.file if lies.file else folder / _BYTES
        if path not in files:
            files[path] = np.asarray(np.memmap(path, np.uint8, "r"))
        array = _view(files[path], lies)
        array = array.astype(np.float32, copy=False) if lies.file else array
        value = inputs[name]
        graph.inputs.remove(value)
        value.const_value = ir.tensor(array.T if lies.turned else array, name=name)
        graph.register_initializer(value)
    values = [graph.initializers.pop(name) for name in order]
    if graph.initializers:
        raise Damaged("its constants have other names")
    for value in values:
        graph.register_initializer(value)


def _view(raw: np.ndarray, lies: _Lies) -> np.ndarray:
    """Returns an array over a part of a mapped file; a copy only where the part does not lie on its
    type's boundary."""
    kind = np.dtype(getattr(ml_dtypes, lies.stored, None) or lies.stored)
    view = raw[lies.begin : lies.end].view(kind).reshape(lies.shape)
    return np.require(view, requirements="A")


# --- what was measured


def measured(
    cache: Cache | None,
    program: Program,
    sequences: Sequence[Sequence[int]],
    recipe: Recipe | None,
    what: str,
    make: Callable[[], Arrays],
) -> Arrays:
    """Returns the result of `make`, or the cached one of the same program, texts and recipe.

    `what` names the measurement: lower-case letters.
    """
    if cache is None:
        return make()
    said = None if recipe is None else recipe.with_(name="", summary="").plain()
    place = key(
        program=content(program),
        texts=[list(ids) for ids in sequences],
        recipe=said,
        code=code(MEASURING),
        **surroundings(),
    )
    found = cache.get(what, place, _guarded(_read_arrays))
    if found is None:
        made = found = make()
        cache.put(what, place, lambda folder: _write_arrays(folder, made))
    else:
        cache.remark(f"{what} from the cache")
    return found


def _read_arrays(folder: Path) -> Arrays:
    from safetensors.numpy import load_file

    arrays = load_file(folder / _ARRAYS)
    return {name: arrays[name] for name in json.loads((folder / _RECORD).read_bytes())}


def _write_arrays(folder: Path, arrays: Arrays) -> None:
    from safetensors.numpy import save_file

    held = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    # safetensors forgets the order of its tensors, and must not make a scalar a vector:
    save_file({name: held[name].reshape(arrays[name].shape) for name in held}, folder / _ARRAYS)
    (folder / _RECORD).write_text(json.dumps(list(arrays)), encoding="utf-8")


def content(program: Program) -> str:
    """Returns the sha256, in hex, of a graph and all its constants: equal for programs that compute
    the same in the same way."""
    model = program.copy().model
    values = list(model.graph.initializers.values())
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing lets other threads run
        digests = list(pool.map(_constant, values))
    for value in values:
        del model.graph.initializers[value.name or ""]
        model.graph.inputs.append(value)
    proto = ir.to_proto(model).SerializeToString(deterministic=True)
    return hashlib.sha256(proto + "\n".join(digests).encode()).hexdigest()


def _constant(value: ir.Value) -> str:
    tensor = value.const_value
    if tensor is None:
        return f"{value.name} nothing"
    held = hashlib.sha256(tensor.tobytes()).hexdigest()
    return f"{value.name} {tensor.dtype} {tensor.shape} {held}"


# --- what keys are made of


@cache
def code(patterns: tuple[str, ...]) -> str:
    """Returns the sha256, in hex, of files of exporter/, by their names."""
    here, state = Path(__file__).parents[1], hashlib.sha256()
    found = {pattern: list(here.glob(pattern)) for pattern in patterns}
    if lost := [pattern for pattern, paths in found.items() if not paths]:
        raise RewriteError(f"no file of exporter/ is called {lost[0]}: a key would not follow it")
    for path in sorted({path for paths in found.values() for path in paths}):
        raw = path.read_bytes()
        state.update(f"{path.relative_to(here).as_posix()} {len(raw)}\n".encode() + raw)
    return state.hexdigest()


@cache
def surroundings() -> dict[str, str]:
    """Returns the facts besides code and data that decide the last bit of a number."""
    found = {"goldfold": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    threads = [os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")]
    found["threads"] = f"{os.cpu_count()} {' '.join(threads)}"
    found["machine"] = f"{platform.system()} {platform.machine()} {_processor()}"
    return found


def _processor() -> str:
    """Returns the kind of the processor: numpy and ONNX Runtime choose their kernels by it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    telling = ("vendor_id", "cpu family", "model", "flags", "Features")
    return " | ".join(
        dict.fromkeys(line for line in lines if line.partition(":")[0].strip() in telling)
    )


def _guarded(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """Returns `read`, which then raises Damaged where an entry is whole and yet makes no sense."""

    def guarded(folder: Path) -> T:
        try:
            return read(folder)
        except (Damaged, OSError):
            raise
        except Exception as error:  # of JSON, ONNX, records, safetensors and numpy
            raise Damaged(f"it cannot be read: {type(error).__name__}") from None

    return guarded
