"""The IR is ONNX at one opset, plus one op of its own.

`goldfold.BandAttention` states an encoder's attention (which token sees which) in attributes, where
a pass can read it, instead of in a dozen nodes of mask arithmetic:

    y[B,H,S,D] = BandAttention(q[B,H,S,D], k[B,G,S,D], v[B,G,S,D], padding[B,S], bias)
                 {scale, window, causal, softcap}

* G divides H; query head h reads key/value head h // (H/G).
* `padding` is bool, true where a token is real; no token sees one that is not.
* window = 0: no window. Otherwise token i sees token j only if |i − j| < window.
* causal = 1: token i sees token j only if j ≤ i.
* softcap = 0: none. Otherwise scores become softcap · tanh(scores / softcap) before masking.
* `bias` may be missing. Otherwise it is added to the scores before the mask is; its shape is
  [1 or B, 1 or H, S, S]. One bias may serve all layers. A node with a bias has the overload
  "biased", since a function in ONNX cannot ask whether an input is there.

The op is defined by the model-local function below, in standard ops only; equivalence is tested
against that function. Its mask is *added* and finite, so a row that sees no token (a padding token
far from every real one) still softmaxes to finite numbers: a mask of −inf would make the row NaN,
and the pooling would spread the NaN. An op of this domain must not have a name that ONNX has:
TensorRT's parser ignores the domain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import onnx.parser
import onnx_ir as ir

OPSET = 23
"""The version of the default domain; the first with RMSNormalization and RotaryEmbedding."""

IR_VERSION = 10
"""The version of the ONNX file format; every consumer here reads it, and it has int4."""

DOMAIN = "goldfold"
BAND_ATTENTION = "BandAttention"
BIASED = "biased"
"""The overload of a BandAttention with a bias."""

HIDDEN = -3.0e4
"""The number added to the score of a token that must not be seen.

In f32 a hidden token's weight is exactly 0 while scores differ by less than 3e4 − 104 (e^−104 is
below the least subnormal), and −3e4 plus any score above −35,504 stays finite in fp16 as well.
"""

_BAND_ATTENTION_FUNCTION = f"""
<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>
{BAND_ATTENTION} <scale: float = 1.0, window: int = 0, causal: int = 0, softcap: float = 0.0>
(q, k, v, padding) => (y)
{{
  zero = Constant <value_int: int = 0> ()
  one = Constant <value_int: int = 1> ()
  batch = Shape <start: int = 0, end: int = 1> (q)
  heads = Shape <start: int = 1, end: int = 2> (q)
  groups = Shape <start: int = 1, end: int = 2> (k)
  tokens = Shape <start: int = 2, end: int = 3> (q)
  width = Shape <start: int = 3, end: int = 4> (q)
  heads_a_group = Div (heads, groups)
  grouped = Concat <axis: int = 0> (batch, groups, heads_a_group, tokens, width)
  axis_two = Constant <value_ints: ints = [2]> ()
  scale_f = Constant <value_float: float = @scale> ()
  scale_q = CastLike (scale_f, q)
  scaled = Mul (q, scale_q)
  queries = Reshape (scaled, grouped)
  keys_4d = Transpose <perm: ints = [0, 1, 3, 2]> (k)
  keys = Unsqueeze (keys_4d, axis_two)
  values = Unsqueeze (v, axis_two)
  scores = MatMul (queries, keys)

  softcap_f = Constant <value_float: float = @softcap> ()
  softcap_q = CastLike (softcap_f, q)
  zero_f = Constant <value_float: float = 0.0> ()
  zero_q = CastLike (zero_f, q)
  one_f = Constant <value_float: float = 1.0> ()
  one_q = CastLike (one_f, q)
  uncapped = Equal (softcap_q, zero_q)
  divisor = Where (uncapped, one_q, softcap_q)
  ratio = Div (scores, divisor)
  bent = Tanh (ratio)
  capped = Mul (bent, divisor)
  limited = Where (uncapped, scores, capped)

  count = Squeeze (tokens)
  position = Range (zero, count, one)
  axis_zero = Constant <value_ints: ints = [0]> ()
  axis_one = Constant <value_ints: ints = [1]> ()
  i = Unsqueeze (position, axis_one)
  j = Unsqueeze (position, axis_zero)
  ahead = Sub (i, j)
  distance = Abs (ahead)
  window_i = Constant <value_int: int = @window> ()
  unbounded = Equal (window_i, zero)
  reach = Where (unbounded, count, window_i)
  near = Less (distance, reach)
  causal_i = Constant <value_int: int = @causal> ()
  both_ways = Equal (causal_i, zero)
  backwards = Neg (count)
  least = Where (both_ways, backwards, zero)
  allowed = GreaterOrEqual (ahead, least)
  band = And (near, allowed)
  middle = Constant <value_ints: ints = [1, 2, 3]> ()
  real = Unsqueeze (padding, middle)
  seen = And (real, band)
  hidden_f = Constant <value_float: float = {HIDDEN}> ()
  hidden_q = CastLike (hidden_f, q)
  mask = Where (seen, zero_q, hidden_q)

  masked = Add (limited, mask)
  weights = Softmax <axis: int = -1> (masked)
  mixed = MatMul (weights, values)
  shape = Shape (q)
  y = Reshape (mixed, shape)
}}
"""

_ADD_BIAS = """
  by_head = Concat <axis: int = 0> (batch, heads, tokens, tokens)
  plain = Reshape (limited, by_head)
  biased = Add (plain, bias)
  by_group = Shape (limited)
  summed = Reshape (biased, by_group)
  masked = Add (summed, mask)
