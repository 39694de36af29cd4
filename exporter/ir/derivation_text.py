"""The text of derivations (golden/proof/expressions.py reads it): one line a constant."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import ml_dtypes
import numpy as np

from goldfold.exporter.ir.derivation import Expr

FORMAT = "goldfold.derivations/1"
"""The first line of a file of derivations."""

_WRITTEN = 16
"""Numbers up to which a literal is written out; more are packed."""


class Writer:
    """The text of derivations: one line a definition, and a part that stands in several lines
    once, under a name of its own."""

    def __init__(self) -> None:
        self.lines: list[str] = [FORMAT]
        self._uses: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self._kept: list[Expr] = []

    def count(self, expr: Expr) -> None:
        """Note that a line will use `expr`. Call it for all lines before the first `write`."""
        waiting = [expr]
        while waiting:
            one = waiting.pop()
            self._kept.append(one)  # ids stay taken
            self._uses[id(one)] = self._uses.get(id(one), 0) + 1
            if self._uses[id(one)] == 1:
                waiting += one.parts

    def write(self, name: str, stored: str, expr: Expr, maker: str) -> None:
        """Add the line of a constant: its name, its stored form, the pass that made it, and its
        derivation."""
        body = self._text(expr, outermost=True)
        self.lines.append(f"{name} {stored} @{maker} = {body}")

    def _text(self, expr: Expr, outermost: bool = False) -> str:
        known = self._names.get(id(expr))
        if known is not None:
            return known
        body = f"{expr.op}({', '.join(self._argument(arg) for arg in _arguments(expr))})"
        if outermost or self._uses.get(id(expr), 0) < 2 or len(body) < 60:
            return body
        self._names[id(expr)] = name = f"%{len(self._names) + 1}"
        self.lines.append(f"{name} = {body}")
        return name

    def _argument(self, arg: Any) -> str:
        if isinstance(arg, Expr):
            return self._text(arg)
        if isinstance(arg, tuple):
            inside = ", ".join(map(self._argument, arg))
            return f"({inside},)" if len(arg) == 1 else f"({inside})"
        if isinstance(arg, str):
            return json.dumps(arg)
        if isinstance(arg, float) and not np.isfinite(arg):
            return f'"{arg}"'
        return repr(arg)


def _arguments(expr: Expr) -> tuple[Any, ...]:
    if expr.op != "literal":
        return expr.args
    array = expr.args[0]
    if array.size <= _WRITTEN:
        data: Any = tuple(one.item() for one in array.reshape(-1).astype(_wide(array.dtype)))
    else:
        packed = base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9))
        data = f"zlib:{packed.decode()}"
    return (str(array.dtype), array.shape, data)


def _wide(dtype: np.dtype) -> type:
    return float if dtype.kind == "f" or dtype == ml_dtypes.bfloat16 else int
