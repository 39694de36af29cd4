"""The evaluator runs a saved package anywhere: MIL's operations in numpy, in f64, in f32, or as
declared.

`declared` follows the package's types: every value of type fp16 is rounded to fp16, and those of
type fp32 are computed in f32. An operation computes in f32 inside and rounds once at its end, as
matrix units do as a rule. The evaluator does not model how a device accumulates, which of its units
takes which operation, and the Neural Engine's own arithmetic.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from goldfold.exporter.errors import ArtifactError, UsageError
from goldfold.targets.coreml.package import NUMPY, Kind, MilFunction, Operation, Package, Ref
from goldfold.targets.coreml.reference_moves import MOVING
from goldfold.targets.coreml.reference_ops import NUMERIC

TABLE = {**NUMERIC, **MOVING}
PRECISIONS = ("declared", "f32", "f64")

Watch = Callable[[Operation, str, Kind, np.ndarray], None]
"""A callback for every value that is made: its operation, name, declared type and numbers."""


class Widened:
    """Weights in the working type, and compressed ones opened: each made once for all evaluators
    that share them, in however many threads."""

    def __init__(self) -> None:
        self.made: dict[Any, np.ndarray] = {}
        self._of: list[Any] = []
        """The arrays that the keys refer to: their memory must not be used again under a key."""
        self._making = threading.RLock()

    def get(self, key: Any, of: Any, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Returns the result of `make` on the arrays `of`, made once and kept with them."""
        if key not in self.made:
            with self._making:  # or sixteen threads open sixteen tables
                if key not in self.made:
                    made = make()
                    self._of.append(of)
                    self.made[key] = made
        return self.made[key]


