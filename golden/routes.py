"""The reference of a routed model: queries and documents are computed by modules of their own.

Its goldens are those of one route: the model is narrowed to the modules that a text of that route
passes through, and the whole model, called as users call it, must give the same vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from goldfold.golden import sparse
from goldfold.golden.errors import GoldenError

_TEXT = "The ferry crosses the strait twice a day."


def narrowed(model: Any, route: str) -> Any:
    """The model of one route of `model`, of the same class; `model` itself where no route is named.
    Raises GoldenError where the two differ."""
    if not route:
        return model
    modules, routes = list(model), {}
    place = next((at for at, one in enumerate(modules) if hasattr(one, "sub_modules")), None)
    if place is not None:
        routes = modules[place].sub_modules
    if place is None or route not in routes:
        raise GoldenError(f"the model has no route {route!r}, but {', '.join(routes) or 'none'}")
    cut = {"truncate_dim": model.truncate_dim} if hasattr(model, "truncate_dim") else {}
    found = type(model)(
        modules=[*modules[:place], *routes[route], *modules[place + 1 :]],
        device="cpu",
        prompts=model.prompts,
        default_prompt_name=model.default_prompt_name,
        similarity_fn_name=model.similarity_fn_name,
        **cut,
    )
    how: Any = {"show_progress_bar": False, **sparse.plain(model)}
    whole, alone = model.encode([_TEXT], task=route, **how), found.encode([_TEXT], **how)
    if not np.array_equal(np.asarray(whole), np.asarray(alone)):
        raise GoldenError(f"the route {route!r} alone gives another vector than the whole model")
    return found


def served(calls: Mapping[str, int], route: str) -> dict[str, int]:
    """Those of the calls that the route of a model computes: not encode_query of documents'."""
    tasks = {"encode_query": "query", "encode_document": "document"}
    return {
        name: length
        for name, length in calls.items()
        if not route or tasks.get(name, route) == route
    }
