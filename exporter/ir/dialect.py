"""The words of the IR: ONNX at one opset, plus one op of our own.

`goldfold.BandAttention` keeps what an encoder means by attention (who sees whom) in attributes,
where a law can read it, instead of in a dozen nodes of mask arithmetic:

    y[B,H,S,D] = BandAttention(q[B,H,S,D], k[B,G,S,D], v[B,G,S,D], padding[B,S])
                 {scale, window, causal, softcap}

* G divides H; query head h reads key/value head h // (H/G).
* `padding` is bool, true where a token is real; nobody sees a token that is not.
* window = 0: no window. Otherwise token i sees token j only if |i − j| < window.
* causal = 1: token i sees token j only if j ≤ i.
* softcap = 0: none. Otherwise scores become softcap · tanh(scores / softcap) before masking.

Its definition is the model-local function below, in standard ops only; that function is what "means
the same" is tested against. Its mask is *added* and finite, so a row that sees nobody (a padding
token far from every real one) still softmaxes to finite numbers: a mask of −inf would make it NaN,
and NaN poisons the pooling. Never give an op of ours a name that ONNX has: TensorRT's parser
ignores the domain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx.parser
import onnx_ir as ir

OPSET = 23
"""The default domain's version throughout; the first with RMSNormalization and RotaryEmbedding."""

IR_VERSION = 10
"""The ONNX file format's version; what every consumer here reads, and int4 is in it."""

DOMAIN = "goldfold"
BAND_ATTENTION = "BandAttention"

HIDDEN = -3.0e4
"""Added to the score of a token that must not be seen.

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


def band_attention_function() -> ir.Function:
    """A fresh copy of the definition of `goldfold.BandAttention` in standard ops."""
    return ir.serde.deserialize_function(onnx.parser.parse_function(_BAND_ATTENTION_FUNCTION))


@dataclass(frozen=True)
class Band:
    """The attributes of one BandAttention node. `window` 0 is none; `softcap` 0.0 is none."""

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


def band_attentions(graph: ir.Graph) -> Iterator[ir.Node]:
    """The BandAttention nodes of a graph, in order."""
    return (node for node in graph if is_band_attention(node))


# --- what laws may assume of an op
#
# f is homogeneous in an input if scaling that input by s > 0 scales the result by s, the others
# held. Only data inputs are listed; shapes, indices and conditions are never scaled.

HOMOGENEOUS: dict[str, tuple[int, ...]] = {
    # moving and selecting
    "Identity": (0,), "Reshape": (0,), "Transpose": (0,), "Squeeze": (0,), "Unsqueeze": (0,),
    "Expand": (0,), "Slice": (0,), "Split": (0,), "Gather": (0,), "GatherElements": (0,),
    # reducing
    "ReduceSum": (0,), "ReduceMean": (0,), "ReduceMax": (0,), "ReduceMin": (0,), "ReduceL1": (0,),
    "ReduceL2": (0,),
    # pointwise; s is positive
    "Neg": (0,), "Abs": (0,), "Relu": (0,), "LeakyRelu": (0,),
    # one factor at a time
    "Mul": (0, 1), "Div": (0,), "MatMul": (0, 1), "RotaryEmbedding": (0,),
    "goldfold.BandAttention": (2,),
}  # fmt: skip
"""Ops whose result scales with any one of these inputs."""

JOINT: dict[str, tuple[int, ...]] = {
    "Add": (0, 1), "Sub": (0, 1), "Where": (1, 2), "Clip": (0, 1, 2),
}  # fmt: skip
"""Ops whose result scales if all of these inputs are scaled together."""

NORMS = ("RMSNormalization", "LayerNormalization")
"""Ops that a scale s of input 0 leaves unchanged if their epsilon is scaled by s² (variance has the
square of the input's unit), and whose result scales with inputs 1 (gain) and 2 (shift) together."""


def op_of(node: ir.Node) -> str:
    """`Op`, or `domain.Op` outside the default domain: the key of the tables above."""
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type
