"""Runs a pass's docstring: nothing here is written for one pass.

Each example of a law is built with drawn weights, rewritten, compared with `after` as a graph, and
run on drawn data. How closely the numbers must agree follows from the pass's `equality` alone:

EXACT   the same bits in f32, in ONNX Runtime with its own rewrites off.
REAL    graph and weights are widened to f64 before the rewrite, so that what a pass stores is not
        rounded to f32, and ONNX's reference evaluator runs both. `noise` derives the tolerance.
BOUND   the pass rounds each value to a half-precision type. `before` runs in f64, the result of
        the rewrite in the emulator; `noise` with the unit roundoff of that type is the tolerance.
        Only data of ordinary size is drawn: the bound is relative, and half precision's range is
        another law's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import onnxruntime
from onnx.reference import ReferenceEvaluator

from goldfold.exporter.contract import Contract
from goldfold.exporter.evaluate.emulate import emulated
from goldfold.exporter.ir import legality
from goldfold.exporter.ir.program import Program, drop_unused, infer_shapes
from goldfold.exporter.passes import docstring
from goldfold.exporter.passes.base import Equality, Log, Pass
from tests.exporter.passes import drawing

Arrays = Mapping[str, np.ndarray]

BATCH = "B"
"""The symbol that examples use for the axis of texts."""

U = 2.0**-53
"""The unit roundoff of f64."""

# Building -----------------------------------------------------------------------------------------


def build(text: str, weights: dict[str, np.ndarray] | None = None, wide: bool = False) -> ir.Model:
    """The model of an example with the shapes that passes want to see; in f64 if `wide`."""
    model = docstring.graph(text, weights)
    if wide:
        widen(model)
    infer_shapes(model)
    return model


def widen(model: ir.Model) -> None:
    """Make every f32 value, constant and cast of the graph f64.

    Functions need no change: ours take their type from their inputs through CastLike.
    """
    graph = model.graph
    for name, value in graph.initializers.items():
        if value.dtype == ir.DataType.FLOAT:
            assert value.const_value is not None
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float64), name=name)
    made = [v for node in graph for v in node.outputs]
    for value in (*graph.inputs, *graph.initializers.values(), *made):
        if value.dtype == ir.DataType.FLOAT:
            value.type = ir.TensorType(ir.DataType.DOUBLE)
    for node in graph:
        # CastLike needs nothing; a Constant is an initializer by now.
        to = node.attributes.get("to" if node.op_type == "Cast" else "dtype")
        if to is not None and to.value == ir.DataType.FLOAT:
            node.attributes[to.name] = ir.AttrInt64(to.name, ir.DataType.DOUBLE)


def serialized(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


# Comparing graphs ---------------------------------------------------------------------------------


def canonical(model: ir.Model) -> list[str]:
    """One line a node, numbered in the order of a walk from the outputs: without names and places.

    A node or float constant that two read appears once, so sharing counts. Float constants, and
    numbers of one byte or less, which are quantized, show type and shape, all others their values.
    Attributes equal to the schema's default are left out.
    """
    inputs = {value: f"input {index}" for index, value in enumerate(model.graph.inputs)}
    known: dict[Any, str] = {}
    lines: list[str] = []

    def read(value: ir.Value | None) -> str:
        if value is None:
            return "none"
        if value in inputs:
            return inputs[value]
        node = value.producer()
        if node is None:
            return constant(value)
        if node not in known:
            arguments = ", ".join([read(v) for v in node.inputs])
            known[node] = f"%{len(known)}"
            attributes = ", ".join(_attributes(node, model.opset_imports.get(node.domain)))
            lines.append(
                f"{known[node]} = {node.domain}:{node.op_type} <{attributes}> ({arguments})"
            )
        return f"{known[node]}.{value.index()}"

    def constant(value: ir.Value) -> str:
        assert value.const_value is not None
        array = value.const_value.numpy()
        if array.dtype.kind == "b" or (array.dtype.kind in "iu" and array.dtype.itemsize > 1):
            return f"{array.dtype}{list(array.shape)} {array.tolist()}"
        if value not in known:
            known[value] = f"%{len(known)}"
            lines.append(f"{known[value]} = {array.dtype}{list(array.shape)}")
        return known[value]

    for value in model.graph.outputs:
        lines.append(f"output {value.name}: {value.dtype} {value.shape} = {read(value)}")
    return lines


def _attributes(node: ir.Node, version: int | None) -> list[str]:
    defaults: dict[str, Any] = {}
    if onnx.defs.has(node.op_type, version or 1, node.domain):
        schema = onnx.defs.get_schema(node.op_type, version or 1, node.domain)
        for name, attribute in schema.attributes.items():
            if attribute.default_value.name:
                defaults[name] = onnx.helper.get_attribute_value(attribute.default_value)
    shown = []
    for name, attribute in sorted(node.attributes.items()):
        value = attribute.value
        given = value.encode() if isinstance(value, str) else value
        if name not in defaults or defaults[name] != given:
            shown.append(f"{name}: {np.float32(value) if isinstance(value, float) else value}")
    return shown


# Comparing numbers --------------------------------------------------------------------------------


def runtime(model: ir.Model, feeds: Arrays) -> list[np.ndarray]:
    """ONNX Runtime on the graph as it stands: its own rewrites would blur which bits are whose."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, dict(feeds))


