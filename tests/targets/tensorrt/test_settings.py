"""What is asked of an engine: profiles, architectures, types; each fault is one sentence."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goldfold.exporter.contract import Contract
from goldfold.exporter.errors import RewriteError, TargetError
from goldfold.exporter.ir.program import MODULE, Program, infer_shapes
from goldfold.exporter.passes import docstring
from goldfold.targets.tensorrt import TARGET, architectures, settings, vendor
from goldfold.targets.tensorrt.options import TensorRtOptions

KNOWN = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")


def program_of(model: ir.Model) -> Program:
    for node in model.graph:
        node.name = f"node_{node.op_type}"
        node.metadata_props[MODULE] = "encoder.layer"
    contract = Contract(
        model="example", dim=4, max_length=8, vocab_size=8, pad_id=0, normalized=False
    )
    return Program(model, contract)


# --- profiles


@given(
    st.lists(st.integers(1, 64), min_size=3, max_size=3).map(sorted),
    st.lists(st.integers(1, 512), min_size=3, max_size=3).map(sorted),
)
def test_a_profile_is_read_as_it_is_written(batches: list[int], tokens: list[int]) -> None:
    text = ":".join(f"{b}x{s}" for b, s in zip(batches, tokens, strict=True))
    profile = settings.parse_profile(text, 512)
    assert str(profile) == text
    assert profile.holds(batches[1], tokens[1])
    assert not profile.holds(batches[2] + 1, tokens[1])
    assert not profile.holds(batches[1], tokens[2] + 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("8x128", "not least:usual:most"),
        ("1x1:8x128", "not least:usual:most"),
        ("1x1:8x:32x512", "not least:usual:most"),
        ("1x1:-8x128:32x512", "not least:usual:most"),
        ("8x1:4x128:32x512", "its batch go 8, 4, 32"),
        ("1x64:8x32:32x512", "its tokens go 64, 32, 512"),
        ("1x1:8x128:4x512", "its batch go 1, 8, 4"),
        ("0x1:8x128:32x512", "at least 1"),
        ("1x1:8x128:32x513", "the model takes 512"),
        ("1x1:8x128:99999999999x512", "no 32-bit index"),
    ],
)
def test_a_profile_that_no_engine_has_is_refused(text: str, says: str) -> None:
    with pytest.raises(TargetError, match=says):
        settings.parse_profile(text, 512)


@pytest.mark.parametrize("max_length", [1, 7, 64, 512, 8192])
def test_default_profiles_fit_the_model(max_length: int) -> None:
    profiles = settings.default_profiles(max_length)
    assert len(profiles) > 1
    for profile in profiles:
        settings.parse_profile(str(profile), max_length)
    assert profiles[-1].most[1] == max_length


@pytest.mark.parametrize(
    ("texts", "first"),
    [
        (["1x1:8x128:32x512"], None),
        (["1x1:1x8:4x16", "1x17:8x128:32x512"], None),
        (["1x2:8x128:32x512"], 1),
        (["2x1:8x128:32x512"], 1),
        (["1x1:1x8:4x16", "1x18:8x128:32x512"], 17),
        (["1x1:1x8:4x16", "4x1:8x128:32x512"], 17),
    ],
)
def test_profiles_leave_no_length_out(texts: list[str], first: int | None) -> None:
    profiles = [settings.parse_profile(text, 512) for text in texts]
    if first is None:
        settings.check_cover(profiles)
        return
    with pytest.raises(TargetError, match=f"no profile takes one text of {first} tokens"):
        settings.check_cover(profiles)


def test_the_largest_profile_is_what_the_artifact_promises() -> None:
    contract = Contract(
        model="example", dim=4, max_length=512, vocab_size=8, pad_id=0, normalized=True
    )
    asked = TensorRtOptions(profile=("1x1:1x8:4x16", "1x1:8x64:32x256"))
    made = TARGET.narrow(contract.with_(lengths={"query": 32, "document": 300}), asked)
    assert made.max_length == 256 and made.lengths == {"query": 32}


# --- architectures


def test_every_architecture_that_the_precision_allows_is_built_for() -> None:
    assert settings.parse_capabilities((), "fp16", KNOWN) == KNOWN
    assert settings.parse_capabilities((), "bf16", KNOWN) == KNOWN[1:]
    assert settings.parse_capabilities((), "fp32", KNOWN) == KNOWN[1:]


def test_architectures_are_ordered_and_not_doubled() -> None:
    asked = ("SM120", "sm86", "sm86")
    assert settings.parse_capabilities(asked, "bf16", KNOWN) == ("sm86", "sm120")


@pytest.mark.parametrize(
    ("asked", "precision", "says"),
    [
        ("sm75", "bf16", "bf16 needs sm80 or later, not sm75"),
        ("sm75", "fp32", "fp32 needs sm80 or later, not sm75"),
        ("sm80", "fp8", "fp8 needs sm89 or later, not sm80"),
        ("sm90", "fp16", "unknown compute capability 'sm90'.*sm75, sm80"),
        ("hopper", "fp16", "unknown compute capability 'hopper'"),
        ("", "fp16", "unknown compute capability ''"),
    ],
)
def test_an_architecture_that_will_not_do_is_refused(asked: str, precision: str, says: str) -> None:
    with pytest.raises(TargetError, match=says):
        settings.parse_capabilities((asked,), precision, KNOWN)


@pytest.mark.skipif(vendor.builder() != vendor.RTX, reason="TensorRT builds for the GPU at hand")
def test_the_target_settles_before_anything_is_traced() -> None:
    settled = TARGET.settle("bf16", TensorRtOptions(), 256)
    assert settled.compute_capability == vendor.capabilities()[1:]
    assert len(settled.profile) == 2
    with pytest.raises(TargetError, match="bf16 needs sm80"):
        TARGET.settle("bf16", TensorRtOptions(compute_capability=("sm75",)), 256)
    with pytest.raises(TargetError, match="the model takes 256"):
        TARGET.settle("fp16", TensorRtOptions(profile=("1x1:1x8:1x257",)), 256)
    with pytest.raises(TargetError, match="--compatible is TensorRT's"):
        TARGET.settle("fp16", TensorRtOptions(compatible=("version",)), 256)


def test_the_compiler_s_own_list_is_the_one_we_know() -> None:
    """If NVIDIA adds one, LEAST_FOR_PRECISION wants another look."""
    if vendor.builder() == vendor.RTX:
        assert vendor.capabilities() == KNOWN


# --- types and zero-points


@pytest.mark.parametrize(
    ("kind", "capability", "says"),
    [("bfloat16", "sm75", "bf16"), ("float8e4m3fn", "sm80", "fp8"), ("int4", "sm75", "int4")],
)
def test_a_type_that_an_architecture_lacks_is_named_with_its_node(
    kind: str, capability: str, says: str
) -> None:
    text = f"f ({kind}[B,4] x) => (float[B,4] y) {{ y = Cast <to: int = 1> (x) }}"
    program = program_of(docstring.graph(text))
    assert architectures.without(program, ("sm120",), named=True) == (("sm120",), {})
    with pytest.raises(
        TargetError,
        match=rf"{capability} cannot hold the {says} of node_Cast \(from encoder.layer\): .*; "
        rf"leave {capability} out",
    ):
        architectures.without(program, (capability, "sm120"), named=True)
    left, lacks = architectures.without(program, (capability, "sm120"), named=False)
    assert left == ("sm120",)
    (said,) = architectures.left_out(lacks)
    assert said.startswith(f"{capability} is left out: it cannot hold the {says} of node_Cast")


PRODUCTS = [
    ("y = MatMul(x, w)", "float"),
    ("y = Gemm(x, w)", "float"),
    ('y = Einsum <equation: string = "bi,ij->bj"> (x, w)', "float"),
    ("t = Transpose <perm: ints = [1, 0]> (x)\n y = MatMul(x, t)", "float"),
    ("y = MatMul(x, w)", "float16"),
    ("y = Add(x, b)", "float"),
]


@pytest.mark.parametrize(("body", "kind"), PRODUCTS)
def test_a_matrix_product_in_f32_is_left_to_those_that_have_one(body: str, kind: str) -> None:
    text = f"f ({kind}[B,4] x, {kind}[4,4] w, {kind}[4] b) => ({kind}[B,N] y) {{ {body} }}"
    program = program_of(docstring.graph(text))
    infer_shapes(program.model)
    found = architectures.lacking(program, KNOWN)
    lacks = kind == "float" and "Add" not in body
    assert set(found) == ({"sm75"} if lacks else set())
    assert all("f32 matrix product of node_" in str(lack) for lack in found.values())


def test_what_no_architecture_has_is_one_error() -> None:
    text = "f (float8e4m3fn[B,4] x) => (float[B,4] y) { y = Cast <to: int = 1> (x) }"
    program = program_of(docstring.graph(text))
    with pytest.raises(
        TargetError, match=r"^sm75 cannot hold the fp8 of node_Cast .* asked for can"
    ):
        architectures.without(program, ("sm75", "sm80"), named=False)


def test_architectures_are_left_out_in_a_sentence_a_reason() -> None:
    reasons = {"sm75": "cannot hold x", "sm80": "cannot hold x", "sm86": "is too old"}
    assert architectures.left_out(reasons) == (
        "sm75, sm80 are left out: they cannot hold x",
        "sm86 is left out: it is too old",
    )


@pytest.mark.parametrize("op", ["QuantizeLinear", "DequantizeLinear"])
def test_a_zero_point_that_is_not_zero_is_refused(op: str) -> None:
    into, out = ("float", "int8") if op == "QuantizeLinear" else ("int8", "float")
    text = f"f ({into}[B,4] x, float[1] s, int8[1] z) => ({out}[B,4] y) {{ y = {op}(x, s, z) }}"
    for zero, fine in ((0, True), (3, False)):
        weights = {"s": np.ones(1), "z": np.array([zero])}
        program = program_of(docstring.graph(text, weights))
        if fine:
            architectures.check_graph(program)
        else:
            with pytest.raises(RewriteError, match=rf"{op} .*encoder.layer.*not 0"):
                architectures.check_graph(program)
