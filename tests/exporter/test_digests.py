"""A refactor changes no program: the digests of digests.py are as they are stored."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from tests.conftest import Exported
from tests.exporter import digests


@pytest.mark.parametrize("kind", digests.KINDS)
def test_every_pass_leaves_the_program_that_is_stored(kind: str) -> None:
    known = {key: lines for key, lines in digests.stored().items() if key.split()[0] == kind}
    found = digests.of(kind)
    assert found.keys() == known.keys()
    for key, lines in known.items():
        assert found[key] == lines, (
            f"{key}: not as stored; if that is meant, run python -m tests.exporter.digests"
        )


def test_a_digest_sees_nodes_names_shapes_and_numbers(exported: Exported) -> None:
    """Whatever a rewrite could change."""
    program = exported.copy()
    seen = {digests.digest(program)}
    node = next(node for node in program.graph if node.op_type == "MatMul")
    node.name = "another"
    seen.add(digests.digest(program))
    floats = {n: v for n, v in program.graph.initializers.items() if v.dtype == ir.DataType.FLOAT}
    name, value = max(floats.items(), key=lambda item: item[1].const_value.size)  # type: ignore[union-attr]
    assert value.const_value is not None
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1.00001), name=name)
    seen.add(digests.digest(program))
    node.attributes["odd"] = ir.AttrInt64("odd", 1)
    seen.add(digests.digest(program))
    assert len(seen) == 4
