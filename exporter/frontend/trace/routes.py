"""One route of a model that has several: its modules alone, as a model of the same class."""

from __future__ import annotations

from typing import Any


def narrowed(model: Any, route: str) -> Any:
    """Returns a model of the modules that a text of `route` passes through; `model` itself where
    there are no routes."""
    if not route:
        return model
    modules: list[Any] = []
    for module in model:
        routed = hasattr(module, "sub_modules")
        modules += module.sub_modules[route] if routed else [module]
    found = type(model)(
        modules=modules,
        device="cpu",
        prompts=model.prompts,
        default_prompt_name=model.default_prompt_name,
        similarity_fn_name=model.similarity_fn_name,
    )
    if getattr(model, "truncate_dim", None) is not None:
        found.truncate_dim = model.truncate_dim
    return found