"""
"""The line of the definition that adds the mask, where there is a bias."""


def band_attention_function(overload: str = "") -> ir.Function:
    """A fresh copy of the definition of `goldfold.BandAttention` in standard ops, without a bias or
    with one."""
    text = _BAND_ATTENTION_FUNCTION
    if overload == BIASED:
        text = text.replace("opset_import", f'overload: "{BIASED}", opset_import')
        text = text.replace("padding) =>", "padding, bias) =>")
        text = text.replace("  masked = Add (limited, mask)\n", _ADD_BIAS)
    return ir.serde.deserialize_function(onnx.parser.parse_function(text))


def define(model: ir.Model) -> None:
    """Give the model the definition of every BandAttention that its graph uses, and no other, and
    our domain if there is one."""
    for key in [key for key in model.functions if key[:2] == (DOMAIN, BAND_ATTENTION)]:
        del model.functions[key]
    model.opset_imports.pop(DOMAIN, None)
    for overload in sorted({node.overload for node in band_attentions(model.graph)}):
        function = band_attention_function(overload)
        model.functions[function.identifier()] = function
        model.opset_imports[DOMAIN] = 1


@dataclass(frozen=True)
class Band:
    """The attributes of one BandAttention node. `window` 0 and `softcap` 0.0 mean none."""

    scale: float
    window: int
    causal: bool
    softcap: float

    @classmethod
    def of(cls, node: ir.Node) -> Band:
        """Read a node's attributes; a missing one has the function's default."""

        def read(name: str, default: float) -> float:
            attribute = node.attributes.get(name)
            return default if attribute is None else attribute.value

        return cls(
            scale=float(read("scale", 1.0)),
            window=int(read("window", 0)),
            causal=bool(read("causal", 0)),
            softcap=float(read("softcap", 0.0)),
        )


def is_band_attention(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.op_type == BAND_ATTENTION


def bias_of(node: ir.Node) -> ir.Value | None:
    """The bias of a BandAttention, or None."""
    return node.inputs[4] if len(node.inputs) > 4 else None


def band_attentions(graph: ir.Graph) -> Iterator[ir.Node]:
    """The BandAttention nodes of a graph, in order."""
    return (node for node in graph if is_band_attention(node))


# --- properties of ops that passes may rely on

Moves = Literal["same", "shape", "part", "lookup", "repeat", "rotate", "cast"]
"""The ways an op passes its first input on. same: unchanged. shape: every number once, at another
place. part: some numbers. lookup: those that another input names. repeat: some numbers several
times. rotate: pairs of numbers turned, each pair within its head. cast: in another type."""


@dataclass(frozen=True)
class Traits:
    """The properties of one op that passes may rely on."""

    moves: Moves | None = None
    """The way the first input's numbers become the output; None if they do not."""
    scales: tuple[int, ...] = ()
    """The inputs in which the op is homogeneous, one at a time: scaling that input by s > 0 scales
    the result by s, the others held. Only data inputs count; shapes, indices and conditions are
    never scaled."""
    jointly: tuple[int, ...] = ()
    """The inputs that scale the result by s if all of them are scaled by s together."""
    activates: bool = False
    """Whether the op is an activation function, or the nonlinear part of one written out."""
    norm: bool = False
    """Whether the op is a norm: a scale s of input 0 leaves the result unchanged if the epsilon is
    scaled by s² (variance has the square of the input's unit), and the result scales with inputs 1
    (gain) and 2 (shift) together."""


