"""A pass's docstring is parsed as its law: what holds, is needed and is refused, and examples that
run.

A section starts with `word:` or `word: title` at the margin and is indented below it. `before` and
`after` come in pairs. `refuses` is a graph that the pass matches and leaves alone: its title, or
the text behind `# says` in the graph's first line, is part of the logged reason. `ignores` is a
graph that the pass does not match, so that it logs no reason. Graphs are in ONNX's own text form
without the file header. An input whose sizes are all fixed and whose type is floating, or of 8 or 4
bits, stands for a weight: the harness turns it into a constant. `none` for an `after` says that
only the numbers are compared. `options:` gives the fields of the pass for the example behind it,
`name: value` per line; `name: a = 1, b = 2` is a tuple of pairs. A remark in a graph,
`# name: -16 to 15`, limits the integers that are drawn for a weight; `# opset 17` is for the graph
of another opset than the dialect's.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx.parser
import onnx_ir as ir

from goldfold.exporter.errors import RewriteError
from goldfold.exporter.ir import dialect
from goldfold.exporter.passes.base import Pass

_SECTION = re.compile(r"^(holds|needs|options|before|after|refuses|ignores):[ ]*(.*)$")
_SAYS = "# says "
_OPSET = re.compile(r"^# opset (\d+)$", re.MULTILINE)
_QUANTIZED = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4)


class Example(NamedTuple):
    """A graph and its rewrite ("none": only the numbers count), under these options."""

    title: str
    before: str
    after: str
    options: dict[str, Any]


class Left(NamedTuple):
    """A graph that the pass must leave alone under these options, and a part of the logged reason;
    None if the pass does not match the graph and is silent."""

    title: str
    graph: str
    options: dict[str, Any]
    reason: str | None


@dataclass
class Law:
    """The parts of one docstring. Graph texts are without the file header."""

    summary: str
    holds: str = ""
    needs: str = ""
    examples: list[Example] = field(default_factory=list)
    refusals: list[Left] = field(default_factory=list)
    ignored: list[Left] = field(default_factory=list)


def read(law: Pass | type[Pass]) -> Law:
    """Parse the docstring of a pass. Raises RewriteError if a `before` has no `after`."""
    kind = law if isinstance(law, type) else type(law)
    lines = (inspect.getdoc(kind) or "").splitlines()
    sections: list[tuple[str, str, list[str]]] = [("summary", "", [])]
    for line in lines:
        found = _SECTION.match(line)
        if found:
            sections.append((found[1], found[2].strip(), []))
        else:
            sections[-1][2].append(line)
    result = Law(summary="")
    pending: tuple[str, str] | None = None
    options: dict[str, Any] = {}
    for word, title, body_lines in sections:
        body = textwrap.dedent("\n".join(body_lines)).strip()
        match word:
            case "summary":
                result.summary = body
            case "holds":
                result.holds = body
            case "needs":
                result.needs = body
            case "options":
                options = _options(body)
            case "before":
                pending = (title, body)
            case "after" if pending is not None:
                result.examples.append(Example(*pending, body, options))
                pending, options = None, {}
            case "refuses":
                first, _, rest = body.partition("\n")
                said = first.startswith(_SAYS)
                graph = textwrap.dedent(rest) if said else body
                reason = first.removeprefix(_SAYS) if said else title
                result.refusals.append(Left(title, graph, options, reason))
                options = {}
            case "ignores":
                result.ignored.append(Left(title, body, options, None))
                options = {}
    if pending is not None or not result.examples:
        raise RewriteError(f"{kind.__name__}: its docstring has a before without an after, or none")
    return result


def _options(body: str) -> dict[str, Any]:
    """`name: value` lines as keyword arguments of a pass."""
    found: dict[str, Any] = {}
    for line in body.splitlines():
        name, _, text = line.partition(":")
        if "=" in text:
            pairs = (pair.split("=") for pair in text.split(","))
            found[name.strip()] = tuple((key.strip(), float(value)) for key, value in pairs)
        else:
            word = text.strip()
            found[name.strip()] = int(word) if word.isdigit() else word
    return found


def graph(text: str, weights: dict[str, np.ndarray] | None = None) -> ir.Model:
    """Build the model of an example. `weights` gives arrays by input name; others are drawn from a
    seed.

    An input with fixed sizes and a floating type, or one of 8 or 4 bits, becomes a constant.
    """
    proto = onnx.parser.parse_model(_header(text) + text)
    model = ir.from_proto(proto)
    dialect.define(model)
    rng = np.random.default_rng(0)
    for value in list(model.graph.inputs):
        assert value.shape is not None and value.dtype is not None and value.name is not None
        quantized = value.dtype in _QUANTIZED
        if not (quantized or value.dtype.is_floating_point()):
            continue
        if not all(isinstance(d, int) for d in value.shape):
            continue
        sizes = [int(d) for d in value.shape]  # type: ignore[arg-type]
        if weights is not None:
            drawn = weights[value.name]
        else:
            drawn = rng.integers(0, 8, sizes) if quantized else rng.normal(size=sizes)
        array = np.asarray(drawn, dtype=value.dtype.numpy())
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(array, name=value.name)
        model.graph.register_initializer(value)
    _constants_to_initializers(model)
    return model


def _header(text: str) -> str:
    found = _OPSET.search(text)
    opset = int(found[1]) if found else dialect.OPSET
    imports = f'opset_import: ["" : {opset}, "{dialect.DOMAIN}" : 1]'
    return f"<ir_version: {dialect.IR_VERSION}, {imports}>\n"


def _constants_to_initializers(model: ir.Model) -> None:
    for node in list(model.graph):
        if node.op_type != "Constant" or node.domain:
            continue
        out = node.outputs[0]
        (attribute,) = node.attributes.values()
        array = (
            attribute.value.numpy()
            if attribute.type == ir.AttributeType.TENSOR
            else np.array(
                attribute.value,
                np.int64 if "INT" in attribute.type.name else np.float32,
            )
        )
        name = out.name or "constant"
        tensor = ir.tensor(np.asarray(array, order="C"), name=name)
        value = ir.Value(
            name=name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(array.shape),
            const_value=tensor,
        )
        out.replace_all_uses_with(value, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        model.graph.register_initializer(value)
