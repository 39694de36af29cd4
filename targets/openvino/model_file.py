"""The model's file: its name for OpenVINO's tools, and its settings for any process that compiles
it."""

from __future__ import annotations

import re

import openvino as ov

from goldfold.exporter.errors import ArtifactError

XML = "openvino_model.xml"
HIDDEN = "last_hidden_state"
"""A second name of the first output: sentence-transformers knows no other (interop.py)."""
RUNTIME = "runtime_options"
"""The section of a model's file whose options hold for a process that compiles it and sets no
others."""
GROUP = "DYNAMIC_QUANTIZATION_GROUP_SIZE"


def group(model: ov.Model) -> str:
    """Returns how many inputs share a step where a model's file lets the plugin round the
    activations that meet integers; "0", not at all, is the meaning of older files. Raises
    ArtifactError for a value that is no number."""
    place = [RUNTIME, GROUP]
    said = str(model.get_rt_info(place).astype(str)) if model.has_rt_info(place) else "0"
    if not re.fullmatch("[0-9]{1,9}", said):
        raise ArtifactError(f"the model's file asks for groups of {said[:40]!r} numbers")
    return said
