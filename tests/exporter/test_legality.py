"""The verifier, by breaking a legal program in one way at a time."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from goldfold.exporter.contract import EMBEDDING
from goldfold.exporter.errors import RewriteError
from goldfold.exporter.ir import dialect, legality
from goldfold.exporter.ir.program import Program
from tests.exporter import small


def node_of(program: Program, output: str) -> ir.Node:
    return next(node for node in program.graph if node.outputs[0].name == output)


def value_of(program: Program, name: str) -> ir.Value:
    return node_of(program, name).outputs[0]


def message_of(program: Program) -> str:
    with pytest.raises(RewriteError) as caught:
        legality.check(program, "some-pass")
    text = str(caught.value)
    assert text.startswith("illegal graph after some-pass")
    assert len(text.splitlines()) == 1
    return text


def test_a_legal_program_has_no_faults() -> None:
    program = small.program()
    assert list(legality.faults(program)) == []
    legality.check(program, "some-pass")


# Faults at a node: how it is broken, where that is, and what is said -----------------------------


def read_too_early(program: Program) -> None:
    mul = node_of(program, "m")
    program.graph.remove(mul)
    program.graph.insert_before(node_of(program, "l"), mul)


def read_from_elsewhere(program: Program) -> None:
    stranger = ir.Value(name="l", type=ir.TensorType(ir.DataType.FLOAT))
    node_of(program, "m").replace_input_with(0, stranger)


def one_name_twice(program: Program) -> None:
    value_of(program, "r").name = "l"


def the_name_of_a_constant(program: Program) -> None:
    value_of(program, "r").name = "left"


def no_name(program: Program) -> None:
    value_of(program, "r").name = None


def an_op_that_is_none(program: Program) -> None:
    node_of(program, "t").op_type = "Tanhh"


def an_op_of_another_opset(program: Program) -> None:
    node_of(program, "t").op_type = "Swish"  # of opset 24


def a_domain_from_nowhere(program: Program) -> None:
    node_of(program, "t").domain = "com.nobody"


def no_function(program: Program) -> None:
    program.model.functions.clear()


def three_inputs(program: Program) -> None:
    node_of(program, "a").resize_inputs(3)


def no_padding(program: Program) -> None:
    node_of(program, "a").replace_input_with(3, None)


def keys_of_rank_three(program: Program) -> None:
    node_of(program, "a").replace_input_with(1, value_of(program, "x"))


def padding_of_rank_three(program: Program) -> None:
    value_of(program, "padding").shape = ir.Shape(["batch", 1, "tokens"])


def padding_of_numbers(program: Program) -> None:
    node_of(program, "a").replace_input_with(3, program.graph.inputs[1])


def keys_of_another_type(program: Program) -> None:
    k = value_of(program, "heads")
    k.type = ir.TensorType(ir.DataType.FLOAT16)
    node_of(program, "a").replace_input_with(1, k)


def heads_no_multiple(program: Program) -> None:
    k = value_of(program, "heads")
    k.shape = ir.Shape(["batch", 3, "tokens", small.DIM // 4])
    node_of(program, "a").replace_input_with(1, k)


def a_bias(program: Program, *sizes: int | str, kind: ir.DataType = ir.DataType.FLOAT) -> None:
    """Give the attention a bias of this shape and type."""
    model, old = program.model, node_of(program, "a")
    bias = ir.Value(name="bias", type=ir.TensorType(kind), shape=ir.Shape(sizes))
    program.graph.inputs.append(bias)
    inputs = [*old.inputs, bias]
    new = ir.node(old.op_type, inputs, old.attributes, domain=old.domain, overload=dialect.BIASED)
    new.name = old.name
    new.metadata_props.update(old.metadata_props)
    program.graph.insert_before(old, [new])
    name, old.outputs[0].name = old.outputs[0].name, "replaced"
    new.outputs[0].name = name
    old.outputs[0].replace_all_uses_with(new.outputs[0])
    program.graph.remove(old, safe=True)
    dialect.define(model)


def a_bias_of_rank_three(program: Program) -> None:
    a_bias(program, 4, "tokens", "tokens")


def a_bias_of_other_heads(program: Program) -> None:
    a_bias(program, 1, 2, "tokens", "tokens")


def a_bias_of_another_type(program: Program) -> None:
    a_bias(program, 1, 4, "tokens", "tokens", kind=ir.DataType.FLOAT16)


def a_bias_without_its_overload(program: Program) -> None:
    a_bias(program, 1, 4, "tokens", "tokens")
    node_of(program, "a").overload = ""
    dialect.define(program.model)


AT_NODES: dict[Callable[[Program], None], tuple[str, str]] = {
    read_too_early: ("encoder.m", "it reads 'l', which nothing before it makes"),
    read_from_elsewhere: ("encoder.m", "it reads 'l', which nothing before it makes"),
    one_name_twice: ("encoder.r", "the name 'l' is given twice"),
    the_name_of_a_constant: ("encoder.r", "the name 'left' is given twice"),
    no_name: ("encoder.r", "a value has no name"),
    an_op_that_is_none: ("encoder.t", "there is no op 'Tanhh' in opset 23"),
    an_op_of_another_opset: ("encoder.t", "there is no op 'Swish' in opset 23"),
    a_domain_from_nowhere: ("encoder.t", "its domain 'com.nobody' is not imported"),
    no_function: ("encoder.a", "goldfold.BandAttention has no definition in the model"),
    three_inputs: ("encoder.a", "takes q, k, v and padding, not 3 inputs"),
    no_padding: ("encoder.a", "takes q, k, v and padding"),
    keys_of_rank_three: ("encoder.a", "k has shape [batch,tokens,40], which is not of rank 4"),
    padding_of_rank_three: ("encoder.a", "padding has shape [batch,1,tokens]"),
    padding_of_numbers: ("encoder.a", "padding is INT64, not BOOL"),
    keys_of_another_type: ("encoder.a", "different types FLOAT, FLOAT16, FLOAT"),
    a_bias_of_rank_three: ("encoder.a", "bias has shape [4,tokens,tokens], which is not of rank 4"),
    a_bias_of_other_heads: ("encoder.a", "which is not of one head or 4"),
    a_bias_of_another_type: ("encoder.a", "its bias is FLOAT16, its queries are FLOAT"),
    a_bias_without_its_overload: ("encoder.a", "it has 5 inputs and the overload ''"),
    heads_no_multiple: ("encoder.a", "4 heads are no multiple of 3 key/value heads"),
}


@pytest.mark.parametrize("break_it", AT_NODES, ids=lambda f: f.__name__)
def test_a_fault_at_a_node_is_named_with_its_place(break_it: Callable[[Program], None]) -> None:
    place, fault = AT_NODES[break_it]
    program = small.program()
    break_it(program)
    text = message_of(program)
    assert f" at {place}: " in text and fault in text


def test_the_neighbours_are_shown() -> None:
    program = small.program()
    an_op_that_is_none(program)
    assert message_of(program).endswith("; near: Tanhh reads [encoder.r], is read by [encoder.m]")


def test_neighbours_may_be_nobody() -> None:
    program = small.program()
    node = ir.node("Tanhh", [program.graph.inputs[0]], name="lonely")
    node.outputs[0].name = "lonely"
    program.graph.append(node)
    text = message_of(program)
    assert " at lonely: " in text
    assert text.endswith("; near: Tanhh reads [inputs], is read by [nobody]")


# Faults of constants and of the interface: they have no node, but a name --------------------------


def no_data(program: Program) -> None:
    program.graph.initializers["left"].const_value = None


def constant_of_another_shape(program: Program) -> None:
    program.graph.initializers["left"].shape = ir.Shape([3, 7])


def constant_of_another_type(program: Program) -> None:
    program.graph.initializers["left"].type = ir.TensorType(ir.DataType.FLOAT16)


def input_renamed(program: Program) -> None:
    program.graph.inputs[0].name = "tokens"


def inputs_swapped(program: Program) -> None:
    program.graph.inputs.reverse()


def a_third_input(program: Program) -> None:
    program.graph.inputs.append(ir.Value(name="more", type=ir.TensorType(ir.DataType.INT64)))


def input_of_another_type(program: Program) -> None:
    program.graph.inputs[0].type = ir.TensorType(ir.DataType.INT32)


def no_output(program: Program) -> None:
    program.graph.outputs.clear()


def output_renamed(program: Program) -> None:
    program.graph.outputs[0].name = "vector"


def second_output_first(program: Program) -> None:
    program.graph.outputs.insert(0, value_of(program, "s"))


def output_of_another_type(program: Program) -> None:
    program.graph.outputs[0].type = ir.TensorType(ir.DataType.FLOAT16)


def output_of_another_width(program: Program) -> None:
    program.graph.outputs[0].shape = ir.Shape(["batch", small.DIM // 2])


def output_of_no_known_width(program: Program) -> None:
    program.graph.outputs[0].shape = None


def output_that_nobody_makes(program: Program) -> None:
    program.graph.outputs.append(ir.Value(name="more", type=ir.TensorType(ir.DataType.FLOAT)))


OF_THE_WHOLE: dict[Callable[[Program], None], tuple[str, ...]] = {
    no_data: ("constant 'left' has no data",),
    constant_of_another_shape: ("constant 'left' is declared [3,7], holds [40,40]",),
    constant_of_another_type: ("constant 'left' is declared FLOAT16, holds FLOAT",),
    input_renamed: ("'tokens'", "the contract says ('input_ids', 'attention_mask')"),
    inputs_swapped: ("the inputs are ('attention_mask', 'input_ids')",),
    a_third_input: ("'more'", "the contract says"),
    input_of_another_type: ("input 'input_ids' is INT32, the contract says int64",),
    no_output: ("the outputs are []", EMBEDDING),
    output_renamed: ("the outputs are ['vector']", EMBEDDING),
    second_output_first: (f"the outputs are ['s', '{EMBEDDING}']", "first"),
    output_of_another_type: ("the output is FLOAT16, the contract says float32",),
    output_of_another_width: ("[batch,20]", "the contract says 40 wide"),
    output_of_no_known_width: ("the output has shape None",),
    output_that_nobody_makes: ("nothing makes the output 'more'",),
}


@pytest.mark.parametrize("break_it", OF_THE_WHOLE, ids=lambda f: f.__name__)
def test_a_fault_of_the_whole_is_named(break_it: Callable[[Program], None]) -> None:
    program = small.program()
    break_it(program)
    text = message_of(program)
    for part in OF_THE_WHOLE[break_it]:
        assert part in text


def test_a_second_output_behind_the_first_is_legal() -> None:
    program = small.program()
    program.graph.outputs.append(value_of(program, "s"))
    assert list(legality.faults(program)) == []


def test_a_constant_that_is_renamed_stays_legal() -> None:
    program = small.program()
    program.graph.initializers["left"].name = "port"
    assert "port" in program.graph.initializers
    assert list(legality.faults(program)) == []
