"""ONNX Runtime's own op for attention, with a definition in standard ops.

`com.microsoft.Attention` makes queries, keys and values of one input by one product, and attends,
in one kernel:

    y[B,T,N] = Attention(x[B,T,K], w[K,3N], b[3N], real[B,T]) {num_heads, scale, mask_filter_value}

* w and b hold the columns of the queries, then of the keys, then of the values; N is the product of
  heads and width.
* `real` is int32: 1 where a token is real; `mask_filter_value` is added to the scores of others.

A file that uses the op carries the function below. ONNX Runtime has the kernel and does not look at
the function; a runtime without the kernel computes the function. The op has more inputs and
attributes there (docs/ContribOperators.md of its repository); only those above are written, which
1.14.1 is the first to know.
"""

from __future__ import annotations

import onnx.parser
import onnx_ir as ir

from goldfold.exporter.ir import dialect

DOMAIN = "com.microsoft"
ATTENTION = "Attention"
VERSION = 1

# Ops in forms that every opset from 17 on has.
_ATTENTION_FUNCTION = f"""
<domain: "{DOMAIN}", opset_import: ["" : {dialect.OPSET}]>
{ATTENTION} <num_heads: int, scale: float = 1.0, mask_filter_value: float = {dialect.HIDDEN}>
(x, w, b, real) => (y)
{{
  product = MatMul (x, w)
  together = Add (product, b)
  count = Constant <value_int: int = @num_heads> ()
  axis_zero = Constant <value_ints: ints = [0]> ()
  heads = Unsqueeze (count, axis_zero)
  copied = Constant <value_ints: ints = [0, 0, 3]> ()
  left = Constant <value_ints: ints = [-1]> ()
  by_head = Concat <axis: int = 0> (copied, heads, left)
  apart = Reshape (together, by_head)
  turned = Transpose <perm: ints = [2, 0, 3, 1, 4]> (apart)
  zero = Constant <value_int: int = 0> ()
  one = Constant <value_int: int = 1> ()
  two = Constant <value_int: int = 2> ()
  q = Gather <axis: int = 0> (turned, zero)
  k = Gather <axis: int = 0> (turned, one)
  v = Gather <axis: int = 0> (turned, two)
  keys = Transpose <perm: ints = [0, 1, 3, 2]> (k)
  plain = MatMul (q, keys)
  scale_f = Constant <value_float: float = @scale> ()
  scale_x = CastLike (scale_f, x)
  scores = Mul (plain, scale_x)
  bits = Cast <to: int = {ir.DataType.BOOL.value}> (real)
  middle = Constant <value_ints: ints = [1, 2]> ()
  seen = Unsqueeze (bits, middle)
  zero_f = Constant <value_float: float = 0.0> ()
  zero_x = CastLike (zero_f, x)
  hidden_f = Constant <value_float: float = @mask_filter_value> ()
  hidden_x = CastLike (hidden_f, x)
  mask = Where (seen, zero_x, hidden_x)
  masked = Add (scores, mask)
  weights = Softmax <axis: int = -1> (masked)
  mixed = MatMul (weights, v)
  back = Transpose <perm: ints = [0, 2, 1, 3]> (mixed)
  flat = Constant <value_ints: ints = [0, 0, -1]> ()
  y = Reshape (back, flat)
}}
"""


def is_attention(node: ir.Node) -> bool:
    return node.domain == DOMAIN and node.op_type == ATTENTION


def define(model: ir.Model) -> None:
    """Give the model the definition of the op if its graph uses it, and else none."""
    used = any(map(is_attention, model.graph))
    model.functions.pop((DOMAIN, ATTENTION, ""), None)
    model.opset_imports.pop(DOMAIN, None)
    if used:
        function = ir.serde.deserialize_function(onnx.parser.parse_function(_ATTENTION_FUNCTION))
        function.opset_imports[""] = model.opset_imports[""]
        model.functions[function.identifier()] = function
        model.opset_imports[DOMAIN] = VERSION
