"""The modules of a sparse encoder: a masked language model and SpladePooling, a table of weights,
or a Router that has modules for queries and others for documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from goldfold.exporter.frontend.module_spec import ModuleSpec
from goldfold.exporter.frontend.weights import refusal

SUPPORTED = ("Transformer", "MLMTransformer", "SpladePooling", "SparseStaticEmbedding")
"""The module kinds of a route."""
WEIGHTED = ("MLMTransformer", "SparseStaticEmbedding")
"""Those that have weights, besides the Transformer."""
STATIC = "SparseStaticEmbedding"
POOLING = "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling"

_MADE = (("Transformer", "SpladePooling"), ("MLMTransformer", "SpladePooling"), (STATIC,))
"""The modules that a route may have."""
_POOLED = {"pooling_strategy": ("max", "sum"), "activation_function": ("relu", "log1p_relu")}


def check(file: Path, modules: Sequence[ModuleSpec]) -> None:
    """Refuse routes of other modules than goldfold exports. Raises ModelError."""
    shared = [module for module in modules if not module.route]
    if shared and len(shared) < len(modules):
        raise refusal(
            f"{file}: {shared[0].kind} stands beside the Router; a sparse encoder's modules before "
            "and behind all routes are not supported"
        )
    for route in dict.fromkeys(module.route for module in modules):
        kinds = tuple(module.kind for module in modules if module.route == route)
        if kinds not in _MADE:
            raise refusal(
                f"{file}: {f'the route {route!r} has the modules' if route else 'its modules are'} "
                f"{', '.join(kinds) or 'none'}; a sparse encoder that goldfold exports has a "
                "Transformer and SpladePooling, or SparseStaticEmbedding alone"
            )


def check_settings(file: Path, module: ModuleSpec, config: Mapping[str, Any]) -> None:
    """Refuse settings of a sparse module that the graph could not carry. Raises ModelError."""
    if module.kind == STATIC and config.get("path") is not None:
        raise refusal(
            f"{file}: path is {config['path']!r}, a file of weights that sentence-transformers "
            "would look for itself; load the model and save it again"
        )
    for name, known in _POOLED.items() if module.kind == "SpladePooling" else ():
        if config.get(name, known[0]) not in known:
            raise refusal(f"{file}: {name} is {config[name]!r}; known are {', '.join(known)}")


def check_model(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a model that keeps its largest weights alone. Raises ModelError."""
    most = config.get("max_active_dims")
    if most is not None:
        raise refusal(
            f"{path}: max_active_dims is {most!r}: keeping the largest weights alone is not "
            "supported; remove it, and give embed the number as top_k"
        )
