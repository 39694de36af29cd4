"""A derivation says how a constant follows from the source's tensors: an expression that an
independent checker (golden/proof/) evaluates from the source's files.

Passes write none by hand. `program.constant` returns a `Derived` array, which remembers its
derivation through the operations that passes use, with the rounding of every result's type;
`program.add_constant` reads it off the array. An operation that is not known here loses the
derivation, and the legality check names the pass that used it. Numbers that a pass makes up itself,
as sizes and axes, are literals. Only what no arithmetic says is written out by its pass: integers,
packed bytes, tables of angles.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

LITERAL = 64
"""Numbers up to which an array that a pass makes up is a literal; a larger one must be of equal or
of evenly spaced numbers, or be given its derivation."""
_PAGE = 4096
"""The same limit of whole numbers, which passes work out from sizes."""


@dataclass(frozen=True, eq=False)
class Expr:
    """A call of one function of the checker. Equal parts of a derivation are one object."""

    op: str
    args: tuple[Any, ...]
    """Expressions, numbers, strings, tuples of numbers, and the array of a literal."""

    @property
    def parts(self) -> tuple[Expr, ...]:
        return tuple(arg for arg in self.args if isinstance(arg, Expr))


LOST = Expr("lost", ())
"""The derivation of an array that an unknown operation made of derived ones."""


def given(name: str) -> Expr:
    """A constant of a graph that was not derived from a model, as in a test of one pass."""
    return Expr("given", (name,))


def tensor(file: str, name: str) -> Expr:
    """A tensor of the source: `file` is relative to the model's folder."""
    return Expr("tensor", (file, name))


def literal(array: np.ndarray | np.generic | float) -> Expr:
    """The numbers themselves."""
    plain = np.array(array, order="C")
    if plain.size > 1 and (flat := plain.reshape(-1)).dtype.kind in "fiub":
        if (flat.view(f"V{flat.itemsize}") == flat[:1].view(f"V{flat.itemsize}")).all():
            return Expr("full", (str(plain.dtype), plain.shape, flat[0].item()))
        if plain.ndim == 1 and plain.dtype.kind == "i" and flat.size > 2:
            step = int(flat[1]) - int(flat[0])
            if np.array_equal(flat, int(flat[0]) + step * np.arange(flat.size)):
                return Expr("arange", (str(plain.dtype), int(flat[0]), flat.size, step))
    return Expr("literal", (plain,))


def chosen(array: np.ndarray, op: str = "chosen") -> Expr:
    """Numbers that no law fixes, as a scale, or (`assumed`) whose law is not known here: known by
    the digest of their bytes."""
    plain = np.ascontiguousarray(array)
    digest = hashlib.sha256(plain.view(np.uint8).data if plain.ndim else plain.tobytes())
    return Expr(op, (str(plain.dtype), plain.shape, digest.hexdigest()))


def cast(x: Expr, dtype: np.dtype) -> Expr:
    return Expr("cast", (x, str(dtype)))


def reshape(x: Expr, shape: Iterable[int]) -> Expr:
    return Expr("reshape", (x, *(int(size) for size in shape)))


def folded(array: np.ndarray, *operands: Any) -> np.ndarray:
    """The result of an operation on arrays that no rule here follows: a literal where no operand
    follows from a tensor, as positions and masks do not; else `assumed`, by its digest."""
    free = all(is_free(one) for one in operands)
    return derived(array, literal(array) if free else chosen(array, "assumed"))


def is_free(array: Any) -> bool:
    """Whether an array follows from literals alone; a plain one does."""
    if not isinstance(array, Derived):
        return True
    how = array.derivation
    return how is not LOST and not _holds(how, "tensor", "given", "chosen", "assumed")


def _holds(expr: Expr, *ops: str) -> bool:
    """Whether one of these functions stands in an expression."""
    waiting, seen = [expr], set[int]()
    while waiting:
        one = waiting.pop()
        if one.op in ops:
            return True
        if id(one) not in seen:
            seen.add(id(one))
            waiting += one.parts
    return False


def of(array: Any) -> Expr:
    """The derivation of an array that becomes a constant; LOST where it has none. What follows from
    assumed numbers is assumed as well."""
    if isinstance(array, Derived):
        how = array.derivation
        assumes = how.op != "assumed" and _holds(how, "assumed")
        return chosen(array, "assumed") if assumes else how
    found = literal(array)
    limit = _PAGE if np.asarray(array).dtype.kind in "iub" else LITERAL
    return LOST if found.op == "literal" and found.args[0].size > limit else found