def text_by_text(model: ir.Model, feeds: Arrays) -> list[np.ndarray]:
    """`runtime`, one text (row of axis B) at a time.

    The fallback for a `before` that ONNX Runtime refuses for more texts than one, which is what a
    legalising pass is for: legalize-rotary's tables of batch 1.
    """

    def axis_of(value: ir.Value) -> int | None:
        symbols = [None if isinstance(d, int) else d.value for d in value.shape or ()]
        return symbols.index(BATCH) if BATCH in symbols else None

    axes = {v.name: axis_of(v) for v in model.graph.inputs}
    (count,) = {feeds[name].shape[axis] for name, axis in axes.items() if axis is not None}
    rows = []
    for text in range(count):
        one = {
            name: array if axes[name] is None else np.take(array, [text], axes[name])
            for name, array in feeds.items()
        }
        rows.append(runtime(model, one))
    joined = []
    for index, value in enumerate(model.graph.outputs):
        axis = axis_of(value)
        assert axis is not None, f"output {value.name} has no axis of texts to join at"
        joined.append(np.concatenate([row[index] for row in rows], axis))
    return joined


class Reference:
    """ONNX's reference evaluator over a model, functions inlined, with room for perturbation.

    `ReferenceEvaluator.run` cannot be told to touch the values between nodes, hence the loop here.
    """

    def __init__(self, model: ir.Model) -> None:
        proto = ir.to_proto(model)
        # onnx.inliner leaves attributes that a call does not give without a value, default or not.
        defaults = {(f.domain, f.name, f.overload): f.attribute_proto for f in proto.functions}
        for node in proto.graph.node:
            given = {attribute.name for attribute in node.attribute}
            for attribute in defaults.get((node.domain, node.op_type, node.overload), ()):
                if attribute.name not in given:
                    node.attribute.append(attribute)
        self.evaluator = ReferenceEvaluator(onnx.inliner.inline_local_functions(proto))
        self.perturbed = 0

    def __call__(
        self, feeds: Arrays, rng: np.random.Generator | None = None, size: float = 0.0
    ) -> list[np.ndarray]:
        """The outputs; `rng` scales every float element that is read by 1 + size·uniform(−1, 1)."""
        self.perturbed = 0

        def read(array: Any) -> Any:
            if rng is None or not isinstance(array, np.ndarray) or array.dtype.kind != "f":
                return array
            self.perturbed += array.size
            return array * (1.0 + size * rng.uniform(-1.0, 1.0, array.shape))

        values: dict[str, Any] = {"": None, **self.evaluator.rt_inits_, **feeds}
        for node in self.evaluator.rt_nodes_:
            values.update(
                zip(node.output, node.run(*[read(values[i]) for i in node.input]), strict=False)
            )
        return [read(values[name]) for name in self.evaluator.output_names]


