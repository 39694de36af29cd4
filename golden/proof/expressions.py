"""Derivations as text: one line per constant, or per part that several share.

    goldfold.derivations/1
    %1 = tensor("model.safetensors", "norm.weight")
    "layer.weight" float32 [768,1152] 3f1a… = cast(mul(%1, full("float32", (), 0.5)), "float32")

`read` gives the constants with their expressions. Nothing here is evaluated; what is no expression
of this version is refused in one line, and the depth and length of everything is bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from goldfold.golden.errors import GoldenError
from goldfold.golden.proof import kinds, source

HEAD = "goldfold.derivations/1"
_BYTES, _DEPTH, _RANK = 256 << 20, 100, 16

FUNCTIONS = {
    "tensor": "ss", "literal": "sin", "full": "si.", "arange": "s.#.", "chosen": "sis",
    "assumed": "sis",
    "transpose": "x#", "reshape": "x#", "expand": "x#", "slice": "x###", "pad": "x###",
    "concat": "#x*", "take": "x#n", "cast": "xs", "clip": "x..", "matmul": "xx",
    "nearest": "xx##", "steps": "xx##..", "nibbles": "x", "packed": "x#",
    **dict.fromkeys(("add", "sub", "mul", "div", "power"), "xx"),
    **dict.fromkeys(("neg", "abs", "sqrt", "rsqrt", "cosine", "sine"), "x"),
    **dict.fromkeys(("tanh", "exp", "log"), "x"),
}  # fmt: skip
"""Every function with a letter per argument: x an expression or number, s a string, # an integer,
. a number, i a shape, n data: numbers, a string or an expression; * more of the last. A last # of
transpose, reshape and expand stands for any number of integers."""
_OPEN = ("transpose", "reshape", "expand")

_TOKEN = re.compile(
    r"""\s*(?: (?P<string>"[^"\\]*(?:\\.[^"\\]*)*"|'[^'\\]*(?:\\.[^'\\]*)*')
    | (?P<number>[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?) | (?P<name>[A-Za-z_]\w*)
    | (?P<shared>%[0-9]{1,9}) | (?P<mark>[(),\[\]]) )\s*""",
    re.VERBOSE,
)
_HELD = re.compile(r" ([0-9a-f]{64})\s*")
_STATED = re.compile(r" (\w{1,20}) \[([0-9, ]{0,400})\] ([0-9a-f]{64})(?: @([\w.-]{1,60}))? = ")


@dataclass(frozen=True, eq=False, slots=True)
class Call:
    """A function and its arguments. `depth` counts the calls below it, shared ones as well."""

    name: str
    args: tuple[Any, ...]
    depth: int
    shared: bool = False


def tensors(value: Call) -> set[tuple[str, str]]:
    """Returns files and names of the source's tensors in an expression."""
    found, seen, waiting = set(), set(), [value]
    while waiting:
        call = waiting.pop()
        if call not in seen:
            seen.add(call)
            found |= {call.args} if call.name == "tensor" else set()
            waiting += [argument for argument in call.args if isinstance(argument, Call)]
    return found


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant of a program: `digest` is the sha256 of its bytes in C order, `maker` the pass
    that made it, `line` counts from one."""

    name: str
    kind: str
    shape: tuple[int, ...]
    digest: str
    value: Call
    line: int
    maker: str = ""


@dataclass(frozen=True, slots=True)
class Derivations:
    """The constants of a program; `held` has digests of those that an artifact holds in another
    form than the program, by their names there."""

    constants: tuple[Constant, ...]
    held: dict[str, str]


def read(derivations: Path | str) -> Derivations:
    """Returns the derivations in a file, or in its text. Raises GoldenError, with the line's
    number, for what is none."""
    if isinstance(derivations, Path):
        text = source.read_small(derivations, _BYTES).decode("utf-8", "replace")
    else:
        text = derivations
    lines = text.split("\n")
    if lines[0].rstrip("\r") != HEAD:
        raise GoldenError(f"derivations begin with {HEAD!r}, not {lines[0][:40]!r}")
    shared: dict[str, Call] = {}
    found: dict[str, Constant] = {}
    held: dict[str, str] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        try:
            if line.startswith("%"):
                name, _, expression = line.partition(" = ")
                value = _Parser(expression, shared).whole()
                if not re.fullmatch("%[0-9]{1,9}", name) or name in shared:
                    raise ValueError(f"{name[:40]!r} is no new name of a shared part")
                shared[name] = Call(value.name, value.args, value.depth, shared=True)
            elif line.startswith("^"):
                name, end = json.JSONDecoder().raw_decode(line, 1)
                stated = _HELD.fullmatch(line, end)
                if not isinstance(name, str) or stated is None:
                    raise ValueError("it does not give a name and a digest")
                held[name] = stated[1]
            else:
                constant = _constant(line, shared, number)
                if constant.name in found:
                    raise ValueError(f"{constant.name[:200]!r} is defined twice")
                found[constant.name] = constant
        except (ValueError, SyntaxError, IndexError, GoldenError) as error:
            raise GoldenError(f"line {number} of the derivations: {error}") from None
    return Derivations(tuple(found.values()), held)


def _constant(line: str, shared: dict[str, Call], number: int) -> Constant:
    name, end = json.JSONDecoder().raw_decode(line)
    stated = _STATED.match(line, end)
    if not isinstance(name, str) or stated is None:
        raise ValueError("it does not begin with a name, a kind, a shape and a digest")
    kind, sizes, digest, maker = stated.groups()
    kinds.bits(kind)
    shape = tuple(int(size) for size in sizes.split(",")) if sizes.strip() else ()
    value = _Parser(line[stated.end() :], shared).whole()
    return Constant(name, kind, _checked_shape(shape), digest, value, number, maker or "")


def _checked_shape(shape: tuple[Any, ...]) -> tuple[int, ...]:
    if len(shape) > _RANK or not all(type(n) is int and 0 <= n < 1 << 40 for n in shape):
        raise ValueError("a shape has a few sizes that are not negative")
    return shape


class _Parser:
    """A reader of one expression: calls, names of shared parts, numbers, strings and lists."""

    def __init__(self, text: str, shared: dict[str, Call]) -> None:
        self._tokens, self._shared = self._split(text), shared
        self._next = next(self._tokens)

    @staticmethod
    def _split(text: str) -> Iterator[tuple[str, str]]:
        at = 0
        while at < len(text):
            token = _TOKEN.match(text, at)
            if token is None:
                raise ValueError(f"{text[at : at + 20]!r} is no part of an expression")
            at, kind = token.end(), token.lastgroup or ""
            yield kind, token[kind]
        yield "end", ""

    def _take(self) -> tuple[str, str]:
        token, self._next = self._next, next(self._tokens, ("end", ""))
        return token

    def whole(self) -> Call:
        value = self._value(0)
        if not isinstance(value, Call) or self._next[0] != "end":
            raise ValueError("it is not one call of a function")
        return value

    def _value(self, depth: int) -> Any:
        kind, text = self._take()
        if depth > _DEPTH:
            raise ValueError(f"it is nested more than {_DEPTH} deep")
        if kind == "string":
            return _string(text)
        if kind == "number":
            return int(text) if text.lstrip("+-").isdigit() else float(text)
        if kind == "shared":
            if text not in self._shared:
                raise ValueError(f"{text} is used and not defined before")
            return self._shared[text]
        if text in ("True", "False"):
            return int(text == "True")
        if kind == "name":
            return self._call(text, depth)
        if text in ("(", "["):
            return self._list(")" if text == "(" else "]", depth)
        raise ValueError(f"{text or 'its end'!r} stands where a value should")

    def _list(self, close: str, depth: int) -> tuple[Any, ...]:
        held = []
        while self._next != ("mark", close):
            held.append(self._value(depth + 1))
            if self._next == ("mark", ","):
                self._take()
            elif self._next != ("mark", close):
                raise ValueError(f"a list ends without {close!r}")
        self._take()
        return tuple(held)

    def _call(self, name: str, depth: int) -> Call:
        if name not in FUNCTIONS:
            raise ValueError(f"{name[:40]!r} is an expression of a newer version of goldfold")
        if self._take() != ("mark", "("):
            raise ValueError(f"{name} is no call")
        args = self._list(")", depth + 1)
        letters = FUNCTIONS[name]
        if name in _OPEN:
            letters = "x" + "#" * min(_RANK, len(args) - 1)
        elif letters[-1] == "*":
            letters = letters[:-1] + letters[-2] * (len(args) - len(letters) + 1)
        if len(letters) != len(args) or not all(map(_fits, letters, args)):
            raise ValueError(f"{name} is called with arguments of a newer version of goldfold")
        below = max((a.depth for a in args if isinstance(a, Call)), default=0)
        if below >= _DEPTH:
            raise ValueError(f"its calls are nested more than {_DEPTH} deep")
        return Call(name, args, below + 1)


def _string(text: str) -> str:
    """Returns a string as JSON writes it, or as Python does where it holds no backslash."""
    if text[0] == '"':
        return str(json.loads(text, strict=False))
    if "\\" in text:
        raise ValueError("a string in single quotes holds a backslash")
    return text[1:-1]


def _fits(letter: str, argument: Any) -> bool:
    number = type(argument) in (int, float)
    match letter:
        case "x":
            return number or isinstance(argument, Call)
        case "s":
            return isinstance(argument, str)
        case ".":
            return number or argument in ("nan", "inf", "-inf")
        case "i":
            return isinstance(argument, tuple) and _checked_shape(argument) == argument
        case "n" if isinstance(argument, tuple):
            return all(_fits(".", one) for one in argument)
        case "n":
            return isinstance(argument, Call | str)
    return type(argument) is int