class Derived(np.ndarray):
    """An array that remembers how it was made of others.

    It behaves as numpy's in everything else: what numpy computes is what it holds. Slices, moves,
    conversions and arithmetic extend the derivation; comparisons and sums give plain arrays; any
    other floating result is LOST.
    """

    derivation: Expr

    def __array_finalize__(self, _: Any) -> None:
        self.derivation = LOST

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **given: Any) -> Any:
        plain = [x.view(np.ndarray) if isinstance(x, Derived) else x for x in inputs]
        out = given.get("out")
        if out is not None:
            for x in out:
                if isinstance(x, Derived):
                    x.derivation = LOST
            given["out"] = tuple(x.view(np.ndarray) if isinstance(x, Derived) else x for x in out)
        result = getattr(ufunc, method)(*plain, **given)
        if method != "__call__" or not isinstance(result, np.ndarray) or result.dtype.kind in "bO":
            return result
        rule = _UFUNCS.get(ufunc)
        if rule is None or set(given) - {"dtype"}:
            return derived(result, LOST)
        return derived(result, _computed(rule, inputs, result.dtype))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        rule = _FUNCTIONS.get(func)
        plain_args, plain_kwargs = _plain(args), _plain(kwargs)
        result = func(*plain_args, **plain_kwargs)
        if not isinstance(result, np.ndarray) or result.dtype.kind in "bO" or func in _FRESH:
            return result
        found = rule(result, *args, **kwargs) if rule is not None else LOST
        return derived(result, found)

    def __getitem__(self, key: Any) -> Any:
        result = self.view(np.ndarray)[_plain(key)]
        if not isinstance(result, np.ndarray):
            return result
        return derived(result, _item(self, key, result))

    def __setitem__(self, key: Any, value: Any) -> None:
        self.derivation = LOST
        super().__setitem__(key, value)

    @property
    def T(self) -> Derived:  # type: ignore[override]
        return self.transpose()

    def transpose(self, *axes: Any) -> Derived:  # type: ignore[override]
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        order = tuple(order) if order else tuple(reversed(range(self.ndim)))
        order = tuple(operator.index(axis) % max(self.ndim, 1) for axis in order)
        result = self.view(np.ndarray).transpose(order)
        return derived(result, _turned(self.derivation, order))

    def reshape(self, *shape: Any, **given: Any) -> Derived:  # type: ignore[override]
        result = self.view(np.ndarray).reshape(*shape, **given)
        return derived(result, _reshaped(self, result))

    def astype(self, dtype: Any, *args: Any, **given: Any) -> Derived:  # type: ignore[override]
        result = self.view(np.ndarray).astype(dtype, *args, **given)
        same = result.dtype == self.dtype
        wider = self.dtype.kind == result.dtype.kind == "f" and (
            np.promote_types(self.dtype, result.dtype) == result.dtype
        )
        if same or wider or self.derivation is LOST:  # widening changes no number
            return derived(result, self.derivation)
        return derived(result, cast(self.derivation, result.dtype))

    def copy(self, order: Any = "C") -> Derived:
        return derived(self.view(np.ndarray).copy(order), self.derivation)


def derived(array: np.ndarray, derivation: Expr) -> Derived:
    """The same array with a derivation; no copy."""
    found = array.view(Derived)
    found.derivation = derivation
    return found


def _plain(given: Any) -> Any:
    if isinstance(given, Derived):
        return given.view(np.ndarray)
    if isinstance(given, list | tuple):
        return type(given)(_plain(one) for one in given)
    if isinstance(given, dict):
        return {name: _plain(one) for name, one in given.items()}
    return given


def _turned(x: Expr, order: tuple[int, ...]) -> Expr:
    """x with its axes in another order; two in a row are one, or none."""
    if x.op == "transpose":
        x, order = x.args[0], tuple(x.args[1:][axis] for axis in order)
    return x if order == tuple(range(len(order))) else _extend("transpose", x, *order)


def _extend(op: str, x: Expr, *args: Any) -> Expr:
    return LOST if x is LOST else Expr(op, (x, *args))


_UFUNCS: Mapping[Any, str] = {
    np.add: "add", np.subtract: "sub", np.multiply: "mul", np.divide: "div",
    np.negative: "neg", np.absolute: "abs", np.sqrt: "sqrt", np.matmul: "matmul",
}  # fmt: skip