def noise(
    run: Reference, feeds: Arrays, exact: list[np.ndarray], unit: float = U
) -> list[np.ndarray]:
    """How far rounding may move each element of each output of a graph, to first order.

    An op of n terms computes in f64 what it would compute exactly from inputs changed by at most
    n·u each, or gives a result that is off by as much (n < 64 for all sums here; a transcendental
    is off by a few u, which 64 covers as well). So the error of an output is at most η Σ|c_i|, with
    η = 64 u and c_i its derivative by the logarithm of the i-th of the N elements read. Perturbing
    all of them by independent uniforms in [−η, η] moves the output by S with E S² = η²/3 Σ c_i²,
    and by Cauchy η Σ|c_i| ≤ √(3N) √(E S²). The root is estimated by the largest |S| of 8 runs,
    times 4 for bad luck. For half precision sums are accumulated in f32, so n does not enter: an op
    reads rounded values and rounds once itself, and a transcendental doubles that: η = 4 u.
    """
    eta = 64.0 * unit if unit == U else 4.0 * unit
    rng = np.random.default_rng(0)
    moved = [np.zeros(array.shape) for array in exact]
    for _ in range(8):
        for index, array in enumerate(run(feeds, rng, eta)):
            moved[index] = np.maximum(moved[index], np.abs(array - exact[index]))
    return [4.0 * np.sqrt(3.0 * run.perturbed) * array for array in moved]


def assert_close(before: ir.Model, after: ir.Model, feeds: Arrays) -> None:
    """The REAL comparison of two f64 graphs on the same data."""
    wide = {k: a.astype(np.float64) if a.dtype == np.float32 else a for k, a in feeds.items()}
    one, two = Reference(before), Reference(after)
    expected, got = one(wide), two(wide)
    for index, (a, b) in enumerate(zip(expected, got, strict=True)):
        assert a.shape == b.shape
        assert np.isfinite(a).all(), "drawn data left the range where numbers can be compared"
        allowed = noise(one, wide, expected)[index] + noise(two, wide, got)[index]
        worst = np.max(np.abs(a - b) - allowed, initial=-np.inf)
        assert worst <= 0.0, (
            f"output {index} is off by {np.abs(a - b).max():.3g}, "
            f"rounding explains {allowed.flat[np.argmax(np.abs(a - b) - allowed)]:.3g} there"
        )


def assert_same_bits(before: ir.Model, after: ir.Model, feeds: Arrays) -> None:
    """The EXACT comparison of two f32 graphs on the same data. NaN equals only the same NaN."""
    got = runtime(after, feeds)  # no way out here: what a pass leaves must run
    try:
        expected = runtime(before, feeds)
    except Exception:
        expected = text_by_text(before, feeds)
    for index, (a, b) in enumerate(zip(expected, got, strict=True)):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert a.tobytes() == b.tobytes(), f"output {index} has other bits"


def assert_equal(equality: Equality, before: ir.Model, after: ir.Model, feeds: Arrays) -> None:
    match equality:
        case Equality.EXACT:
            assert_same_bits(before, after, feeds)
        case Equality.REAL:
            assert_close(before, after, feeds)
        case Equality.BOUND:
            raise AssertionError("a bound depends on the pass: assert_bound")


def assert_bound(before: ir.Model, after: ir.Model, feeds: Arrays, unit: float) -> None:
    """The BOUND comparison: `before` in f64, `after` with every value rounded to its type, whose
    unit roundoff `unit` is."""
    widen(before)
    wide = {k: a.astype(np.float64) if a.dtype == np.float32 else a for k, a in feeds.items()}
    run = Reference(before)
    expected = run(wide)
    contract = Contract(
        model="example", dim=1, max_length=1, vocab_size=1, pad_id=0, normalized=False
    )
    got = runtime(emulated(Program(after, contract)).model, feeds)
    allowed = noise(run, wide, expected, unit)
    for index, (a, b) in enumerate(zip(expected, got, strict=True)):
        assert np.abs(a - b).max() > 0.0, "nothing was rounded"
        worst = np.max(np.abs(a - b) - allowed[index])
        assert worst <= 0.0, f"output {index} is off by {np.abs(a - b).max():.3g}"


