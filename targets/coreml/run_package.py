"""`goldfold coreml-run`: an ML program whose ops are known is run on given or drawn inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from goldfold.exporter.contract import ATTENTION_MASK, INPUT_IDS
from goldfold.exporter.errors import UsageError
from goldfold.targets.coreml.debug import LIMIT, Bad, FiniteWatch, Off, first_drift
from goldfold.targets.coreml.evaluate import Evaluator
from goldfold.targets.coreml.package import Kind, Package, read


@dataclass(frozen=True)
class Ran:
    """The result of running one function."""

    function: str
    functions: tuple[str, ...]
    system: int
    operations: int
    outputs: dict[str, np.ndarray]
    bad: Bad | None
    drift: Off | None
    compared: int
    """Number of values that were compared with the ONNX model's."""


@dataclass(frozen=True)
class Feeds:
    """The inputs of a package's function."""

    inputs: Mapping[str, Path] = field(default_factory=dict)
    """`.npy` files by input name."""
    ids: tuple[int, ...] = ()
    """Token ids of one text instead; padded to the function's length, with their mask."""
    seed: int | None = None
    """The seed from which missing inputs are drawn."""


def run_package(
    path: Path,
    feeds: Feeds = Feeds(),
    *,
    function: str | None = None,
    precision: str = "declared",
    against: Path | None = None,
    limit: float | None = None,
) -> Ran:
    """Run one function of a package and check every value.

    Args:
        path: the `.mlpackage`.
        function: its name; the default function if None.
        precision: "declared", "f32" or "f64".
        against: an ONNX model to compare values of the same name with.
        limit: the relative difference that counts as drift; debug.LIMIT if None.

    Raises ArtifactError for a damaged package, UsageError for inputs that do not fit.
    """
    package = read(path)
    evaluator = Evaluator(package, function, precision)
    held = _arrays(package, evaluator.function.inputs, feeds)
    watch = FiniteWatch()
    outputs = evaluator(held, watch)
    drift, compared = None, 0
    if against is not None:
        most = LIMIT if limit is None else limit
        drift, compared = first_drift(evaluator, _model(against), held, most)
    return Ran(
        evaluator.function.name,
        tuple(package.functions),
        package.system,
        len(evaluator.function.operations),
        outputs,
        watch.found,
        drift,
        compared,
    )


def _model(path: Path) -> ir.Model:
    try:
        return ir.load(path)
    except Exception as error:
        raise UsageError(f"{path} is no ONNX model that can be read") from error


def _arrays(package: Package, wanted: Mapping[str, Kind], given: Feeds) -> dict[str, np.ndarray]:
    feeds: dict[str, np.ndarray] = {}
    for name, file in given.inputs.items():
        try:
            # Mapped: a header that promises more than the file holds would fill the memory.
            feeds[name] = np.array(np.load(file, mmap_mode="r", allow_pickle=False))
        except Exception as error:
            raise UsageError(f"{file} is no .npy file that can be read") from error
    if given.ids:
        feeds |= _text(package, wanted, given.ids)
    if given.seed is not None:
        rng = np.random.default_rng(given.seed)
        for name, kind in wanted.items():
            if name not in feeds:
                feeds[name] = _drawn(rng, kind)
    missing = [f"{name} ({kind})" for name, kind in wanted.items() if name not in feeds]
    if missing:
        raise UsageError(
            f"give --input NAME=FILE.npy for {', '.join(missing)}, or --seed to draw them"
        )
    return feeds


def _text(
    package: Package, wanted: Mapping[str, Kind], ids: tuple[int, ...]
) -> dict[str, np.ndarray]:
    kind = wanted.get(INPUT_IDS)
    if kind is None or ATTENTION_MASK not in wanted or kind.shape is None or len(kind.shape) != 2:
        raise UsageError(f"{package.path} takes no {INPUT_IDS} and {ATTENTION_MASK}; use --input")
    width = kind.shape[1] or len(ids)
    if len(ids) > width:
        raise UsageError(f"{len(ids)} token ids; the function takes {width}")
    if not all(0 <= i < 1 << 31 for i in ids):
        raise UsageError("token ids must be 0 … 2147483647")
    made = {INPUT_IDS: np.zeros((1, width), np.int32), ATTENTION_MASK: np.zeros((1, width), int)}
    made[INPUT_IDS][0, : len(ids)] = ids
    made[ATTENTION_MASK][0, : len(ids)] = 1
    return made


def _drawn(rng: np.random.Generator, kind: Kind) -> np.ndarray:
    """Returns normally distributed numbers; for integers ones, which are valid indices and mask
    nothing."""
    if kind.shape is None:
        raise UsageError(f"an input of type {kind} cannot be drawn")
    sizes = [size or 1 for size in kind.shape]
    if kind.word.startswith("fp"):
        return rng.standard_normal(sizes)
    return np.ones(sizes, dtype=bool if kind.word == "bool" else np.int32)