class Evaluator:
    """One function of a package, ready to run.

    Args:
        package: the result of goldfold.targets.coreml.package.read.
        function: its name; the package's default if None.
        precision: one of PRECISIONS.
        widened: to be shared by evaluators of one package.

    Raises ArtifactError for an operation that is not known, UsageError for a function or precision
    that is not there.
    """

    def __init__(
        self,
        package: Package,
        function: str | None = None,
        precision: str = "declared",
        widened: Widened | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise UsageError(f"no precision {precision!r}; there are {', '.join(PRECISIONS)}")
        self.function = package.function(function)
        self.working = np.float64 if precision == "f64" else np.float32
        self.rounds = precision == "declared"
        self.widened = Widened() if widened is None else widened
        for operation in self.function.operations:
            if operation.op not in TABLE or "blocks" in operation.inputs:
                raise ArtifactError(
                    f"{package.path}: MIL's {operation.op} (at {operation.name}) is not known here"
                )
        self._last = _last_reads(self.function)

    def __call__(
        self, feeds: Mapping[str, np.ndarray], watch: Watch | None = None
    ) -> dict[str, np.ndarray]:
        """Returns the outputs by name for inputs by name; floating-point ones in the working type.

        Raises UsageError for inputs of the wrong name, type or shape; ArtifactError where a
        computed shape or type is not the declared one.
        """
        values = self._inputs(feeds)
        for place, operation in enumerate(self.function.operations):
            try:
                with np.errstate(all="ignore"):  # overflow shows as inf, and is checked
                    made = self._made(operation, values)
                results = made if isinstance(made, (list, tuple)) else [made]
                pairs = list(zip(operation.outputs, results, strict=True))
            except (ArtifactError, UsageError):
                raise
            except Exception as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise ArtifactError(
                    f"{operation.op} at {operation.name} cannot be computed: {reason}"
                ) from error
            for (name, kind), result in pairs:
                values[name] = self._settled(operation, name, kind, np.asarray(result))
                if watch is not None:
                    watch(operation, name, kind, values[name])
            for name in self._last.get(place, ()):
                values.pop(name, None)
        return {name: self._output(name, values) for name in self.function.outputs}

    def _made(self, operation: Operation, values: dict[str, np.ndarray]) -> Any:
        """Returns the results of one operation. Compressed weights are opened once for all
        evaluators that share `widened`, and kept in their stored form then."""
        operands = _Operands(self, operation, values)
        if not operation.op.startswith("constexpr_"):
            return TABLE[operation.op](operands)
        given = tuple(sorted((name, _identity(operands.raw(name))) for name in operation.inputs))
        kind = operation.outputs[0][1]
        key = (operation.op, given, kind, self.working, self.rounds)

        def make() -> np.ndarray:
            made = np.asarray(TABLE[operation.op](operands))
            return self._settled(operation, operation.outputs[0][0], kind, made)

        return self.widened.get(key, [operands.raw(name) for name in operation.inputs], make)

    def _inputs(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        wanted = self.function.inputs
        if set(feeds) != set(wanted):
            raise UsageError(f"the inputs are {', '.join(wanted)}; given {', '.join(feeds)}")
        values = {}
        for name, kind in wanted.items():
            array = np.asarray(feeds[name])
            if not _fits(array.shape, kind) or not _same_sort(array, kind):
                raise UsageError(f"{name} is {array.dtype}{list(array.shape)}; it takes {kind}")
            narrow = self._type(kind)
            if array.dtype.kind in "iu" and array.size and np.dtype(narrow).kind in "iu":
                held = np.iinfo(narrow)
                if int(array.min()) < held.min or int(array.max()) > held.max:
                    raise UsageError(f"{name} holds numbers beyond {kind.word}")
            values[name] = array.astype(narrow)
            if self.rounds and kind.word == "fp16":
                values[name] = _half(values[name], self.working)
        return values

    def _output(self, name: str, values: dict[str, np.ndarray]) -> np.ndarray:
        if name in values:
            return values[name]
        return self.widen(self.function.constants[name])

    def _type(self, kind: Kind) -> Any:
        return self.working if kind.word in ("fp16", "fp32", "fp64") else NUMPY[kind.word]

    def _settled(
        self, operation: Operation, name: str, kind: Kind, array: np.ndarray
    ) -> np.ndarray:
        """Returns the value as it is stored: checked against its declaration, and rounded."""
        if not _fits(array.shape, kind) or not _same_sort(array, kind):
            raise ArtifactError(
                f"{operation.op} at {operation.name} declares {name} as {kind} and makes "
                f"{array.dtype}{list(array.shape)}"
            )
        array = array.astype(self._type(kind), copy=False)
        return _half(array, self.working) if self.rounds and kind.word == "fp16" else array

    def widen(self, array: np.ndarray) -> np.ndarray:
        """Returns a weight in the working type, kept for the next call; the array itself if it is
        no float or of that type already."""
        if array.dtype.kind != "f" or array.dtype == self.working:
            return array
        key = (array.__array_interface__["data"][0], array.shape, array.dtype.str, self.working)
        return self.widened.get(key, array, lambda: array.astype(self.working))


@dataclass
class _Operands:
    """The goldfold.targets.coreml.reference_ops.Operands of one running operation."""

    evaluator: Evaluator
    operation: Operation
    values: dict[str, np.ndarray]
    working: Any = field(init=False)

    def __post_init__(self) -> None:
        self.working = self.evaluator.working

    def __call__(self, name: str, default: Any = None) -> Any:
        given = self.operation.inputs.get(name)
        if given is None:
            return default
        if isinstance(given, list):
            return [self._one(item, wide=True) for item in given]
        return self._one(given, wide=True)

    def raw(self, name: str) -> np.ndarray:
        return self._one(self.operation.inputs[name], wide=False)

    def _one(self, given: Any, wide: bool) -> Any:
        if isinstance(given, Ref):
            if given.name in self.values:
                return self.values[given.name]
            if given.name not in self.evaluator.function.constants:
                raise ArtifactError(f"{self.operation.name} reads {given.name}, which nothing made")
            given = self.evaluator.function.constants[given.name]
        if not isinstance(given, np.ndarray):
            return given
        return self.evaluator.widen(given) if wide else given


def _identity(array: Any) -> Any:
    """Returns the identity of a constant: a large one by where it lies, a small one by its
    bytes."""
    array = np.asarray(array)
    held = array.tobytes() if array.nbytes <= 64 else array.__array_interface__["data"][0]
    return (held, array.shape, array.dtype.str, array.strides)


_LEAST_NORMAL = 2.0**-14


def _half(array: np.ndarray, working: Any) -> np.ndarray:
    """Returns the array rounded to fp16, to nearest and to even, as numpy's own conversion does it.

    Below 2^-14, fp16 has multiples of 2^-24 and a processor converts ten times slower; there an
    addition rounds: beside 0.75 an f32 has multiples of 2^-24 as well, and rounds to them. (In f64
    nothing is rounded.)
    """
    array = np.asarray(array)
    if array.dtype != np.float32 or not array.size:
        with np.errstate(over="ignore"):
            return array.astype(np.float16).astype(working)
    tiny = np.abs(array) < _LEAST_NORMAL
    many = tiny.any()
    with np.errstate(over="ignore"):
        rounded = (np.where(tiny, np.float32(0), array) if many else array).astype(np.float16)
    rounded = rounded.astype(np.float32)
    if many:
        shift = np.float32(0.75)
        np.copyto(rounded, (array + shift) - shift, where=tiny)
    return rounded


def _fits(shape: tuple[int, ...], kind: Kind) -> bool:
    return kind.shape is not None and len(shape) == len(kind.shape) and all(
        wanted is None or size == wanted for size, wanted in zip(shape, kind.shape, strict=True)
    )  # fmt: skip


def _same_sort(array: np.ndarray, kind: Kind) -> bool:
    sort = {"f": "f", "u": "i"}.get(kind.word[0], kind.word[0])
    return {"u": "i"}.get(array.dtype.kind, array.dtype.kind) == sort


def _last_reads(function: MilFunction) -> dict[int, list[str]]:
    """Returns the values that nothing reads any more, by the index of the operation that read them
    last."""
    last: dict[str, int] = {}
    for place, operation in enumerate(function.operations):
        for given in operation.inputs.values():
            for item in given if isinstance(given, list) else [given]:
                if isinstance(item, Ref):
                    last[item.name] = place
    ends: dict[int, list[str]] = {}
    for name, place in last.items():
        if name not in function.outputs:
            ends.setdefault(place, []).append(name)
    return ends