TRAITS: dict[str, Traits] = {
    # moving and selecting
    "Identity": Traits("same", (0,)),
    "Reshape": Traits("shape", (0,)),
    "Transpose": Traits("shape", (0,)),
    "Squeeze": Traits("shape", (0,)),
    "Unsqueeze": Traits("shape", (0,)),
    "Expand": Traits("repeat", (0,)),
    "Slice": Traits("part", (0,)),
    "Split": Traits("part", (0,)),
    "Gather": Traits("lookup", (0,)),
    "GatherElements": Traits("lookup", (0,)),
    "RotaryEmbedding": Traits("rotate", (0,)),
    "Cast": Traits("cast"),  # not homogeneous: it may round
    # reducing
    "ReduceSum": Traits(scales=(0,)),
    "ReduceMean": Traits(scales=(0,)),
    "ReduceMax": Traits(scales=(0,)),
    "ReduceMin": Traits(scales=(0,)),
    "ReduceL1": Traits(scales=(0,)),
    "ReduceL2": Traits(scales=(0,)),
    # pointwise; s is positive
    "Neg": Traits(scales=(0,)),
    "Abs": Traits(scales=(0,)),
    "Relu": Traits(scales=(0,), activates=True),
    "LeakyRelu": Traits(scales=(0,), activates=True),
    "Gelu": Traits(activates=True),
    "Erf": Traits(activates=True),
    "Tanh": Traits(activates=True),
    "Sigmoid": Traits(activates=True),
    "Elu": Traits(activates=True),
    "Softplus": Traits(activates=True),
    # one factor at a time
    "Mul": Traits(scales=(0, 1)),
    "Div": Traits(scales=(0,)),
    "MatMul": Traits(scales=(0, 1)),
    "goldfold.BandAttention": Traits(scales=(2,)),
    # all summands together
    "Add": Traits(jointly=(0, 1)),
    "Sub": Traits(jointly=(0, 1)),
    "Where": Traits(jointly=(1, 2)),
    "Clip": Traits(jointly=(0, 1, 2)),
    # norms
    "RMSNormalization": Traits(norm=True),
    "LayerNormalization": Traits(norm=True),
}
"""Traits by `op_of`. An op that is missing here has no trait."""


def moving(*ways: Moves) -> frozenset[str]:
    """The ops that pass their first input on in one of these ways."""
    return frozenset(op for op, traits in TRAITS.items() if traits.moves in ways)


HOMOGENEOUS = {op: traits.scales for op, traits in TRAITS.items() if traits.scales}
"""Ops whose result scales with any one of these inputs."""

JOINT = {op: traits.jointly for op, traits in TRAITS.items() if traits.jointly}
"""Ops whose result scales if all of these inputs are scaled together."""

NORMS = tuple(op for op, traits in TRAITS.items() if traits.norm)
ACTIVATIONS = frozenset(op for op, traits in TRAITS.items() if traits.activates)

PARTS = moving("part") | {"Gather"}
"""Ops that move columns and may take a part of their input; Gather does where its indices are
constant."""

# Sets of ops that may stand between two places, by the requirement there.

REARRANGES = moving("same", "shape")
"""Ops that keep every number once, so that a channel's factor can be followed to its producer."""

MOVES_HEADS = moving("shape", "part", "rotate")
"""Ops between a linear map and attention. Identity is missing because simplification removes it.
Cast is missing because a reader of this set looks behind a Cast itself, where one may stand."""

MOVES_COLUMNS = MOVES_HEADS | PARTS
"""The same where columns are followed, and numbers with them; constant indices count too."""

CARRIES = moving("same", "shape", "rotate", "cast") | {*NORMS}
"""Ops that pass one whole value on, moved, rotated or normed. No op that takes a part counts: a
linear map that makes several of attention's operands makes none of them."""

PASSES_SCORES = moving("shape", "part", "cast")
"""Ops between attention's scores and their softmax, where no op rotates."""

GIVES_ITS_OWN = moving("same", "shape", "lookup", "repeat")
"""Ops whose output holds numbers of the first input and no others, however often. No op that takes
a part counts: a Slice tells more about its output, and has a rule of its own."""


def op_of(node: ir.Node) -> str:
    """`Op`, or `domain.Op` outside the default domain: the key of the tables above."""
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type
