"""Plain programs: prepared node by node they come out as torch.onnx itself would write them."""

from __future__ import annotations

import gc
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from onnxscript.rewriter import RewriteRule

from goldfold.exporter.errors import ModelError
from goldfold.exporter.frontend.source import open_model
from goldfold.exporter.frontend.trace import around, lower, plain, trace
from goldfold.exporter.ir.program import Program
from tests import models


def everything(program: Program) -> list[str]:
    """Every node and every constant, values included."""
    constants = [
        f"{name} {value.dtype} {value.shape} {value.const_value.tobytes().hex()}"
        for name, value in program.graph.initializers.items()
        if value.const_value is not None
    ]
    return [f"{node} {sorted(node.metadata_props.items())}" for node in program.graph] + constants


@pytest.mark.parametrize("kind", ["gemma3", "bert"])
def test_a_family_is_plain_and_comes_out_as_torch_writes_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = models.build(kind, tmp_path / kind)
    with monkeypatch.context() as patch:
        patch.setattr(plain, "translate", lambda exported: None)
        expected = trace(open_model(folder))
    with monkeypatch.context() as patch:
        patch.delattr(torch.onnx, "export")
        found = trace(open_model(folder))
    assert everything(found) == everything(expected)


def exported(function, *examples: torch.Tensor) -> torch.export.ExportedProgram:
    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen = torch.nn.Buffer(torch.zeros(3))

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return function(self, *inputs)

    batch = torch.export.Dim("batch", min=1, max=100)
    return torch.export.export(Module(), examples, dynamic_shapes=(({0: batch},) * len(examples),))


def converted(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = x.to(torch.float32) + x.to("cpu").to(torch.int64).to(torch.float32)
    return y.reshape(x.shape[0], -1).sum(1, keepdim=True).expand_as(y).to(torch.float32)


def test_spelling_keeps_the_function_and_leaves_casts_only() -> None:
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(1)) * 5
    program = exported(converted, x)
    before = program.module()(x)
    plain.spell(program)
    spelt = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert spelt.count("aten._to_copy.default") == 2
    assert not [name for name in spelt if "aten.to." in name or "_assert" in name]
    assert {"aten.view.default", "aten.expand.default"} <= set(spelt)
    assert torch.equal(program.module()(x), before)


def test_what_nobody_else_sees_may_be_written() -> None:
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    program = exported(lambda module, x: (x + 1).mul_(x).add_(2), x)
    before = program.module()(x)
    plain.spell(program)
    spelt = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert spelt[-3:] == ["aten.add.Tensor", "aten.mul.Tensor", "aten.add.Tensor"]
    assert torch.equal(program.module()(x), before)


def remembers(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    module.seen.add_(x.sum(0))  # type: ignore[operator, union-attr]
    return x + module.seen


def chooses(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))


def seen_twice(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = x.exp()
    z = y[:, 1:]
    y.mul_(x)
    return y.sum(1) + z.sum(1)


@pytest.mark.parametrize(
    "function",
    [
        remembers,
        chooses,
        lambda module, x: x.exp()[:, 1:].mul_(x[:, 1:]),
        seen_twice,
        lambda module, x: torch.nn.functional.dropout(x, 0.5, training=False).mul_(x),
        lambda module, x: x.exp().mul_(x.to(torch.float64)),
        lambda module, x: torch.special.bessel_j0(x),
    ],
    ids=[
        "a buffer is written",
        "two graphs",
        "a view is written",
        "what is written is read as well",
        "the input is written by another name",
        "the types are mixed",
        "no translation",
    ],
)
def test_what_is_not_plain_is_left_to_torch(function) -> None:
    program = exported(function, torch.ones(2, 3))
    before = str(program.graph)
    assert plain.translate(program) is None
    assert str(program.graph) == before


def test_what_fails_half_way_goes_torchs_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(module: torch.fx.GraphModule) -> None:
        raise RuntimeError("no types here")

    monkeypatch.setattr(plain, "_promote", fail)

    def scaled(module: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (ids * mask).to(torch.float32).reshape(-1, 3)

    ones = torch.ones(2, 3, dtype=torch.int64)
    model = lower.lower(exported(scaled, ones, ones))
    assert [node.op_type for node in model.graph] == ["Mul", "Cast", "Reshape"]


def test_what_nobody_translates_is_named() -> None:
    ones = torch.ones(2, 3)
    program = exported(lambda module, x, y: torch.special.bessel_j0(x + y), ones, ones)
    with pytest.raises(ModelError, match=r"torch\.onnx cannot translate"):
        lower.lower(program)


def test_rules_are_tried_only_where_they_can_match_and_torchs_own_come_back() -> None:
    tried: list[str] = []
    original = RewriteRule.try_rewrite

    def pattern(op, x):
        return op.Neg(op.Neg(x))

    def note(context, x: ir.Value, **_: object) -> bool:
        tried.append(x.name or "")
        return True

    rule = RewriteRule(pattern, lambda op, x: op.Identity(x), note)
    text = """
        <ir_version: 10, opset_import: ["" : 23]>
        f (float[2] x) => (float[2] y) { a = Abs(x) b = Neg(a) c = Neg(b) y = Abs(c) }
    """
    model = ir.from_onnx_text(text)
    with lower._rules_where_they_can_match():
        assert RewriteRule.try_rewrite is not original
        assert rule.apply_to_model(model) == 1
    assert tried == ["a"]
    assert [node.op_type for node in model.graph][:2] == ["Abs", "Identity"]
    assert RewriteRule.try_rewrite is original


def test_what_a_trace_leaves_out_comes_back_when_it_fails() -> None:
    with pytest.raises(ZeroDivisionError), around.lean():
        assert not gc.isenabled()
        raise ZeroDivisionError
    assert gc.isenabled()
    assert not torch.fx.config.do_not_emit_stack_traces