# The whole of it ----------------------------------------------------------------------------------


def faults(model: ir.Model) -> list[str]:
    """What the verifier says of an example; its interface is free, as it is no encoder."""
    contract = Contract(
        model="example", dim=1, max_length=1, vocab_size=1, pad_id=0, normalized=False
    )
    return [fault for _, fault in legality.graph_faults(Program(model, contract))]


def assert_legal(model: ir.Model) -> None:
    assert faults(model) == []
    left = serialized(model)
    drop_unused(model)
    assert serialized(model) == left, "something is left that no output depends on"
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def assert_settled(this: Pass, model: ir.Model) -> None:
    """Applying it again changes nothing."""
    left = serialized(model)
    assert this.rewrite(model).applied == []
    assert serialized(model) == left


def assert_structure(this: Pass, before: str, after: str) -> None:
    """`before`, rewritten, is the graph of `after`; legal, complete and settled."""
    model = build(before)
    interface = _interface(model)
    assert this.rewrite(model).applied, "the pass does not apply to its own example"
    assert _interface(model) == interface
    assert_legal(model)
    if after == "none":
        assert not any(node.domain for node in model.graph)
    else:
        assert canonical(model) == canonical(docstring.graph(after))
    assert_settled(this, model)


def assert_holds(this: Pass, text: str, weights: dict[str, np.ndarray], feeds: Arrays) -> None:
    """`text` means the same before and after, on these weights and data."""
    if this.equality is Equality.BOUND:
        weights = {k: drawing.numbers(v.shape, "normal", 1) for k, v in weights.items()}
        feeds = {
            k: drawing.numbers(v.shape, "normal", 2) if v.dtype.kind == "f" else v
            for k, v in feeds.items()
        }
        before, model = build(text, weights), build(text, weights)
        assert this.rewrite(model).applied, "the pass does not apply to its own example"
        assert faults(model) == []
        unit = this.unit()
        if unit is not None:
            assert_bound(before, model, feeds, unit)
        else:
            assert this.bound, "a BOUND pass states its unit, or names the test of its bound"
        assert_settled(this, model)
        return
    wide = this.equality is Equality.REAL
    before, model = build(text, weights, wide), build(text, weights, wide)
    assert this.rewrite(model).applied, "the pass does not apply to its own example"
    assert faults(model) == []
    assert_equal(this.equality, before, model, feeds)
    assert_settled(this, model)


def assert_left_alone(this: Pass, text: str) -> Log:
    """The graph is the same bytes after; what matched is named with law, place and reason."""
    model = build(text)
    left = serialized(model)
    matched = [node for node in model.graph if this.match(node) is not None]
    log = this.rewrite(model)
    assert log.applied == []
    assert serialized(model) == left
    assert len(log.refused) == len(matched)
    for refusal in log.refused:
        assert refusal.pass_name == this.name and refusal.place and refusal.reason
        assert len(str(refusal).splitlines()) == 1
    return log


def assert_said(log: Log, reason: str | None) -> None:
    """`reason` is part of one that was logged; None: nothing was."""
    reasons = [refusal.reason for refusal in log.refused]
    if reason is None:
        assert reasons == [], "it matches what it should ignore"
    else:
        assert any(reason in one for one in reasons), f"it says {reasons}, not {reason!r}"


def _interface(model: ir.Model) -> list[tuple[Any, ...]]:
    values = (*model.graph.inputs, *model.graph.outputs)
    return [(v.name, v.dtype, str(v.shape)) for v in values]
