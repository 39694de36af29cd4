"""The routes of a model: a Router (formerly Asym) has modules for queries and others for documents,
and modules before and behind it are those of every route."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from goldfold.exporter.errors import UsageError
from goldfold.exporter.frontend import weights
from goldfold.exporter.frontend.module_spec import ModuleSpec
from goldfold.exporter.frontend.weights import read_object, refusal

_FILES = ("router_config.json", "config.json")
"""The file of a Router's settings, and its former name."""
_KINDS = ("Router", "Asym")


def expanded(path: Path, modules: tuple[ModuleSpec, ...]) -> tuple[ModuleSpec, ...]:
    """Returns the modules, those of all routes in place of a Router. Raises ModelError for a Router
    that is damaged, or that chooses a route by more than its name."""
    place = next((at for at, one in enumerate(modules) if is_router(one)), None)
    if place is None:
        return modules
    made = [*modules[:place], *_within(path, modules[place]), *modules[place + 1 :]]
    if second := next((one for one in made if is_router(one)), None):
        raise refusal(f"{path}: {second.name} ({second.kind}) is a second Router; one is supported")
    return tuple(
        ModuleSpec(at, one.name, one.path, one.type, one.configured, one.route)
        for at, one in enumerate(made)
    )


def is_router(module: ModuleSpec) -> bool:
    """Returns whether a module is sentence-transformers' Router."""
    return module.kind in _KINDS and module.type.startswith("sentence_transformers.")


def _within(path: Path, router: ModuleSpec) -> list[ModuleSpec]:
    """Returns the modules of all routes."""
    folder = path / router.path
    file = next((folder / name for name in _FILES if (folder / name).is_file()), folder)
    if file == folder:
        raise refusal(f"{folder / _FILES[0]}: missing, and a Router needs it; fetch the model")
    config = read_object(file)
    types, structure = config.get("types"), config.get("structure")
    parameters = config.get("parameters")
    if not _is_table(types, str) or not _is_table(structure, list) or not structure:
        raise refusal(f"{file}: must have the objects types and structure; save the model again")
    if isinstance(parameters, dict) and parameters.get("route_mappings"):
        raise refusal(
            f"{file}: route_mappings choose a route by more than its name, which is not supported"
        )
    found: list[ModuleSpec] = []
    for route, names in structure.items():
        for name in names:
            if not isinstance(name, str) or name not in types or not weights.is_inside(name):
                raise refusal(f"{file}: the route {route!r} has no module {str(name)[:60]!r}")
            inner = PurePosixPath(router.path, name).as_posix()
            found.append(ModuleSpec(0, name, inner, types[name], route=route))
    return found


def names_of(modules: tuple[ModuleSpec, ...]) -> list[str]:
    """Returns the names of the routes, in their order."""
    return list(dict.fromkeys(module.route for module in modules if module.route))


def of_route(modules: tuple[ModuleSpec, ...], route: str) -> tuple[ModuleSpec, ...]:
    """Returns the modules that a text of `route` passes through, those of all routes included."""
    return tuple(module for module in modules if module.route in ("", route))


def chosen(name: str, modules: tuple[ModuleSpec, ...], route: str | None) -> tuple[ModuleSpec, ...]:
    """Returns the modules of `route`, or all where there are no routes. Raises UsageError for a
    route that the model does not have, and where it has several and none is named."""
    routes = names_of(modules)
    if not routes:
        if route:
            raise UsageError(f"--route {route}: {name} has no routes; leave it out")
        return modules
    if route is None and len(routes) == 1:
        route = routes[0]
    if route is None:
        raise UsageError(f"{name} has the routes {', '.join(routes)}: name one with --route")
    if route not in routes:
        raise UsageError(f"--route {route}: {name} has the routes {', '.join(routes)}")
    return of_route(modules, route)


def _is_table(found: Any, kind: type) -> TypeGuard[dict[str, Any]]:
    return isinstance(found, dict) and all(isinstance(one, kind) for one in found.values())
