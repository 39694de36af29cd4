"""The modules of a sparse encoder: a masked language model and SpladePooling, a table of weights, a
sparse autoencoder upon an embedding (CSR), or a Router that has modules for queries and others for
documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from goldfold.exporter.frontend.module_spec import ModuleSpec
from goldfold.exporter.frontend.weights import read_object, refusal

AUTOENCODER = "SparseAutoEncoder"
_UNITS = 512
"""The units of an autoencoder whose settings name no number."""
_BETWEEN = ("Dense", "LayerNorm", "Normalize", "Dropout")
"""Modules that may stand between Pooling and an autoencoder."""
SUPPORTED = (
    "Transformer", "MLMTransformer", "SpladePooling", "SparseStaticEmbedding", "Pooling", *_BETWEEN,
    AUTOENCODER,
)  # fmt: skip
"""The module kinds of a route, and of a CSR."""
WEIGHTED = ("MLMTransformer", "SparseStaticEmbedding", AUTOENCODER)
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
        if kinds not in _MADE and (route or not _is_csr(kinds)):
            raise refusal(
                f"{file}: {f'the route {route!r} has the modules' if route else 'its modules are'} "
                f"{', '.join(kinds) or 'none'}; a sparse encoder that goldfold exports has a "
                "Transformer and SpladePooling, SparseStaticEmbedding alone, or, without routes, a "
                "Transformer, Pooling and at the end a SparseAutoEncoder"
            )


def _is_csr(kinds: tuple[str, ...]) -> bool:
    """Returns whether modules are an embedding model's, with an autoencoder behind them."""
    between = all(kind in _BETWEEN for kind in kinds[2:-1])
    return between and kinds[:2] == ("Transformer", "Pooling") and kinds[2:][-1:] == (AUTOENCODER,)


def check_settings(file: Path, module: ModuleSpec, config: Mapping[str, Any]) -> None:
    """Refuse settings of a sparse module that the graph could not carry. Raises ModelError."""
    if module.kind == STATIC and config.get("path") is not None:
        raise refusal(
            f"{file}: path is {config['path']!r}, a file of weights that sentence-transformers "
            "would look for itself; load the model and save it again"
        )
    if module.kind == AUTOENCODER:
        units, kept = config.get("hidden_dim", _UNITS), config.get("k", 8)
        if not (_is_count(units) and _is_count(kept) and kept <= units):
            raise refusal(f"{file}: k is {kept!r} of {units!r} units (hidden_dim); correct it")
    for name, known in _POOLED.items() if module.kind == "SpladePooling" else ():
        if config.get(name, known[0]) not in known:
            raise refusal(f"{file}: {name} is {config[name]!r}; known are {', '.join(known)}")


def check_model(path: Path, config: Mapping[str, Any], modules: Sequence[ModuleSpec]) -> None:
    """Refuse a model other than a CSR that keeps its largest weights alone. Raises ModelError."""
    most = config.get("max_active_dims")
    if most is not None and modules[-1].kind == AUTOENCODER:
        file = path.parent / modules[-1].path / "config.json"
        there = read_object(file).get("hidden_dim", _UNITS) if file.is_file() else None
        if not _is_count(most) or (_is_count(there) and most > there):
            raise refusal(
                f"{path}: max_active_dims is {most!r}; it must be a whole number from 1 to the "
                f"units of its {AUTOENCODER} ({there})"
            )
    elif most is not None:
        raise refusal(
            f"{path}: max_active_dims is {most!r}: keeping the largest weights alone is not "
            "supported; remove it, and give embed the number as top_k"
        )


def _is_count(found: Any) -> TypeGuard[int]:
    return isinstance(found, int) and not isinstance(found, bool) and found > 0
