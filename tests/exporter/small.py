"""A small legal program: one attention layer with all that the verifier looks at."""

from __future__ import annotations

from goldfold.exporter.contract import EMBEDDING, Contract
from goldfold.exporter.ir.program import MODULE, Program, infer_shapes
from goldfold.exporter.passes import docstring

DIM = 40
VOCAB_SIZE = 30

TEXT = f"""
f (int64[batch,tokens] input_ids, int64[batch,tokens] attention_mask,
   float[{VOCAB_SIZE},{DIM}] table, float[{DIM},{DIM}] left, float[{DIM},{DIM}] right,
   float[{DIM}] b)
    => (float[batch,{DIM}] {EMBEDDING})
{{
    padding = Cast <to: int = 9> (attention_mask)
    x = Gather(table, input_ids)
    split = Constant <value: tensor = int64[4] {{0, 0, 4, {DIM // 4}}}> ()
    heads = Reshape(x, split)
    q = Transpose <perm: ints = [0, 2, 1, 3]> (heads)
    a = goldfold.BandAttention
        <scale: float = 0.25, window: int = 2, causal: int = 0, softcap: float = 0.0>
        (q, q, q, padding)
    back = Transpose <perm: ints = [0, 2, 1, 3]> (a)
    joint = Constant <value: tensor = int64[3] {{0, 0, {DIM}}}> ()
    h = Reshape(back, joint)
    l = MatMul(h, left)
    r = MatMul(h, right)
    t = Tanh(r)
    m = Mul(l, t)
    s = Add(m, b)
    axis = Constant <value: tensor = int64[1] {{1}}> ()
    {EMBEDDING} = ReduceMean <keepdims: int = 0> (s, axis)
}}
"""


def program() -> Program:
    """Freshly built; each node's module is `encoder.` and the name of its output."""
    model = docstring.graph(TEXT)
    infer_shapes(model)
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
        node.metadata_props[MODULE] = f"encoder.{node.outputs[0].name}"
    contract = Contract(
        model="small", dim=DIM, max_length=16, vocab_size=VOCAB_SIZE, pad_id=0, normalized=False
    )
    return Program(model, contract)