def _computed(op: str, inputs: Iterable[Any], dtype: np.dtype) -> Expr:
    """op(inputs), rounded to the type of the result; LOST where an input is."""
    if op == "matmul" and dtype != np.float64:
        return LOST  # numpy rounds after every step, in an order of its own
    found = []
    for x in inputs:
        if isinstance(x, Derived):
            found.append(x.derivation)
        else:  # a number of Python's takes the type of the array beside it
            found.append(literal(dtype.type(x) if isinstance(x, int | float) else np.asarray(x)))
    if LOST in found:
        return LOST
    if op == "matmul":
        return _product(inputs, found)
    made = Expr(op, tuple(found))
    if op in ("neg", "abs") or dtype == np.float64:
        return made
    return cast(made, dtype)


def _product(inputs: Iterable[Any], found: list[Expr]) -> Expr:
    """A product of matrices; a vector is a matrix of one row, or of one column."""
    left, right = (x.shape for x in inputs)
    if len(left) > 2 or len(right) > 2:
        return LOST
    one = found[0] if len(left) == 2 else reshape(found[0], (1, *left))
    two = found[1] if len(right) == 2 else reshape(found[1], (*right, 1))
    made = Expr("matmul", (one, two))
    if len(left) == len(right) == 2:
        return made
    return reshape(made, (*left[:-1], *right[1:]))


def _reshaped(x: Derived, result: np.ndarray) -> Expr:
    if result.shape == x.shape or x.derivation is LOST:
        return x.derivation
    return reshape(x.derivation, result.shape)


def _item(x: Derived, key: Any, result: np.ndarray) -> Expr:
    """x[key], for slices without a step, whole numbers, new axes, and one vector of indices."""
    found, axis, cut = x.derivation, 0, list(x.shape)
    if found is LOST:
        return LOST
    keys = list(key) if isinstance(key, tuple) else [key]
    if any(one is Ellipsis for one in keys):
        at = next(place for place, one in enumerate(keys) if one is Ellipsis)
        used = sum(one is not None and one is not Ellipsis for one in keys)
        keys[at : at + 1] = [slice(None)] * (x.ndim - used)
    for one in keys:
        if one is None:
            continue
        size = x.shape[axis]
        if isinstance(one, slice):
            start, stop, step = one.indices(size)
            if step != 1:
                return LOST
            if (start, stop) != (0, size):
                found = Expr("slice", (found, axis, start, max(start, stop)))
                cut[axis] = max(start, stop) - start
        elif isinstance(one, int | np.integer):
            start = int(one) % size
            if size > 1:
                found = Expr("slice", (found, axis, start, start + 1))
                cut[axis] = 1
        elif isinstance(one, np.ndarray) and len(keys) == 1 and one.dtype.kind == "i":
            return Expr("take", (found, 0, literal(np.asarray(one) % size)))
        else:
            return LOST
        axis += 1
    return found if result.shape == tuple(cut) else reshape(found, result.shape)


def _concatenated(result: np.ndarray, arrays: Any, axis: int = 0, **_: Any) -> Expr:
    parts = [of(one) for one in arrays]
    return LOST if LOST in parts else Expr("concat", (axis % result.ndim, *parts))


def _broadcast(result: np.ndarray, array: Any, *_: Any, **__: Any) -> Expr:
    if result.shape == array.shape:
        return array.derivation
    return _extend("expand", array.derivation, *result.shape)


def _clipped(result: np.ndarray, array: Any, low: Any, high: Any, **given: Any) -> Expr:
    single = isinstance(low, int | float) and isinstance(high, int | float) and not given
    return _extend("clip", of(array), low, high) if single else LOST


def _same_numbers(result: np.ndarray, array: Any, *_: Any, **__: Any) -> Expr:
    return _reshaped(array, result) if isinstance(array, Derived) else LOST


def _taken(result: np.ndarray, array: Any, indices: Any, axis: int = 0, **_: Any) -> Expr:
    return _extend("take", of(array), axis % array.ndim, literal(np.asarray(indices)))


def _repeated(result: np.ndarray, array: Any, *_: Any, axis: int | None = None, **__: Any) -> Expr:
    """Repeats of one slice along an axis: a broadcast."""
    if axis is None or array.shape[axis] != 1:
        return LOST
    return _extend("expand", array.derivation, *result.shape)


_FUNCTIONS: Mapping[Any, Callable[..., Expr]] = {
    np.concatenate: _concatenated,
    np.broadcast_to: _broadcast,
    np.repeat: _repeated,
    np.clip: _clipped,
    np.take: _taken,
    np.expand_dims: _same_numbers,
    np.squeeze: _same_numbers,
    np.reshape: _same_numbers,
}
_FRESH = (np.ones_like, np.zeros_like, np.full_like, np.empty_like)
"""Functions whose results depend on the shape of an array alone."""
